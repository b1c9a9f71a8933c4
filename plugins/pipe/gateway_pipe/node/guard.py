"""Who may use a node's local server: programs on this machine, not web pages that a browser on it shows."""

from __future__ import annotations

import ipaddress
import re
import socket

from gateway_core.errors import Forbidden

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")


def check_caller(*, bound: str, host: str, origin: str | None, fetch_site: str | None) -> None:
    """Raise Forbidden for a request that a web page of somebody else may have made.

    ``bound`` is the address that the server listens on; the others are the request's ``Host``, ``Origin`` and
    ``Sec-Fetch-Site``. A page's own name in Host means that its DNS points here (DNS rebinding); an Origin that is
    not ours, or a request that a browser calls cross-site, is another page's.
    """
    if not _is_ours(host, bound):
        raise Forbidden(f"this server answers requests to {bound} and localhost, not to {host!r}")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        raise Forbidden("this server answers no web pages of other origins")
    if fetch_site is not None and fetch_site not in {"same-origin", "none"}:
        raise Forbidden("this server answers no web pages of other origins")


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name or an address without brackets, means this machine alone."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _is_ours(host: str, bound: str) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].strip("[]").lower()
    if is_loopback(name) or name == bound.lower():
        return True
    everywhere = _address(bound)
    if everywhere is None or not everywhere.is_unspecified:
        return False
    return _address(name) is not None or name == socket.gethostname().lower()


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
