"""One try to deliver a webhook, and what came of it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum

from gateway_core import SourceError, SourceRefused
from gateway_core.sources.egress import GuardedClient, OutgoingRequest
from gateway_transform.hooks.message import Message

_READ_BYTES = 1024
_DETAIL_CHARACTERS = 200
_LONGEST_RETRY_AFTER_S = 86_400.0
_DIGITS = re.compile(r"[0-9]+")


class Outcome(StrEnum):
    """How a try ended. After ``failed`` there is another one; after the others there is none."""

    DELIVERED = "delivered"
    FAILED = "failed"
    REFUSED = "refused"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``status`` is that of the answer, None without one; ``retry_after_s`` is the pause that it asked for."""

    outcome: Outcome
    detail: str = ""
    status: int | None = None
    retry_after_s: float = 0.0


async def send(http: GuardedClient, message: Message, headers: Mapping[str, str], *, timeout_s: float) -> Verdict:
    """POST it; the answer, however slowly it comes, has ``timeout_s`` from now.

    Success is a status of 2xx. A redirect is none and is not followed: it could lead anywhere (Standard Webhooks).
    """
    request = OutgoingRequest(
        message.url,
        "POST",
        {**headers, "Content-Type": message.media_type},
        body=message.body,
        max_redirects=0,
        stall_s=timeout_s,
    )
    verdict: Verdict | None = None
    try:
        async with asyncio.timeout(timeout_s), http.request(request) as response:
            verdict = _verdict(response.status, response.headers)
            if verdict.outcome is not Outcome.DELIVERED:
                verdict = replace(verdict, detail=_with_text(verdict.detail, await _beginning(response.content.read)))
            return verdict
    except SourceRefused as exc:
        return Verdict(Outcome.REFUSED, exc.detail)
    except TimeoutError:
        return verdict or Verdict(Outcome.FAILED, f"no answer in {timeout_s:g} s")
    except SourceError as exc:
        return verdict or Verdict(Outcome.FAILED, exc.detail)


async def _beginning(read: Callable[[int], Awaitable[bytes]]) -> bytes:
    """Of the answer's body, for the delivery log; nothing where the connection breaks."""
    try:
        return await read(_READ_BYTES)
    except (OSError, RuntimeError):  # RuntimeError: lost, and the body has not heard of it yet
        return b""


def _verdict(status: int, headers: Mapping[str, str]) -> Verdict:
    if 200 <= status < 300:
        return Verdict(Outcome.DELIVERED, status=status)
    detail = f"answered {status}"
    if status == 410:
        return Verdict(Outcome.GIVEN_UP, detail, status)
    if 300 <= status < 400:
        return Verdict(Outcome.FAILED, f"{detail}, and redirects are not followed", status)
    asked_s = _retry_after_s(headers) if status in {429, 503} else 0.0
    return Verdict(Outcome.FAILED, detail, status, asked_s)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Retry-After as seconds from now, in bounds (RFC 9110 10.2.3); 0 without one that can be read."""
    told = headers.get("Retry-After", "").strip()
    if _DIGITS.fullmatch(told):
        return min(float(told), _LONGEST_RETRY_AFTER_S)
    try:
        left = parsedate_to_datetime(told).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, left), _LONGEST_RETRY_AFTER_S)


def _with_text(detail: str, body: bytes) -> str:
    """``detail`` and the beginning of the answer's text, on one line that any terminal and database takes."""
    text = " ".join(body.decode(errors="replace").split())
    shown = "".join(character for character in text if character.isprintable())[:_DETAIL_CHARACTERS]
    return f"{detail}: {shown}" if shown else detail
