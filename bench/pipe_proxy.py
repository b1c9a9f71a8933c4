"""The plain reverse proxy: aiohttp's server and client, one handler, streaming."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, web

SESSION = web.AppKey("session", ClientSession)


async def forward(request: web.Request) -> web.StreamResponse:
    url = f"http://127.0.0.1:{sys.argv[2]}{request.path_qs}"
    body = request.content if request.body_exists else None
    async with request.app[SESSION].request(request.method, url, headers=request.headers, data=body) as upstream:
        response = web.StreamResponse(status=upstream.status)
        response.content_type = upstream.content_type
        response.content_length = upstream.content_length
        await response.prepare(request)
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def client(app: web.Application) -> AsyncIterator[None]:
    async with ClientSession() as session:
        app[SESSION] = session
        yield


def main(port: int) -> None:
    app = web.Application()
    app.cleanup_ctx.append(client)
    app.router.add_route("*", "/{path:.*}", forward)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
