"""One answer to a request for a ticket's download: how far it is, for the owner; its CRC-32s, for those who go on."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from gateway_archive.layout.frozen import FrozenEntry
from gateway_archive.layout.model import Segment
from gateway_archive.ledger.journal import Journal
from gateway_archive.ledger.learned import Learned, key_of
from gateway_archive.ledger.responses import RUNNING, Response, Responses
from gateway_archive.ledger.segments import SegmentStore
from gateway_archive.packing import Aborted
from gateway_archive.report import Failure
from gateway_archive.store import TicketStore
from gateway_archive.tickets import Ticket
from gateway_core import GatewayError
from gateway_core.observe.logs import get_logger

SAVE_EVERY_S = 1.0
COMPLETED = "completed"
_PACK_SEGMENTS = 2048
_EXPIRY_SLACK_S = 5.0

log = get_logger("gateway.archive")


@dataclass(frozen=True, slots=True)
class Stores:
    """Where an answer writes what lasts, and looks whether its ticket does."""

    tickets: TicketStore
    responses: Responses
    sums: SegmentStore
    learned: Learned


class Tracker:
    """Saved once a second while the answer runs, and at its end, by its owner.

    ``withdrawn`` is set once the ticket has been deleted.
    """

    def __init__(self, ticket: Ticket, instance: str, stores: Stores) -> None:
        self._ticket = ticket
        self._stores = stores
        self._response = Response(uuid.uuid4().hex, ticket.id, "", instance)
        self._spans: list[tuple[int, int]] = []
        self._sent = 0
        self.entry = ""
        """Name of the entry under way."""
        self.withdrawn = False
        self.gave_all = False
        """Whether an answer of unknown length came to its end."""
        self.failures: list[Failure] = []
        self.read_only_bytes = 0
        self.source_bytes = 0
        self.current: Callable[[], Segment | None] = lambda: None
        self._pack, self._pack_id = list[Segment](), uuid.uuid4().hex
        self._saved = 0  # segments of the pack
        self._saving_sums = asyncio.Lock()
        self._new: list[tuple[FrozenEntry, int]] = []
        self._journals: list[Journal] = []

    @property
    def ticket(self) -> Ticket:
        """Whose download it is."""
        return self._ticket

    @property
    def etag(self) -> str:
        """Of the layout that is shown; empty for none."""
        return self._response.etag

    @property
    def total(self) -> int | None:
        """Bytes of the whole archive; None where that is not known."""
        return self._response.total

    def of_layout(self, etag: str, total_bytes: int | None) -> None:
        """The answer shows an archive of known length; with an empty ETag and None, after all one that has none."""
        if etag != self._response.etag:  # the entries of another one are others
            self._pack, self._pack_id, self._saved = [], uuid.uuid4().hex, 0
        self._response = replace(self._response, etag=etag, total=total_bytes)

    def span(self, first: int) -> None:
        """What is sent from here on stands at ``first`` in the archive."""
        self._spans.append((first, first))

    def sent(self, size: int) -> None:
        """So many bytes more."""
        self._sent += size
        if self._spans:
            first, end = self._spans[-1]
            self._spans[-1] = (first, end + size)

    def keep(self, segment: Segment) -> None:
        """A segment that is closed."""
        self._pack.append(segment)

    def close_at_end(self, journal: Journal) -> None:
        """Have it removed by ``finish``, when what it holds is in the database."""
        self._journals.append(journal)

    def read_only(self, size: int) -> None:
        """So many source bytes were read for their CRC-32 and not sent."""
        self.read_only_bytes += size

    def learn(self, entry: FrozenEntry, crc32: int) -> None:
        """A file whose version is proven went through whole."""
        self._new.append((entry, crc32))

    def lost(self, failure: Failure) -> None:
        """A file failed on the way and was filled up."""
        self.failures.append(failure)

    def check(self) -> None:
        """Raise Aborted once the ticket has been deleted."""
        if self.withdrawn:
            raise Aborted("the ticket has been deleted")

    async def others_lately(self, within_s: float) -> bool:
        """Whether another answer of the same archive was written down in the last seconds, running or ended."""
        return await self._stores.responses.lately(self._ticket.id, self.etag, but=self._response.id, within_s=within_s)

    async def save(self, state: str = RUNNING) -> None:
        """Write down what is new; raises DatabaseError."""
        new, self._new = self._new, []
        if new:
            await self._stores.learned.learn(await asyncio.to_thread(self._keyed, new))
        self._response = replace(
            self._response,
            state=state,
            spans=tuple(self._spans),
            sent=self._sent,
            entry=self.entry,
            failures=len(self.failures),
        )
        sums, row = await asyncio.gather(
            self.save_sums(), self._stores.responses.save(self._response), return_exceptions=True
        )
        for error in (sums, row):
            if error is not None:
                raise error

    async def save_sums(self) -> None:
        """Write down the CRC-32s so far; raises DatabaseError."""
        async with self._saving_sums:
            current, pack, pack_id = self.current(), list(self._pack), self._pack_id
            if current is None and len(pack) == self._saved:
                return
            whole = pack if current is None else [*pack, current]
            await self._stores.sums.save(pack_id, self._ticket.id, self._response.etag, segments=whole)
            if pack_id != self._pack_id:  # another layout is shown by now
                return
            self._saved = len(pack)
            if len(pack) >= _PACK_SEGMENTS:
                self._pack, self._pack_id, self._saved = self._pack[len(pack) :], uuid.uuid4().hex, 0

    async def finish(self, state: str) -> None:
        """Write down how it ended."""
        saved = False
        try:
            await self.save(state)
            saved = True
        except GatewayError as error:
            log.warning("a download's end was not written down", ticket=self._ticket.id, error=str(error))
        finally:
            for journal in self._journals:
                if saved:
                    journal.close()
                else:
                    journal.leave()

    @asynccontextmanager
    async def saving(self) -> AsyncIterator[None]:
        """Save every second while the block runs."""
        task = asyncio.create_task(self._keep_saving(), name="archive tracker")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            try:
                await self.save()
                alive = await self._stores.tickets.exists(self._ticket.id)
                self.withdrawn = not alive and self._ticket.expires > time.time() + _EXPIRY_SLACK_S
            except GatewayError as error:
                log.warning("a download's progress was not written down", ticket=self._ticket.id, error=str(error))

    def _keyed(self, files: Iterable[tuple[FrozenEntry, int]]) -> dict[str, int]:
        return {key_of(self._ticket, entry): crc32 for entry, crc32 in files}
