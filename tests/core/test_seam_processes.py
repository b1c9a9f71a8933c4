"""The seams as operators meet them: real processes, installed plugins, signals."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from gateway_core.server.process import CUT_S
from gateway_core.testing.plugin import Run, Serve
from gateway_core.testing.services import free_port
from tests.core.certificates import Certificates
from tests.core.seam_install import lay_out, path_of

BROKEN = "raise ImportError('no module named luck')\n"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Of a process in which the seam plugin is installed, and the only one that is enabled."""
    folder = tmp_path / "installed"
    folder.mkdir()
    return {**path_of(lay_out(folder, "seam", value="tests.core.seam_plugin")), "GATEWAY_PLUGINS": "seam"}


async def test_periodic_task_runs_once_a_period_in_all_workers_together(
    serve_process: Serve, env: dict[str, str], tmp_path: Path
):
    file = tmp_path / "turns"
    env |= {"GATEWAY_SEAM__TURNS": str(file), "GATEWAY_SEAM__PERIOD_S": "0.5"}
    async with serve_process("--workers", "3", env=env) as server:
        workers = {line["pid"] for line in await server.wait_log("ready", count=4) if "pid" in line}
        deadline = time.monotonic() + 30
        while len(turns := lines(file)) < 6 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert await server.stop() == 0
    moments = [float(moment) for _, moment in turns]
    assert len(workers) == 3
    assert {int(pid) for pid, _ in turns} <= workers
    # less what the first turn was late by; two processes that take each turn would have twice as many
    assert len(moments) - 1 <= (moments[-1] - moments[0]) / 0.5 + 1.5


def lines(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


async def test_drain_closes_websockets_with_1001_and_completes_a_file_that_is_being_sent(
    serve_process: Serve, env: dict[str, str], tmp_path: Path
):
    size = 64 << 20
    (tmp_path / "gateway").mkdir(mode=0o700)
    with (tmp_path / "gateway" / "big").open("wb") as big:
        big.truncate(size)
    async with serve_process(env=env) as server, server.session(read_bufsize=1 << 16) as session:
        socket = await session.ws_connect("/seam/echo")
        async with session.get("/seam/big") as answer:
            received = len(await answer.content.readexactly(100_000))
            server.send_signal(signal.SIGTERM)
            await socket.receive(timeout=20)
            assert socket.close_code == 1001
            await asyncio.sleep(3 * CUT_S)  # longer than what nobody waits for would live
            async for chunk in answer.content.iter_any():
                received += len(chunk)
        assert received == size
        assert await server.wait() == 0
    assert not [line for line in server.logs if line["event"] == "cut"]


async def test_command_of_a_plugin_has_a_gateway_without_lifespans(run_gateway: Run, env: dict[str, str]):
    done = await run_gateway("seam", env=env)
    assert (done.code, done.out) == (0, "cli, live: False\n")


async def test_two_commands_of_one_name_are_wrong_configuration(run_gateway: Run, env: dict[str, str], tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    text = "from tests.core.seam_plugin import gateway_commands\n"
    lay_out(other, "other", module=text)
    env |= path_of(tmp_path / "installed", other) | {"GATEWAY_PLUGINS": "seam,other"}
    done = await run_gateway("seam", env=env)
    assert (done.code, done.err) == (2, "gateway: plugin seam: the command 'seam' is defined twice\n")


@pytest.fixture
def with_broken(env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The seam plugin beside one that cannot be imported."""
    folder = tmp_path / "broken"
    folder.mkdir()
    lay_out(folder, "broken", module=BROKEN)
    return {**env, **path_of(tmp_path / "installed", folder), "GATEWAY_PLUGINS": "seam,broken"}


async def test_plugin_that_cannot_be_imported_stops_the_start_with_one_line(
    run_gateway: Run, with_broken: dict[str, str]
):
    done = await run_gateway("serve", "--port", "0", env=with_broken)
    expected = "gateway: plugin broken (test-broken, broken_broken): ImportError: no module named luck\n"
    assert (done.code, done.err) == (2, expected)


async def test_list_of_plugins_tells_which_failed_and_why(run_gateway: Run, with_broken: dict[str, str]):
    done = await run_gateway("plugins", "--json", env=with_broken)
    found = {info["name"]: info for info in json.load(io.StringIO(done.out))}
    assert found["archive"]["status"] == "disabled"
    assert (found["seam"]["status"], found["seam"]["distribution"], found["seam"]["version"]) == (
        "enabled",
        "test-seam",
        "1.2",
    )
    assert "gateway_routes" in found["seam"]["hooks"]
    assert found["broken"]["status"] == "failed"
    assert found["broken"]["error"].endswith("ImportError: no module named luck")


async def test_without_strictness_a_broken_plugin_degrades_the_gateway(
    serve_process: Serve, with_broken: dict[str, str]
):
    env = with_broken | {"GATEWAY_PLUGINS_STRICT": "false", "GATEWAY_BROKEN__SIZE": "1"}
    async with serve_process(env=env) as server, server.session() as session:
        async with session.get("/readyz") as answer:
            assert answer.status == 200
            assert (await answer.json())["degraded"] == ["plugins"]
        async with session.get("/seam/who") as answer:
            assert answer.status == 200


async def test_two_distributions_with_one_plugin_name_stop_the_start(
    run_gateway: Run, env: dict[str, str], tmp_path: Path
):
    other = tmp_path / "other"
    other.mkdir()
    lay_out(other, "seam", value="tests.core.seam_extra_plugin")
    (other / "test_seam-1.2.dist-info").rename(other / "copy_of_seam-1.2.dist-info")
    (other / "copy_of_seam-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: copy\nVersion: 1\n")
    done = await run_gateway("plugins", env=env | path_of(tmp_path / "installed", other))
    assert (done.code, done.err) == (2, "gateway: test-seam and copy both bring a plugin 'seam'\n")


async def test_client_revoked_by_a_command_is_shut_out_of_a_running_server(serve_process: Serve, env: dict[str, str]):
    async with serve_process(env=env) as server, server.session() as session:
        secret = await server.secret("seam:node:one")
        headers = {"Authorization": secret}
        async with session.get("/seam/node/one", headers=headers) as answer:
            name = (await answer.json())["client"]
        assert (await server.command("client", "revoke", name)).code == 0
        status = 200
        async with asyncio.timeout(20):
            while status == 200:
                await asyncio.sleep(0.05)
                async with session.get("/seam/node/one", headers=headers) as answer:
                    status = answer.status
        assert status == 401


async def test_worker_processes_share_a_listener_of_a_plugin(serve_process: Serve, env: dict[str, str], tmp_path: Path):
    certificates, port = Certificates(tmp_path), free_port()
    env |= {
        "GATEWAY_SEAM__BIND": f"127.0.0.1:{port}",
        "GATEWAY_SEAM__CERTIFICATE": str(certificates.listener),
        "GATEWAY_SEAM__AUTHORITY": str(certificates.authority),
    }
    async with serve_process("--workers", "2", env=env) as server, aiohttp.ClientSession() as session:
        made = await server.command("client", "add", "node-1", "--scope", "seam:node:one")
        assert made.code == 0
        url, context = f"https://127.0.0.1:{port}/node/one", certificates.client("node-1")
        async with session.get(url, ssl=context) as answer:
            assert await answer.json() == {"client": "node-1", "node": "one"}
