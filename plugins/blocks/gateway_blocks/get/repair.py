"""Local files of any origin, held against the server's checksums and mended where they differ."""

from __future__ import annotations

import os
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from gateway_blocks.get.board import length_of
from gateway_blocks.get.compare import differing_blocks
from gateway_blocks.get.disk import copy_span, disk_errors
from gateway_blocks.get.download import download_file
from gateway_blocks.get.gather import board_for, each_version, fetch_proven, heading_of, part_sink
from gateway_blocks.get.mirrors import Found
from gateway_blocks.get.model import Checked, Control, Differs, Options, Summary, Unreachable
from gateway_blocks.get.part import PartFile, sweep
from gateway_blocks.get.remote import RemoteMap
from gateway_blocks.get.seeds import OldFile, Seeds, open_olds, sow
from gateway_blocks.get.session import Session
from gateway_blocks.get.urls import parse_url


def verify_file(url: str, path: Path, options: Options, *, control: Control) -> Summary:
    """See ``api.verify``."""
    url = parse_url(url)
    session = Session(url, path.name, options, control=control)
    if not _exists(path):
        raise Differs(f"{path} is not there")
    return each_version(session, lambda found: _verify(session, found, path), proven=True)


def repair_file(url: str, path: Path, options: Options, *, control: Control) -> Summary:
    """See ``api.repair``."""
    if not _exists(path):
        return download_file(url, path, options, control=control)
    url = parse_url(url)
    session = Session(url, path.name, options, control=control)
    return each_version(session, lambda found: _Repair(session, path).attempt(found), proven=True)


def _exists(path: Path) -> bool:
    with disk_errors(path):
        return path.exists()


def _verify(session: Session, found: Found, path: Path) -> Summary:
    block_map = found.map
    assert block_map is not None
    session.started(block_map.size_bytes, 0)
    with ExitStack() as stack:
        old = OldFile(path, block_map)
        stack.callback(old.close)
        bad = _compared(session, block_map, old)
        if old.size_bytes != block_map.size_bytes:
            sizes = f"has {old.size_bytes} bytes, the server's has {block_map.size_bytes}"
            raise Differs(f"{path} {sizes}; {len(bad)} of {block_map.count} blocks differ", tuple(bad))
        if bad:
            raise Differs(f"{path} differs in {len(bad)} of {block_map.count} blocks", tuple(bad))
    return session.finished(path, block_map.size_bytes, Checked.BLOCKS)


def _compared(session: Session, block_map: RemoteMap, old: OldFile) -> list[int]:
    """Numbers of the blocks that differ; those that do not are told of as soon as they are hashed."""
    told: set[int] = set()

    def heard(index: int, digest: bytes) -> None:
        if block_map.digest(index) == digest:
            told.add(index)
            session.gained(length_of(block_map, index))

    def equal(index: int) -> None:
        if index not in told:
            session.gained(length_of(block_map, index))

    old.hash(session.stop, first=lambda index: index < block_map.count, rest=False, heard=heard)
    with session.client() as client:
        return differing_blocks(session, client, block_map, old=old, equal=equal)


class _Repair:
    """Mends a file in its place, in two steps.

    First all blocks that differ are gathered in the part file, which is sparse and has a journal as in a download: the
    file is not touched, whatever happens. When all are there, proven and on the disk, they are copied over. If that is
    interrupted, the next repair finds those not copied yet in the part file. At no time is anything written over a
    block that was right, and what is written has been verified. The file keeps its inode, owner, mode and other names.
    """

    def __init__(self, session: Session, path: Path) -> None:
        self._session = session
        self._path = path
        self._target = Path(os.path.realpath(path))

    def attempt(self, found: Found) -> Summary:
        """Repair with what was found; raises VersionChanged when the server has something else now."""
        block_map = found.map
        assert block_map is not None
        bad: list[int] = []
        with ExitStack() as stack:
            old = OldFile(self._target, block_map)
            stack.callback(old.close)
            old.hash(self._session.stop, first=lambda index: index < block_map.count, rest=False)
            with self._session.client() as client:
                differs = differing_blocks(self._session, client, block_map, old=old, first_only=True)
            if differs or old.size_bytes != block_map.size_bytes:
                with disk_errors(self._target):
                    fd = os.open(self._target, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                if differs:
                    bad = self._mend(found, block_map, old, fd=fd)
                with disk_errors(self._target):
                    os.ftruncate(fd, block_map.size_bytes)
                    os.fsync(fd)
            else:
                self._session.started(block_map.size_bytes, block_map.size_bytes)
            sweep(self._target)
        return self._session.finished(self._path, block_map.size_bytes, Checked.BLOCKS, bad_blocks=bad)

    def _mend(self, found: Found, block_map: RemoteMap, old: OldFile, *, fd: int) -> list[int]:
        """Gather what differs, then copy it over; numbers of the blocks that were replaced."""
        with ExitStack() as stack:
            part = PartFile(self._target)
            stack.callback(part.close)
            seeds = Seeds()
            board = board_for(self._session, block_map, seeds)
            placed = {index: old.in_place(index) for index in range(block_map.count)}
            right = [index for index, digest in placed.items() if digest is not None and board.hold(index, digest)]
            heading = heading_of(found.url, block_map)
            sink, done = part_sink(self._session, part, board, heading=heading)
            stack.callback(sink.close)
            part.reserve(block_map.size_bytes, space=False)
            there = chain(right, done)
            self._session.started(block_map.size_bytes, sum(length_of(block_map, index) for index in there))
            olds = [old, *open_olds(self._session.options.seeds, block_map, stack)]
            sow(self._session, seeds, olds, board=board)
            fetch_proven(self._session, found, board, sink=sink, copier=seeds.copier(sink))
            sink.finish(self._session.stop)
            if not old.unchanged:
                raise Unreachable(f"{self._path} was written to while it was to be repaired")
            bad = [index for index in board.done() if placed[index] != block_map.digest(index)]
            self._copy_over(part, bad, block_map, fd=fd)
            return bad

    def _copy_over(self, part: PartFile, bad: list[int], block_map: RemoteMap, *, fd: int) -> None:
        for index in bad:
            self._session.check()
            start, count = block_map.span(index)[0], length_of(block_map, index)
            with disk_errors(self._target):
                if not copy_span(part.fd, fd, count, source_at=start, target_at=start):
                    raise Unreachable(f"{part.path} was cut short by somebody")
        with disk_errors(self._target):
            os.fsync(fd)
