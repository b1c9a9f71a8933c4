"""The application behind the plain reverse proxy: the answer of the node's handler, over HTTP."""

from __future__ import annotations

import sys

from aiohttp import web


async def quick(_request: web.Request) -> web.Response:
    return web.json_response({"ok": True})


def main(port: int) -> None:
    app = web.Application()
    app.router.add_get("/quick", quick)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
