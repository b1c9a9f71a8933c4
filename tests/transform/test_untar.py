from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from circe_client import Job
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_transform.box import names
from gateway_transform.box.codes import Refused
from gateway_transform.box.untar import Caps, Facts, Unpacked, members, unpack
from tests.transform.tar_bytes import END, GNU, POSIX, file, folder, gz, header, long_name, octal, pax

CAPS = Caps(unpacked_bytes=64 << 20, files=1000)
TREE = {
    "job.json": b"{}",
    "notes.txt": b"text\n" * 300,
    "caf\u00e9 \u6587.txt": b"unicode",
    "empty": b"",
    "a/b/c/deep.bin": bytes(range(256)) * 40,
    "a/" + "long-" * 30 + "name.txt": b"long",
    "/".join(["folder-with-a-name"] * 9) + "/far.txt": b"far",
}


def unpacked(data: bytes, folder: Path, caps: Caps = CAPS) -> Unpacked:
    fd = os.open(folder, os.O_RDONLY)
    try:
        return unpack(io.BytesIO(data), fd, caps)
    finally:
        os.close(fd)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tree(tmp_path) -> Path:
    """The files of TREE in a folder of their own."""
    base = tmp_path / "tree"
    for name, data in TREE.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return base


def without_long_names(tree: Path, *, at_most: int) -> dict[str, bytes]:
    """Take away what the format cannot hold; the files that are left."""
    for name in TREE:
        if len(name) > at_most:
            (tree / name).unlink()
    for path in sorted(tree.rglob("*"), reverse=True):
        if path.is_dir() and not list(path.iterdir()):
            path.rmdir()
    return files_below(tree)


LONGEST = {tarfile.USTAR_FORMAT: 100, "v7": 90, "ustar": 100}


@pytest.fixture
def inside(tmp_path) -> Path:
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("root", ["", ".", "./."])
def test_archives_of_python_are_taken(form, root, tree, inside):
    expected = without_long_names(tree, at_most=LONGEST.get(form, 1000))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=form) as tar:
        tar.add(tree, arcname=root)
    unpacked(packed.getvalue(), inside)
    assert files_below(inside) == expected


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "pax"])
def test_archives_of_gnu_tar_are_taken(form, tree, inside):
    if shutil.which("tar") is None:
        pytest.skip("no tar here")
    expected = without_long_names(tree, at_most=LONGEST.get(form, 1000))
    command = ["tar", f"--format={form}", "-czf", "-", "-C", tree, "."]
    unpacked(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout, inside)
    assert files_below(inside) == expected


@pytest.mark.parametrize("form", ["ustar", "gnutar", "pax", "paxr"])
def test_archives_of_bsdtar_are_taken(form, tree, inside):
    if shutil.which("bsdtar") is None:
        pytest.skip("no bsdtar here")
    expected = without_long_names(tree, at_most=LONGEST.get(form, 1000))
    command = ["bsdtar", "--format", form, "-czf", "-", "-C", tree, "."]
    packed = subprocess.run(command, capture_output=True, check=True, timeout=30, env={"LC_ALL": "C.UTF-8"}).stdout
    unpacked(packed, inside)
    assert files_below(inside) == expected


def test_archives_of_git_are_taken(tree, inside):
    if shutil.which("git") is None:
        pytest.skip("no git here")
    author = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", tree, *command], check=True, timeout=30)
    command = ["git", "-C", tree, "archive", "--format=tar.gz", "HEAD"]
    unpacked(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout, inside)
    assert files_below(inside) == TREE


def test_archives_of_the_circe_client_are_taken(tree, inside):
    job = Job()
    for name in TREE:
        if name != "job.json":
            job.add_file(str(tree / name), name)
    data = Path(job.add_transformation("noop").make_archive()).read_bytes()
    found = unpacked(data, inside)
    assert {name: facts.size for name, facts in found.files.items() if name != "job.json"} == {
        name: len(data) for name, data in TREE.items() if name != "job.json"
    }


def test_size_and_digest_of_every_file_are_told(inside):
    found = unpacked(gz(file(b"a", b"aa"), folder(b"d"), file(b"d/b", b""), END), inside)
    assert found == Unpacked(
        {"a": Facts(2, hashlib.sha256(b"aa").hexdigest()), "d/b": Facts(0, hashlib.sha256(b"").hexdigest())}, 2
    )


def test_modes_are_ours(inside):
    unpacked(gz(file(b"a", mode=0o777), header(b"d/", kind=b"5", mode=0o2775), END), inside)
    assert (inside / "a").stat().st_mode & 0o7777 == 0o600
    assert (inside / "d").stat().st_mode & 0o7777 == 0o700


def test_long_name_of_gnu_and_path_of_pax_replace_the_name(inside):
    name = "n" * 150
    unpacked(gz(long_name(name.encode()), file(b"short"), pax((b"path", b"p/q")), file(b"other"), END), inside)
    assert set(files_below(inside)) == {name, "p/q"}


def test_prefix_counts_in_posix_headers_only(inside):
    unpacked(gz(file(b"a", prefix=b"d"), file(b"b", prefix=b"times", magic=GNU), END), inside)
    assert set(files_below(inside)) == {"d/a", "b"}


