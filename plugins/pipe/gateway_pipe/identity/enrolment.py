"""How a node gets its certificate: with a token the first time, with what it has after that.

Nothing secret is sent before the gateway is known: by the pin in the token, or by what was kept when it enrolled.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from gateway_core.errors import ConfigError, GatewayError
from gateway_pipe.identity.contexts import Verify, node_context, pinned_context
from gateway_pipe.identity.explaining import explain
from gateway_pipe.identity.material import (
    Material,
    install,
    make_folder,
    new_request,
    read_enrolled,
    sign_with,
    write_about,
)
from gateway_pipe.identity.renewal import renewal_statement
from gateway_pipe.identity.tokens import Token, parse_token
from gateway_pipe.identity.urls import GatewayUrl, gateway_url

_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=10, sock_read=30)
_MOST_BYTES = 256 * 1024

Install = Callable[[Mapping[str, Any]], Material]
"""Takes the gateway's JSON, writes the files and gives what they are now; blocks; raises ConfigError."""


class EnrolmentFailed(GatewayError):
    """No certificate was had; the message says why, and what to do."""

    type, title = "enrolment", "Enrolment failed"


async def enrol(url: str, token: str, folder: Path, *, force: bool = False) -> Material:
    """Have the gateway sign a key that is made in ``folder``, and keep both there.

    Raises ConfigError for arguments that cannot be used, and EnrolmentFailed; a server that is not the token's gets
    neither token nor request.
    """
    where, wanted = gateway_url(url), _token(token)
    if not (where.secure or where.local):
        raise ConfigError(f"{where.text}: a token is sent over https:// only")
    await asyncio.to_thread(make_folder, folder, force=force)
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        ca = await _pinned_authority(session, where, wanted)
        request = await asyncio.to_thread(new_request, folder, "node")
        verify, answer = await _exchange(session, where, ca=ca, body={"token": wanted.text, "csr": request})
    return await asyncio.to_thread(_keep, folder, answer, url=where.text, verify=verify, ca=ca)


def renew_csr(folder: Path) -> tuple[str, Install]:
    """A request for the next certificate, and what to do with the answer; blocks; raises ConfigError.

    Send the request over the link (CONTROL ``renew``); the key in use stays until ``install`` is called.
    """
    name = read_enrolled(folder).name
    request = new_request(folder, name)

    def use(answer: Mapping[str, Any]) -> Material:
        if answer.get("name") != name:
            raise ConfigError(f"the gateway's certificate is not for {name}")
        install(folder, answer)
        return read_enrolled(folder)

    return request, use


async def renew_after_expiry(folder: Path) -> Material:
    """A new certificate for a node that was off until the old one expired, from where it enrolled.

    The old key signs for it. Raises ConfigError for files that cannot be used, EnrolmentFailed when the gateway says
    no, or another server answers.
    """
    old = await asyncio.to_thread(read_enrolled, folder)
    request, use = await asyncio.to_thread(renew_csr, folder)
    signature = await asyncio.to_thread(sign_with, old.key, renewal_statement(request))
    body = {
        "csr": request,
        "certificate": await asyncio.to_thread(old.cert.read_text, "ascii"),
        "signature": base64.b64encode(signature).decode(),
    }
    where = gateway_url(old.url)
    context = node_context(verify=old.verify, ca=old.ca) if where.secure else None
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        try:
            answer = await _post(session, where, "/pipe/renew", context=context, body=body)
        except (aiohttp.ClientError, OSError) as exc:
            raise _failed(where, exc) from exc
    return await asyncio.to_thread(use, answer)


def _token(text: str) -> Token:
    try:
        return parse_token(text)
    except GatewayError as exc:
        raise ConfigError(exc.detail) from exc


def _keep(folder: Path, answer: Mapping[str, Any], *, url: str, verify: Verify, ca: str) -> Material:
    write_about(folder, name=str(answer.get("name", "")), url=url, verify=verify, ca=ca)
    install(folder, answer)
    return read_enrolled(folder)


