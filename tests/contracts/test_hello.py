"""The example plugin, installed from its own pyproject as a third party's would be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway_core.testing.plugin import Run, Serve

EXAMPLE = Path(__file__).parents[2] / "examples" / "gateway-hello"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed example."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(target), str(EXAMPLE)]
    subprocess.run([*command, *options], check=True, timeout=120)
    return target


@pytest.fixture
def env(installed: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(installed)}


def test_nothing_but_the_package_is_installed(installed: Path):
    names = {path.name for path in installed.iterdir()}
    assert names == {"gateway_hello", "gateway_hello-1.0.0.dist-info"}
    assert {path.name for path in (installed / "gateway_hello").iterdir()} >= {"plugin.py", "py.typed"}


async def test_it_is_found_by_its_entry_point(run_gateway: Run, env: dict[str, str]):
    done = await run_gateway("plugins", "--json", env=env)
    assert done.code == 0, done.err
    hello = next(info for info in json.loads(done.out) if info["name"] == "hello")
    assert hello == {
        "name": "hello",
        "entry_point": "gateway_hello.plugin",
        "distribution": "gateway-hello",
        "version": "1.0.0",
        "status": "enabled",
        "hooks": [
            *(f"gateway_{hook}" for hook in ("commands", "health", "routes", "settings", "sources")),
            "transform_transformations",
        ],
        "error": "",
    }


async def test_its_command_is_there_and_in_the_help(run_gateway: Run, env: dict[str, str]):
    greeted = await run_gateway("hello", "Ada", env=env | {"GATEWAY_HELLO__GREETING": "Moin"})
    assert (greeted.code, greeted.out) == (0, "Moin, Ada!\n"), greeted.err
    assert "Greet NAME" in (await run_gateway("--help", env=env)).out


async def test_its_route_is_served_and_described(serve_process: Serve, env: dict[str, str]):
    async with serve_process(env=env) as server, server.session() as session:
        secret = await server.secret("hello:greet")
        async with session.get("/hello/Ada", headers={"Authorization": secret}) as answer:
            assert (await answer.json())["greeting"] == "Hello, Ada!"
        async with session.get("/openapi.json") as answer:
            assert "/hello/{name}" in (await answer.json())["paths"]
        async with session.get("/readyz") as answer:
            assert (await answer.json())["checks"]["hello.greeting"] == "ok"


async def test_its_transformation_is_offered(serve_process: Serve, env: dict[str, str]):
    async with serve_process(env=env) as server, server.session() as session:
        async with session.get("/transformations/") as answer:
            assert (await answer.json())["hello_card"]["label"] == "Greeting card"


def test_its_own_tests_pass_with_the_fixtures_for_plugin_authors(installed: Path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(EXAMPLE)]
    done = subprocess.run(
        command,
        env={**environment, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout
