"""One file, from its URL to its place: compared with what is there, gone on with, fetched, proven, put in place."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from gateway_blocks.get.board import Board, length_of
from gateway_blocks.get.compare import differing_blocks
from gateway_blocks.get.disk import disk_errors, write_at
from gateway_blocks.get.gather import board_for, each_version, fetch_plain, fetch_proven, heading_of, part_sink
from gateway_blocks.get.journal import Heading
from gateway_blocks.get.mirrors import Found
from gateway_blocks.get.model import Checked, Control, Options, Summary
from gateway_blocks.get.part import PartFile, PartSink, sweep
from gateway_blocks.get.plain import PlainMap, plain_map, strong_validator
from gateway_blocks.get.remote import NoRanges, PlainFacts, RemoteMap
from gateway_blocks.get.seeds import OldFile, Seeds, announce, open_olds, sow
from gateway_blocks.get.session import Session
from gateway_blocks.get.urls import file_name, parse_url, shown
from gateway_blocks.get.whole import Whole
from gateway_core.errors import ConfigError


def download_file(url: str, out: Path | None, options: Options, *, control: Control) -> Summary:
    """See ``api.download``."""
    url = parse_url(url)
    path = _named(url, out)
    session = Session(url, path.name, options, control=control)
    with _Download(session, path) as download:
        return each_version(session, download.attempt, proven=False)


class _Download:
    """A file being put together over perhaps several versions; its part file stays open and locked throughout."""

    def __init__(self, session: Session, path: Path) -> None:
        self._session = session
        self._path = path
        self._target = _place(path)
        self._part: PartFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._part is not None:
            self._part.close()

    def attempt(self, found: Found) -> Summary:
        """Download what was found; raises VersionChanged when the server has something else now."""
        if found.map is not None:
            return self._proven(found, found.map)
        assert found.facts is not None
        block_map = plain_map(found.facts)
        if block_map is not None:
            try:
                return self._plain(found, found.facts, block_map)
            except NoRanges as error:
                self._session.remark(f"{error}; it is fetched in one piece")
        return self._in_one(found.url, found.facts)

    def _proven(self, found: Found, block_map: RemoteMap) -> Summary:
        with ExitStack() as stack:
            existing = [self._target] if self._target.exists() else []
            olds = open_olds([*existing, *self._session.options.seeds], block_map, stack)
            if existing and self._is_whole(block_map, olds[0]):
                sweep(self._target)
                self._session.started(block_map.size_bytes, block_map.size_bytes)
                return self._session.finished(self._path, block_map.size_bytes, Checked.BLOCKS)
            seeds = Seeds()
            board = board_for(self._session, block_map, seeds)
            sink = self._sink(board, heading_of(found.url, block_map), stack)
            sow(self._session, seeds, olds, board=board)
            fetch_proven(self._session, found, board, sink=sink, copier=seeds.copier(sink))
            return self._publish(sink, block_map.size_bytes, Checked.BLOCKS)

    def _plain(self, found: Found, facts: PlainFacts, block_map: PlainMap) -> Summary:
        validator = strong_validator(facts)
        heading = Heading(shown(found.url), block_map.size_bytes, block_map.block_bytes, validator, proven=False)
        board = board_for(self._session, block_map, None)
        with ExitStack() as stack:
            sink = self._sink(board, heading, stack)
            fetch_plain(self._session, found, board, sink=sink)
            return self._publish(sink, block_map.size_bytes, Checked.NONE)

    def _in_one(self, url: str, facts: PlainFacts) -> Summary:
        """Nothing of it could be gone on with, so nothing is left behind when it fails."""
        part = self._opened()
        part.forget()
        try:
            with self._session.client() as client:
                whole = Whole(self._session, client)
                size_bytes = self._session.insist(lambda: self._write_whole(whole, part, url, facts=facts))
            part.sync()
            part.publish()
        except BaseException:
            part.discard()
            raise
        return self._session.finished(self._path, size_bytes, Checked.NONE)

    def _write_whole(self, whole: Whole, part: PartFile, url: str, *, facts: PlainFacts) -> int:
        self._session.fetched_bytes = end = 0
        self._session.started(facts.size_bytes or 0, 0)
        part.reserve(facts.size_bytes or 0)

        def write(piece: memoryview) -> None:
            nonlocal end
            with disk_errors(self._target):
                write_at(part.fd, end, piece)
            end += len(piece)

        whole.pass_on(url, facts.version, write)
        part.reserve(end)
        return end

    def _opened(self) -> PartFile:
        if self._part is None or self._part.closed:
            self._part = PartFile(self._target)
        return self._part

    def _sink(self, board: Board, heading: Heading, stack: ExitStack) -> PartSink:
        """The part file at its full size, with what it has already put on the board."""
        part = self._opened()
        sink, done = part_sink(self._session, part, board, heading=heading)
        stack.callback(sink.close)
        part.reserve(board.map.size_bytes)
        self._session.started(board.map.size_bytes, sum(length_of(board.map, index) for index in done))
        return sink

    def _publish(self, sink: PartSink, size_bytes: int, checked: Checked) -> Summary:
        sink.finish(self._session.stop)
        self._opened().publish()
        return self._session.finished(self._path, size_bytes, checked)

    def _is_whole(self, block_map: RemoteMap, old: OldFile) -> bool:
        """Whether the target is what the server has; not asked again once a download to replace it has begun."""
        if old.size_bytes != block_map.size_bytes or self._part is not None or _is_begun(self._target):
            return False
        announce(self._session, old)
        old.hash(self._session.stop)
        with self._session.client() as client:
            return not differing_blocks(self._session, client, block_map, old=old, first_only=True)


def _named(url: str, out: Path | None) -> Path:
    if out is None:
        return Path(file_name(url))
    with disk_errors(out):
        return out / file_name(url) if out.is_dir() else out


def _place(path: Path) -> Path:
    """Where the file really goes: a link is followed rather than replaced. Raises ConfigError for what cannot be."""
    place = Path(os.path.realpath(path))
    with disk_errors(path):
        if not place.parent.is_dir():
            raise ConfigError(f"there is no folder {place.parent}")
        try:
            regular = stat.S_ISREG(place.stat().st_mode)
        except FileNotFoundError:
            return place
    if not regular:
        raise ConfigError(f"{path} is there and is no file")
    return place


def _is_begun(target: Path) -> bool:
    try:
        return target.with_name(f"{target.name}.part").stat().st_size > 0
    except OSError:
        return False
