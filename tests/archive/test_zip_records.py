from __future__ import annotations

import calendar
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_archive.zip_records import (
    COMMENT,
    DOS_EPOCH,
    MARKER_16,
    MARKER_32,
    Content,
    Entry,
    Layout,
    archive_bytes,
    block_header,
    central_header,
    central_header_bytes,
    descriptor,
    descriptor_bytes,
    dos_time,
    end_records,
    end_records_bytes,
    entry_bytes,
    local_header,
    local_header_bytes,
    packed_bytes,
    promises_zip64,
    stored_blocks_bytes,
)

GIB_4 = 1 << 32
DATE = calendar.timegm((2024, 2, 29, 13, 37, 42))


def extras(extra: bytes) -> list[tuple[int, bytes]]:
    fields = []
    while extra:
        kind, length = struct.unpack_from("<HH", extra)
        fields.append((kind, extra[4 : 4 + length]))
        extra = extra[4 + length :]
    return fields


def local_fields(record: bytes) -> tuple[tuple[int, ...], list[tuple[int, bytes]]]:
    fields = struct.unpack_from("<4s5H3I2H", record)
    return fields[1:], extras(record[30 + fields[9] :])


def central_fields(record: bytes) -> tuple[tuple[int, ...], list[tuple[int, bytes]]]:
    fields = struct.unpack_from("<4s6H3I5H2I", record)
    return fields[1:], extras(record[46 + fields[10] :])


def test_layout_follows_from_what_is_known():
    assert Entry("a").layout is Layout.OPEN
    assert Entry("a", crc32=7).layout is Layout.OPEN
    assert Entry("a", 5).layout is Layout.SIZED
    assert Entry("a", 5, 7).layout is Layout.KNOWN
    assert Entry("a", 0).layout is Layout.KNOWN
    assert Entry("a/").layout is Layout.KNOWN


@pytest.mark.parametrize(
    "arguments",
    [("",), ("x" * 65536,), ("a/", 1), ("a/", None, 5), ("a", -1), ("a", 1 << 63), ("a", 1, 1 << 32), ("a", 1, -1)],
    ids=repr,
)
def test_impossible_entries_are_refused(arguments):
    with pytest.raises(ValueError):
        Entry(*arguments)


def test_known_entry_has_size_and_crc_in_its_local_header():
    record = local_header(Entry("a.txt", 5, 0xDEADBEEF, DATE))
    (needs, flags, method, time, date, crc, packed, size, name, extra), fields = local_fields(record)
    assert record[:4] == b"PK\x03\x04"
    assert record[30:35] == b"a.txt"
    assert (needs, flags, method, crc, packed, size, name, extra) == (20, 0, 0, 0xDEADBEEF, 5, 5, 5, 9)
    assert (time, date) == (13 << 11 | 37 << 5 | 21, 44 << 9 | 2 << 5 | 29)
    assert fields == [(0x5455, struct.pack("<Bi", 1, DATE))]


@pytest.mark.parametrize("entry", [Entry("a", 5), Entry("a")], ids=["sized", "open"])
def test_entry_with_descriptor_has_zeros_in_its_local_header(entry):
    (needs, flags, method, _, _, crc, packed, size, _, extra), _ = local_fields(local_header(entry))
    assert (needs, flags, method, crc, packed, size, extra) == (20, 8, 8, 0, 0, 0, 0)


def test_utf8_flag_is_set_only_for_names_that_need_it():
    assert local_fields(local_header(Entry("a", 1, 1)))[0][1] == 0
    assert local_fields(local_header(Entry("é", 1, 1)))[0][1] == 0x800
    assert central_fields(central_header(Entry("é"), Content(0, 1, 6), 0))[0][2] == 0x808


def test_folder_has_the_mode_of_a_folder_and_no_data():
    entry = Entry("a/b/", modified=DATE)
    fields, _ = central_fields(central_header(entry, Content(0, 0, 0), 77))
    assert entry_bytes(entry) == local_header_bytes(entry)
    assert fields[0] >> 8 == 3
    assert fields[3] == 0
    assert fields[-2:] == (0o040755 << 16 | 0x10, 77)


def test_file_is_readable_by_all_and_writable_by_its_owner():
    fields, _ = central_fields(central_header(Entry("a"), Content(1, 2, 3), 0))
    assert fields[-2] == 0o100644 << 16
    assert fields[6:9] == (1, 3, 2)


@pytest.mark.parametrize(
    ("size", "packed"),
    [(0, 5), (1, 6), (65_534, 65_539), (65_535, 65_540), (65_536, 65_546), (131_070, 131_080), (131_071, 131_086)],
)
def test_stored_blocks_cost_five_bytes_each(size, packed):
    assert stored_blocks_bytes(size) == packed


