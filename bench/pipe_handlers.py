"""What the node of the bench answers."""

from __future__ import annotations

from typing import Any

_CHUNK = bytes(64 * 1024)


class Handlers:
    def get_tiny(self, _ctx: Any, _post_data: Any) -> dict[str, bool]:
        return {"ok": True}

    async def get_quick(self, _ctx: Any, _post_data: Any) -> dict[str, bool]:
        return {"ok": True}

    async def get_bulk(self, _ctx: Any, _post_data: Any, size: str) -> tuple[str, int, Any]:
        return "application/octet-stream", 0, _zeros(int(size))


async def _zeros(size: int) -> Any:
    for left in range(size, 0, -len(_CHUNK)):
        yield _CHUNK[:left]
