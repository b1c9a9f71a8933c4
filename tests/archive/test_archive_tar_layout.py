"""tar archives of known length: every range of bytes fits the whole, and the programs that people have read it."""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_archive.layout.frozen import Frozen, FrozenEntry
from gateway_archive.layout.tar_layout import TarLayout
from gateway_archive.report import REPORT_NAME, Failure
from gateway_archive.tickets import OnError

DATE = 1_700_000_000
FAILURES = [(8, Failure("lost.bin", "http://user:pw@a/lost?key=1", "gone", "gone: 404"))]
FILES = {
    "plain.txt": b"plain\n",
    "empty": b"",
    "folder/": b"",
    "folder/one block": b"x" * 512,
    "größe/日本語 \U0001f600.txt": bytes(range(256)) * 5,
    "n" * 100: b"longest name without a pax header",
    "n" * 101: b"shortest name with one",
    "é" * 100 + "/" + "e" * 250: b"long",
}

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/"), min_size=1)
entries = st.lists(
    st.tuples(names, st.sampled_from(["", "x" * 80, "ü" * 300]), st.binary(max_size=1500), st.booleans()), max_size=8
)


def layout_of(files: dict[str, bytes], *, on_error: OnError = OnError.REPORT, failed: bool = False) -> TarLayout:
    frozen = (FrozenEntry(item, name, len(data), modified=DATE) for item, (name, data) in enumerate(files.items()))
    return TarLayout(Frozen(frozen, created=DATE + 1, on_error=on_error, failures=FAILURES if failed else []))


def cut(layout: TarLayout, data: list[bytes], first: int, end: int) -> bytes:
    """Bytes ``first`` to ``end`` of the archive whose sources give ``data``."""
    found = []
    position = first
    while position < min(end, layout.tail_offset):
        entry = layout.locate(position)
        start, stop = layout.start(entry), min(end, layout.start(entry + 1))
        part = layout.part(entry, position - start, stop - start)
        source = data[entry][part.source_start : part.source_start + part.source_bytes]
        found += [part.lead, *part.frame(source), part.trail(0)]
        position = stop
    if end > layout.tail_offset:
        tail = b"".join(layout.tail(lambda _entry: 0))
        found.append(tail[position - layout.tail_offset : end - layout.tail_offset])
    return b"".join(map(bytes, found))


def whole(layout: TarLayout, files: dict[str, bytes]) -> bytes:
    return cut(layout, [*files.values()], 0, layout.total_bytes)


def read_back(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            member.name + "/" * member.isdir(): b"" if (file := tar.extractfile(member)) is None else file.read()
            for member in tar
        }


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tar") / "archive.tar"
    path.write_bytes(whole(layout_of(FILES, failed=True), FILES))
    return path


@given(entries, st.lists(st.integers(0, 40_000), max_size=6))
@settings(max_examples=30)
def test_the_ranges_between_any_cuts_make_up_an_archive_that_tarfile_reads(
    found: list[tuple[str, str, bytes, bool]], cuts: list[int]
):
    files = {
        f"{n}{name}{long}" + "/" * folder: data * (not folder) for n, (name, long, data, folder) in enumerate(found)
    }
    layout = layout_of(files)
    ends = sorted({min(cut, layout.total_bytes) for cut in cuts} | {layout.total_bytes})
    archive = b"".join(cut(layout, [*files.values()], first, end) for first, end in zip([0, *ends], ends, strict=False))
    assert (read_back(archive), len(archive)) == (files, layout.total_bytes)


@given(entries, st.integers(0, 20_000), st.integers(0, 600))
@settings(max_examples=30)
def test_any_range_is_that_of_the_whole(found: list[tuple[str, str, bytes, bool]], first: int, length: int):
    files = {f"{n}{name}{long}": data for n, (name, long, data, _) in enumerate(found)}
    layout = layout_of(files, failed=True)
    end = min(first + length, layout.total_bytes)
    assert cut(layout, [*files.values()], first, end) == whole(layout, files)[first:end]


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_programs_list_every_name_from_a_pipe(program, archive, run):
    result = run(program, "-t", "-f", "-", *(["--quoting-style=literal"] if program == "tar" else []), piped=archive)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().splitlines() == [*FILES, REPORT_NAME]


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_programs_extract_data_modes_and_dates(program, archive, tmp_path, run):
    result = run(program, "-x", "-f", archive, "-C", tmp_path, "--no-same-owner")
    assert (result.returncode, result.stderr) == (0, b"")
    for name, data in FILES.items():
        status = (tmp_path / name).stat()
        assert (int(status.st_mtime), oct(status.st_mode & 0o777)) == (DATE, "0o755" if name.endswith("/") else "0o644")
        assert name.endswith("/") or (tmp_path / name).read_bytes() == data