def test_block_header_is_final_flag_length_and_complement():
    assert block_header(3, final=False) == b"\x00\x03\x00\xfc\xff"
    assert block_header(0, final=True) == b"\x01\x00\x00\xff\xff"


LAST_SIZED = max(n for n in range(MARKER_32 - 400_000, MARKER_32) if stored_blocks_bytes(n) < MARKER_32)


@pytest.mark.parametrize(
    ("entry", "zip64"),
    [
        (Entry("a", MARKER_32 - 1, 1), False),
        (Entry("a", MARKER_32, 1), True),
        (Entry("a", GIB_4, 1), True),
        (Entry("a", LAST_SIZED), False),
        (Entry("a", LAST_SIZED + 1), True),
        (Entry("a", GIB_4), True),
        (Entry("a"), False),
    ],
    ids=repr,
)
def test_local_zip64_is_announced_from_the_marker_on(entry, zip64):
    fields, extra = local_fields(local_header(entry))
    assert promises_zip64(entry) is zip64
    assert fields[0] == (45 if zip64 else 20)
    assert (fields[6:8] == (MARKER_32, MARKER_32)) is zip64
    assert [kind for kind, _ in extra] == ([1] if zip64 else [])


def test_local_zip64_extra_comes_first_with_both_sizes():
    known, sized = Entry("a", GIB_4, 9, DATE), Entry("a", GIB_4, None, DATE)
    assert local_fields(local_header(known))[1][0] == (1, struct.pack("<QQ", GIB_4, GIB_4))
    assert local_fields(local_header(sized))[1][0] == (1, struct.pack("<QQ", 0, 0))
    assert local_fields(local_header(known))[1][1][0] == 0x5455


def test_descriptor_has_eight_byte_sizes_only_with_zip64():
    content = Content(0xCAFE, 7, 12)
    assert descriptor(content, zip64=False) == struct.pack("<4sIII", b"PK\x07\x08", 0xCAFE, 12, 7)
    assert descriptor(content, zip64=True) == struct.pack("<4sIQQ", b"PK\x07\x08", 0xCAFE, 12, 7)
    assert descriptor_bytes(Entry("a", LAST_SIZED)) == 16
    assert descriptor_bytes(Entry("a", LAST_SIZED + 1)) == 24
    assert descriptor_bytes(Entry("a", GIB_4, 1)) == 0
    assert descriptor_bytes(Entry("a")) is None


@pytest.mark.parametrize(
    ("content", "offset", "values"),
    [
        (Content(0, MARKER_32 - 1, MARKER_32 - 1), MARKER_32 - 1, ()),
        (Content(0, 5, 5), MARKER_32, (MARKER_32,)),
        (Content(0, 5, 5), GIB_4 + 1, (GIB_4 + 1,)),
        (Content(0, MARKER_32 - 1, MARKER_32 + 5), 0, (MARKER_32 + 5,)),
        (Content(0, MARKER_32, MARKER_32), 0, (MARKER_32, MARKER_32)),
        (Content(0, GIB_4, GIB_4 + 5), GIB_4 * 3, (GIB_4, GIB_4 + 5, GIB_4 * 3)),
    ],
)
def test_central_zip64_extra_holds_just_what_does_not_fit(content, offset, values):
    record = central_header(Entry("a", modified=DATE), content, offset)
    fields, extra = central_fields(record)
    wanted = [(1, struct.pack(f"<{len(values)}Q", *values))] if values else []
    assert extra == [*wanted, (0x5455, struct.pack("<Bi", 1, DATE))]
    assert fields[1] == (45 if values else 20)
    assert (fields[8], fields[7], fields[-1]) == tuple(
        min(v, MARKER_32) for v in (content.size, content.packed, offset)
    )


@pytest.mark.parametrize(
    ("numbers", "zip64"),
    [
        ((0, 0, 0), False),
        ((MARKER_16 - 1, MARKER_32 - 1, MARKER_32 - 1), False),
        ((MARKER_16, 0, 0), True),
        ((MARKER_16 + 1, 0, 0), True),
        ((1, MARKER_32, 50), True),
        ((1, 50, MARKER_32), True),
    ],
)
def test_end_records_use_zip64_from_the_markers_on(numbers, zip64):
    count, offset, size = numbers
    records = end_records(*numbers)
    assert len(records) == end_records_bytes(*numbers) == 22 + len(COMMENT) + (76 if zip64 else 0)
    assert records.endswith(COMMENT)
    end = struct.unpack_from("<4s4H2IH", records, 76 if zip64 else 0)
    assert end[3:7] == (min(count, MARKER_16),) * 2 + (min(size, MARKER_32), min(offset, MARKER_32))
    if zip64:
        end_64 = struct.unpack_from("<4sQ2H2I4Q", records)
        assert end_64[1:4] == (44, 3 << 8 | 45, 45)
        assert end_64[6:] == (count, count, size, offset)
        assert struct.unpack_from("<4sIQI", records, 56) == (b"PK\x06\x07", 0, offset + size, 1)


