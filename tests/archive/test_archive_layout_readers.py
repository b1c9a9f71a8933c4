"""Archives of known length, with what is hidden in them, read by the programs that people have."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from gateway_archive.layout.frozen import Frozen, FrozenEntry
from gateway_archive.layout.zip_layout import RESERVE, ZipLayout
from gateway_archive.report import REPORT_NAME, Failure, render_report
from gateway_archive.tickets import OnError
from gateway_archive.zip_writer import Piece

DATE = 1_700_000_000  # 2023-11-14T22:13:20Z, even, as DOS times are
BIG = bytes(range(256)) * 700

FILES = {
    "plain.txt": (True, b"stored as it is\n"),
    "empty.txt": (False, b""),
    "docs/": (False, b""),
    "docs/sized.bin": (False, BIG),
    "docs/one block": (False, b"x" * 65_535),
    "größe/日本語 \U0001f600.txt": (False, "Ünïcödé".encode()),
    "größe/known é": (True, BIG[:1000]),
    "last.bin": (False, b"last"),
}
LOST = ("docs/sized.bin", "größe/known é")
REPORT = render_report([Failure(name, "https://files.test/x", "gone", "gone: status 404") for name in LOST], packed=6)
ALL = [(name, data) for name, (_, data) in FILES.items()]
LEFT = [*((name, data) for name, data in ALL if name not in LOST), (REPORT_NAME, REPORT)]


def layout_of(on_error: OnError = OnError.REPORT) -> ZipLayout:
    entries = (
        FrozenEntry(item, name, len(data), zlib.crc32(data) if known else None, DATE)
        for item, (name, (known, data)) in enumerate(FILES.items())
    )
    return ZipLayout(Frozen(entries, created=DATE, on_error=on_error))


def pieces(layout: ZipLayout, *, lost: Collection[int] = (), report: bytes | None = None) -> Iterator[Piece]:
    """A lost entry breaks off a third into its data; zeros and a wrong CRC-32 follow."""
    crcs = [zlib.crc32(data) for _, data in ALL]
    for entry, (_, data) in enumerate(ALL):
        part = layout.part(entry, 0, layout.start(entry + 1) - layout.start(entry))
        kept = len(data) // 3 if entry in lost else len(data)
        yield part.lead
        yield from part.frame(data[:kept] + bytes(len(data) - kept))
        yield part.trail(crcs[entry])
    yield from layout.tail(crcs.__getitem__, lost=lost, report=report)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every layout, and a reserve for a report that nobody needed."""
    path = tmp_path_factory.mktemp("good") / "good.zip"
    path.write_bytes(b"".join(pieces(layout_of())))
    return path


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two entries lost in the middle, and a report on them."""
    path = tmp_path_factory.mktemp("broken") / "broken.zip"
    lost = [number for number, name in enumerate(FILES) if name in LOST]
    path.write_bytes(b"".join(pieces(layout_of(), lost=lost, report=REPORT)))
    return path


@pytest.fixture(scope="module")
def emptied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thousand entries lost between two: full hints, and zeros before the directory."""
    path = tmp_path_factory.mktemp("emptied") / "emptied.zip"
    entries = (FrozenEntry(item, f"{item:060}", 0, 0, DATE) for item in range(2000))
    layout = ZipLayout(Frozen(entries, created=DATE, on_error=OnError.SKIP))
    regions = [layout.part(item, 0, layout.start(item + 1) - layout.start(item)).lead for item in range(2000)]
    path.write_bytes(b"".join([*regions, *layout.tail(int, lost=range(1, 1999))]))
    assert path.read_bytes()[layout.tail_offset :].startswith(bytes(50_000))
    return path


def java_lines(files: list[tuple[str, bytes]]) -> list[str]:
    return [f"{name}\t{len(data)}\t{zlib.crc32(data):x}\t{DATE}" for name, data in files]


def test_both_have_the_length_that_was_promised(good, broken):
    assert good.stat().st_size == broken.stat().st_size == layout_of().total_bytes
    assert layout_of().total_bytes == layout_of(OnError.SKIP).total_bytes + RESERVE


@pytest.mark.parametrize("archive", ["good", "broken", "emptied"])
@pytest.mark.parametrize(
    "command", [("unzip", "-tq"), ("7z", "t"), ("bsdtar", "-tf"), ("bsdtar", "-xOf")], ids=lambda c: " ".join(c)
)
def test_seeking_programs_take_all(archive, command, request, run):
    result = run(*command, request.getfixturevalue(archive))
    assert (result.returncode, result.stderr) == (0, b"")


