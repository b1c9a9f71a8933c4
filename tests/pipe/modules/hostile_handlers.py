"""A server's handlers for those who mean no good."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway_pipe.handlers.marks import streaming


class Handlers:
    """``hold`` takes a call and never anything of its body."""

    @streaming
    async def post_hold(self, ctx: Any, post_data: Any) -> None:
        await asyncio.Event().wait()
