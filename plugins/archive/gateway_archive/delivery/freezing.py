"""Freezing a ticket: what its archive will hold, name by name and byte by byte, as far as that can be known."""

from __future__ import annotations

import asyncio
import heapq
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple, TypeVar, overload

from gateway_archive.lanes import Lanes
from gateway_archive.layout.frozen import Frozen, FrozenEntry
from gateway_archive.ledger.learned import Learned, key_of
from gateway_archive.names import NameRegistry, entry_name, folder_name, name_from_url
from gateway_archive.probing import Answer, Prober, lasting
from gateway_archive.report import REPORT_NAME, Failure
from gateway_archive.settings import ArchiveSettings
from gateway_archive.tickets import Item, OnError, Ticket
from gateway_core import Client, Gateway, SourceError, SourceFailed, SourceInfo, SourceRequest, UpstreamFailed

T = TypeVar("T")

_MOST_BYTES: Final = 1 << 60
"""Of all files: offsets in an archive must fit into 64 bits."""

_MANY: Final = 500
"""Items from which on pure work is done in a thread."""

_LOOKED_UP_AT_ONCE: Final = 1000

_UNASKED: Final = SourceInfo()


class _Missing(NamedTuple):
    """A file of the ticket that cannot be had."""

    item: int
    failure: Failure

    @property
    def name(self) -> str:
        """That its entry would have."""
        return self.failure.name


_Place = FrozenEntry | _Missing
"""A file or folder of the ticket and what is known of it."""


class Freezer:
    """Freezes tickets. One for a process; ``lanes`` are shared with the downloads."""

    def __init__(self, gateway: Gateway, settings: ArchiveSettings, *, lanes: Lanes, learned: Learned) -> None:
        self._gateway, self._settings, self._learned = gateway, settings, learned
        self._prober = Prober(gateway.sources, lanes, timeout_s=settings.probe_timeout_s)

    async def freeze(self, ticket: Ticket) -> Frozen | None:
        """What the archive of ``ticket`` will hold; None when its length cannot be known in time.

        Raises UpstreamFailed with all reasons when no file can be had or, with ``abort``, with the first failure.
        """
        items = ticket.items
        asked = await apart(len(items), lambda: array("l", (n for n, item in enumerate(items) if not is_told(item))))
        answers = await self._ask(ticket, asked, needed=lambda n, answer: _suffices(items[asked[n]], answer))
        return await self._frozen(ticket, lambda: _fresh(ticket, answers))

    async def refreeze(
        self,
        ticket: Ticket,
        old: Frozen,
        *,
        again: Collection[int],
        without: Mapping[int, Failure],
        crc32: Callable[[int], int | None],
    ) -> Frozen | None:
        """``old`` with the items ``again`` asked anew and the items ``without`` left out; None as for ``freeze``.

        ``crc32`` gives what is known by now of an entry of ``old``; for items asked anew neither it nor the ticket's
        counts. An item that had failed and does not answer stays a failure. Raises as ``freeze`` does.
        """
        items, failed = ticket.items, frozenset(old.failed_items)
        wanted = set(again).difference(without)
        asked = await apart(len(wanted), lambda: array("l", (n for n in sorted(wanted) if not items[n].is_folder)))

        def will_do(index: int, answer: Answer) -> bool:
            item = asked[index]
            return _suffices(items[item], answer) or (item in failed and isinstance(answer, SourceError))

        answers = await self._ask(ticket, asked, needed=will_do)
        revised = _Revised(ticket, old, answers, without=without, crc32=crc32)
        return await self._frozen(ticket, revised.places)

    async def _ask(
        self, ticket: Ticket, items: Sequence[int], *, needed: Callable[[int, Answer], bool]
    ) -> Mapping[int, Answer]:
        """Answers by item; where nothing may be asked, each says nothing."""
        if self._settings.probe == "never" or not items:
            return _ByItem(items, [_UNASKED] * len(items))
        owner = await owner_of(self._gateway, ticket)
        requests = Requests(ticket, items, owner, stall_s=self._settings.stall_timeout_s)
        return _ByItem(items, await self._prober.ask(requests, needed=needed, compact=True))

    async def _frozen(self, ticket: Ticket, places: Callable[[], Iterator[_Place | None]]) -> Frozen | None:
        """What ``places`` gives, with the CRC-32s that were learned of the same versions."""
        limit_bytes = self._settings.max_total_bytes
        found = await apart(len(ticket.items), lambda: _collected(ticket, places(), limit_bytes))
        if found is None:
            return None
        unknown = found.to_learn()
        while batch := list(islice(unknown, _LOOKED_UP_AT_ONCE)):
            keys = await asyncio.to_thread(_keys, ticket, found, batch)
            learned = await self._learned.find(set(keys))
            for index, key in zip(batch, keys, strict=True):
                if key in learned:
                    found.learn(index, learned[key])
        return found


