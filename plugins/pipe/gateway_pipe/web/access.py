"""Who may call which node, and what of a caller's request a node may see."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from gateway_core import Client, Forbidden, Gateway, Unauthorized, client_of
from gateway_core.auth.authenticators import GATEWAY_AUTHORIZATION
from gateway_core.http.links import external_base
from gateway_pipe.link.http import OWN_REQUEST_HEADERS, strip_headers
from gateway_pipe.link.model import Headers
from gateway_pipe.settings import CALL_SCOPE, PipeSettings

CERTIFICATE_HEADERS = frozenset(
    {"client-cert", "client-cert-chain", "x-forwarded-client-cert"}
    | {"x-ssl-cert", "x-ssl-verify", "x-ssl-client-cert", "x-ssl-client-verify"}
)
"""What a reverse proxy says of a client's certificate (RFC 9440, nginx, Envoy), in lower case."""

_CREDENTIALS = frozenset({GATEWAY_AUTHORIZATION.lower(), "x-fpx-authorize", "authorize"})
_NEVER = OWN_REQUEST_HEADERS | CERTIFICATE_HEADERS | _CREDENTIALS | {"cookie", "x-pipe-quorum"}
_NOR_CREDENTIAL = _NEVER | {"authorization"}
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OUR_SECRET = re.compile(r"\bgw_[0-9A-Za-z]{46}\b")


class Reach:
    """Whom the caller of a route without a node in its path may call."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._open = not gateway.section(PipeSettings).call_auth

    def of(self, request: web.Request, *, operator: bool = False) -> Callable[[str], bool]:
        """Says of a node's name whether the caller may call it; to an ``operator`` with ``admin`` always yes.

        Raises Unauthorized for a caller without a credential, unless calls need none; see ``check_page`` for those.
        """
        client = client_of(request)
        if self._open:
            check_page(request, self._gateway)
            return _everyone
        if operator and client.allows("admin"):
            return _everyone
        if client.anonymous:
            raise Unauthorized("no valid credential; send the client's secret in Authorization")
        return _Allowed(client).call


class _Allowed:
    def __init__(self, client: Client) -> None:
        self._client = client

    def call(self, node: str) -> bool:
        return self._client.allows(CALL_SCOPE.format(node=node))


def _everyone(_node: str) -> bool:
    return True


def check_page(request: web.Request, gateway: Gateway) -> None:
    """Where calls need no client: raise Forbidden for a page of another host that would change something.

    Trusted programs alone reach the port, and one of them is a browser, which shows anybody's pages.
    """
    if changes_something(request):
        host = urlsplit(external_base(request, gateway.public_url, gateway.trusted_proxies)).netloc
        if not from_own_page(request, host):
            raise Forbidden("a page of another host may not do this")


def changes_something(request: web.Request) -> bool:
    """Whether the method is one that changes something (RFC 9110 9.2.1)."""
    return request.method not in _SAFE


def from_own_page(request: web.Request, host: str) -> bool:
    """Whether a request comes from a page of ``host`` (with its port, in small letters), or from no page at all.

    Browsers tell (Fetch 3.2, Fetch Metadata). A cookie alone would be sent for pages of neighbouring hosts too.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        return origin.partition("://")[2].lower() == host
    return request.headers.get("Sec-Fetch-Site", "none") in {"same-origin", "none"}


def call_headers(request: web.Request) -> Headers:
    """The headers of a request that go to the node: none about this connection, and no credential of the gateway's.

    No cookie either: a browser sends here what was meant for the whole domain.

    Authorization goes on where it was not looked at, because ``X-Gateway-Authorization`` was there, and where calls
    need no client and none was recognised; never with a secret of ours.
    """
    headers = request.headers
    dropped = _NEVER
    if hdrs.AUTHORIZATION in headers:
        ours = any(_OUR_SECRET.search(value) for value in headers.getall(hdrs.AUTHORIZATION))
        if ours or (GATEWAY_AUTHORIZATION not in headers and not client_of(request).anonymous):
            dropped = _NOR_CREDENTIAL
    return strip_headers(headers.items(), dropped)
