"""Clients that know nothing of us, and the open formats that they verify with: Metalink, torrents, digests, lists."""

from __future__ import annotations

import hashlib
import os
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from gateway_core.testing.curl import curl
from gateway_core.testing.requirements import require_program
from tests.blocks.conftest import BLOCK, MakeServed, Served
from tests.blocks.marked import Marked
from tests.blocks.processes import all_known, asked
from tests.blocks.programs import Ran, run
from tests.blocks.relay import Relay, relaying

MIB = 1 << 20
DATA = os.urandom(16 * BLOCK + 1000)
LAST = len(DATA) // BLOCK * BLOCK
SMALL_BUFFERS = "--socket-recv-buffer-size=16384"
"""What is on its way when aria2c gives up a connection is not what it asks for twice."""
META = "{urn:ietf:params:xml:ns:metalink}"

ALONE = (
    "--no-conf",
    "--interface=127.0.0.1",
    "--disable-ipv6",
    "--enable-dht=false",
    "--enable-dht6=false",
    "--enable-peer-exchange=false",
    "--bt-enable-lpd=false",
    "--seed-time=0",
    "--bt-stop-timeout=20",
    "--stop=45",
)
"""aria2c with nobody but the server."""


async def aria2c(*arguments: str, into: Path) -> Ran:
    """Run aria2c with what it fetches in ``into``; Metalinks and torrents are followed and not kept."""
    program = require_program("aria2c")
    into.mkdir(exist_ok=True)
    follow = ("--follow-metalink=mem", "--follow-torrent=mem", "--file-allocation=none")
    return await run(program, *ALONE, *follow, "--enable-color=false", "--summary-interval=0", *arguments, cwd=into)


async def wget2(*arguments: str, into: Path) -> Ran:
    """Run wget2 with what it fetches in ``into``."""
    program = require_program("wget2")
    into.mkdir(exist_ok=True)
    return await run(program, *arguments, cwd=into)


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    async with relaying() as found:
        yield found


@pytest.fixture
async def behind(make_served: MakeServed, relay: Relay) -> AsyncIterator[Served]:
    """A server that clients reach through ``relay``, where ``a.bin`` with DATA is."""
    async with make_served(public_url=relay.url) as served:  # wget2 1.99 leaves the port out of Host
        relay.server_url = served.url
        served.put("a.bin", DATA)
        yield served


async def whole_known(served: Served, path: str) -> str:
    """Wait until the digest of the whole file is told; gives SHA256SUMS of its folder."""
    async with served.gateway.session() as session:
        async with session.get(f"{path.rpartition('/')[0]}/SHA256SUMS") as answer:
            return await answer.text()


def damaged(*offsets: int) -> bytes:
    """DATA with these bytes changed."""
    data = bytearray(DATA)
    for offset in offsets:
        data[offset] ^= 0xFF
    return bytes(data)


# aria2c with Metalinks


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_aria2c_downloads_with_a_metalink(behind: Served, relay: Relay, tmp_path: Path, warm: bool):
    if warm:
        async with behind.gateway.session() as session:
            await all_known(session, "/files/a.bin")
    done = await aria2c("-x4", "-s4", "-k1M", f"{relay.url}/files/a.bin.meta4", into=tmp_path / "got")
    assert done.code == 0, done.out
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["a.bin"]
    assert (tmp_path / "got" / "a.bin").read_bytes() == DATA


async def test_a_metalink_comes_while_the_file_is_hashed(make_served: MakeServed, tmp_path: Path):
    file = Marked(256 * MIB, MIB)
    async with make_served({"block_size": "1M", "hash_workers": 1}) as served, served.gateway.session() as session:
        file.write(served.root / "a.bin")
        async with session.get("/files/a.bin.meta4") as answer:
            text = await answer.content.readuntil(b"</hash>")
            state = await asked(session, "/files/a.bin")
            text += await answer.content.read()
    assert state["hashed_blocks"] < file.count
    pieces = ET.fromstring(text).findall(f"{META}file/{META}pieces/{META}hash")
    assert [piece.text for piece in pieces] == file.sha1s()


