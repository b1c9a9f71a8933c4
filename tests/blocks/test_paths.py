from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_blocks.files.paths import (
    MAX_NAME_BYTES,
    MAX_PATH_BYTES,
    UrlPath,
    decode_name,
    encode_name,
    parse_path,
)
from gateway_core import NotFound
from gateway_core.errors import UriTooLong


@pytest.mark.parametrize(
    ("raw", "names", "folder"),
    [
        ("", (), True),
        ("a.iso", ("a.iso",), False),
        ("a/b/c.iso", ("a", "b", "c.iso"), False),
        ("a/b/", ("a", "b"), True),
        ("sp%20ace+plus.txt", ("sp ace+plus.txt",), False),
        ("%E6%97%A5", ("日",), False),
        ("日", ("日",), False),
        ("%e6%97%a5/", ("日",), True),
        ("100%25", ("100%",), False),
        ("%252e%252e", ("%2e%2e",), False),
        ("%FF%fe", ("\udcff\udcfe",), False),
        ("\udcff", ("\udcff",), False),
        ("%ED%A0%80", ("\udced\udca0\udc80",), False),
        ("...", ("...",), False),
        ("..a/.b", ("..a", ".b"), False),
        ("a%5Cb", ("a\\b",), False),
        ("a;v=1/b?c#d", ("a;v=1", "b?c#d"), False),
        ("line%0D%0Abreak", ("line\r\nbreak",), False),
        ("x" * MAX_NAME_BYTES, ("x" * MAX_NAME_BYTES,), False),
    ],
)
def test_a_path_is_taken_apart_and_decoded_once(raw, names, folder):
    assert parse_path(raw) == UrlPath(names, folder)


@pytest.mark.parametrize(
    "raw",
    [
        "/",
        "//",
        "a//b",
        "a//",
        "/a",
        ".",
        "./a",
        "a/.",
        "a/./",
        "..",
        "../a",
        "a/..",
        "a/../b",
        "%2e",
        "a/%2E%2e/b",
        ".%2e",
        "%2f",
        "a%2Fb",
        "..%2f..%2fetc",
        "%00",
        "a%00.png",
        "a\0b",
        "%",
        "a%2",
        "%zz",
        "%u002e",
        "%\u0660\u0660",
        "100%",
        "\ud800",
    ],
)
def test_a_path_that_no_file_can_have_is_not_found(raw):
    with pytest.raises(NotFound):
        parse_path(raw)


@pytest.mark.parametrize(
    "raw",
    [
        "x" * (MAX_NAME_BYTES + 1),
        "%61" * (MAX_NAME_BYTES + 1),
        "é" * 128,
        "a/" + "y" * 300 + "/b",
        "a/" * (MAX_PATH_BYTES // 2) + "bc",
    ],
    ids=["name", "escaped", "in bytes", "in the middle", "path"],
)
def test_a_path_longer_than_any_of_the_system_is_too_long(raw):
    with pytest.raises(UriTooLong):
        parse_path(raw)


def test_the_longest_path_is_still_a_path():
    assert len(parse_path("a/" * (MAX_PATH_BYTES // 2 - 1) + "bc").decoded) == MAX_PATH_BYTES


@pytest.mark.parametrize(
    ("path", "encoded", "decoded"),
    [
        (UrlPath((), folder=True), "", ""),
        (UrlPath(("a", "b"), folder=True), "a/b/", "a/b"),
        (UrlPath(("a~b_c-d.e",), folder=False), "a~b_c-d.e", "a~b_c-d.e"),
        (
            UrlPath(
                (
                    "a b",
                    "50%?#&'\"<>",
                ),
                folder=False,
            ),
            "a%20b/50%25%3F%23%26%27%22%3C%3E",
            "a b/50%?#&'\"<>",
        ),
        (UrlPath(("日",), folder=False), "%E6%97%A5", "日"),
        (UrlPath(("\udcff.bin",), folder=False), "%FF.bin", "\ufffd.bin"),
    ],
)
def test_a_path_is_written_for_links_and_for_people(path, encoded, decoded):
    assert (path.encoded, path.decoded) == (encoded, decoded)


def test_a_child_lies_below_its_folder():
    folder = parse_path("a/b/")
    assert folder.child("c d").encoded == "a/b/c%20d"
    assert folder.child("e", folder=True).encoded == "a/b/e/"


def test_names_of_the_system_go_through_a_url_unharmed(tmp_path):
    for octets in (b"plain", b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", "日本".encode(), b"a\\b", b"%41"):
        path = UrlPath((decode_name(octets),), folder=False)
        assert encode_name(parse_path(path.encoded).names[0]) == octets
        assert os.fsdecode(octets) == path.names[0]


NAMES = st.binary(min_size=1, max_size=MAX_NAME_BYTES).filter(
    lambda octets: not {b"/", b"\0"} & {octets[i : i + 1] for i in range(len(octets))} and octets not in {b".", b".."}
)


@given(octets=st.lists(NAMES, max_size=6), folder=st.booleans())
def test_every_path_that_is_written_is_read_as_itself(octets, folder):
    path = UrlPath(tuple(map(decode_name, octets)), folder or not octets)
    assert parse_path(path.encoded) == path


ATOMS = st.sampled_from(
    ["..", ".", "/", "%2e", "%2F", "%", "%00", "%c0%af", "\\", "a", "é", "\udcff", "\ud800", ";", "\0"]
)


@given(raw=st.one_of(st.text(), st.lists(ATOMS, max_size=12).map("".join)))
def test_whatever_is_asked_for_is_names_or_an_answer(raw):
    try:
        path = parse_path(raw)
    except (NotFound, UriTooLong):
        return
    assert not {"", ".", ".."} & set(path.names)
    assert not any("/" in name or "\0" in name for name in path.names)
    assert parse_path(path.encoded) == path
