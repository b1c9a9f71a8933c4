"""The unmodified client of reliable-download, rd 1.7: what it downloads is bit-exact, or it says that it failed."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway_core.testing.plugin import Serve
from gateway_core.testing.requirements import absent
from tests.blocks.conftest import BLOCK, MakeServed, Served
from tests.blocks.marked import Marked
from tests.blocks.processes import all_known, blocks_env
from tests.blocks.programs import run
from tests.blocks.relay import Exchange, relaying

MIB = 1 << 20


@dataclass(frozen=True)
class Downloaded:
    """How rd ended, what it printed, and where it puts the file."""

    code: int
    out: str
    path: Path

    def content(self) -> bytes | None:
        """What was downloaded, None when it failed: it may leave a part of the file then."""
        return self.path.read_bytes() if self.code == 0 else None


@dataclass(frozen=True)
class Rd:
    """The program; each ``into`` is a folder of its own, where it finds again what it got before."""

    program: str
    folder: Path

    async def __call__(self, url: str, *options: str, into: str = "rd", timeout_s: float = 60) -> Downloaded:
        home = self.folder / into
        home.mkdir(exist_ok=True)
        ran = await run(self.program, *options, url, cwd=home, timeout_s=timeout_s)
        return Downloaded(ran.code, ran.out, home / url.rpartition("/")[2])


@pytest.fixture
def rd(tmp_path: Path) -> Rd:
    spec = importlib.util.find_spec("rdclient")
    if spec is None or not spec.submodule_search_locations:
        absent("rd", "the package rd is not installed")
    return Rd(str(Path(spec.submodule_search_locations[0]) / "rd"), tmp_path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Whole downloads

SIZES = [pytest.param(64, id="64 MiB"), pytest.param(1024, id="1 GiB", marks=pytest.mark.slow)]


@pytest.mark.parametrize("size_mib", SIZES)
@pytest.mark.parametrize("mount", ["/files", pytest.param("/", marks=pytest.mark.slow)])
async def test_downloads_are_bit_exact_cold_and_warm(
    serve_process: Serve, rd: Rd, tmp_path: Path, mount: str, size_mib: int
):
    source = Marked(size_mib * MIB, MIB).write(tmp_path / "www" / "a.bin")
    truth = sha256(source)
    async with serve_process(env=blocks_env(tmp_path / "www", mount=mount)) as server:
        for kind in ("cold", "warm"):
            done = await rd(f"{server.url}{mount.rstrip('/')}/a.bin", into=kind)
            assert done.code == 0, done.out
            assert sha256(done.path) == truth
            done.path.unlink()


async def test_mounted_at_the_root_it_takes_the_place_of_rd_api(make_served: MakeServed, rd: Rd):
    data = os.urandom(20 * BLOCK + 1)
    async with make_served({"mount": "/"}) as served:
        served.put("folder/a.bin", data)
        for kind in ("cold", "warm"):
            assert (await rd(f"{served.url}/folder/a.bin", into=kind)).content() == data


@pytest.mark.parametrize("size_mib", SIZES)
async def test_blocks_are_downloaded_while_others_are_hashed(make_served: MakeServed, rd: Rd, size_mib: int):
    begun = asyncio.Event()

    async def before(exchange: Exchange) -> None:
        if exchange.path == "/files/a.bin":
            begun.set()
        elif relay.exchanges:  # it asks again, because blocks are pending
            async with asyncio.timeout(30):
                await begun.wait()

    async with make_served({"block_size": "1M", "hash_workers": 1}) as served, relaying(served.url) as relay:
        relay.before = before
        source = Marked(size_mib * MIB, MIB).write(served.root / "a.bin")
        done = await rd(f"{relay.url}/files/a.bin", timeout_s=120)
    assert done.code == 0, done.out
    assert sha256(done.path) == sha256(source)
    paths = [exchange.path for exchange in relay.exchanges]
    assert "/rd/files/a.bin" in paths[paths.index("/files/a.bin") :]


async def test_many_clients_with_many_connections_get_the_same(make_served: MakeServed, rd: Rd):
    data = os.urandom(40 * BLOCK + 1)
    async with make_served() as served:
        served.put("a.bin", data)
        url = f"{served.url}/files/a.bin"
        done = await asyncio.gather(*(rd(url, "-w", "20", into=f"rd-{number}") for number in range(6)))
    assert [one.code for one in done] == [0] * 6
    assert {one.content() for one in done} == {data}


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1], ids=["1", "block-1", "block", "block+1"])
async def test_any_size_arrives(served: Served, rd: Rd, size: int):
    data = os.urandom(size)
    served.put("a.bin", data)
    assert (await rd(f"{served.url}/files/a.bin")).content() == data


@pytest.mark.parametrize("name", ["sp ace", "ü.bin", "a.tar"])
async def test_names_arrive(served: Served, rd: Rd, name: str):
    data = os.urandom(3 * BLOCK)
    served.put(name, data)
    served.put(f"{name}.gz", b"a neighbour that rd must not be given, although it accepts gzip")
    assert (await rd(f"{served.url}/files/{name}")).content() == data


@pytest.mark.slow
async def test_a_download_goes_on_when_the_server_was_killed_and_started_again(
    serve_process: Serve, rd: Rd, tmp_path: Path
):
    source = Marked(64 * MIB, MIB).write(tmp_path / "www" / "a.bin")
    env = blocks_env(tmp_path / "www", hash_workers=1)
    begun = asyncio.Event()

    async def before(exchange: Exchange) -> None:
        if len(relay.of("/files/a.bin")) >= 3:
            begun.set()

    async with relaying() as relay:
        relay.before = before
        async with serve_process(env=env) as server:
            relay.server_url = server.url
            downloading = asyncio.create_task(rd(f"{relay.url}/files/a.bin"))
            async with asyncio.timeout(30):
                await begun.wait()
            server.send_signal(signal.SIGKILL)
            await server.wait()
        async with serve_process(env=env) as server:
            relay.server_url = server.url
            done = await downloading
    assert done.code == 0, done.out
    assert sha256(done.path) == sha256(source)


# What is not there


async def test_rd_shows_why_there_is_nothing(served: Served, rd: Rd):
    (served.root / "folder").mkdir()
    missing, folder = await rd(f"{served.url}/files/none"), await rd(f"{served.url}/files/folder")
    assert (missing.code, folder.code) == (1, 1)
    assert "Not found" in missing.out
    assert "this is a folder" in folder.out


async def test_a_file_that_is_deleted_meanwhile_is_no_download(served: Served, rd: Rd):
    """Once rd knows its blocks; while it waits for some it goes on asking, whatever the answer."""
    path = served.put("a.bin", os.urandom(8 * BLOCK))
    async with served.gateway.session() as session:
        await all_known(session, "/files/a.bin")
    done = await _disturbed(served, rd, path, path.unlink)
    assert done.code == 1
    assert "404" in done.out
    assert not done.path.exists()


# Files that change while they are downloaded


@dataclass(frozen=True)
class Change:
    """A way to put ``new_blocks`` blocks in the place of the file."""

    put: Callable[[Path, bytes], None]
    new_blocks: int


def renamed_over(path: Path, data: bytes) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(data)
    other.replace(path)


def rewritten(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


CHANGES = {
    "renamed over": Change(renamed_over, 8),
    "renamed over, shorter": Change(renamed_over, 5),
    "renamed over, longer": Change(renamed_over, 12),
    "rewritten": Change(rewritten, 8),
    "rewritten, shorter": Change(rewritten, 5),
    "rewritten, longer": Change(rewritten, 12),
}


async def _disturbed(served: Served, rd: Rd, path: Path, disturb: Callable[[], object]) -> Downloaded:
    """Download ``path`` and ``disturb`` when three of its blocks have been asked for."""
    blocks: list[Exchange] = []

    async def before(exchange: Exchange) -> None:
        if exchange.path.startswith("/files/"):
            blocks.append(exchange)
            if len(blocks) == 4:
                disturb()

    async with relaying(served.url) as relay:
        relay.before = before
        done = await rd(f"{relay.url}/files/{path.name}", "-r", "0", into=path.stem)
    assert len(blocks) >= 4
    return done


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
async def test_a_file_that_changes_meanwhile_never_ends_as_a_mix(make_served: MakeServed, rd: Rd, warm: bool):
    old_blocks = 8 if warm else 40  # of which rd knows but the first when the change comes
    old = os.urandom(old_blocks * BLOCK)

    async def one(served: Served, number: int, change: Change) -> tuple[object, object]:
        new = os.urandom(change.new_blocks * BLOCK * (old_blocks // 8))
        path = served.put(f"{number}.bin", old)
        if warm:
            async with served.gateway.session() as session:
                await all_known(session, f"/files/{path.name}")
        first = await _disturbed(served, rd, path, lambda: change.put(path, new))
        again = await rd(f"{served.url}/files/{path.name}", "-f", into=path.stem)
        names = {old: "old", new: "new", None: "nothing"}
        return names.get(first.content(), "a mix"), names.get(again.content(), "a mix")

    async with make_served() as served:
        found = await asyncio.gather(*(one(served, number, change) for number, change in enumerate(CHANGES.values())))
    outcomes = dict(zip(CHANGES, found, strict=True))
    assert {name: first for name, (first, _) in outcomes.items() if first not in {"old", "new", "nothing"}} == {}
    assert {name: again for name, (_, again) in outcomes.items() if again != "new"} == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_file_that_changes_all_the_time_never_ends_as_a_mix(served: Served, rd: Rd):
    versions = {data := os.urandom(20 * BLOCK)}
    path = served.put("a.bin", data)

    async def change() -> None:
        while True:
            await asyncio.sleep(random.uniform(0, 5))  # nothing is hashed within two seconds of a write
            data = os.urandom(random.randrange(1, 40 * BLOCK))
            versions.add(data)
            await asyncio.to_thread(random.choice([renamed_over, rewritten]), path, data)

    async def download(number: int) -> list[bytes]:
        done = [await rd(f"{served.url}/files/a.bin", "-r", "1", into=f"{number}-{turn}") for turn in range(8)]
        return [content for one in done if (content := one.content()) is not None]

    changing = asyncio.create_task(change())
    try:
        found = [content for whole in await asyncio.gather(*map(download, range(4))) for content in whole]
    finally:
        changing.cancel()
        await asyncio.wait([changing])
    assert found
    assert versions.issuperset(found)
