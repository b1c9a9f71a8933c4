"""Two ways of sending files with nothing but aiohttp: its FileResponse, and a bare handler that reads in the loop."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from aiohttp import web

ROOT = web.AppKey("root", Path)


async def file_response(request: web.Request) -> web.StreamResponse:
    """What most would write."""
    return web.FileResponse(request.app[ROOT] / request.match_info["name"])


async def bare(request: web.Request) -> web.StreamResponse:
    """As little as can be done for a small file: no range, no condition, no confinement."""
    descriptor = os.open(request.app[ROOT] / request.match_info["name"], os.O_RDONLY | os.O_CLOEXEC)
    try:
        return web.Response(body=os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    finally:
        os.close(descriptor)


def main(kind: str, port: int, root: Path) -> None:
    app = web.Application()
    app[ROOT] = root
    app.router.add_get("/{name:.+}", {"file-response": file_response, "bare": bare}[kind])
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
