"""Durable calls in the database: accepted once, kept in order, settled once; on both databases and a real storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway_core import BadRequest, Conflict, NotFound, Storage, TooLarge, TooManyRequests
from gateway_core.auth.keyring import Keyring
from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.storage.local import LocalStorage
from gateway_pipe.durable.model import Call, CallState, NewCall, Stowed
from gateway_pipe.durable.retention import sweep, sweep_orphans
from gateway_pipe.durable.store import CallStore
from gateway_pipe.link.model import Body, Head, Kind, Opening
from gateway_pipe.settings import PipeSettings
from gateway_pipe.tables import calls, nodes

pytest_plugins = ["tests.pipe.databases"]

LARGE = bytes(range(256)) * 1024
SETTINGS = PipeSettings(max_durable_mb=1, max_waiting=3, keep_results=100)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path / "storage")


@pytest.fixture
async def store(pipe_db: Database, storage: Storage) -> CallStore:
    async with pipe_db.write() as tx:
        for name in ("alpha", "beta"):
            row = {"name": name, "epoch": 1, "first_seen": now(), "last_seen": now(), "version": ""}
            await tx.execute(sa.insert(nodes).values(row))
    return CallStore(pipe_db, storage, SETTINGS, keyring=Keyring(["a key for these tests"]))


def wish(target: str = "work", *, node: str = "alpha", client: str = "c1", key: str = "", ttl_s: float = 60) -> NewCall:
    opening = Opening(kind=Kind.NOUN, method="POST", target=target, headers=(("Content-Type", "text/plain"),))
    return NewCall(client_id=client, node=node, opening=opening, ttl_s=ttl_s, key=key)


async def content(store: CallStore, call: Call) -> bytes:
    async with store.result(call) as body:
        return await joined(body)


async def joined(body: Body) -> bytes:
    return body if isinstance(body, bytes) else b"".join([chunk async for chunk in body])


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 10_000):
        yield data[at : at + 10_000]


async def keys(storage: Storage) -> list[str]:
    return [found.key async for found in storage.list("pipe/")]


async def settle_next(store: CallStore, node: str = "alpha", body: bytes = b"done") -> bool:
    call = await store.next(node)
    assert call is not None
    return await store.finish(call, Head(code=5), await store.stow_result(call.id, body))


async def test_calls_come_in_the_order_in_which_they_were_accepted(store: CallStore) -> None:
    for target in ("one", "two", "three"):
        await store.accept(wish(target), b"")
    await store.accept(wish("other", node="beta"), b"")
    targets = []
    while (call := await store.next("alpha")) is not None:
        targets.append(call.opening.target)
        assert await settle_next(store)
    assert targets == ["one", "two", "three"]


@pytest.mark.parametrize("data", [b"", b"small", LARGE], ids=["empty", "small", "large"])
async def test_bodies_and_results_are_kept_as_they_came(store: CallStore, storage: Storage, data: bytes) -> None:
    accepted = await store.accept(wish(), in_pieces(data))
    waiting = await store.next("alpha")
    assert waiting is not None
    if data == LARGE:
        async with storage.open(waiting.body.key) as chunks:
            assert await joined(chunks) == data
    else:
        assert waiting.body.data == data
    assert await store.finish(waiting, Head(code=5), await store.stow_result(waiting.id, in_pieces(data)))
    done = await store.find(accepted.id, "c1")
    assert (done.state, done.head, done.attempts) == (CallState.DONE, Head(code=5), 1)
    assert await content(store, done) == data
    assert len(await keys(storage)) == (data == LARGE)


async def test_what_the_node_gets_is_what_the_client_asked(store: CallStore) -> None:
    new = wish("cat//hello%20/w?x=\udcff", key="a key")
    await store.accept(new, b"")
    waiting = await store.next("alpha")
    assert waiting is not None
    assert waiting.opening == new.wanted()
    assert (waiting.opening.call, waiting.opening.key) == (new.id, "a key")
    assert 50 < waiting.left_s <= 60


async def test_credentials_for_the_node_cannot_be_read_in_the_database(store: CallStore, pipe_db: Database) -> None:
    secrets = (("Authorization", "Bearer s3cret"), ("cookie", "s3cret=\udcff"))
    new = wish()
    new = replace(new, opening=replace(new.opening, headers=secrets))
    await store.accept(new, b"")
    async with pipe_db.read() as tx:
        assert "s3cret" not in str((await tx.rows(sa.select(calls)))[0])
    waiting = await store.next("alpha")
    assert waiting is not None
    assert waiting.opening.headers == secrets


async def test_the_same_key_and_question_are_the_same_call(store: CallStore, storage: Storage) -> None:
    first = await store.accept(wish(key="k"), in_pieces(LARGE))
    again = await store.accept(wish(key="k"), in_pieces(LARGE))
    assert again == first
    assert await keys(storage) == [f"pipe/calls/{first.id}/body"]


@pytest.mark.parametrize("other", [wish("else", key="k"), wish(node="beta", key="k")], ids=["target", "node"])
async def test_the_same_key_with_another_question_is_a_conflict(store: CallStore, other: NewCall) -> None:
    await store.accept(wish(key="k"), b"x")
    with pytest.raises(Conflict):
        await store.accept(other, b"x")


async def test_the_same_key_with_another_body_is_a_conflict_and_leaves_nothing(
    store: CallStore, storage: Storage
) -> None:
    await store.accept(wish(key="k"), b"x")
    with pytest.raises(Conflict):
        await store.accept(wish(key="k"), LARGE)
    assert await keys(storage) == []


async def test_keys_belong_to_their_client(store: CallStore) -> None:
    mine = await store.accept(wish(key="k"), b"x")
    theirs = await store.accept(wish("else", key="k", client="c2"), b"x")
    assert mine.id != theirs.id
    with pytest.raises(NotFound):
        await store.find(mine.id, "c2")


async def test_one_key_sent_many_times_at_once_becomes_one_call(store: CallStore, pipe_db: Database) -> None:
    accepted = await asyncio.gather(*(store.accept(wish(key="k"), b"x") for _ in range(12)))
    assert len({call.id for call in accepted}) == 1
    async with pipe_db.read() as tx:
        assert await tx.scalar(sa.select(sa.func.count()).select_from(calls)) == 1


async def test_a_full_queue_is_told_with_a_time_and_repeated_calls_are_not_refused(store: CallStore) -> None:
    first = await store.accept(wish(key="k"), b"")
    for _ in range(2):
        await store.accept(wish(), b"")
    for body in (b"", in_pieces(LARGE)):
        with pytest.raises(TooManyRequests) as refused:
            await store.accept(wish(), body)
        assert int(refused.value.headers["Retry-After"]) > 0
    assert await store.accept(wish(key="k"), b"") == first
    await store.accept(wish(node="beta"), b"")


@pytest.mark.parametrize("body", [b"", LARGE], ids=["small", "large"])
async def test_a_node_that_was_never_here_is_not_found(store: CallStore, body: bytes) -> None:
    with pytest.raises(NotFound):
        await store.accept(wish(node="gamma"), body)


async def test_a_body_over_the_limit_leaves_nothing(store: CallStore, storage: Storage) -> None:
    with pytest.raises(TooLarge):
        await store.accept(wish(), in_pieces(LARGE * 5))
    assert await keys(storage) == []
    assert await store.next("alpha") is None


async def test_headers_over_the_limit_of_a_frame_are_refused(store: CallStore) -> None:
    with pytest.raises(BadRequest):
        await store.accept(wish("x" * 65_400), b"")


async def test_the_first_result_counts_and_the_other_leaves_nothing(store: CallStore, storage: Storage) -> None:
    accepted = await store.accept(wish(), b"")
    waiting = await store.next("alpha")
    assert waiting is not None
    results = [await store.stow_result(waiting.id, bytes([number]) * 100_000) for number in range(2)]
    written = await asyncio.gather(*(store.finish(waiting, Head(code=7), result) for result in results))
    assert sorted(written) == [False, True]
    done = await store.find(accepted.id, "c1")
    assert (await content(store, done))[:1] == bytes([written.index(True)])
    assert len(await keys(storage)) == 1


async def test_a_call_whose_time_is_over_is_expired_and_takes_no_result(store: CallStore) -> None:
    accepted = await store.accept(wish(ttl_s=0.001), b"")
    waiting = await store.next("alpha")
    assert waiting is not None
    assert waiting.left_s <= 0.001
    await _deadline_passes(store, waiting.id)
    assert (await store.find(accepted.id, "c1")).state is CallState.EXPIRED
    assert [call.id for call in await store.listed("c1", state=CallState.EXPIRED)] == [accepted.id]
    assert await store.expire(waiting)
    assert not await store.finish(waiting, Head(), Stowed(b"", "", 0))
    assert (await store.find(accepted.id, "c1")).state is CallState.EXPIRED
    assert await store.next("alpha") is None


async def test_a_call_with_time_left_does_not_expire(store: CallStore) -> None:
    await store.accept(wish(), b"")
    waiting = await store.next("alpha")
    assert waiting is not None
    assert not await store.expire(waiting)


async def test_an_erased_call_is_not_delivered(store: CallStore, storage: Storage) -> None:
    accepted = await store.accept(wish(), LARGE)
    with pytest.raises(NotFound):
        await store.erase(accepted.id, "c2")
    await store.erase(accepted.id, "c1")
    assert await store.next("alpha") is None
    assert await keys(storage) == []


async def test_calls_are_listed_newest_first_by_node_and_state(store: CallStore) -> None:
    ids = [(await store.accept(wish(node=node), b"")).id for node in ("alpha", "beta", "alpha")]
    await store.accept(wish(client="c2"), b"")
    await settle_next(store)
    assert [call.id for call in await store.listed("c1")] == ids[::-1]
    assert [call.id for call in await store.listed("c1", node="alpha")] == [ids[2], ids[0]]
    assert [call.id for call in await store.listed("c1", state=CallState.DONE)] == [ids[0]]
    assert [call.id for call in await store.listed("c1", state=CallState.WAITING, limit=1)] == [ids[2]]


async def test_nodes_with_waiting_calls_are_found_at_once(store: CallStore) -> None:
    await store.accept(wish(), b"")
    assert await store.waited_for(["alpha", "beta", *(f"n{number}" for number in range(2500))]) == ["alpha"]
    await settle_next(store)
    assert await store.waited_for(["alpha"]) == []


async def test_the_sweep_ends_what_is_overdue_and_forgets_what_ended_long_ago(
    store: CallStore, storage: Storage
) -> None:
    overdue, done = [await store.accept(wish(), LARGE) for _ in range(2)]
    await _deadline_passes(store, overdue.id)
    await sweep(store, SETTINGS)
    assert await settle_next(store, body=LARGE)
    assert [call.state for call in await store.listed("c1")] == [CallState.DONE, CallState.EXPIRED]
    assert len(await keys(storage)) == 1
    async with store.db.write() as tx:
        await tx.execute(sa.update(calls).values(expires=now() - 1))
    await sweep(store, SETTINGS)
    assert await store.listed("c1") == []
    assert await keys(storage) == []
    assert (await store.accept(wish(), b"")).id != done.id


async def test_objects_that_no_row_names_are_deleted_in_time(store: CallStore, storage: Storage) -> None:
    kept = await store.accept(wish(), LARGE)
    await store.stow_result(kept.id, LARGE)
    assert await sweep_orphans(store) == 0
    assert await sweep_orphans(store, older_than_s=-5) == 1
    assert await keys(storage) == [f"pipe/calls/{kept.id}/body"]


async def test_an_answer_after_the_time_of_a_call_does_not_bring_it_back(store: CallStore, storage: Storage) -> None:
    accepted = await store.accept(wish(), b"")
    waiting = await store.next("alpha")
    assert waiting is not None
    await _deadline_passes(store, accepted.id)
    assert (await store.find(accepted.id, "c1")).state is CallState.EXPIRED
    assert not await store.finish(waiting, Head(), await store.stow_result(accepted.id, LARGE))
    assert (await store.find(accepted.id, "c1")).state is CallState.EXPIRED
    assert await keys(storage) == []


async def _deadline_passes(store: CallStore, call_id: str) -> None:
    async with store.db.write() as tx:
        await tx.execute(sa.update(calls).where(calls.c.id == call_id).values(deadline=now() - 1))
