"""``/pipe/ca``, ``/pipe/enrol``, ``/pipe/renew``: how nodes get their certificates."""

from __future__ import annotations

import base64
import binascii
import time
from collections import OrderedDict

from aiohttp import web
from pydantic import BaseModel, Field

from gateway_core import Body, Gateway, Gone, Route, StateKey, TooManyRequests, Unauthorized
from gateway_core.errors import BadRequest, Invalid
from gateway_core.http.json_body import read_json, validate
from gateway_core.http.links import client_address
from gateway_core.observe.logs import get_logger
from gateway_pipe.identity.authority import AUTHORITY_KEY, Authority
from gateway_pipe.identity.tokens import parse_token

log = get_logger("gateway.pipe.identity")

_MOST_BYTES = 64 * 1024
_MOST_FAILURES = 10
_WITHIN_S = 60.0
_MOST_ADDRESSES = 4096


class EnrolRequest(BaseModel):
    """What a node sends with its first request for a certificate."""

    token: str = Field(max_length=256, description="From `gateway pipe invite`")
    csr: str = Field(max_length=16384, description="Signing request (PKCS #10) in PEM; only its key counts")


class RenewRequest(BaseModel):
    """What a node sends when its certificate may have expired."""

    csr: str = Field(max_length=16384, description="Signing request (PKCS #10) in PEM; only its key counts")
    certificate: str = Field(max_length=16384, description="The old certificate in PEM")
    signature: str = Field(max_length=2048, description="Of the old key over the request, in base64")


class CertificateAnswer(BaseModel):
    """A node's certificate."""

    name: str
    certificate: str = Field(description="PEM")
    ca: str = Field(description="The authority's certificate in PEM")
    expires: float = Field(description="Unix seconds")


class Failures:
    """How often an address was wrong lately; after ten times within a minute it has to wait."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise TooManyRequests for an address that was wrong ten times within a minute."""
        since, count = self._counts.get(address, (0.0, 0))
        left_s = since + _WITHIN_S - time.monotonic()
        if count >= _MOST_FAILURES and left_s > 0:
            raise TooManyRequests("too many wrong attempts from this address", retry_after_s=round(left_s))

    def note(self, address: str) -> None:
        """One more."""
        now = time.monotonic()
        since, count = self._counts.get(address, (now, 0))
        if now - since > _WITHIN_S:
            since, count = now, 0
        self._counts[address] = (since, count + 1)
        self._counts.move_to_end(address)
        while len(self._counts) > _MOST_ADDRESSES:
            self._counts.popitem(last=False)


FAILURES_KEY = StateKey("pipe.enrolment_failures", Failures)


class EnrolmentHandlers:
    """Handlers of the three routes; attempts are counted over all ports."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        if FAILURES_KEY not in gateway.state:
            gateway.state[FAILURES_KEY] = Failures()
        self._failures = gateway.state[FAILURES_KEY]

    async def ca(self, _request: web.Request) -> web.Response:
        """The certificate of the authority for nodes, in PEM; tokens pin it."""
        text = await self._authority.ca_pem()
        headers = {"Content-Type": "application/pem-certificate-chain", "Cache-Control": "no-cache"}
        return web.Response(text=text, headers=headers)

    async def enrol(self, request: web.Request) -> web.Response:
        """A certificate for a token, once. 401: no such token; 410: used or expired."""
        address = self._address(request)
        asked = validate(EnrolRequest, await read_json(request))
        try:
            token = parse_token(asked.token)
        except BadRequest as error:
            raise self._refused(address, Unauthorized(error.detail)) from error
        try:
            answer = await self._authority.enrol(token, asked.csr)
        except (Unauthorized, Gone) as error:
            raise self._refused(address, error) from error
        log.info("a node has enrolled", node=answer["name"], client=address)
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def renew(self, request: web.Request) -> web.Response:
        """A certificate for one that may have expired meanwhile, up to 90 days ago; its key signs the request."""
        address = self._address(request)
        asked = validate(RenewRequest, await read_json(request))
        try:
            signature = base64.b64decode(asked.signature, validate=True)
        except binascii.Error as error:
            raise Invalid({"signature": ["Not base64."]}) from error
        try:
            answer = await self._authority.renew_expired(
                certificate=asked.certificate, csr=asked.csr, signature=signature
            )
        except (Unauthorized, Gone) as error:
            raise self._refused(address, error) from error
        log.info("a node has renewed its certificate", node=answer["name"], client=address)
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    def _address(self, request: web.Request) -> str:
        address = client_address(request, self._gateway.trusted_proxies)
        self._failures.check(address)
        return address

    def _refused(self, address: str, error: Unauthorized | Gone) -> Unauthorized | Gone:
        self._failures.note(address)
        log.warning("a certificate was refused", reason=error.detail, client=address)
        return error

    @property
    def _authority(self) -> Authority:
        return self._gateway.state[AUTHORITY_KEY]


def enrolment_routes(gateway: Gateway) -> list[Route]:
    """For the main port and for the nodes' own; the token, or the old key, is what lets in."""
    handlers = EnrolmentHandlers(gateway)
    return [
        Route(
            method="GET",
            path="/pipe/ca",
            handler=handlers.ca,
            name="ca",
            public=True,
            media_type="application/pem-certificate-chain",
        ),
        Route(
            method="POST",
            path="/pipe/enrol",
            handler=handlers.enrol,
            name="enrol",
            public=True,
            body=Body.JSON,
            request=EnrolRequest,
            response=CertificateAnswer,
            max_body_bytes=_MOST_BYTES,
        ),
        Route(
            method="POST",
            path="/pipe/renew",
            handler=handlers.renew,
            name="renew",
            public=True,
            body=Body.JSON,
            request=RenewRequest,
            response=CertificateAnswer,
            max_body_bytes=_MOST_BYTES,
        ),
    ]
