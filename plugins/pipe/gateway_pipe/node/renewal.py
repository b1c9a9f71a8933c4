"""A node's certificate is renewed over its link, long before it expires."""

from __future__ import annotations

import asyncio
import json
import time
from random import SystemRandom

from gateway_core.errors import GatewayError, Unavailable, UpstreamFailed
from gateway_core.observe.logs import get_logger
from gateway_pipe.identity.enrolment import renew_csr
from gateway_pipe.identity.material import Material, read_enrolled
from gateway_pipe.link.model import Kind, Opening
from gateway_pipe.link.session import Link
from gateway_pipe.node.credentials import CertificateIdentity, Identity
from gateway_pipe.node.dialer import Dialer

log = get_logger("gateway.pipe.node")

RENEW = "renew"
"""The target of the CONTROL stream whose body is the signing request, and whose answer is the certificate."""

_LOOK_EVERY_S = 300.0
_TRY_AGAIN_S = (30.0, 90.0)
_CALL_S = 30.0
_ANSWER_BYTES = 256 * 1024


async def keep_valid(identity: Identity, dialer: Dialer) -> None:
    """Renew the certificate at two thirds of its life, for ever; returns at once for one that is not ours to renew.

    Failures are logged and tried again after a minute or so; the certificate in use stays until there is another.
    """
    if not isinstance(identity, CertificateIdentity) or identity.material.folder is None:
        return
    while True:
        left_s = identity.material.renew_at - time.time()
        if left_s > 0:
            await asyncio.sleep(min(left_s, _LOOK_EVERY_S))  # the clock may be set meanwhile
            continue
        try:
            await renew(identity, await dialer.wait_link(_LOOK_EVERY_S))
        except Unavailable:
            continue
        except (GatewayError, OSError, ValueError) as error:
            log.warning("the certificate was not renewed", reason=str(error), expires=round(identity.material.expires))
            await asyncio.sleep(SystemRandom().uniform(*_TRY_AGAIN_S))


async def renew(identity: CertificateIdentity, link: Link) -> Material:
    """Have the gateway sign a new key; the next connection uses it.

    Raises UpstreamFailed with the gateway's words, LinkError, and ConfigError where the folder cannot be written.
    """
    folder = identity.material.folder
    assert folder is not None
    request, install = await asyncio.to_thread(renew_csr, folder)
    opening = Opening(kind=Kind.CONTROL, method="POST", target=RENEW)
    async with link.call(opening, request.encode(), timeout_s=_CALL_S, whole=True) as answer:
        text = await answer.read(_ANSWER_BYTES)
        status = answer.head.status
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise UpstreamFailed("the gateway's answer to a renewal is no JSON") from error
    if status != 200 or not isinstance(fields, dict):
        detail = fields.get("detail") if isinstance(fields, dict) else None
        raise UpstreamFailed(f"the gateway renews no certificate: {detail or status}")
    await asyncio.to_thread(install, fields)
    identity.material = await asyncio.to_thread(read_enrolled, folder)
    log.info("certificate renewed", expires=round(identity.material.expires))
    return identity.material
