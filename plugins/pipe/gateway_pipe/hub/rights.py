"""Who may no longer be connected: revoked names, certificates whose time is over, clients that lost their scope."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa

from gateway_core.auth.store import TOPIC as CLIENTS
from gateway_core.db.clock import now
from gateway_core.errors import DatabaseError
from gateway_core.observe.logs import get_logger
from gateway_pipe.hub.nodes import Via
from gateway_pipe.identity.revocations import REVOKED_TOPIC, Revocation
from gateway_pipe.link.model import Farewell, Goodbye
from gateway_pipe.settings import CONNECT_SCOPE
from gateway_pipe.tables import revocations

if TYPE_CHECKING:
    from gateway_core.gateway import Gateway
    from gateway_pipe.hub.nodes import Connected

log = get_logger("gateway.pipe")

_LOOK_S = 0.5
_CLIENTS_S = 10.0
_RECENT_S = 15.0


class Watched(Protocol):
    """Whose nodes are watched: the hub."""

    def connected(self) -> Sequence[Connected]:
        """All that this process holds now."""

    def part(self, node: Connected, farewell: Farewell) -> None:
        """End this connection."""


class Rights:
    """Ends connections whose right is gone: for a revoked name within a second, whoever revoked it."""

    def __init__(self, gateway: Gateway, watched: Watched) -> None:
        self._gateway = gateway
        self._watched = watched
        self._revoked_read = -_RECENT_S
        self._clients_read = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        with (
            self._gateway.wakeups.subscribe(REVOKED_TOPIC) as names,
            self._gateway.wakeups.subscribe(CLIENTS) as clients,
        ):
            while True:
                await names.wait(_LOOK_S)
                try:
                    await self._look(clients_changed=await clients.wait(0))
                except DatabaseError as error:
                    log.warning("rights of nodes cannot be looked at", error=str(error))
                except Exception:  # a supervisor's border
                    log.exception("rights of nodes cannot be looked at")

    async def _look(self, *, clients_changed: bool) -> None:
        nodes = self._watched.connected()
        self._end_expired(nodes)
        if nodes:
            await self._end_revoked()
        if clients_changed or time.monotonic() - self._clients_read > _CLIENTS_S:
            await self._end_strangers()

    def _end_expired(self, nodes: Sequence[Connected]) -> None:
        moment = time.time()
        for node in nodes:
            if node.entrance.not_after is not None and node.entrance.not_after <= moment:
                self._watched.part(node, Farewell(Goodbye.EXPIRED, "the certificate's time is over"))

    async def _end_revoked(self) -> None:
        """What changed lately; everything, when that was not looked at lately."""
        moment = time.monotonic()
        lately = moment - self._revoked_read < _RECENT_S / 2
        async with self._gateway.db.read() as tx:
            rows = await tx.rows(_REVOKED_LATELY if lately else _REVOKED)
        self._revoked_read = moment
        revoked = {row.name: Revocation(row.revoked, row.lifted) for row in rows}
        for node in self._watched.connected():
            if node.name in revoked and revoked[node.name].covers(node.since):
                self._watched.part(node, Farewell(Goodbye.REVOKED, "the node is revoked"))

    async def _end_strangers(self) -> None:
        """Links of clients that are revoked, expired or without the scope."""
        by_secret = [node for node in self._watched.connected() if node.entrance.via is Via.SECRET]
        self._clients_read = time.monotonic()
        if not by_secret:
            return
        moment = time.time()
        clients = {c.id: c for c in await self._gateway.clients.list() if c.expires is None or c.expires > moment}
        for node in by_secret:
            client = clients.get(node.entrance.client_id)
            if client is None or not client.allows(CONNECT_SCOPE.format(node=node.name)):
                self._watched.part(node, Farewell(Goodbye.REVOKED, "its client may not connect any more"))


_REVOKED = sa.select(revocations.c.name, revocations.c.revoked, revocations.c.lifted)
_REVOKED_LATELY = _REVOKED.where(revocations.c.revoked > now() - _RECENT_S)