async def owner_of(gateway: Gateway, ticket: Ticket) -> Client:
    """As whom a ticket's items are fetched; an owner that was revoked may use only what is public."""
    return await gateway.clients.find(ticket.client_id) or Client.ANONYMOUS


def request_for(item: Item, owner: Client, *, stall_s: float) -> SourceRequest:
    """The whole of a ticket's file, as its owner."""
    return SourceRequest(item.url, client=owner, headers=item.headers or {}, stall_s=stall_s)


class Requests(Sequence[SourceRequest]):
    """Requests for some items of a ticket, each made when it is wanted."""

    def __init__(self, ticket: Ticket, items: Sequence[int], owner: Client, *, stall_s: float) -> None:
        self._ticket, self._items, self._owner, self._stall_s = ticket, items, owner, stall_s

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> SourceRequest: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SourceRequest]: ...
    def __getitem__(self, index: int | slice) -> SourceRequest | Sequence[SourceRequest]:
        if isinstance(index, slice):
            return Requests(self._ticket, self._items[index], self._owner, stall_s=self._stall_s)
        return request_for(self._ticket.items[self._items[index]], self._owner, stall_s=self._stall_s)


class _ByItem(Mapping[int, Answer]):
    """The answers to what was asked of some items, which are in ascending order."""

    def __init__(self, items: Sequence[int], answers: Sequence[Answer]) -> None:
        self._items, self._answers = items, answers

    def __getitem__(self, item: int) -> Answer:
        index = bisect_left(self._items, item)
        if index == len(self._items) or self._items[index] != item:
            raise KeyError(item)
        return self._answers[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[int]:
        return iter(self._items)


def _fresh(ticket: Ticket, answers: Mapping[int, Answer]) -> Iterator[_Place | None]:
    """Every file and folder under its name, which no failure of others changes; None for one that is not known."""
    names = NameRegistry()
    if ticket.options.on_error is OnError.REPORT:
        names.file(REPORT_NAME)
    for number, item in enumerate(ticket.items):
        if item.is_folder:
            folder = names.folder(folder_name((item.path or "") + "/" + (item.name or "")))
            if folder is not None:
                yield FrozenEntry(number, folder, 0, 0, item.modified)
            continue
        name = names.file(entry_name(item.path or "", item.name or name_from_url(item.url)))
        yield _place(number, item, name, answer=answers.get(number, _UNASKED), crc32=item.crc32)


class _Revised:
    """A frozen archive of which some is known better now. Names stay: they depend on the ticket alone."""

    def __init__(
        self,
        ticket: Ticket,
        old: Frozen,
        answers: Mapping[int, Answer],
        *,
        without: Mapping[int, Failure],
        crc32: Callable[[int], int | None],
    ) -> None:
        self._ticket, self._old, self._answers, self._without, self._crc32 = ticket, old, answers, without, crc32

    def places(self) -> Iterator[_Place | None]:
        """In the order of the items; None for one that is not known."""
        here: Iterator[_Place] = (self._kept(number, entry) for number, entry in enumerate(self._old))
        gone: Iterator[_Place] = map(_Missing, self._old.failed_items, self._old.failures)
        return map(self._now, heapq.merge(here, gone, key=lambda place: place.item))

    def _kept(self, number: int, entry: FrozenEntry) -> FrozenEntry:
        crc32 = self._crc32(number)
        return entry if crc32 is None else entry._replace(crc32=crc32)

    def _now(self, place: _Place) -> _Place | None:
        item = place.item
        if item in self._without:
            return _Missing(item, self._without[item])
        if item not in self._answers:
            return place
        # the CRC-32 that the ticket tells may be what was found to be wrong
        now = _place(item, self._ticket.items[item], place.name, answer=self._answers[item], crc32=None)
        if now is None and isinstance(place, _Missing) and not isinstance(self._answers[item], SourceInfo):
            return place
        return now


def is_told(item: Item) -> bool:
    """Whether the ticket says all of it that must be known beforehand; folders hold nothing."""
    return item.is_folder or (item.size is not None and item.crc32 is not None)


def _suffices(item: Item, answer: Answer) -> bool:
    """Whether it tells the size of an item, or that it cannot be had."""
    if isinstance(answer, SourceError):
        return lasting(answer)
    return answer is not None and (answer.size_bytes is not None or item.size is not None)


def _place(number: int, item: Item, name: str, *, answer: Answer, crc32: int | None) -> _Place | None:
    """What an answer makes of a file; ``crc32`` is the ticket's, which counts for its size alone."""
    if answer is None:
        return None
    if isinstance(answer, SourceError):
        return _Missing(number, Failure.of(answer, name=name, url=item.url)) if lasting(answer) else None
    size = item.size if answer.size_bytes is None else answer.size_bytes
    if size is None or size > _MOST_BYTES:
        return None
    if answer.crc32 is not None:
        crc32 = answer.crc32
    elif item.size not in {None, size}:
        crc32 = None
    modified = item.modified if answer.modified is None else int(answer.modified)
    validator = answer.validator if answer.strong else None
    return FrozenEntry(number, name, size, crc32 if size else 0, modified, validator)


def _collected(ticket: Ticket, places: Iterator[_Place | None], limit_bytes: int) -> Frozen | None:
    """Count what there is and what is missing; None when a place is not known, or it is too much for any archive."""
    found, total = Frozen((), created=int(ticket.created), on_error=ticket.options.on_error), 0
    for place in places:
        if place is None:
            return None
        if isinstance(place, _Missing):
            found.leave_out(place.item, place.failure)
        elif 0 < limit_bytes < total + place.size:
            beyond = SourceFailed(f"the archive's limit of {limit_bytes} bytes is reached")
            url = ticket.items[place.item].url
            found.leave_out(place.item, Failure.of(beyond, name=place.name, url=url))
        else:
            found.append(place)
            total += place.size
    if found.failures and ticket.options.on_error is OnError.ABORT:
        raise _unanswerable("a file of the ticket cannot be had", found.failures[:1])
    if found.failures and all(entry.is_folder for entry in found):
        raise _unanswerable("no file of the ticket can be had", found.failures)
    return None if total > _MOST_BYTES else found


def _keys(ticket: Ticket, frozen: Frozen, entries: Sequence[int]) -> list[str]:
    return [key_of(ticket, frozen[index]) for index in entries]


def _unanswerable(detail: str, missing: Sequence[Failure]) -> UpstreamFailed:
    return UpstreamFailed(detail, reasons=[failure.public() for failure in missing[:100]])


async def apart(count: int, work: Callable[[], T]) -> T:
    """Do pure work on so many items where it holds up nobody."""
    return await asyncio.to_thread(work) if count > _MANY else work()
