"""Digests of whole files, made in the background: blocks of any file come first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from gateway_blocks.sums.record import Record
from gateway_blocks.sums.shelf import Shelf
from gateway_blocks.sums.turns import Turns
from gateway_blocks.sums.workshop import Workshop
from gateway_core import GatewayError

_MAX_WAITING = 1000
_SAVED_S = 30.0


class Wholes:
    """Makes them one file after another on each thread, for records that are still on the shelf."""

    def __init__(self, workshop: Workshop, shelf: Shelf, failed: Callable[[Record, GatewayError], None]) -> None:
        self._workshop = workshop
        self._shelf = shelf
        self._failed = failed
        self._turns = Turns(total=_MAX_WAITING, per_client=_MAX_WAITING)
        self._active: set[str] = set()
        self._makers = 0

    def __len__(self) -> int:
        return len(self._turns) + len(self._active)

    def ask(self, record: Record) -> None:
        """See to it that the digests get made; where too many wait, the next who asks may have more luck."""
        if record.key.id in self._active or record.unsaved_whole is not None or self._workshop.closing:
            return
        self._turns.add("", record.key.id)
        if self._makers < self._workshop.workers:
            self._makers += 1
            self._workshop.spawn(self._make_all())

    async def _make_all(self) -> None:
        try:
            while (name := self._turns.next()) is not None:
                record = self._shelf.get(name)
                if record is not None and record.whole is None and record.fault is None:
                    self._active.add(name)
                    try:
                        await self._make(record)
                    except GatewayError as error:
                        self._failed(record, error)
                    finally:
                        self._active.discard(name)
        finally:
            self._makers -= 1

    async def _make(self, record: Record) -> None:
        shop, claim = self._workshop, f"{record.key.id}:whole"
        if not shop.claims.claim(claim):  # another process makes them; who still waits asks again
            await shop.learn(record)
            return
        made = False
        try:
            await shop.learn(record)
            if record.whole is None:
                whole = await shop.hash(record, claim, iter(()), whole=True)
                assert whole is not None
                shop.keeper.put_whole(record, whole)
                made = True
        finally:
            if not made:
                shop.claims.release(claim)
        if made:
            shop.spawn(self._release_when_saved(record, claim))

    async def _release_when_saved(self, record: Record, claim: str) -> None:
        """Until then another process would not find the digests, and make them once more."""
        try:
            with suppress(GatewayError):
                await record.wait_for(lambda: record.whole is not None, _SAVED_S)
        finally:
            self._workshop.claims.release(claim)
