"""The pytest plugin: fixtures for the tests of gateway plugins.

``make_gateway``, ``serve_process`` and ``run_gateway`` work under any asyncio runner. ``gateway``, ``client`` and
``upstream`` are there where pytest-asyncio is installed. Nothing of the core is imported before a test asks for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from gateway_core.testing.harness import RunningGateway
    from gateway_core.testing.process import Finished, ServeProcess
    from gateway_core.testing.upstream import Upstream

MakeGateway = Callable[..., AbstractAsyncContextManager["RunningGateway"]]
"""``make_gateway(settings, plugins=..., data_dir=...)``; all arguments may be left out."""

Serve = Callable[..., AbstractAsyncContextManager["ServeProcess"]]
"""``serve_process(*arguments, env=..., data_dir=...)``."""

Run = Callable[..., Coroutine[Any, Any, "Finished"]]
"""``run_gateway(*arguments, env=..., data_dir=...)``."""

pytest.register_assert_rewrite("gateway_core.testing.sources", "gateway_core.testing.storage")


@pytest.fixture
def gateway_config() -> Mapping[str, Any]:
    """Settings of the ``gateway`` fixture, as in a settings file but in lower case; define it anew in your tests."""
    return {}


@pytest.fixture
def gateway_plugins() -> Mapping[str, object]:
    """Plugins of the ``gateway`` fixture that are not installed: modules or objects by name; define it anew."""
    return {}


@pytest.fixture(scope="session")
def gateway_templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrated databases, so that not every test has to migrate one."""
    return tmp_path_factory.mktemp("gateway-templates")


@pytest.fixture
def make_gateway(tmp_path: Path, gateway_templates: Path) -> MakeGateway:
    """Make gateways that run in the test's event loop.

    ``async with make_gateway({"hello": {"greeting": "Hi"}}) as gateway:`` gives a RunningGateway. Those
    of one test share a data folder unless ``data_dir`` is given, as the processes of one installation do.
    """

    def make(
        settings: Mapping[str, Any] | None = None,
        *,
        plugins: Mapping[str, object] | None = None,
        data_dir: Path = tmp_path / "gateway",
    ) -> AbstractAsyncContextManager[RunningGateway]:
        from gateway_core.testing.harness import running_gateway

        return running_gateway(data_dir, settings=settings, plugins=plugins, templates=gateway_templates)

    return make


@pytest.fixture
def serve_process(tmp_path: Path) -> Serve:
    """Run ``gateway serve`` as a process.

    ``async with serve_process("--workers", "3") as server:`` gives a ServeProcess that is ready.
    """

    def serve(
        *arguments: str, env: Mapping[str, str] | None = None, data_dir: Path = tmp_path / "gateway"
    ) -> AbstractAsyncContextManager[ServeProcess]:
        from gateway_core.testing import process

        return process.serve_process(*arguments, data_dir=data_dir, env=env)

    return serve


@pytest.fixture
def run_gateway(tmp_path: Path) -> Run:
    """Run a command as a process to its end.

    ``done = await run_gateway("plugins", "--json")`` gives its exit code and what it printed.
    """

    async def run(
        *arguments: str, env: Mapping[str, str] | None = None, data_dir: Path = tmp_path / "gateway"
    ) -> Finished:
        from gateway_core.testing import process

        return await process.run_gateway(*arguments, data_dir=data_dir, env=env)

    return run


try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:  # the fixtures above are enough for other runners
    pass
else:

    @async_fixture
    async def gateway(
        make_gateway: MakeGateway, gateway_config: Mapping[str, Any], gateway_plugins: Mapping[str, object]
    ) -> AsyncIterator[RunningGateway]:
        """A running gateway with the installed plugins, ``gateway_config`` and ``gateway_plugins``."""
        async with make_gateway(gateway_config, plugins=gateway_plugins) as running:
            yield running

    @async_fixture
    async def client(gateway: RunningGateway) -> AsyncIterator[ClientSession]:
        """An HTTP client of ``gateway``; send a secret with ``headers={"Authorization": await gateway.secret()}``."""
        async with gateway.session() as session:
            yield session

    @async_fixture
    async def upstream() -> AsyncIterator[Upstream]:
        """A server to fetch from that can stall, cut and lie."""
        from gateway_core.testing.upstream import Upstream

        async with Upstream() as up:
            yield up
