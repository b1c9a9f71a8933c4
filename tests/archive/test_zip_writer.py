from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_archive.zip_records import (
    COMMENT,
    MARKER_32,
    Content,
    Entry,
    Layout,
    archive_bytes,
    central_header,
    entry_bytes,
    local_header,
)
from gateway_archive.zip_writer import Piece, StoredBlocks, ZipWriter
from gateway_core.errors import SourceFailed

DATE = 1_700_000_000


def join(pieces: Iterable[Piece]) -> bytes:
    return b"".join(pieces)


def chunked(data: bytes, *lengths: int) -> list[bytes]:
    chunks = []
    for length in lengths:
        chunks.append(data[:length])
        data = data[length:]
    return [*chunks, data]


def put(writer: ZipWriter, entry: Entry, chunks: Iterable[bytes]) -> bytes:
    opened = writer.begin(entry)
    body = join(piece for chunk in chunks for piece in opened.data(chunk))
    return body + join(opened.finish())


def noise(size: int, seed: int = 1) -> bytes:
    return (zlib.compress(seed.to_bytes(8, "big") * 997, 9) * (size // 20 + 1))[:size]


def test_whole_file_is_header_and_data_and_no_copy():
    writer, data = ZipWriter(), b"hello"
    pieces = writer.whole(Entry("a.txt", modified=DATE), data)
    assert pieces[0] == local_header(Entry("a.txt", 5, zlib.crc32(data), DATE))
    assert pieces[1] is data
    assert len(pieces) == 2
    assert (writer.offset, writer.entries) == (len(pieces[0]) + 5, 1)


@pytest.mark.parametrize("entry", [Entry("a", 4), Entry("a", 6), Entry("a", 5, 1), Entry("a", crc32=1)], ids=repr)
def test_whole_file_other_than_announced_is_refused_before_its_first_byte(entry):
    writer = ZipWriter()
    with pytest.raises(SourceFailed):
        writer.whole(entry, b"hello")
    assert (writer.offset, writer.entries) == (0, 0)
    assert join(writer.end()) == join(ZipWriter().end())


def test_known_entry_passes_its_chunks_through():
    writer, data = ZipWriter(), b"hello world"
    opened = writer.begin(Entry("a", len(data), zlib.crc32(data)))
    first, second = b"hello ", b"world"
    header, piece = opened.data(first)
    assert header == local_header(Entry("a", len(data), zlib.crc32(data)))
    assert piece is first
    assert opened.missing == 5
    assert opened.data(second) == [second]
    assert opened.finish() == []


def test_sized_blocks_are_full_whatever_the_chunks():
    data = noise(200_000)
    expected = b"".join(
        struct.pack("<BHH", final, len(part), len(part) ^ 0xFFFF) + part
        for final, part in ((i == 3, data[i * 65_535 : (i + 1) * 65_535]) for i in range(4))
    )
    for lengths in ((), (1,), (65_535,), (65_536,), (100, 100_000), (65_535, 65_535, 65_535), (131_070,)):
        blocks = StoredBlocks(len(data))
        framed = join(piece for chunk in chunked(data, *lengths) for piece in blocks.frame(chunk))
        assert framed + blocks.end() == expected
        assert blocks.packed == len(expected)


def test_open_blocks_end_with_their_chunks():
    blocks = StoredBlocks()
    assert join(blocks.frame(b"abc")) == b"\x00\x03\x00\xfc\xffabc"
    assert blocks.missing == 0
    assert [len(piece) for piece in blocks.frame(bytes(65_536))] == [5, 65_535, 5, 1]
    assert blocks.end() == b"\x01\x00\x00\xff\xff"
    assert blocks.packed == 8 + 65_546 + 5


@given(
    size=st.integers(0, 300_000),
    cuts=st.lists(st.integers(0, 300_000), max_size=6),
    known=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_inflate_gives_the_framed_data_back(size, cuts, known):
    data = noise(size)
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    blocks = StoredBlocks(size if known else None)
    chunks = [data[start:stop] for start, stop in pairwise(edges)]
    framed = join(piece for chunk in chunks for piece in blocks.frame(chunk)) + blocks.end()
    inflater = zlib.decompressobj(-15)
    assert inflater.decompress(framed) == data
    assert inflater.eof
    assert inflater.unused_data == b""
    assert blocks.packed == len(framed)


files = st.tuples(
    st.sampled_from([*Layout, "whole", "folder"]),
    st.one_of(st.integers(0, 50), st.integers(65_530, 65_540), st.integers(0, 150_000)),
    st.integers(1, 70_000),
    st.none() | st.integers(-1, 1 << 33),
)


@given(plan=st.lists(files, max_size=8), comment=st.binary(max_size=30))
@settings(max_examples=60, deadline=None)
def test_archives_have_the_predicted_length_and_read_back_the_same(plan, comment):
    writer, out, entries, expected = ZipWriter(), io.BytesIO(), [], {}
    for number, (layout, size, step, modified) in enumerate(plan):
        name, data = f"dir/é {number}", noise(size, number)
        chunks = [data[start : start + step] for start in range(0, size, step)]
        if layout == "folder":
            name, data = f"dir {number}/", b""
            entry = Entry(name, modified=modified)
            out.write(join(writer.whole(entry, b"")))
        elif layout == "whole":
            entry = Entry(name, size, zlib.crc32(data), modified)
            out.write(join(writer.whole(Entry(name, modified=modified), data)))
        else:
            known = {Layout.KNOWN: (size, zlib.crc32(data)), Layout.SIZED: (size,), Layout.OPEN: ()}[layout]
            entry = Entry(name, *known, modified=modified)
            out.write(put(writer, entry, chunks))
        assert writer.offset == out.tell()
        entries.append(entry)
        expected[name] = data
    out.write(join(writer.end(comment=comment)))
    predicted = archive_bytes(entries, comment=comment)
    assert predicted == (None if any(e.layout is Layout.OPEN for e in entries) else out.tell())
    with zipfile.ZipFile(out) as archive:
        assert {info.filename: archive.read(info) for info in archive.infolist()} == expected
        assert archive.comment == comment


def test_the_same_entries_give_the_same_bytes():
    def archive() -> bytes:
        writer = ZipWriter()
        body = put(writer, Entry("a", 70_000), [noise(70_000)]) + put(writer, Entry("b"), [b"x", b"y"])
        return body + join(writer.end())

    assert archive() == archive()


def test_an_empty_archive_is_an_end_record():
    archive = join(ZipWriter().end())
    assert archive == b"PK\x05\x06" + bytes(16) + struct.pack("<H", len(COMMENT)) + COMMENT


@pytest.mark.parametrize("entry", [Entry("a"), Entry("a", 0), Entry("a", crc32=0), Entry("a/")], ids=repr)
def test_an_entry_that_turns_out_empty_carries_no_data(entry):
    writer = ZipWriter()
    body = put(writer, entry, [b""])
    assert body == local_header(Entry(entry.name, 0, 0))
    assert join(writer.end()).startswith(central_header(Entry(entry.name, 0, 0), Content(0, 0, 0), 0))


@pytest.mark.parametrize("entry", [Entry("a", 5), Entry("a", 5, 1), Entry("a", 0), Entry("a/")], ids=repr)
def test_data_beyond_the_promised_size_is_refused_and_not_taken(entry):
    opened = ZipWriter().begin(entry)
    with pytest.raises(SourceFailed, match="more than"):
        opened.data(b"123456")
    assert opened.missing == entry.size


@pytest.mark.parametrize("entry", [Entry("a", 6), Entry("a", 6, 1)], ids=repr)
def test_an_entry_short_of_its_promised_size_cannot_be_finished(entry):
    opened = ZipWriter().begin(entry)
    opened.data(b"12345")
    with pytest.raises(SourceFailed, match="5 of 6"):
        opened.finish()


@pytest.mark.parametrize("entry", [Entry("a", 5, 1), Entry("a", crc32=1)], ids=repr)
def test_an_entry_with_another_crc_than_the_known_one_cannot_be_finished(entry):
    opened = ZipWriter().begin(entry)
    opened.data(b"12345")
    with pytest.raises(SourceFailed, match="cbf53a1c"):
        opened.finish()


def test_an_entry_discarded_before_its_first_byte_leaves_no_trace():
    writer = ZipWriter()
    for entry in (Entry("a"), Entry("b", 5), Entry("c", 5, 1)):
        assert writer.begin(entry).discard() == []
    assert (writer.offset, writer.entries) == (0, 0)


@pytest.mark.parametrize("size", [None, 70_000, 140_000], ids=repr)
@pytest.mark.parametrize("given_bytes", [1, 65_534, 65_535, 65_536, 70_000])
def test_a_discarded_entry_is_whole_in_form_but_has_a_wrong_crc(size, given_bytes):
    writer, data = ZipWriter(), noise(given_bytes)
    opened = writer.begin(Entry("bad", size))
    body = join([*opened.data(data), *opened.discard()])
    assert writer.offset == len(body)
    assert writer.entries == 0
    inflater = zlib.decompressobj(-15)
    inflated = inflater.decompress(body[len(local_header(Entry("bad", size))) :])
    assert inflater.eof
    assert inflated[:given_bytes] == data
    assert not any(inflated[given_bytes:])
    signature, crc, packed, unpacked = struct.unpack("<4sIII", inflater.unused_data)
    assert signature == b"PK\x07\x08"
    assert crc == zlib.crc32(inflated) ^ MARKER_32
    assert unpacked == len(inflated)
    assert packed == len(body) - len(local_header(Entry("bad", size))) - 16


def test_a_discarded_sized_entry_keeps_its_predicted_length_when_filled_up():
    entry = Entry("bad", 100_000)
    opened = ZipWriter().begin(entry)
    body = join(opened.data(b"x" * 30_000))
    body += join(opened.data(bytes(opened.missing or 0)))
    body += join(opened.discard())
    assert len(body) == entry_bytes(entry)


def test_a_known_entry_cannot_be_discarded_in_the_middle():
    writer = ZipWriter()
    opened = writer.begin(Entry("a", 10, 1))
    opened.data(b"12345")
    with pytest.raises(SourceFailed, match="5 of 10"):
        opened.discard()
    with pytest.raises(RuntimeError, match="open"):
        writer.end()


def test_a_known_entry_with_a_wrong_crc_is_left_out_once_all_its_bytes_are_written():
    writer = ZipWriter()
    opened = writer.begin(Entry("bad", 5, 1))
    body = join(opened.data(b"12345"))
    with pytest.raises(SourceFailed):
        opened.finish()
    body += join(opened.discard())
    body += join(writer.whole(Entry("good"), b"fine"))
    body += join(writer.end())
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == ["good"]
        assert archive.read("good") == b"fine"


def test_calls_out_of_order_are_refused():
    writer = ZipWriter()
    opened = writer.begin(Entry("a"))
    for call in (lambda: writer.begin(Entry("b")), lambda: writer.whole(Entry("b"), b""), writer.end):
        with pytest.raises(RuntimeError, match="open: a"):
            call()
    opened.finish()
    for call in (lambda: opened.data(b"x"), opened.finish, opened.discard):
        with pytest.raises(RuntimeError, match="closed: a"):
            call()
    writer.end()
    for call in (lambda: writer.begin(Entry("b")), lambda: writer.whole(Entry("b"), b""), writer.end):
        with pytest.raises(RuntimeError, match="ended"):
            call()


def test_a_directory_comes_in_small_pieces():
    writer = ZipWriter()
    for number in range(3000):
        writer.whole(Entry(f"{number:06}"), b"")
    pieces = list(writer.end())
    assert max(map(len, pieces)) == 1 << 16
    assert sum(map(len, pieces)) == 3000 * 52 + 22 + len(COMMENT)


def test_a_writer_holds_under_100_bytes_an_entry_beyond_its_name():
    count = 10_000
    tracemalloc.start()
    try:
        writer = ZipWriter()
        for number in range(count):
            writer.whole(Entry(f"{number:06}", modified=DATE), b"")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < count * 100
    assert peak < count * 200


@pytest.mark.parametrize("count", [65_534, 65_535, 65_536])
def test_zip64_begins_at_65535_entries(count, tmp_path: Path, run):
    writer, path = ZipWriter(), tmp_path / "many.zip"
    with path.open("wb") as file:
        for number in range(count):
            file.writelines(writer.whole(Entry(f"{number:05}"), b""))
        file.writelines(writer.end())
    assert path.stat().st_size == archive_bytes(Entry(f"{number:05}", 0) for number in range(count))
    assert (b"PK\x06\x06" in path.read_bytes()) is (count >= 65_535)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == count
    listing = run("unzip", "-l", path)
    assert listing.returncode == 0
    assert listing.stdout.rstrip().endswith(f"{count} files".encode())


@pytest.mark.parametrize("layout", [Layout.SIZED, Layout.OPEN])
def test_data_of_4_gib_gets_an_eight_byte_descriptor(layout):
    chunk, rest = bytes(1 << 26), 64
    size = rest * len(chunk)
    writer = ZipWriter()
    entry = Entry("big", size if layout is Layout.SIZED else None)
    opened = writer.begin(entry)
    length = sum(len(piece) for _ in range(rest) for piece in opened.data(chunk))
    (trailer,) = opened.finish()
    length += len(trailer)
    assert trailer[-24:-20] == b"PK\x07\x08"
    packed, unpacked = struct.unpack("<QQ", trailer[-16:])
    assert unpacked == size
    assert writer.offset == length
    if layout is Layout.SIZED:
        assert length == entry_bytes(entry)
    directory = join(writer.end())
    assert directory[46 + 3 : 46 + 3 + 20] == struct.pack("<HHQQ", 1, 16, size, packed)
