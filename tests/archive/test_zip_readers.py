"""Archives of every layout, read by the programs that people have."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from gateway_archive.zip_records import Entry, Layout
from gateway_archive.zip_writer import Piece, ZipWriter

DATE = 1_700_000_000  # 2023-11-14T22:13:20Z, even, as DOS times are
BIG = bytes(range(256)) * 700

FILES = {
    "plain.txt": (Layout.KNOWN, b"stored as it is\n"),
    "empty.txt": (Layout.KNOWN, b""),
    "docs/": (Layout.KNOWN, b""),
    "docs/sized.bin": (Layout.SIZED, BIG),
    "docs/one block": (Layout.SIZED, b"x" * 65_535),
    "docs/open.bin": (Layout.OPEN, BIG),
    "docs/open empty": (Layout.OPEN, b""),
    "größe/日本語 \U0001f600.txt": (Layout.SIZED, "Ünïcödé".encode()),
    "größe/known é": (Layout.KNOWN, BIG[:1000]),
    "größe/open é": (Layout.OPEN, b"o"),
}
LOST = {"lost sized": Layout.SIZED, "lost open": Layout.OPEN}


def entry_for(name: str, layout: Layout, data: bytes) -> Entry:
    size, crc = len(data), zlib.crc32(data)
    known = {Layout.KNOWN: (size, crc), Layout.SIZED: (size, None), Layout.OPEN: (None, None)}[layout]
    return Entry(name, *known, modified=DATE)


def put(writer: ZipWriter, name: str, layout: Layout, data: bytes) -> Iterable[Piece]:
    opened = writer.begin(entry_for(name, layout, data))
    for start in range(0, len(data), 50_000):
        yield from opened.data(data[start : start + 50_000])
    yield from opened.finish()


def lose(writer: ZipWriter, name: str, layout: Layout) -> Iterable[Piece]:
    opened = writer.begin(entry_for(name, layout, BIG))
    yield from opened.data(BIG[:90_000])
    yield from opened.discard()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of every layout."""
    path, writer = tmp_path_factory.mktemp("good") / "good.zip", ZipWriter()
    with path.open("wb") as file:
        for name, (layout, data) in FILES.items():
            file.writelines(put(writer, name, layout, data))
        file.writelines(writer.end())
    return path


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two entries that failed in the middle, each between good ones."""
    path, writer = tmp_path_factory.mktemp("broken") / "broken.zip", ZipWriter()
    with path.open("wb") as file:
        file.writelines(put(writer, "first", Layout.SIZED, BIG))
        file.writelines(lose(writer, "lost sized", Layout.SIZED))
        file.writelines(put(writer, "second", Layout.KNOWN, b"second"))
        file.writelines(lose(writer, "lost open", Layout.OPEN))
        file.writelines(put(writer, "third", Layout.OPEN, BIG))
        file.writelines(writer.end())
    return path


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Entries whose offsets cross 4 GiB, behind a discarded one of zeros, a hole in the file."""
    path, writer = tmp_path_factory.mktemp("far") / "far.zip", ZipWriter()
    zeros = bytes(1 << 26)
    with path.open("wb") as file:
        file.writelines(put(writer, "near", Layout.KNOWN, b"near"))
        opened = writer.begin(Entry("lost known", 64 * len(zeros) - 100_000, crc32=1))
        while opened.missing:
            *header, data = opened.data(zeros[: opened.missing])
            file.writelines(header)
            file.seek(len(data), os.SEEK_CUR)
        file.writelines(opened.discard())
        assert file.tell() == writer.offset
        for number, layout in enumerate([*Layout, *Layout]):
            file.writelines(put(writer, f"{number}", layout, BIG[:60_000]))
        file.writelines(writer.end())
    return path


def java_lines(files: Iterable[tuple[str, bytes]]) -> list[str]:
    return [f"{name}\t{len(data)}\t{zlib.crc32(data):x}\t{DATE}" for name, data in files]


ALL = [(name, data) for name, (_, data) in FILES.items()]
SURVIVORS = [("first", BIG), ("second", b"second"), ("third", BIG)]


@pytest.mark.parametrize("archive", ["good", "broken", "far"])
@pytest.mark.parametrize("command", [("unzip", "-tq"), ("7z", "t"), ("bsdtar", "-xOf")], ids=lambda c: c[0])
def test_seeking_programs_take_every_archive(archive, command, request, run):
    result = run(*command, request.getfixturevalue(archive))
    assert (result.returncode, result.stderr) == (0, b"")


def test_unzip_extracts_names_data_modes_and_local_dates(good, tmp_path, run):
    result = run("unzip", "-q", good, "-d", tmp_path, TZ="America/New_York")
    assert (result.returncode, result.stderr) == (0, b"")
    for name, data in ALL:
        path = tmp_path / name
        if not name.endswith("/"):
            assert path.read_bytes() == data
            assert path.stat().st_mode & 0o777 == 0o644
        assert path.stat().st_mtime == DATE
    assert (tmp_path / "docs").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("program", [("7z", "x", "-y", "-o."), ("bsdtar", "-xf")], ids=lambda c: c[0])
def test_extraction_gives_the_same_tree(program, good, tmp_path, run):
    arguments = [part.replace("-o.", f"-o{tmp_path}") for part in program[1:]]
    target = ["-C", tmp_path] if program[0] == "bsdtar" else []
    result = run(program[0], *arguments, good, *target)
    assert result.returncode == 0, result.stderr
    seen = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert seen == {name: data for name, data in ALL if not name.endswith("/")}


