"""Torrents: their form, and what aria2c and Transmission make of them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_blocks.files.errors import FileChanged
from gateway_blocks.formats.torrent import MEDIA_TYPE, Torrent
from gateway_core import Conflict
from gateway_core.testing.requirements import require_program
from gateway_core.testing.upstream import Upstream
from gateway_core.testing.upstream_answer import Resource
from tests.blocks.programs import run
from tests.blocks.verifiers import Flipped, aria2c

BLOCK = 64 << 10
SIZE = 5 * BLOCK + 1000
SEEDS = ("http://127.0.0.1/f.bin",)


def block_sums(data):
    return [hashlib.sha1(data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]


async def each(values):
    for value in values:
        yield value


async def encoded(torrent, digests):
    return b"".join([piece async for piece in torrent.encoded(each(digests))])


def decode(data, at=0):
    """A bencoded value and where it ends; keys must be sorted and numbers without leading zeros (BEP 3)."""
    kind = data[at : at + 1]
    if kind == b"i":
        end = data.index(b"e", at)
        number = int(data[at + 1 : end])
        assert data[at + 1 : end] == b"%d" % number
        return number, end + 1
    if kind in (b"l", b"d"):
        found, at = [], at + 1
        while data[at : at + 1] != b"e":
            value, at = decode(data, at)
            found.append(value)
        if kind == b"l":
            return found, at + 1
        assert found[::2] == sorted(set(found[::2]))
        return dict(zip(found[::2], found[1::2], strict=True)), at + 1
    colon = data.index(b":", at)
    end = colon + 1 + int(data[at:colon])
    assert end <= len(data)
    return data[colon + 1 : end], end


async def test_a_torrent_tells_name_size_pieces_and_web_seeds():
    data = bytes(range(256)) * 1024
    torrent = Torrent("f.bin", len(data), BLOCK, ("http://a/f", "https://b/f"), "from a mirror")
    raw = await encoded(torrent, block_sums(data))
    told, end = decode(raw)
    assert end == len(raw)
    assert told == {
        b"comment": b"from a mirror",
        b"info": {
            b"length": len(data),
            b"name": b"f.bin",
            b"piece length": BLOCK,
            b"pieces": b"".join(block_sums(data)),
        },
        b"url-list": [b"http://a/f", b"https://b/f"],
    }


@given(name=st.text(min_size=1), comment=st.text(), blocks=st.integers(1, 40), more=st.integers(0, BLOCK - 1))
async def test_its_length_is_known_beforehand(name, comment, blocks, more):
    torrent = Torrent(name, blocks * BLOCK - more, BLOCK, SEEDS, comment)
    raw = await encoded(torrent, [b"\xff" * 20] * blocks)
    assert len(raw) == torrent.length
    assert decode(raw)[1] == len(raw)


async def test_checksums_leave_as_they_come():
    torrent = Torrent("f", SIZE, BLOCK, SEEDS)
    asked = []

    async def hashed():
        for digest in block_sums(bytes(SIZE)):
            asked.append(digest)
            yield digest

    pieces = torrent.encoded(hashed())
    assert (await anext(pieces)).endswith(b"6:pieces120:")
    for count, digest in enumerate(block_sums(bytes(SIZE)), 1):
        assert await anext(pieces) == digest
        assert len(asked) == count


async def test_the_same_file_has_the_same_info_hash_wherever_it_is_served():
    one = await encoded(Torrent("f", SIZE, BLOCK, ("http://a/f",)), block_sums(bytes(SIZE)))
    other = await encoded(Torrent("f", SIZE, BLOCK, ("http://b/f", "http://c/f"), "said"), block_sums(bytes(SIZE)))
    assert decode(one)[0][b"info"] == decode(other)[0][b"info"]


def test_there_is_no_torrent_of_an_empty_file():
    with pytest.raises(Conflict):
        Torrent("f", 0, BLOCK, SEEDS)


@pytest.mark.parametrize("count", [0, 5, 7])
async def test_checksums_of_another_version_never_make_a_whole_torrent(count):
    torrent = Torrent("f", SIZE, BLOCK, SEEDS)
    with pytest.raises(FileChanged):
        await encoded(torrent, [b"\0" * 20] * count)


async def test_a_name_that_is_no_utf8_is_told_percent_encoded():
    raw = await encoded(Torrent("a\udcffb\n", 1, BLOCK, SEEDS), [b"\0" * 20])
    assert decode(raw)[0][b"info"][b"name"] == b"a%FFb%0A"


async def test_aria2c_downloads_from_the_web_seed_and_fetches_a_damaged_piece_again(tmp_path):
    async with Upstream() as up:
        url = up.add("/f.bin", SIZE, Flipped(times=1, place=2 * BLOCK + 7))
        data = up.content("/f.bin")
        raw = await encoded(Torrent("f.bin", SIZE, BLOCK, (url,)), block_sums(data))
        link = up.add("/f.bin.torrent", Resource(raw, media_type=MEDIA_TYPE))
        ended = await aria2c(link, folder=tmp_path)
        assert ended.code == 0, ended.out
        assert (tmp_path / "f.bin").read_bytes() == data
        assert [request.fault for request in up.seen("/f.bin")].count("Flipped") == 1


async def test_aria2c_repairs_a_damaged_file_by_a_torrent(tmp_path):
    async with Upstream() as up:
        url = up.add("/f.bin", SIZE)
        data = up.content("/f.bin")
        damaged = bytearray(data)
        damaged[2 * BLOCK + 7] ^= 1
        (tmp_path / "f.bin").write_bytes(damaged)
        raw = await encoded(Torrent("f.bin", SIZE, BLOCK, (url,)), block_sums(data))
        link = up.add("/f.bin.torrent", Resource(raw, media_type=MEDIA_TYPE))
        ended = await aria2c("--check-integrity=true", link, folder=tmp_path)
        assert ended.code == 0, ended.out
        assert (tmp_path / "f.bin").read_bytes() == data
        assert [request.headers["Range"] for request in up.seen("/f.bin")] == [f"bytes={2 * BLOCK}-{3 * BLOCK - 1}"]


async def test_transmission_reads_a_torrent(tmp_path):
    raw = await encoded(Torrent("f.bin", SIZE, BLOCK, SEEDS, "from a mirror"), block_sums(bytes(SIZE)))
    (tmp_path / "f.torrent").write_bytes(raw)
    ended = await run(require_program("transmission-show"), "f.torrent", cwd=tmp_path)
    assert ended.code == 0, ended.out
    info = raw[raw.index(b"4:info") + 6 : raw.index(b"8:url-list")]
    for told in (hashlib.sha1(info).hexdigest(), "Piece Count: 6", "64.00 KiB", SEEDS[0], "from a mirror"):
        assert told in ended.out
