"""Hostile archives and transformations as jobs through ``gateway serve``: refused or contained, each by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.transform.hostile_stand import (
    CANARY,
    LIMITS,
    SLOTS,
    Ended,
    HostileStand,
    PeakMemory,
    bearers,
    children,
    hostile_standing,
    own_world,
    serving,
)
from tests.transform.hostile_tars import HOSTILE
from tests.transform.job_stand import eventually, job_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE = 8
MIB = 1 << 20
SLACK_S = 6.0
"""A busy machine may be so late."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand() -> AsyncIterator[HostileStand]:
    async with hostile_standing() as stood:
        yield stood


# Archives


@dataclass
class Refusals:
    """What came of all hostile archives, and the files that the gateway has now beside those of their jobs."""

    ended: dict[str, Ended]
    new: set[str]
    peak: PeakMemory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def refusals(stand: HostileStand) -> Refusals:
    """All are sent at once; then each is looked at."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def refused(body: bytes) -> tuple[str, Ended]:
        async with turns:
            job_id = await stand.submit(body)
            return job_id, await stand.end_of(job_id)

    await stand.run("hello")
    before = stand.listing()
    with PeakMemory(stand.server.pid) as peak:
        found = await asyncio.gather(*(refused(body) for body, _ in HOSTILE.values()))
        await stand.only_warm_boxes()
    own = tuple(job_id for job_id, _ in found)
    new = {path for path in stand.listing() - before if not any(job_id in path for job_id in own)}
    return Refusals(dict(zip(HOSTILE, (ended for _, ended in found), strict=True)), new, peak)


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_archive_is_a_job_that_says_why_it_was_refused(refusals: Refusals, name: str):
    ended = refusals.ended[name]
    assert ended.code == "bad_input"
    assert ended.message.startswith(f"{HOSTILE[name][1]}: ")
    assert ended.files.keys() <= {"job.json", "out.log", "status.json"}
    assert ended.message.partition(":")[0].encode() in ended.files["out.log"]


async def test_hostile_archives_leave_nothing_outside_their_folders(refusals: Refusals):
    assert refusals.new == set()
    for place in ("/tmp/outside", "/outside", "/tmp/C:outside", "/good.txt"):
        assert not Path(place).exists()


async def test_hostile_archives_take_little_memory_of_gateway_and_boxes(refusals: Refusals):
    assert refusals.peak.processes > SLOTS
    assert refusals.peak.bytes < 256 * MIB


# Transformations that take too much


@pytest.mark.parametrize(
    ("name", "codes", "said"),
    [
        ("fork_bomb", {"timeout", "failed"}, "ran longer than 1 s|process limit"),
        ("thread_bomb", {"timeout", "failed", "out_of_memory"}, "ran longer than 1 s|process limit|memory"),
        ("endless", {"timeout"}, "the job ran longer than 3 s"),
        ("sleeper", {"timeout"}, "ran longer than 0.5 s"),
        ("stubborn", {"timeout"}, "ran longer than 0.5 s"),
        ("memory_of_one", {"out_of_memory"}, "memory"),
        ("memory_shared", {"out_of_memory"}, "more than 128 MiB of memory"),
        ("memory_of_many", {"out_of_memory"}, "more than 128 MiB of memory"),
        ("memory_of_page_tables", {"out_of_memory"}, "more than 128 MiB of memory"),
        ("memory_of_sockets", {"failed", "out_of_memory"}, "memory|sockets"),
        ("one_big_file", {"failed", "timeout"}, "File too large|more than 50 MiB of files|ran longer"),
        ("many_small_files", {"failed", "timeout"}, "more than 4000 files and folders|ran longer"),
        ("files_behind_a_locked_folder", {"failed", "timeout"}, "files that cannot be counted|ran longer"),
        ("files_deeper_than_a_path", {"failed", "timeout"}, "files that cannot be counted|ran longer"),
        ("files_without_names", {"failed", "timeout"}, "files that cannot be counted|ran longer"),
        ("ten_gigabytes_of_output", {"timeout"}, "ran longer than 1 s"),
        ("endless_log", {"failed", "timeout"}, "more than .* bytes in out.log|ran longer"),
    ],
)
async def test_transformation_that_takes_too_much_is_ended(stand: HostileStand, name: str, codes: set[str], said: str):
    with PeakMemory(stand.server.pid) as peak:
        ended = await stand.attack(name)
    assert ended.code in codes, ended.message
    assert re.search(said, ended.message), ended.message
    assert ended.status["error"]["step"] == name
    assert ended.seconds < LIMITS["JOB_TIMEOUT_S"] + SLACK_S
    assert ended.status["steps"][0]["ms"] < 1000 * (LIMITS["JOB_TIMEOUT_S"] + 1)
    assert sum(len(data) for data in ended.files.values()) <= (LIMITS["DISK_MB"] + 4) * MIB
    assert peak.bytes < 256 * MIB


async def test_daemon_ends_with_the_step_that_left_it(stand: HostileStand):
    ended = await stand.attack("orphan")
    assert ended.code == "succeeded"
    assert set(ended.files["alive"]) == {ord("x")}


async def test_later_steps_see_nothing_of_a_daemon(stand: HostileStand):
    first = {"name": "orphan", "options": {"marker": "evil-daemon"}}
    ended = await stand.run(first, "processes", a_txt="a")
    assert ended.code == "succeeded"
    assert list(ended.found) == ["1"]


async def test_sparse_files_fill_no_result(stand: HostileStand):
    ended = await stand.attack("sparse_files")
    assert ended.code == "succeeded"
    assert b"EFBIG" in ended.files["out.log"]
    assert sum(len(data) for data in ended.files.values()) <= (LIMITS["DISK_MB"] + 1) * MIB
    assert b"Left out of the result: 199" in ended.files["out.log"]


async def test_garbage_in_the_log_harms_nobody(stand: HostileStand):
    ended = await stand.attack("garbage_in_the_log")
    assert ended.code == "succeeded"
    assert b"garbage" in ended.files["out.log"]


async def test_log_that_is_moved_far_away_harms_nobody(stand: HostileStand):
    ended = await stand.run({"name": "log_far_away", "options": {"marker": "evil-log"}}, "hello")
    assert ended.code == "succeeded"
    assert len(ended.files["out.log"]) <= 2 * MIB


# Transformations that look for a way out


@pytest.fixture
def listeners() -> Iterator[dict[str, Any]]:
    """Servers of the test beside the gateway, and what came to them."""
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp, abstract, named = (
            stack.enter_context(socket.socket(family, kind))
            for family, kind in (
                (socket.AF_INET, socket.SOCK_DGRAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
            )
        )
        path = Path(stack.enter_context(own_world())) / "socket"
        udp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0hostile-{os.getpid()}")
        named.bind(str(path))
        path.chmod(0o777)
        for sock in (abstract, named):
            sock.listen()
        for sock in (tcp, udp, abstract, named):
            sock.setblocking(False)
        yield {
            "options": {
                "tcp": tcp.getsockname()[1],
                "udp": udp.getsockname()[1],
                "abstract": f"hostile-{os.getpid()}",
                "path": str(path),
            },
            "servers": (tcp, abstract, named),
            "udp": udp,
        }


async def test_network_is_not_reached(stand: HostileStand, listeners: dict[str, Any]):
    ended = await stand.attack("network", **listeners["options"])
    assert ended.code == "succeeded"
    assert "done" not in ended.found.values(), ended.found
    for server in listeners["servers"]:
        with pytest.raises(BlockingIOError):
            server.accept()
    with pytest.raises(BlockingIOError):
        listeners["udp"].recv(100)


async def test_secrets_are_not_read(stand: HostileStand):
    """Of the system, of the gateway, of the zygote's memory, and of a neighbour who runs at the same time."""
    neighbour = await stand.submit(job_of({"name": "waits", "options": {"marker": "neighbour"}}, secret_txt=CANARY))

    async def unpacked() -> bool:
        return any((box / "work" / "secret.txt").exists() for box in stand.boxes())

    await eventually(unpacked)
    paths = [*stand.everything(), "/etc/shadow", "/root/.ssh", "/home", f"/proc/{stand.server.pid}/environ"]
    assert {"gateway.db", "instance.key", "settings.py", "secret.txt"} <= {Path(path).name for path in paths}
    found = (await stand.run({"name": "secrets", "options": {"marker": "evil", "paths": paths}})).found
    assert found["paths"] == []
    assert CANARY not in "".join(found["read"])
    assert CANARY not in found["memory"]
    assert not any(name.startswith("GATEWAY") or "TOKEN" in name for name in found["read"])
    assert not any(str(stand.base) in name for name in found["files"])
    async with stand.http.delete(f"/job/{neighbour}") as answer:
        assert answer.status == 202
    assert (await stand.end_of(neighbour)).code == "cancelled"
    assert bearers("neighbour") == []


