"""The handlers of a side that has none of its own: RestPipe's examples."""

from __future__ import annotations

import time

from gateway_pipe.handlers.context import Context


class ServerHandlers:
    """What nodes ask the server."""

    def get_time(self, ctx: Context, post_data: object) -> dict[str, float]:
        """Tell the server's time, in Unix seconds."""
        del ctx, post_data
        return {"time_from_server": time.time()}

    def get_cat(self, ctx: Context, post_data: object, *words: str) -> dict[str, str]:
        """Join the arguments."""
        del ctx, post_data
        return {"result_from_server": "".join(words)}


class NodeHandlers:
    """What the server asks a node."""

    def get_time(self, ctx: Context, post_data: object) -> dict[str, float]:
        """Tell the node's time, in Unix seconds."""
        del ctx, post_data
        return {"time_from_client": time.time()}

    def get_cat(self, ctx: Context, post_data: object, *words: str) -> dict[str, str]:
        """Join the arguments."""
        del ctx, post_data
        return {"result_from_client": "".join(words)}
