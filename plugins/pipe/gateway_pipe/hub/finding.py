"""Where a node's newest connection is, and waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway_core.errors import NotFound, Unavailable
from gateway_core.observe.logs import get_logger
from gateway_pipe.hub.nodes import Connected, Elsewhere, Reached
from gateway_pipe.hub.waiting import WaitingCalls

if TYPE_CHECKING:
    from gateway_core.gateway import Gateway
    from gateway_pipe.hub.directory import Directory
    from gateway_pipe.hub.rows import NodeRows

log = get_logger("gateway.pipe")

_RETRY_S = 5
_FIRST_LOOK_S, _LAST_LOOK_S = 1.0, 8.0


class Finding:
    """Finds among ``nodes`` of this process, then elsewhere; whoever has to wait is in ``waiting``, to be woken."""

    def __init__(
        self, gateway: Gateway, nodes: Mapping[str, Connected], *, rows: NodeRows, directory: Directory
    ) -> None:
        self.waiting = WaitingCalls()
        self._gateway = gateway
        self._nodes = nodes
        self._rows = rows
        self._directory = directory

    async def find(self, name: str, *, wait_s: float, past: int) -> Reached:
        """The newest connection with an epoch above ``past``, soon after it is there; see ``Hub.find``.

        Others are asked again after 1, 2, 4 and 8 s only: they tell what changes, and seldom in vain.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        look_s = _FIRST_LOOK_S
        with self.waiting.place(name) as changed:
            while True:
                changed.clear()
                if (reached := await self._look(name, past)) is not None:
                    return reached
                left_s = until - loop.time()
                if self._gateway.closing.is_set():
                    raise Unavailable("the gateway stops", retry_after_s=1)
                if left_s <= 0:
                    raise Unavailable(f"node {name} is not connected", retry_after_s=_RETRY_S)
                try:
                    async with asyncio.timeout(min(left_s, look_s)):
                        await changed.wait()
                except TimeoutError:
                    look_s = min(look_s * 2, _LAST_LOOK_S)

    async def _look(self, name: str, past: int) -> Reached | None:
        if (node := self._here(name, past)) is not None:
            return node
        info = await self._directory.where(name)
        if info is None or info.epoch <= past:
            if not await self._rows.known(name):
                raise NotFound(f"there is no node {name}")
            return self._here(name, past)
        try:
            link = await self._directory.link_to(info)
        except Unavailable as error:
            log.info("a gateway cannot be reached", node=name, gateway=info.gateway, error=error.detail)
            return self._here(name, past)
        return self._here(name, info.epoch) or Elsewhere(info, link)

    def _here(self, name: str, past: int) -> Connected | None:
        """The connection to this process, which may come while others are asked."""
        node = self._nodes.get(name)
        return node if node is not None and node.epoch > past else None
