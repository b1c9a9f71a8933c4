from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_blocks.files import openat2
from gateway_blocks.files.identity import Identity
from gateway_blocks.files.paths import parse_path
from gateway_blocks.files.root import Entry, OpenFile, OpenFolder, Root, refusal
from gateway_core import ConfigError, Forbidden, GatewayError, NotFound, Unavailable
from gateway_core.errors import UriTooLong

SECRET = b"top secret, outside"
NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A root with all kinds of entries, secrets around it, and symlinks of all kinds towards them."""
    (tmp_path / "secret.txt").write_bytes(SECRET)
    for outside in ("outside", "root-evil"):
        (tmp_path / outside).mkdir()
        (tmp_path / outside / "secret.txt").write_bytes(SECRET)
    root = tmp_path / "root"
    (root / "inside/deep").mkdir(parents=True)
    (root / "plain.txt").write_bytes(b"plain")
    (root / "inside/deep/down.txt").write_bytes(b"down below")
    links = {
        "file-out": "../secret.txt",
        "file-out-absolute": tmp_path / "secret.txt",
        "plain.txt.gz": "../secret.txt",
        "folder-out": "../outside",
        "folder-out-absolute": tmp_path / "outside",
        "evil": "../root-evil",
        "parent": "..",
        "slash": "/",
        "up-and-back": "../root/plain.txt",
        "absolute-inside": root / "plain.txt",
        "through-a-link": "folder-out/secret.txt",
        "inside/deep/climber": "../../../secret.txt",
        "magic": "/proc/self/root",
        "magic-cwd": "/proc/self/cwd",
        "loop": "loop",
        "loop-a": "loop-b",
        "loop-b": "loop-a",
        "dangling": "nothing",
        "to-file": "inside/deep/down.txt",
        "to-folder": "inside/deep",
        "inside/to-plain": "../plain.txt",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    return root


@pytest.fixture(params=["openat2", "walk"])
def root(request: pytest.FixtureRequest, folder: Path) -> Iterator[Root]:
    with closing(opened_root(folder, request.param)) as root:
        yield root


def opened_root(path: Path, level: str) -> Root:
    try:
        return Root(path, level=level)
    except ConfigError as error:
        pytest.skip(str(error))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def content(opened: OpenFile | OpenFolder) -> bytes:
    assert isinstance(opened, OpenFile)
    return os.pread(opened.fd, 100, 0)


@contextmanager
def powerless() -> Iterator[None]:
    """Without the rights of root, where the tests have them: files of others are then closed to us."""
    mighty = os.geteuid() == 0
    if mighty:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if mighty:
            os.seteuid(0)


# Forms that a parser may take for a way out, then what the fixture's root holds that must not be opened.
TRAVERSALS = r"""
    ..  ../secret.txt  ../outside/secret.txt  ../root-evil/secret.txt  inside/../../secret.txt
    inside/deep/../../../secret.txt  ./../secret.txt  %2e%2e/secret.txt  %2E%2E/secret.txt  .%2e/secret.txt
    %2e./secret.txt  ..%2fsecret.txt  ..%2Fsecret.txt  %2e%2e%2fsecret.txt  inside%2f..%2f..%2fsecret.txt
    ..\secret.txt  ..%5csecret.txt  %2e%2e%5Csecret.txt  inside\..\..\secret.txt  %252e%252e/secret.txt
    %252e%252e%252fsecret.txt  ..%252fsecret.txt  %25252e%25252e/secret.txt  ..%c0%afsecret.txt
    %c0%ae%c0%ae/secret.txt  %e0%80%ae%e0%80%ae/secret.txt  ..%e0%80%afsecret.txt  ..%ef%bc%8fsecret.txt
    %ef%bc%8e%ef%bc%8e/secret.txt  ..%u2215secret.txt  ..%u002fsecret.txt  ....//secret.txt  .../secret.txt
    ....\/secret.txt  ..;/secret.txt  inside/..;/..;/secret.txt  ..%00/secret.txt  plain.txt%00  plain.txt%00.png
    ../secret.txt%00.png  /etc/passwd  //etc/passwd  %2fetc%2fpasswd  etc/passwd  file:///etc/passwd  ~root/.profile
    C:/Windows/win.ini  plain.txt::$DATA  plain.txt%0d%0aX-Header:1  plain.txt%20  plain.txt.  PLAIN.TXT
    -evil/secret.txt  ../root/plain.txt

    file-out  file-out-absolute  plain.txt.gz  folder-out/secret.txt  folder-out  folder-out/
    folder-out-absolute/secret.txt  evil/secret.txt  parent/secret.txt  parent/root/plain.txt  slash/etc/passwd
    up-and-back  absolute-inside  through-a-link  inside/deep/climber  to-folder/climber  magic/etc/passwd  magic
    magic-cwd/  loop  loop/plain.txt  loop-a  dangling  fifo  fifo/  plain.txt/  plain.txt/plain.txt  plain.txt/..
    to-file/  inside//deep/down.txt  inside/./deep/down.txt  nothing  nothing/
