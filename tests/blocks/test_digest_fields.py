"""Checksums in header fields: what is sent, and what was asked for."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway_blocks.formats.digest_fields import (
    content_digest,
    repr_digest,
    wants_content_digest,
    wants_digest,
)
from gateway_core.testing.upstream import Upstream
from gateway_core.testing.upstream_answer import Resource
from tests.blocks.verifiers import Flipped, aria2c

HELLO = b'{"hello": "world"}\n'  # RFC 9530 appendix B.1, where its digests are


def test_the_example_of_the_rfc_gets_the_field_that_the_rfc_gives_it():
    digest = hashlib.sha256(HELLO).digest()
    assert content_digest(digest) == {"Content-Digest": "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"}
    assert repr_digest(digest)["Repr-Digest"] == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


def test_the_older_field_tells_the_same_digest():
    assert repr_digest(b"\0" * 32)["Digest"] == f"SHA-256={b64encode(bytes(32)).decode()}"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("sha-256=10", True),
        ("sha-256=1", True),
        ("sha-512=3, sha-256=10, unixsum=0", True),
        ("sha-512=3 ,\tsha-256=10;x;y=tok", True),
        ("sha-256=0", False),
        ("sha-256=10, sha-256=0", False),
        ("sha-256=0, sha-256=10", True),
        ("sha-512=10", False),
        ("sha-256", False),
        ("sha-256=?1", False),
        ("sha-256=11", False),
        ("sha-256=-1", False),
        ("sha-256=1.0", False),
        ("sha-256=10,", False),
        ('sha-256=10, x="a,b"', False),
        ("SHA-256=10", False),
        ("sha-256=0000000000000010", False),
        ("", False),
    ],
)
def test_a_preference_is_read_as_rfc_9530_writes_it(value, wanted):
    assert wants_digest(CIMultiDict({"Want-Repr-Digest": value})) is wanted
    assert wants_content_digest(CIMultiDict({"Want-Content-Digest": value})) is wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("SHA-256", True),
        ("sha-256", True),
        ("SHA-512;q=0.1, SHA-256;q=1", True),
        ("SHA-512;q=1, SHA-256 ; Q=0.001, SHA;q=0.1", True),
        ("SHA-256;q=0", False),
        ("SHA-256;q=0.000", False),
        ("SHA-512, MD5;q=0.3", False),
        ("SHA-256;q=2", False),
        ("", False),
    ],
)
def test_the_older_wish_is_read_as_rfc_3230_writes_it(value, wanted):
    assert wants_digest(CIMultiDict({"Want-Digest": value})) is wanted


def test_several_lines_of_a_field_are_one():
    lines = CIMultiDict([("Want-Repr-Digest", "sha-512=3"), ("Want-Repr-Digest", "sha-256=4")])
    assert wants_digest(lines)


def test_a_wish_for_one_digest_is_none_for_the_other():
    assert not wants_content_digest(CIMultiDict({"Want-Repr-Digest": "sha-256=1", "Want-Digest": "SHA-256"}))
    assert not wants_digest(CIMultiDict({"Want-Content-Digest": "sha-256=1"}))
    assert not wants_digest(CIMultiDict())


@given(st.text())
def test_no_value_is_too_strange_to_be_read(value):
    fields = CIMultiDict({"Want-Repr-Digest": value, "Want-Content-Digest": value, "Want-Digest": value})
    assert wants_digest(fields) in (True, False)
    assert wants_content_digest(fields) in (True, False)


async def test_aria2c_asks_for_the_digest_and_finds_a_damaged_file_by_it(tmp_path):
    async with Upstream() as up:
        content = b"a file" * 1000
        fields = repr_digest(hashlib.sha256(content).digest())
        url = up.add("/f.bin", Resource(content, headers=fields), Flipped(place=9))
        ended = await aria2c("--max-tries=1", url, folder=tmp_path)
        assert ended.code == 32, ended.out  # "checksum validation failed" (aria2c(1), EXIT STATUS)
        assert wants_digest(up.seen("/f.bin")[0].headers)
