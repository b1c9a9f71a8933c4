"""The block map of a file as servers tell it: ours, rd-api, those without one, and those that lie."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_blocks.get import map_json
from gateway_blocks.get.connection import Busy, HttpClient
from gateway_blocks.get.map_json import BrokenMapError, read_map
from gateway_blocks.get.model import GetError, NotThere, Unreachable
from gateway_blocks.get.remote import (
    PlainFacts,
    RemoteMap,
    Version,
    VersionChanged,
    fetch_range,
    plain_facts,
    report_bad,
)
from gateway_core.testing.upstream import Upstream, upstream_thread
from gateway_core.testing.upstream_answer import Framing, Resource
from gateway_core.testing.upstream_behaviour import Cut, Encoded, Endless, Headers, Stall, Status
from tests.blocks.conftest import BLOCK as UNIT
from tests.blocks.get_serving import (
    BLOCK,
    TAG,
    MakeClient,
    blocks,
    clients,
    news,
    our_map,
    rd_map,
    sha1,
    stops,
    without_proxies,
)

DATA = random.Random(4).randbytes(10 * BLOCK - 1)
COUNT = 10


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


def put(up: Upstream, told: Any, path: str = "/rd/a.bin", **resource: Any) -> str:
    """Serve ``told`` as JSON, bytes as they stand; the URL of the file."""
    content = told if isinstance(told, bytes) else json.dumps(told).encode()
    up.add(path, Resource(content, etag=None, modified=None, **resource))
    return f"{up.base_url}/a.bin"


def load(make: MakeClient, url: str) -> RemoteMap | None:
    return RemoteMap.load(url, make(url))


def digests(found: RemoteMap) -> list[str | None]:
    return [None if (digest := found.digest(index)) is None else digest.hex() for index in range(found.count)]


def expected_digests(data: bytes) -> list[str]:
    return [block[3] for block in blocks(data)]


# Maps that are right


@pytest.mark.parametrize("told", [rd_map(DATA), our_map(DATA)], ids=["rd-api", "ours"])
@pytest.mark.parametrize("framing", [Framing.LENGTH, Framing.CHUNKED])
def test_a_whole_map_is_understood(up, make, told, framing):
    found = load(make, put(up, told, framing=framing))
    assert (found.size_bytes, found.block_bytes, found.count) == (len(DATA), BLOCK, COUNT)
    assert digests(found) == expected_digests(DATA)
    assert (found.known, found.complete, found.first_missing) == (COUNT, True, COUNT)
    assert (found.span(0), found.span(9)) == ((0, 999), (9000, 9998))
    assert found.etag == found.version.etag == told.get("etag")
    assert found.version.size_bytes == len(DATA)


def test_the_map_is_asked_for_as_rd_does_it(up, make):
    put(up, rd_map(DATA))
    load(make, f"{up.base_url}/a.bin?key=%20x")
    assert up.requests[0].target == "/rd/a.bin?key=%20x"
    assert up.requests[0].headers["Accept-Encoding"] == "gzip"


def test_a_map_may_come_as_gzip(up, make):
    content = gzip.compress(json.dumps(our_map(DATA)).encode())
    assert load(make, put(up, content, headers={"Content-Encoding": "gzip"})).complete


def test_the_connection_is_kept_for_the_file(up, make):
    client = make(put(up, our_map(DATA)))
    url = up.add("/a.bin", DATA)
    RemoteMap.load(url, client)
    plain_facts(url, client)
    assert up.total_connections == 1


def test_blocks_may_be_pending_anywhere(up, make):
    found = load(make, put(up, our_map(DATA, lambda number: number in {0, 1, 5})))
    assert [index for index in range(COUNT) if found.digest(index)] == [0, 1, 5]
    assert (found.known, found.complete, found.first_missing) == (3, False, 2)


@pytest.mark.parametrize("told", [rd_map(b""), our_map(b"")], ids=["rd-api", "ours"])
def test_an_empty_file_has_no_blocks(up, make, told):
    found = load(make, put(up, told))
    assert (found.size_bytes, found.count, found.known, found.complete, found.first_missing) == (0, 0, 0, True, 0)
    assert found.block_bytes >= 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"block_size": "2MiB"}, 2 << 20),
        ({"block_size": "64KiB"}, 64 << 10),
        ({"block_size": "1GiB"}, 1 << 30),
        ({"block_size": "999B"}, 999),
        ({"block_size": "500B"}, 999),
        ({"block_size": "0.5 MiB"}, 999),
        ({"block_size": 5}, 999),
        ({"block_bytes": 4096}, 4096),
    ],
)
def test_the_block_size_of_a_single_block_is_what_the_server_says(up, make, fields, expected):
    found = load(make, put(up, rd_map(DATA[:999], **fields)))
    assert (found.block_bytes, found.span(0), found.complete) == (expected, (0, 998), True)


def test_upper_case_digests_are_digests(up, make):
    told = rd_map(DATA)
    for block in told["blocks"]:
        block[3] = block[3].upper()
    assert digests(load(make, put(up, told))) == expected_digests(DATA)


@given(
    st.lists(st.booleans(), max_size=12),
    st.integers(1, 40),
    st.sampled_from([None, 1]),
    st.sampled_from([(", ", ": "), (",", ":"), (" ,\n", "\t:\r\n")]),
    st.randoms(),
    st.sampled_from(["", '"blocks":[[0,0,0,"pending"]]', '\\"blocks\\": [', "\u00e4\U0001f511" * 20]),
)
def test_a_map_is_read_alike_however_it_is_written_and_cut(known, cut, indent, separators, order, path):
    data = bytes(max(0, len(known) * BLOCK - 1))
    keys = list(rd_map(data, lambda number: known[number], path=path).items())
    order.shuffle(keys)
    text = json.dumps(dict(keys), indent=indent, separators=separators).encode()
    told = read_map(text[at : at + cut] for at in range(0, len(text), cut))
    assert told is not None
    assert told.fields == {**dict(keys), "blocks": []}
    assert list(told.blocks.known) == known
    assert (told.blocks.first, told.blocks.start, told.blocks.stop) == (0, 0, len(data))


def test_a_map_of_20_gb_takes_20_bytes_a_block():
    count, unit = 10_240, 2 << 20
    text = b'{"ok":true,"blocks":[' + b",".join(
        b'[%d,%d,%d,"%s"]' % (n, n * unit, (n + 1) * unit - 1, b"0123456789" * 4) for n in range(count)
    )
    text += b'],"file_size":%d,"block_count":%d,"msg":""}' % (count * unit, count)
    tracemalloc.start()
    try:
        found = RemoteMap("http://h/a", read_map(text[at : at + 65_536] for at in range(0, len(text), 65_536)))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.complete
    assert kept < 30 * count
    assert peak < 100 * count


# Servers without a map, without the file, or without time


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"<h1>404: File Not Found!</h1>"),
        (404, b""),
        (404, b'{"type": "urn:x:not-found", "title": "Not found", "status": 404}'),
        (404, b'{"detail": "Not Found"}'),
        (200, b"<!doctype html><html>index of a single-page application</html>"),
        (200, b'{"ok": true}'),
        (200, b'{"ok": false, "error": "invalid_auth"}'),
        (200, b'{"ok": true, "blocks": [{"type": "section"}], "file_size": 5}'),
        (200, b'{"ok": true, "blocks": ["a"], "file_size": 5}'),
        (200, b'{"ok": true, "blocks": []}'),
        (200, b'{"ok": true, "blocks": 5, "file_size": 5}'),
        (200, b'{"ok": true, "data": {"blocks": []}, "file_size": 5}'),
        (200, b'{"ok": 1, "msg": "", "blocks": [], "file_size": 0}'),
        (200, b'{"a": "' + b"x" * 100_000 + b'"}'),
        (200, b"[]"),
        (200, b"  \n "),
        (200, b"\x89PNG\r\n\x1a\n"),
        (200, b'"blocks":[[0,0,0,"pending"]]'),
        (201, json.dumps(rd_map(DATA)).encode()),
        (400, b"bad request"),
        (401, b"who are you"),
        (403, b"<html>"),
        (405, b""),
        (501, b""),
    ],
)
def test_a_server_without_checksums_is_recognised(up, make, status, body):
    assert load(make, put(up, body, status=status)) is None


def test_a_large_file_in_place_of_a_map_is_not_read(up, make):
    url = put(up, b"")
    up.add("/rd/a.bin", b"", Endless())
    assert load(make, url) is None


@pytest.mark.parametrize("status", [200, 401, 403, 404])
def test_a_file_that_is_not_there_is_told_in_the_servers_words(up, make, status):
    told = {"block_count": -1, "block_size": "", "blocks": [], "file_size": -1, "filepath": "", "path": "", "ok": False}
    url = put(up, {**told, "msg": "getFileStatus on \x1b[2J nope failed"}, status=status)
    with pytest.raises(NotThere) as raised:
        load(make, url)
    assert str(raised.value) == f"{url}: getFileStatus on  [2J nope failed"


def test_a_file_that_is_not_there_is_told_without_words_too(up, make):
    with pytest.raises(NotThere, match="404"):
        load(make, put(up, {"ok": False, "msg": ""}, status=404))


@pytest.mark.parametrize("status", [409, 422])
def test_a_question_that_is_not_understood_is_no_missing_file(up, make, status):
    with pytest.raises(Unreachable, match="another time"):
        load(make, put(up, {"ok": False, "msg": "another time"}, status=status))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("body", [b"<html>", b'{"ok": false, "msg": "too many files are being hashed"}'])
def test_a_busy_server_is_not_one_without_checksums(up, make, status, body):
    with pytest.raises(Busy, match=str(status)) as raised:
        load(make, put(up, body, status=status, headers={"Retry-After": "3"}))
    assert raised.value.retry_after_s == 3
    assert ("too many files" in str(raised.value)) == body.startswith(b"{")


@pytest.mark.parametrize("fault", [Cut(), Cut(300), Stall(), Stall(300)])
def test_a_map_that_breaks_off_is_not_a_server_without_checksums(up, make, fault):
    url = put(up, b"")
    up.add("/rd/a.bin", json.dumps(our_map(DATA)).encode(), fault)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
        RemoteMap.load(url, make(url, stall_s=0.3))


def test_a_map_that_is_coded_in_another_way_is_refused(up, make):
    url = put(up, our_map(DATA), headers={"Content-Encoding": "br"})
    with pytest.raises(Unreachable, match="encoded"):
        load(make, url)


# Servers that lie


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    told = our_map(DATA)
    change(told)
    return told


LIES = {
    "gap": changed(lambda told: told["blocks"].pop(3)),
    "first missing": changed(lambda told: told["blocks"].pop(0)),
    "last missing": changed(lambda told: told["blocks"].pop()),
    "order": changed(lambda told: told["blocks"].reverse()),
    "twice": changed(lambda told: told["blocks"].insert(4, told["blocks"][4])),
    "overlap": changed(lambda told: told["blocks"][4].__setitem__(1, 3999)),
    "hole": changed(lambda told: told["blocks"][4].__setitem__(1, 4001)),
    "short": changed(lambda told: told["blocks"][4].__setitem__(2, 4998)),
    "long": changed(lambda told: told["blocks"][4].__setitem__(2, 5000)),
    "backwards": changed(lambda told: told["blocks"][4].__setitem__(2, 3000)),
    "negative": changed(lambda told: told["blocks"][0].__setitem__(1, -1)),
    "huge": changed(lambda told: told["blocks"][9].__setitem__(2, 10**30)),
    "float": changed(lambda told: told["blocks"][4].__setitem__(2, 4999.0)),
    "short digest": changed(lambda told: told["blocks"][4].__setitem__(3, "abc")),
    "no digest": changed(lambda told: told["blocks"][4].__setitem__(3, None)),
    "no hex": changed(lambda told: told["blocks"][4].__setitem__(3, "g" * 40)),
    "five": changed(lambda told: told["blocks"][4].append(0)),
    "three": changed(lambda told: told["blocks"][4].pop()),
    "no array": changed(lambda told: told["blocks"].__setitem__(4, {})),
    "size": our_map(DATA, file_size=len(DATA) + 1),
    "small size": our_map(DATA, file_size=1),
    "negative size": our_map(DATA, file_size=-1),
    "true size": our_map(DATA, file_size=True),
    "text size": our_map(DATA, file_size=str(len(DATA))),
    "endless size": our_map(DATA, file_size=1 << 70),
    "no blocks": our_map(DATA, blocks=[]),
    "blocks of nothing": our_map(DATA, file_size=0),
    "count": our_map(DATA, block_count=9),
    "count of text": our_map(DATA, block_count="10"),
    "block size": our_map(DATA, block_bytes=999),
    "no block size": our_map(DATA, block_bytes=-5),
    "tag": our_map(DATA, etag="v1"),
    "tag with a line": our_map(DATA, etag='"a\r\nX: y"'),
    "tag of number": our_map(DATA, etag=5),
    "cut": json.dumps(our_map(DATA)).encode()[:-40],
    "cut in a block": json.dumps(our_map(DATA)).encode()[:300],
    "cut after a block": json.dumps(our_map(DATA)).encode().split(b"]")[0] + b"]",
    "broken": b"{'ok': true}",
    "nested": b'{"a":' + b"[" * 60_000,
    "long number": b'{"a":' + b"1" * 60_000 + b"}",
    "no text": b'{"a": "\xff"}',
    "goes on": json.dumps(our_map(DATA)).encode()[:-1] + b', "x": "' + b"y" * 200_000 + b'"}',
    "spaces": b'{"ok":true,"blocks":[[0' + b" " * 100_000 + b",0,0",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_map_that_cannot_be_right_is_refused(up, make, lie):
    url = put(up, lie)
    with pytest.raises(Unreachable, match="block map cannot be right") as raised:
        load(make, url)
    assert str(raised.value).startswith(f"{url}: ")
    assert len(str(raised.value)) < 200


def test_a_map_without_end_is_refused_soon(monkeypatch):
    monkeypatch.setattr(map_json, "MAX_BLOCKS", 1000)
    drawn = []

    def endless() -> Iterator[bytes]:
        yield b'{"blocks":['
        for number in range(1 << 60):
            drawn.append(number)
            yield b'[%d,%d,%d,"pending"],' % (number, number, number)

    with pytest.raises(BrokenMapError, match="too many blocks"):
        read_map(endless())
    assert len(drawn) < 1100


@given(st.text(alphabet='{}[]",:0123456789 \n\\abcdefokpendigcks-', max_size=80), st.integers(1, 20))
def test_any_text_is_a_map_or_none_or_broken(text, cut):
    raw = b'{"ok":true,"file_size":1,"blocks":[' + text.encode()
    try:
        told = read_map(raw[at : at + cut] for at in range(0, len(raw), cut))
    except BrokenMapError:
        return
    assert told is None or told.blocks is not None


# Polls


def test_a_poll_asks_for_what_follows_the_known_blocks(up, make):
    url = put(up, our_map(DATA, lambda number: number < 4))
    client = make(url)
    found = RemoteMap.load(url, client)
    put(up, news(our_map(DATA, lambda number: number < 7), after=3), "/rd/a.bin?after=3&wait=5")
    assert found.poll(client, 5.0) is found
    assert (found.known, found.first_missing) == (7, 7)
    put(up, news(our_map(DATA), after=6), "/rd/a.bin?after=6&wait=5")
    assert found.poll(client, 5.0) is found
    assert digests(found) == expected_digests(DATA)
    assert found.complete


def test_a_poll_before_the_first_block_asks_for_all(up, make):
    url = put(up, our_map(DATA, lambda number: False))
    client = make(url)
    found = RemoteMap.load(url, client)
    put(up, our_map(DATA), "/rd/a.bin?after=-1&wait=5")
    assert found.poll(client, 5.0) is found
    assert found.complete


def test_blocks_behind_a_gap_are_kept(up, make):
    url = put(up, our_map(DATA, lambda number: number in {0, 8}))
    client = make(url)
    found = RemoteMap.load(url, client)
    put(up, news(our_map(DATA, lambda number: number in {0, 5}), after=0), "/rd/a.bin?after=0&wait=5")
    found.poll(client, 5.0)
    assert [index for index in range(COUNT) if found.digest(index)] == [0, 5, 8]


@pytest.mark.parametrize(("stall_s", "expected"), [(1.0, "0.5"), (1000.0, "60")])
def test_a_poll_waits_no_longer_than_the_stall_limit_and_the_server_allow(up, make, stall_s, expected):
    url = put(up, our_map(DATA, lambda number: number < 4))
    client = make(url, stall_s=stall_s)
    RemoteMap.load(url, client).poll(client, 1000)
    assert up.requests[-1].target == f"/rd/a.bin?after=3&wait={expected}"


def test_a_poll_of_a_whole_map_waits_for_nothing(up, make):
    url = put(up, our_map(DATA))
    client = make(url)
    found = RemoteMap.load(url, client)
    put(up, news(our_map(DATA), after=9), "/rd/a.bin?after=9")
    assert found.poll(client, 20) is found


def test_a_server_that_does_not_hold_its_answers_is_asked_once_a_second(up, make):
    url = put(up, rd_map(DATA, lambda number: number < 4))
    client = make(url)
    found = RemoteMap.load(url, client)
    began = time.monotonic()
    found.poll(client, 20)
    put(up, rd_map(DATA, lambda number: number < 5))
    found.poll(client, 20)
    assert time.monotonic() - began >= 1.0
    assert found.known == 5


def test_a_server_that_answers_at_once_without_news_is_asked_once_a_second(up, make):
    url = put(up, our_map(DATA, lambda number: number < 4))
    client = make(url)
    found = RemoteMap.load(url, client)
    began = time.monotonic()
    found.poll(client, 20)
    found.poll(client, 20)
    assert time.monotonic() - began >= 1.0


def test_a_stop_ends_a_poll(up, make):
    stop, url = threading.Event(), put(up, our_map(DATA, lambda number: number < 4))
    client = make(url, stop=stop, stall_s=60)
    found = RemoteMap.load(url, client)
    up.add("/rd/a.bin?after=3&wait=20", b"", Stall())
    assert stops(lambda: found.poll(client, 20), stop, once=lambda: up.sync(up.wait_requests(2)))


def test_a_weak_tag_grows_strong(up, make):
    url = put(up, our_map(DATA, lambda number: number < 4, etag=f"W/{TAG}"))
    client = make(url)
    found = RemoteMap.load(url, client)
    assert found.etag == f"W/{TAG}"
    put(up, our_map(DATA))
    assert found.poll(client, 1) is found
    assert found.etag == TAG


def test_a_digest_that_is_pending_again_stays_known(up, make):
    url = put(up, rd_map(DATA))
    client = make(url)
    found = RemoteMap.load(url, client)
    put(up, rd_map(DATA, lambda number: False))
    assert found.poll(client, 1) is found
    assert found.complete


OTHER = random.Random(5).randbytes(len(DATA))
NEW_VERSIONS = {
    "longer": our_map(DATA + b"more than there was" * 100),
    "shorter": our_map(DATA[:4321]),
    "empty": our_map(b""),
    "another tag": our_map(DATA, etag='"v2"'),
    "another weak tag": our_map(DATA, etag='W/"v2"'),
    "other digests": rd_map(OTHER),
    "other blocks": {**our_map(DATA), "blocks": blocks(DATA, unit=500), "block_bytes": 500, "block_count": 20},
}


@pytest.mark.parametrize("told", NEW_VERSIONS.values(), ids=NEW_VERSIONS.keys())
def test_a_new_version_is_another_map(up, make, told):
    url = put(up, our_map(DATA, lambda number: number < 4))
    client = make(url)
    old = RemoteMap.load(url, client)
    put(up, told)
    new = old.poll(client, 1)
    assert new is not old
    assert (new.size_bytes, new.count, new.etag) == (told["file_size"], told["block_count"], told.get("etag"))
    assert digests(new) == [block[3] for block in told["blocks"]]
    assert digests(old) == [*expected_digests(DATA)[:4], *[None] * 6]


def test_a_part_of_a_new_version_is_another_map(up, make):
    """Our servers answer a poll with the new version's later blocks."""
    url = put(up, our_map(DATA, lambda number: number < 4))
    client = make(url)
    old = RemoteMap.load(url, client)
    told = our_map(OTHER, etag='"v2"')
    put(up, news(told, after=3), "/rd/a.bin?after=3&wait=1")
    put(up, told)
    new = old.poll(client, 1.0)
    assert new is not old
    assert digests(new) == expected_digests(OTHER)


