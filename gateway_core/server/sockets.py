"""Listening sockets: bound once in the parent, shared with worker processes by file descriptor."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from gateway_core.errors import StartupError
from gateway_core.gateway import Gateway

BACKLOG = 1024
MAIN = "http"


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket; raises StartupError that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as exc:
        sock.close()
        raise StartupError(f"cannot listen on {host} port {port}: {getattr(exc, 'strerror', None) or exc}") from exc
    sock.setblocking(False)
    return sock


def bind_all(gateway: Gateway) -> dict[str, socket.socket]:
    """The main socket, from systemd when it passed one, and one for each plugin's listener."""
    settings = gateway.settings
    sockets = {MAIN: _from_systemd() or bind(settings.host, settings.port)}
    try:
        for owner, listener in gateway.registries.listeners:
            sockets[f"{owner}.{listener.name}"] = bind(*listener.address())
        for sock in sockets.values():  # accepted ones inherit it: bytes nobody acknowledges do not stay for ever
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.write_stall_s * 1000))
    except StartupError:
        for sock in sockets.values():
            sock.close()
        raise
    return sockets


def adopt(descriptors: Mapping[str, int]) -> dict[str, socket.socket]:
    """Sockets of the parent process, by name, in a worker."""
    return {name: socket.socket(fileno=descriptor) for name, descriptor in descriptors.items()}


def address(sock: socket.socket) -> str:
    """``host:port`` as it stands in a URL."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _from_systemd() -> socket.socket | None:
    """The first socket of systemd's socket activation (sd_listen_fds(3)), None without it."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS", "0") == "0":
        return None
    sock = socket.socket(fileno=3)
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        sock.close()
        raise StartupError("systemd passed a socket that is not TCP")
    sock.setblocking(False)
    return sock


def notify_systemd(state: str) -> None:
    """Tell systemd ``READY=1`` or ``STOPPING=1`` (sd_notify(3)); does nothing elsewhere."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            sock.sendall(state.encode())
        except OSError:
            return
