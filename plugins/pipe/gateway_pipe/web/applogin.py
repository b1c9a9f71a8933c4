"""How a browser proves who its user is to an application's own host: a form, then a cookie that only the gateway reads.

The cookie is bound to application, node and client, and ends with the client's secret. It is the gateway's alone: the
application neither gets it nor can set it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import html
import json
import time
from typing import Any

from aiohttp import hdrs, web

from gateway_core import Client, Gateway, NotFound
from gateway_core.errors import StartupError
from gateway_pipe.settings import CALL_SCOPE
from gateway_pipe.web.appcalls import Place

LOGIN_S = 12 * 3600
_PURPOSE = "pipe.app"
_SECURE_NAME = "__Host-gateway"
_PLAIN_NAME = "gateway-login"
NAMES = frozenset({_SECURE_NAME, _PLAIN_NAME})
"""Names of our cookie: with TLS the prefix keeps neighbouring hosts from setting it (RFC 6265bis 4.1.3.2)."""


class Logins:
    """Makes and reads cookies of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def by_password(self, request: web.Request) -> Client | None:
        """The client whose secret is the password of ``Authorization: Basic`` (RFC 7617); the user does not count."""
        scheme, _, encoded = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            _, _, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return await self._gateway.clients.by_secret(secret)

    async def by_cookie(self, request: web.Request, place: Place) -> Client | None:
        """The client that logged in at this place, if it still has the secret that it showed."""
        value = request.cookies.get(_name(place), "")
        if not value:
            return None
        try:
            told = json.loads(self._gateway.keyring.decrypt(value.encode(errors="replace")))
        except (StartupError, ValueError):
            return None
        if not isinstance(told, dict) or told.get("purpose") != _PURPOSE or told.get("place") != _label(place):
            return None
        client = await self._gateway.clients.find(told["client"])
        if told["expires"] <= time.time() or client is None or client.id != told["client"]:
            return None
        try:
            secret = await self._gateway.clients.secret_of(client.id)
        except NotFound:
            return None
        return client if hmac.compare_digest(_digest(secret), told["secret"]) else None

    def remember(self, response: web.Response, place: Place, *, client: Client, secret: str) -> None:
        """Give the browser its cookie."""
        told: dict[str, Any] = {
            "purpose": _PURPOSE,
            "place": _label(place),
            "client": client.id,
            "secret": _digest(secret),
            "expires": time.time() + LOGIN_S,
        }
        value = self._gateway.keyring.encrypt(json.dumps(told).encode()).decode()
        _set(response, place, value, max_age=LOGIN_S)

    def forget(self, response: web.Response, place: Place) -> None:
        """Take the cookie back."""
        _set(response, place, "", max_age=0)


def may_call(client: Client, place: Place) -> bool:
    """Whether the client may use the applications of this node."""
    return client.allows(CALL_SCOPE.format(node=place.node))


def without_ours(cookies: str) -> str:
    """A ``Cookie`` field without our own."""
    parts = (part.strip() for part in cookies.split(";"))
    return "; ".join(part for part in parts if part and part.partition("=")[0].strip() not in NAMES)


def for_this_host(cookie: str) -> str:
    """A ``Set-Cookie`` of the application as its own host may set it: for no other host, and never ours; else empty."""
    first, *attributes = cookie.split(";")
    if first.partition("=")[0].strip() in NAMES:
        return ""
    return ";".join((first, *(part for part in attributes if part.partition("=")[0].strip().lower() != "domain")))


def form(place: Place, *, then: str, problem: str = "") -> web.Response:
    """The page that asks for a secret; ``then`` is the path to go to afterwards."""
    text = _FORM.format(app=html.escape(place.app), node=html.escape(place.node), then=html.escape(then))
    text = text.replace("<!-- problem -->", f"<p role=alert>{html.escape(problem)}</p>" if problem else "")
    return web.Response(
        text=text,
        status=403 if problem else 200,
        content_type="text/html",
        headers={
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"{_ONLY_FORM}; style-src 'sha256-{_STYLE_HASH}'",
            "Referrer-Policy": "same-origin",
            "X-Frame-Options": "DENY",
        },
    )


def local_path(text: str) -> str:
    """``text`` where it is a path of this host, else ``/``; ``//`` and backslashes would lead to another."""
    fits = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isascii() and text.isprintable()
    return text if fits else "/"


def _name(place: Place) -> str:
    return _SECURE_NAME if place.scheme == "https" else _PLAIN_NAME


def _label(place: Place) -> str:
    return f"{place.app}--{place.node}"


def _digest(secret: str) -> str:
    return hashlib.sha256(b"pipe.app/" + secret.encode()).hexdigest()[:32]


def _set(response: web.Response, place: Place, value: str, *, max_age: int) -> None:
    response.set_cookie(
        _name(place), value, max_age=max_age, path="/", secure=place.scheme == "https", httponly=True, samesite="Lax"
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:24em;margin:15vh auto;padding:0 1em}"
    "input,button{font:inherit;width:100%;box-sizing:border-box;padding:.5em;margin:.25em 0}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_ONLY_FORM = "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
_FORM = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Log in</title><style>{_STYLE.replace("{", "{{").replace("}", "}}")}</style>
<h1>{{app}} on {{node}}</h1><!-- problem -->
<form method="post" action="/.gateway/login">
<label>Secret of a client that may call this node
<input type="password" name="secret" autocomplete="current-password" required autofocus></label>
<input type="hidden" name="next" value="{{then}}">
<button>Log in</button>
</form></html>
"""
