"""A gateway that runs in the event loop of a test: real ports, a real database, a data folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import socket
import sqlite3
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from gateway_core.app.compose import compose
from gateway_core.app.traffic import Traffic
from gateway_core.auth.client import Client
from gateway_core.auth.store import NewClient
from gateway_core.gateway import Gateway, Role
from gateway_core.server.process import drain, listening
from gateway_core.server.sockets import MAIN, address, bind_all
from gateway_core.settings import Inputs

LOOPBACK = ("127.0.0.0/8", "::1")


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that answers on 127.0.0.1; ``core`` is the Gateway that its plugins hold."""

    core: Gateway
    sockets: Mapping[str, socket.socket]
    traffic: Traffic

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>`` of the main port."""
        return f"http://{self.address()}"

    def address(self, listener: str = MAIN) -> str:
        """``host:port`` of the main port, or of a plugin's listener: ``<plugin>.<listener's name>``."""
        return address(self.sockets[listener])

    async def add_client(self, *scopes: str) -> tuple[Client, str]:
        """A new client with a name of its own, and its secret; without ``scopes`` it gets what any new client gets."""
        _, granted = self.core.scopes()
        new = NewClient(f"test-{uuid.uuid4().hex[:8]}", frozenset(scopes) or granted)
        return await self.core.clients.add(new)

    async def secret(self, *scopes: str) -> str:
        """The secret of a new client, for ``headers={"Authorization": secret}``."""
        _, secret = await self.add_client(*scopes)
        return secret

    def session(self, **options: Any) -> ClientSession:
        """An HTTP client whose URLs are paths of the main port; close it, or use it as an async context manager."""
        return ClientSession(self.url, **options)

    async def drain(self) -> None:
        """What SIGTERM makes of it: take nothing new, and wait for what runs."""
        await drain(self.core, self.traffic)


@asynccontextmanager
async def running_gateway(
    data_dir: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    plugins: Mapping[str, object] | None = None,
    templates: Path | None = None,
) -> AsyncIterator[RunningGateway]:
    """A serving gateway on a free port, in this event loop, until the end of the block.

    ``settings`` are those of a settings file in lower case, a plugin's section as a dict; the environment is not read.
    Addresses of this machine may be fetched unless ``egress_allow`` says otherwise. Beside the installed plugins those
    of ``plugins`` are loaded, modules or objects by name. Migrated SQLite files are kept in ``templates``, since
    migrating takes a second. Raises what ``gateway serve`` would end with.
    """
    here = {"host": "127.0.0.1", "port": 0, "data_dir": data_dir, "egress_allow": LOOPBACK}
    gateway = compose(Inputs(options={**here, **(settings or {})}), role=Role.SERVER, extra=plugins).gateway
    gateway.make_data_dir()
    with contextlib.ExitStack() as bound:
        sockets = bind_all(gateway)
        for sock in sockets.values():
            bound.callback(sock.close)
        await _bring_up_to_date(gateway, templates)
        async with gateway.opened(), gateway.running(), listening(gateway, sockets) as traffic:
            try:
                yield RunningGateway(gateway, sockets, traffic)
            finally:
                gateway.draining.set()
                gateway.closing.set()


async def _bring_up_to_date(gateway: Gateway, templates: Path | None) -> None:
    """Migrate the database, or begin with a copy of one that was migrated by the same scripts."""
    settings = gateway.settings
    file = settings.data_dir / "gateway.db"
    template = None if templates is None or settings.db_url else templates / f"{_scripts(gateway)}.db"
    if template is not None and template.exists() and not file.exists():
        await asyncio.to_thread(shutil.copy, template, file)
    fresh = not file.exists()
    async with gateway.database():
        await gateway.ensure_schema()
    if template is not None and fresh:
        await asyncio.to_thread(_copy_database, file, template)


def _scripts(gateway: Gateway) -> str:
    """A name for the set of migrations of core and plugins."""
    scripts = [
        f"{source.name}/{script.name}"
        for source in gateway.migration_sources()
        for script in sorted(Path(source.directory, "versions").glob("*.py"))
    ]
    return hashlib.sha256("\n".join(scripts).encode()).hexdigest()[:16]


def _copy_database(file: Path, copy: Path) -> None:
    staged = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}")
    with contextlib.closing(sqlite3.connect(file)) as source, contextlib.closing(sqlite3.connect(staged)) as target:
        source.backup(target)
    staged.rename(copy)
