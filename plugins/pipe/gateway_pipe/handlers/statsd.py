"""RestPipe's statsd metrics, under the names that it gave them."""

from __future__ import annotations

import contextlib
import socket

from gateway_core.observe.logs import get_logger

log = get_logger("gateway.pipe")

NEW = "client.connect.new.tick"
NEW_TIMING = "client.connect.new.attempt.timing"
CONNECTED = "client.connect.connected.tick"
BROKEN = "client.connect.broken.tick"
HEARTBEAT_TIMING = "client.connect.heartbeat.timing"
HEARTBEAT_SUCCESS = "client.connect.heartbeat.success.tick"
HEARTBEAT_FAIL = "client.connect.heartbeat.fail.tick"
SEND = "message.send.tick"
SEND_TIMING = "message.send.timing"
RECEIVE = "message.receive.tick"
HANDLE_TIMING = "message.receive.handle.timing"


class Statsd:
    """Sends to ``address`` and never waits nor raises; what cannot be sent is lost. Without an address it does nothing.

    Making one looks the host up, which may take time; a host that cannot be found is logged, and nothing is sent.
    """

    def __init__(self, address: tuple[str, int] | None) -> None:
        self._socket: socket.socket | None = None
        if address is None:
            return
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            self._socket.connect(where)
        except OSError as exc:
            self.close()
            log.warning("no statsd metrics", host=address[0], port=address[1], reason=str(exc))

    def tick(self, name: str) -> None:
        """Count one more of ``name``."""
        self._send(f"{name}:1|c")

    def timing(self, name: str, ms: float) -> None:
        """It took ``ms`` milliseconds."""
        self._send(f"{name}:{ms:.3f}|ms")

    def handled(self, method: str, seconds: float) -> None:
        """A call was answered by ``method``, empty where there is none of that name."""
        if self._socket is None:
            return
        ms = f"{seconds * 1000:.3f}"
        lines = [f"{RECEIVE}:1|c", f"{HANDLE_TIMING}:{ms}|ms"]
        if method:
            name = f"message.received.handle.{method}"
            lines += [f"{name}.tick:1|c", f"{name}.timing:{ms}|ms"]
        self._send("\n".join(lines))

    def close(self) -> None:
        """Send nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # nobody listens, or too fast
                self._socket.send(text.encode())