async def test_search_for_secrets_finds_what_is_there(stand: HostileStand):
    """Or the test before this one would mean nothing."""
    own = CANARY.replace("5ec2e7", "0ddba1")
    ended = await stand.attack("secrets", paths=["a.txt", "/etc/passwd"], own=own)
    assert ended.found["paths"] == ["a.txt", "/etc/passwd"]
    assert own in ended.found["memory"]
    assert own in ended.found["read"]
    assert any(name.endswith("/work/a.txt") for name in ended.found["files"])


async def test_outsiders_are_not_killed_traced_or_read(stand: HostileStand):
    tree = [stand.server.pid, os.getpid(), *children(stand.server.pid)]
    ended = await stand.attack("kill_others", pids=tree)
    assert ended.code == "succeeded"
    assert {each for tried in ended.found.values() for each in tried} <= {"ESRCH", "EPERM", "EACCES", "ENOENT"}, (
        ended.found
    )
    assert {pid for pid in tree if not Path(f"/proc/{pid}/exe").exists()} == set()


async def test_box_whose_first_process_is_crippled_still_gives_a_result(stand: HostileStand):
    ended = await stand.attack("limits_of_the_first")
    assert ended.told["state"] == "failed"
    assert ended.code in {"crashed", "failed"}


async def test_privileges_are_not_gained(stand: HostileStand):
    ended = await stand.attack("privileges")
    assert ended.code == "succeeded"
    assert set(ended.found.values()) <= {"EPERM", "EACCES", "EROFS", "EINVAL"}, ended.found


