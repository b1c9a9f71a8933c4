"""What ``deploy`` ships, run as far as this machine can: there is no container engine and no booted systemd here."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any

import pytest
import yaml

from gateway_core.server.supervisor import STOP_GRACE_S
from gateway_core.settings import Settings, parse_duration
from gateway_core.testing.process import run_gateway, serve_process
from gateway_core.testing.requirements import require_program
from gateway_core.testing.services import free_port
from gateway_pipe.cli.connect import connect
from gateway_pipe.node.program import STOP_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = {name: DEPLOY / "systemd" / f"{name}.service" for name in ("gateway", "gateway-worker", "gateway-node")}
EXPOSURE = {"gateway": 2.0, "gateway-worker": 2.5, "gateway-node": 1.5}
BEST_LEVEL = {"gateway": "landlock", "gateway-worker": "namespaces"}
LONGEST_DRAIN_S = sum(Settings.model_fields[f"drain_{name}_s"].default for name in ("delay", "timeout")) + STOP_GRACE_S
LONGEST_S = {"gateway": LONGEST_DRAIN_S, "gateway-worker": LONGEST_DRAIN_S, "gateway-node": STOP_S}

PATIENCE_S = 30.0
APACHE_MODULES = ("mpm_event", "authz_core", "headers", "proxy", "proxy_http")


async def run(*command: str | Path, timeout_s: float = 60, **options: Any) -> tuple[int, str]:
    """Exit code and output of a command."""
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, **options)
    async with asyncio.timeout(timeout_s):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def unit_values(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", UNITS)
async def test_the_unit_is_one_that_systemd_understands(tmp_path, name):
    systemd, unit = require_program("systemd-analyze", "systemd"), UNITS[name]
    (installed,) = {shlex.split(line)[0] for line in unit_values(unit, "ExecStart")}
    copy = tmp_path / unit.name  # verify wants the program to be there
    copy.write_text(unit.read_text().replace(installed, sys.executable))
    assert await run(systemd, "verify", copy) == (0, "")


@pytest.mark.parametrize("name", UNITS)
async def test_the_unit_is_hardened(name):
    systemd = require_program("systemd-analyze", "systemd")
    most = f"--threshold={10 * EXPOSURE[name]:.0f}"
    code, output = await run(systemd, "security", "--offline=true", most, "--no-pager", UNITS[name])
    assert code == 0, output


@pytest.mark.parametrize("name", BEST_LEVEL)
async def test_the_unit_takes_nothing_from_the_sandboxes_it_is_to_have(name):
    require_program("systemd-analyze", "systemd")
    script = Path(__file__).with_name("unit_calls.py")
    code, output = await run(sys.executable, script, UNITS[name], BEST_LEVEL[name])
    assert code == 0, output
    (free, _), (held, missing) = map(json.loads, output.splitlines())
    assert held == free, missing


@pytest.mark.parametrize("name", UNITS)
def test_systemd_waits_for_the_longest_drain(name):
    (limit,) = unit_values(UNITS[name], "TimeoutStopSec")
    assert parse_duration(limit) > LONGEST_S[name]


def test_the_node_of_the_unit_has_options_that_there_are():
    (command,) = unit_values(UNITS["gateway-node"], "ExecStart")
    (more,) = re.findall(r"^#NODE_OPTIONS=(.*)$", (DEPLOY / "systemd" / "gateway-node.env").read_text(), re.MULTILINE)
    assert command.endswith(" $NODE_OPTIONS")
    given = [word for word in f"{command} {more}".split() if word.startswith("--")]
    assert len(given) == 4
    assert set(given) <= {name for option in connect.params for name in option.opts}


@contextmanager
def told(folder: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A socket that hears what systemd would, and the variable that names it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hearing:
        hearing.bind(str(folder / "notify"))
        hearing.settimeout(PATIENCE_S)
        yield hearing, {"NOTIFY_SOCKET": str(folder / "notify")}


def last_words(hearing: socket.socket) -> bytes:
    """What was said before the end, once."""
    said = hearing.recv(100)
    hearing.setblocking(False)
    with pytest.raises(BlockingIOError):
        hearing.recv(100)
    return said


@pytest.mark.parametrize("workers", [1, 2])
async def test_systemd_is_told_of_start_and_stop_once(tmp_path, workers):
    with told(tmp_path) as (hearing, env):
        async with serve_process(data_dir=tmp_path / "data", env=env | {"GATEWAY_WORKERS": str(workers)}) as gateway:
            ready = await asyncio.to_thread(hearing.recv, 100)
            code = await gateway.stop()
        assert (ready, last_words(hearing), code) == (b"READY=1", b"STOPPING=1", 0)


async def test_systemd_is_told_of_a_job_workers_start_and_stop(tmp_path):
    (command,) = unit_values(UNITS["gateway-worker"], "ExecStart")
    assert command.split()[1:] == ["worker"]
    with told(tmp_path) as (hearing, env):
        env |= {
            "PATH": os.environ["PATH"],
            "GATEWAY_DATA_DIR": str(tmp_path / "data"),
            "GATEWAY_TRANSFORM__WORKERS": "1",
        }
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway_core", "worker", env=env, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        )
        try:
            ready = await asyncio.to_thread(hearing.recv, 100)
        finally:
            worker.terminate()
            code = await worker.wait()
        assert (ready, last_words(hearing), code) == (b"READY=1", b"STOPPING=1", 0)


def settings_of(text: str) -> dict[str, str]:
    """``NAME=value`` lines of an environment file, also of those that are there to be uncommented."""
    return dict(re.findall(r"^#?(GATEWAY_\w+)=(.*)$", text, re.MULTILINE))


async def check_settings(data_dir: Path, settings: dict[str, str]) -> None:
    checked = await run_gateway("config", "check", data_dir=data_dir, env=settings)
    assert checked.code == 0, checked.err


async def test_the_settings_that_the_unit_brings_are_right(tmp_path):
    settings = settings_of((DEPLOY / "systemd" / "gateway.env").read_text())
    assert settings
    await check_settings(tmp_path, settings)


Instruction = tuple[str, str]


def instructions(stage: int) -> list[Instruction]:
    """(keyword, rest) of one stage of the Containerfile, lines that go on joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "container" / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = [line.split(maxsplit=1) for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line[0] == "FROM"] + [len(lines)]
    return [(keyword, rest) for keyword, rest in lines[starts[stage] : starts[stage + 1]]]


