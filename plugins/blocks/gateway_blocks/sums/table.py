"""What is known of the blocks of one version of a file."""

from __future__ import annotations

from collections.abc import Iterator

from gateway_blocks.sums.layout import BlockLayout

SEGMENT_BLOCKS = 512
DIGEST_BYTES = 20
_KNOWN_BYTES = SEGMENT_BLOCKS // 8
_DIGESTS_BYTES = SEGMENT_BLOCKS * DIGEST_BYTES
_PENDING = "pending"


class _Segment:
    """Digests of up to 512 blocks: bit ``i`` of ``known`` is block ``i``; ``text`` is its JSON until it changes."""

    __slots__ = ("blocks", "digests", "known", "text")

    def __init__(self, count: int) -> None:
        self.blocks = (1 << count) - 1
        self.known = 0
        self.digests = bytearray()
        self.text: bytes | None = None

    @property
    def missing(self) -> int:
        return self.blocks & ~self.known

    def put(self, at: int, digest: bytes) -> None:
        if not self.digests:
            self.digests = bytearray(_DIGESTS_BYTES)
        self.digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES] = digest
        self.known |= 1 << at
        self.text = None

    def digest(self, at: int) -> bytes:
        return bytes(self.digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES])

    def load(self, known: int, digests: bytes) -> bool:
        """Take stored digests; whether anything is new."""
        known &= self.blocks
        merged = bytearray(digests)
        for at in _bits(self.known & ~known):
            merged[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES] = self.digest(at)
        if not known or (not known & ~self.known and merged == self.digests):
            return False
        self.known, self.digests, self.text = self.known | known, merged, None
        return True


class BlockTable:
    """SHA-1 of the blocks of ``layout``, as they become known; a known block never becomes unknown again.

    It belongs to one thread; only ``missing`` may also be read in another one. It is kept in the database in segments
    of 512 blocks, and told as JSON that is made again only where something changed.
    """

    def __init__(self, layout: BlockLayout) -> None:
        self.layout = layout
        starts = range(0, layout.count, SEGMENT_BLOCKS)
        self._segments = [_Segment(min(SEGMENT_BLOCKS, layout.count - start)) for start in starts]
        self._known = 0
        self._full_segments = 0
        self._version = 0

    @property
    def known(self) -> int:
        """Number of blocks whose digest is known."""
        return self._known

    @property
    def complete(self) -> bool:
        """Whether every block is known; an empty file is."""
        return self._known == self.layout.count

    @property
    def version(self) -> int:
        """Grows with every ``set``, and with every ``load`` that brings something."""
        return self._version

    @property
    def first_missing(self) -> int:
        """The first block that is not known, ``layout.count`` when all are; O(1), amortised over all calls."""
        while self._full_segments < len(self._segments):
            if missing := self._segments[self._full_segments].missing:
                return self._full_segments * SEGMENT_BLOCKS + _lowest(missing)
            self._full_segments += 1
        return self.layout.count

    def missing(self) -> Iterator[int]:
        """Blocks that are not known, ascending. Lazy: leaves out what becomes known before the iterator gets there."""
        for number, segment in enumerate(self._segments):
            for at in _bits(segment.missing):
                if not segment.known >> at & 1:
                    yield number * SEGMENT_BLOCKS + at

    def set(self, index: int, digest: bytes) -> None:
        """Tell a block's SHA-1 (20 bytes), new or anew. Raises IndexError for no block of the file, ValueError."""
        if len(digest) != DIGEST_BYTES:
            raise ValueError(f"a SHA-1 has {DIGEST_BYTES} bytes, not {len(digest)}")
        segment, at = self._place(index)
        self._known += not segment.known >> at & 1
        segment.put(at, digest)
        self._version += 1

    def get(self, index: int) -> bytes | None:
        """The block's SHA-1 if it is known. Raises IndexError for no block of the file."""
        segment, at = self._place(index)
        return segment.digest(at) if segment.known >> at & 1 else None

    def export(self, number: int) -> tuple[bytes, bytes]:
        """``known`` (64 bytes) and ``digests`` (10,240 bytes) of a segment, as the table ``blocks_segments`` has it."""
        segment = self._segments[number]
        return segment.known.to_bytes(_KNOWN_BYTES, "little"), bytes(segment.digests or bytes(_DIGESTS_BYTES))

    def load(self, number: int, known: bytes, digests: bytes) -> None:
        """Take what is stored of a segment; bits beyond the file's blocks are ignored.

        Raises IndexError for no segment of the file, ValueError for other lengths than ``export`` gives.
        """
        if len(known) != _KNOWN_BYTES or len(digests) != _DIGESTS_BYTES:
            raise ValueError(f"no segment: {len(known)} and {len(digests)} bytes")
        if not 0 <= number < len(self._segments):
            raise IndexError(f"no segment {number} of {len(self._segments)}")
        segment = self._segments[number]
        before = segment.known.bit_count()
        self._version += segment.load(int.from_bytes(known, "little"), digests)
        self._known += segment.known.bit_count() - before

    def rendered(self, after: int = -1) -> list[bytes]:
        """Pieces of the JSON array of ``[id, first byte, last byte, SHA-1 in hexadecimal or "pending"]``.

        Blocks with an id above ``after``, in order (contract rd: the client joins them as they come). Only segments
        that changed are rendered again.
        """
        begin = max(after + 1, 0)
        if begin >= self.layout.count:
            return [b"[]"]
        pieces = [b"["]
        if begin % SEGMENT_BLOCKS:
            pieces.append(self._render(begin // SEGMENT_BLOCKS, begin))
        for number in range(-(-begin // SEGMENT_BLOCKS), len(self._segments)):
            segment = self._segments[number]
            if segment.text is None:
                segment.text = self._render(number, number * SEGMENT_BLOCKS)
            pieces.append(segment.text)
        return pieces

    def _render(self, number: int, begin: int) -> bytes:
        """Blocks from ``begin`` to the segment's end: with the comma before the next segment, or the array's end."""
        segment, step = self._segments[number], self.layout.block_bytes
        base, end = number * SEGMENT_BLOCKS, min((number + 1) * SEGMENT_BLOCKS, self.layout.count)
        told = [_PENDING] * SEGMENT_BLOCKS
        if segment.known:
            told = segment.digests.hex(",", -DIGEST_BYTES).split(",")
            for at in _bits(segment.missing):
                told[at] = _PENDING
        rows = [
            f'[{index},{first},{first + step - 1},"{digest}"]'
            for index, first, digest in zip(
                range(begin, end), range(begin * step, end * step, step), told[begin - base : end - base], strict=True
            )
        ]
        if end < self.layout.count:
            return (",".join(rows) + ",").encode()
        rows[-1] = f'[{end - 1},{self.layout.first(end - 1)},{self.layout.last(end - 1)},"{told[end - 1 - base]}"]'
        return (",".join(rows) + "]").encode()

    def _place(self, index: int) -> tuple[_Segment, int]:
        if not 0 <= index < self.layout.count:
            raise IndexError(f"no block {index} of {self.layout.count}")
        number, at = divmod(index, SEGMENT_BLOCKS)
        return self._segments[number], at


def _lowest(bits: int) -> int:
    """Number of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1


def _bits(bits: int) -> Iterator[int]:
    """Numbers of the bits that are set, ascending."""
    while bits:
        yield _lowest(bits)
        bits &= bits - 1