# Transformations that leave traps behind, or lie


async def test_odd_files_are_left_out_or_harmless(stand: HostileStand):
    ended = await stand.attack("odd_files")
    assert ended.code == "succeeded"
    assert {"-rf", "--help", "linked", "su", "a.txt"} <= ended.files.keys()
    assert not {"up", "passwd", "self", "log", "fifo", "socket", "new\nline"} & {each.name for each in ended.members}
    assert not any(b"root:" in data for data in ended.files.values())
    left_out = next(line for line in ended.lines if "Left out" in line["message"])
    assert "passwd: a symbolic link" in left_out["files"]
    assert "fifo: a FIFO" in left_out["files"]
    assert max(each.name.count("/") for each in ended.members) <= 32


async def test_files_of_the_box_cannot_be_forged(stand: HostileStand):
    ended = await stand.attack("own_files")
    assert ended.code == "succeeded"
    assert ended.status["id"] == ended.told["id"]
    assert b"transformations" in ended.files["job.json"]
    assert ended.lines[0]["message"] == "Executing transformation own_files"
    assert ended.files["below/status.json"] == b"kept"
    assert len({each.name for each in ended.members}) == len(ended.members)


async def test_locked_files_are_left_out(stand: HostileStand):
    ended = await stand.attack("locked_files")
    assert ended.code == "succeeded"
    assert not any(data == b"unreadable" for data in ended.files.values())
    assert any("Left out" in line["message"] for line in ended.lines)


async def test_folder_that_turns_into_a_link_leads_nowhere(stand: HostileStand):
    ended = await stand.attack("replaced_folder")
    assert ended.code == "succeeded"
    assert not any(b"root:" in data for data in ended.files.values())


@pytest.mark.parametrize("name", ["silent_end", "closed_descriptors", "forged_messages"])
async def test_end_without_a_word_is_a_crash(stand: HostileStand, name: str):
    ended = await stand.attack(name)
    assert ended.code == "crashed"
    assert ended.status["id"] == ended.told["id"]
    assert [step["name"] for step in ended.status["steps"]] == [name]
    assert ended.files["a.txt"] == b"a"


# The gateway's end


@pytest.mark.slow
async def test_gateway_that_was_killed_clears_away_what_no_recursion_can():
    """Its next start finds the folders of its boxes, 2000 folders deep."""
    with own_world() as base:
        async with serving(base) as server:
            secret = await server.secret()
            async with server.session(headers={"Authorization": f"Bearer {secret}"}) as http:
                stand = HostileStand(base, server, http)
                job_id = await stand.submit(job_of({"name": "deep_and_waits", "options": {"marker": "evil-deep"}}))

                async def deep() -> bool:
                    return any(
                        b'"deep"' in path.read_bytes() for box in stand.boxes() if (path := box / "out.log").exists()
                    )

                await eventually(deep)
                boxes = stand.boxes()
                server.send_signal(signal.SIGKILL)
                await server.wait()
        assert job_id
        async with serving(base) as server:
            assert not any(box.exists() for box in boxes)
            assert bearers("evil-deep") == []
