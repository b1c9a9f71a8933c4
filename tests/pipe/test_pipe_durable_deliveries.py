"""Durable calls reach their node once and in order, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway_core.auth.keyring import Keyring
from gateway_pipe.durable import deliveries
from gateway_pipe.durable.deliveries import Deliveries
from gateway_pipe.durable.journal import Journal
from gateway_pipe.durable.model import CallState, NewCall
from gateway_pipe.durable.serve import DurableServe
from gateway_pipe.durable.store import CallStore
from gateway_pipe.durable.topics import CALLS, ERASED
from gateway_pipe.hub.directory import LocalDirectory
from gateway_pipe.hub.hub import Hub
from gateway_pipe.link.model import Head, Incoming, Kind, Opening, Reset
from gateway_pipe.settings import PipeSettings
from tests.pipe.durable_stand import DurableStand, cut_after, durable_stand
from tests.pipe.hub_stand import eventually

pytest_plugins = ["tests.pipe.databases"]


@pytest.fixture
async def stand(tmp_path: Path, pipe_sqlite_file: Path) -> AsyncIterator[DurableStand]:
    async with durable_stand(tmp_path, pipe_sqlite_file) as opened:
        yield opened


@pytest.fixture
def looks(stand: DurableStand, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names that were looked for, query by query."""
    looked: list[list[str]] = [[]]
    waited_for = stand.store.waited_for

    async def noted(names: list[str]) -> list[str]:
        looked.append(names)
        return await waited_for(names)

    monkeypatch.setattr(stand.store, "waited_for", noted)
    return looked


async def test_a_connected_node_gets_calls_at_once_and_one_at_a_time(stand: DurableStand) -> None:
    await stand.connect()
    calls = [await stand.accept(f"n{number}", b"x" * number) for number in range(10)]
    assert [await stand.result(call) for call in calls] == [b"x" * number for number in range(10)]
    assert stand.machine.ran == [f"n{number}" for number in range(10)]
    assert stand.machine.most_busy == 1
    done = await stand.ended(calls[3])
    assert (done.head, done.attempts) == (Head(code=3, headers=(("Content-Type", "x/y"),)), 1)


async def test_calls_wait_for_a_node_that_is_away(stand: DurableStand) -> None:
    await stand.known()
    calls = [await stand.accept(f"n{number}") for number in range(3)]
    await stand.connect()
    for call in calls:
        await stand.ended(call)
    assert stand.machine.ran == ["n0", "n1", "n2"]


async def test_a_call_that_another_process_accepted_is_delivered_when_it_says_so(
    stand: DurableStand, looks: list[list[str]]
) -> None:
    await stand.connect()
    await eventually(lambda: ["node1"] in looks)
    call = await stand.accept("n", b"x", announced=False)
    stand.hubs.gateway.wakeups.publish(CALLS)
    assert await stand.result(call) == b"x"


async def test_large_bodies_and_results_go_through_the_storage(stand: DurableStand) -> None:
    await stand.connect()
    data = random.Random(7).randbytes(700_000)
    assert await stand.result(await stand.accept("n", data)) == data


async def test_nodes_without_waiting_calls_cost_one_query_together_and_no_task(
    stand: DurableStand, looks: list[list[str]]
) -> None:
    await asyncio.gather(*(stand.connect(f"n{number}") for number in range(100)))
    await eventually(lambda: len(looks[-1]) == 100)
    assert len(looks) < 30
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("durable calls of")]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
async def test_links_cut_at_any_message_lose_nothing_and_repeat_nothing(stand: DurableStand, seed: int) -> None:
    chance, cuts = random.Random(seed), 0
    await stand.known()

    async def reconnect_for_ever() -> None:
        nonlocal cuts
        while True:
            node = await stand.connect()
            cut_after(node.wire, chance.randint(0, 25))
            await node.gone()
            cuts += 1

    chaos = asyncio.create_task(reconnect_for_ever())
    bodies = [chance.randbytes(chance.choice((0, 10, 90_000))) for _ in range(100)]
    calls = [await stand.accept(f"n{number}", body) for number, body in enumerate(bodies)]
    assert [await stand.result(call) for call in calls] == bodies
    chaos.cancel()
    await asyncio.wait({chaos})
    assert stand.machine.ran == [f"n{number}" for number in range(100)]
    assert cuts > 20


