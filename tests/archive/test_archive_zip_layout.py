"""Every byte of a ZIP archive by its place, and tails that keep their length whatever is lost."""

from __future__ import annotations

import io
import itertools
import random
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_archive.layout.frozen import Frozen, FrozenEntry
from gateway_archive.layout.model import Layout
from gateway_archive.layout.zip_layout import RESERVE, ZipLayout
from gateway_archive.report import REPORT_NAME, Failure, render_report
from gateway_archive.tickets import OnError
from gateway_archive.zip_records import COMMENT, Entry, archive_bytes
from gateway_archive.zip_writer import Piece, ZipWriter

GIB_4 = 1 << 32
MARKER = GIB_4 - 1
BLOCK = 65_535
DATA = random.Random(6).randbytes(200_000)
FAILURE = Failure("docs/größe.txt", "https://user:secret@files.test/größe.txt?signature=x", "gone", "gone: status 404")


class File(NamedTuple):
    name: str
    data: bytes = b""
    crc_known: bool = False
    modified: int | None = None


def frozen_of(files: Iterable[File], **options) -> Frozen:
    entries = (
        FrozenEntry(item, name, len(data), zlib.crc32(data) if known else None, modified)
        for item, (name, data, known, modified) in enumerate(files)
    )
    return Frozen(entries, created=1_700_000_000, **options)


def region(layout: Layout, entry: int, data: bytes, first: int, end: int, chunk: int = 70_000) -> bytes:
    part = layout.part(entry, first, end)
    assert part.entry == entry
    source = memoryview(data)[part.source_start : part.source_start + part.source_bytes]
    assert len(source) == part.source_bytes
    pieces: list[Piece] = [part.lead]
    for start in range(0, len(source), chunk):
        pieces += part.frame(source[start : start + chunk])
    crc = zlib.crc32(data) if part.needs_crc32 else 0xBAD
    return b"".join([*pieces, part.trail(crc)])


def archive(layout: Layout, files: Sequence[File], **outcome) -> bytes:
    """The whole of it; what is lost has the data it should have had."""
    regions = [
        region(layout, entry, file.data, 0, layout.start(entry + 1) - layout.start(entry))
        for entry, file in enumerate(files)
    ]
    tail = layout.tail(lambda entry: zlib.crc32(files[entry].data), **outcome)
    return b"".join([*regions, *tail])


def written(files: Iterable[File]) -> bytes:
    """The same archive as it is streamed."""
    writer, pieces = ZipWriter(), []
    for file in files:
        crc = zlib.crc32(file.data) if file.crc_known else None
        opened = writer.begin(Entry(file.name, len(file.data), crc, file.modified))
        pieces += [*opened.data(file.data), *opened.finish()]
    return b"".join([*pieces, *writer.end()])


class Tail(NamedTuple):
    names: list[str]
    offset: int
    """Of the directory."""
    zip64: bool
    hints: list[int]
    comment: bytes
    before: bytes


def read_tail(layout: Layout, **outcome) -> Tail:
    """What a tail says, after checking that its numbers are true and its length is the one promised."""
    pieces = list(layout.tail(lambda entry: entry, **outcome))
    assert all(0 < len(piece) <= 1 << 16 for piece in pieces)
    tail = b"".join(pieces)
    assert len(tail) == layout.total_bytes - layout.tail_offset
    end = tail.rindex(b"PK\x05\x06")
    _, _, _, count, _, size, offset, comment = struct.unpack_from("<4s4H2IH", tail, end)
    assert end + 22 + comment == len(tail)
    zip64 = end >= 20 and tail[end - 20 : end - 16] == b"PK\x06\x07"
    needed = count == 0xFFFF or MARKER in (size, offset)
    directory_end = end - 76 if zip64 else end
    if zip64:
        (found,) = struct.unpack_from("<Q", tail, end - 12)
        assert found == layout.tail_offset + directory_end
        count, _, size, offset = struct.unpack_from("<4Q", tail, directory_end + 24)
    assert zip64 or not needed
    start = directory_end - size
    assert layout.tail_offset + start == offset
    names, hints = central_records(tail[start:directory_end])
    assert len(names) == count
    return Tail(names, offset, zip64, hints, tail[end + 22 :], tail[:start])