@pytest.mark.parametrize(
    "told",
    [
        our_map(DATA, blocks=[[0, 0, 999, "pending"], [1, 1000, 1998, "pending"]]),
        our_map(DATA, blocks=[[4, 4001, 5000, sha1(b"")]]),
        our_map(DATA, blocks=[[10, 10_000, 10_999, sha1(b"")]]),
        our_map(DATA, blocks=[[9, 9000, 9999, sha1(b"")]]),
    ],
    ids=["short", "moved", "behind the end", "too long"],
)
def test_a_poll_with_blocks_of_no_version_is_refused(up, make, told):
    url = put(up, our_map(DATA, lambda number: number < 4))
    client = make(url)
    found = RemoteMap.load(url, client)
    put(up, told)
    with pytest.raises(Unreachable, match="cannot be right"):
        found.poll(client, 1)
    assert found.known == 4


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b'{"ok": false, "msg": "no such file"}', NotThere),
        (404, b"<html>", Unreachable),
        (200, b"<html>", Unreachable),
        (503, b"", Busy),
    ],
)
def test_a_poll_that_fails_leaves_the_map_as_it_was(up, make, status, body, error):
    url = put(up, our_map(DATA, lambda number: number < 4))
    client = make(url)
    found = RemoteMap.load(url, client)
    put(up, body, status=status)
    with pytest.raises(GetError) as raised:
        found.poll(client, 1)
    assert type(raised.value) is error
    put(up, our_map(DATA))
    assert found.poll(client, 1) is found
    assert found.complete


