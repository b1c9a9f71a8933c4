"""How handlers' methods run: at once, bounded, in time, until nobody wants them; streams both ways; hooks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import threading
import time

import pytest

from gateway_core.errors import GatewayError
from gateway_pipe.handlers import streaming
from gateway_pipe.handlers.load import Handlers
from gateway_pipe.handlers.runner import Runner
from gateway_pipe.link.model import LinkLost, Reset, StreamReset
from tests.pipe.handling import handling, opening


class Gate:
    """Methods that wait until the test lets them go on."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.left = threading.Event()
        self.at_once = self.most = 0
        self.ctx = None
        self._lock = threading.Lock()

    def get_plain(self, ctx, post_data):
        self.ctx = ctx
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        self.entered.release()
        self.open.wait(20)
        with self._lock:
            self.at_once -= 1
        self.left.set()
        return "done"

    def get_patient(self, ctx, post_data):
        self.entered.release()
        gone = ctx.cancelled.wait(20)
        self.left.set()
        return gone

    async def get_async(self, ctx, post_data):
        self.ctx = ctx
        self.entered.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def get_quick(self, ctx, post_data):
        return "quick"


async def soon(event):
    assert await asyncio.to_thread(event.wait, 10)


async def entered(gate, times=1):
    for _ in range(times):
        assert await asyncio.to_thread(gate.entered.acquire, timeout=10)


async def test_plain_methods_run_at_once_up_to_the_slots_and_others_wait():
    gate = Gate()
    async with handling(gate, slots=3) as link:
        asking = [asyncio.create_task(link.ask("plain")) for _ in range(7)]
        await entered(gate, 3)
        assert gate.at_once == 3
        gate.open.set()
        assert [(await one).json for one in asking] == ["done"] * 7
    assert gate.most == 3


async def test_a_method_that_takes_long_holds_up_neither_others_nor_the_link():
    gate = Gate()
    async with handling(gate, slots=2) as link:
        slow = asyncio.create_task(link.ask("plain"))
        await entered(gate)
        link.pair.node.tick(asyncio.get_running_loop().time() + 6)
        assert (await link.ask("quick")).json == "quick"
        gate.open.set()
        assert (await slow).json == "done"


@pytest.mark.parametrize("noun", ["async", "patient"])
async def test_a_caller_that_gives_up_stops_the_method(noun):
    gate = Gate()
    async with handling(gate, slots=1) as link:
        asking = asyncio.create_task(link.ask(noun))
        await entered(gate)
        asking.cancel()
        await soon(gate.left)
        assert (await link.ask("quick")).json == "quick"


async def test_a_broken_link_stops_the_method():
    gate = Gate()
    async with handling(gate) as link:
        asking = asyncio.create_task(link.ask("patient"))
        await entered(gate)
        link.pair.node.drop("cut")
        await soon(gate.left)
        with pytest.raises(LinkLost):
            await asking


async def test_the_slot_of_a_cancelled_plain_method_is_free_when_its_thread_has_ended():
    gate = Gate()
    async with handling(gate, slots=1) as link:
        asking = asyncio.create_task(link.ask("plain"))
        await entered(gate)
        asking.cancel()
        await asyncio.wait({asking})
        await asyncio.to_thread(gate.ctx.cancelled.wait, 10)
        waiting = asyncio.create_task(link.ask("quick"))
        assert not (await asyncio.wait({waiting}, timeout=0.1))[0]
        gate.open.set()
        assert (await waiting).json == "quick"


async def refused(link, target, **more):
    with pytest.raises(StreamReset) as reset:
        await link.ask(target, **more)
    return reset.value.code


@pytest.mark.parametrize("noun", ["async", "patient"])
async def test_a_method_is_stopped_when_its_callers_time_is_up(noun):
    gate = Gate()
    async with handling(gate) as link:
        assert await refused(link, noun, timeout_ms=60) is Reset.DEADLINE
        await soon(gate.left)


async def test_a_call_whose_time_is_up_before_it_has_a_slot_never_runs():
    gate = Gate()
    async with handling(gate, slots=1) as link:
        slow = asyncio.create_task(link.ask("plain"))
        await entered(gate)
        assert await refused(link, "async", timeout_ms=60) is Reset.DEADLINE
        gate.open.set()
        await slow
        assert gate.entered.acquire(blocking=False) is False


async def test_a_call_that_comes_with_its_time_up_never_runs():
    gate = Gate()
    async with handling(gate) as link:
        for noun in ("async", "plain"):
            assert await refused(link, noun, timeout_ms=0) is Reset.DEADLINE
        assert gate.entered.acquire(blocking=False) is False


