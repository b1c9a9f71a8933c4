"""A body that came with a proof: nothing is answered before the proof was looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from gateway_core.http.body import BODY_CHECK, BodyCheck, body


class Proof:
    """Stands between ``http.body`` and an authenticator's check, and knows whether it came to its end."""

    def __init__(self, request: web.Request, check: BodyCheck | None) -> None:
        self._request = request
        self._check = check

    def update(self, chunk: bytes) -> None:
        """See BodyCheck."""
        if self._check is not None:
            self._check.update(chunk)

    def finish(self) -> None:
        """See BodyCheck."""
        if self._check is not None:
            self._check.finish()
            self._check = None

    async def demand(self) -> None:
        """Read what the handler left unread.

        Raises what the check raises, and RuntimeError for a body that the handler left in the middle.
        """
        if self._check is not None:
            async for _ in body(self._request):
                pass

    def waive(self) -> None:
        """Ask for nothing any more: an error is going to be answered, or the body was proven."""
        self._check = None


PROOF: web.RequestKey[Proof] = web.RequestKey("proof", Proof)


@contextmanager
def proving(request: web.Request, check: BodyCheck | None) -> Iterator[Proof]:
    """For a handler's run: an answer begins only after the whole body agreed with ``check``, be it read or not."""
    proof = Proof(request, check)
    request[PROOF] = proof
    if check is not None:
        request[BODY_CHECK] = proof
    try:
        yield proof
    finally:
        proof.waive()