def test_the_report_is_the_last_entry_and_tells_what_is_missing():
    found = read_back(whole(layout_of({"a": b"1", "b/": b""}, failed=True), {"a": b"1", "b/": b""}))
    assert [*found] == ["a", "b/", REPORT_NAME]
    assert found[REPORT_NAME].decode().split("\r\n") == [
        "1 of 2 files could not be downloaded and are missing in this archive.",
        *("", "lost.bin", "    from http://a/lost", "    gone: 404", ""),
    ]


@pytest.mark.parametrize(("on_error", "failed"), [(OnError.REPORT, False), (OnError.SKIP, True), (OnError.ABORT, True)])
def test_there_is_no_report_when_nothing_is_missing_or_nobody_wants_it(on_error: OnError, *, failed: bool):
    assert [*read_back(whole(layout_of({"a": b"1"}, on_error=on_error, failed=failed), {"a": b"1"}))] == ["a"]


def test_a_long_report_comes_in_pieces():
    failures = [(n, Failure(f"{n}.bin", f"http://a/{n}", "gone", "gone: " + "x" * 1000)) for n in range(500)]
    layout = TarLayout(Frozen([], created=DATE, failures=failures))
    pieces = [*layout.tail(lambda _entry: 0)]
    assert max(map(len, pieces)) == 64 << 10
    assert sum(map(len, pieces)) == layout.total_bytes - layout.tail_offset


@pytest.mark.parametrize("modified", [None, -1000, 8**11 - 1, 8**11])
@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 1 << 62])
@pytest.mark.parametrize("name", ["plain", "größe", "n" * 200, "\udcff"])
def test_headers_are_as_long_as_they_were_counted_and_say_what_they_should(name: str, size: int, modified: int | None):
    layout = TarLayout(Frozen([FrozenEntry(0, name, size, modified=modified)], created=DATE))
    header_bytes = layout.start(1) - size - -size % 512
    part = layout.part(0, 0, header_bytes)
    with tarfile.open(fileobj=io.BytesIO(part.lead), mode="r:") as tar:
        info = tar.next()
    assert (len(part.lead), part.source_bytes) == (header_bytes, 0)
    assert info is not None
    assert (info.name, info.size, info.mtime) == (name, size, modified or 0)


@pytest.mark.parametrize("extra", range(12))
@pytest.mark.parametrize("length", [80, 480, 980, 9980])
def test_pax_records_count_their_own_length(length: int, extra: int):
    name = "é" + "n" * (length + extra)
    layout = TarLayout(Frozen([FrozenEntry(0, name, 0)], created=DATE))
    assert len(layout.part(0, 0, layout.tail_offset).lead) == layout.tail_offset


def test_the_padding_of_an_entry_can_be_had_alone():
    layout = layout_of({"a": b"123"})
    part = layout.part(0, 600, 1024)
    assert (part.lead, part.source_bytes, part.trail(0)) == (b"", 0, bytes(424))


@pytest.mark.parametrize(("first", "end"), [(-1, 5), (5, 4), (0, 1025)])
def test_a_part_must_lie_within_its_region(first: int, end: int):
    with pytest.raises(ValueError, match="of a region of 1024"):
        layout_of({"a": b"123"}).part(0, first, end)


@pytest.mark.parametrize("offset", [-1, 1024])
def test_what_is_outside_of_all_regions_is_in_none(offset: int):
    with pytest.raises(ValueError, match="of 1024"):
        layout_of({"a": b"123"}).locate(offset)


@pytest.mark.parametrize("wrong", [{"lost": [0]}, {"report": b"text"}])
def test_nothing_can_be_lost_later(wrong: dict[str, object]):
    layout = layout_of({"a": b"123"})
    with pytest.raises(ValueError, match="cannot leave out"):
        layout.tail(lambda _entry: 0, **wrong)


def test_ten_thousand_entries_are_laid_out_within_a_fifth_of_a_second():
    frozen = Frozen((FrozenEntry(n, f"größe/{n}.bin", n) for n in range(10_000)), created=DATE)
    clock = time.process_time()
    TarLayout(frozen)
    assert time.process_time() - clock < 0.2
