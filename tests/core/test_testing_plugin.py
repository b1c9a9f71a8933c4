"""The fixtures for plugin authors: what they load, what they need, and what they say when something is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway_core import ConfigError
from gateway_core.testing import running_gateway
from gateway_core.testing.plugin import MakeGateway, Run, Serve

LOADED = (
    "; print([m for m in ('aiohttp', 'pydantic', 'gateway_core.gateway', 'gateway_core.errors') if m in sys.modules])"
)
FIXTURES = (
    "; print([n for n in ('gateway', 'make_gateway', 'serve_process') if hasattr(gateway_core.testing.plugin, n)])"
)


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_pytest_loads_nothing_of_the_core_before_a_test_asks():
    assert python(f"import sys, gateway_core.testing.plugin{LOADED}") == "[]\n"


def test_without_pytest_asyncio_what_does_not_need_it_is_there():
    code = f"import sys; sys.modules['pytest_asyncio'] = None; import gateway_core.testing.plugin{FIXTURES}"
    assert python(code) == "['make_gateway', 'serve_process']\n"


async def test_environment_of_the_tests_does_not_reach_the_gateway(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GATEWAY_PORT", "nonsense")
    monkeypatch.setenv("GATEWAY_NO_SUCH", "1")
    async with make_gateway({"plugins": ()}) as gateway, gateway.session() as client:
        async with client.get("/readyz") as answer:
            assert answer.status == 200


async def test_gateways_with_folders_of_their_own_share_nothing(make_gateway: MakeGateway, tmp_path: Path):
    async with make_gateway({"plugins": ()}, data_dir=tmp_path / "one") as one:
        secret = await one.secret("core:metrics")
        assert await one.core.clients.by_secret(secret)
        async with make_gateway({"plugins": ()}, data_dir=tmp_path / "two") as two:
            assert await two.core.clients.by_secret(secret) is None


async def test_prepared_database_of_other_migrations_is_not_used(tmp_path: Path):
    templates = tmp_path / "templates"
    templates.mkdir()
    for plugins, data_dir in (((), "one"), ("archive", "two"), ("archive", "three")):
        async with running_gateway(tmp_path / data_dir, settings={"plugins": plugins}, templates=templates) as gateway:
            await gateway.core.db.check()
    assert len(list(templates.glob("*.db"))) == 2


async def test_wrong_settings_are_told_as_at_the_start(make_gateway: MakeGateway):
    with pytest.raises(ConfigError, match="PORT"):
        async with make_gateway({"port": "nonsense"}):
            pass


async def test_server_that_cannot_start_is_told_with_its_log(serve_process: Serve):
    with pytest.raises(RuntimeError, match=r"ended with 2:\n.*no plugin 'nope' is installed"):
        async with serve_process("--plugins", "nope"):
            pass


async def test_server_that_ends_in_the_block_is_no_error_of_its_own(serve_process: Serve):
    async with serve_process("--plugins", "archive") as server:
        assert await server.stop() == 0
    assert [line["level"] for line in server.logs if line["event"] == "draining"] == ["info"]


async def test_command_that_fails_gives_its_code_and_words(run_gateway: Run):
    done = await run_gateway("client", "revoke", "nobody")
    assert (done.code, done.out, done.err) == (1, "", "gateway: no client 'nobody'\n")
