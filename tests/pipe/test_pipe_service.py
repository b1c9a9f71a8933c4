"""What the plugin makes of the process it runs in."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession, WSServerHandshakeError

from gateway_pipe.hub.hub import NEEDS_REDIS


async def test_one_of_several_workers_takes_no_nodes_without_redis_and_says_why(make_gateway):
    async with make_gateway({"workers": 2}) as gateway, gateway.session() as session:
        secret = await gateway.secret("pipe:connect:node1")
        with pytest.raises(WSServerHandshakeError) as refused:
            await connect(session, secret)
        assert refused.value.status == 503
        assert "Retry-After" in refused.value.headers
        async with session.get("/readyz") as ready:
            assert ready.status == 200
            assert (await ready.json())["checks"]["pipe.nodes"] == f"ok: none are taken: {NEEDS_REDIS}"


async def connect(session: ClientSession, secret: str) -> None:
    headers = {"Authorization": secret}
    async with session.ws_connect("/pipe/link/node1", protocols=["pipe.v1"], headers=headers):
        pass