async def test_a_node_that_is_started_anew_again_and_again_finishes_each_call_once(
    stand: DurableStand, tmp_path: Path
) -> None:
    await stand.known()
    finished: list[str] = []
    attempts: dict[str, list[int]] = {}
    chance = random.Random(1)

    async def work(incoming: Incoming) -> None:
        opening = incoming.opening
        attempts.setdefault(opening.target, []).append(int(opening.header("X-Pipe-Attempt")))
        await asyncio.sleep(chance.choice((0.0, 0.03)))
        finished.append(opening.target)
        await incoming.answer(Head())

    async def restart_for_ever() -> None:
        while True:
            async with Journal(tmp_path / "machine.db") as journal:
                serve = DurableServe(work, journal)
                node = await stand.connect(serve=serve)
                await asyncio.sleep(chance.uniform(0.0, 0.05))
                await serve.stop()
                node.wire.cut()

    chaos = asyncio.create_task(restart_for_ever())
    calls = [await stand.accept(f"n{number}") for number in range(10)]
    for call in calls:
        await stand.ended(call)
    chaos.cancel()
    await asyncio.wait({chaos})
    assert finished == [f"n{number}" for number in range(10)]
    assert all(told == sorted(set(told)) for told in attempts.values())
    assert any(len(told) > 1 for told in attempts.values())


async def test_a_node_that_refuses_is_asked_again(stand: DurableStand) -> None:
    asked: list[str] = []

    async def busy_twice(incoming: Incoming) -> None:
        asked.append(incoming.opening.target)
        if len(asked) <= 2:
            await incoming.refuse(Reset.REFUSED, "busy")
        else:
            await incoming.answer(Head())

    await stand.connect(serve=busy_twice)
    calls = [await stand.accept("a"), await stand.accept("b")]
    assert [(await stand.ended(call)).attempts for call in calls] == [3, 1]
    assert asked == ["a", "a", "a", "b"]


async def test_a_call_that_expired_while_its_node_was_away_is_never_delivered(stand: DurableStand) -> None:
    await stand.known()
    late = await stand.accept("late", ttl_s=0.05)
    assert (await stand.ended(late)).state is CallState.EXPIRED
    await stand.connect()
    await stand.ended(await stand.accept("fresh"))
    assert stand.machine.ran == ["fresh"]


async def test_a_call_that_is_never_answered_ends_with_its_time_and_makes_room(stand: DurableStand) -> None:
    cancelled = asyncio.Event()

    async def hangs_once(incoming: Incoming) -> None:
        if incoming.opening.target == "hangs":
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
        await incoming.answer(Head())

    await stand.connect(serve=hangs_once)
    hanging, after = await stand.accept("hangs", ttl_s=0.2), await stand.accept("after")
    assert (await stand.ended(hanging)).state is CallState.EXPIRED
    assert (await stand.ended(after)).state is CallState.DONE
    assert cancelled.is_set()


async def test_two_gateways_that_believe_to_have_the_node_run_a_call_once(stand: DurableStand) -> None:
    gateway = stand.hubs.gateway
    hub = Hub(gateway, PipeSettings(), directory=LocalDirectory())
    other = Deliveries(gateway.wakeups, stand.store, hub)
    await hub.start()
    await other.start()
    try:
        await stand.connect()
        await stand.connect(hub=hub)
        calls = [await stand.accept(f"n{number}", b"x") for number in range(8)]
        assert [await stand.result(call) for call in calls] == [b"x"] * 8
    finally:
        await other.stop()
        await hub.stop()
    assert stand.machine.ran == [f"n{number}" for number in range(8)]