"""


@pytest.mark.parametrize("raw", TRAVERSALS.split())
def test_nothing_outside_and_no_special_file_is_opened(root, raw):
    before = descriptors()
    with pytest.raises(NotFound):
        ask(root, raw)
    assert descriptors() == before


def ask(root: Root, raw: str) -> OpenFile | OpenFolder:
    """As a request does: from the cache if that can tell, else for sure."""
    path = parse_path(raw)
    return root.open_cached(path.names, folder=path.folder) or root.open(path.names, folder=path.folder)


@pytest.mark.parametrize("raw", ["x" * 300, "inside/" + "%78" * 300 + "/y", "a/" * 2500 + "b"])
def test_names_longer_than_any_files_are_too_long(root, raw):
    with pytest.raises(UriTooLong):
        ask(root, raw)


def test_names_too_long_for_the_file_system_are_too_long(root):
    with pytest.raises(UriTooLong):
        root.open(("x" * 300,))


@pytest.mark.parametrize(
    "names",
    [
        ("..", "secret.txt"),
        ("inside", "..", "plain.txt"),
        ("../secret.txt",),
        ("inside/deep/down.txt",),
        ("/etc/passwd",),
        ("", "plain.txt"),
        ("inside", ""),
        (".",),
        ("plain.txt\0",),
        ("\ud800",),
    ],
)
def test_names_that_no_parser_checked_lead_nowhere(root, names):
    assert root.open_cached(names) is None
    with pytest.raises(NotFound):
        root.open(names)


ATOMS = """
    .. . / ../.. root inside deep plain.txt down.txt secret.txt outside parent slash folder-out to-folder to-file
    up-and-back magic evil loop etc passwd tmp
