"""Fixtures for gateways that share a Redis and a database. Loaded as a plugin."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest

from gateway_core import Gateway, MigrationSource, Role, hookimpl
from gateway_core.app.compose import compose
from gateway_core.auth.keyring import instance_key
from gateway_core.db.migrate import run_migrations
from gateway_core.settings import Inputs
from gateway_core.testing.services import PrivateRedis, private_redis, require
from gateway_pipe import plugin
from gateway_pipe.cluster.announcer import Pace
from tests.pipe.members import QUICK, Member, cluster_member


class _Tables:
    """In place of the plugin: its tables alone."""

    @hookimpl
    def gateway_migrations(self) -> MigrationSource:
        return plugin.gateway_migrations()


MakeMember = Callable[..., AbstractAsyncContextManager[Member]]


@pytest.fixture(scope="session")
def cluster_redis() -> Iterator[PrivateRedis]:
    """One server for the session; a test that kills it starts it again."""
    require("redis")
    with private_redis() as server:
        yield server


@pytest.fixture(scope="session")
def cluster_gateway(cluster_redis, tmp_path_factory) -> Gateway:
    """What the gateways of all tests have in common: settings, and a migrated database to copy."""
    folder = tmp_path_factory.mktemp("cluster")
    options = {"data_dir": folder, "redis_url": cluster_redis.url, "plugins": ("pipe",), "drain_timeout_s": 5.0}
    gateway = compose(Inputs(options=options), role=Role.SERVER, extra={"pipe": _Tables()}).gateway
    instance_key(folder)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run_migrations(gateway.settings.database_url, gateway.migration_sources())).result()
    return gateway


@pytest.fixture
def make_member(cluster_gateway, tmp_path) -> MakeMember:
    """``async with make_member() as one`` is a gateway process of the test's cluster, without its ports for clients."""
    shutil.copytree(cluster_gateway.settings.data_dir, tmp_path, dirs_exist_ok=True)

    @asynccontextmanager
    async def make(*, pace: Pace = QUICK, **options: object) -> AsyncIterator[Member]:
        settings = cluster_gateway.settings.model_copy(update={"data_dir": tmp_path, **options})
        gateway = Gateway(settings, cluster_gateway.hooks, role=Role.SERVER)
        async with gateway.opened(), cluster_member(gateway, pace) as made:
            yield made
            gateway.closing.set()

    return make


@pytest.fixture
async def two_members(make_member) -> AsyncIterator[tuple[Member, Member]]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(make_member()), await stack.enter_async_context(make_member())
