"""What systemd is told of a node that runs as a service of type ``notify`` (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(*states: str) -> None:
    """Tell ``READY=1``, ``STATUS=...`` and so on; does nothing where nobody asked, and never waits."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender, contextlib.suppress(OSError):
        sender.setblocking(False)
        sender.connect("\0" + path[1:] if path.startswith("@") else path)
        sender.sendall("\n".join(states).encode())
