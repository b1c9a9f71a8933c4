"""``gateway serve`` as operators meet it: started, signalled, killed, misconfigured, with its services away."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import stat
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

import pytest
from aiohttp import ClientPayloadError, ClientResponse, ClientSession

from gateway_core.testing.process import Finished, ServeProcess, run_gateway
from gateway_core.testing.process import serve_process as serve_on_nothing
from gateway_core.testing.services import PrivatePostgres, free_port, private_postgres, require
from gateway_core.testing.upstream import Upstream
from gateway_core.testing.upstream_behaviour import Endless, Stall
from tests.prepared import prepare, serve_process

PATIENCE_S = 30.0
MIB = 1 << 20
KEY = "a key of more than sixteen characters"
FETCH_HERE = {"GATEWAY_EGRESS_ALLOW": "127.0.0.0/8"}
ALONE = {"GATEWAY_PLUGINS": "archive"}


@pytest.fixture(scope="module")
def postgres() -> Iterator[PrivatePostgres]:
    require("postgres")
    with private_postgres() as server:
        yield server


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as up:
        yield up


async def refused(*arguments: str, data_dir: Path, **environ: str) -> Finished:
    """``gateway serve`` that is not expected to start; on a free port where none is given."""
    port = () if "--port" in arguments else ("--port", "0")
    done = await run_gateway("serve", *port, *arguments, data_dir=data_dir, env={**ALONE, **environ})
    assert "Traceback" not in done.err
    return done


def children(server: ServeProcess) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def until(condition, what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not in {PATIENCE_S:.0f} s: {what}")


def port_of(server: ServeProcess) -> int:
    return int(server.url.rpartition(":")[2])


def free(port: int) -> bool:
    """Whether somebody else may listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def readiness(server: ServeProcess) -> tuple[int, str]:
    async with server.session() as session, session.get("/readyz") as response:
        return response.status, (await response.json())["status"]


@contextlib.asynccontextmanager
async def downloads(server: ServeProcess, urls: list[str]) -> AsyncIterator[list]:
    """A running download of each URL."""
    secret = await server.secret()
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(server.session(headers={"Authorization": secret}))
        answers = []
        for url in urls:
            async with session.post("/ticket/generate", json={"items": [url]}) as response:
                assert response.status == 200, await response.text()
                ticket = (await response.json())["id"]
            answers.append(await stack.enter_async_context(session.get(f"/ticket/{ticket}/download")))
        yield answers


# The start


async def test_a_cold_start_makes_everything_and_is_ready(tmp_path):
    data_dir = tmp_path / "deep" / "data"
    async with serve_on_nothing(data_dir=data_dir, env=ALONE) as server:
        assert await readiness(server) == (200, "ready")
        (line,) = await server.wait_log("ready")
        assert (line["url"], line["pid"], line["level"]) == (server.url, server.pid, "info")
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir / "instance.key").stat().st_mode) == 0o600
        assert stat.S_IMODE((data_dir / "gateway.db").stat().st_mode) & 0o077 == 0
        async with server.session() as session:
            for path in ("/healthz", "/openapi.json", "/docs", "/metrics"):
                async with session.get(path) as response:
                    assert response.status == 200, path
    assert {line["level"] for line in server.logs} == {"info"}
    assert not list((data_dir / "scratch").iterdir())


async def test_a_second_start_finds_what_the_first_one_left(tmp_path):
    async with serve_process(data_dir=tmp_path, env=ALONE) as server:
        secret = await server.secret()
    async with serve_process(data_dir=tmp_path, env=ALONE) as server, server.session() as session:
        async with session.get("/ticket/", headers={"Authorization": secret}) as response:
            assert response.status == 200


