"""``gateway pipe doctor``: what stands between this machine and a link, one cause after the other."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp

from gateway_core.errors import ConfigError
from gateway_pipe.identity.contexts import Verify, node_context
from gateway_pipe.identity.explaining import explain, status_words
from gateway_pipe.identity.material import Material, key_fits
from gateway_pipe.identity.shown import describe
from gateway_pipe.identity.urls import GatewayUrl, gateway_url
from gateway_pipe.identity.words import failure
from gateway_pipe.link.model import SUBPROTOCOL

__all__ = ["Credential", "Finding", "diagnose", "explain"]

_STEP_S = 10.0
_SKEW_S = 60.0
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=_STEP_S, sock_read=_STEP_S)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: whether it is well, what was found, and what to do where it is not."""

    ok: bool
    what: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What the node would show: a certificate, or the secret of a client; ``name`` is the node's.

    With a secret the gateway's certificate is judged by the authority in ``ca``, or by those of the system.
    """

    name: str = ""
    material: Material | None = None
    secret: str = ""
    ca: Path | None = None


async def diagnose(url: str, credential: Credential) -> list[Finding]:
    """Try what a node does, step by step, until one step makes the next pointless; raises ConfigError for the URL."""
    where = gateway_url(url)
    return [finding async for finding in _steps(where, credential)]


async def _steps(where: GatewayUrl, credential: Credential) -> AsyncIterator[Finding]:
    if credential.material is not None:
        for finding in _own(credential.material):
            yield finding
    proxy = where.proxy()
    yield _proxies(where, proxy)
    if proxy is None:
        reached = True
        async for finding in _network(where):
            reached = reached and finding.ok
            yield finding
        if not reached:
            return
    if where.secure and proxy is None:
        worked = True
        async for finding in _tls(where, credential):
            worked = worked and finding.ok
            yield finding
        if not worked:
            return
    elif not where.secure:
        yield _plain(where, credential)
    async for finding in _link(where, credential, proxy):
        yield finding


def _own(material: Material) -> list[Finding]:
    """The node's own files."""
    now, named = time.time(), f"this node's certificate ({material.cert})"
    try:
        fits = key_fits(material.cert, material.key)
        if fits:
            material.context()
    except ConfigError as exc:
        return [Finding(ok=False, what=exc.detail)]
    if not fits:
        return [Finding(ok=False, what=f"{material.key} does not belong to {material.cert}", hint="enrol again")]
    if now > material.expires:
        hint = "it can be renewed for 90 days: start the node" if material.folder else "get a new one"
        return [Finding(ok=False, what=f"{named} has expired on {_date(material.expires)}", hint=hint)]
    if now < material.begins:
        what = f"{named} is valid from {_date(material.begins)} on, and here it is {_date(now)}"
        return [Finding(ok=False, what=what, hint="set this machine's clock")]
    if not material.names:
        hint = "it needs a SAN URI pipe:<name>, or a DNS name"
        return [Finding(ok=False, what=f"{named} names no node", hint=hint)]
    names = ", ".join(sorted(material.names))
    return [Finding(ok=True, what=f"{named} is for {names}, until {_date(material.expires)}")]


def _proxies(where: GatewayUrl, proxy: str | None) -> Finding:
    if proxy is not None:
        return Finding(ok=True, what=f"connects by the proxy {_without_user(proxy)} (from the environment)")
    names = [n for n in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY") if os.environ.get(n) or os.environ.get(n.lower())]
    if names:
        return Finding(ok=True, what=f"connects directly; {', '.join(names)} does not apply to {where.host}")
    return Finding(ok=True, what="connects directly, without a proxy")


async def _network(where: GatewayUrl) -> AsyncIterator[Finding]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_STEP_S):
            found = await loop.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as exc:
        yield Finding(
            ok=False, what=f"{where.host}: {explain(exc)}", hint="look at the URL, and at DNS on this machine"
        )
        return
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    yield Finding(ok=True, what=f"{where.host} is {', '.join(addresses)}")
    problem = ""
    for host in addresses:
        try:
            async with asyncio.timeout(_STEP_S):
                _, writer = await asyncio.open_connection(host, where.port)
            writer.close()
        except (OSError, TimeoutError) as exc:
            problem = problem or f"{host} port {where.port}: {explain(exc)}"
        else:
            yield Finding(ok=True, what=f"{host} port {where.port} accepts connections")
            return
    yield Finding(ok=False, what=problem, hint="is the gateway running (PIPE__LISTEN), and is the port open?")


