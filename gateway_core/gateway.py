"""The Gateway: everything a plugin may hold on to."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from gateway_core.auth.authenticators import Authenticator, Chain, SecretAuthenticator, TokenAuthenticator
from gateway_core.auth.keyring import Keyring, instance_key
from gateway_core.auth.store import ClientStore, grantable
from gateway_core.db.engine import Database
from gateway_core.db.idempotency import Idempotency
from gateway_core.db.leases import Leases
from gateway_core.db.migrate import CORE, MigrationSource, pending, run_migrations
from gateway_core.db.outbox import Outbox
from gateway_core.db.periodic import Every
from gateway_core.db.wakeups import Wakeups
from gateway_core.errors import ConfigError, GatewayError, StartupError
from gateway_core.observe.events import Event
from gateway_core.observe.logs import get_logger
from gateway_core.routing import Listener
from gateway_core.routing.table import RouteTable
from gateway_core.settings import PluginSettings, Settings
from gateway_core.sources.egress import ClientLimits, EgressPolicy, GuardedClient
from gateway_core.sources.http import HttpSource
from gateway_core.sources.registry import SourceRegistry
from gateway_core.storage.base import Storage
from gateway_core.storage.registry import StorageFactory, open_storage
from gateway_core.storage.scratch import scratch_folder

if TYPE_CHECKING:
    from gateway_core.db.redis_link import RedisLink

T = TypeVar("T")
S = TypeVar("S", bound=PluginSettings)
_SWEEP_EVERY_S = 3600.0
_KEEP_OUTBOX_S = 7 * 86400.0
_KEEP_STAGED_S = 86400.0
Check = Callable[[], Awaitable[str | None]]
"""A named check for ``/readyz``: raises when something is wrong, may return what is in force."""


class Degraded(GatewayError):
    """A check's word for: it works, but with less than was configured."""

    type, title = "degraded", "Degraded"


class Role(StrEnum):
    """What this process is: it serves, it works off jobs, or it is a command."""

    SERVER = "server"
    WORKER = "worker"
    CLI = "cli"


@dataclass(frozen=True)
class StateKey(Generic[T]):
    """Key of one live object of a plugin: ``StateKey("archive.engine", Engine)``."""

    name: str
    type: type[T]


class State:
    """Live objects of the plugins by typed key; module globals are forbidden."""

    def __init__(self) -> None:
        self._objects: dict[StateKey[Any], Any] = {}

    def __setitem__(self, key: StateKey[T], value: T) -> None:
        self._objects[key] = value

    def __getitem__(self, key: StateKey[T]) -> T:
        """Raises KeyError before the plugin's lifespan has filled it."""
        return cast("T", self._objects[key])

    def __contains__(self, key: StateKey[Any]) -> bool:
        return key in self._objects


