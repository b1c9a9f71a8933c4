"""kill -9 of a download at any moment: the end is bit-exact, and no finished block is fetched again."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway_blocks.get.journal import read_journal
from tests.blocks.get_notes import noise
from tests.blocks.get_serving import without_proxies
from tests.blocks.rd_stand import BLOCK, Fault, Stand, stand

BLOCKS = 96
JOBS, RUN_BYTES = 3, 4 * BLOCK
STEP_S = 0.0005
CLIENT = f"""
import sys
from pathlib import Path
from gateway_blocks.get import api
from gateway_blocks.get.model import Control, Options, Silent

class Told(Silent):
    def advanced(self, name, count_bytes):
        sys.stdout.write(".")
        sys.stdout.flush()

work = getattr(api, sys.argv[3])
work(sys.argv[1], Path(sys.argv[2]), options=Options(jobs={JOBS}, run_bytes={RUN_BYTES}), control=Control(Told()))
"""


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    without_proxies(monkeypatch)


@contextmanager
def client(url: str, out: Path, work: str = "download") -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", CLIENT, url, str(out), work]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def killed(url: str, out: Path, dice: random.Random, *, work: str = "download", most: int = BLOCKS) -> None:
    """Run the client until some blocks are there and a moment more, then kill it, if it is not through."""
    with client(url, out, work) as process:
        for _ in range(dice.randrange(most)):
            if not process.stdout.read(1):
                break
        threading.Event().wait(dice.uniform(0, 0.01))


def finished_blocks(out: Path) -> set[int]:
    if out.exists():
        return set(range(BLOCKS))
    record = read_journal(out.with_name(f"{out.name}.part.journal"))
    return set() if record is None else set(record.blocks)


def at_rest(server: Stand) -> None:
    """Wait until the server has counted all that the killed client got: it does so after it has sent a block."""
    for _ in range(1000):
        with server.changed:
            if not server.open_connections:
                return
        threading.Event().wait(0.01)
    raise TimeoutError("the killed client's connections are still open")


def let_hash(server: Stand, path: str, over: threading.Event) -> None:
    """The server hashes while it serves."""
    for block in range(BLOCKS):
        server.hashed(path, block)
        if over.wait(0.005):
            break
    server.hashed(path)


def campaign(server: Stand, folder: Path, seed: int) -> None:
    dice = random.Random(seed)
    data = noise((BLOCKS - 1) * BLOCK + dice.randint(1, BLOCK), seed)
    path, out = f"/{seed}", folder / str(seed)
    over = threading.Event()
    pending = set(range(BLOCKS)) if seed % 2 else set()
    url = server.put(path, data, pending=pending)
    hashing = threading.Thread(target=let_hash, args=(server, path, over))
    hashing.start()
    kills = dice.randint(1, 3)
    for _ in range(kills):
        killed(url, out, dice)
        finished = finished_blocks(out)
        at_rest(server)
        before = server.blocks_sent(path)
        with client(url, out) as process:
            assert process.stdout.read(1) or out.exists()
        again = server.blocks_sent(path) - before
        assert finished.isdisjoint(again), f"seed {seed}: fetched again"
    over.set()
    hashing.join()
    finished, before = finished_blocks(out), server.blocks_sent(path)
    with client(url, out) as process:
        assert process.wait(60) == 0
    assert out.read_bytes() == data, f"seed {seed}"
    assert finished.isdisjoint(server.blocks_sent(path) - before), f"seed {seed}: fetched again"
    assert {found.name for found in folder.iterdir() if found.name.startswith(out.name)} == {out.name}
    most = Counter(server.blocks_sent(path)).total() - BLOCKS
    assert most <= 2 * kills * JOBS * (RUN_BYTES // BLOCK), f"seed {seed}: more than what was on its way"


@pytest.fixture
def server() -> Iterator[Stand]:
    with stand() as server:
        server.fault = lambda _: Fault(step_s=STEP_S)
        yield server


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_download_is_gone_on_with(server, tmp_path, seed):
    campaign(server, tmp_path, seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_repair_never_spoils_a_good_block(server, tmp_path, seed):
    dice = random.Random(seed)
    data = noise(BLOCKS * BLOCK, seed)
    bad = sorted(dice.sample(range(BLOCKS), 20))
    local, path = bytearray(data), tmp_path / "local"
    for block in bad:
        local[block * BLOCK + 5] ^= 1
    path.write_bytes(local)
    url = server.put("/a", data)
    for _ in range(2):
        killed(url, path, dice, work="repair", most=22)
        found = path.read_bytes()
        differing = {
            at for at in range(BLOCKS) if found[at * BLOCK : (at + 1) * BLOCK] != data[at * BLOCK : (at + 1) * BLOCK]
        }
        assert differing <= set(bad)
    with client(url, path, "repair") as process:
        assert process.wait(60) == 0
    assert path.read_bytes() == data
    assert set(server.blocks_sent("/a")) == set(bad)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_killed_downloads_are_gone_on_with(server, tmp_path):
    for seed in range(100, 150):
        campaign(server, tmp_path, seed)