async def test_large_bodies_wait_for_room_and_small_calls_do_not():
    class Taker(Gate):
        async def post_size(self, ctx, post_data):
            return len(post_data[1])

    async def slowly(go_on):
        yield b"x" * 300_000
        await go_on.wait()

    begin = asyncio.Event()
    async with handling(Taker(), slots=8) as link:
        first = asyncio.create_task(link.ask("size", "POST", slowly(begin)))
        second = asyncio.create_task(link.ask("size", "POST", b"x" * 400_000))
        assert (await link.ask("size", "POST", b"x" * 200_000)).json == 200_000
        assert not second.done()
        begin.set()
        assert [(await first).json, (await second).json] == [300_000, 400_000]


class Streams:
    """Answers in pieces."""

    def __init__(self):
        self.closed = threading.Event()
        self.taken = 0

    def _pieces(self, count, bad=None):
        try:
            for number in range(count):
                self.taken += 1
                if number == bad:
                    raise LookupError("half way")
                yield b"%d," % number
        finally:
            self.closed.set()

    async def _coming(self, count, bad=None):
        for piece in self._pieces(count, bad):
            await asyncio.sleep(0)
            yield piece

    def get_plain(self, ctx, post_data, count="3", bad="-1"):
        return "text/csv", 4, self._pieces(int(count), int(bad))

    async def get_async(self, ctx, post_data, count="3", bad="-1"):
        return "text/csv", 4, self._coming(int(count), int(bad))

    async def get_generator(self, ctx, post_data):
        yield b"a"
        yield b"b"

    def get_list(self, ctx, post_data):
        return "text/plain", 0, iter(["ä", "", bytearray(b"b"), memoryview(b"c")])

    def get_nothing(self, ctx, post_data):
        return iter(())

    def get_file(self, ctx, post_data):
        return "application/zip", 0, io.BytesIO(bytes(range(256)) * 1000)

    def get_numbers(self, ctx, post_data):
        return iter([b"a", 1])

    def get_exit(self, ctx, post_data):
        yield b"a"
        raise SystemExit(3)

    async def get_async_exit(self, ctx, post_data):
        yield b"a"
        raise SystemExit(3)


@pytest.mark.parametrize(
    ("noun", "kind", "code", "body"),
    [
        ("plain", "text/csv", 4, b"0,1,2,"),
        ("async", "text/csv", 4, b"0,1,2,"),
        ("generator", "application/octet-stream", 0, b"ab"),
        ("list", "text/plain; charset=utf-8", 0, "äbc".encode()),
        ("nothing", "application/octet-stream", 0, b""),
        ("file", "application/zip", 0, bytes(range(256)) * 1000),
    ],
)
async def test_iterators_are_sent_piece_by_piece(noun, kind, code, body):
    async with handling(Streams()) as link:
        got = await link.ask(noun)
    assert (got.head.header("Content-Type"), got.code, got.body) == (kind, code, body)


@pytest.mark.parametrize("noun", ["plain", "async"])
async def test_a_stream_that_fails_before_its_first_piece_is_an_exception_as_any(noun):
    async with handling(Streams()) as link:
        assert (await link.ask(f"{noun}//3/0")).exception["message"] == "half way"


@pytest.mark.parametrize("target", ["plain//9/5", "async//9/5", "numbers", "exit", "async/exit"])
async def test_a_stream_that_fails_later_is_broken_and_the_link_lives(target):
    async with handling(Streams()) as link:
        with pytest.raises(StreamReset):
            await link.ask(target)
        assert (await link.ask("list")).code == 0


@pytest.mark.parametrize("noun", ["plain", "async"])
async def test_a_stream_is_closed_when_its_caller_leaves_and_gives_its_slot_back(noun):
    streams = Streams()
    async with handling(streams, slots=1) as link:
        async with link.pair.server.call(opening(f"{noun}//100000000"), timeout_s=5) as answer:
            assert await anext(aiter(answer))
        await soon(streams.closed)
        assert streams.taken < 1_000_000
        assert (await link.ask("list")).code == 0


async def test_a_stream_is_not_pulled_for_head():
    streams = Streams()
    async with handling(streams) as link:
        assert (await link.ask("plain//1000", "HEAD")).body == b""
        await soon(streams.closed)
    assert streams.taken == 1