async def _tls(where: GatewayUrl, credential: Credential) -> AsyncIterator[Finding]:
    """First what the server shows, judged with its own words; then whether it takes what the node shows."""
    try:
        context = _context(credential)
        der = await _shown_certificate(where)
    except ConfigError as exc:
        yield Finding(ok=False, what=exc.detail)
        return
    except (OSError, TimeoutError) as exc:
        yield Finding(ok=False, what=explain(exc), hint="https:// is for a port that speaks TLS")
        return
    error = await _try(where, context)
    if isinstance(error, ssl.SSLCertVerificationError):
        what = failure(error, "the gateway's certificate").text
        yield Finding(ok=False, what=f"{what}: {describe(der)}", hint=_server_hint(error, credential.material))
        return
    if error is None:
        yield Finding(ok=True, what=f"the gateway's certificate is the right one: {describe(der)}")
        return
    told = await _refusal(where, credential, error)
    yield Finding(
        ok=False,
        what=f"the gateway broke the handshake off: {explain(told)}",
        hint=_own_hint(told, credential.material),
    )


async def _refusal(where: GatewayUrl, credential: Credential, error: Exception) -> Exception:
    """What the server has against the node, which TLS 1.3 tells too late or not at all: asked again with TLS 1.2."""
    context = _context(credential)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    again = await _try(where, context)
    return again if isinstance(again, ssl.SSLError) else error


async def _try(where: GatewayUrl, context: ssl.SSLContext) -> Exception | None:
    """A handshake, and a small request: with TLS 1.3 a refusal comes after the handshake (RFC 8446 4.4.4)."""
    try:
        async with asyncio.timeout(_STEP_S):
            reader, writer = await asyncio.open_connection(
                where.host, where.port, ssl=context, server_hostname=where.host
            )
            try:
                writer.write(f"HEAD /healthz HTTP/1.1\r\nHost: {where.host}\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
                if not await reader.read(1):
                    return ConnectionResetError(104, "closed after the handshake")
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError) as exc:
        return exc
    return None


async def _shown_certificate(where: GatewayUrl) -> bytes:
    """DER of what the server shows to anybody; raises OSError, ssl.SSLError among them, and TimeoutError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with asyncio.timeout(_STEP_S):
        _, writer = await asyncio.open_connection(where.host, where.port, ssl=context, server_hostname=where.host)
    connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    return connection.getpeercert(binary_form=True) or b""


async def _link(where: GatewayUrl, credential: Credential, proxy: str | None) -> AsyncIterator[Finding]:
    """The request that a node makes for its link; it says no HELLO, so that nothing is replaced."""
    headers = {"Authorization": f"Bearer {credential.secret}"} if credential.secret else {}
    headers |= {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Protocol": SUBPROTOCOL,
    }
    name = credential.name or "doctor"
    options: dict[str, Any] = {"ssl": _context(credential)} if where.secure else {}
    started = time.time()
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            async with session.get(
                where.at(f"/pipe/link/{name}"), headers=headers, proxy=proxy, allow_redirects=False, **options
            ) as response:
                detail = await _detail(response)
                status, given = response.status, dict(response.headers)
                response.close()
    except (aiohttp.ClientError, OSError) as exc:
        yield Finding(ok=False, what=f"no answer for a link: {explain(exc)}")
        return
    if "Date" in given:
        yield _clock(given["Date"], (started + time.time()) / 2)
    yield _verdict(status, given, detail=detail, credential=credential)


def _verdict(status: int, headers: dict[str, str], *, detail: str, credential: Credential) -> Finding:
    if status == 101 and headers.get("Sec-WebSocket-Protocol") == SUBPROTOCOL:
        return Finding(ok=True, what="the gateway takes the node, and the way is open for WebSockets")
    if status == 101:
        return Finding(ok=False, what=f"what answers speaks WebSocket, but not {SUBPROTOCOL}", hint="is it a gateway?")
    if status == 400 and "websocket" in detail.lower():
        status, detail = 426, ""
    what = status_words(status, headers)
    what = f"{what}: {detail}" if detail and detail not in what else what
    return Finding(ok=False, what=what, hint=_status_hint(status, credential))


async def _detail(response: aiohttp.ClientResponse) -> str:
    """The words of a gateway's error."""
    if response.status == 101 or "json" not in response.headers.get("Content-Type", ""):
        return ""
    with contextlib.suppress(aiohttp.ClientError, ValueError, TimeoutError):
        problem = await response.json(content_type=None)
        return str(problem.get("detail") or problem.get("title") or "")[:300] if isinstance(problem, dict) else ""
    return ""