async def test_options_may_stand_before_and_after_the_command(tmp_path):
    file = tmp_path / "gateway.py"
    file.write_text('DEMO = True\nARCHIVE = {"prefix": "/file"}\nLOG_LEVEL = "error"\n')
    arguments = [
        "--config",
        str(file),
        "--set",
        "archive.prefix=/set",
        "--set",
        "log_level=info",
        "--plugins",
        "archive",
    ]
    async with serve_process(*arguments, data_dir=tmp_path / "data") as server, server.session() as session:
        for path, status in (("/demo/hello.txt", 200), ("/set/ticket/", 401), ("/file/ticket/", 404)):
            async with session.get(path) as response:
                assert response.status == status, path
    async with serve_process("--plugins", "", data_dir=tmp_path / "data") as server, server.session() as session:
        async with session.get("/ticket/") as response:
            assert response.status == 404


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_port_that_is_taken_is_told(tmp_path, workers):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = await refused("--port", str(port), "--workers", workers, data_dir=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"gateway: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


async def test_a_host_that_is_not_of_this_machine_is_told(tmp_path):
    done = await refused("--host", "192.0.2.1", data_dir=tmp_path)
    assert done.code == 1
    assert done.err.startswith("gateway: cannot listen on 192.0.2.1 port 0: ")


@pytest.mark.parametrize("place", ["/dev/null/data", "/proc"])
async def test_a_data_folder_that_cannot_be_had_is_wrong_configuration(place):
    done = await refused(data_dir=Path(place))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"gateway: DATA_DIR: cannot use {place}: ")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_another_key_than_the_databases_refuses_to_start(tmp_path, workers):
    prepare(tmp_path, ALONE)
    made = await run_gateway("client", "add", "x", data_dir=tmp_path, env={**ALONE, "GATEWAY_SECRET_KEY": KEY})
    assert made.code == 0, made.err
    done = await refused("--workers", workers, data_dir=tmp_path, GATEWAY_SECRET_KEY="another key of sixteen and more")
    assert done.code == 1
    assert "gateway: SECRET_KEY is not the key of this database; add the old key behind the new one" in done.err


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"GATEWAY_HSOT": "::"}, "GATEWAY_HSOT: no such setting; did you mean GATEWAY_HOST?"),
        ({"GATEWAY_REDIS_URL": "http://h"}, "Redis URL"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_wrong_configuration_is_exit_2_and_one_clear_line(tmp_path, environ, words):
    done = await refused(data_dir=tmp_path, **environ)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert done.err.startswith("gateway: ")


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_gateway_ends_at_once_with_0_and_leaves_the_port(tmp_path, number):
    async with serve_process(data_dir=tmp_path, env=ALONE) as server:
        server.send_signal(number)
        assert await server.wait() == 0
        assert free(port_of(server))
    assert [line["event"] for line in server.logs][-1] == "draining"


async def test_sigterm_in_the_middle_of_ten_downloads_lets_all_ten_complete(tmp_path, upstream):
    names = [f"{number}.bin" for number in range(10)]
    urls = [upstream.add(f"/{name}", 2 * MIB, Stall(after=MIB)) for name in names]
    async with serve_process(data_dir=tmp_path, env={**ALONE, **FETCH_HERE}) as server:
        async with downloads(server, urls) as answers:
            begun = [await answer.content.readany() for answer in answers]
            server.send_signal(signal.SIGTERM)
            await server.wait_log("draining")
            await until(lambda: free(port_of(server)), "the port is left while downloads go on")
            for name in names:
                upstream.release(f"/{name}")
            whole = [first + await answer.read() for first, answer in zip(begun, answers, strict=True)]
        assert await server.wait() == 0
    for name, data in zip(names, whole, strict=True):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.read(name) == upstream.content(f"/{name}")


async def read_off(answer: ClientResponse) -> None:
    """Read to the end and keep nothing, for an endless answer fills any memory."""
    async for _ in answer.content.iter_any():
        pass


async def test_a_second_sigterm_cuts_at_once(tmp_path, upstream):
    url = upstream.add("/endless.bin", 0, Endless())
    async with serve_process(data_dir=tmp_path, env={**ALONE, **FETCH_HERE}) as server:
        async with downloads(server, [url]) as (answer,):
            await answer.content.readany()
            server.send_signal(signal.SIGTERM)
            await server.wait_log("draining")
            server.send_signal(signal.SIGTERM)
            began = time.monotonic()
            with pytest.raises(ClientPayloadError):
                await read_off(answer)
        assert await server.wait() == 0
        assert time.monotonic() - began < 20, "the drain's limit is 30 s"
        await upstream.wait_disconnected()
    assert [line["requests"] for line in server.logs if line["event"] == "cut"] == [1]


async def test_what_outlasts_the_drain_is_cut(tmp_path, upstream):
    url = upstream.add("/slow.bin", 2 * MIB, Stall(after=MIB))
    environ = {**ALONE, **FETCH_HERE, "GATEWAY_DRAIN_TIMEOUT_S": "0.5"}
    async with serve_process(data_dir=tmp_path, env=environ) as server:
        async with downloads(server, [url]) as (answer,):
            await answer.content.readany()
            server.send_signal(signal.SIGTERM)
            await server.wait_log("cut")
            with pytest.raises(ClientPayloadError):
                await read_off(answer)
        assert await server.wait() == 0


async def test_balancers_are_told_before_the_port_closes_and_a_second_signal_ends_the_delay(tmp_path):
    async with serve_process(data_dir=tmp_path, env={**ALONE, "GATEWAY_DRAIN_DELAY_S": "60"}) as server:
        assert await readiness(server) == (200, "ready")
        server.send_signal(signal.SIGTERM)
        await server.wait_log("draining")
        assert await readiness(server) == (503, "draining")
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0


async def test_the_delay_ends_by_itself(tmp_path):
    async with serve_process(data_dir=tmp_path, env={**ALONE, "GATEWAY_DRAIN_DELAY_S": "0.5"}) as server:
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0
        assert time.monotonic() - began >= 0.5


# Several processes


async def test_a_killed_worker_is_replaced_while_the_others_answer(tmp_path):
    async with serve_process("--workers", "3", data_dir=tmp_path, env=ALONE) as server:
        await server.wait_log("ready", count=4)  # each of the three, and their parent
        before = children(server)
        assert len(before) == 3
        os.kill(before[0], signal.SIGKILL)
        (line,) = await server.wait_log("worker ended")
        assert (line["pid"], line["code"]) == (before[0], -signal.SIGKILL)
        for _ in range(20):
            assert await readiness(server) == (200, "ready")
        await until(lambda: len(children(server)) == 3, "a new one")
        assert len(set(children(server)) - set(before)) == 1
        await server.wait_log("ready", count=5)
        assert await server.stop() == 0
        assert not any(map(alive, before))


async def test_workers_complete_downloads_when_the_first_process_is_told_to_stop(tmp_path, upstream):
    urls = [upstream.add(f"/{number}.bin", 2 * MIB, Stall(after=MIB)) for number in range(4)]
    async with serve_process("--workers", "2", data_dir=tmp_path, env={**ALONE, **FETCH_HERE}) as server:
        await server.wait_log("ready", count=3)  # both, and their parent
        pids = children(server)
        async with downloads(server, urls) as answers:
            for answer in answers:
                await answer.content.readany()
            server.send_signal(signal.SIGTERM)
            await server.wait_log("draining", count=2)
            for number in range(4):
                upstream.release(f"/{number}.bin")
            for answer in answers:
                assert (await answer.read()).endswith(b"content-gateway")
        assert await server.wait() == 0
        assert not any(map(alive, pids))
        assert free(port_of(server))


async def test_workers_leave_when_the_first_process_is_killed(tmp_path):
    async with serve_process("--workers", "2", data_dir=tmp_path, env=ALONE) as server:
        await server.wait_log("ready", count=3)
        pids = children(server)
        os.kill(server.pid, signal.SIGKILL)
        assert await server.wait() == -signal.SIGKILL
        await until(lambda: not any(map(alive, pids)), "children leave")
        await until(lambda: free(port_of(server)), "the port is free")


async def test_a_client_revoked_elsewhere_is_shut_out_of_every_worker_within_about_a_second(tmp_path):
    async with serve_process("--workers", "2", data_dir=tmp_path, env=ALONE) as server:
        added = await server.command("client", "add", "revoked", "--json")
        headers = {"Authorization": json.loads(added.out)["secret"]}
        await server.wait_log("ready", count=3)

        async def statuses() -> set[int]:
            found = set()
            for _ in range(8):
                async with ClientSession(server.url) as session, session.get("/ticket/", headers=headers) as response:
                    found.add(response.status)
            return found

        assert await statuses() == {200}
        assert (await server.command("client", "revoke", "revoked")).code == 0
        async with asyncio.timeout(10):
            while await statuses() != {401}:
                pass


# PostgreSQL


async def test_pending_migrations_are_refused_unless_asked_for(tmp_path, postgres):
    environ = {"GATEWAY_DB_URL": postgres.create("pending"), "GATEWAY_SECRET_KEY": KEY}
    for workers in ("1", "2"):
        done = await refused("--workers", workers, data_dir=tmp_path, **environ)
        assert done.code == 1
        assert "gateway: the database is behind the code (core, archive); run: gateway db upgrade" in done.err
    environ |= ALONE
    async with serve_process(data_dir=tmp_path, env={**environ, "GATEWAY_AUTO_MIGRATE": "yes"}):
        pass
    async with serve_process(data_dir=tmp_path, env=environ) as server:
        assert await readiness(server) == (200, "ready")


async def test_workers_that_start_on_a_new_database_all_stay(tmp_path, postgres):
    environ = {"GATEWAY_DB_URL": postgres.create("workers"), "GATEWAY_SECRET_KEY": KEY, "GATEWAY_AUTO_MIGRATE": "1"}
    async with serve_process("--workers", "3", data_dir=tmp_path, env={**ALONE, **environ}) as server:
        await server.wait_log("ready", count=4)
    assert [line for line in server.logs if line["event"] == "worker ended"] == []
    assert postgres.password not in str(server.logs)


async def test_a_password_that_is_wrong_is_told_at_once_and_not_shown(tmp_path, postgres):
    url = postgres.create("wrong").replace(postgres.password, "canary")
    began = time.monotonic()
    done = await refused(data_dir=tmp_path, GATEWAY_DB_URL=url, GATEWAY_SECRET_KEY=KEY)
    assert done.code == 1
    assert "gateway: postgresql://gateway:***@127.0.0.1:" in done.err
    assert "canary" not in done.err
    assert time.monotonic() - began < 20


async def test_postgresql_that_comes_late_is_waited_for(tmp_path, postgres):
    environ = {"GATEWAY_DB_URL": postgres.create("late"), "GATEWAY_SECRET_KEY": KEY, "GATEWAY_AUTO_MIGRATE": "1"}
    postgres.stop()
    process = await start(["--port", "0"], tmp_path, {**ALONE, **environ})
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            await read_until(b"trying again", process.stdout)
            await asyncio.to_thread(postgres.start)
            await read_until(b'"ready"', process.stdout)
    finally:
        if not postgres.answers():
            postgres.start()
        code = await end(process)
    assert code == 0


async def read_until(words: bytes, log: asyncio.StreamReader) -> None:
    async for line in log:
        if words in line:
            return
    pytest.fail(f"the log ended without {words.decode()}")


@pytest.mark.slow
async def test_postgresql_that_never_comes_is_given_up_after_half_a_minute(tmp_path):
    url = f"postgresql://gateway:canary@127.0.0.1:{free_port()}/d"
    began = time.monotonic()
    done = await refused(data_dir=tmp_path, GATEWAY_DB_URL=url, GATEWAY_SECRET_KEY=KEY)
    assert done.code == 1
    assert 29 < time.monotonic() - began < 55
    assert "canary" not in done.err


# systemd


AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


async def start(
    arguments: list[str], data_dir: Path, environ: dict[str, str], *, listen: socket.socket | None = None
) -> asyncio.subprocess.Process:
    """``gateway serve``, with ``listen`` as the first socket of systemd's socket activation (sd_listen_fds(3))."""
    await asyncio.to_thread(prepare, data_dir, environ)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environment = {**inherited, "GATEWAY_DATA_DIR": str(data_dir), "GATEWAY_LOG_FORMAT": "json", **environ}
    command = [sys.executable, "-P", "-m", "gateway_core", "serve", *arguments]
    descriptors: tuple[int, ...] = ()
    if listen is not None:
        descriptors = (listen.fileno(),)
        command = [sys.executable, "-c", AS_SYSTEMD, str(listen.fileno()), *command]
    return await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=environment, pass_fds=descriptors
    )


