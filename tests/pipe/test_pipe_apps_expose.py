"""What may be published, and that a caller's target never leaves it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_core.errors import BadRequest, ConfigError
from gateway_pipe.apps.expose import exposed, parse_expose

BASE = exposed("app", "http://127.0.0.1:3000/base/")
WHOLE = exposed("app", "http://127.0.0.1:3000")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grafana", "expected NAME=URL"),
        ("=http://127.0.0.1:3000", "a name has"),
        ("Grafana=http://127.0.0.1", "small letters"),
        ("a--b=http://127.0.0.1", "single hyphens"),
        ("-a=http://127.0.0.1", "a name has"),
        ("a.b=http://127.0.0.1", "a name has"),
        (f"{'a' * 64}=http://127.0.0.1", "a name has"),
        ("a=127.0.0.1:3000", "expected http://HOST:PORT"),
        ("a=ftp://127.0.0.1", "expected http://HOST:PORT"),
        ("a=file:///etc/passwd", "expected http://HOST:PORT"),
        ("a=http://", "expected http://HOST:PORT"),
        ("a=http://127.0.0.1:99999", "is not a URL"),
        ("a=http://127.0.0.1:0", "expected http://HOST:PORT"),
        ("a=http://u:p@127.0.0.1", "a user or a password"),
        ("a=http://127.0.0.1/?x=1", "a query or a fragment"),
        ("a=http://127.0.0.1/#x", "a query or a fragment"),
    ],
)
def test_what_cannot_be_published_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_expose(text)


@pytest.mark.parametrize("text", ["a=http://127.0.0.1:3000", "a-1=https://app.lan/x/", "x = http://[::1]:80"])
def test_names_and_addresses_of_the_usual_forms_are_taken(text: str) -> None:
    name, _, url = text.partition("=")
    app = parse_expose(text)
    assert (app.name, str(app.base).rstrip("/")) == (name.strip(), url.strip().rstrip("/").removesuffix(":80"))


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("", "/base/"),
        ("?x=1", "/base/?x=1"),
        ("a//b%2Fc/?x=/../y", "/base/a//b%2Fc/?x=/../y"),
        ("a%20b/%C3%A4?q=%23", "/base/a%20b/%C3%A4?q=%23"),
        ("ä b\r\nX: y", "/base/%C3%A4%20b%0D%0AX:%20y"),
        ("a#b", "/base/a%23b"),
        ("http://evil.example/x", "/base/http://evil.example/x"),
        ("//evil.example/x", "/base///evil.example/x"),
        ("@evil.example/", "/base/@evil.example/"),
        (":99/x", "/base/:99/x"),
        ("...", "/base/..."),
        ("a/..b/b..", "/base/a/..b/b.."),
        ("./x", "/base/./x"),
        ("\udcff", "/base/%FF"),
    ],
)
def test_a_target_goes_below_the_base_as_it_was_written(target: str, path: str) -> None:
    assert str(BASE.url(target)) == f"http://127.0.0.1:3000{path}"


CLIMBING = (
    "..", "../x", "a/../../x", "%2e%2e/x", "%2E%2e/x", ".%2e/x", "%2e./x", "a%2f..%2fx", "a/..%2Fx", "..%5cx",
    "..\\x", "a\\..\\x", "%252e%252e/x", "%25252e%25252e/x", "..%252fx", "..;/x", "..;a=b/x", "%2e%2e%3b/x",
    "../?x=1", "a/..", "..%20/x", " ../x", "%2525252525252e/x",
)  # fmt: skip


@pytest.mark.parametrize("path", CLIMBING)
def test_a_path_that_climbs_out_of_the_base_is_refused_in_every_spelling(path: str) -> None:
    with pytest.raises(BadRequest, match="leaves the application's"):
        BASE.url(path)


def test_without_a_base_path_there_is_nothing_to_leave_and_dots_stay() -> None:
    assert str(WHOLE.url("a/../%2e%2e/b")) == "http://127.0.0.1:3000/a/../%2e%2e/b"


@given(st.text(max_size=30))
def test_no_target_changes_where_a_request_goes(target: str) -> None:
    url = WHOLE.url(target)
    assert (url.scheme, url.raw_host, url.port) == ("http", "127.0.0.1", 3000)
    assert url.raw_user is None
    assert str(url).isascii()
    assert str(url).isprintable()


@pytest.mark.parametrize(
    ("location", "outside"),
    [
        ("http://127.0.0.1:3000/base/x?y=1#z", "/x?y=1#z"),
        ("//127.0.0.1:3000/base/x", "/x"),
        ("http://127.0.0.1:3000/base", "/"),
        ("/base/x%2F/", "/x%2F/"),
        ("/base?x", "/?x"),
        ("/other/x", "/other/x"),
        ("/based", "/based"),
        ("x", "x"),
        ("?x", "?x"),
        ("../x", "../x"),
        ("https://127.0.0.1:3000/base/x", "https://127.0.0.1:3000/base/x"),
        ("http://127.0.0.1:3001/base/x", "http://127.0.0.1:3001/base/x"),
        ("http://127.0.0.1:3000.evil/base", "http://127.0.0.1:3000.evil/base"),
        ("https://elsewhere.example/", "https://elsewhere.example/"),
        ("http://[broken", "http://[broken"),
        ("", ""),
    ],
)
def test_an_address_of_its_own_is_told_from_the_root_of_the_application(location: str, outside: str) -> None:
    assert BASE.outside(location) == outside


def test_the_default_port_may_be_written_or_not_and_two_slashes_name_no_host() -> None:
    app = exposed("app", "http://localhost")
    assert app.outside("http://localhost:80/x") == "/x"
    assert app.outside("http://localhost//evil.example/x") == "/.//evil.example/x"
