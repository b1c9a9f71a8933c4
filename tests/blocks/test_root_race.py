"""Names that change between a folder or file inside the root and a symlink to a secret, while they are opened."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway_blocks.files.root import OpenFile, OpenFolder, Root
from gateway_core import ConfigError, NotFound, Unavailable

INSIDE = b"inside" * 50
SECRET = b"a secret of another length"
OUTSIDE_NS = 1_000_000_000_000_000_000


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "root/real").mkdir(parents=True)
    (tmp_path / "root/real/file").write_bytes(INSIDE)
    (tmp_path / "root/file").write_bytes(INSIDE)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(SECRET)
    (tmp_path / "outside/only-outside").write_bytes(SECRET)
    for outside in ("outside", "outside/file", "outside/only-outside"):
        os.utime(tmp_path / outside, ns=(OUTSIDE_NS, OUTSIDE_NS))
    return tmp_path


@contextmanager
def swapping(name: Path, link: Path) -> Iterator[Callable[[], int]]:
    """What is at ``name`` and ``link`` change places for as long as the context lasts; gives how often they did."""
    parked = name.with_name("parked")
    done = threading.Event()
    made = 0

    def swap() -> None:
        nonlocal made
        while not done.is_set():
            os.rename(name, parked)
            os.rename(link, name)
            os.rename(name, link)
            os.rename(parked, name)
            made += 1

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield lambda: made
    finally:
        done.set()
        thread.join()


def opened_root(path: Path, level: str) -> Root:
    try:
        return Root(path, level=level)
    except ConfigError as error:
        pytest.skip(str(error))


def look(root: Root, names: tuple[str, ...]) -> bool:
    """Asks every entry point once; whether the file was there. Nothing from outside may show."""
    seen = False
    for way in (root.open, root.open_cached):
        try:
            opened = way(names)
        except (NotFound, Unavailable):
            continue
        if opened is not None:
            with opened:
                assert isinstance(opened, OpenFile)
                assert (opened.stat.st_size, os.pread(opened.fd, 1000, 0)) == (len(INSIDE), INSIDE)
                seen = True
    for folder in ((), names[:-1]):
        try:
            opened = root.open(folder)
        except (NotFound, Unavailable):
            continue
        with opened:
            assert isinstance(opened, OpenFolder)
            assert opened.stat.st_mtime_ns != OUTSIDE_NS
            for entry in opened.entries():
                assert entry.name in {"file", "real", "name", "parked", "link"}
                assert entry.folder or entry.size_bytes == len(INSIDE)
                assert entry.mtime_ns != OUTSIDE_NS
    return seen


@pytest.mark.parametrize("rounds", [500, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", ["relative", "absolute"])
@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("level", ["openat2", "walk"])
def test_nothing_from_outside_shows_while_names_change(world, level, kind, target, rounds):
    before = len(os.listdir("/proc/self/fd"))
    root = opened_root(world / "root", level)
    inside, outside = ("real", "outside") if kind == "folder" else ("file", "outside/file")
    (world / "root" / inside).rename(world / "root/name")
    (world / "root/link").symlink_to(world / outside if target == "absolute" else f"../{outside}")
    names = ("name", "file") if kind == "folder" else ("name",)
    outcomes = []
    with closing(root), swapping(world / "root/name", world / "root/link") as swaps:
        while len(outcomes) < rounds or swaps() < rounds or len(set(outcomes)) < 2:
            outcomes.append(look(root, names))
    assert set(outcomes) == {True, False}
    assert len(os.listdir("/proc/self/fd")) == before


def test_renames_elsewhere_do_not_disturb_a_link_inside(world):
    """The kernel gives up on `..` in a link whenever anything is renamed meanwhile (EAGAIN): it is asked again."""
    (world / "root/real/up").symlink_to("../real/" * 40 + "../file")  # long enough to be disturbed
    (world / "other").write_bytes(SECRET)
    with closing(opened_root(world / "root", "openat2")) as root:
        with swapping(world / "other", world / "outside/file") as swaps:
            opens = 0
            while opens < 3000 or swaps() < 300:
                root.open(("real", "up")).close()
                opens += 1
