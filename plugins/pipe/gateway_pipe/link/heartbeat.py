"""Heartbeats: the node pings, both ends notice silence."""

from __future__ import annotations

from gateway_pipe.link.frames import Type, ping, ping_of
from gateway_pipe.link.model import Traffic
from gateway_pipe.link.sender import Sender

DEAD_AFTER_PINGS = 2.5


class Heartbeat:
    """``heard`` is when anything came last, by the loop's time; ``pings`` whether this end asks."""

    __slots__ = ("_asked", "_pings", "_sender", "_traffic", "heard", "ping_s")

    def __init__(self, traffic: Traffic, sender: Sender, *, ping_s: float, pings: bool) -> None:
        self.ping_s = ping_s
        self.heard = sender.loop.time()
        self._traffic = traffic
        self._sender = sender
        self._pings = pings
        self._asked = 0.0

    def dead(self, now: float) -> bool:
        """Whether the other end was silent for too long: any bytes count, not only answers."""
        return now - self.heard > DEAD_AFTER_PINGS * self.ping_s

    def beat(self, now: float) -> None:
        """Ping when it is time, and tell the last round trip with it."""
        if self._pings and now - self._asked >= self.ping_s:
            self._asked = now
            rtt_us = int((self._traffic.rtt_s or 0) * 1e6)
            self._sender.urgent(ping(Type.PING, int(self._sender.loop.time() * 1e6), rtt_us))

    def answer(self, payload: bytes) -> None:
        """A PING came; raises ProtocolViolation for one that is none."""
        nonce, rtt_us = ping_of(payload)
        if rtt_us:
            self._traffic.rtt_s = rtt_us / 1e6
        self._sender.urgent(ping(Type.PONG, nonce, 0))

    def answered(self, payload: bytes) -> None:
        """A PONG came; raises ProtocolViolation for one that is none."""
        nonce, _ = ping_of(payload)
        took_s = self._sender.loop.time() - nonce / 1e6
        if took_s >= 0:
            if self._traffic.rtt_s is None:
                self._asked = 0.0  # the next ping, which tells the other end, need not wait
            self._traffic.rtt_s = took_s
