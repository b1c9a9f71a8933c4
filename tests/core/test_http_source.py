"""The http source against upstreams that cut, stall, lie and change: no wrong byte ever looks like a right one."""

from __future__ import annotations

import asyncio
import base64
import gzip
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from gateway_core.auth.client import Client
from gateway_core.errors import (
    SourceChanged,
    SourceError,
    SourceFailed,
    SourceGone,
    SourceRefused,
    SourceStalled,
)
from gateway_core.sources.base import Source, SourceInfo, SourceRequest
from gateway_core.sources.egress import ClientLimits, EgressPolicy, GuardedClient
from gateway_core.sources.http import HttpSource
from gateway_core.sources.resume import ResumePolicy, ResumingReader
from gateway_core.testing.upstream import Upstream as Files
from gateway_core.testing.upstream_answer import Resource
from tests.core.raw_servers import listening

DATA = bytes(range(256)) * 512
SIZE = len(DATA)
ETAG = '"v1"'
OLD = "Mon, 01 Jan 2024 00:00:00 GMT"
NOW = "Tue, 02 Jan 2024 00:00:00 GMT"
RESET, STALL = object(), object()
Step = bytes | object


@dataclass(frozen=True)
class Asked:
    """A request as it arrived; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def start(self) -> int | None:
        """First byte of the range asked for."""
        value = self.headers.get("range")
        return None if value is None else int(value.removeprefix("bytes=").partition("-")[0])

    @property
    def stop(self) -> int | None:
        """What follows the last byte of the range asked for; None where it has no last one."""
        last = self.headers.get("range", "").partition("-")[2]
        return int(last) + 1 if last else None


class Upstream:
    """``script`` makes the steps of an answer: bytes to send, RESET or STALL; the connection closes after the last."""

    def __init__(self, script: Callable[[Asked], list[Step]]) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        self.asked.append(Asked(method, target, headers))
        for step in self.script(self.asked[-1]):
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif step is STALL:
                await asyncio.Event().wait()
            else:
                await asyncio.sleep(0.05)  # what was sent must be read before a reset throws it away
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@asynccontextmanager
async def upstream(script: Callable[[Asked], list[Step]]) -> AsyncIterator[Upstream]:
    server = Upstream(script)
    async with listening(server.serve) as port:
        server.url = f"http://127.0.0.1:{port}/file"
        yield server


def head(status: int = 200, **fields: str | int | None) -> bytes:
    """Response headers: ``content_length=5`` becomes ``content-length: 5``, None leaves one out."""
    lines = [f"HTTP/1.1 {status} X", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value is not None]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


def whole(asked: Asked) -> list[Step]:
    """A good server with an entity tag and ranges."""
    if asked.start is None:
        return [head(content_length=SIZE, etag=ETAG, accept_ranges="bytes"), DATA if asked.method == "GET" else b""]
    rest = DATA[asked.start : asked.stop]
    return [head(206, content_length=len(rest), etag=ETAG, content_range=content_range(asked.start, rest)), rest]


def content_range(start: int, part: bytes, total: int = SIZE) -> str:
    return f"bytes {start}-{start + len(part) - 1}/{total}"


@pytest.fixture
async def source() -> AsyncIterator[HttpSource]:
    limits = ClientLimits(connect_s=2, dial_s=1, stall_s=1)
    async with GuardedClient(EgressPolicy(["127.0.0.0/8"]), limits=limits) as client:
        yield HttpSource(client, skip_limit_bytes=100_000)


async def read(
    source: HttpSource, url: str, offset: int = 0, validator: str | None = None, length: int | None = None
) -> tuple[bytes, SourceInfo]:
    async with source.open(SourceRequest(url, offset=offset, length=length, validator=validator)) as stream:
        return b"".join([chunk async for chunk in stream]), stream.info


async def failure(
    source: HttpSource, url: str, offset: int = 0, validator: str | None = None, length: int | None = None
) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await read(source, url, offset, validator, length)
    return caught.value


# Reading


async def test_source_is_one(source: HttpSource) -> None:
    assert isinstance(source, Source)


async def test_whole_body_and_what_is_known_of_it(source: HttpSource) -> None:
    crc = base64.b64encode(zlib.crc32(DATA).to_bytes(4)).decode()
    fields = {
        "etag": ETAG,
        "last_modified": OLD,
        "content_type": "text/plain; charset=utf-8",
        "content_disposition": "attachment; filename=\"a.txt\"; filename*=UTF-8''na%C3%AFve.txt",
        "accept_ranges": "bytes",
        "x_amz_checksum_crc32": crc,
        "x_amz_checksum_type": "FULL_OBJECT",
    }
    async with upstream(lambda asked: [head(content_length=SIZE, **fields), DATA]) as server:
        data, info = await read(source, server.url)
    assert data == DATA
    assert info == SourceInfo(
        size_bytes=SIZE,
        validator=ETAG,
        strong=True,
        modified=1704067200.0,
        media_type="text/plain; charset=utf-8",
        name="naïve.txt",
        crc32=zlib.crc32(DATA),
        ranges=True,
    )
    assert server.asked[0].headers["accept-encoding"] == "identity"


async def test_chunked_body_has_no_size(source: HttpSource) -> None:
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (DATA[:7], DATA[7:])]
    async with upstream(lambda asked: [head(transfer_encoding="chunked"), *chunks, b"0\r\n\r\n"]) as server:
        data, info = await read(source, server.url)
    assert (data, info.size_bytes) == (DATA, None)


async def test_body_without_any_length_is_taken_with_size_unknown(source: HttpSource) -> None:
    async with upstream(lambda asked: [head(), DATA]) as server:
        data, info = await read(source, server.url)
    assert (data, info.size_bytes) == (DATA, None)


async def test_empty_body(source: HttpSource) -> None:
    async with upstream(lambda asked: [head(content_length=0)]) as server:
        data, info = await read(source, server.url)
    assert (data, info.size_bytes) == (b"", 0)


async def test_ticket_headers_arrive_but_for_those_that_change_the_answer(source: HttpSource) -> None:
    headers = {"Authorization": "Bearer t", "range": "bytes=5-", "If-None-Match": "*", "Accept-Encoding": "br"}
    async with upstream(whole) as server:
        async with source.open(SourceRequest(server.url, headers=headers)) as stream:
            assert b"".join([chunk async for chunk in stream]) == DATA
    sent = server.asked[0].headers
    assert (sent["authorization"], sent["accept-encoding"]) == ("Bearer t", "identity")
    assert not {"range", "if-none-match"} & sent.keys()


@pytest.mark.parametrize("status", [201, 204, 205, 206, 226, 300, 304, 401, 403, 404, 410, 416, 429, 500, 503])
async def test_any_status_but_200_is_gone_and_named(status: int, source: HttpSource) -> None:
    async with upstream(lambda asked: [head(status, content_length=0 if status > 205 else None)]) as server:
        error = await failure(source, server.url)
    assert isinstance(error, SourceGone)
    assert (str(error), error.upstream_status) == (f"status {status}", status)


# Upstreams that break or lie

chunked = head(transfer_encoding="chunked", etag=ETAG)
packed = gzip.compress(DATA)
LIES: dict[str, tuple[list[Step], type[SourceError]]] = {
    "short": ([head(content_length=SIZE), DATA[:-1]], SourceFailed),
    "nothing": ([head(content_length=SIZE)], SourceFailed),
    "reset": ([head(content_length=SIZE), DATA[:1000], RESET], SourceFailed),
    "reset without length": ([head(), DATA[:1000], RESET], SourceFailed),
    "stalled": ([head(content_length=SIZE), DATA[:1000], STALL], SourceStalled),
    "stalled at once": ([head(content_length=SIZE), STALL], SourceStalled),
    "stalled in the headers": ([b"HTTP/1.1 200 OK\r\nContent-", STALL], SourceStalled),
    "stalled before them": ([STALL], SourceStalled),
    "closed before them": ([], SourceFailed),
    "cut in a chunk": ([chunked, b"100\r\n" + DATA[:100]], SourceFailed),
    "cut between chunks": ([chunked, b"64\r\n" + DATA[:100] + b"\r\n"], SourceFailed),
    "cut in the last chunk": ([chunked, b"64\r\n" + DATA[:100] + b"\r\n0\r\n"], SourceFailed),
    "reset between chunks": ([chunked, b"64\r\n" + DATA[:100] + b"\r\n", RESET], SourceFailed),
    "bad chunk size": ([chunked, b"64\r\n" + DATA[:100] + b"\r\nxyz\r\n"], SourceFailed),
    "chunk longer than said": ([chunked, b"3\r\n" + DATA[:100] + b"\r\n0\r\n\r\n"], SourceFailed),
    "two lengths": ([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 9\r\n\r\n", DATA], SourceFailed),
    "length and chunks": ([head(content_length=3, transfer_encoding="chunked"), b"0\r\n\r\n"], SourceFailed),
    "negative length": ([head(content_length=-1), DATA], SourceFailed),
    "length of words": ([head(content_length="many"), DATA], SourceFailed),
    "gzip": ([head(content_length=len(packed), content_encoding="gzip"), packed], SourceFailed),
    "gzip cut": ([head(content_length=len(packed) - 9, content_encoding="gzip"), packed[:-9]], SourceFailed),
    "gzip in capitals": ([head(content_length=len(packed), content_encoding="GZIP"), packed], SourceFailed),
    "two codings": ([head(content_length=len(packed), content_encoding="identity, gzip"), packed], SourceFailed),
    "gzip in transfer": ([head(transfer_encoding="gzip, chunked"), b"3\r\nabc\r\n0\r\n\r\n"], SourceFailed),
    "no http": ([b"220 ftp.example ready\r\n\r\n"], SourceFailed),
    "http/0.9": ([DATA], SourceFailed),
    "endless headers": ([b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"], SourceFailed),
    "endless header": ([b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"], SourceFailed),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
async def test_lie_is_told_never_delivered_as_whole(lie: str, source: HttpSource) -> None:
    steps, expected = LIES[lie]
    async with upstream(lambda asked: steps) as server:
        assert type(await failure(source, server.url)) is expected


async def test_bytes_beyond_the_length_are_not_delivered(source: HttpSource) -> None:
    received = b""
    async with upstream(lambda asked: [head(content_length=100), DATA]) as server:
        # whether the excess is an error depends on the packet it comes in
        with suppress(SourceFailed):
            async with source.open(SourceRequest(server.url)) as stream:
                async for chunk in stream:
                    received += chunk
    assert DATA[:100].startswith(received)


async def test_stall_is_about_silence_not_about_time(source: HttpSource) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(content_length=10))
        for _ in range(10):
            writer.write(b"x")
            await asyncio.sleep(0.05)

    async with listening(trickle) as port:
        data, _ = await read(source, f"http://127.0.0.1:{port}/")
    assert data == b"x" * 10


async def test_slow_reader_is_no_stall_of_the_upstream(source: HttpSource) -> None:
    data = DATA * 64
    async with upstream(lambda asked: [head(content_length=len(data)), data]) as server:
        async with source.open(SourceRequest(server.url)) as stream:
            parts = aiter(stream)
            received = await anext(parts)
            await asyncio.sleep(0.5)  # longer than the stall limit
            received += b"".join([chunk async for chunk in parts])
    assert received == data


# Versions and offsets


@pytest.mark.parametrize("offset", [1, 1000, SIZE - 1])
async def test_offset_is_read_by_range_on_condition(offset: int, source: HttpSource) -> None:
    async with upstream(whole) as server:
        data, info = await read(source, server.url, offset, ETAG)
    assert (data, info.size_bytes, info.ranges) == (DATA[offset:], SIZE, True)
    assert server.asked[0].headers["range"] == f"bytes={offset}-"
    assert server.asked[0].headers["if-range"] == ETAG


async def test_date_is_a_condition_of_its_own(source: HttpSource) -> None:
    part = DATA[10:]
    answer = head(206, content_length=len(part), last_modified=OLD, date=NOW, content_range=content_range(10, part))
    async with upstream(lambda asked: [answer, part]) as server:
        data, info = await read(source, server.url, 10, OLD)
    assert (data, info.validator, info.strong) == (part, OLD, True)
    assert server.asked[0].headers["if-unmodified-since"] == OLD
    assert "if-range" not in server.asked[0].headers


@pytest.mark.parametrize(
    ("fields", "validator", "strong"),
    [
        ({"etag": ETAG}, ETAG, True),
        ({"etag": ETAG, "last_modified": OLD, "date": OLD}, ETAG, True),
        ({"etag": 'W/"v1"'}, None, False),
        ({"etag": "v1"}, None, False),
        ({"etag": 'W/"v1"', "last_modified": OLD, "date": NOW}, OLD, True),
        ({"last_modified": OLD, "date": NOW}, OLD, True),
        ({"last_modified": OLD, "date": "Mon, 01 Jan 2024 00:00:59 GMT"}, OLD, False),
        ({"last_modified": OLD, "date": "Mon, 01 Jan 2024 00:01:00 GMT"}, OLD, True),
        ({"last_modified": OLD}, OLD, False),
        ({"last_modified": "yesterday", "date": NOW}, None, False),
        ({}, None, False),
    ],
)
async def test_validator_and_its_strength(
    fields: dict[str, str], validator: str | None, strong: bool, source: HttpSource
) -> None:
    async with upstream(lambda asked: [head(content_length=1, **fields), b"x"]) as server:
        _, info = await read(source, server.url)
    assert (info.validator, info.strong) == (validator, strong)


async def test_offset_without_validator_is_refused_before_any_request(source: HttpSource) -> None:
    async with upstream(whole) as server:
        assert isinstance(await failure(source, server.url, 5), SourceChanged)
    assert server.asked == []


async def test_offset_without_validator_is_read_for_who_answers_for_the_version(source: HttpSource) -> None:
    async with upstream(whole) as server:
        async with source.open(SourceRequest(server.url, offset=1000, unproven=True)) as stream:
            assert b"".join([chunk async for chunk in stream]) == DATA[1000:]
    assert server.asked[0].headers["range"] == "bytes=1000-"
    assert not {"if-range", "if-unmodified-since"} & server.asked[0].headers.keys()


PART = DATA[1000:]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (head(206, etag='"v2"', content_length=len(PART), content_range=content_range(1000, PART)), SourceChanged),
        (head(206, etag='W/"v1"', content_length=len(PART), content_range=content_range(1000, PART)), SourceChanged),
        (head(206, content_length=len(PART), content_range=content_range(1000, PART)), SourceChanged),
        (head(200, etag='"v2"', content_length=SIZE), SourceChanged),
        (head(200, content_length=SIZE), SourceChanged),
        (head(412), SourceChanged),
        (head(416, content_range="bytes */10"), SourceChanged),
        (head(206, etag=ETAG, content_length=len(PART), content_range=content_range(999, PART)), SourceFailed),
        (head(206, etag=ETAG, content_length=len(PART), content_range=content_range(0, PART)), SourceFailed),
        (head(206, etag=ETAG, content_length=len(PART), content_range=content_range(1000, PART, 5)), SourceFailed),
        (head(206, etag=ETAG, content_length=len(PART), content_range="bytes */9999"), SourceFailed),
        (head(206, etag=ETAG, content_length=len(PART), content_range="lines 1000-2/9"), SourceFailed),
        (head(206, etag=ETAG, content_length=len(PART)), SourceFailed),
        (head(206, etag=ETAG, content_type="multipart/byteranges; boundary=x"), SourceFailed),
        (head(206, etag=ETAG, content_encoding="gzip", content_range=content_range(1000, PART)), SourceFailed),
        (head(206, etag=ETAG, content_length=9, content_range=content_range(1000, PART)), SourceFailed),
        (head(206, etag=ETAG, content_length=len(PART), content_range=content_range(1000, PART, 9**9)), SourceFailed),
        (head(206, etag=ETAG, content_length=5, content_range=content_range(1000, PART[:5])), SourceFailed),
        (head(404), SourceGone),
        (head(503), SourceGone),
    ],
)  # fmt: skip
async def test_answer_that_does_not_go_on_at_the_offset_is_told(
    answer: bytes, expected: type[SourceError], source: HttpSource
) -> None:
    async with upstream(lambda asked: [answer, PART]) as server:
        assert type(await failure(source, server.url, 1000, ETAG)) is expected


async def test_server_without_ranges_is_skipped_to_the_offset(source: HttpSource) -> None:
    async with upstream(lambda asked: [head(content_length=SIZE, etag=ETAG), DATA]) as server:
        data, info = await read(source, server.url, 70_001, ETAG)
    assert (data, info.size_bytes, info.ranges) == (DATA[70_001:], SIZE, False)


async def test_server_without_ranges_is_not_skipped_beyond_the_limit(source: HttpSource) -> None:
    async with upstream(lambda asked: [head(content_length=SIZE, etag=ETAG), DATA]) as server:
        assert isinstance(await failure(source, server.url, 100_001, ETAG), SourceChanged)


async def test_body_shorter_than_the_offset_is_another_version(source: HttpSource) -> None:
    async with upstream(lambda asked: [head(content_length=10, etag=ETAG), DATA[:10]]) as server:
        assert isinstance(await failure(source, server.url, 11, ETAG), SourceChanged)


async def test_other_version_at_the_start_is_told(source: HttpSource) -> None:
    async with upstream(whole) as server:
        assert isinstance(await failure(source, server.url, 0, '"v0"'), SourceChanged)
        assert (await read(source, server.url, 0, ETAG))[0] == DATA


# Lengths


@pytest.mark.parametrize("length", [1, 500, SIZE * 2])
@pytest.mark.parametrize(("offset", "validator"), [(0, None), (0, ETAG), (1000, ETAG)])
async def test_length_is_read_by_range_on_condition(
    offset: int, validator: str | None, length: int, source: HttpSource
) -> None:
    async with upstream(whole) as server:
        data, info = await read(source, server.url, offset, validator, length)
    assert (data, info.size_bytes, info.ranges) == (DATA[offset : offset + length], SIZE, True)
    assert server.asked[0].headers["range"] == f"bytes={offset}-{offset + length - 1}"
    assert server.asked[0].headers.get("if-range") == validator


async def test_date_is_a_condition_of_a_length_too(source: HttpSource) -> None:
    answer = head(206, content_length=10, last_modified=OLD, date=NOW, content_range=content_range(0, DATA[:10]))
    async with upstream(lambda asked: [answer, DATA[:10]]) as server:
        assert (await read(source, server.url, 0, OLD, 10))[0] == DATA[:10]
    assert server.asked[0].headers["if-unmodified-since"] == OLD


@pytest.mark.parametrize("framing", [{"content_length": SIZE}, {}], ids=["length", "close"])
@pytest.mark.parametrize("offset", [0, 70_001])
async def test_length_of_a_server_without_ranges_is_cut(
    offset: int, framing: dict[str, int], source: HttpSource
) -> None:
    async with upstream(lambda asked: [head(etag=ETAG, **framing), DATA]) as server:
        data, info = await read(source, server.url, offset, ETAG, 1000)
    assert (data, info.size_bytes) == (DATA[offset : offset + 1000], framing.get("content_length"))


async def test_size_may_be_unknown_to_who_serves_a_length(source: HttpSource) -> None:
    answer = head(206, etag=ETAG, content_length=10, content_range="bytes 5-14/*")
    async with upstream(lambda asked: [answer, DATA[5:15]]) as server:
        data, info = await read(source, server.url, 5, ETAG, 10)
    assert (data, info.size_bytes) == (DATA[5:15], None)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        (206, {"etag": '"v2"', "content_length": 10, "content_range": (0, 9)}, SourceChanged),
        (206, {"content_length": 10, "content_range": (0, 9)}, SourceChanged),
        (200, {"etag": '"v2"', "content_length": SIZE}, SourceChanged),
        (200, {"content_length": SIZE}, SourceChanged),
        (412, {}, SourceChanged),
        (416, {}, SourceChanged),
        (206, {"etag": ETAG, "content_length": 10, "content_range": (1, 10)}, SourceFailed),
        (206, {"etag": ETAG, "content_length": 11, "content_range": (0, 10)}, SourceFailed),
        (206, {"etag": ETAG, "content_length": 5, "content_range": (0, 4)}, SourceFailed),
        (206, {"etag": ETAG, "content_length": 11, "content_range": (0, 9)}, SourceFailed),
        (206, {"etag": ETAG, "content_length": 9, "content_range": (0, 9)}, SourceFailed),
        (206, {"etag": ETAG, "content_length": 10}, SourceFailed),
        (404, {}, SourceGone),
    ],
)
async def test_answer_that_is_not_the_part_asked_for_is_told(
    status: int, fields: dict, expected: type[SourceError], offset: int, source: HttpSource
) -> None:
    if part := fields.get("content_range"):
        fields = {**fields, "content_range": f"bytes {offset + part[0]}-{offset + part[1]}/{SIZE}"}
    body = DATA[offset : offset + fields.get("content_length", 0)]
    async with upstream(lambda asked: [head(status, **fields), body]) as server:
        assert type(await failure(source, server.url, offset, ETAG, 10)) is expected


async def test_connection_serves_one_length_after_the_other(source: HttpSource) -> None:
    async with Files() as server:
        url = server.add("/a", Resource(DATA, etag=ETAG))
        for offset in range(0, SIZE, 10_000):
            request = SourceRequest(url, offset=offset, length=10_000, validator=ETAG)
            async with ResumingReader(source, request) as reader:
                assert b"".join([chunk async for chunk in reader]) == DATA[offset : offset + 10_000]
        assert {(asked.status, asked.connection) for asked in server.requests} == {(206, 1)}


# Probing


async def test_probe_asks_once_where_head_tells_the_size(source: HttpSource) -> None:
    async with upstream(whole) as server:
        info = await source.probe(SourceRequest(server.url))
    assert (info.size_bytes, info.validator, info.ranges) == (SIZE, ETAG, True)
    assert [asked.method for asked in server.asked] == ["HEAD"]


@pytest.mark.parametrize(
    "refusal",
    [
        head(403),
        head(405),
        head(500),
        head(501),
        head(200),
        head(200, content_length=0),
        head(200, transfer_encoding="chunked"),
        head(200, content_length=len(packed), content_encoding="gzip"),
    ],
)
async def test_probe_falls_back_to_one_byte(refusal: bytes, source: HttpSource) -> None:
    async with upstream(lambda asked: [refusal] if asked.method == "HEAD" else whole(asked)) as server:
        info = await source.probe(SourceRequest(server.url))
    assert (info.size_bytes, info.validator, info.ranges) == (SIZE, ETAG, True)
    assert [asked.headers.get("range") for asked in server.asked] == [None, "bytes=0-0"]


@pytest.mark.parametrize(
    ("steps", "size"),
    [
        ([head(200, content_length=SIZE), DATA], SIZE),
        ([head(200), DATA], None),
        ([head(206, content_length=1, content_range="bytes 0-0/*"), b"x"], None),
        ([head(416, content_range="bytes */0")], 0),
        ([head(200, content_length=0)], 0),
    ],
)
async def test_probe_takes_what_the_server_gives(steps: list[Step], size: int | None, source: HttpSource) -> None:
    async with upstream(lambda asked: [head(405)] if asked.method == "HEAD" else steps) as server:
        assert (await source.probe(SourceRequest(server.url))).size_bytes == size


@pytest.mark.parametrize("status", [204, 404, 416, 500])
async def test_probe_of_what_is_not_there_is_gone(status: int, source: HttpSource) -> None:
    async with upstream(lambda asked: [head(status)]) as server:
        with pytest.raises(SourceGone, match=f"status {status}") as caught:
            await source.probe(SourceRequest(server.url))
    assert caught.value.upstream_status == status


async def test_probe_of_what_is_only_sent_encoded_fails(source: HttpSource) -> None:
    async with upstream(lambda asked: [head(content_length=9, content_encoding="br")]) as server:
        with pytest.raises(SourceFailed):
            await source.probe(SourceRequest(server.url))


# Strings


async def test_check_refuses_by_the_look_and_asks_no_server(source: HttpSource) -> None:
    await source.check("https://files.example/x", Client.ANONYMOUS)
    for url in ("ftp://files.example/", "http://10.0.0.1/", "http://8.8.8.8:22/", "http://0x7f.1/", "nothing"):
        with pytest.raises(SourceRefused):
            await source.check(url, Client.ANONYMOUS)


async def test_lane_is_the_machine(source: HttpSource) -> None:
    urls = ["https://H.test/a", "HTTPS://h.test:443/b?c", "https://u:p@h.test./"]
    assert {source.lane(url) for url in urls} == {"https://h.test:443"}


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="a b.txt"', "a b.txt"),
        ("attachment; filename=plain.txt", "plain.txt"),
        ('inline; FileName = "x.bin"; size=3', "x.bin"),
        (r'attachment; filename="say \"hi\".txt"', 'say "hi".txt'),
        ("attachment; filename=\"e.txt\"; filename*=utf-8'en'%e2%82%ac%20rates", "€ rates"),
        ("attachment; filename*=iso-8859-1''na%EFve.txt", "naïve.txt"),
        ("attachment; filename*=klingon''x; filename=b.txt", "b.txt"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        (r'attachment; filename="C:\\dir\\f.txt"', "f.txt"),
        ('attachment; filename="ünï.txt"', "ünï.txt"),
        ("attachment", None),
        ('attachment; filename=""', None),
        ('attachment; filename="unclosed', None),
    ],
)
async def test_name_of_content_disposition(disposition: str, name: str | None, source: HttpSource) -> None:
    async with upstream(lambda asked: [head(content_length=0, content_disposition=disposition)]) as server:
        _, info = await read(source, server.url)
    assert info.name == name


@pytest.mark.parametrize(
    ("crc", "kind"), [("AAAA", "FULL_OBJECT"), ("!", "FULL_OBJECT"), ("AAAAAA==", "COMPOSITE"), ("AAAAAA==", None)]
)
async def test_checksum_that_is_not_of_the_whole_is_none(crc: str, kind: str | None, source: HttpSource) -> None:
    fields = {"x_amz_checksum_crc32": crc, "x_amz_checksum_type": kind}
    async with upstream(lambda asked: [head(content_length=0, **fields)]) as server:
        assert (await read(source, server.url))[1].crc32 is None


# Resuming over HTTP


@pytest.mark.parametrize("how", ["close", "reset", "stall"])
async def test_resume_after_a_cut_gives_the_same_bytes(how: str, source: HttpSource) -> None:
    cut: list[Step] = {"close": [], "reset": [RESET], "stall": [STALL]}[how]

    def script(asked: Asked) -> list[Step]:
        answer, body = whole(asked)
        return [answer, body[:40_000], *cut] if len(server.asked) < 3 else [answer, body]

    async with upstream(script) as server:
        async with ResumingReader(source, SourceRequest(server.url), policy=ResumePolicy(first_s=0.01)) as reader:
            data = b"".join([chunk async for chunk in reader])
    assert (data, reader.resumed) == (DATA, 2)
    assert [asked.start for asked in server.asked] == [None, 40_000, 80_000]


async def test_resume_of_a_file_that_changed_is_told(source: HttpSource) -> None:
    def script(asked: Asked) -> list[Step]:
        if asked.start is None:
            return [head(content_length=SIZE, etag=ETAG), DATA[:1000]]
        return [head(content_length=SIZE, etag='"v2"'), DATA]

    async with upstream(script) as server:
        async with ResumingReader(source, SourceRequest(server.url), policy=ResumePolicy(first_s=0.01)) as reader:
            with pytest.raises(SourceChanged):
                [chunk async for chunk in reader]
    assert len(server.asked) == 2
