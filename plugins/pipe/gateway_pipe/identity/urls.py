"""Where a gateway is, as a user writes it, and by which proxy it is reached."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from gateway_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class GatewayUrl:
    """``text`` without a slash at its end; ``local`` when no other machine is on the way."""

    text: str
    host: str
    port: int
    secure: bool
    local: bool

    def at(self, path: str) -> str:
        """The URL of a path below it."""
        return f"{self.text}{path}"

    def proxy(self) -> str | None:
        """The proxy that the environment names for it, None without one and for this machine itself."""
        if self.local or proxy_bypass(self.host):
            return None
        return getproxies().get("https" if self.secure else "http")


def gateway_url(text: str) -> GatewayUrl:
    """Raises ConfigError for what is no http or https URL of a server, or has a user or a query."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise ConfigError(f"not a URL: {text!r}") from exc
    if parts.scheme not in {"http", "https"} or not host or parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(f"expected https://HOST:PORT, not {text!r}")
    secure = parts.scheme == "https"
    shown = f"[{host}]" if ":" in host else host
    at = shown if port is None else f"{shown}:{port}"
    default = 443 if secure else 80
    return GatewayUrl(
        f"{parts.scheme}://{at}{parts.path.rstrip('/')}", host, port or default, secure, _is_loopback(host)
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
