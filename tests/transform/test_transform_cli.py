"""``gateway transform`` for operators: jobs, dead letters and webhooks of a gateway's own database."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gateway_core import Gateway, Role
from gateway_core.app.compose import compose
from gateway_core.auth.store import NewClient
from gateway_core.cli import main
from gateway_core.db.clock import now
from gateway_core.db.outbox import Outbox
from gateway_core.settings import Inputs
from gateway_transform.hooks.log import record
from gateway_transform.hooks.sending import Outcome, Verdict
from gateway_transform.jobs.claims import HOOK_TOPIC
from gateway_transform.jobs.store import JobStore
from gateway_transform.settings import TransformSettings
from tests.core.log_state import logging_restored
from tests.transform.rows import add_job

T = TypeVar("T")
HOOK = "https://hooks.test/?token=s3cret"


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Operator:
    """The command line on a data folder, and the gateway in it."""

    data_dir: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Done:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return Done(int(ended.value.code or 0), *self.capsys.readouterr())

    def within(self, work: Callable[[Gateway], Awaitable[T]]) -> T:
        """Do ``work`` with the gateway opened."""

        async def opened() -> T:
            gateway = compose(
                Inputs(options={"data_dir": self.data_dir, "plugins": "transform"}), role=Role.CLI
            ).gateway
            gateway.make_data_dir()
            async with gateway.opened():
                await gateway.ensure_schema()
                return await work(gateway)

        return asyncio.run(opened())

    def add(self, **columns: Any) -> str:
        """Id of a new job."""
        return self.within(lambda gateway: add_job(gateway, **columns))


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operator")

    async def nothing(_gateway: Gateway) -> None:
        pass

    Operator(folder, None).within(nothing)
    return folder


@pytest.fixture
def operator(
    migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Operator]:
    shutil.copytree(migrated, tmp_path / "data")
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GATEWAY_PLUGINS", "transform")
    with logging_restored():
        yield Operator(tmp_path / "data", capsys)


LOST = {"state": "failed", "error_code": "worker_lost", "error_message": "no worker came back", "attempt": 3}


def test_jobs_are_listed_with_their_client_and_what_went_wrong(operator):
    async def add(gateway: Gateway) -> tuple[str, str]:
        client, _ = await gateway.clients.add(NewClient("website", frozenset()))
        lost = await add_job(gateway, **LOST, client_id=client.id, created=0.0)
        return lost, await add_job(gateway, state="running", cancelling=True, ended=None, created=86400.0)

    lost, running = operator.within(add)
    done = operator("transform", "jobs")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{running}  cancelling  1970-01-02T00:00:00+00:00  attempt 1  0 ms  -",
        f"{lost}  failed  1970-01-01T00:00:00+00:00  attempt 3  0 ms  website  worker_lost: no worker came back",
    ]


def test_jobs_of_a_state_come_as_json(operator):
    operator.add()
    lost = operator.add(**LOST)
    (told,) = json.loads(operator("transform", "jobs", "--state", "failed", "--json").out)
    assert (told["id"], told["client"]) == (lost, "-")
    assert told["error"] == {"code": "worker_lost", "message": "no worker came back", "step": None}


def test_as_many_jobs_as_wanted(operator):
    for _ in range(3):
        operator.add()
    assert len(operator("transform", "jobs", "--limit", "2").out.splitlines()) == 2


def test_messages_of_jobs_do_not_steer_the_terminal(operator):
    operator.add(**LOST | {"error_message": "\x1b[2Jgone"})
    assert "worker_lost: \ufffd[2Jgone" in operator("transform", "jobs").out


def test_dead_letters_are_those_whose_worker_was_lost(operator):
    lost = operator.add(**LOST)
    operator.add(**LOST | {"error_code": "failed"})
    assert [line.split()[0] for line in operator("transform", "dead").out.splitlines()] == [lost]


def test_a_dead_letter_is_tried_again(operator):
    lost = operator.add(**LOST, input_key="transform/x/input", expires=4e9)
    dashed = f"{lost[:8]}-{lost[8:12]}-{lost[12:16]}-{lost[16:20]}-{lost[20:]}"
    assert operator("transform", "retry", dashed).out == f"Job queued again: {lost}\n"

    async def look(gateway: Gateway) -> tuple[str, int]:
        job = await JobStore(gateway.db, gateway.section(TransformSettings)).find(lost, None)
        return str(job.state), job.attempt

    assert operator.within(look) == ("queued", 0)


@pytest.mark.parametrize("command", ["retry", "replay"])
def test_a_job_that_is_not_there_is_told(operator, command):
    done = operator("transform", command, "0" * 32)
    assert (done.code, done.out) == (1, "")
    assert done.err == "gateway: Job not found\n"


@pytest.mark.parametrize("command", ["retry", "replay", "hooks"])
def test_what_is_no_id_is_a_usage_error(operator, command):
    assert operator("transform", command, "website").code == 2


def test_a_job_that_went_well_is_not_tried_again(operator):
    done = operator("transform", "retry", operator.add())
    assert done.code == 1
    assert "only a failed one" in done.err


def test_the_delivery_log_is_shown_for_all_and_for_one(operator):
    async def add(gateway: Gateway) -> tuple[str, str]:
        first, second = await add_job(gateway, hook=HOOK), await add_job(gateway, hook=HOOK)
        failed = Verdict(Outcome.FAILED, "503 Service Unavailable", status=503)
        await record(gateway.db, first, 1, verdict=failed, took_ms=12)
        await record(gateway.db, second, 1, verdict=Verdict(Outcome.DELIVERED, "", status=200), took_ms=7)
        return first, second

    first, second = operator.within(add)
    lines = operator("transform", "hooks").out.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted((first, second))
    (line,) = operator("transform", "hooks", first).out.splitlines()
    assert line.split("  ")[2:] == ["try 1", "failed", "503", "12 ms", "503 Service Unavailable"]
    (told,) = json.loads(operator("transform", "hooks", second, "--json").out)
    assert (told["job_id"], told["outcome"], told["status"]) == (second, "delivered", 200)


def test_a_webhook_is_delivered_once_more(operator):
    job_id = operator.within(lambda gateway: add_job(gateway, hook=HOOK, expires=now() + 60))
    done = operator("transform", "replay", job_id)
    assert done.code == 0

    async def due(gateway: Gateway) -> list[str]:
        return [item.id for item in await Outbox(gateway.db).claim(HOOK_TOPIC, limit=10, lease_s=60)]

    (message_id,) = operator.within(due)
    assert done.out == f"Webhook queued: {job_id} as {message_id}\n"


def test_without_the_plugin_the_commands_say_so(operator, monkeypatch):
    monkeypatch.setenv("GATEWAY_PLUGINS", "archive")
    for arguments in (["jobs"], ["dead"], ["retry", "0" * 32], ["hooks"], ["replay", "0" * 32]):
        done = operator("transform", *arguments)
        assert (done.code, done.err) == (2, "gateway: the plugin transform is not enabled here (PLUGINS)\n"), arguments


def test_the_clients_start_without_the_server():
    heavy = ("aiohttp", "sqlalchemy", "pydantic", "pluggy", "rich")
    code = (
        "import sys; from gateway_core.cli.root import root;"
        "root.main(args=['transform', 'run', '--help'], standalone_mode=False);"
        "import gateway_transform.client.run, gateway_transform.client.listing;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
