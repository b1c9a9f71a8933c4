from __future__ import annotations

import re
from email.message import EmailMessage
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway_core.http.disposition import Disposition, content_disposition, parse_disposition, safe_filename

ANY_NAME = st.text(max_size=300) | st.text(alphabet='"\\\r\n\t;%/= \x00\x7f\x85é\u202eA.', max_size=40)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("collection.zip", 'attachment; filename="collection.zip"'),
        ("a b.txt", 'attachment; filename="a b.txt"'),
        ("été.txt", "attachment; filename=\"ete.txt\"; filename*=UTF-8''%C3%A9t%C3%A9.txt"),
        ("日本.txt", "attachment; filename=\"__.txt\"; filename*=UTF-8''%E6%97%A5%E6%9C%AC.txt"),
        ('a"b.txt', "attachment; filename=\"a_b.txt\"; filename*=UTF-8''a%22b.txt"),
        ("100%25.txt", "attachment; filename=\"100_25.txt\"; filename*=UTF-8''100%2525.txt"),
        ("€ rates; v=1", "attachment; filename=\"_ rates; v=1\"; filename*=UTF-8''%E2%82%AC%20rates%3B%20v%3D1"),
        ("a\r\nSet-Cookie: x=1", 'attachment; filename="a__Set-Cookie: x=1"'),
        ("../../etc/passwd", 'attachment; filename=".._.._etc_passwd"'),
        ("C:\\dir\\f", 'attachment; filename="C:_dir_f"'),
        ("\ud800", 'attachment; filename="_"'),
        ("evil\u202etxt.exe", 'attachment; filename="evil_txt.exe"'),
        *((name, 'attachment; filename="download"') for name in ("", "  ", ".", "..")),
    ],
)
def test_names_become_a_header_that_old_and_new_clients_read(name: str, value: str) -> None:
    assert content_disposition(name) == value


def test_inline_is_a_kind_too() -> None:
    assert content_disposition("a.pdf", kind="inline") == 'inline; filename="a.pdf"'


@given(ANY_NAME)
@example("℀\u00a0")
def test_no_name_can_inject_a_header_or_a_parameter(name: str) -> None:
    value = content_disposition(name)
    assert re.fullmatch(
        r'attachment; filename="[ !#$&-.0-\[\]-~]+"(; filename\*=UTF-8\'\'(%[0-9A-F]{2}|[A-Za-z0-9!#$&+.^_`|~-])+)?',
        value,
    )


@given(ANY_NAME)
def test_what_was_built_is_read_back(name: str) -> None:
    assert parse_disposition(content_disposition(name)) == Disposition("attachment", safe_filename(name))


@given(ANY_NAME.filter(lambda name: "filename*" not in content_disposition(name)))
def test_an_independent_parser_reads_a_plain_name(name: str) -> None:
    message = EmailMessage()
    message["Content-Disposition"] = content_disposition(name)
    assert message.get_filename() == safe_filename(name)


@given(ANY_NAME.filter(lambda name: "filename*" in content_disposition(name)))
def test_the_extended_form_is_the_name_in_percent_encoded_utf_8(name: str) -> None:
    assert unquote(content_disposition(name).partition("filename*=UTF-8''")[2], errors="strict") == safe_filename(name)


@given(ANY_NAME)
def test_a_safe_name_is_one_path_segment_and_stays_as_it_is(name: str) -> None:
    safe = safe_filename(name)
    assert safe
    assert safe not in {".", ".."}
    assert not set(safe) & set("/\\\0\r\n")
    assert len(safe.encode()) <= 255
    assert safe_filename(safe) == safe


def test_long_names_keep_their_suffix() -> None:
    safe = safe_filename("é" * 400 + ".tar.gz")
    assert safe == "é" * 126 + ".gz"


@pytest.mark.parametrize(
    ("value", "kind", "filename"),
    [
        ("attachment", "attachment", None),
        ("INLINE", "inline", None),
        ("attachment; filename=plain.txt", "attachment", "plain.txt"),
        ("attachment;filename=plain.txt;size=3", "attachment", "plain.txt"),
        ("attachment; FILENAME = plain.txt ", "attachment", "plain.txt"),
        ("attachment; filename=two words.txt", "attachment", "two words.txt"),
        ('attachment; filename="a;b.txt"', "attachment", "a;b.txt"),
        (r'attachment; filename="a\"b.txt"', "attachment", 'a"b.txt'),
        ('attachment; filename="a.txt"; filename="b.txt"', "attachment", "a.txt"),
        ("attachment; filename=\"f.txt\"; filename*=UTF-8''%e2%82%ac.txt", "attachment", "€.txt"),
        ("attachment; filename*=utf-8'en'%e2%82%ac.txt; filename=f.txt", "attachment", "€.txt"),
        ("attachment; filename*=ISO-8859-1''%E9.txt", "attachment", "é.txt"),
        ("attachment; filename*=UTF-8''%ff.txt; filename=f.txt", "attachment", "f.txt"),
        ("attachment; filename*=KOI8-R''%c1; filename=f.txt", "attachment", "f.txt"),
        ("attachment; filename*=broken; filename=f.txt", "attachment", "f.txt"),
        ('attachment; filename="été.txt"', "attachment", "été.txt"),
        ('attachment; filename="\udce9t\udce9.txt"', "attachment", "été.txt"),
        ('attachment; filename="/etc/passwd"', "attachment", "passwd"),
        (r'attachment; filename="C:\\dir\\f.txt"', "attachment", "f.txt"),
        ("attachment; filename*=UTF-8''..%2f..%2fx", "attachment", "x"),
        ("attachment; filename*=UTF-8''a%0d%0ab", "attachment", "a__b"),
        ('attachment; filename=""', "attachment", None),
        ('attachment; filename="open', "attachment", None),
        ("attachment; filename", "attachment", None),
        ("attachment; ; ;", "attachment", None),
    ],
)
def test_fields_of_the_wild_are_read(value: str, kind: str, filename: str | None) -> None:
    assert parse_disposition(value) == Disposition(kind, filename)


@pytest.mark.parametrize("value", ["", " ", "; filename=x", '"attachment"'])
def test_a_field_without_a_type_says_nothing(value: str) -> None:
    assert parse_disposition(value) is None


@given(st.text(max_size=80) | st.text(alphabet="attachment;filename*='\"\\%UTF-8 =\udce9", max_size=80))
def test_any_field_is_read_without_an_error_into_a_safe_name(value: str) -> None:
    found = parse_disposition(value)
    if found is not None and found.filename is not None:
        assert safe_filename(found.filename) == found.filename
