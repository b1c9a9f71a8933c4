"""What downloads, streams and repairs have in common: finding the file, and fetching what is missing of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway_blocks.get.board import BlockMap, Board, length_of
from gateway_blocks.get.compare import complete_map
from gateway_blocks.get.fetch import Copier, Crew, Sink
from gateway_blocks.get.journal import Heading
from gateway_blocks.get.mirrors import Found, Mirrors, Source, find_file, sources_of
from gateway_blocks.get.model import NoChecksums, Stopped, Summary
from gateway_blocks.get.part import PartFile, PartSink
from gateway_blocks.get.remote import NoRanges, RemoteMap, VersionChanged
from gateway_blocks.get.resume import kept_blocks
from gateway_blocks.get.seeds import Seeds
from gateway_blocks.get.session import Session
from gateway_blocks.get.urls import shown
from gateway_blocks.get.watch import Follower, NewVersion
from gateway_blocks.get.whole import Whole


def each_version(session: Session, attempt: Callable[[Found], Summary], *, proven: bool) -> Summary:
    """What ``attempt`` returns, tried again with what is found then each time the file changes on the server.

    Raises NoChecksums where there are none and they are required, by ``proven`` or the options.
    """
    found: Found | None = None
    row = 0
    while True:
        began = time.monotonic()
        try:
            if found is None:
                found = _find(session)
            if found.map is None and (proven or session.options.require_verify):
                raise NoChecksums(f"{shown(found.url)}: the server has no checksums")
            return attempt(found)
        except VersionChanged as error:
            session.tries.failed(error, began)
            session.remark(f"{error}; what is equal in its new version is kept")
            found = Found(found.url, error.map, None) if found is not None and isinstance(error, NewVersion) else None
            if session.stop.wait(session.tries.wait_s(row) if row else 0.0):
                raise Stopped("stopped") from error
            row += 1


def fetch_proven(session: Session, found: Found, board: Board, *, sink: Sink, copier: Copier | None = None) -> None:
    """Fetch all that the board wants of a file with checksums, while they come; raises what ends it early."""
    assert isinstance(board.map, RemoteMap)
    block_map = board.map
    sources = sources_of(found, session)
    crew = Crew(session, board, sink, mirrors=Mirrors(sources, session), copier=copier)

    def learned() -> None:
        for index in board.learn():
            sink.confirm(index)
            session.gained(length_of(block_map, index))

    if not block_map.complete:
        follower = Follower(session, block_map, learned=learned, failed=crew.fail)
        crew.join_in(follower, follower.halt)
    try:
        crew.run()
    except NoRanges:
        with session.client() as client:
            complete_map(session, client, block_map)
            learned()
            source = next(source for source in sources if isinstance(source.dropped, NoRanges))
            Whole(session, client).prove(source, board, sink)


def fetch_plain(session: Session, found: Found, board: Board, *, sink: Sink) -> None:
    """Fetch all that the board wants of a file without checksums, from where it was found."""
    assert found.facts is not None
    version = found.facts.version
    source = Source(found.url, lambda: version, first=True)
    Crew(session, board, sink, mirrors=Mirrors([source], session)).run()


def board_for(session: Session, block_map: BlockMap, seeds: Seeds | None) -> Board:
    """A board for this session; without ``seeds`` one without checksums."""
    return Board(
        block_map,
        proven=seeds is not None,
        run_bytes=session.options.run_bytes,
        jobs=max(1, session.options.jobs),
        find_local=None if seeds is None else seeds.has,
    )


def heading_of(url: str, block_map: RemoteMap) -> Heading:
    """How the journal of a download with checksums begins."""
    return Heading(shown(url), block_map.size_bytes, block_map.block_bytes, block_map.etag or "")


def part_sink(session: Session, part: PartFile, board: Board, *, heading: Heading) -> tuple[PartSink, list[int]]:
    """Go on with a part file: a sink into it, and numbers of the blocks that are in it already."""
    kept = kept_blocks(part, heading, board.map, session=session)
    done = {index: digest for index, digest in kept.items() if board.hold(index, digest)}
    held = {index: digest for index, digest in kept.items() if heading.proven and board.map.digest(index) is None}
    return PartSink(part, heading, done, held=held), list(done)


def _find(session: Session) -> Found:
    with session.client() as client:
        return session.insist(lambda: find_file(session, client))