def central_records(directory: bytes) -> tuple[list[str], list[int]]:
    names, hints, at = [], [], 0
    while at < len(directory):
        assert directory[at : at + 4] == b"PK\x01\x02"
        name, extra, comment = struct.unpack_from("<3H", directory, at + 28)
        names.append(directory[at + 46 : at + 46 + name].decode())
        at += 46 + name
        hints.append(sum(hint_bytes(directory[at : at + extra])))
        at += extra + comment
    return names, hints


def hint_bytes(extra: bytes) -> Iterable[int]:
    while extra:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 0xA220:
            assert extra[4 : 4 + length] == b"\x28\xa0" + bytes(length - 2)
            yield 4 + length
        extra = extra[4 + length :]


def sizes() -> st.SearchStrategy[int]:
    return st.one_of(
        st.integers(0, len(DATA)), st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK])
    )


@st.composite
def some_files(draw: st.DrawFn) -> list[File]:
    names = draw(st.lists(st.text("ab ü日\U0001f600", min_size=1, max_size=9), max_size=5, unique=True))
    files = []
    for name in names:
        date = draw(st.sampled_from([None, 0, 1_700_000_000, 1 << 33]))
        if draw(st.integers(0, 4)):
            size = draw(sizes())
            files.append(File(name, DATA[-size:] if size else b"", draw(st.booleans()), date))
        else:
            files.append(File(name + "/", modified=date))
    return files


@given(files=some_files())
@settings(max_examples=12)
def test_without_a_reserve_it_is_the_archive_that_is_streamed(files):
    layout = ZipLayout(frozen_of(files, on_error=OnError.SKIP))
    whole = archive(layout, files)
    assert whole == written(files)
    assert layout.total_bytes == len(whole)


@given(files=some_files(), data=st.data())
@settings(max_examples=20)
def test_parts_between_any_cuts_make_the_same_bytes(files, data):
    layout = ZipLayout(frozen_of(files))
    whole = archive(layout, files)
    assert len(whole) == layout.total_bytes
    for entry, file in enumerate(files):
        begin, length = layout.start(entry), layout.start(entry + 1) - layout.start(entry)
        block_headers = st.integers(0, 3).flatmap(lambda n: st.integers(65_540 * n, 65_540 * n + 80))
        cuts = data.draw(st.lists(st.one_of(st.integers(0, length), block_headers), max_size=6))
        chunk = data.draw(st.sampled_from([999, 65_536, 1 << 18]))
        borders = sorted({0, length, *(cut for cut in cuts if cut < length)})
        for first, end in itertools.pairwise(borders):
            assert region(layout, entry, file.data, first, end, chunk) == whole[begin + first : begin + end]


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1])
def test_a_cut_at_every_byte_around_headers_and_descriptor_gives_the_same(size):
    files = [File("ü.bin", DATA[:size], modified=5)]
    layout = ZipLayout(frozen_of(files))
    whole = archive(layout, files)
    ends = {*range(60), *range(65_535, 65_600), *range(layout.tail_offset - 24, layout.tail_offset)}
    last = layout.tail_offset
    for cut in sorted(end for end in ends if 0 < end < last):
        for first, end in [(0, cut), (cut, cut + 1), (cut, last)]:
            assert region(layout, 0, files[0].data, first, end) == whole[first:end]


def test_what_is_empty_has_the_crc_of_nothing_whatever_was_said_of_it():
    layout = ZipLayout(Frozen([FrozenEntry(0, "empty", 0, 5), FrozenEntry(1, "folder/", 0, 6)], created=1))
    assert not layout.tail_needs_crc32
    whole = archive(layout, [File("empty"), File("folder/")])
    with zipfile.ZipFile(io.BytesIO(whole)) as read:
        assert read.testzip() is None
        assert [info.CRC for info in read.infolist()] == [0, 0]


