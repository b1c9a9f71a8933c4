"""One line about why a connection to a gateway failed, for logs and the command line."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway_core.errors import GatewayError
from gateway_pipe.identity.words import failure

if TYPE_CHECKING:
    import aiohttp

_DOCTOR = "`gateway pipe doctor` tells more"

_REASON = re.compile(r'error_description="([^"\\]{1,300})"')
"""RFC 6750 3."""
_STATUS = {
    400: "the gateway does not understand the request (400)",
    401: "the gateway does not accept the certificate, or the secret (401)",
    403: "the gateway knows the certificate, or the secret, but not for this name (403)",
    404: "there is no pipe at this URL (404): is it the gateway's, with the right path?",
    407: "a proxy on the way wants a password (407)",
    426: "the gateway did not see a WebSocket (426): a proxy on the way removes the Upgrade header",
    429: "the gateway asks to come later (429)",
    500: "the gateway failed (500); its log says why",
    502: "a proxy on the way does not reach the gateway (502)",
    503: "the gateway asks to come later (503)",
    504: "a proxy on the way got no answer from the gateway (504)",
}


def explain(error: BaseException) -> str:
    """Why connecting failed, in plain words, never empty; ``error`` is what the attempt raised."""
    import aiohttp

    tls = _tls_error(error)
    if tls is not None:
        return _tls(tls)
    match error:
        case GatewayError():
            text = error.detail or error.title
        case aiohttp.WSServerHandshakeError():
            text = _handshake(error)
        case aiohttp.ClientHttpProxyError():
            text = f"the proxy refused the connection ({error.status} {error.message})"
        case aiohttp.ClientProxyConnectionError():
            text = f"the proxy cannot be reached: {_system(error.os_error)}"
        case aiohttp.ServerDisconnectedError():
            text = f"the gateway closed the connection; if it refused the certificate, its log says so, and {_DOCTOR}"
        case aiohttp.ClientConnectorError():
            text = _system(error.os_error)
        case OSError():
            text = _system(error)
        case _:
            text = str(error) or type(error).__name__
    return text


def status_words(status: int, headers: Mapping[str, str]) -> str:
    """What it means that a gateway answered with that status instead of a link."""
    text = _STATUS.get(status)
    if text is None:
        if 300 <= status < 400:
            text = f"redirected to {headers.get('Location', '?')} ({status}); give that URL"
        else:
            text = f"the answer was {status}, and not a WebSocket"
    reason = _REASON.search(headers.get("WWW-Authenticate", "")) if status == 401 else None
    if reason is not None:
        text = f"the gateway says no (401): {reason[1]}"
    after = headers.get("Retry-After")
    return f"{text}, after {after} s" if after and after.isdigit() else text


def _handshake(error: aiohttp.WSServerHandshakeError) -> str:
    headers: Mapping[str, str] = error.headers or {}
    if error.status == 101:
        return f"what answered is no gateway's WebSocket: {error.message}"
    if error.status == 200:
        return (
            "the answer was an ordinary page (200): a proxy on the way removes the Upgrade header, or it is no gateway"
        )
    return status_words(error.status, headers)


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The SSL error at the bottom of what aiohttp makes of it, which is one itself at times."""
    found: BaseException | None = error
    for _ in range(5):
        inner = getattr(found, "certificate_error", None) or getattr(found, "os_error", None)
        if inner is None and isinstance(found, ssl.SSLError):
            return found
        if inner is None and found is not None:
            inner = found.__cause__ or found.__context__
        found = inner
    return None


def _tls(error: ssl.SSLError) -> str:
    found = failure(error, "the gateway's certificate")
    if found.by_other and found.kind != "protocol":
        return f"{found.text}: this node's; {_DOCTOR}"
    return found.text


def _system(error: BaseException | None) -> str:
    if isinstance(error, socket.gaierror):
        return f"the gateway's name cannot be resolved ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused: nothing listens at that port, or a firewall says no"
    if isinstance(error, ConnectionResetError):
        return "the connection was reset by the other end, or by something on the way"
    if isinstance(error, TimeoutError):
        return "no answer in time: a firewall may drop the packets, or the address is wrong"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return str(error) or type(error).__name__
