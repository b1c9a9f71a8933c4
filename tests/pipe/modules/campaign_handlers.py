"""Handlers of the campaigns: each run is a line of a file, written before the answer."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

RUNS = Path(os.environ.get("CAMPAIGN_RUNS", "runs"))


class Handlers:
    """``run//N`` writes N down; ``slow`` takes a moment; ``echo`` gives back what it got; ``stream`` never ends."""

    def post_run(self, ctx: Any, post_data: Any, number: str) -> dict[str, int]:
        with RUNS.open("a") as file:
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        return {"ran": int(number)}

    async def post_slow(self, ctx: Any, post_data: Any, number: str) -> dict[str, int]:
        await asyncio.sleep(0.02)
        return {"slow": int(number)}

    def post_echo(self, ctx: Any, post_data: Any) -> tuple[str, int, Any]:
        mimetype, data = post_data
        return mimetype, 0, data

    async def get_forever(self, ctx: Any, post_data: Any) -> Any:
        await asyncio.Event().wait()