BUILD, SYSTEM, FINAL = range(3)


def only(keyword: str, stage: list[Instruction]) -> str:
    (value,) = [rest for name, rest in stage if name == keyword]
    return value


def test_the_image_runs_without_a_shell_and_without_root():
    final = instructions(FINAL)
    assert "RUN" not in {keyword for keyword, _ in final}
    assert only("USER", final) == "65532:65532"
    assert only("STOPSIGNAL", final) == "SIGTERM"
    assert json.loads(only("ENTRYPOINT", final)) + json.loads(only("CMD", final)) == ["gateway", "serve"]


def test_the_image_has_the_libraries_that_pages_are_set_with():
    assert only("FROM", instructions(FINAL)) == "system"
    assert only("FROM", instructions(SYSTEM)).endswith(" AS system")
    installed = set(only("RUN", instructions(SYSTEM)).split())
    assert installed >= {"libpango-1.0-0", "libpangoft2-1.0-0", "libharfbuzz-subset0", "fonts-dejavu-core"}


async def test_what_the_image_is_made_of_serves_and_its_health_check_tells(tmp_path):
    """The steps of the build, but for downloads: copy, build the wheel, install it; then run it as the image does."""
    source, installed = tmp_path / "src", tmp_path / "installed"
    source.mkdir()
    for keyword, rest in instructions(BUILD):
        if keyword == "COPY":
            *names, _ = rest.split()
            for name in names:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                await asyncio.to_thread(copy, ROOT / name, source / name)
    built = await run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    pip = await run(
        sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", installed, wheel
    )
    assert (built[0], pip[0]) == (0, 0), (built, pip)

    final = instructions(FINAL)
    env = dict(pair.split("=", 1) for pair in only("ENV", final).split())
    env = {"PYTHONPATH": str(installed), "GATEWAY_PORT": str(free_port())} | {
        name: value for name, value in env.items() if name not in {"PATH", "GATEWAY_PORT", "GATEWAY_DATA_DIR"}
    }
    python, *check = json.loads(only("HEALTHCHECK", final).partition("CMD ")[2])
    assert python == "python"
    origin = "import gateway_core, gateway_archive; print(gateway_core.__file__, gateway_archive.__file__)"
    _, imported = await run(sys.executable, "-P", "-c", origin, env={**os.environ, **env})
    async with serve_process("--port", env["GATEWAY_PORT"], data_dir=tmp_path / "data", env=env) as gateway:
        well, said = await run(sys.executable, *check, env={**os.environ, **env})
        stopped = await gateway.stop()
        ill, _ = await run(sys.executable, *check, env={**os.environ, **env})
    assert [path.startswith(str(installed)) for path in imported.split()] == [True, True], imported
    assert (well, said, stopped, ill) == (0, "", 0, 1)


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())