"""


@pytest.mark.parametrize("level", ["openat2", "walk"])
def test_no_mix_of_names_opens_anything_outside(tmp_path_factory, level, folder):
    inside = {os.stat(place).st_ino for place, _, _ in os.walk(folder)}
    inside |= {os.stat(folder / name).st_ino for name in ("plain.txt", "inside/deep/down.txt")}

    @given(names=st.lists(st.sampled_from(["", *ATOMS.split()]), max_size=6).map(tuple))
    @settings(max_examples=300)
    def nothing_escapes(names):
        for way in (root.open, root.open_cached):
            try:
                opened = way(names)
            except NotFound:
                continue
            if opened is not None:
                with opened:
                    assert opened.stat.st_ino in inside

    with closing(opened_root(folder, level)) as root:
        nothing_escapes()


def test_files_inside_are_opened(root):
    with ask(root, "plain.txt") as plain, ask(root, "inside/deep/down.txt") as down:
        assert (content(plain), content(down)) == (b"plain", b"down below")
        assert down.names == ("inside", "deep", "down.txt")
        assert plain.identity == Identity.of(os.stat(root.path / "plain.txt"))


@pytest.mark.parametrize("raw", ["", "inside", "inside/", "inside/deep/"])
def test_folders_are_opened_with_and_without_a_slash(root, raw):
    with ask(root, raw) as opened:
        assert isinstance(opened, OpenFolder)
        assert os.path.samestat(opened.stat, os.stat(root.path / raw))


def test_relative_symlinks_that_stay_inside_are_followed_by_the_kernel(folder):
    with closing(opened_root(folder, "openat2")) as root:
        for raw, expected in (
            ("to-file", b"down below"),
            ("to-folder/down.txt", b"down below"),
            ("inside/to-plain", b"plain"),
        ):
            with ask(root, raw) as opened:
                assert content(opened) == expected
        with ask(root, "to-folder/") as opened:
            assert isinstance(opened, OpenFolder)


@pytest.mark.parametrize("raw", ["to-file", "to-folder", "to-folder/down.txt", "inside/to-plain"])
def test_a_walk_refuses_every_symlink(folder, raw):
    with closing(Root(folder, level="walk")) as root, pytest.raises(NotFound):
        ask(root, raw)


@pytest.mark.parametrize("level", ["openat2", "walk"])
def test_magic_links_of_procfs_are_refused(level):
    with open(__file__) as mine, closing(opened_root(Path("/proc/self"), level)) as root:
        with ask(root, "status") as status:
            assert content(status).startswith(b"Name:")
        for raw in ("exe", "root/etc/passwd", "root/", "cwd/", f"fd/{mine.fileno()}", "ns/mnt"):
            with pytest.raises(NotFound):
                ask(root, raw)


def test_sockets_are_no_files(root, monkeypatch):
    monkeypatch.chdir(root.path)  # their paths have at most 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(NotFound):
            ask(root, "socket")


def test_devices_are_no_files(root):
    if os.statvfs(root.path).f_flag & os.ST_NODEV:
        pytest.skip("the file system has no devices")
    try:
        os.mknod(root.path / "null", 0o20666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device takes the rights of root")
    with pytest.raises(NotFound):
        ask(root, "null")


def test_what_the_process_may_not_read_is_forbidden(root):
    os.chmod(root.path, 0o755)
    (root.path / "closed").mkdir()
    (root.path / "closed/known.txt").write_bytes(b"known")
    os.chmod(root.path / "plain.txt", 0)
    os.chmod(root.path / "closed", 0o311)
    os.chmod(root.path / "inside", 0)
    with powerless():
        for raw in ("plain.txt", "closed/", "inside/", "inside/deep/down.txt"):
            with pytest.raises(Forbidden):
                ask(root, raw)
        with ask(root, "closed/known.txt") as known, ask(root, "") as top:
            assert content(known) == b"known"
            assert not {"plain.txt", "closed", "inside"} & {entry.name for entry in top.entries()}


def test_a_listing_holds_what_would_be_opened_and_nothing_else(root):
    os.utime(root.path / "plain.txt", ns=(0, 1_234_567_890_123_456_789))
    plain = Identity.of(os.stat(root.path / "plain.txt"))
    with ask(root, "") as top:
        entries = top.entries()
    for entry in entries:
        ask(root, entry.name + "/" * entry.folder).close()
    by_kernel = ["inside", "to-folder", "plain.txt", "to-file"]
    assert [entry.name for entry in entries] == (by_kernel if root.level == "openat2" else ["inside", "plain.txt"])
    assert Entry("plain.txt", False, 5, 1_234_567_890_123_456_789, identity=plain) in entries
    assert Entry("inside", True, 0, os.stat(root.path / "inside").st_mtime_ns) in entries


def test_a_listing_of_a_subfolder_follows_links_as_far_as_the_root(folder):
    with closing(opened_root(folder, "openat2")) as root, ask(root, "inside/") as inside:
        assert [(entry.name, entry.folder, entry.size_bytes) for entry in inside.entries()] == [
            ("deep", True, 0),
            ("to-plain", False, 5),
        ]


def test_a_listing_is_sorted_without_case_and_names_what_is_no_utf8(tmp_path):
    for name in (b"b.txt", b"A.txt", b"\xff.txt", b"c.txt"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"x")
    (tmp_path / "z").mkdir()
    with closing(Root(tmp_path)) as root, root.open(()) as top:
        assert [entry.name for entry in top.entries()] == ["z", "A.txt", "b.txt", "c.txt", "\udcff.txt"]
        assert len(top.entries()) == 5, "a second listing of the same folder"
        root.open(("\udcff.txt",)).close()


def test_warm_files_come_from_the_cache(folder):
    with closing(opened_root(folder, "openat2")) as root:
        if not openat2.caches(root._fd):
            pytest.skip("Linux before 5.12, or a file system that asks somebody")
        with root.open_cached(("inside", "deep", "down.txt")) as file, root.open_cached(()) as top:
            assert content(file) == b"down below"
            assert isinstance(top, OpenFolder)


def test_what_the_file_system_must_be_asked_for_is_left_to_open(folder):
    if os.statvfs(folder).f_flag & (os.ST_NOATIME | os.ST_RDONLY):
        pytest.skip("the first use of a symlink need not be written down here")
    os.utime(folder / "to-file", (0, 0), follow_symlinks=False)
    with closing(opened_root(folder, "openat2")) as root:
        assert root.open_cached(("to-file",)) is None
        root.open(("to-file",)).close()
        if openat2.caches(root._fd):
            root.open_cached(("to-file",)).close()


@pytest.mark.parametrize("names", [("fifo",), ("nothing",), ("file-out",), ("inside", "nothing"), ("x" * 300,)])
def test_the_cache_leaves_refusals_to_open(root, names):
    before = descriptors()
    assert root.open_cached(names) is None
    assert descriptors() == before


def test_the_cache_is_not_used_where_an_open_may_wait(folder):
    with closing(Root(folder, level="walk")) as walk, closing(Root(Path("/proc/self"))) as strange:
        assert walk.open_cached(("plain.txt",)) is None
        assert strange.open_cached(("status",)) is None


def test_without_descriptors_it_is_unavailable_even_for_a_listing(root):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ask(root, "") as top, ask(root, "plain.txt") as plain:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            for attempt in (lambda: ask(root, "plain.txt"), top.entries, plain.dup):
                with pytest.raises(Unavailable):
                    attempt()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_listing_that_runs_out_of_descriptors_halfway_is_no_listing(root):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ask(root, "") as top:
        with ask(root, "") as probe:
            lowest = probe.fd
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))  # enough to read the names, not to open them
        try:
            with pytest.raises(Unavailable):
                top.entries()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_that_another_holds_a_lease_on_is_unavailable_for_now(root):
    heard = signal.signal(signal.SIGIO, signal.SIG_IGN)  # tells the holder that its lease is asked back
    try:
        with open(root.path / "plain.txt", "r+b") as holder:
            try:
                fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            except OSError as error:
                pytest.skip(f"no leases here: {error}")
            with pytest.raises(Unavailable):
                ask(root, "plain.txt")
        ask(root, "plain.txt").close()
    finally:
        signal.signal(signal.SIGIO, heard)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EXDEV, NotFound), (errno.ESTALE, Unavailable), (errno.EIO, Unavailable), (errno.EPERM, Forbidden)],
)
def test_every_error_of_the_system_has_an_answer(code, kind):
    assert type(refusal(OSError(code, "it"))) is kind


def test_a_file_is_held_as_it_was_opened_when_it_is_replaced(root):
    with ask(root, "plain.txt") as opened:
        (root.path / "other").write_bytes(b"other")
        (root.path / "other").rename(root.path / "plain.txt")
        assert content(opened) == b"plain"
        with ask(root, "plain.txt") as now:
            assert now.identity != opened.identity


def test_a_duplicate_outlives_the_file_it_was_made_of(root):
    before = descriptors()
    with ask(root, "plain.txt") as opened:
        copy = opened.dup()
    assert (opened.fd, content(copy), copy.identity) == (-1, b"plain", opened.identity)
    assert not os.get_inheritable(copy.fd)
    copy.close()
    copy.close()
    assert descriptors() == before


def test_an_open_file_that_nobody_waits_for_any_more_is_closed(root):
    before = descriptors()
    ask(root, "plain.txt")
    ask(root, "")
    assert descriptors() == before


@pytest.mark.parametrize("name", ["nothing", "plain.txt", "fifo", "loop"])
def test_a_root_that_is_no_folder_is_named_with_its_setting(folder, name):
    with pytest.raises(ConfigError, match="BLOCKS__ROOT"):
        Root(folder / name)


def test_a_root_that_cannot_be_read_is_named_with_its_setting(folder):
    os.chmod(folder, 0)
    with powerless(), pytest.raises(ConfigError, match="BLOCKS__ROOT"):
        Root(folder)


def test_a_closed_root_opens_nothing(root):
    root.close()
    with pytest.raises(GatewayError):
        root.open(("plain.txt",))


def test_a_folder_that_moved_out_is_listed_by_what_the_root_still_has(root):
    with ask(root, "inside/") as inside:
        (root.path / "inside").rename(root.path.parent / "taken")
        (root.path.parent / "taken/secret.txt").write_bytes(SECRET)
        assert inside.entries() == []
