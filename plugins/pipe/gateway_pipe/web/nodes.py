"""``/pipe/nodes``: who is here."""

from __future__ import annotations

import json

from aiohttp import hdrs, web

from gateway_core import Gateway
from gateway_pipe.service import SERVICE_KEY
from gateway_pipe.web.access import Reach


class NodesHandlers:
    """The handler of the list of nodes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reach = Reach(gateway)

    async def show(self, request: web.Request) -> web.Response:
        """The nodes that are connected and that the caller may call, by name; with `admin` all.

        Each has its `name`, `since` when (Unix seconds), its `nouns`, `apps` and `tags`, the round trip `rtt_ms` of its
        last heartbeat (`null` before one), its `version`, `via` what it proved its name, from which `address`, and the
        `gateway` process that holds it.
        """
        may_call = self._reach.of(request, operator=True)
        nodes = await self._gateway.state[SERVICE_KEY].hub.nodes()
        found = [node.described() for node in sorted(nodes, key=lambda node: node.name) if may_call(node.name)]
        text = json.dumps(found, ensure_ascii=False)
        headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "no-store"}
        return web.Response(body=text.encode(errors="replace"), headers=headers)