# Plain facts


MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize("refused", [[], [Status(403, method="HEAD")], [Headers({"Accept-Ranges": None})]])
def test_plain_facts_are_told_by_head_or_by_one_byte(up, make, refused):
    url = up.add("/a", Resource(DATA, etag=TAG), *refused)
    found = plain_facts(url, make(url))
    assert found == PlainFacts(url, len(DATA), TAG, MODIFIED, ranges=True)
    assert found.version == Version(len(DATA), TAG, MODIFIED)
    assert len(up.requests) == (2 if refused else 1)
    assert up.total_connections == 1


def test_a_server_without_ranges_is_recognised(up, make):
    url = up.add("/a", Resource(DATA, etag=TAG, ranges=False))
    assert plain_facts(url, make(url)) == PlainFacts(url, len(DATA), TAG, MODIFIED, ranges=False)


@pytest.mark.parametrize("framing", [Framing.CHUNKED, Framing.CLOSE])
def test_a_size_may_be_unknown(up, make, framing):
    url = up.add("/a", Resource(DATA, etag=None, modified=None, ranges=False, framing=framing))
    assert plain_facts(url, make(url)) == PlainFacts(url, None, None, None, ranges=False)


@pytest.mark.parametrize("ranges", [True, False])
def test_an_empty_file_has_plain_facts(up, make, ranges):
    url = up.add("/a", Resource(b"", etag=TAG, ranges=ranges))
    assert plain_facts(url, make(url)) == PlainFacts(url, 0, TAG, MODIFIED, ranges=False)


