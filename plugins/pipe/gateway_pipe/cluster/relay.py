"""Calls from other gateways, passed on to nodes of this one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from gateway_pipe.link.calling import Answer
from gateway_pipe.link.model import DeadlinePassed, Incoming, LinkError, LinkLost, Reset, StreamReset
from gateway_pipe.link.session import Link

LinkOf = Callable[[str], Link | None]
"""The link of a node that this process holds, None for others."""


async def relay(incoming: Incoming, link_of: LinkOf) -> None:
    """Answer with what the node ``opening.node`` answers, both bodies as they come; ``link_of`` knows local ones only.

    A node that is not here is refused, never looked for elsewhere: the calling gateway asks the directory again. What
    breaks on the way to the node breaks the stream with the code that tells the caller what it may do.
    """
    opening = incoming.opening
    link = link_of(opening.node)
    if link is None:
        await incoming.refuse(Reset.REFUSED, "the node is not connected here")
        return
    left_s = incoming.time_left_s()
    onward = replace(opening, node="", timeout_ms=None if left_s is None else int(left_s * 1000))
    try:
        async with link.call(onward, incoming, timeout_s=left_s) as answer:
            await incoming.answer(answer.head, _passed_on(answer, incoming))
    except LinkError as error:
        await _break_off(incoming, error)


async def _passed_on(answer: Answer, incoming: Incoming) -> AsyncIterator[bytes]:
    """The answer's body. It breaks the stream itself, since the code that stands for any other body is INTERNAL."""
    try:
        async for data in answer:
            yield data
    except LinkError as error:
        await _break_off(incoming, error)
        raise


async def _break_off(incoming: Incoming, error: LinkError) -> None:
    match error:
        case StreamReset():
            await incoming.refuse(error.code, error.detail, retry_after_s=error.retry_after_s)
        case DeadlinePassed():
            await incoming.refuse(Reset.DEADLINE, error.detail)
        case LinkLost(started=False):
            await incoming.refuse(Reset.REFUSED, error.detail)
        case _:
            await incoming.refuse(Reset.GONE, f"the link to the node broke: {error.detail}")