def test_only_parts_with_bytes_of_the_crc_need_it():
    layout = ZipLayout(frozen_of([File("sized", b"data"), File("known", b"data", crc_known=True)]))
    end = layout.start(1)
    descriptor = end - 16
    needing = [first for first in range(end) if layout.part(0, first, first + 1).needs_crc32]
    assert needing == list(range(descriptor + 4, descriptor + 8))
    assert not layout.part(1, 0, layout.start(2) - end).needs_crc32
    assert layout.tail_needs_crc32


def test_chunks_are_passed_on_without_copies():
    layout = ZipLayout(frozen_of([File("sized", DATA)]))
    part = layout.part(0, 0, layout.start(1))
    chunk = DATA[: 3 * BLOCK]
    pieces = [piece for piece in part.frame(chunk) if isinstance(piece, memoryview)]
    assert [(piece.obj is chunk, len(piece)) for piece in pieces] == [(True, BLOCK)] * 3


@given(files=some_files(), data=st.data())
@settings(max_examples=10)
def test_every_byte_lies_in_the_region_of_its_entry(files, data):
    layout = ZipLayout(frozen_of(files))
    assert layout.start(len(files)) == layout.tail_offset
    for entry in range(len(files)):
        offset = data.draw(st.integers(layout.start(entry), layout.start(entry + 1) - 1))
        assert layout.locate(layout.start(entry)) == layout.locate(offset) == entry
        assert layout.locate(layout.start(entry + 1) - 1) == entry


@given(files=some_files(), on_error=st.sampled_from(OnError), data=st.data())
@settings(max_examples=25)
def test_python_reads_what_is_left_after_losses(files, on_error, data):
    failures = data.draw(st.sampled_from([(), ((9, FAILURE),)]))
    layout = ZipLayout(frozen_of(files, on_error=on_error, failures=failures))
    lost = data.draw(st.sets(st.sampled_from(range(len(files))))) if files else set()
    room = layout.report_room(lost)
    report = data.draw(st.one_of(st.none(), st.integers(0, room).map(lambda size: b"r" * size))) if room else None
    whole = archive(layout, files, lost=lost, report=report)
    assert len(whole) == layout.total_bytes
    expected = [(file.name, file.data) for entry, file in enumerate(files) if entry not in lost]
    if report is not None:
        expected.append((REPORT_NAME, report))
    with zipfile.ZipFile(io.BytesIO(whole)) as read:
        assert [(info.filename, read.read(info)) for info in read.infolist()] == expected
        assert read.comment.rstrip() == COMMENT


@given(lost=st.sets(st.integers(0, 39)), short=st.integers(0, 30))
@settings(max_examples=20)
def test_what_a_report_does_not_use_is_hidden(lost, short):
    layout = ZipLayout(frozen_of([File(f"{number:02}.txt", b"x", modified=7) for number in range(40)]))
    room = layout.report_room(lost)
    tail = read_tail(layout, lost=lost, report=b"r" * (room - short))
    assert tail.names == [*(f"{number:02}.txt" for number in range(40) if number not in lost), REPORT_NAME]
    spaces, hints = (short, 0) if short < 8 else (0, short)
    assert tail.comment == COMMENT + b" " * spaces
    assert tail.hints == [0] * (40 - len(lost)) + [hints]


def test_the_report_is_dated_as_the_ticket():
    files = [File("a", b"a")]
    layout = ZipLayout(frozen_of(files))
    with zipfile.ZipFile(io.BytesIO(archive(layout, files, report=b"text"))) as read:
        assert read.getinfo(REPORT_NAME).date_time == (2023, 11, 14, 22, 13, 20)


def test_too_long_a_report_is_refused_before_anything_is_made():
    layout = ZipLayout(frozen_of([File("a", b"a")]))
    room = layout.report_room(())
    assert RESERVE - 200 < room < RESERVE
    with pytest.raises(ValueError, match="1 bytes too long"):
        layout.tail(lambda entry: entry, report=b"r" * (room + 1))


