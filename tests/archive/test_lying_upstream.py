"""Upstreams that lie: no reader may ever take a wrong byte for a right one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ServerDisconnectedError

from gateway_core.testing import Upstream
from gateway_core.testing.upstream_answer import Answer, Framing, Generated, Resource
from gateway_core.testing.upstream_behaviour import (
    BadChunk,
    Changed,
    Cut,
    Encoded,
    Fault,
    Garbage,
    Headers,
    IgnoreRange,
    Length,
    Raw,
    Reset,
    Stall,
    Status,
    WrongRange,
)
from tests.archive.conftest import Run
from tests.archive.stand import MIB, REPORT, Stand, reasons
from tests.archive.stand import Answer as Downloaded

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZES = {"small": 200_000, "large": 2 * MIB + 12_345}
UNKNOWN = {"etag": None, "modified": None}


class Ends(Enum):
    WHOLE = auto()  # the lie is seen through and every byte is right
    LOST = auto()
    AS_ANNOUNCED = auto()  # lost, or exactly the bytes that its server says there are: nobody can know of more


@dataclass(frozen=True)
class CutWhole(Cut):
    """Breaks off every answer but those to a Range: what follows is about them."""

    def touches(self, right: Answer) -> bool:
        return right.status == 200 and super().touches(right)


@dataclass(frozen=True)
class CutLastChunk(Fault):
    """All the bytes, but not the chunk of no bytes that says so (RFC 9112 7.1)."""

    async def play(self, exchange: Any) -> None:
        await exchange.head()
        await exchange.body()
        exchange.answer.close = True


@dataclass(frozen=True)
class Lie:
    """``faults`` of a file of so many bytes, what must become of it, and what its server says of it.

    ``hidden`` bytes at the end are sent, but belong to nothing.
    """

    faults: Callable[[int], tuple[Fault, ...]]
    ends: Ends = Ends.LOST
    resource: dict[str, Any] = field(default_factory=dict)
    hidden: int = 0


def raw(head: str, body: str = "hello") -> Lie:
    return Lie(lambda _: (Raw(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}".encode()),))


def resumed(*faults: Fault, **resource: Any) -> Lie:
    """What is played when the second half is asked for."""
    return Lie(lambda size: (CutWhole(size // 2), *faults), resource=resource)


LIES = {
    "announces too much": Lie(lambda _: (Length(+7),)),
    "announces too little": Lie(lambda _: (Length(-7),), Ends.AS_ANNOUNCED, hidden=7),
    "announces one byte too much": Lie(lambda _: (Length(+1),)),
    "cuts before the head": Lie(lambda _: (Cut(),)),
    "cuts after the head": Lie(lambda _: (Cut(0),)),
    "cuts in the middle": Lie(lambda size: (Cut(size // 3),)),
    "cuts before the last byte": Lie(lambda size: (CutWhole(size - 1), Cut(0))),
    "resets before the head": Lie(lambda _: (Reset(),)),
    "resets in the middle": Lie(lambda size: (Reset(size // 3),)),
    "resets what lasts until the close": Lie(
        lambda size: (Reset(size // 2),), resource={"framing": Framing.CLOSE, **UNKNOWN}
    ),
    "stalls before the head": Lie(lambda _: (Stall(),)),
    "stalls in the middle": Lie(lambda size: (Stall(size // 3),)),
    "cuts in a chunk": Lie(lambda size: (Cut(size // 3),), resource={"framing": Framing.CHUNKED}),
    "cuts between chunks": Lie(lambda _: (Cut(65_536),), resource={"framing": Framing.CHUNKED, **UNKNOWN}),
    "cuts before the last chunk": Lie(lambda _: (CutLastChunk(),), resource={"framing": Framing.CHUNKED, **UNKNOWN}),
    "sends a bad chunk": Lie(lambda size: (BadChunk(size // 2),), resource=UNKNOWN),
    "encodes": Lie(lambda _: (Encoded(),)),
    "goes on with garbage": Lie(lambda _: (Garbage(),), Ends.AS_ANNOUNCED),
    "answers 206 unasked": Lie(lambda _: (Status(206),)),
    "answers with an error page": Lie(lambda _: (Status(500),)),
    "resumes at another byte": resumed(WrongRange(-1)),
    "resumes far away": resumed(WrongRange(-50_000)),
    "resumes without saying where": resumed(Headers({"Content-Range": None})),
    "resumes with many parts": resumed(
        Headers({"Content-Range": None, "Content-Type": "multipart/byteranges; boundary=x"})
    ),
    "resumes another total": Lie(
        lambda size: (CutWhole(size // 2), Headers({"Content-Range": f"bytes {size // 2}-{size - 1}/{size + 5}"}))
    ),
    "resumes from the start": Lie(lambda size: (CutWhole(size // 2), IgnoreRange()), Ends.WHOLE),
    "resumes what has changed": Lie(lambda size: (CutWhole(size // 2), Changed(Generated(size, seed="new")))),
    "resumes what has changed and ignores If-Range": Lie(
        lambda size: (CutWhole(size // 2), Changed(Generated(size, seed="new"))), resource={"if_range": False}
    ),
    "resumes what has shrunk": Lie(lambda size: (CutWhole(size // 2), Changed(Generated(size // 4, seed="new")))),
    "resumes without a validator": resumed(Headers({"ETag": None})),
    "resumes with an error": resumed(Status(503)),
    "resumes with nothing": resumed(Status(204)),
    "resumes encoded": resumed(Encoded()),
    "resumes what nothing identifies": resumed(**UNKNOWN),
    "tells two lengths": raw("Content-Length: 5\r\nContent-Length: 6"),
    "tells a negative length": raw("Content-Length: -5"),
    "tells length and chunks": raw("Content-Length: 4\r\nTransfer-Encoding: chunked", "3\r\nhel\r\n"),
    "uses an unknown transfer coding": raw("Transfer-Encoding: gzip"),
    "speaks no HTTP": Lie(lambda _: (Raw(b"SSH-2.0-OpenSSH_9.2\r\n"),)),
    "sends no head": Lie(lambda _: (Raw(b"hello"),)),
}


async def download(stand: Stand, items: list[str], mode: str) -> Downloaded | None:
    """None when the connection was cut, or there was an error before the first byte."""
    try:
        answer = await stand.fetch(*items, on_error=mode)
    except (ClientPayloadError, ServerDisconnectedError):
        return None
    return None if answer.status == 502 else answer


def acceptable(lie: Lie, truth: bytes) -> list[bytes | None]:
    """What a reader may find, None for no entry."""
    return {
        Ends.WHOLE: [truth],
        Ends.LOST: [None],
        Ends.AS_ANNOUNCED: [None, truth[: len(truth) - lie.hidden]],
    }[lie.ends]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LIES)
async def test_lie_never_becomes_an_entry(stand: Stand, run: Run, tmp_path: Path, name: str, size: str):
    lie, length = LIES[name], SIZES[size]
    truth = Generated(length, seed=name)
    before, after = stand.add("/before", 100_000), stand.add("/after", 100_000)
    lying = stand.add("/lie", Resource(truth, **lie.resource), *lie.faults(length))
    modes = ("report", "skip", "abort")
    report, skip, abort = await asyncio.gather(*(download(stand, [before, lying, after], mode) for mode in modes))
    right = {"before": stand.upstream.content("/before"), "after": stand.upstream.content("/after"), "lie": truth[:]}
    good = acceptable(lie, right["lie"])

    for answer in (report, skip):
        assert answer is not None
        entries = answer.entries
        assert entries.pop("lie", None) in good
        told = reasons(entries.pop(REPORT)).keys() if REPORT in entries else set()
        assert entries == {"before": right["before"], "after": right["after"]}
        assert told == ({"lie"} if answer is report and "lie" not in answer.entries else set())
    assert (None if abort is None else abort.entries.get("lie")) in good

    archive = tmp_path / "a.zip"
    archive.write_bytes(report.body)
    assert run("unzip", "-tqq", archive).returncode == 0
    assert run("7z", "t", "-y", archive).returncode == 0
    piped = run("bsdtar", "-xf", "-", "-C", tmp_path, piped=archive)  # from a pipe it sees what was given up, too
    extracted = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name: extracted[name] for name in ("before", "after")} == {
        name: right[name] for name in ("before", "after")
    }
    assert (piped.returncode != 0) == ("lie" in extracted and extracted["lie"] not in good)


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 400))])
async def test_liars_among_honest_servers_change_nothing_for_the_others(stand: Stand, seed: int):
    chance = random.Random(seed)
    urls, possible = [], {}
    async with Upstream() as liar:
        for number in range(20):
            size = chance.choice([1, 1000, 65_536, 300_000, MIB, MIB + 1, 3_000_000]) + chance.randrange(100)
            path, content = f"/{number}", Generated(size, seed=f"{seed}/{number}")
            resource = {"framing": chance.choice([Framing.LENGTH, Framing.CHUNKED])}
            lie = LIES[chance.choice(list(LIES))]
            if size > 100_000 and chance.random() < 0.5:
                urls.append(liar.add(path, Resource(content, **{**resource, **lie.resource}), *lie.faults(size)))
                possible[str(number)] = [None, *acceptable(lie, content[:])]  # None: garbage spoils what comes next
            else:
                urls.append(stand.add(path, Resource(content, **resource)))
                possible[str(number)] = [content[:]]
        entries = (await stand.fetch(*urls)).entries
    told = reasons(entries.pop(REPORT)).keys() if REPORT in entries else set()
    assert list(entries) == [name for name in possible if name in entries]
    assert told == possible.keys() - entries.keys()
    assert [name for name, choices in possible.items() if entries.get(name) not in choices] == []