async def test_aria2c_downloads_while_the_file_is_hashed(make_served: MakeServed, relay: Relay, tmp_path: Path):
    async with make_served({"block_size": "1M", "hash_workers": 1}) as served:
        relay.server_url = served.url
        source = Marked(64 * MIB, MIB).write(served.root / "a.bin")
        done = await aria2c("-x4", "-s4", f"{relay.url}/files/a.bin.meta4", into=tmp_path / "got")
    assert done.code == 0, done.out
    assert (tmp_path / "got" / "a.bin").read_bytes() == source.read_bytes()


async def test_aria2c_fetches_only_the_bad_piece_again(make_served: MakeServed, relay: Relay, tmp_path: Path):
    data = os.urandom(8 * MIB)
    async with make_served({"block_size": "1M"}) as served:
        relay.server_url = served.url
        served.put("a.bin", data)
        relay.flip("/files/a.bin", 3 * MIB + 77)
        done = await aria2c("-x1", "-s1", SMALL_BUFFERS, f"{relay.url}/files/a.bin.meta4", into=tmp_path / "got")
    assert done.code == 0, done.out
    assert relay.flips_left == 0
    assert (tmp_path / "got" / "a.bin").read_bytes() == data
    assert [exchange.first_byte for exchange in relay.of("/files/a.bin")] == [0, 3 * MIB]
    assert relay.sent_bytes("/files/a.bin") < len(data) + 2 * MIB  # not twice: what was on its way at that moment


async def test_aria2c_repairs_only_the_bad_pieces_of_a_local_file(behind: Served, relay: Relay, tmp_path: Path):
    local = tmp_path / "got" / "a.bin"
    local.parent.mkdir()
    local.write_bytes(damaged(3 * BLOCK + 5, LAST + 5))
    done = await aria2c("-V", f"{relay.url}/files/a.bin.meta4", into=local.parent)
    assert done.code == 0, done.out
    assert local.read_bytes() == DATA
    assert relay.sent_bytes("/files/a.bin") == BLOCK + 1000


async def test_aria2c_downloads_a_folder(behind: Served, relay: Relay, tmp_path: Path):
    truth = {"x.bin": DATA, "sub/ü y.bin": DATA[1:], "sub/deep/z.bin": b"z", "sub/empty": b""}
    for name, data in truth.items():
        behind.put(f"folder/{name}", data)
    done = await aria2c(f"{relay.url}/files/folder/.meta4", into=tmp_path / "got")
    assert done.code == 0, done.out
    files = [path for path in (tmp_path / "got").rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path / "got")): path.read_bytes() for path in files} == truth


async def test_aria2c_finds_damage_with_the_digest_field_alone(behind: Served, relay: Relay, tmp_path: Path):
    await whole_known(behind, "/files/a.bin")
    relay.flip("/files/a.bin", 5 * BLOCK)
    bad = await aria2c(f"{relay.url}/files/a.bin", into=tmp_path / "bad")
    good = await aria2c(f"{relay.url}/files/a.bin", into=tmp_path / "good")
    assert (bad.code, good.code) == (32, 0)  # aria2c(1), EXIT STATUS: checksum validation failed


# A torrent


async def test_a_torrent_is_downloaded_from_its_web_seed_and_verified(behind: Served, relay: Relay, tmp_path: Path):
    relay.flip("/files/a.bin", 5 * BLOCK + 77)
    done = await aria2c(SMALL_BUFFERS, f"{relay.url}/files/a.bin.torrent", into=tmp_path / "got")
    assert done.code == 0, done.out
    assert relay.flips_left == 0
    assert (tmp_path / "got" / "a.bin").read_bytes() == DATA
    assert [exchange.first_byte for exchange in relay.of("/files/a.bin")] == [0, 5 * BLOCK]


# wget2 with Metalinks: it verifies where the digest of the whole file is told


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_wget2_fetches_only_the_bad_piece_again(behind: Served, relay: Relay, tmp_path: Path, warm: bool):
    if warm:
        await whole_known(behind, "/files/a.bin")
    relay.flip("/files/a.bin", 5 * BLOCK + 77)
    done = await wget2("--metalink", f"{relay.url}/files/a.bin.meta4", into=tmp_path / "got")
    assert done.code == 0, done.out
    assert (tmp_path / "got" / "a.bin").read_bytes() == DATA
    assert relay.flips_left == 0
    assert relay.sent_bytes("/files/a.bin") == len(DATA) + BLOCK