def test_7z_warns_of_nothing(good, broken, emptied, run):
    for archive in (good, broken, emptied):
        said = run("7z", "t", archive).stdout.decode()
        assert "Everything is Ok" in said
        for word in ("Warning", "WARNING", "Characteristics", "Error", "Tail Size", "Stub"):
            assert word not in said


@pytest.mark.parametrize(("archive", "files"), [("good", ALL), ("broken", LEFT)])
def test_unzip_lists_what_is_there_and_nothing_else(archive, files, request, run):
    path = request.getfixturevalue(archive)
    result = run("unzip", "-v", path)
    assert (result.returncode, result.stderr) == (0, b"")
    lines = result.stdout.decode().splitlines()
    assert lines[:2] == [f"Archive:  {path}", "Written by content-gateway"]
    assert [line.partition("  ")[2].split("  ")[-1] for line in lines[4:-2]] == [name for name, _ in files]
    assert lines[-1].endswith(f"{len(files)} files")


@pytest.mark.parametrize(("archive", "files"), [("good", ALL), ("broken", LEFT)])
def test_extraction_gives_what_is_there(archive, files, request, run, tmp_path):
    assert run("unzip", "-q", request.getfixturevalue(archive), "-d", tmp_path).returncode == 0
    seen = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert seen == {name: data for name, data in files if not name.endswith("/")}


def test_the_hint_is_all_that_tells_them_from_others(good, run):
    result = run("unzip", "-Z", "-v", good)
    assert result.returncode == 0
    report = result.stdout.decode()
    assert report.count(f"ID 0xa220 (unknown) and {RESERVE - 4} data bytes") == report.count("0xa220") == 1
    assert report.count("UTC/GMT modification time") == len(FILES)
    assert "minimum software version required to extract:   4.5" not in report


def test_bsdtar_lists_only_what_is_in_the_directory(broken, emptied, run):
    assert run("bsdtar", "-tf", broken).stdout.decode().splitlines() == [name for name, _ in LEFT]
    assert run("bsdtar", "-tf", emptied).stdout.decode().splitlines() == [f"{0:060}", f"{1999:060}"]


@pytest.mark.parametrize(("archive", "files"), [("good", ALL), ("broken", LEFT)])
def test_python_reads_what_is_there(archive, files, request):
    with zipfile.ZipFile(request.getfixturevalue(archive)) as read:
        assert [(info.filename, read.read(info)) for info in read.infolist()] == files
        assert read.comment == b"Written by content-gateway"


@pytest.mark.parametrize(("archive", "files"), [("good", ALL), pytest.param("broken", LEFT, marks=pytest.mark.slow)])
def test_java_reads_what_is_there(archive, files, request, java):
    result = java("seek", request.getfixturevalue(archive))
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().splitlines() == java_lines(files)


def test_streaming_readers_take_the_good_one(good, run, java):
    result = run("bsdtar", "-xOf", "-", piped=good)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == b"".join(data for _, data in ALL)
    result = java("stream", good)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().splitlines() == java_lines(ALL)


def test_7z_names_a_lost_first_entry_and_gives_the_others_and_the_report(run, tmp_path):
    path = tmp_path / "first.zip"
    path.write_bytes(b"".join(pieces(layout_of(), lost=[0], report=REPORT)))
    result = run("7z", "x", "-y", f"-o{tmp_path}", path)
    assert result.stderr.split(b"ERROR: ")[1:] == [b"CRC Failed : plain.txt\n"]
    for name, data in [*ALL[1:], (REPORT_NAME, REPORT)]:
        assert name.endswith("/") or (tmp_path / name).read_bytes() == data


def test_a_streaming_reader_names_what_is_lost_and_gives_the_others(broken, run, tmp_path):
    result = run("bsdtar", "-xf", "-", "-C", tmp_path, piped=broken)
    assert result.returncode != 0
    for name, data in LEFT:
        assert name.endswith("/") or (tmp_path / name).read_bytes() == data
    said = [line for line in result.stderr.decode().splitlines() if "ZIP bad CRC" in line]
    assert [line.partition(": ZIP")[0] for line in said] == list(LOST)


@pytest.mark.slow
def test_a_lost_entry_stops_javas_streaming_reader(broken, java):
    result = java("stream", broken)
    assert result.returncode != 0
    assert b"invalid entry CRC" in result.stderr
    assert result.stdout.decode().splitlines() == java_lines(ALL[:3])
