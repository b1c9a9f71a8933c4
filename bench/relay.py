"""The plain relay: the same upstream bytes one after another through aiohttp into one response, and no ZIP.

It speaks as much of the ticket API as the bench needs, so that all sides are asked the same way.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, web

TICKETS = web.AppKey("tickets", list[list[str]])
SESSION = web.AppKey("session", ClientSession)


async def generate(request: web.Request) -> web.Response:
    tickets = request.app[TICKETS]
    tickets.append((await request.json())["items"])
    return web.json_response({"id": len(tickets) - 1})


async def download(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for url in request.app[TICKETS][int(request.match_info["id"])]:
        async with request.app[SESSION].get(url, raise_for_status=True) as upstream:
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
    await response.write_eof()
    return response


async def client(app: web.Application) -> AsyncIterator[None]:
    async with ClientSession() as session:
        app[SESSION] = session
        yield


def main(port: int) -> None:
    app = web.Application(client_max_size=16 << 20)
    app[TICKETS] = []
    app.cleanup_ctx.append(client)
    app.router.add_post("/ticket/generate", generate)
    app.router.add_get("/ticket/{id}/download", download)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
