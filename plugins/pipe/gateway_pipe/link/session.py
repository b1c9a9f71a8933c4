"""A link at work: it reads frames, gives them to its streams, opens and serves streams, and notices a dead peer."""

from __future__ import annotations

import asyncio
from typing import Literal

from gateway_core.observe.logs import get_logger
from gateway_pipe.link import messages
from gateway_pipe.link.abuse import Abuse
from gateway_pipe.link.calling import Call
from gateway_pipe.link.frames import Type, frame, parse
from gateway_pipe.link.heartbeat import Heartbeat
from gateway_pipe.link.model import (
    Body,
    Farewell,
    Goodbye,
    Hello,
    Limits,
    LinkLost,
    Opening,
    ProtocolViolation,
    Reset,
    Serve,
    StreamReset,
    Traffic,
    Wire,
)
from gateway_pipe.link.receiving import Receiver
from gateway_pipe.link.sender import Sender
from gateway_pipe.link.serving import Served
from gateway_pipe.link.stream import Stream
from gateway_pipe.link.streams import Streams

log = get_logger("gateway.pipe")

PATIENCE_S = 30.0
_END_S = 5.0
_TURN_FRAMES = 512
"""After so many others have their turn: receiving what is here already does not wait."""
_DEFAULT = Limits()


class Link:
    """One connection after its handshake. ``opens`` is this side, ``peer`` what the other said of itself.

    ``alive`` is False as soon as nothing can be opened on it any more; ``farewell`` tells why, ``heartbeat`` how it
    beats. ``run`` must be running; its owner calls ``tick`` about once a second.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        opens: Literal["node", "server"],
        serve: Serve,
        peer: Hello,
        limits: Limits = _DEFAULT,
        ping_s: float = 5.0,
    ) -> None:
        self.peer = peer
        self.traffic = Traffic()
        self.alive = True
        self.farewell: Farewell | None = None
        self._wire = wire
        self._node = opens == "node"
        self._serve = serve
        self._limits = limits
        self._sender = Sender(wire, self.traffic, self.drop)
        self._streams = Streams(
            self._sender, node=self._node, credit=peer.window, limits=limits, changed=self._end_if_left
        )
        self._abuse = Abuse(limits.streams)
        self._receiver = Receiver(self._streams, self._abuse)
        self._loop = self._sender.loop
        self.heartbeat = Heartbeat(self.traffic, self._sender, ping_s=ping_s, pings=self._node)
        self._leave_by: float | None = None
        self._close_by: float | None = None
        self._told = self._over = False
        self._ending: asyncio.Task[None] | None = None
        self._left = self._loop.create_future()
        self._closed = self._loop.create_future()

    @property
    def streams(self) -> int:
        """How many streams are open, both ways."""
        return len(self._streams)

    @property
    def ping_s(self) -> float:
        """The heartbeat: nothing in 2.5 of it, and the other end is taken for dead."""
        return self.heartbeat.ping_s

    def call(self, opening: Opening, body: Body = b"", *, timeout_s: float | None = None, whole: bool = False) -> Call:
        """Ask the other end: ``async with link.call(...) as answer``.

        Entering waits for the answer's head, ``timeout_s`` at most, with ``whole`` the entire answer must come in it,
        and the other end knows. Leaving early has the other end stop. Raises LinkLost, StreamReset, DeadlinePassed,
        BadRequest for what no stream can carry, and what ``body`` raises.
        """
        return Call(self, opening, body, timeout_s=timeout_s, whole=whole)

    async def run(self) -> Farewell:
        """Work until the link has ended, and everything of it; returns why. Never raises but for cancellation."""
        reason = "closed by the other end"
        try:
            await self._listen()
        except ProtocolViolation as error:
            reason = f"protocol violated: {error.detail}"
            log.warning("the other end of a link violates the protocol", peer=self.peer.name, detail=error.detail)
            self._fail(reason)
            await self._tell_violation(error.detail)
        except OSError as error:
            reason = str(error) or type(error).__name__
        except Exception:  # the border of what another program sends
            reason = "internal error"
            log.exception("a link failed", peer=self.peer.name)
        finally:
            self._end(reason)
            if self._streams.tasks:
                await asyncio.wait(self._streams.tasks, timeout=_END_S)
            if self._ending is not None:  # closing ends what receives, before the other end is told
                await asyncio.wait({self._ending}, timeout=_END_S)
                self._ending.cancel()
            if not self._closed.done():
                self._closed.set_result(None)
        assert self.farewell is not None
        return self.farewell

    async def closed(self) -> None:
        """Wait until ``run`` has ended."""
        await asyncio.shield(self._closed)

    async def leaving(self) -> Farewell:
        """Wait until one end said goodbye, or the link broke: it is time for another."""
        await asyncio.shield(self._left)
        assert self.farewell is not None
        return self.farewell

    def say_goodbye(self, farewell: Farewell, *, patience_s: float = PATIENCE_S) -> None:
        """Open and take nothing any more, and let what runs end, for ``patience_s`` at most.

        The other end closes, when it has nothing under way any more: what it opened before it heard this is refused,
        and can be repeated elsewhere. One that does not close is not waited for.
        """
        if self._leave_by is None and not self._closed.done():
            self._sender.urgent(frame(Type.GOAWAY, 0, messages.farewell_payload(farewell)))
            self._leave(farewell, patience_s)

    def drop(self, reason: str) -> None:
        """Cut the connection; streams fail with LinkLost."""
        self._end(reason)
        self._wire.abort()

    def tick(self, now: float) -> None:
        """Ping, and notice what is dead; ``now`` is the loop's time. To be called about once a second."""
        self._abuse.forgive()
        sending = self._sender.sending_since
        if self.heartbeat.dead(now):
            self.drop(f"silent for {now - self.heartbeat.heard:.1f} s")
        elif sending is not None and now - sending > self._limits.send_timeout_s:
            self.drop(f"took nothing for {now - sending:.0f} s")
        elif self._leave_by is not None and now > min(self._leave_by, self._close_by or self._leave_by):
            self.drop("did not end in time")
        else:
            self.heartbeat.beat(now)

    def open_stream(self, opening: Opening, timeout_ms: int | None) -> Stream:
        """A new stream for a call; raises LinkLost and StreamReset where none can be opened."""
        if not self.alive:
            raise LinkLost(self.farewell.reason if self.farewell else "", started=False)
        if self._streams.used_up:
            self.say_goodbye(Farewell(Goodbye.SHUTDOWN, "the numbers of its streams are used up", 0.0))
            raise LinkLost("the numbers of its streams are used up", started=False)
        if self._streams.called >= self.peer.streams:
            raise StreamReset(Reset.REFUSED, "too many calls over this link", retry_after_s=1)
        self.traffic.opened += 1
        return self._streams.open(messages.open_payload(opening, timeout_ms))

    def reset(self, stream: Stream, code: Reset, reason: str = "") -> None:
        """Break a call's stream off, if it has not ended."""
        self._streams.reset(stream, code, reason)

    # Frames

    async def _listen(self) -> None:
        frames = 0
        while (message := await self._wire.receive()) is not None:
            self.heartbeat.heard = self._loop.time()
            self.traffic.received_bytes += len(message)
            for kind, fin, number, payload in parse(message):
                if self._over:  # cut, and this was here before
                    return
                self._receive(kind, number, payload, fin=fin)
                frames += 1
                if frames >= _TURN_FRAMES:
                    frames = 0
                    await asyncio.sleep(0)

    def _receive(self, kind: Type, number: int, payload: bytes, *, fin: bool) -> None:
        if kind is Type.DATA:
            self._receiver.data(number, payload, fin=fin)
        elif kind is Type.OPEN:
            self._on_open(number, payload, fin=fin)
        elif kind is Type.HEAD:
            self._receiver.head(number, payload, fin=fin)
        elif kind is Type.WINDOW:
            self._receiver.window(number, payload)
        elif kind is Type.RESET:
            self._receiver.reset(number, payload)
        elif kind is Type.PING:
            self._abuse.ping()
            self.heartbeat.answer(payload)
        elif kind is Type.PONG:
            self._abuse.ping()
            self.heartbeat.answered(payload)
        elif kind is Type.GOAWAY:
            self._on_goaway(payload)
        else:
            raise ProtocolViolation("a second HELLO")

    def _on_open(self, number: int, payload: bytes, *, fin: bool) -> None:
        opening = messages.parse_open(payload)
        self._streams.opened(number)
        if self._streams.full or self._leave_by is not None:
            self._abuse.refused()
            refusal = messages.reset_payload(Reset.REFUSED, "too many calls, or about to stop", 1)
            self._sender.urgent(frame(Type.RESET, number, refusal))
            return
        self.traffic.served += 1
        stream = self._streams.accept(number, fin=fin)
        served = Served(self._streams, stream, opening, peer=self.peer.name)
        self._streams.serve(stream, served.run(self._serve))

    def _on_goaway(self, payload: bytes) -> None:
        farewell = messages.parse_farewell(payload)
        self._told = True
        if self._leave_by is None:
            self._leave(farewell, PATIENCE_S)
        else:
            self._end_if_left()

    # The end

    def _leave(self, farewell: Farewell, patience_s: float) -> None:
        self.alive = False
        self.farewell = farewell
        self._leave_by = self._loop.time() + patience_s
        if not self._left.done():
            self._left.set_result(None)
        self._end_if_left()

    def _end_if_left(self) -> None:
        """When nothing is under way any more: who was told goodbye closes, who said it waits for that a moment."""
        if self._leave_by is None or self._streams:
            return
        if not self._told:
            self._close_by = self._loop.time() + _END_S
        elif self._ending is None:
            self._ending = self._loop.create_task(self._close())

    async def _close(self) -> None:
        await self._sender.flush()
        await self._wire.close("goodbye")

    async def _tell_violation(self, detail: str) -> None:
        farewell = Farewell(Goodbye.PROTOCOL, detail)
        self._sender.urgent(frame(Type.GOAWAY, 0, messages.farewell_payload(farewell)))
        try:
            async with asyncio.timeout(_END_S):
                await self._close()
        except OSError:
            self._wire.abort()

    def _end(self, reason: str) -> None:
        """Fail everything that is open, and send nothing more."""
        self._fail(reason)
        self._sender.stop()

    def _fail(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        self.alive = False
        if self.farewell is None:
            self.farewell = Farewell(None, reason)
        if not self._left.done():
            self._left.set_result(None)
        self._streams.fail_all(reason)
