"""What of an earlier download can be gone on with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway_blocks.get.board import BlockMap
from gateway_blocks.get.disk import data_spans, disk_errors
from gateway_blocks.get.journal import Heading
from gateway_blocks.get.local import hash_spans
from gateway_blocks.get.part import PartFile
from gateway_blocks.get.session import Session


def kept_blocks(part: PartFile, heading: Heading, block_map: BlockMap, *, session: Session) -> dict[int, bytes]:
    """SHA-1 by number of blocks whose bytes are in the part file, of whatever version of the file.

    The journal is believed where the disk surely has what it says; the rest is hashed. A part file without a journal
    that fits (another block size, a download without checksums, a journal that was lost) is hashed as a whole, if there
    are checksums to compare with; without them only the very version counts. Raises Stopped, Unreachable.
    """
    size_bytes = min(part.size_bytes, block_map.size_bytes)
    record = part.record()
    if record is not None and _fits(record.heading, heading):
        told = {
            index: digest
            for index, digest in record.blocks.items()
            if index < block_map.count and block_map.span(index)[1] < part.size_bytes
        }
        unsure = sorted(record.unsure.intersection(told))
        found = _hashed(part, unsure, block_map, session=session)
        for index in unsure:
            if found.get(index) != told[index]:
                del told[index]
        return told
    if not heading.proven or not size_bytes:
        return {}
    return _hashed(part, _written(part, size_bytes, block_map), block_map, session=session)


def _fits(told: Heading, wanted: Heading) -> bool:
    if told.block_bytes != wanted.block_bytes or told.proven != wanted.proven:
        return False
    same = bool(told.validator) and (told.validator, told.size_bytes) == (wanted.validator, wanted.size_bytes)
    return wanted.proven or same


def _written(part: PartFile, size_bytes: int, block_map: BlockMap) -> Iterator[int]:
    """Numbers of the blocks in which anything was ever written."""
    after = 0
    for start, end in data_spans(part.fd, size_bytes):
        first, stop = start // block_map.block_bytes, -(-end // block_map.block_bytes)
        yield from range(max(after, first), stop)
        after = max(after, stop)


def _hashed(part: PartFile, indices: Iterable[int], block_map: BlockMap, *, session: Session) -> dict[int, bytes]:
    spans = ((start, last + 1 - start) for start, last in map(block_map.span, indices))
    with disk_errors(part.path):
        return {
            offset // block_map.block_bytes: digest
            for offset, _, digest in hash_spans(part.fd, spans, session.stop)
            if digest is not None
        }