@pytest.mark.parametrize("name", ["gateway", "worker", "postgres", "redis"])
def test_services_of_the_compose_file_are_locked_in(compose, name):
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all("/tmp" in mount or mount.startswith(("/var/run", "/data")) for mount in service["tmpfs"])


def test_only_the_gateway_is_reached_from_outside_and_only_from_this_machine(compose):
    services = compose["services"]
    assert {name: service.get("ports") for name, service in services.items()} == {
        "gateway": ["127.0.0.1:8000:8000"],
        "worker": None,
        "postgres": None,
        "redis": None,
    }
    assert compose["networks"]["back"] == {"internal": True}
    assert services["postgres"]["networks"] == services["redis"]["networks"] == ["back"]


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_the_compose_file_waits_for_the_longest_drain(compose, name):
    assert parse_duration(compose["services"][name]["stop_grace_period"]) > LONGEST_DRAIN_S


def test_jobs_are_run_by_the_worker_which_shares_all_that_they_need(compose):
    gateway, worker = (compose["services"][name] for name in ("gateway", "worker"))
    assert (worker["command"], worker["image"]) == (["worker"], gateway["image"])
    assert "data:/data" in gateway["volumes"]
    assert "data:/data" in worker["volumes"]
    shared = ("GATEWAY_DB_URL_FILE", "GATEWAY_SECRET_KEY_FILE", "GATEWAY_REDIS_URL")
    assert [worker["environment"][name] for name in shared] == [gateway["environment"][name] for name in shared]
    assert gateway["environment"]["GATEWAY_TRANSFORM__WORKERS"] == "0"
    assert "GATEWAY_TRANSFORM__WORKERS" not in worker["environment"]


@pytest.mark.parametrize("name", ["gateway", "worker"])
async def test_the_settings_of_the_compose_file_are_right(tmp_path, compose, name):
    """With the secrets that its README makes, read from files; none stands in the environment."""
    secrets = {"db_url": "postgresql://gateway:password@postgres/gateway", "secret_key": "0123456789abcdef"}
    for secret, value in secrets.items():
        (tmp_path / secret).write_text(value)
    service = compose["services"][name]
    assert set(service["secrets"]) == set(secrets)
    settings = {key: value.replace("/run/secrets", str(tmp_path)) for key, value in service["environment"].items()}
    await check_settings(tmp_path / "data", settings)
    assert compose["secrets"] == {name: {"file": f"secrets/{name}"} for name in (*secrets, "db_password")}


async def test_apache_takes_the_sample(tmp_path):
    apache = require_program("apache2", "apache")
    modules = Path(apache).parents[1] / "lib" / "apache2" / "modules"
    lines = [f"LoadModule {name}_module {modules}/mod_{name}.so" for name in APACHE_MODULES]
    lines += [f"ServerRoot {tmp_path}", f"ErrorLog {tmp_path}/log", f"Include {DEPLOY}/apache/gateway.conf", ""]
    (tmp_path / "httpd.conf").write_text("\n".join(lines))
    code, output = await run(apache, "-t", "-f", tmp_path / "httpd.conf")
    assert code == 0, output


async def test_caddy_takes_the_sample(tmp_path):
    caddy = require_program("caddy", "caddy")
    command = (caddy, "validate", "--adapter", "caddyfile", "--config", DEPLOY / "caddy" / "Caddyfile")
    code, output = await run(*command, env={**os.environ, "HOME": str(tmp_path)})
    assert code == 0, output
