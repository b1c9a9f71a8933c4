"""``POST /job/``: what is taken, what is refused, and that nothing half-taken stays."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import uuid
from collections.abc import AsyncIterator

import pytest

from gateway_core.db.idempotency import Idempotency
from gateway_core.db.tables import clients
from tests.transform.job_stand import Caller, JobStand, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    """A body without Content-Length."""
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]


async def raw_answer(stand: JobStand, head: str) -> bytes:
    """What is answered to a head alone: no byte of the body that it announces is sent."""
    host, _, port = stand.gateway.address().rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(head.encode())
        async with asyncio.timeout(10):
            return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()


def head_of(caller: Caller, length: int, **headers: str) -> str:
    fields = {"Host": "h", "Authorization": f"Bearer {caller.secret}", "Content-Length": str(length), **headers}
    return "POST /job/ HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"


async def test_answer_is_the_id_in_32_hex_characters_as_text(job_stand: JobStand, caller: Caller):
    answer = await caller.post(b"an archive")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert re.fullmatch(r"[0-9a-f]{32}", answer.text)
    assert answer.headers["Location"] == f"{job_stand.gateway.url}/job/{answer.text}"


async def test_body_is_stored_as_it_came_and_its_job_waits(job_stand: JobStand, caller: Caller):
    body = os.urandom(3 * MIB + 17)
    job_id = await caller.submit(in_pieces(body))
    (row,) = await job_stand.rows(caller.client)
    assert (row.id, row.state, row.input_bytes) == (job_id, "queued", len(body))
    async with job_stand.gateway.core.storage.open(row.input_key) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == body


async def test_body_that_is_announced_too_large_is_413_before_it_comes(narrow_stand: JobStand):
    caller = await narrow_stand.caller()
    assert (await raw_answer(narrow_stand, head_of(caller, MIB + 1))).startswith(b"HTTP/1.1 413 ")
    assert await narrow_stand.rows(caller.client) == []


async def test_body_that_becomes_too_large_is_413_and_leaves_nothing(narrow_stand: JobStand):
    caller, before = await narrow_stand.caller(), await narrow_stand.objects()
    answer = await caller.post(in_pieces(bytes(MIB + 1)))
    assert (answer.status, answer.headers["Content-Type"]) == (413, "application/problem+json")
    assert (await narrow_stand.rows(caller.client), await narrow_stand.objects()) == ([], before)


async def test_size_is_limited_by_client(narrow_stand: JobStand):
    caller, other = await narrow_stand.caller(), await narrow_stand.caller()
    async with narrow_stand.gateway.core.db.write() as tx:
        await tx.execute(clients.update().where(clients.c.id == caller.client.id).values(name="scans"))
    body = bytes(2 * MIB)
    assert (await caller.post(body)).status == 200
    assert (await other.post(body)).status == 413


async def test_client_that_drops_in_the_middle_leaves_nothing(job_stand: JobStand, caller: Caller):
    folder, before = job_stand.gateway.core.settings.data_dir, await job_stand.objects()
    host, _, port = job_stand.gateway.address().rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(head_of(caller, 5 * MIB).encode() + bytes(3 * MIB))

    async def being_written() -> bool:
        return any(path.stat().st_size for path in folder.rglob("storage/tmp/*"))

    async def gone() -> bool:
        return not any(folder.rglob("storage/tmp/*"))

    await eventually(being_written)
    writer.close()
    await eventually(gone)
    assert (await job_stand.rows(caller.client), await job_stand.objects()) == ([], before)


async def test_full_queue_is_429_before_a_body_of_some_size_comes(narrow_stand: JobStand):
    caller = await narrow_stand.caller()
    await caller.submit()
    assert (await caller.post(b"a small archive")).status == 429
    head = await raw_answer(narrow_stand, head_of(caller, 1 << 19))
    assert head.startswith(b"HTTP/1.1 429 ")
    assert re.search(rb"\r\nRetry-After: [1-9][0-9]*\r\n", head)


async def test_full_queue_of_one_client_is_not_anothers(narrow_stand: JobStand):
    one, two = await narrow_stand.caller(), await narrow_stand.caller()
    assert [(await caller.post(b"x")).status for caller in (one, one, two)] == [200, 429, 200]


async def test_queue_that_fills_while_the_body_comes_leaves_nothing(narrow_stand: JobStand):
    caller, before = await narrow_stand.caller(), await narrow_stand.objects()
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"one half"
        began.set()
        await go_on.wait()
        yield b"the other half"

    slow = asyncio.create_task(caller.post(slowly()))
    await began.wait()
    first = await caller.submit()
    go_on.set()
    assert (await slow).status == 429
    assert [row.id for row in await narrow_stand.rows(caller.client)] == [first]
    assert set(await narrow_stand.objects()) == {*before, f"transform/{first}/input"}


# Idempotency-Key


async def test_same_body_with_the_same_key_is_one_job(job_stand: JobStand, caller: Caller):
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first, second = await caller.submit(**key), await caller.submit(**key)
    assert first == second
    assert [row.id for row in await job_stand.rows(caller.client)] == [first]
    assert await job_stand.objects(first) == [f"transform/{first}/input"]


async def test_same_body_with_the_same_key_at_the_same_moment_is_one_job(job_stand: JobStand, caller: Caller):
    before = len(await job_stand.objects())
    found = await asyncio.gather(*(caller.submit(**{"Idempotency-Key": "a"}) for _ in range(4)))
    assert len(set(found)) == 1
    assert len(await job_stand.rows(caller.client)) == 1
    assert len(await job_stand.objects()) == before + 1


async def test_other_body_with_the_same_key_is_422_and_leaves_nothing(job_stand: JobStand, caller: Caller):
    first = await caller.submit(b"one", **{"Idempotency-Key": "a"})
    before = await job_stand.objects()
    answer = await caller.post(b"two", **{"Idempotency-Key": "a"})
    assert (answer.status, list(answer.json["errors"]["headers"])) == (422, ["Idempotency-Key"])
    assert [row.id for row in await job_stand.rows(caller.client)] == [first]
    assert await job_stand.objects() == before


async def test_key_is_the_clients_own(job_stand: JobStand, caller: Caller):
    other = await job_stand.caller()
    assert await caller.submit(**{"Idempotency-Key": "a"}) != await other.submit(**{"Idempotency-Key": "a"})


async def test_repeated_request_is_answered_though_the_queue_is_full(narrow_stand: JobStand):
    caller = await narrow_stand.caller()
    first = await caller.submit(**{"Idempotency-Key": "a"})
    assert await caller.submit(**{"Idempotency-Key": "a"}) == first


async def test_key_of_a_request_that_was_refused_can_be_used_again(narrow_stand: JobStand):
    caller = await narrow_stand.caller()
    waiting = await caller.submit()
    assert (await caller.post(b"x", **{"Idempotency-Key": "a"})).status == 429
    await narrow_stand.end(waiting, b"a result")
    await caller.submit(b"x", **{"Idempotency-Key": "a"})


async def test_key_of_a_request_that_is_under_way_elsewhere_is_409(job_stand: JobStand, caller: Caller):
    db, body = job_stand.gateway.core.db, b"x"
    async with db.write() as tx:
        fingerprint = hashlib.sha256(body).hexdigest()
        await Idempotency(db).reserve(tx, caller.client.id, "a", fingerprint=fingerprint)
    assert (await caller.post(body, **{"Idempotency-Key": "a"})).status == 409
    assert await job_stand.rows(caller.client) == []


@pytest.mark.parametrize("key", ["k" * 256, "\u200b"], ids=["long", "invisible"])
async def test_key_that_cannot_be_one_is_422(caller: Caller, key: str):
    answer = await caller.post(b"x", **{"Idempotency-Key": key})
    assert (answer.status, list(answer.json["errors"]["headers"])) == (422, ["Idempotency-Key"])


# Waiting for the result


async def test_block_answers_with_the_result_when_the_job_has_ended(job_stand: JobStand, caller: Caller):
    blocked = asyncio.create_task(caller.post(b"x", "?block=1"))

    async def there() -> bool:
        return bool(await job_stand.rows(caller.client))

    await eventually(there)
    (row,) = await job_stand.rows(caller.client)
    await job_stand.end(row.id, b"the result")
    answer = await blocked
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "application/x-tar", b"the result")


async def test_repeated_request_that_blocks_gets_the_first_ones_result(job_stand: JobStand, caller: Caller):
    job_id = await caller.submit(b"x", **{"Idempotency-Key": "a"})
    await job_stand.end(job_id, b"the result")
    answer = await caller.post(b"x", "?block=1", **{"Idempotency-Key": "a"})
    assert (answer.status, answer.body) == (200, b"the result")


async def test_empty_block_does_not_wait(caller: Caller):
    assert len((await caller.post(b"x", "?block=")).text) == 32


async def test_strict_that_is_no_boolean_is_422(caller: Caller):
    answer = await caller.post(b"x", "?strict=perhaps")
    assert (answer.status, list(answer.json["errors"]["query"])) == (422, ["strict"])
