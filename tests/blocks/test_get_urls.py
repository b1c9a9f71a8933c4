"""URLs of files to download: their one spelling, what is made of them, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_blocks.get.model import Unreachable
from gateway_blocks.get.urls import (
    basic_authorization,
    file_name,
    join,
    metadata_url,
    origin,
    parse_url,
    relative_parts,
    shown,
)
from gateway_core.errors import ConfigError

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("given_url", "expected"),
    [
        ("http://h/a.bin", "http://h/a.bin"),
        (" http://h/a.bin\n", "http://h/a.bin"),
        ("HTTP://Files.Example/A.bin", "http://files.example/A.bin"),
        ("http://h:80/a", "http://h/a"),
        ("https://h:443/a", "https://h/a"),
        ("https://h:80/a", "https://h:80/a"),
        ("http://h", "http://h/"),
        ("http://h?q=1", "http://h/?q=1"),
        ("http://h/a#part", "http://h/a"),
        ("http://h/a?x=1&y=%20z#part", "http://h/a?x=1&y=%20z"),
        ("http://h/sp ace.bin", "http://h/sp%20ace.bin"),
        ("http://h/sp%20ace%2fx%3F.bin", "http://h/sp%20ace%2fx%3F.bin"),
        ("http://h/100%.iso", "http://h/100%25.iso"),
        ("http://h/nai\u0308ve", "http://h/nai%CC%88ve"),
        ("http://h/\udcff", "http://h/%FF"),
        ('http://h/a"<>`{}|^\\b', "http://h/a%22%3C%3E%60%7B%7D%7C%5E%5Cb"),
        ("http://h/a/./b/../c", "http://h/a/c"),
        ("http://h/../../a", "http://h/a"),
        ("http://h/a/..", "http://h/"),
        ("http://h/a/.", "http://h/a/"),
        ("http://h/%2e%2e/a", "http://h/%2e%2e/a"),
        ("http://h//a//b", "http://h//a//b"),
        ("http://b\u00fccher.example/a", "http://xn--bcher-kva.example/a"),
        ("http://[::1]:8082/a", "http://[::1]:8082/a"),
        ("http://[0:0::0:1]/a", "http://[::1]/a"),
        ("http://us%65r:p%40ss@h/a", "http://us%65r:p%40ss@h/a"),
        ("http://user:p w@h/a", "http://user:p%20w@h/a"),
    ],
)
def test_a_url_has_one_spelling(given_url, expected):
    assert parse_url(given_url) == expected


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "h/a.bin",
        "ftp://h/a",
        "file:///etc/passwd",
        "//h/a",
        "http:///a",
        "http://",
        "http://:80/a",
        "http://h:99999/a",
        "http://h:0/a",
        "http://h:x/a",
        "http://h/a\x00b",
        "http://h/a\r\nX: y",
        "http://[::1/a",
        "http://[zz]/a",
        "http://[fe80::1%25eth0]/a",
        "http://h h/a",
        "http://h%2f/a",
        "http://a..b/",
        "http://" + "a" * 64 + "/",
        "http://h/\ud800",
    ],
)
def test_what_cannot_be_fetched_is_refused_by_name(bad):
    with pytest.raises(ConfigError) as raised:
        parse_url(bad)
    assert repr(bad) in str(raised.value)


def test_a_refusal_does_not_tell_the_password():
    with pytest.raises(ConfigError) as raised:
        parse_url("ftp://user:hunter2@h/a")
    assert "hunter2" not in str(raised.value)


@given(st.text(max_size=50), st.text(max_size=20))
def test_a_spelling_is_its_own_spelling(path, query):
    try:
        url = parse_url(f"http://h/{path}?{query}")
    except ConfigError:
        return
    assert parse_url(url) == url
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url


def test_the_origin_is_scheme_host_and_port():
    assert origin(parse_url("HTTPS://user:x@H:443/a?b")) == "https://h"
    assert origin(parse_url("http://[::1]:8082/a")) == "http://[::1]:8082"


def test_what_is_shown_holds_no_secret():
    assert shown("https://user:hunter2@h:8/a%20b?token=hunter2") == "https://h:8/a%20b"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/a", None),
        ("http://user:pass@h/a", "Basic dXNlcjpwYXNz"),
        ("http://us%65r:p%61ss@h/a", "Basic dXNlcjpwYXNz"),
        ("http://user@h/a", "Basic dXNlcjo="),
        ("http://n%C3%A4m:%F0%9F%94%91@h/a", "Basic bsOkbTrwn5SR"),
    ],
)
def test_user_and_password_become_basic_credentials(url, expected):
    assert basic_authorization(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/files/a.iso", "http://h/rd/files/a.iso"),
        ("http://h/", "http://h/rd/"),
        ("http://h/sp%20%2f.iso?sig=a%2Bb", "http://h/rd/sp%20%2f.iso?sig=a%2Bb"),
        ("https://u:p@h:8/a", "https://u:p@h:8/rd/a"),
        ("http://h//a", "http://h/rd//a"),
    ],
)
def test_the_block_map_is_below_rd(url, expected):
    assert metadata_url(url) == expected


def test_the_questions_of_a_poll_follow_the_query_of_the_file():
    assert metadata_url("http://h/a?sig=1", after=-1, wait=2.5) == "http://h/rd/a?sig=1&after=-1&wait=2.5"
    assert metadata_url("http://h/a", after=524288, wait=20.0) == "http://h/rd/a?after=524288&wait=20"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/x/a.iso?b=/c", "a.iso"),
        ("http://h/sp%20ace.bin", "sp ace.bin"),
        ("http://h/na%C3%AFve", "na\u00efve"),
        ("http://h/%FF.bin", "\ufffd.bin"),
        ("http://h/", "download"),
        ("http://h/x/", "download"),
        ("http://h/%2e%2E", "download"),
        ("http://h/%2e", "download"),
        ("http://h/..%2f..%2fetc%2fpasswd", ".._.._etc_passwd"),
        ("http://h/a%00b", "a_b"),
        ("http://h/a%1b%5B2Jb%0a", "a_[2Jb_"),
        ("http://h/a%252fb", "a%2fb"),
        ("http://h/.hidden", ".hidden"),
    ],
)
def test_a_file_is_named_after_its_url(url, expected):
    assert file_name(url) == expected


def test_a_long_name_keeps_its_suffix_and_room_for_ours():
    name = file_name("http://h/" + "%C3%A4" * 200 + ".iso")
    assert name.endswith("\u00e4.iso")
    assert 200 < len(name.encode()) <= 240


def test_a_long_suffix_is_none():
    assert len(file_name("http://h/a." + "b" * 400)) == 240


@given(st.binary(max_size=80))
def test_no_url_names_a_file_elsewhere(raw):
    name = file_name("http://h/x/" + "".join(f"%{byte:02x}" for byte in raw))
    assert name not in {"", ".", ".."}
    assert not set(name) & {"/", "\0", "\n", "\x1b"}
    assert len(name.encode()) <= 240


@pytest.mark.parametrize(
    "leaving",
    ["", "/etc/passwd", "..", "../x", "a/../../x", "a//b", "a/", "./a", "a/.", "a\0b", "x" * 256, "\ud800/.."],
)
def test_a_manifest_cannot_lead_out_of_its_folder(leaving):
    with pytest.raises(Unreachable):
        relative_parts(leaving)
    with pytest.raises(Unreachable):
        join("http://h/folder/", leaving)


def test_paths_of_a_manifest_are_encoded_below_the_folder():
    assert relative_parts("a b/\u00e4#?%.txt") == ("a b", "\u00e4#?%.txt")
    assert join("http://h/f/", "a b/\u00e4#?%.txt") == "http://h/f/a%20b/%C3%A4%23%3F%25.txt"
    assert join("http://h/f?key=1", "..a") == "http://h/f/..a?key=1"


@given(NAMES.filter(lambda name: name not in {".", ".."}))
def test_a_name_of_a_manifest_comes_back_from_its_url(name):
    url = join("http://h/f/", name)
    assert parse_url(url) == url
    assert file_name(url) == name
