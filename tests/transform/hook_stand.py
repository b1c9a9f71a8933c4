"""A gateway that is opened but serves nobody, receivers of webhooks, and what the deliverers say."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from gateway_core import Client, Gateway, Role, hookimpl
from gateway_core.app.compose import compose
from gateway_core.auth.store import NewClient
from gateway_core.db.outbox import Outbox
from gateway_core.db.tables import outbox
from gateway_core.observe.events import Event
from gateway_core.settings import Inputs
from gateway_core.testing import Upstream
from gateway_transform import plugin
from gateway_transform.hooks.delivery import run
from gateway_transform.hooks.log import Delivery, deliveries
from gateway_transform.hooks.message import WAKEUP
from gateway_transform.jobs.claims import HOOK_TOPIC
from gateway_transform.settings import TransformSettings
from tests.transform.rows import add_job

MakeStand = Callable[..., AbstractAsyncContextManager["Stand"]]
LOOPBACK = ("127.0.0.0/8", "::1")


@dataclass
class Stand:
    """``events`` are those of webhooks, in order; ``client`` has made the jobs unless another is named."""

    gateway: Gateway
    receiver: Upstream
    client: Client
    secret: str
    events: list[Event] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, event: Event) -> None:
        if event.name.startswith("transform.webhook."):
            self.events.append(event)
            self.changed.set()

    def delivering(self, **settings: Any) -> AbstractAsyncContextManager[None]:
        """Deliver while the block runs, as one process does."""
        return run(self.gateway, TransformSettings(**{"webhook_backoff_s": (0, 0.01, 0.01), **settings}))

    async def ended(self, hook: str, **columns: Any) -> str:
        """A job that has ended just now, and whose webhook is due; its id."""
        return await self.due(await add_job(self.gateway, hook=hook, **{"client_id": self.client.id, **columns}))

    async def due(self, job_id: str) -> str:
        async with self.gateway.db.write() as tx:
            await Outbox(self.gateway.db).put(tx, HOOK_TOPIC, {"job": job_id, "state": "succeeded"})
        self.gateway.wakeups.publish(WAKEUP)
        return job_id

    async def told(self, count: int, *, name: str = "", timeout_s: float = 20) -> list[Event]:
        """The first ``count`` events, of that name if one is given, as soon as they have happened."""
        async with asyncio.timeout(timeout_s):
            while len(found := [event for event in self.events if name in event.name]) < count:
                self.changed.clear()
                await self.changed.wait()
        return found[:count]

    async def tries(self, job_id: str | None = None) -> Sequence[Delivery]:
        """The delivery log, first try first."""
        return (await deliveries(self.gateway, job_id))[::-1]

    async def left(self) -> list[Any]:
        """Rows of the outbox that somebody still has to see to."""
        async with self.gateway.db.read() as tx:
            return list(await tx.rows(sa.select(outbox).where(outbox.c.finished == sa.null())))

    async def next_try_s(self) -> float | None:
        return await Outbox(self.gateway.db).next_due_s(HOOK_TOPIC)


@asynccontextmanager
async def opened(
    data_dir: Path, templates: Path, *, hear: Callable[[Event], None] = lambda _: None, **settings: Any
) -> AsyncIterator[Gateway]:
    """A gateway with the tables of the transform plugin, opened and not running."""
    listener = SimpleNamespace(
        gateway_migrations=plugin.gateway_migrations, gateway_event=hookimpl(lambda event: hear(event))
    )
    options = {"data_dir": data_dir, "egress_allow": LOOPBACK, "plugins": ("listener",), **settings}
    gateway = compose(Inputs(options=options), role=Role.SERVER, extra={"listener": listener}).gateway
    gateway.make_data_dir()
    template, file = templates / "hooks.db", data_dir / "gateway.db"
    if template.exists():
        shutil.copy(template, file)
    else:
        async with gateway.database():
            await gateway.ensure_schema()
        shutil.copy(file, template)
    async with gateway.opened():
        yield gateway


@asynccontextmanager
async def standing(data_dir: Path, templates: Path, **settings: Any) -> AsyncIterator[Stand]:
    """As ``opened``, with a receiver on this machine, and a client."""
    heard: list[Stand] = []
    async with (
        Upstream() as receiver,
        opened(data_dir, templates, hear=lambda event: heard[0].hear(event), **settings) as gateway,
    ):
        client, secret = await gateway.clients.add(NewClient("somebody", frozenset()))
        heard.append(Stand(gateway, receiver, client, secret))
        yield heard[0]


@pytest.fixture
def make_stand(tmp_path: Path, gateway_templates: Path) -> MakeStand:
    """``async with make_stand(egress_allow=()) as stand:``, for modules that name this fixture."""
    return lambda **settings: standing(tmp_path, gateway_templates, **settings)


@pytest.fixture
async def stand(make_stand: MakeStand) -> AsyncIterator[Stand]:
    """One with the settings as they are."""
    async with make_stand() as stood:
        yield stood


def outcomes(tries: Sequence[Delivery]) -> list[tuple[int, str, int | None]]:
    """Number, outcome and status of each try."""
    return [(one.try_number, one.outcome.value, one.status) for one in tries]