def test_a_redirect_leads_to_where_the_file_is(up, make):
    found, url = up.add("/found", DATA), up.redirect("/a", "/found")
    assert plain_facts(url, make(url)).url == found


def test_a_tag_that_is_none_is_not_repeated(up, make):
    url = up.add("/a", Resource(DATA, etag="v1"))
    assert plain_facts(url, make(url)).etag is None


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Status(404), NotThere),
        (Status(503), Busy),
        (Status(416), GetError),
        (Encoded(), Unreachable),
        (Headers({"Accept-Ranges": None, "Content-Range": "bytes 5-5/100"}), Unreachable),
        (Cut(), Unreachable),
    ],
)
def test_plain_facts_that_cannot_be_had(up, make, fault, error):
    url = up.add("/a", DATA, fault)
    with pytest.raises(error):
        plain_facts(url, make(url))


# Bad blocks


@pytest.mark.parametrize("verdict", ["changed", "same", "pending"])
def test_a_bad_block_is_reported(up, make, verdict):
    url = put(up, {"ok": True, "block": 7, "verdict": verdict, "sha1": sha1(b"")})
    assert report_bad(url, make(url), 7) == verdict
    request = up.requests[0]
    assert (request.method, request.path, json.loads(request.body)) == ("POST", "/rd/a.bin", {"block": 7})
    assert request.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"<h1>404: File Not Found!</h1>"),
        (405, b""),
        (500, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"ok": true}'),
        (200, b'{"ok": true, "verdict": []}'),
        (200, b'{"ok": true, "verdict": "\\u001b[2J"}'),
        (200, b'{"ok": false, "verdict": "same"}'),
        (404, b'{"ok": true, "verdict": "same"}'),
    ],
)
def test_a_server_that_cannot_judge_a_block_says_nothing(up, make, status, body):
    url = put(up, body, status=status)
    assert report_bad(url, make(url), 7) == "unknown"


