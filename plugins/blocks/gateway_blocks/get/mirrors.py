"""Where blocks can be had: the URL itself and its mirrors. Any block from any of them; its SHA-1 decides."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gateway_blocks.get.connection import HttpClient
from gateway_blocks.get.model import GetError, NotThere, Unreachable
from gateway_blocks.get.remote import PlainFacts, RemoteMap, Version, plain_facts
from gateway_blocks.get.session import Session
from gateway_blocks.get.urls import shown

_LIES = 3
_LIES_IN = 20
_INERTIA = 0.7


@dataclass(eq=False)
class Source:
    """A URL that blocks are fetched from. ``first`` is the one that told the checksums."""

    url: str
    version: Callable[[], Version]
    first: bool = False
    active: int = 0
    rate: float | None = None
    good: int = 0
    bad: int = 0
    not_before: float = 0.0
    dropped: GetError | None = None
    host: str = field(init=False)

    def __post_init__(self) -> None:
        self.host = urlsplit(shown(self.url)).netloc


class Mirrors:
    """The sources of one file, used by many threads: fast ones more, failing ones later, lying ones no more."""

    def __init__(self, sources: Sequence[Source], session: Session) -> None:
        self._sources = list(sources)
        self._session = session
        self._lock = threading.Lock()

    def choose(self, avoid: object = None) -> Source:
        """The source to ask next, which must be given back with ``release``; ``avoid`` it only if there is another.

        One whose ``not_before`` is yet to come is returned where there is no better one. Raises what the last source
        was dropped for.
        """
        now = time.monotonic()
        with self._lock:
            alive = [source for source in self._sources if source.dropped is None]
            if not alive:
                raise next(source.dropped for source in reversed(self._sources) if source.dropped is not None)
            usual = max((source.rate for source in alive if source.rate is not None), default=None)
            best = min(alive, key=lambda source: _reluctance(source, avoid, now=now, usual=usual))
            best.active += 1
            return best

    def release(self, source: Source, received_bytes: int, seconds: float) -> None:
        """A request to the source is over, however it went; how much it brought in which time."""
        with self._lock:
            source.active -= 1
            if received_bytes and seconds > 0:
                rate = received_bytes / seconds
                source.rate = rate if source.rate is None else _INERTIA * source.rate + (1 - _INERTIA) * rate

    def vouch(self, source: Source) -> None:
        """A block from the source was right."""
        source.good += 1

    def lied(self, source: Source) -> None:
        """A block from the source was damaged; a source of which that is usual is dropped, if there is another."""
        with self._lock:
            source.bad += 1
            usual = source.bad >= _LIES and source.bad * _LIES_IN > source.good
            last = all(other.dropped is not None for other in self._sources if other is not source)
            if not usual or last or source.dropped is not None:
                return
            source.dropped = Unreachable(f"{source.host} sends damaged blocks")
        self._session.remark(f"{source.host} is not asked any more: it sends damaged blocks")

    def drop(self, source: Source, error: GetError) -> None:
        """The source has not what is wanted; raises ``error`` where it was the last one."""
        with self._lock:
            known = source.dropped is not None
            source.dropped = error
            if all(other.dropped is not None for other in self._sources):
                raise error
        if not known:
            self._session.remark(f"{source.host} is not asked any more: {error}")

    def failed(self, source: Source, wait_s: float, *, asked: bool) -> float:
        """A request failed; returns how long the thread that made it must wait.

        That is ``wait_s``; nothing where another source can be asked meanwhile, or where the source ``asked`` for the
        wait, which then holds for all threads.
        """
        now = time.monotonic()
        with self._lock:
            other = any(s.dropped is None and s.not_before <= now for s in self._sources if s is not source)
            if asked or other:
                source.not_before = max(source.not_before, now + wait_s)
            return 0.0 if asked or other else wait_s


def _reluctance(source: Source, avoid: object, *, now: float, usual: float | None) -> tuple[float, bool, float, int]:
    """Rates are those of one connection. A source of unknown rate is tried by one thread, by more if that is usual."""
    rate = source.rate or usual
    share = 0.0 if rate is None or (source.rate is None and not source.active) else (source.active + 1) / rate
    return max(0.0, source.not_before - now), source is avoid, share, source.active


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a file: its block map, or plain facts of ``url`` where nobody has checksums."""

    url: str
    map: RemoteMap | None
    facts: PlainFacts | None


def find_file(session: Session, client: HttpClient) -> Found:
    """Ask the URL, then its mirrors, for the block map; for plain facts where none of them has checksums.

    Raises Unreachable where one of them may have it later, else NotThere; both in the words of the first URL.
    """
    errors: list[GetError] = []
    without: list[str] = []
    for url in (session.url, *session.options.mirrors):
        try:
            block_map = RemoteMap.load(url, client)
        except Unreachable as error:
            errors.append(error)
            continue
        except NotThere as error:  # a server may have files beside those that it has checksums of
            errors.append(error)
            block_map = None
        if block_map is not None:
            return Found(url, block_map, None)
        without.append(url)
    for url in without:
        try:
            return _found_plain(url, client)
        except (Unreachable, NotThere) as error:
            errors.append(error)
    raise next((error for error in errors if isinstance(error, Unreachable)), errors[0])


def _found_plain(url: str, client: HttpClient) -> Found:
    facts = plain_facts(url, client)
    if facts.url != url:  # redirected: where the file is there may be checksums, too
        block_map = RemoteMap.load(facts.url, client)
        if block_map is not None:
            return Found(facts.url, block_map, None)
    return Found(url, None, facts)


def sources_of(found: Found, session: Session) -> list[Source]:
    """The sources of a file with checksums: all URLs; each mirror's version is known by its size alone."""
    assert found.map is not None
    block_map = found.map
    size = Version(block_map.size_bytes)
    others = [url for url in (session.url, *session.options.mirrors) if url != found.url]
    return [
        Source(found.url, lambda: block_map.version, first=True),
        *(Source(url, lambda: size) for url in others),
    ]
