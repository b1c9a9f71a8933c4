"""Several sources of one file: any block from any of them, none from liars."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_blocks.get import api
from gateway_blocks.get.mirrors import Mirrors, Source
from gateway_blocks.get.model import Checked, Control, NotThere, Summary, Unreachable
from gateway_blocks.get.remote import Version
from gateway_blocks.get.session import Session
from tests.blocks.get_notes import Notes, noise, quick
from tests.blocks.get_serving import without_proxies
from tests.blocks.rd_stand import BLOCK, Fault, Stand, stand

DATA = noise(40 * BLOCK + 1234)
BLOCKS = 41


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    without_proxies(monkeypatch)


@pytest.fixture
def first() -> Iterator[Stand]:
    with stand() as server:
        yield server


@pytest.fixture
def mirror() -> Iterator[Stand]:
    with stand(checksums=False) as server:
        yield server


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def get(first: Stand, mirror: Stand, out: Path, notes: Notes | None = None, **changes) -> Summary:
    options = quick(mirrors=(mirror.url("/m/a"),), jobs=4, run_bytes=BLOCK, **changes)
    return api.download(first.url("/a"), out, options=options, control=(notes or Notes()).control)


def test_all_sources_are_used(first, mirror, out):
    first.put("/a", DATA)
    mirror.put("/m/a", DATA)
    first.fault = mirror.fault = lambda _: Fault(step_s=0.005)
    get(first, mirror, out)
    assert out.read_bytes() == DATA
    assert first.asked
    assert mirror.asked


def test_a_mirror_is_not_asked_for_the_etag_of_another_server(first, mirror, out):
    first.put("/a", DATA)
    mirror.put("/m/a", DATA, etag='"its own"')
    first.fault = lambda _: Fault(status=503)
    get(first, mirror, out)
    assert {asked.headers.get("if-match") for asked in mirror.asked} == {None}
    assert out.read_bytes() == DATA


def test_a_mirror_with_another_file_of_that_size_is_dropped(first, mirror, out):
    notes = Notes()
    first.put("/a", DATA)
    mirror.put("/m/a", noise(len(DATA), 5))
    first.fault = lambda _: Fault(step_s=0.002)
    get(first, mirror, out, notes)
    assert out.read_bytes() == DATA
    assert len(mirror.asked) <= 6
    assert any("not asked any more" in text for text in notes.remarks)


def test_damage_by_a_mirror_is_not_reported_to_the_first(first, mirror, out):
    first.put("/a", DATA)
    mirror.put("/m/a", noise(len(DATA), 5))
    get(first, mirror, out)
    assert first.reported == []


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x"])
def test_a_mirror_with_a_file_of_another_size_is_dropped(first, mirror, out, data):
    first.put("/a", DATA)
    mirror.put("/m/a", data)
    get(first, mirror, out)
    assert out.read_bytes() == DATA


def test_a_mirror_without_the_file_is_dropped(first, mirror, out):
    first.put("/a", DATA)
    get(first, mirror, out)
    assert out.read_bytes() == DATA


def test_a_first_server_that_only_tells_checksums_will_do(first, mirror, out):
    first.put("/a", DATA)
    mirror.put("/m/a", DATA)
    first.fault = lambda _: Fault(status=404)
    get(first, mirror, out)
    assert out.read_bytes() == DATA


def test_a_damaged_block_is_asked_for_elsewhere(first, mirror, out):
    first.put("/a", DATA)
    mirror.put("/m/a", DATA)
    first.fault = lambda _: Fault(corrupt=lambda _offset, piece: bytes(len(piece)))
    get(first, mirror, out)
    assert out.read_bytes() == DATA


def test_checksums_come_from_whoever_has_them(first, mirror, out):
    first.checksums, mirror.checksums = False, True
    first.put("/a", DATA)
    mirror.put("/m/a", DATA)
    assert get(first, mirror, out).checked is Checked.BLOCKS
    assert out.read_bytes() == DATA


def test_a_first_server_that_is_gone_is_done_without(mirror, out):
    mirror.checksums = True
    mirror.put("/m/a", DATA)
    with stand() as gone:
        url = gone.url("/a")
    options = quick(mirrors=(mirror.url("/m/a"),), tries=2)
    assert api.download(url, out, options=options).checked is Checked.BLOCKS
    assert out.read_bytes() == DATA


def test_nobody_has_the_file(first, mirror, out):
    with pytest.raises(NotThere, match="no such file"):
        get(first, mirror, out)


# -- choosing


def mirrors(*sources: Source) -> Mirrors:
    return Mirrors(sources, Session("http://h/a", "a", quick(), control=Control()))


def source(name: str) -> Source:
    return Source(f"http://{name}/a", lambda: Version(1))


def test_the_faster_source_is_asked_first():
    slow, fast = source("slow"), source("fast")
    it = mirrors(slow, fast)
    for one, rate in ((slow, 10), (fast, 1000)):
        it.choose(avoid=fast if one is slow else slow)
        it.release(one, rate, 1.0)
    assert it.choose() is fast


def test_a_source_of_unknown_rate_is_tried_by_one_thread_only():
    known, new = source("known"), source("new")
    it = mirrors(known, new)
    assert it.choose(avoid=new) is known
    it.release(known, 1000, 1.0)
    assert it.choose() is new
    assert it.choose() is known


def test_a_source_that_wants_a_pause_gets_it():
    busy, other = source("busy"), source("other")
    it = mirrors(busy, other)
    assert it.choose(avoid=other) is busy
    assert it.failed(busy, 30.0, asked=True) == 0.0
    assert it.choose() is other
    assert it.choose(avoid=other) is other


def test_a_thread_waits_where_there_is_no_other_source():
    only = source("only")
    assert mirrors(only).failed(only, 3.0, asked=False) == 3.0


def test_the_last_source_is_not_dropped_for_damage():
    only = source("only")
    it = mirrors(only)
    for _ in range(10):
        it.lied(only)
    assert it.choose() is only


def test_the_reason_of_the_last_source_is_told():
    only = source("only")
    it = mirrors(only)
    with pytest.raises(Unreachable, match="gone"):
        it.drop(only, Unreachable("gone"))
    with pytest.raises(Unreachable, match="gone"):
        it.choose()
