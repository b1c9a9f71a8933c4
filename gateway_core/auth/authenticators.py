"""How a request proves who sent it: a chain of authenticators, the first that recognises its scheme decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aiohttp import hdrs, web

from gateway_core.auth.client import Client, Identity
from gateway_core.auth.secrets import hmac_key
from gateway_core.auth.store import ClientStore
from gateway_core.errors import Forbidden, NotFound, Unauthorized

IDENTITY: web.RequestKey[Identity] = web.RequestKey("identity", Identity)
GATEWAY_AUTHORIZATION = "X-Gateway-Authorization"
"""Carries the credential instead of Authorization, which is then for whoever is behind the gateway."""

JWT_LEEWAY_S = 30
_YEAR_10000 = 253_402_300_800


class Authenticator(Protocol):
    """One scheme."""

    async def authenticate(self, request: web.Request) -> Identity | None:
        """None: not my scheme. Raises Unauthorized for a bad credential of this scheme."""


def client_of(request: web.Request) -> Client:
    """Who sent the request; ``Client.ANONYMOUS`` on public routes without a credential."""
    identity = request.get(IDENTITY)
    return Client.ANONYMOUS if identity is None else identity.client


def _credential(request: web.Request) -> str:
    """The one value of X-Gateway-Authorization where there is such a header, else of Authorization; empty for none."""
    headers = request.headers
    values = headers.getall(GATEWAY_AUTHORIZATION if GATEWAY_AUTHORIZATION in headers else hdrs.AUTHORIZATION, ())
    return values[0].strip() if len(values) == 1 else ""


class SecretAuthenticator:
    """``Authorization: <secret>`` and ``Authorization: Bearer <secret>``, or ``X-Gateway-Authorization`` with these."""

    def __init__(self, clients: ClientStore) -> None:
        self._clients = clients

    async def authenticate(self, request: web.Request) -> Identity | None:
        """None when the header is of another form or nobody has that secret."""
        secret = _credential(request)
        if secret[:7].lower() == "bearer ":
            secret = secret[7:].strip()
        if not secret or " " in secret:
            return None
        client = await self._clients.by_secret(secret)
        return None if client is None else Identity(client)


class TokenAuthenticator:
    """``Authorization: Bearer <JWT>``, HS256 under the client's secret (RFC 8725).

    ``iss`` names the client by name or id; ``exp`` is required; ``aud`` must be ``content-gateway``.
    """

    AUDIENCE = "content-gateway"

    def __init__(self, clients: ClientStore) -> None:
        self._clients = clients

    async def authenticate(self, request: web.Request) -> Identity | None:
        """None when it is no JWT; raises Unauthorized for one that does not hold."""
        value = _credential(request)
        if value[:7].lower() != "bearer " or value.count(".") != 2:
            return None
        import jwt  # 0.1 s that most installations never need

        token = value[7:].strip()
        try:
            claims = jwt.decode(token, options={"verify_signature": False, "verify_aud": False})
            client = await self._clients.find(str(claims.get("iss", "")))
            if client is None:
                raise Unauthorized("invalid token")
            secret = await self._clients.secret_of(client.id)
            jwt.decode(
                token,
                hmac_key(secret),
                algorithms=["HS256"],
                audience=self.AUDIENCE,
                leeway=JWT_LEEWAY_S,
                options={"require": ["exp", "iss", "aud"], "strict_aud": True},
            )
        except (jwt.PyJWTError, NotFound) as exc:
            raise Unauthorized("invalid token") from exc
        if not all(_is_date(claims[name]) for name in ("exp", "nbf", "iat") if name in claims):
            raise Unauthorized("invalid token")
        return Identity(client)


def _is_date(value: object) -> bool:
    """A NumericDate (RFC 7519 2) of this age; the library takes texts and any number as well."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _YEAR_10000


class Chain:
    """All authenticators in order: the core's, then each plugin's."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    async def identify(self, request: web.Request) -> Identity | None:
        """The first identity found, None when no scheme recognises the request; raises Unauthorized."""
        for authenticator in self._authenticators:
            identity = await authenticator.authenticate(request)
            if identity is not None:
                return identity
        return None

    async def require(self, request: web.Request, scope: str) -> Identity:
        """An identity that holds ``scope``; raises Unauthorized or Forbidden."""
        identity = await self.identify(request)
        if identity is None:
            raise Unauthorized("no valid credential; send the client's secret in Authorization")
        if not identity.client.allows(scope):
            raise Forbidden(f"the client lacks scope {scope}")
        return identity