def _clock(date: str, here: float) -> Finding:
    try:
        skew = here - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return Finding(ok=True, what="the gateway's clock cannot be read")
    if abs(skew) <= _SKEW_S:
        return Finding(ok=True, what="the clocks agree")
    how = "ahead of" if skew > 0 else "behind"
    what = f"this machine's clock is {abs(skew):.0f} s {how} the gateway's"
    return Finding(ok=False, what=what, hint="set it right: certificates have a begin and an end")


def _plain(where: GatewayUrl, credential: Credential) -> Finding:
    if credential.material is not None:
        hint = "give the https:// URL of the nodes' port (PIPE__LISTEN), or of the proxy in front of it"
        return Finding(ok=False, what="a certificate cannot be shown without TLS", hint=hint)
    if where.local:
        return Finding(ok=True, what="not encrypted, and does not leave this machine")
    return Finding(ok=False, what="not encrypted: the secret can be read on the way", hint="use https://")


def _context(credential: Credential) -> ssl.SSLContext:
    if credential.material is not None:
        return credential.material.context()
    verify = Verify.SYSTEM if credential.ca is None else Verify.NAMES
    return node_context(verify=verify, ca=credential.ca)


def _server_hint(error: ssl.SSLCertVerificationError, material: Material | None) -> str:
    found = failure(error, "").kind
    if found in {"expired", "not_yet"}:
        return "renew it on the gateway, or set the clocks"
    if found == "name":
        return "connect by a name that is in it, or add this one (PIPE__SERVER_NAMES, or a new certificate)"
    if found == "purpose" and material is not None and material.verify is Verify.AUTHORITY:
        return "what answers is not the gateway, though its certificate is of the same authority"
    if material is None:
        return "for the built-in authority give the folder of the enrolment (--dir), or the authority (--ca)"
    if material.verify is Verify.SYSTEM:
        return "this node enrolled by a proxy with a public certificate; connect there, or enrol at this URL"
    return "is it the gateway where this node enrolled? Something on the way may also open TLS connections"


def _own_hint(error: Exception, material: Material | None) -> str:
    if material is None:
        return "the gateway's log says why"
    kind = failure(error, "").kind if isinstance(error, ssl.SSLError) else ""
    if kind == "expired":
        return "the gateway's clock says so: compare the clocks, or renew the certificate"
    if kind == "untrusted":
        return "it is of another authority than the gateway's: enrol there, or look at PIPE__CA"
    if kind == "purpose":
        return "it needs the extended key usage clientAuth"
    return "the gateway's log says why"


def _status_hint(status: int, credential: Credential) -> str:
    name = credential.name or "NAME"
    if status in {401, 403} and credential.secret:
        return f"make a client for it: gateway client add {name} --scope pipe:connect:{name}"
    if status == 401 and credential.material is not None:
        return f"a new invitation lets a revoked node in again: gateway pipe invite {name}"
    if status == 401:
        return "give what the node connects with: --dir, or --ca, --cert and --key, or --name and --secret"
    if status == 403:
        return "the certificate is for another name"
    if status == 426:
        return "have the proxy pass Upgrade and Connection on (nginx: proxy_http_version 1.1)"
    return ""


def _without_user(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _date(moment: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
    except (OverflowError, ValueError, OSError):
        return "a date far away"
