"""What a node remembers of durable calls: each runs once, whatever becomes of links and processes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway_core.errors import StartupError
from gateway_pipe.durable import serve as serve_module
from gateway_pipe.durable.journal import Answered, Journal
from gateway_pipe.durable.serve import DurableServe
from gateway_pipe.link.model import Head, Incoming, LinkError, Opening, Reset, Serve, StreamReset
from gateway_pipe.link.session import Link
from tests.pipe.links import linked, noun

ONE, TWO = "1" * 32, "2" * 32


def durable(call_id: str = ONE, *, headers: tuple[tuple[str, str], ...] = ()) -> Opening:
    return replace(noun("work", method="POST"), call=call_id, headers=headers)


class Handler:
    """Counts its runs; each answers its number, the attempt it was told and the body it got."""

    def __init__(self) -> None:
        self.runs = 0
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.cancelled = False

    async def __call__(self, incoming: Incoming) -> None:
        self.runs += 1
        self.began.set()
        body = await incoming.read(1 << 20)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        told = incoming.opening.header("X-Pipe-Attempt")
        await incoming.answer(Head(code=3, headers=(("Content-Type", "a/b"),)), f"{self.runs} {told} ".encode() + body)


@pytest.fixture
async def handler() -> Handler:
    return Handler()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "calls.db") as opened:
        yield opened


@pytest.fixture
async def serve(handler: Handler, journal: Journal) -> AsyncIterator[DurableServe]:
    served = DurableServe(handler, journal)
    yield served
    await served.stop()


async def ask(link: Link, opening: Opening | None = None, body: bytes = b"x") -> tuple[Head, bytes]:
    async with link.call(opening or durable(), body, timeout_s=10, whole=True) as answer:
        return answer.head, await answer.read(1 << 30)


async def test_a_call_that_is_delivered_again_gets_the_same_answer(serve: DurableServe, handler: Handler) -> None:
    async with linked(node=serve) as pair:
        first = await ask(pair.server)
        again = await ask(pair.server)
    assert first == again == (Head(code=3, headers=(("Content-Type", "a/b"),)), b"1 1 x")
    assert handler.runs == 1


async def test_calls_without_an_id_run_each_time(serve: DurableServe, handler: Handler) -> None:
    async with linked(node=serve) as pair:
        await ask(pair.server, noun("work"))
        await ask(pair.server, noun("work"))
    assert handler.runs == 2


async def test_the_handler_goes_on_when_the_link_breaks(serve: DurableServe, handler: Handler) -> None:
    handler.go_on.clear()
    async with linked(node=serve) as pair:
        asking = asyncio.create_task(ask(pair.server))
        await handler.began.wait()
        pair.server_wire.cut()
        with pytest.raises(LinkError):
            await asking
    async with linked(node=serve) as pair:
        asking = asyncio.create_task(ask(pair.server))
        handler.go_on.set()
        assert (await asking)[1] == b"1 1 x"
    assert handler.runs == 1


async def test_two_links_that_bring_the_same_call_wait_for_one_run(serve: DurableServe, handler: Handler) -> None:
    handler.go_on.clear()
    async with linked(node=serve) as one, linked(node=serve) as two:
        asking = [asyncio.create_task(ask(pair.server)) for pair in (one, two)]
        await handler.began.wait()
        handler.go_on.set()
        assert [body for _, body in await asyncio.gather(*asking)] == [b"1 1 x"] * 2
    assert handler.runs == 1


async def test_an_answer_outlives_the_process(tmp_path: Path, handler: Handler) -> None:
    for _ in range(2):
        async with Journal(tmp_path / "calls.db") as journal, linked(node=DurableServe(handler, journal)) as pair:
            assert (await ask(pair.server))[1] == b"1 1 x"


async def test_a_run_that_was_cut_short_is_repeated_and_says_so(tmp_path: Path, handler: Handler) -> None:
    handler.go_on.clear()
    async with Journal(tmp_path / "calls.db") as journal:
        serve = DurableServe(handler, journal)
        async with linked(node=serve) as pair:
            asking = asyncio.create_task(ask(pair.server))
            await handler.began.wait()
            await serve.stop()
            with pytest.raises(StreamReset) as reset:
                await asking
    assert reset.value.code is Reset.REFUSED
    handler.go_on.set()
    async with Journal(tmp_path / "calls.db") as journal, linked(node=DurableServe(handler, journal)) as pair:
        assert (await ask(pair.server))[1] == b"2 2 x"


async def test_a_refused_call_has_not_been_tried(journal: Journal) -> None:
    attempts: list[str] = []

    async def busy_at_first(incoming: Incoming) -> None:
        attempts.append(incoming.opening.header("X-Pipe-Attempt"))
        if len(attempts) == 1:
            await incoming.refuse(Reset.REFUSED, "busy", retry_after_s=7)
        else:
            await incoming.answer(Head())

    async with linked(node=DurableServe(busy_at_first, journal)) as pair:
        with pytest.raises(StreamReset) as reset:
            await ask(pair.server)
        await ask(pair.server)
    assert reset.value.retry_after_s == 7
    assert attempts == ["1", "1"]


async def test_a_handler_is_cancelled_when_the_time_of_its_call_is_over(serve: DurableServe, handler: Handler) -> None:
    handler.go_on.clear()
    async with linked(node=serve) as pair:
        with pytest.raises(StreamReset) as reset:
            async with pair.server.call(replace(durable(), timeout_ms=50), b""):
                pass
    assert reset.value.code is Reset.DEADLINE
    assert handler.cancelled


async def test_a_call_whose_time_is_over_does_not_run(serve: DurableServe, handler: Handler) -> None:
    async with linked(node=serve) as pair:
        with pytest.raises(StreamReset) as reset:
            async with pair.server.call(replace(durable(), timeout_ms=0), b""):
                pass
    assert reset.value.code is Reset.DEADLINE
    assert handler.runs == 0


async def broken(incoming: Incoming) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"half of"
        raise LookupError("no other half")

    await incoming.answer(Head(), chunks())


async def large(incoming: Incoming) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(40)

    await incoming.answer(Head(), chunks())


async def wide(incoming: Incoming) -> None:
    await incoming.answer(Head(headers=(("X", "x" * 70_000),)))


async def raising(_incoming: Incoming) -> None:
    raise TimeoutError("the handler's own")


async def mute(_incoming: Incoming) -> None:
    pass


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (broken, "LookupError"),
        (large, "TooLarge"),
        (wide, "ValueError"),
        (raising, "TimeoutError"),
        (mute, "RuntimeError"),
    ],
)
async def test_what_has_run_without_an_answer_that_can_be_kept_has_failed_and_does_not_run_again(
    broken: Serve, name: str, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_module, "MAX_ANSWER_BYTES", 100)
    runs: list[Incoming] = []

    async def counted(incoming: Incoming) -> None:
        runs.append(incoming)
        await broken(incoming)

    async with linked(node=DurableServe(counted, journal)) as pair:
        head, body = await ask(pair.server)
        assert await ask(pair.server) == (head, body)
    assert len(runs) == 1
    assert (head.code, head.status) == (251, 502)
    assert json.loads(body)["exception"]["class"] == name


async def test_a_request_body_that_breaks_runs_nothing(serve: DurableServe, handler: Handler) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b"half"
        raise LookupError("no other half")

    async with linked(node=serve) as pair:
        with pytest.raises(LookupError):
            async with pair.server.call(durable(), half(), timeout_s=10):
                pass
        assert (await ask(pair.server))[1] == b"1 1 x"


async def test_an_answer_that_the_gateway_has_is_dropped_but_not_forgotten(
    serve: DurableServe, handler: Handler, tmp_path: Path
) -> None:
    async with linked(node=serve) as pair:
        await ask(pair.server)
        await ask(pair.server, durable(TWO, headers=(("X-Pipe-Done", ONE),)))
        assert (await ask(pair.server)) == (Head(code=3, headers=(("Content-Type", "a/b"),)), b"")
    assert handler.runs == 2
    assert _rows(tmp_path / "calls.db") == {ONE: b"", TWO: b"2 1 x"}


async def test_what_is_over_for_a_day_is_forgotten(tmp_path: Path) -> None:
    async with Journal(tmp_path / "calls.db") as journal:
        await journal.begin(ONE, -90_000)
        await journal.finish(ONE, Answered(Head(), b""))
        await journal.begin(TWO, 60)
    async with Journal(tmp_path / "calls.db") as journal:
        await journal.begin(TWO, 60)
    assert set(_rows(tmp_path / "calls.db")) == {TWO}


async def test_without_a_file_calls_are_remembered_as_long_as_the_process_lives(handler: Handler) -> None:
    async with Journal(None) as journal, linked(node=DurableServe(handler, journal)) as pair:
        assert (await ask(pair.server)) == (await ask(pair.server))
    assert handler.runs == 1


async def test_a_call_that_cannot_be_written_down_is_refused(
    serve: DurableServe, handler: Handler, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "calls.db") as other:
        other.execute("ALTER TABLE calls RENAME TO others")
    other.close()
    async with linked(node=serve) as pair:
        with pytest.raises(StreamReset) as reset:
            await ask(pair.server)
    assert reset.value.code is Reset.REFUSED
    assert handler.runs == 0


async def test_the_journal_is_for_its_owner_only(journal: Journal, tmp_path: Path) -> None:
    await journal.begin(ONE, 60)
    assert (tmp_path / "calls.db").stat().st_mode & 0o777 == 0o600


async def test_an_answer_is_written_down_though_the_node_stops_meanwhile(
    journal: Journal, serve: DurableServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, writing, finish = threading.Event(), asyncio.Event(), journal.finish

    async def noted(call_id: str, answer: Answered) -> None:
        busy = journal._in_thread(lambda: free.wait(10))
        writing.set()
        await asyncio.gather(busy, finish(call_id, answer))

    monkeypatch.setattr(journal, "finish", noted)
    async with linked(node=serve) as pair:
        asking = asyncio.create_task(ask(pair.server))
        await asyncio.wait_for(writing.wait(), 10)
        stopping = asyncio.create_task(serve.stop())
        await asyncio.wait({stopping}, timeout=0.05)
        free.set()
        await stopping
        await asyncio.wait({asking})
    assert isinstance(await journal.begin(ONE, 60), Answered)


async def test_two_processes_of_one_node_do_not_run_its_calls_side_by_side(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="runs already"):
        async with Journal(tmp_path / "calls.db"):
            pass
    assert await journal.begin("call", 60) == 1


async def test_a_file_that_is_no_journal_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "calls.db").write_bytes(b"something else " * 100)
    with pytest.raises(StartupError, match=r"calls\.db"):
        async with Journal(tmp_path / "calls.db"):
            pass


_VICTIM = """
import asyncio, os, sys
from pathlib import Path
from gateway_pipe.durable.journal import Answered, Journal
from gateway_pipe.link.model import Head

async def main():
    folder, step = Path(sys.argv[1]), sys.argv[2]
    async with Journal(folder / "calls.db") as journal:
        begun = await journal.begin("1" * 32, 60.0)
        if isinstance(begun, Answered):
            print("answered", begun.body.decode())
            return
        print("attempt", begun, flush=True)
        if step == "running":
            os.kill(os.getpid(), 9)
        await journal.finish("1" * 32, Answered(Head(), b"it ran"))
        if step == "answering":
            os.kill(os.getpid(), 9)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_process_that_is_killed_knows_afterwards_what_it_did(tmp_path: Path) -> None:
    async def run(step: str) -> str:
        arguments = (sys.executable, "-c", _VICTIM, str(tmp_path), step)
        process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        return said.decode().strip().splitlines()[-1]

    said = [await run(step) for step in ("running", "running", "answering", "to the end", "to the end")]
    assert said == ["attempt 1", "attempt 2", "attempt 3", "answered it ran", "answered it ran"]


def _rows(path: Path) -> dict[str, bytes]:
    with sqlite3.connect(path) as file:
        rows = dict(file.execute("SELECT id, body FROM calls").fetchall())
    file.close()
    return rows