# The real server


def fetched(client: HttpClient, found: RemoteMap, index: int) -> bytes:
    first, last = found.span(index)
    with fetch_range(client, found.url, first=first, last=last, version=found.version) as answer:
        return answer.read_all(1 << 20)


def complete(client: HttpClient, found: RemoteMap) -> RemoteMap:
    while not found.complete:
        found = found.poll(client, 5)
    return found


async def test_the_gateway_is_understood(served, make):
    data = random.Random(6).randbytes(5 * UNIT + 1)
    served.put("a b.bin", data)
    url = f"{served.url}/files/a%20b.bin"
    client = make(url)

    def check() -> None:
        found = complete(client, RemoteMap.load(url, client))
        assert (found.size_bytes, found.block_bytes, found.count) == (len(data), UNIT, 6)
        assert digests(found) == [block[3] for block in blocks(data, unit=UNIT)]
        assert b"".join(fetched(client, found, index) for index in range(6)) == data
        assert plain_facts(url, client).version.etag == found.etag
        assert report_bad(url, client, 5) == "same"

    await asyncio.to_thread(check)


async def test_a_file_that_changes_on_the_gateway_is_another_version(served, make):
    served.put("a.bin", bytes(2 * UNIT))
    url = f"{served.url}/files/a.bin"
    client = make(url)

    def check() -> None:
        old = complete(client, RemoteMap.load(url, client))
        served.put("a.bin", b"x" * 2 * UNIT + b"more")
        with pytest.raises(VersionChanged):
            fetched(client, old, 0)
        new = old.poll(client, 5)
        assert new is not old
        assert fetched(client, complete(client, new), 2) == b"more"

    await asyncio.to_thread(check)


async def test_a_file_that_is_not_on_the_gateway_is_not_there(served, make):
    url = f"{served.url}/files/nothing"
    client = make(url)
    with pytest.raises(NotThere):
        await asyncio.to_thread(RemoteMap.load, url, client)
    with pytest.raises(NotThere):
        await asyncio.to_thread(plain_facts, url, client)