class Takers:
    """Take bodies as they come."""

    def __init__(self):
        self.error = None
        self.ended = threading.Event()

    @streaming
    async def post_async(self, ctx, post_data):
        mimetype, chunks = post_data
        size = 0
        async for chunk in chunks:
            size += len(chunk)
        return [mimetype, size]

    @streaming
    def post_plain(self, ctx, post_data):
        mimetype, file = post_data
        head = file.read(5)
        lines = sum(1 for _ in file)
        return [mimetype, head.decode(), lines]

    @streaming
    def post_wait(self, ctx, post_data):
        try:
            return len(post_data[1].read())
        except Exception as error:
            self.error = error
            raise
        finally:
            self.ended.set()

    @streaming
    def post_echo(self, ctx, post_data):
        return "image/png", 0, iter(lambda: post_data[1].read(1000), b"")


async def pieces(count):
    for _ in range(count):
        yield b"12345\n" * 1000


async def test_streaming_methods_take_bodies_of_any_size_as_they_come():
    async with handling(Takers(), max_body_bytes=1000) as link:
        assert (await link.ask("async", "POST", pieces(100), kind="text/x; a=b")).json == ["text/x", 600_000]
        assert (await link.ask("plain", "POST", pieces(100), kind="text/x")).json == ["text/x", "12345", 100_000]


async def test_a_body_can_be_answered_with_while_it_comes():
    async with handling(Takers()) as link:
        data = b"".join([piece async for piece in pieces(50)])
        assert (await link.ask("echo", "POST", pieces(50))).body == data


@pytest.mark.parametrize("how", ["cancel", "cut"])
async def test_a_thread_that_reads_a_body_comes_back_when_its_caller_is_gone(how):
    takers = Takers()

    async def never_ends():
        yield b"x"
        await asyncio.Event().wait()

    async with handling(takers) as link:
        asking = asyncio.create_task(link.ask("wait", "POST", never_ends()))
        await asyncio.sleep(0.05)
        if how == "cancel":
            asking.cancel()
        else:
            link.pair.node.drop("cut")
        await soon(takers.ended)
        with contextlib.suppress(asyncio.CancelledError, GatewayError):
            await asking
    assert isinstance(takers.error, OSError | GatewayError)


class Hooked:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def get_time(self, ctx, post_data): ...

    def start_hook(self):
        self.told.append("start")

    async def stop_hook(self):
        self.told.append("stop")

    def connect_success(self):
        self.told.append("success")

    def connect_fail(self, retry_attempts, last_disconnected):
        self.told.append(("fail", retry_attempts, last_disconnected))
        raise ValueError("a hook may fail")

    async def connection_added(self, name, count):
        self.told.append(("added", name, count))


async def test_hooks_are_called_in_order_and_their_failures_hurt_nobody():
    one, two = Hooked(), Hooked()
    two.get_time = None
    runner = Runner(Handlers.of([one, Other(two)]), slots=1)
    await runner.start()
    runner.notify("connect_fail", 3, None)
    runner.notify("connect_success", 3, None)
    runner.notify("connection_added", "n", 1)
    runner.notify("idle", None, 60)
    await runner.stop()
    assert one.told == two.told == ["start", ("fail", 3, None), "success", ("added", "n", 1), "stop"]


class Other:
    """The hooks of another class."""

    def __init__(self, hooked):
        for name in ("start_hook", "stop_hook", "connect_success", "connect_fail", "connection_added"):
            setattr(self, name, getattr(hooked, name))


async def test_hooks_beyond_the_bound_are_dropped_without_waiting():
    class Slow(Hooked):
        def idle(self, since, seconds):
            self.told.append(seconds)

    slow = Slow()
    runner = Runner(Handlers.of([slow]), slots=1)
    for number in range(1500):
        runner.notify("idle", None, number)
    await runner.start()
    await runner.stop()
    assert slow.told == ["start", *range(1000), "stop"]


async def test_calls_are_measured_by_method():
    class Seen:
        def __init__(self):
            self.calls = []

        def handled(self, method, seconds):
            assert seconds >= 0
            self.calls.append(method)

    seen = Seen()
    async with handling(Gate(), metrics=seen) as link:
        await link.ask("quick")
        await link.ask("nothing")
        await link.ask("%ff")
    assert seen.calls == ["get_quick", "", ""]


async def test_nothing_is_left_of_many_cancelled_calls():
    gate = Gate()
    gate.open.set()
    async with handling(gate, slots=4) as link:
        for wait_s in (0, 0.0005, 0.001, 0.002) * 10:
            asking = asyncio.create_task(link.ask("plain"))
            await asyncio.sleep(wait_s)
            asking.cancel()
            await asyncio.wait({asking})
        async with asyncio.timeout(10):
            got = await asyncio.gather(*(link.ask("plain") for _ in range(4)))
        assert [one.json for one in got] == ["done"] * 4
        until = time.monotonic() + 10
        while link.pair.node.streams and time.monotonic() < until:
            await asyncio.sleep(0.01)
        assert link.pair.node.streams == 0
    gc.collect()