def test_unzip_finds_no_fault_in_the_records(good, run):
    result = run("unzip", "-Z", "-v", good)
    assert result.returncode == 0
    report = result.stdout.decode()
    assert "Written by content-gateway" in report
    assert report.count("UTC/GMT modification time") == report.count("Central directory entry #") == len(FILES)
    assert "drwxr-xr-x" in report
    assert "-rw-r--r--" in report
    assert "minimum software version required to extract:   4.5" not in report


def test_bsdtar_reads_every_layout_from_a_pipe(good, run):
    result = run("bsdtar", "-xOf", "-", piped=good)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == b"".join(data for _, data in ALL)


def test_bsdtar_lists_modes_and_folders(good, run):
    result = run("bsdtar", "-tvf", good)
    lines = result.stdout.decode().splitlines()
    assert [line[:10] for line in lines] == ["drwxr-xr-x" if n.endswith("/") else "-rw-r--r--" for n, _ in ALL]
    assert [line.endswith(name) for line, (name, _) in zip(lines, ALL, strict=True)] == [True] * len(ALL)


def test_python_reads_every_layout(good):
    with zipfile.ZipFile(good) as archive:
        assert [(info.filename, archive.read(info)) for info in archive.infolist()] == ALL
        assert {info.date_time for info in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        assert archive.comment == b"Written by content-gateway"
        assert [info.is_dir() for info in archive.infolist()] == [name.endswith("/") for name, _ in ALL]


@pytest.mark.parametrize("mode", ["seek", "stream"])
def test_java_reads_every_layout(mode, good, java):
    result = java(mode, good)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().splitlines() == java_lines(ALL)


def test_python_and_java_find_entries_beyond_4_gib(far, java):
    expected = [("near", b"near"), *((f"{number}", BIG[:60_000]) for number in range(6))]
    with zipfile.ZipFile(far) as archive:
        assert [(info.filename, archive.read(info)) for info in archive.infolist()] == expected
        assert archive.infolist()[-1].header_offset > 1 << 32
    result = java("seek", far)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().splitlines() == java_lines(expected)


def test_a_lost_entry_is_not_seen_by_seeking_readers(broken, java):
    with zipfile.ZipFile(broken) as archive:
        assert [(info.filename, archive.read(info)) for info in archive.infolist()] == SURVIVORS
    assert java("seek", broken).stdout.decode().splitlines() == java_lines(SURVIVORS)


def test_a_lost_entry_is_reported_by_a_streaming_reader_and_the_others_still_come(broken, tmp_path, run):
    result = run("bsdtar", "-xf", "-", "-C", tmp_path, piped=broken)
    assert result.returncode != 0
    for name in LOST:
        assert f"{name}: ZIP bad CRC".encode() in result.stderr
    for name, data in SURVIVORS:
        assert (tmp_path / name).read_bytes() == data
        assert f"{name}:".encode() not in result.stderr


@pytest.mark.parametrize("layout", [Layout.SIZED, Layout.OPEN], ids=lambda layout: layout.value)
def test_7z_reports_a_lost_first_entry_and_extracts_the_others(layout, tmp_path, run):
    # 7-Zip trusts a directory only when it lists the first local header; else it reads the local headers itself
    path, writer = tmp_path / "first.zip", ZipWriter()
    with path.open("wb") as file:
        file.writelines(lose(writer, "lost", layout))
        for name, data in SURVIVORS:
            file.writelines(put(writer, name, layout, data))
        file.writelines(writer.end())
    result = run("7z", "x", "-y", f"-o{tmp_path}", path)
    assert result.returncode != 0
    assert result.stderr.split(b"ERROR: ")[1:] == [b"CRC Failed : lost\n"]
    assert {name: (tmp_path / name).read_bytes() for name, _ in SURVIVORS} == dict(SURVIVORS)


def test_a_lost_entry_stops_javas_streaming_reader(broken, java):
    result = java("stream", broken)
    assert result.returncode != 0
    assert b"invalid entry CRC" in result.stderr
    assert result.stdout.decode().splitlines() == java_lines(SURVIVORS[:1])


def huge_pieces(layout: Layout, size: int) -> Iterable[Piece]:
    """One entry of zeros, followed by a small one."""
    chunk = bytes(1 << 20)
    crc = 0
    for _ in range(size >> 20 if layout is Layout.KNOWN else 0):
        crc = zlib.crc32(chunk, crc)
    known = {Layout.KNOWN: (size, crc), Layout.SIZED: (size, None), Layout.OPEN: (None, None)}[layout]
    writer = ZipWriter()
    opened = writer.begin(Entry("huge", *known, modified=DATE))
    for _ in range(size >> 20):
        yield from opened.data(chunk)
    yield from opened.finish()
    yield from writer.whole(Entry("after", modified=DATE), b"after")
    yield from writer.end()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("layout", list(Layout), ids=lambda layout: layout.value)
def test_every_reader_takes_an_entry_of_over_4_gib(layout, tmp_path, run, java):
    path = tmp_path / "huge.zip"
    with path.open("wb") as file:
        for piece in huge_pieces(layout, (1 << 32) + (1 << 20)):
            if len(piece) > 1 << 12 and not any(piece[:: 1 << 12]):
                file.seek(len(piece), os.SEEK_CUR)  # a hole; all long pieces but the directory's are zeros
            else:
                file.write(piece)
    assert run("unzip", "-tq", path).returncode == 0
    assert run("7z", "t", path).returncode == 0
    assert run("bsdtar", "-xOf", path, "after").stdout == b"after"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    for mode in ("seek", "stream"):
        result = java(mode, path)
        assert (result.returncode, result.stderr) == (0, b"")
    piped = run("bsdtar", "-xOf", "-", "after", piped=path)
    assert (piped.returncode, piped.stdout) == (0, b"after")