def test_size_in_base_256_and_in_pax_are_read(inside):
    in_256 = header(b"a", b"\x80" + (3).to_bytes(11)) + b"aaa".ljust(512, b"\0")
    in_pax = pax((b"size", b"2")) + header(b"b") + b"bb".ljust(512, b"\0")
    unpacked(gz(in_256, in_pax, END), inside)
    assert files_below(inside) == {"a": b"aaa", "b": b"bb"}


def test_harmless_pax_keys_are_passed_over(inside):
    keys = [b"mtime", b"comment", b"SCHILY.xattr.user.x", b"LIBARCHIVE.creationtime", b"hdrcharset"]
    unpacked(gz(pax(*[(key, b"1\n=2") for key in keys]), file(b"a"), pax((b"comment", b"c"), kind=b"g"), END), inside)
    assert set(files_below(inside)) == {"a"}


def test_members_are_told_in_order_and_may_be_left_unread():
    data = gz(folder(b"./"), file(b"./a", b"a" * 2000), folder(b"d"), file(b"d/b", b"bb"), END)
    seen = []
    for member in members(io.BytesIO(data), CAPS):
        seen.append((member.path, member.is_dir, member.size))
        if member.path == "d/b":
            assert b"".join(member.chunks) == b"bb"
    assert seen == [("a", False, 2000), ("d", True, 0), ("d/b", False, 2)]


def test_an_archive_without_members_is_sound(inside):
    assert unpacked(gz(END), inside) == Unpacked({}, 0)


def test_old_archives_without_magic_are_taken(inside):
    unpacked(gz(header(b"d/", kind=b"\0", magic=bytes(8)), file(b"d/f", kind=b"\0", magic=bytes(8)), END), inside)
    assert set(files_below(inside)) == {"d/f"}


def test_zeros_that_fill_the_last_record_of_a_pipe_are_let_pass(inside):
    unpacked(gz(file(b"a"), END) + bytes(9000), inside)
    assert set(files_below(inside)) == {"a"}


def test_stream_that_gives_few_bytes_at_a_time_is_read(inside):
    class Slow(io.BytesIO):
        def read(self, size: int = -1, /) -> bytes:
            return super().read(min(size, 3))

    fd = os.open(inside, os.O_RDONLY)
    unpack(Slow(gz(file(b"a", b"a" * 5000), END)), fd, CAPS)
    os.close(fd)
    assert files_below(inside) == {"a": b"a" * 5000}


PATHS = st.lists(
    st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=60).filter(
        lambda part: "/" not in part and "\\" not in part and part not in {".", ".."} and len(part.encode()) < 250
    ),
    min_size=1,
    max_size=5,
).map("/".join)


def clash(files: dict[str, bytes]) -> bool:
    """Whether a file stands where another needs a folder."""
    return any(name.startswith(other + "/") for name in files for other in files)


@settings(max_examples=80, deadline=None)
@given(
    files=st.dictionaries(PATHS, st.binary(max_size=1500), max_size=6),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_good_archives_give_what_tarfile_gives_or_are_refused_for_their_names(files, form):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=form, compresslevel=1) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tempfile.TemporaryDirectory() as place:
        whole = Caps(1 << 24, 100, fold=False)
        if any(name[1:2] == ":" and name[0].isascii() and name[0].isalpha() for name in files) or clash(files):
            with pytest.raises(Refused, match=r"drive_letter|file_and_folder"):
                unpacked(packed.getvalue(), Path(place), whole)
            return
        unpacked(packed.getvalue(), Path(place), whole)
        packed.seek(0)
        with tarfile.open(fileobj=packed) as tar:
            assert files_below(Path(place)) == {info.name: tar.extractfile(info).read() for info in tar}


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=600), magic=st.sampled_from([POSIX, GNU]), at=st.integers(0, 511), byte=st.integers(0, 255)
)
def test_no_damage_makes_anything_but_a_refusal_or_files_inside(data, magic, at, byte):
    block = bytearray(header(b"name", len(data), magic=magic))
    block[at] = byte
    block[148:156] = octal(sum(block) - sum(block[148:156]) + 8 * 32, 7) + b" "
    with tempfile.TemporaryDirectory() as place:
        inside = Path(place, "inside")
        inside.mkdir()
        with contextlib.suppress(Refused):
            unpacked(gz(bytes(block), data, bytes(-len(data) % 512), END), inside)
        assert [path.name for path in Path(place).iterdir()] == ["inside"]


@given(st.binary(max_size=300))
def test_checked_names_stay_below_their_folder(raw):
    try:
        path = names.checked(raw)
    except Refused:
        return
    assert os.path.normpath("/base/" + path) == ("/base/" + path if path else "/base")


@given(
    st.binary(min_size=1, max_size=80).filter(
        lambda raw: b"/" not in raw and b"\0" not in raw and raw not in {b".", b".."}
    )
)
def test_any_file_name_can_be_written_so_that_it_is_taken(raw):
    name = names.written(os.fsdecode(raw))
    assert names.checked(name.encode()) == name
