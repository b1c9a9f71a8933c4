"""The one way to say that the client left."""

from __future__ import annotations

from typing import ClassVar

from gateway_core.errors import GatewayError


class ClientGone(GatewayError):
    """The client closed its connection, or was cut for taking nothing: a normal end, counted but not logged as error.

    No ConnectionError on purpose: code that turns I/O errors of a source or a disk into its own must not see this one.
    499 is for the access log; no client ever reads it.
    """

    status: ClassVar[int] = 499
    type, title = "client-gone", "Client closed the connection"