async def test_wget2_repairs_only_the_bad_pieces_of_a_local_file(behind: Served, relay: Relay, tmp_path: Path):
    await whole_known(behind, "/files/a.bin")
    local = tmp_path / "got" / "a.bin"
    local.parent.mkdir()
    local.write_bytes(damaged(3 * BLOCK + 5, LAST + 5))
    done = await wget2("--metalink", f"{relay.url}/files/a.bin.meta4", into=local.parent)
    assert done.code == 0, done.out
    assert local.read_bytes() == DATA
    assert relay.sent_bytes("/files/a.bin") == BLOCK + 1000


# Resuming

RESUMING = {"curl": ("--disable", "--silent", "--show-error", "-O", "-C", "-"), "wget": ("--continue",)}


@pytest.mark.parametrize("program", RESUMING)
async def test_a_download_is_resumed(behind: Served, relay: Relay, tmp_path: Path, program: str):
    require_program(program)
    local = tmp_path / "got" / "a.bin"
    local.parent.mkdir()
    local.write_bytes(DATA[: 3 * BLOCK + 17])
    for sent in (len(DATA) - 3 * BLOCK - 17, 0):  # and once more, when nothing is missing
        done = await run(program, *RESUMING[program], f"{relay.url}/files/a.bin", cwd=local.parent)
        assert done.code == 0, done.out
        assert local.read_bytes() == DATA
        assert sum(exchange.sent_bytes for exchange in relay.exchanges if exchange.status == 206) == sent
        relay.exchanges.clear()


# A folder by its listing


async def test_wget_mirrors_what_a_listing_links_to(served: Served, tmp_path: Path):
    wget = require_program("wget")
    names = [
        "a.bin",
        "sp ace",
        "ü",
        "a&b",
        'q"uote',
        "lt<gt>",
        "hash#tag",
        "que?ry",
        "semi;colon",
        "sub/deep/z",
        "page.html",
    ]
    for name in names:
        served.put(name, name.encode() * 1000)
    (tmp_path / "got").mkdir()
    beside = "--reject=*SUMS,*.meta4,index.html*"
    options = ("--recursive", "--no-parent", "--no-host-directories", "--cut-dirs=1", beside, "--execute=robots=off")
    done = await run(wget, *options, f"{served.url}/files/", cwd=tmp_path / "got")
    assert done.code == 0, done.out
    files = [path for path in (tmp_path / "got").rglob("*") if path.is_file()]
    found = {str(path.relative_to(tmp_path / "got")): path.read_bytes() for path in files}
    assert found == {name: name.encode() * 1000 for name in names}


# Checksums


@pytest.mark.parametrize(("sums", "program"), [("SHA1SUMS", "sha1sum"), ("SHA256SUMS", "sha256sum")])
async def test_lists_of_checksums_verify_what_was_downloaded(served: Served, tmp_path: Path, sums: str, program: str):
    require_program(program)
    odd = ["-", "--help", "sp ace", "ü", "back\\slash", "line\nfeed", os.fsdecode(b"\xff\xfe"), "empty", "sub/z"]
    for name in odd:
        served.put(name, b"" if name == "empty" else name.encode(errors="surrogateescape") * BLOCK)
    shutil.copytree(served.root, tmp_path / "got")
    (tmp_path / "got" / sums).write_bytes((await curl(f"{served.url}/files/{sums}?recursive=1")).body)
    good = await run(program, "--strict", "--check", sums, cwd=tmp_path / "got")
    assert good.code == 0, good.out
    assert good.out.count(": OK\n") == len(odd)
    (tmp_path / "got" / "ü").write_bytes(b"\xc3\xbc" * (BLOCK - 1) + b"??")
    bad = await run(program, "--strict", "--check", sums, cwd=tmp_path / "got")
    assert (bad.code, bad.out.count(": FAILED\n")) == (1, 1)


@pytest.mark.parametrize("options", [(), ("--range", "5-100"), ("--head",)], ids=["whole", "range", "head"])
async def test_digest_fields_are_of_the_whole_file(served: Served, options: tuple[str, ...]):
    served.put("a.bin", DATA)
    await whole_known(served, "/files/a.bin")
    done = await curl(*options, f"{served.url}/files/a.bin")
    encoded = b64encode(hashlib.sha256(DATA).digest()).decode()
    lines = done.head.splitlines()
    assert f"Repr-Digest: sha-256=:{encoded}:" in lines
    assert f"Digest: SHA-256={encoded}" in lines