def test_comment_over_65535_bytes_is_refused():
    assert len(end_records(0, 0, 0, comment=b"x" * 65_535)) == 65_557
    with pytest.raises(ValueError, match="comment"):
        end_records(0, 0, 0, comment=b"x" * 65_536)


@pytest.mark.parametrize(
    ("modified", "fields"),
    [
        (None, (1980, 1, 1, 0, 0, 0)),
        (0, (1980, 1, 1, 0, 0, 0)),
        (-(1 << 40), (1980, 1, 1, 0, 0, 0)),
        (DOS_EPOCH + 3, (1980, 1, 1, 0, 0, 2)),
        (DATE, (2024, 2, 29, 13, 37, 42)),
        (1 << 50, (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_dos_time_is_utc_within_what_dos_can_say(modified, fields):
    time, date = dos_time(modified)
    assert (1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, (time & 31) * 2) == fields


@pytest.mark.parametrize(
    ("modified", "length"), [(None, 0), (-1, 0), (0, 9), (DATE, 9), ((1 << 31) - 1, 9), (1 << 31, 0)]
)
def test_extended_timestamp_is_written_when_32_bits_hold_it(modified, length):
    assert len(local_header(Entry("a", 1, 1, modified))) == 31 + length
    assert len(central_header(Entry("a", 1, 1, modified), Content(1, 1, 1), 0)) == 47 + length


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
sizes = st.one_of(
    st.integers(0, 200_000), st.integers(MARKER_32 - 400_000, MARKER_32 + 10), st.integers(GIB_4, (1 << 63) - 1)
)
dates = st.none() | st.integers(-(1 << 33), 1 << 34)


@settings(deadline=None)
@given(name=names, size=st.none() | sizes, crc=st.none() | st.integers(0, MARKER_32), modified=dates, offset=sizes)
def test_predicted_record_lengths_are_the_real_ones(name, size, crc, modified, offset):
    entry = Entry(name, *((0, 0) if name.endswith("/") else (size, crc)), modified)
    content = Content(crc or 0, size or 0, packed_bytes(entry) or 5)
    assert local_header_bytes(entry) == len(local_header(entry))
    assert central_header_bytes(entry, content, offset) == len(central_header(entry, content, offset))
    if entry.layout is Layout.SIZED:
        assert descriptor_bytes(entry) == len(descriptor(content, zip64=promises_zip64(entry)))


@pytest.mark.parametrize("count", [65_534, 65_535, 65_536])
def test_archive_length_counts_the_zip64_end_record_from_65535_entries_on(count):
    each = 2 * len("12345") + 30 + 46
    expected = count * each + 22 + len(COMMENT) + (76 if count >= 65_535 else 0)
    assert archive_bytes(Entry(f"{number:05}", 0) for number in range(count)) == expected


def test_archive_length_counts_offsets_beyond_4_gib():
    big, small = Entry("big", MARKER_32 - 1 - 33, 1), Entry("small", 3, 1)
    local = 33 + MARKER_32 - 1 - 33
    assert archive_bytes([big], comment=b"") == local + 49 + 22
    assert archive_bytes([big, small], comment=b"") == local + 38 + 49 + 51 + 76 + 22
    assert archive_bytes([big, small, small], comment=b"") == local + 38 * 2 + 49 + 51 + 51 + 12 + 76 + 22


def test_archive_length_is_unknown_with_an_open_entry():
    assert archive_bytes([Entry("a", 5), Entry("b")]) is None


def test_a_directory_of_huge_entries_is_read_as_written(tmp_path: Path):
    entries = [
        (Entry("stored", GIB_4, 1), Content(1, GIB_4, GIB_4), 0),
        (Entry("edge", MARKER_32 - 1), Content(2, MARKER_32 - 1, MARKER_32 + 9), GIB_4 + 99),
        (Entry("small", 5, 3), Content(3, 5, 5), GIB_4 * 2),
    ]
    start = GIB_4 * 2 + 1000
    path = tmp_path / "sparse.zip"
    with path.open("wb") as file:
        file.seek(start)
        directory = b"".join(central_header(*entry) for entry in entries)
        file.write(directory + end_records(len(entries), start, len(directory)))
    with zipfile.ZipFile(path) as archive:
        seen = [(i.filename, i.CRC, i.file_size, i.compress_size, i.header_offset) for i in archive.infolist()]
    assert seen == [(entry.name, *content, offset) for entry, content, offset in entries]