class Hooks(Protocol):
    """Calls hooks of plugins, the core's and those that plugins specify."""

    def each(self, name: str, /, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """(plugin, result) for every plugin that implements hook ``name``, guarded plugin by plugin."""

    def notify(self, name: str, /, **arguments: Any) -> None:
        """Call an observer hook; failures are logged."""


@dataclass
class Registries:
    """What plugins registered; filled while the gateway is put together, then only read."""

    routes: RouteTable = field(default_factory=RouteTable)
    listeners: list[tuple[str, Listener]] = field(default_factory=list)
    authenticators: list[Authenticator] = field(default_factory=list)
    storages: dict[str, StorageFactory] = field(default_factory=dict)
    migrations: list[MigrationSource] = field(default_factory=list)
    checks: dict[str, Check] = field(default_factory=dict)
    periodic: list[tuple[float, Callable[[], Awaitable[None]], str]] = field(default_factory=list)


class Gateway:
    """The context every plugin receives.

    Hooks only capture it: ``db``, ``clients``, ``storage``, ``http``, ``wakeups`` are there once it is opened, that is
    in lifespans, handlers, checks and commands. ``draining`` is set by the first SIGTERM, ``closing`` when the ports
    are closed (websockets and event streams end then), ``cut`` by a second SIGTERM: what still works stops at once.
    """

    db: Database
    clients: ClientStore
    keyring: Keyring
    leases: Leases
    wakeups: Wakeups
    storage: Storage
    http: GuardedClient
    auth: Chain
    private_paths: tuple[Path, ...]
    """Where secrets lie: the data folder, the settings file, files of secrets. Nothing of it is for what jobs run."""
    scratch_dir: Path
    """For temporary files of this process, emptied when it ends; never for what must last."""

    def __init__(self, settings: Settings, hooks: Hooks, *, role: Role) -> None:
        self.settings = settings
        self.hooks = hooks
        self.role = role
        self.state = State()
        self.sources = SourceRegistry()
        self._redis_link: RedisLink | None = None
        self.registries = Registries()
        self.draining = asyncio.Event()
        self.closing = asyncio.Event()
        self.cut = asyncio.Event()
        self.trusted_proxies = tuple(ipaddress.ip_network(text, strict=False) for text in settings.trusted_proxies)
        self.instance = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.log = get_logger("gateway")
        self.plugin_infos: Sequence[Any] = ()
        self.private_paths = (settings.data_dir,)

    @property
    def public_url(self) -> str:
        """``PUBLIC_URL`` without a trailing slash, empty when it is not set."""
        return self.settings.public_url

    @property
    def redis(self) -> Any:
        """The ``redis.asyncio`` client, None without ``REDIS_URL`` or while Redis is away."""
        link = self._redis_link
        return link.client if link is not None and link.connected else None

    def section(self, model: type[S]) -> S:
        """The plugin's own settings, typed; raises ConfigError when no loaded plugin has that model."""
        for name in type(self.settings).model_fields:
            value = getattr(self.settings, name)
            if isinstance(value, model):
                return value
        raise ConfigError(f"no loaded plugin has settings of type {model.__name__}")

    def share(self, total: int) -> int:
        """This process's part of a limit that is meant for all ``--workers`` together; at least 1."""
        return max(1, -(-total // self.settings.workers))

    def emit(self, name: str, /, **data: Any) -> None:
        """Tell the observers of this process what happened; never fails."""
        self.hooks.notify("gateway_event", event=Event(name, data))

    def every(self, seconds: float, fn: Callable[[], Awaitable[None]], name: str) -> None:
        """Run ``fn`` every so many seconds, once in the whole cluster; call it while hooks register.

        A failure is logged and the next turn comes. Raises ConfigError when the name is taken.
        """
        if any(taken == name for _, _, taken in self.registries.periodic):
            raise ConfigError(f"two periodic tasks are called {name}")
        self.registries.periodic.append((seconds, fn, name))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Gateway]:
        """Open the services in this event loop, and close them at the end in reverse order.

        Raises StartupError when the database or the storage cannot be had.
        """
        settings = self.settings
        async with AsyncExitStack() as stack:
            self.keyring = Keyring(self._keys())
            self.scratch_dir = stack.enter_context(scratch_folder(settings.data_dir / "scratch"))
            await stack.enter_async_context(self.database())
            await self._open_wakeups(stack)
            self.leases = Leases(self.db)
            self.clients = ClientStore(self.db, self.keyring, self.wakeups)
            stack.push_async_callback(self.clients.close)
            self.auth = Chain(
                [SecretAuthenticator(self.clients), TokenAuthenticator(self.clients), *self.registries.authenticators]
            )
            self.storage = open_storage(
                settings.storage_url, factories=self.registries.storages, data_dir=settings.data_dir
            )
            stack.push_async_callback(self.storage.close)
            policy = EgressPolicy(allow=settings.egress_allow, ports=settings.egress_ports)
            limits = ClientLimits(connections=self.share(settings.egress_connections), stall_s=settings.egress_stall_s)
            self.http = await stack.enter_async_context(GuardedClient(policy, limits=limits))
            self._register_http()
            yield self

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """Open the database alone; raises StartupError when it cannot be reached."""
        settings = self.settings
        self.db = Database(settings.database_url, pool_size=self.share(settings.db_pool) if settings.db_url else None)
        try:
            await self.db.connect()
            yield self.db
        finally:
            await self.db.close()

    def check_settings(self) -> None:
        """Build what can be wrong in the settings without opening anything; raises ConfigError."""
        Database(self.settings.database_url)
        EgressPolicy(allow=self.settings.egress_allow, ports=self.settings.egress_ports)

    def scopes(self) -> tuple[frozenset[str], frozenset[str]]:
        """(all scopes that routes ask for, those a client gets when none is named)."""
        listened = [route for _, listener in self.registries.listeners for route in listener.routes]
        routes = [*(mounted.route for mounted in self.registries.routes), *listened]
        return grantable((route.scope, route.grant) for route in routes if route.scope is not None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What only servers do: watch for changed clients, run periodic tasks, enter the plugins' lifespans."""
        await self.clients.check_keys()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_background(self.clients.watch(), "clients"))
            for _, lifespan in list(self.hooks.each("gateway_lifespan", gateway=self)):
                await stack.enter_async_context(lifespan)
            periodic = Every(self.leases)
            periodic.add(_SWEEP_EVERY_S, self._sweep, "core.sweep")
            for seconds, fn, name in self.registries.periodic:
                periodic.add(seconds, fn, name)
            periodic.start()
            stack.push_async_callback(periodic.stop)
            yield

    async def ensure_schema(self, *, upgrade: bool = False) -> None:
        """Bring the tables up to the code: on SQLite always, elsewhere with ``upgrade`` or ``AUTO_MIGRATE``.

        Raises StartupError when there is something to do that may not be done here, or a database newer than the code.
        """
        sources = self.migration_sources()
        behind = {name: at for name, at in (await pending(self.db, sources)).items() if at[0] != at[1]}
        if not behind:
            return
        if not (upgrade or self.settings.auto_migrate or self.db.dialect == "sqlite"):
            raise StartupError(f"the database is behind the code ({', '.join(behind)}); run: gateway db upgrade")
        await run_migrations(self.settings.database_url, [source for source in sources if source.name in behind])

    def make_data_dir(self) -> None:
        """Make the data folder; raises ConfigError when it cannot be had, or written in."""
        data_dir = self.settings.data_dir
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            (data_dir / "scratch").mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"DATA_DIR: cannot use {data_dir}: {exc.strerror}") from exc
        if not os.access(data_dir, os.W_OK | os.X_OK):
            raise ConfigError(f"DATA_DIR: cannot use {data_dir}: it may not be written in")

    def migration_sources(self) -> list[MigrationSource]:
        """The core's migrations, then each plugin's."""
        return [CORE, *self.registries.migrations]

    async def _open_wakeups(self, stack: AsyncExitStack) -> None:
        """Commands only send, through the database, which every server reads."""
        serving = self.role is not Role.CLI
        if serving and self.settings.redis_url:
            from gateway_core.db.redis_link import RedisLink

            self._redis_link = RedisLink(self.settings.redis_url)
            self._redis_link.start()
            stack.push_async_callback(self._redis_link.stop)
        self.wakeups = Wakeups(self.db, self._redis_link)
        if serving:
            self.wakeups.start()
        stack.push_async_callback(self.wakeups.stop)

    def _register_http(self) -> None:
        source = HttpSource(self.http)
        for scheme in ("http", "https"):
            self.sources.register(scheme, source)
        self.sources.freeze()

    async def _sweep(self) -> None:
        """Remove what has had its time, in the tables and the storage that all plugins share."""
        await self.wakeups.sweep()
        await Idempotency(self.db).sweep()
        await Outbox(self.db).sweep(_KEEP_OUTBOX_S)
        await self.storage.sweep(_KEEP_STAGED_S)

    def _keys(self) -> Sequence[str]:
        keys = [key.get_secret_value() for key in self.settings.secret_key]
        return keys or [instance_key(self.settings.data_dir)]


@asynccontextmanager
async def _background(coroutine: Any, name: str) -> AsyncIterator[None]:
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