async def test_a_result_over_the_limit_is_a_failure(tmp_path: Path, pipe_sqlite_file: Path) -> None:
    async def too_much(incoming: Incoming) -> None:
        await incoming.answer(Head(), bytes((1 << 20) + 1))

    async with durable_stand(tmp_path, pipe_sqlite_file, pipe={"max_durable_mb": 1}) as stand:
        await stand.connect(serve=too_much)
        done = await stand.ended(await stand.accept("n"))
        assert done.head is not None
        assert (done.head.code, done.head.status) == (251, 502)


async def test_a_call_whose_body_is_gone_fails_and_makes_room(stand: DurableStand) -> None:
    await stand.known()
    lost, after = await stand.accept("lost", bytes(100_000)), await stand.accept("after")
    await stand.hubs.gateway.storage.delete(f"pipe/calls/{lost.id}/body")
    await stand.connect()
    assert (await stand.ended(lost)).head == Head(code=251, status=502, headers=(("Content-Type", "application/json"),))
    assert (await stand.ended(after)).head == Head(code=0, headers=(("Content-Type", "x/y"),))


async def test_the_node_hears_which_answers_it_need_not_keep(stand: DurableStand) -> None:
    done: list[str] = []

    async def listens(incoming: Incoming) -> None:
        done.append(incoming.opening.header("X-Pipe-Done"))
        await incoming.answer(Head())

    await stand.connect(serve=listens)
    calls = [await stand.accept("a"), await stand.accept("b")]
    for call in calls:
        await stand.ended(call)
    assert done == ["", calls[0].id]


async def test_signals_that_are_lost_are_made_up_for(
    stand: DurableStand, looks: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "_POLL_S", 0.05)
    await stand.connect()
    await eventually(lambda: ["node1"] in looks)
    assert await stand.result(await stand.accept("n", b"x", announced=False)) == b"x"


async def test_a_call_that_is_erased_while_its_handler_hangs_does_not_hold_up_the_next(stand: DurableStand) -> None:
    began = asyncio.Event()

    async def hanging(incoming: Incoming) -> None:
        if incoming.opening.target == "hang":
            began.set()
            await asyncio.Event().wait()
        await incoming.answer(Head(), b"done")

    serve = DurableServe(hanging, stand.serve._journal)
    await stand.connect(serve=serve)
    for _ in range(2):
        began.clear()
        hang, after = [await stand.accept(target) for target in ("hang", "after")]
        await asyncio.wait_for(began.wait(), 10)
        await stand.store.erase(hang.id, "c1")
        stand.hubs.gateway.wakeups.publish(ERASED)
        assert await stand.result(after) == b"done"
    await serve.stop()


@pytest.mark.parametrize("code", [Reset.GONE, Reset.FORBIDDEN])
async def test_a_call_that_its_node_will_never_take_fails_and_does_not_hold_up_the_next(
    stand: DurableStand, code: Reset
) -> None:
    async def refusing(incoming: Incoming) -> None:
        if incoming.opening.target == "never":
            await incoming.refuse(code, "not here")
        else:
            await incoming.answer(Head(), b"done")

    await stand.connect(serve=DurableServe(refusing, stand.serve._journal))
    never, after = [await stand.accept(target) for target in ("never", "after")]
    assert await stand.result(after) == b"done"
    head = (await stand.ended(never)).head
    assert head is not None
    assert (head.status, head.code) == (502, 251)


async def test_a_call_whose_credentials_nobody_can_read_any_more_does_not_hold_up_the_next(stand: DurableStand) -> None:
    await stand.known()
    store = stand.store
    before = CallStore(store.db, store.storage, PipeSettings(), keyring=Keyring(["a key that was taken away"]))
    opening = Opening(kind=Kind.NOUN, method="POST", target="lost", headers=(("Authorization", "Basic x"),))
    lost = await before.accept(NewCall(client_id="c1", node="node1", opening=opening, ttl_s=60), b"")
    after = await stand.accept("after", b"x")
    await stand.connect()
    assert await stand.result(after) == b"x"
    assert b"SECRET_KEY" in await stand.result(lost)
    assert stand.machine.ran == ["after"]
