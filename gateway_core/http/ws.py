"""WebSockets that cannot hang: origin check, heartbeat, a cut for peers that take nothing, an end at the drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import WSCloseCode, web

from gateway_core.errors import BadRequest, Unavailable
from gateway_core.http.cors import check_origin
from gateway_core.http.gone import ClientGone
from gateway_core.http.stall import StallGuard, reset_connection

HEARTBEAT_S = 15.0
"""A ping is sent after this long without a frame; a peer that does not answer in half of it is taken for dead."""

MAX_MESSAGE_BYTES = 256 * 1024
SEND_TIMEOUT_S = 10.0
"""A peer that takes nothing of what waits for it during this time is cut; it has half of it to answer a close."""

SUBPROTOCOLS: web.RequestKey[tuple[str, ...]] = web.RequestKey("subprotocols", tuple)
"""Set by a handler before ``open_websocket``: what the socket may speak; the peer's first of them is chosen."""


@asynccontextmanager
async def open_websocket(
    request: web.BaseRequest,
    *,
    draining: asyncio.Event,
    heartbeat: float = HEARTBEAT_S,
    max_msg_size: int = MAX_MESSAGE_BYTES,
    origins: Collection[str] | None = None,
    send_timeout_s: float = SEND_TIMEOUT_S,
) -> AsyncIterator[web.WebSocketResponse]:
    """Accept a WebSocket for the block; the handler then returns what was yielded.

    The block must keep receiving, or the heartbeat takes the peer for dead; it must expect messages of type ERROR. When
    ``draining`` is set the socket is closed with 1001 and receiving ends; an exception closes it with 1011, a
    cancellation cuts it. ``origins`` are the pages that may connect, None for any; programs send no Origin and may
    always. Never compressed: that costs 100 kB a connection.

    Raises BadRequest for a request that is no handshake, Forbidden for the origin, Unavailable while draining, and
    ClientGone where the block's sending fails because the peer went away or took nothing for ``send_timeout_s``.
    """
    check_origin(request, origins)
    if draining.is_set():
        raise Unavailable("the gateway is about to stop")
    patience_s = send_timeout_s / 2
    socket = web.WebSocketResponse(
        heartbeat=heartbeat,
        max_msg_size=max_msg_size,
        compress=False,
        protocols=request.get(SUBPROTOCOLS, ()),
        timeout=patience_s,
    )
    _must_be_handshake(request, socket)
    with StallGuard(request, send_timeout_s) as stall:
        with _gone_where_closed(request, stall):
            await socket.prepare(request)
        async with _closing(request, socket, draining, patience_s=patience_s):
            with _gone_where_closed(request, stall):
                yield socket


@asynccontextmanager
async def open_bare_websocket(
    request: web.BaseRequest, *, protocol: str, max_msg_size: int = MAX_MESSAGE_BYTES
) -> AsyncIterator[web.WebSocketResponse]:
    """Accept a WebSocket that speaks the subprotocol ``protocol`` and looks after itself; see ``open_websocket``.

    The block sees to dead peers, to those that take nothing, to pings and to the drain: nothing here runs beside it,
    for sockets of which there are thousands. Pages of any origin are refused.

    Raises BadRequest for a request that is no handshake or offers other protocols, and Forbidden for a page.
    """
    check_origin(request, ())
    offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    if protocol not in (name.strip() for name in offered):
        raise BadRequest(f"only for WebSockets with the subprotocol {protocol}", headers={"Upgrade": "websocket"})
    socket = web.WebSocketResponse(
        max_msg_size=max_msg_size, compress=False, autoping=False, protocols=(protocol,), timeout=SEND_TIMEOUT_S / 2
    )
    _must_be_handshake(request, socket)
    try:
        await socket.prepare(request)
    except ConnectionError as error:
        raise ClientGone("closed the connection") from error
    try:
        yield socket
    except asyncio.CancelledError:
        reset_connection(request)
        raise
    finally:
        await socket.close()
        await _flush(request, SEND_TIMEOUT_S / 2)


def _must_be_handshake(request: web.BaseRequest, socket: web.WebSocketResponse) -> None:
    if not socket.can_prepare(request):
        raise BadRequest("only for WebSockets", headers={"Upgrade": "websocket"})


@contextmanager
def _gone_where_closed(request: web.BaseRequest, stall: StallGuard) -> Iterator[None]:
    """Tell the errors of this connection from those of others that the block may use."""
    try:
        yield
    except ConnectionError as error:
        if request.transport is not None and not request.transport.is_closing():
            raise
        raise ClientGone(stall.reason) from error


@asynccontextmanager
async def _closing(
    request: web.BaseRequest, socket: web.WebSocketResponse, draining: asyncio.Event, *, patience_s: float
) -> AsyncIterator[None]:
    """Close ``socket`` at the drain or at the end of the block, whichever comes first."""
    drained = asyncio.create_task(_close_at_drain(socket, draining))
    code = WSCloseCode.INTERNAL_ERROR
    try:
        yield
        code = WSCloseCode.OK
    except asyncio.CancelledError:
        reset_connection(request)
        raise
    finally:
        if not draining.is_set():
            drained.cancel()
        await asyncio.wait({drained})
        await socket.close(code=code)
        await _flush(request, patience_s)


async def _close_at_drain(socket: web.WebSocketResponse, draining: asyncio.Event) -> None:
    await draining.wait()
    await socket.close(code=WSCloseCode.GOING_AWAY, message=b"draining")


async def _flush(request: web.BaseRequest, patience_s: float) -> None:
    """Let a peer that still reads have everything; one that does not must not hold the closed connection for ever."""
    if request.transport is None:
        return
    request.transport.set_write_buffer_limits(high=0)
    try:
        async with asyncio.timeout(patience_s):
            await request.writer.drain()
    except OSError:
        reset_connection(request)
