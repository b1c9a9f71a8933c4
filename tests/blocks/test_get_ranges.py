"""Ranges of one version of a file, from servers that have another one or send another one."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from gateway_blocks.get.connection import Busy
from gateway_blocks.get.model import NotThere, Unreachable
from gateway_blocks.get.ranges import NoRanges, Version, VersionChanged, fetch_range, fetch_whole
from gateway_core.testing.upstream import Upstream, upstream_thread
from gateway_core.testing.upstream_answer import Framing, Resource
from gateway_core.testing.upstream_behaviour import (
    Changed,
    Cut,
    Encoded,
    Headers,
    IgnoreRange,
    Length,
    Raw,
    Status,
    WrongRange,
)
from tests.blocks.get_serving import MakeClient, clients, without_proxies

DATA = random.Random(3).randbytes(100_000)
SIZE = len(DATA)
PLENTY = 1 << 20
OF_THIS_SIZE = Version(SIZE)
TAGGED = {"etag": '"v1"'}


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    without_proxies(monkeypatch)


@pytest.fixture
def up() -> Iterator[Upstream]:
    with upstream_thread() as upstream:
        yield upstream


@pytest.fixture
def make() -> Iterator[MakeClient]:
    with clients() as make:
        yield make


def part(make: MakeClient, url: str, first: int, last: int, version: Version = OF_THIS_SIZE) -> bytes:
    with fetch_range(make(url), url, first=first, last=last, version=version) as answer:
        return answer.read_all(PLENTY)


def whole(make: MakeClient, url: str, version: Version) -> bytes:
    with fetch_whole(make(url), url, version=version) as answer:
        return answer.read_all(PLENTY)


@pytest.mark.parametrize("framing", list(Framing))
@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 999), (5, 5), (1000, SIZE - 1), (0, SIZE - 1)])
def test_a_range_is_what_was_asked_for(up, make, framing, first, last):
    url = up.add("/a", Resource(DATA, framing=framing))
    assert part(make, url, first, last) == DATA[first : last + 1]
    assert up.requests[0].headers["Range"] == f"bytes={first}-{last}"


def test_ranges_share_a_connection(up, make):
    url = up.add("/a", DATA)
    client = make(url)
    for first in (0, 1000, 2000):
        with fetch_range(client, url, first=first, last=first + 999, version=Version(SIZE)) as answer:
            assert answer.readinto(memoryview(bytearray(PLENTY))) == 1000
    assert up.total_connections == 1


@pytest.mark.parametrize(
    ("version", "conditions"),
    [
        (Version(SIZE, '"v1"', "Tue, 14 Nov 2023 22:13:20 GMT"), {"If-Match": '"v1"'}),
        (Version(SIZE, 'W/"v1"', "Tue, 14 Nov 2023 22:13:20 GMT"), {}),
        (
            Version(SIZE, None, "Tue, 14 Nov 2023 22:13:20 GMT"),
            {"If-Unmodified-Since": "Tue, 14 Nov 2023 22:13:20 GMT"},
        ),
        (Version(SIZE), {}),
    ],
)
def test_only_the_known_version_is_asked_for(up, make, version, conditions):
    url = up.add("/a", Resource(DATA, **TAGGED))
    part(make, url, 0, 9, version)
    told = up.requests[0].headers
    assert {name: told[name] for name in ("If-Match", "If-Unmodified-Since", "If-Range") if name in told} == conditions


@pytest.mark.parametrize("shift", [-1, 1, 1000])
def test_another_range_is_refused(up, make, shift):
    url = up.add("/a", DATA, WrongRange(shift))
    with pytest.raises(Unreachable, match="another range than bytes 2000 to 2999"):
        part(make, url, 2000, 2999)


@pytest.mark.parametrize(
    "content_range", [None, "", "bytes */100000", "bytes 0-9", "bytes 0-8/100000", "items 0-9/100000", "0-9/100000"]
)
def test_a_part_that_does_not_say_which_is_refused(up, make, content_range):
    url = up.add("/a", DATA, Headers({"Content-Range": content_range}))
    with pytest.raises(Unreachable, match="another range"):
        part(make, url, 0, 9)


def test_a_server_may_keep_the_size_to_itself(up, make):
    url = up.add("/a", DATA, Headers({"Content-Range": "bytes 0-9/*"}))
    assert part(make, url, 0, 9) == DATA[:10]


@pytest.mark.parametrize("delta", [-1, 1, 5000])
def test_a_range_of_another_length_than_it_says_is_refused(up, make, delta):
    url = up.add("/a", DATA, Length(delta))
    with pytest.raises(Unreachable, match=f"sends {1000 + delta} bytes where 1000 were asked for"):
        part(make, url, 0, 999)


@pytest.mark.parametrize("framing", list(Framing))
def test_a_range_that_is_cut_is_refused(up, make, framing):
    url = up.add("/a", Resource(DATA, framing=framing), Cut(500))
    with pytest.raises(Unreachable):
        part(make, url, 0, 999)


def test_a_chunked_range_that_goes_on_is_refused(up, make):
    head = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/100000\r\nTransfer-Encoding: chunked\r\n\r\n"
    url = up.add("/a", DATA, Raw(head + b"6\r\nabcdef\r\n0\r\n\r\n"))
    with pytest.raises(Unreachable, match="more than it had told"):
        part(make, url, 0, 4)


def test_a_coded_range_is_refused(up, make):
    url = up.add("/a", Resource(DATA, **TAGGED), Headers({"Content-Encoding": "gzip"}))
    with pytest.raises(Unreachable, match="sent encoded"):
        part(make, url, 0, 9)


def test_a_file_that_is_sent_coded_is_refused(up, make):
    url = up.add("/a", DATA, Encoded())
    with pytest.raises(Unreachable, match="sent encoded"):
        whole(make, url, Version(None))


def test_a_server_without_ranges_is_told_apart(up, make):
    url = up.add("/a", DATA, IgnoreRange())
    with pytest.raises(NoRanges):
        part(make, url, 0, 9)


def test_the_whole_file_will_do_where_it_was_asked_for(up, make):
    url = up.add("/a", DATA, IgnoreRange())
    assert part(make, url, 0, SIZE - 1) == DATA


@pytest.mark.parametrize(
    ("resource", "fault", "version"),
    [
        (Resource(DATA), Changed(DATA + b"x"), Version(SIZE)),
        (Resource(DATA), Changed(DATA[:5000]), Version(SIZE)),
        (Resource(DATA, etag='"v2"'), None, Version(SIZE, '"v1"')),
        (Resource(DATA, etag='W/"v2"'), None, Version(SIZE, 'W/"v1"')),
        (Resource(DATA, etag=None), Changed(DATA), Version(SIZE, None, "Tue, 14 Nov 2023 22:13:20 GMT")),
        (Resource(DATA), Status(412), Version(SIZE)),
        (Resource(DATA), Status(416), Version(SIZE)),
    ],
    ids=["longer", "shorter", "tag", "weak tag", "date", "412", "416"],
)
def test_another_version_is_told_apart(up, make, resource, fault, version):
    url = up.add("/a", resource, *([fault] if fault else []))
    with pytest.raises(VersionChanged):
        part(make, url, 2000, 2999, version)


def test_another_version_is_told_apart_where_the_whole_is_sent(up, make):
    url = up.add("/a", DATA, Changed(DATA + b"x"))
    with pytest.raises(VersionChanged):
        whole(make, url, Version(SIZE))


@pytest.mark.parametrize(("had", "has"), [('W/"v1"', '"v1"'), ('"v1"', 'W/"v1"')])
def test_a_tag_that_grew_strong_is_of_the_same_version(up, make, had, has):
    url = up.add("/a", Resource(DATA, etag=has))
    assert part(make, url, 0, 9, Version(SIZE, had)) == DATA[:10]


def test_a_mirror_may_have_tags_of_its_own(up, make):
    url = up.add("/a", Resource(DATA, etag='"mirror"'))
    assert part(make, url, 0, 9, Version(SIZE)) == DATA[:10]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_no_for_good_is_told_apart(up, make, status):
    url = up.add("/a", b"", Status(status))
    with pytest.raises(NotThere, match=f"/a: {status} "):
        part(make, url, 0, 9)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_says_when_to_come_again(up, make, status):
    url = up.add("/a", b"", Status(status, {"Retry-After": "7"}))
    with pytest.raises(Busy, match=f"/a: {status} ") as raised:
        part(make, url, 0, 9)
    assert raised.value.retry_after_s == 7


@pytest.mark.parametrize("status", [204, 302, 400, 418])
def test_any_other_answer_is_a_failure(up, make, status):
    url = up.add("/a", b"", Status(status))
    with pytest.raises(Unreachable, match=f"/a: {status} ") as raised:
        part(make, url, 0, 9)
    assert type(raised.value) is Unreachable


@pytest.mark.parametrize(
    "body",
    [b'{"ok": false, "msg": "no \\u001b[2Jsuch\\nfile"}', b'{"title": "x", "detail": "no \\u001b[2Jsuch\\nfile"}'],
)
def test_the_servers_own_words_are_told_on_one_line(up, make, body):
    url = up.add("/a?token=hunter2", Resource(body, status=404))
    with pytest.raises(NotThere) as raised:
        part(make, url, 0, 9)
    assert str(raised.value) == f"{up.base_url}/a: 404 no  [2Jsuch file"


@pytest.mark.parametrize("body", [b"", b"[" * 50_000, b"[1]", b'{"msg": 5}', b"\xff", b"x" * 100_000])
def test_any_words_are_borne(up, make, body):
    url = up.add("/a", Resource(body, status=404))
    with pytest.raises(NotThere, match="404 Not Found"):
        part(make, url, 0, 9)


def test_a_refusal_keeps_the_connection(up, make):
    url = up.add("/a", DATA, Status(503, times=1))
    client = make(url)
    with pytest.raises(Busy):
        fetch_range(client, url, first=0, last=9, version=Version(SIZE))
    fetch_range(client, url, first=0, last=9, version=Version(SIZE)).close()
    assert up.total_connections == 1


@pytest.mark.parametrize("framing", list(Framing))
def test_a_whole_file_has_the_size_it_should(up, make, framing):
    url = up.add("/a", Resource(DATA, framing=framing, ranges=False))
    assert whole(make, url, Version(SIZE)) == DATA
    assert whole(make, url, Version(None)) == DATA
    with pytest.raises((VersionChanged, Unreachable)):
        whole(make, url, Version(SIZE + 1))


def test_a_file_that_is_gone_is_told(up, make):
    with pytest.raises(NotThere):
        whole(make, up.base_url + "/nothing", Version(None))