def test_without_a_reserve_a_report_has_only_the_room_of_what_is_lost():
    layout = ZipLayout(frozen_of([File("a" * 200, b"a"), File("b", b"b")], on_error=OnError.SKIP))
    assert layout.report_room(()) == layout.report_room({1}) == 0
    room = layout.report_room({0})
    assert 0 < room < 200
    assert read_tail(layout, lost={0}, report=bytes(room)).names == ["b", REPORT_NAME]


@pytest.mark.parametrize("count", [1, 20, 5_000])
def test_failures_of_the_freeze_have_room_for_their_report(count):
    failures = [(item, FAILURE) for item in range(count)]
    layout = ZipLayout(frozen_of([File("a", b"a")], failures=failures))
    room = layout.report_room(())
    text = render_report([FAILURE] * count, packed=1, limit_bytes=1 << 16)
    assert len(text) + RESERVE - 76 <= room <= len(text) + RESERVE
    assert read_tail(layout, report=text).names == ["a", REPORT_NAME]
    assert read_tail(layout, lost={0}, report=text).names == [REPORT_NAME]


def many(count: int, **options) -> ZipLayout:
    return ZipLayout(frozen_of((File(f"{number:060}", b"x", number % 2 > 0) for number in range(count)), **options))


@pytest.mark.parametrize(
    ("kept", "hints", "spaces", "gap"),
    [
        (1500, [*[0] * 1499, 53_000], 0, 0),
        (1000, [*[0] * 998, 46_000, 60_000], 0, 0),
        (774, [*[0] * 771, 9_956, 60_000, 60_000], 0, 0),
        (2, [60_000, 60_000], 0, 91_788),
        (0, [], 0, 212_000),
    ],
)
def test_thousands_lost_are_hidden_in_records_and_the_rest_before_the_directory(kept, hints, spaces, gap):
    layout = many(2000, on_error=OnError.SKIP)
    tail = read_tail(layout, lost=range(kept, 2000))
    assert tail.hints == hints
    assert tail.comment == COMMENT + b" " * spaces
    assert tail.before == bytes(gap)


@pytest.mark.parametrize(("rest", "hints", "spaces"), [(0, 0, 0), (1, 0, 1), (7, 0, 7), (8, 8, 0)])
def test_what_is_too_short_for_a_second_hint_follows_the_comment(rest, hints, spaces):
    layout = many(700)
    report = bytes(layout.report_room(range(600)) - 60_000 - rest)
    tail = read_tail(layout, lost=range(600), report=report)
    assert tail.hints[-2:] == [hints, 60_000]
    assert tail.comment == COMMENT + b" " * spaces


def test_no_record_gets_longer_than_java_takes():
    entries = (FrozenEntry(item, f"{item:05}" + "n" * 5000, 0, None, 9) for item in range(99))
    layout = ZipLayout(Frozen(entries, created=1, on_error=OnError.SKIP))
    tail = b"".join(layout.tail(int, lost=range(2, 99)))
    with zipfile.ZipFile(io.BytesIO(bytes(layout.tail_offset) + tail)) as read:
        lengths = [46 + len(info.filename) + len(info.extra) for info in read.infolist()]
    assert lengths == [46 + 5005 + 9 + 60_000] * 2
    assert max(lengths) <= 0xFFFF


@given(
    lost=st.sets(st.integers(0, 2)),
    before=st.integers(-3_000, 100),
    report=st.sampled_from([None, 0, 300, 9_999]),
    on_error=st.sampled_from(OnError),
)
@settings(max_examples=50)
def test_the_length_stays_where_the_directory_begins_about_4_gib(lost, before, report, on_error):
    names = ["a", "b" * 999, "c" * 999]
    sizes = [GIB_4 + before - sum(30 + len(name) for name in names), 0, 0]
    entries = [FrozenEntry(item, name, sizes[item], 0) for item, name in enumerate(names)]
    layout = ZipLayout(Frozen(entries, created=1, on_error=on_error))
    assert layout.tail_offset == GIB_4 + before
    room = layout.report_room(lost)
    tail = read_tail(layout, lost=lost, report=b"r" * min(report, room) if report is not None and room else None)
    assert tail.zip64 == (tail.offset >= MARKER) or not tail.names


