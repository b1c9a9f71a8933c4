"""What is learned of a file is found however its URL is written and signed, and never for another file."""

from __future__ import annotations

import pytest

from gateway_archive.layout.frozen import FrozenEntry
from gateway_archive.ledger.learned import key_of, learned_key
from gateway_archive.tickets import Item
from tests.archive.freezing import ticket_of

PLAIN = "https://files.example/a/b.bin"
AZURE = "sv=2022-11-02&ss=b&srt=o&sp=r&se=2026-01-01&st=2025-01-01&spr=https&sip=1.2.3.4&sig=x%2B%3D"
DELEGATED = "skoid=1&sktid=2&skt=3&ske=4&sks=b&skv=5&sr=b&sv=6&si=policy&sig=7"


def key(url: str) -> str:
    return learned_key(url, '"v1"', 5)


@pytest.mark.parametrize(
    "url",
    [
        "HTTPS://Files.Example/a/b.bin",
        "https://files.example:443/a/b.bin",
        "https://files.example:/a/b.bin",
        "https://somebody:secret@files.example/a/b.bin",
        f"{PLAIN}#part",
        f"{PLAIN}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2Fb&X-Amz-Security-Token=t&X-Amz-Signature=s",
        f"{PLAIN}?x-amz-date=1&x-amz-expires=2",
        f"{PLAIN}?AWSAccessKeyId=a&Signature=s&Expires=1",
        f"{PLAIN}?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Signature=s",
        f"{PLAIN}?GoogleAccessId=a&Expires=1&Signature=s",
        f"{PLAIN}?Expires=1&Signature=s&Key-Pair-Id=K",
        f"{PLAIN}?Policy=p&Signature=s&Key-Pair-Id=K",
        f"{PLAIN}?{AZURE}",
        f"{PLAIN}?{DELEGATED}",
    ],
)
def test_a_file_has_one_key_however_its_url_is_written_and_signed(url: str):
    assert key(url) == key(PLAIN)


@pytest.mark.parametrize(
    "url",
    [
        "http://files.example/a/b.bin",
        "https://files.example:8443/a/b.bin",
        "https://other.example/a/b.bin",
        "https://files.example/a/B.bin",
        f"{PLAIN}?versionId=1",
        f"{PLAIN}?token=1",
        f"{PLAIN}?Expires=1",
        f"{PLAIN}?Signature=s",
        f"{PLAIN}?Policy=p",
        f"{PLAIN}?st=1&sr=2&sp=3&sig=4",
        f"{PLAIN}?response-content-encoding=gzip",
    ],
)
def test_another_file_has_another_key(url: str):
    assert key(url) != key(PLAIN)


def test_what_is_not_of_the_signature_stays_in_its_order():
    signed = f"{PLAIN}?b=2&X-Amz-Date=1&versionId=7&a=%31&X-Amz-Signature=s"
    assert key(signed) == key(f"{PLAIN}?b=2&versionId=7&a=%31")
    assert key(signed) != key(f"{PLAIN}?a=%31&b=2&versionId=7")


def test_an_http_url_has_its_own_default_port():
    assert key("http://files.example:80/a") == key("http://files.example/a") != key("http://files.example:443/a")


def test_an_address_of_ipv6_keeps_its_brackets():
    assert key("http://[2001:DB8::1]:80/a") == key("http://[2001:db8::1]/a") != key("http://[2001:db8::2]/a")


def test_another_version_or_size_has_another_key():
    assert len({key(PLAIN), learned_key(PLAIN, '"v2"', 5), learned_key(PLAIN, '"v1"', 6)}) == 3


@pytest.mark.parametrize(
    ("item", "shared"),
    [
        (Item(PLAIN), True),
        (Item(PLAIN, headers={"Cookie": "a=b"}), False),
        (Item("https://me:pw@files.example/"), False),
    ],
)
def test_what_may_be_answered_to_one_client_alone_has_a_key_for_each(item: Item, *, shared: bool):
    entry = FrozenEntry(0, "b.bin", 5, validator='"v1"')
    keys = {key_of(ticket_of(item, client_id=client_id), entry) for client_id in ("one", "two")}
    assert (len(keys) == 1) == shared


@pytest.mark.parametrize("url", ["http://[broken/a", "not a url", "blob:files/x", "https://x/\udc80"])
def test_what_is_no_url_of_the_web_has_a_key_too(url: str):
    assert len(key(url)) == 64
