"""Metalinks: what stands in them, and what aria2c and wget2 do with them."""

from __future__ import annotations

import hashlib
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway_blocks.files.errors import FileChanged
from gateway_blocks.formats.metalink import MEDIA_TYPE, MetalinkFile, metalink
from gateway_blocks.formats.text import portable_name
from gateway_core.testing.requirements import require_program
from gateway_core.testing.upstream import Upstream
from gateway_core.testing.upstream_answer import Resource
from tests.blocks.programs import run
from tests.blocks.verifiers import Flipped, aria2c

BLOCK = 64 << 10
SIZE = 5 * BLOCK + 1000
NS = {"m": "urn:ietf:params:xml:ns:metalink"}
LONE = [chr(0xDC00 + byte) for byte in range(0x80, 0x100)]
NAMES = st.text(
    st.characters(exclude_characters="\0/", exclude_categories=("Cs",)) | st.sampled_from(LONE), min_size=1, max_size=40
)


def block_sums(data):
    return [hashlib.sha1(data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]


async def each(values):
    for value in values:
        yield value


def described(data, *, name="f.bin", urls=("http://127.0.0.1/f.bin",), whole=True, digests=None):
    """A file as the server would tell it, with its SHA-256 where ``whole``."""
    return MetalinkFile(
        name,
        size_bytes=len(data),
        block_bytes=BLOCK,
        digests=each(block_sums(data) if digests is None else digests),
        sha256=lambda: hashlib.sha256(data).digest() if whole else None,
        urls=urls,
    )


async def written(*files):
    return b"".join([piece async for piece in metalink(each(files))])


async def parsed(*files):
    return ET.fromstring(await written(*files)).findall("m:file", NS)


async def test_a_file_is_told_with_size_pieces_digest_and_urls_by_priority():
    data = bytes(SIZE)
    urls = ("http://a/f?x=1&y=<2>", "https://b/f")
    (file,) = await parsed(described(data, urls=urls))
    assert file.get("name") == "f.bin"
    assert file.findtext("m:size", None, NS) == str(SIZE)
    assert [(url.get("priority"), url.text) for url in file.findall("m:url", NS)] == [("1", urls[0]), ("2", urls[1])]
    assert [(whole.get("type"), whole.text) for whole in file.findall("m:hash", NS)] == [
        ("sha-256", hashlib.sha256(data).hexdigest())
    ]
    pieces = file.find("m:pieces", NS)
    assert pieces.attrib == {"length": str(BLOCK), "type": "sha-1"}
    assert [piece.text for piece in pieces] == [digest.hex() for digest in block_sums(data)]


async def test_digests_may_come_several_at_a_time():
    data = bytes(range(256)) * 2048
    sums = block_sums(data)
    joined = [b"".join(sums[:3]), sums[3], b"".join(sums[4:])]
    (file,) = await parsed(described(data, digests=joined))
    assert [piece.text for piece in file.find("m:pieces", NS)] == [digest.hex() for digest in sums]


async def test_a_piece_is_written_before_the_next_one_is_known():
    data = bytes(SIZE)
    asked = []

    async def hashed():
        for digest in block_sums(data):
            asked.append(digest)
            yield digest

    known = []
    file = MetalinkFile("f", SIZE, BLOCK, hashed(), lambda: known[-1] if known else None, ("http://a/f",))
    pieces = metalink(each([file]))
    assert (await anext(pieces)).startswith(b"<?xml")
    for count, digest in enumerate(block_sums(data), 1):
        assert digest.hex().encode() in await anext(pieces)
        assert len(asked) == count
    known.append(hashlib.sha256(data).digest())
    assert known[0].hex().encode() in await anext(pieces)


async def test_without_its_digest_a_file_of_several_blocks_has_pieces_only():
    (file,) = await parsed(described(bytes(SIZE), whole=False))
    assert file.findall("m:hash", NS) == []


async def test_the_only_block_of_a_file_gives_the_digest_of_the_whole():
    (file,) = await parsed(described(b"small", whole=False))
    (whole,) = file.findall("m:hash", NS)
    assert (whole.get("type"), whole.text) == ("sha-1", hashlib.sha1(b"small").hexdigest())


async def test_an_empty_file_has_no_pieces():
    (file,) = await parsed(described(b""))
    assert file.findtext("m:size", None, NS) == "0"
    assert file.find("m:pieces", NS) is None
    assert file.findtext("m:hash", None, NS) == hashlib.sha256(b"").hexdigest()


async def test_many_files_stand_in_one_document():
    files = [described(bytes([number]) * 100, name=f"below/{number}") for number in range(20)]
    assert [file.get("name") for file in await parsed(*files)] == [f"below/{number}" for number in range(20)]


@given(name=NAMES)
@example(name='<a href="x">&amp;\'')
@example(name="a\nb\tc\x7f\udcff\ufffe")
async def test_every_name_makes_a_document_that_can_be_read(name):
    (file,) = await parsed(described(b"x", name=name))
    told = file.get("name")
    assert told == portable_name(name)
    assert not any(ord(char) < 0x20 or ord(char) == 0x7F for char in told)


@pytest.mark.parametrize("count", [0, 5, 7])
async def test_digests_of_another_version_leave_a_document_that_cannot_be_read(count):
    sums = (block_sums(bytes(SIZE)) * 2)[:count]
    pieces = []

    async def collect():
        async for piece in metalink(each([described(bytes(SIZE), digests=sums)])):
            pieces.append(piece)

    with pytest.raises(FileChanged):
        await collect()
    with pytest.raises(ET.ParseError):
        ET.fromstring(b"".join(pieces))


async def publish(up, *files):
    """Serve a Metalink of ``files``; its URL."""
    return up.add("/all.meta4", Resource(await written(*files), media_type=MEDIA_TYPE))


def ranges(up, path):
    return [request.headers.get("Range") for request in up.seen(path)]


async def test_aria2c_fetches_a_piece_that_came_damaged_again(tmp_path):
    async with Upstream() as up:
        url = up.add("/f.bin", SIZE, Flipped(times=1, place=SIZE - 10))
        data = up.content("/f.bin")
        ended = await aria2c(await publish(up, described(data, urls=[url])), folder=tmp_path)
        assert ended.code == 0, ended.out
        assert (tmp_path / "f.bin").read_bytes() == data
        assert ranges(up, "/f.bin") == [f"bytes=0-{SIZE - 1}", f"bytes={5 * BLOCK}-{SIZE - 1}"]


async def test_aria2c_repairs_a_damaged_file_by_fetching_the_bad_piece(tmp_path):
    async with Upstream() as up:
        url = up.add("/f.bin", SIZE)
        data = up.content("/f.bin")
        damaged = bytearray(data)
        damaged[2 * BLOCK + 7] ^= 1
        (tmp_path / "f.bin").write_bytes(damaged)
        ended = await aria2c("--check-integrity=true", await publish(up, described(data, urls=[url])), folder=tmp_path)
        assert ended.code == 0, ended.out
        assert (tmp_path / "f.bin").read_bytes() == data
        assert ranges(up, "/f.bin") == [f"bytes={2 * BLOCK}-{3 * BLOCK - 1}"]


async def test_aria2c_saves_every_file_of_a_folder_whatever_its_name(tmp_path):
    names = ["a.bin", "below/it/b.bin", "line\nfeed", "not-\udcff-utf8", "quote\"and'<", "日本.txt", "-", "empty"]
    async with Upstream() as up:
        files, contents = [], {}
        for number, name in enumerate(names):
            url = up.add(f"/{number}", 0 if name == "empty" else BLOCK + number)
            contents[portable_name(name)] = up.content(f"/{number}")
            files.append(described(up.content(f"/{number}"), name=name, urls=[url]))
        ended = await aria2c(await publish(up, *files), folder=tmp_path)
        assert ended.code == 0, ended.out
        saved = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert saved == contents


@pytest.mark.parametrize("size", [SIZE, 1000])
async def test_wget2_fetches_a_piece_that_came_damaged_again(tmp_path, size):
    async with Upstream() as up:
        url = up.add("/f.bin", size, Flipped(times=1, place=size // 2))
        data = up.content("/f.bin")
        link = await publish(up, described(data, urls=[url], whole=size > BLOCK))
        ended = await run(require_program("wget2"), "--no-config", "--metalink", link, cwd=tmp_path)
        assert ended.code == 0, ended.out
        assert (tmp_path / "f.bin").read_bytes() == data
        asked = ranges(up, "/f.bin")
        first = size // 2 // BLOCK * BLOCK
        assert len(asked) == len(set(asked)) + 1
        assert asked.count(f"bytes={first}-{min(first + BLOCK, size) - 1}") == 2