async def end(process: asyncio.subprocess.Process) -> int:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await process.wait()
    except TimeoutError:
        process.kill()
        raise


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_socket_that_systemd_listens_on_is_used(tmp_path, workers):
    with socket.socket() as listen:
        listen.bind(("127.0.0.1", 0))
        listen.listen()
        url = f"http://127.0.0.1:{listen.getsockname()[1]}"
        async with ClientSession(url) as session:
            early = asyncio.ensure_future(session.get("/healthz"))
            process = await start(["--port", "1", "--workers", workers], tmp_path, ALONE, listen=listen)
            try:
                async with asyncio.timeout(PATIENCE_S), await early as response:
                    assert response.status == 200
            finally:
                code = await end(process)
    assert code == 0


async def test_a_socket_of_another_kind_is_refused(tmp_path):
    with socket.socket(socket.AF_UNIX) as listen:
        listen.bind(str(tmp_path / "socket"))
        listen.listen()
        process = await start([], tmp_path / "data", ALONE, listen=listen)
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()
    assert process.returncode == 1
    assert b"gateway: systemd passed a socket that is not TCP" in out


async def test_sockets_meant_for_another_process_are_left_alone(tmp_path):
    environ = {**ALONE, "LISTEN_PID": "1", "LISTEN_FDS": "1"}
    async with serve_process(data_dir=tmp_path, env=environ) as server:
        assert await readiness(server) == (200, "ready")