async def _pinned_authority(session: aiohttp.ClientSession, where: GatewayUrl, token: Token) -> str:
    """The authority's certificate, from whoever answers: the pin tells whether it is the right one."""
    try:
        options: dict[str, Any] = {"ssl": _believing_anybody()} if where.secure else {}
        async with session.get(where.at("/pipe/ca"), proxy=where.proxy(), allow_redirects=False, **options) as response:
            text, status = (await _whole(response)).decode("ascii", "replace"), response.status
    except (aiohttp.ClientError, OSError) as exc:
        raise _failed(where, exc) from exc
    if status != 200:
        raise EnrolmentFailed(f"{where.at('/pipe/ca')} answered {status}: is this a gateway with the pipe plugin?")
    try:
        der = ssl.PEM_cert_to_DER_cert(text.strip())
    except ValueError as exc:
        raise EnrolmentFailed(f"{where.at('/pipe/ca')} is no certificate: is this a gateway?") from exc
    if not hmac.compare_digest(hashlib.sha256(der).digest(), token.pin):
        raise EnrolmentFailed(
            f"{where.text} is not the gateway that made the token: its certificate authority is another one; "
            "nothing was sent to it"
        )
    return ssl.DER_cert_to_PEM_cert(der)


async def _exchange(
    session: aiohttp.ClientSession, where: GatewayUrl, *, ca: str, body: Mapping[str, str]
) -> tuple[Verify, dict[str, Any]]:
    """Token and request for a certificate, over a connection to the gateway or to a proxy with a public certificate."""
    if not where.secure:
        return Verify.AUTHORITY, await _first(session, where, context=None, body=body)
    try:
        return Verify.AUTHORITY, await _post(session, where, "/pipe/enrol", context=pinned_context(ca), body=body)
    except aiohttp.ClientConnectorCertificateError:  # the handshake failed, so nothing was sent
        return Verify.SYSTEM, await _first(session, where, context=ssl.create_default_context(), body=body)
    except (aiohttp.ClientError, OSError) as exc:
        raise _failed(where, exc) from exc


async def _first(
    session: aiohttp.ClientSession, where: GatewayUrl, *, context: ssl.SSLContext | None, body: Mapping[str, str]
) -> dict[str, Any]:
    try:
        return await _post(session, where, "/pipe/enrol", context=context, body=body)
    except aiohttp.ClientConnectorCertificateError as exc:
        raise EnrolmentFailed(
            f"{where.text} shows a certificate that neither the gateway's authority nor a public one signed; "
            "nothing was sent to it"
        ) from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise _failed(where, exc) from exc


async def _post(
    session: aiohttp.ClientSession,
    where: GatewayUrl,
    path: str,
    *,
    context: ssl.SSLContext | None,
    body: Mapping[str, str],
) -> dict[str, Any]:
    """The gateway's JSON; raises EnrolmentFailed with its words, and what aiohttp raises."""
    options: dict[str, Any] = {} if context is None else {"ssl": context}
    async with session.post(
        where.at(path), json=body, proxy=where.proxy(), allow_redirects=False, **options
    ) as response:
        data, status = await _whole(response), response.status
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise EnrolmentFailed(f"{where.at(path)} answered {status}, and not as a gateway does")
    if status != 200:
        raise EnrolmentFailed(str(answer.get("detail") or answer.get("title") or f"the gateway answered {status}"))
    return answer


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > _MOST_BYTES:
            raise EnrolmentFailed(f"{response.url} answers with more than a gateway does")
    return bytes(data)


def _believing_anybody() -> ssl.SSLContext:
    """For what is public and compared with a pin."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _failed(where: GatewayUrl, error: Exception) -> EnrolmentFailed:
    return EnrolmentFailed(f"{where.text}: {explain(error)}")