@pytest.mark.parametrize("below", [0, 1, 46, 47, 48])
def test_the_length_stays_when_all_is_lost_just_below_4_gib(below):
    layout = ZipLayout(Frozen([FrozenEntry(0, "a", MARKER - below - 31, 0)], created=1, on_error=OnError.SKIP))
    assert read_tail(layout, lost={0}).names == []


@pytest.mark.parametrize("on_error", OnError)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [MARKER - 330_000, MARKER - 1, MARKER, GIB_4, 10 * GIB_4])
def test_sizes_about_4_gib_give_the_length_of_the_streamed_archive(size, known, on_error):
    crc = 1 if known else None
    sizes = {"huge": size, "after": 5, "last": 0}
    layout = ZipLayout(
        Frozen((FrozenEntry(0, name, n, crc, 9) for name, n in sizes.items()), created=1, on_error=on_error)
    )
    reserve = RESERVE if on_error is OnError.REPORT else 0
    streamed = archive_bytes([Entry(name, n, crc, 9) for name, n in sizes.items()])
    assert layout.total_bytes - reserve == streamed
    assert read_tail(layout).names == ["huge", "after", "last"]
    assert read_tail(layout, lost={0}).names == ["after", "last"]
    end = layout.start(1)
    assert len(layout.part(0, end - 30, end).trail(1)) == (0 if known else 24 if size >= MARKER - 327_680 else 16)


def test_parts_deep_in_an_entry_of_4_gib_name_the_right_source_bytes():
    layout = ZipLayout(Frozen([FrozenEntry(0, "huge", 2 * GIB_4)], created=1))
    header = len(layout.part(0, 0, 100).lead) - 5
    part = layout.part(0, header + 70_000 * 65_540 + 3, header + 70_000 * 65_540 + 10)
    assert (part.source_start, part.source_bytes) == (70_000 * BLOCK, 5)
    assert part.lead == struct.pack("<BHH", 0, BLOCK, 0)[3:]


@pytest.mark.parametrize("shift", [-1, 0, 1, 38, 75, 76, 77])
def test_zeros_before_the_directory_may_push_it_beyond_4_gib(shift):
    small = many(2000, on_error=OnError.SKIP)
    gap = len(read_tail(small, lost=range(2, 2000)).before)
    sizes = [MARKER - gap + shift - 1999 * 91 - 90, *[1] * 1999]
    entries = (FrozenEntry(item, f"{item:060}", size, 1) for item, size in enumerate(sizes))
    layout = ZipLayout(Frozen(entries, created=1, on_error=OnError.SKIP))
    assert layout.tail_offset == MARKER - gap + shift
    tail = read_tail(layout, lost=range(2, 2000))
    assert tail.zip64 == (shift >= 0)
    assert len(tail.before) == (gap - 76 if shift >= 0 else gap)


@lru_cache(maxsize=1)
def numbered(count: int) -> ZipLayout:
    return ZipLayout(Frozen((FrozenEntry(item, f"{item:05}", 0) for item in range(count)), created=1))


@pytest.mark.parametrize(
    ("lost", "report", "zip64"),
    [
        pytest.param((), None, True, marks=pytest.mark.slow),
        pytest.param((7,), None, False, marks=pytest.mark.slow),
        ((7,), 900, True),
        pytest.param((), 9, True, marks=pytest.mark.slow),
        pytest.param((7, 65_534), 1000, False, marks=pytest.mark.slow),
    ],
)
def test_the_length_stays_where_the_number_of_entries_needs_zip64_or_not(lost, report, zip64):
    layout = numbered(0xFFFF)
    text = None if report is None else bytes(min(report, layout.report_room(lost)))
    tail = read_tail(layout, lost=lost, report=text)
    assert tail.zip64 == zip64
    assert len(tail.names) == 0xFFFF - len(lost) + (report is not None)
