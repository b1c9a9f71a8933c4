"""What a box that was taken over says is not believed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway_core.storage.local import LocalStorage
from gateway_transform.box import wire
from gateway_transform.jobs.model import Claim, ErrorCode, JobState, Upload
from gateway_transform.settings import TransformSettings
from gateway_transform.work.attempt import Attempt, Go, Verdict
from gateway_transform.work.believed import Unpacked, ended_from, scanned_from, unpacked_from
from gateway_transform.work.channel import Channel
from gateway_transform.work.folders import make_folder
from gateway_transform.work.pool import BoxPool
from gateway_transform.work.zygote import Box, Catalogue, ZygotePlan


def entry(*preload: str, network: bool = False) -> Mapping[str, Any]:
    return {"limits": {"network": network}, "preload": preload}


KNOWN = {"plain": entry("colorsys"), "online": entry(network=True)}
UNPACKED = {
    "type": "unpacked",
    "names": ["plain"] * 3,
    "hook": None,
    "hook_form": "circe",
    "network": False,
    "cache_key": "",
    "preload": [],
}
STEP = {"name": "plain", "state": "succeeded", "ms": 1, "version": "1"}
DONE = {"type": "done", "state": "succeeded", "error": None, "steps": [STEP], "run_ms": 1}
FAILED = {"code": "failed", "message": "no", "step": "plain"}


def begins(index: int) -> dict[str, Any]:
    return {"type": "step", "index": index, "name": "plain"}


class OneBox(BoxPool):
    """Gives one box, which is the other end of ``theirs``: a test plays it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(ZygotePlan((), {}, "off", (), ()), size=1)
        ours, self.theirs = socket.socketpair()
        self.taken: list[bool] = []
        self._box = Box("1", folder, Channel(ours), network=False, exited=asyncio.get_running_loop().create_future())
        make_folder(folder, uid=None)

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(KNOWN, {}, "namespaces", ())

    async def take(self, *, network: bool = False) -> Box:
        self.taken.append(network)
        return self._box

    async def kill(self, _box: Box) -> None:
        self._box.channel.shut()

    def discard(self, _box: Box) -> None:
        self._box.channel.close()


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[OneBox]:
    made = OneBox(tmp_path / "box")
    yield made
    made.theirs.close()


async def verdict_on(pool: OneBox, tmp_path: Path, *said: Mapping[str, Any]) -> Verdict:
    """What becomes of a job whose box says that, and nothing more, but does not end."""
    storage = LocalStorage(tmp_path / "storage")
    async with storage.writer("transform/1/input") as writer:
        await writer.write(b"upload")
        await writer.commit()
    claim = Claim("1", "client", "token", 1, Upload("transform/1/input", "", 6), 0, 0.0)

    async def advise(_unpacked: Unpacked) -> Go:
        return Go()

    attempt = Attempt(claim, pool, storage, settings=TransformSettings(), advise=advise)
    playing = asyncio.create_task(asyncio.to_thread(play, pool.theirs, said))
    async with asyncio.timeout(10), attempt.verdict() as verdict:
        await playing
        return verdict


def play(sock: socket.socket, said: Sequence[Mapping[str, Any]]) -> None:
    """Be a box: take the job, make a result, say that."""
    received = wire.receive(sock)
    assert received is not None
    os.write(received[1][1], b"a result")
    for fd in received[1]:
        os.close(fd)
    sock.sendall(b"".join(wire.encode(dict(message)) for message in said))


@pytest.mark.parametrize(
    "said",
    [
        [UNPACKED, *(begins(at) for at in range(4))],
        [UNPACKED, begins(1)],
        [begins(0)],
        [UNPACKED, begins(0), UNPACKED],
        [UNPACKED, {"type": "hello"}],
    ],
    ids=["more-steps-than-there-are", "a-step-too-early", "a-step-of-nothing", "unpacked-again", "of-no-known-type"],
)
async def test_a_message_out_of_its_turn_ends_the_job(pool: OneBox, tmp_path: Path, said: list[dict[str, Any]]):
    verdict = await verdict_on(pool, tmp_path, *said)
    assert (verdict.state, verdict.error and verdict.error.code) == (JobState.FAILED, ErrorCode.CRASHED)


async def test_a_box_whose_steps_have_begun_gets_no_network_by_asking(pool: OneBox, tmp_path: Path):
    asking = UNPACKED | {"names": ["online"], "network": True}
    await verdict_on(pool, tmp_path, UNPACKED, begins(0), asking)
    assert pool.taken == [False]


async def test_an_account_of_the_right_form_is_believed(pool: OneBox, tmp_path: Path):
    verdict = await verdict_on(pool, tmp_path, UNPACKED, begins(0), DONE)
    assert (verdict.state, verdict.steps, verdict.error) == (JobState.SUCCEEDED, (STEP,), None)


@pytest.mark.parametrize(
    "lie",
    [
        {"run_ms": float("inf")},
        {"run_ms": 10**300},
        {"state": "expired", "error": FAILED},
        {"state": "failed", "error": FAILED | {"step": {"a": 1}}},
        {"state": "failed", "error": "failed"},
        {"steps": [STEP] * 257},
        {"steps": [STEP | {"name": "x" * 300}]},
        {"steps": [STEP | {"ms": -1}]},
        {"steps": ["plain"]},
        {"steps": 7},
    ],
    ids=str,
)
async def test_an_account_of_the_wrong_form_is_a_crash(pool: OneBox, tmp_path: Path, lie: dict[str, Any]):
    verdict = await verdict_on(pool, tmp_path, UNPACKED, DONE | lie)
    assert (verdict.state, verdict.error and verdict.error.code) == (JobState.FAILED, ErrorCode.CRASHED)


def test_what_steps_need_is_told_by_the_catalogue():
    told = unpacked_from(UNPACKED | {"preload": ["antigravity"], "network": True}, KNOWN)
    assert (told.preload, told.network) == (("colorsys",), False)
    assert unpacked_from(UNPACKED | {"names": ["online", "nobody"], "network": False}, KNOWN).network


@pytest.mark.parametrize(
    "lie", [{"names": "plain"}, {"names": ["x"] * 257}, {"names": [1]}, {"hook": 1}, {"cache_key": "x" * 65}], ids=str
)
def test_an_upload_of_the_wrong_form_is_refused(lie: dict[str, Any]):
    with pytest.raises((LookupError, TypeError, ValueError)):
        unpacked_from(UNPACKED | lie, KNOWN)


def test_only_known_fields_of_steps_are_kept():
    ended = ended_from(DONE | {"steps": [STEP | {"html": "<b>", "cached": True}]})
    assert ended.steps == (STEP | {"cached": True},)


@pytest.mark.parametrize(
    "said", [{"error": "bad", "fields": {}}, {"error": None, "fields": []}, {"error": None, "fields": {"a": "b"}}]
)
def test_a_look_into_an_upload_of_the_wrong_form_is_refused(said: dict[str, Any]):
    with pytest.raises((LookupError, TypeError, ValueError)):
        scanned_from({"type": "scanned", **said})
