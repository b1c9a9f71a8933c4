"""The JSON manifest of a folder."""

from __future__ import annotations

import json
import tracemalloc
from urllib.parse import unquote_to_bytes

import pytest

from gateway_blocks.files.paths import UrlPath
from gateway_blocks.formats.manifest import ManifestFile, manifest

MTIME_NS = 1_787_047_872_999_999_999


def described(*names, **more):
    return ManifestFile(UrlPath(names, folder=False), size_bytes=7, mtime_ns=MTIME_NS, etag='"7-18"', **more)


async def each(values):
    for value in values:
        yield value


async def told(files, *, limit=10_000, path="files/a"):
    return json.loads(b"".join([piece async for piece in manifest(path, each(files), limit=limit)]))


async def test_a_file_is_told_with_all_that_is_known_of_it():
    file = described("below", "a b.bin", sha1=b"\x01" * 20, sha256=b"\x02" * 32)
    assert await told([file]) == {
        "ok": True,
        "msg": "",
        "path": "files/a",
        "files": [
            {
                "path": "below/a b.bin",
                "url": "below/a%20b.bin",
                "size": 7,
                "modified": "2026-08-18T10:11:12Z",
                "etag": '"7-18"',
                "sha1": "01" * 20,
                "sha256": "02" * 32,
            }
        ],
        "truncated": False,
    }


async def test_digests_that_are_not_known_are_null():
    (file,) = (await told([described("a")]))["files"]
    assert file["sha1"] is None
    assert file["sha256"] is None


async def test_a_name_that_is_no_utf8_is_exact_in_its_url():
    (file,) = (await told([described('a\udcff"\n.bin')]))["files"]
    assert file["path"] == 'a\ufffd"\n.bin'
    assert unquote_to_bytes(file["url"]) == b'a\xff"\n.bin'


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 400, 1001])
async def test_every_file_is_told_once_and_in_order(count):
    files = (await told([described(str(number)) for number in range(count)]))["files"]
    assert [file["path"] for file in files] == [str(number) for number in range(count)]


@pytest.mark.parametrize(("count", "truncated"), [(4, False), (5, False), (6, True)])
async def test_a_manifest_over_its_limit_says_so(count, truncated):
    found = await told([described(str(number)) for number in range(count)], limit=5)
    assert found["truncated"] is truncated
    assert len(found["files"]) == min(count, 5)


async def test_a_large_manifest_is_never_held_whole():
    async def files():
        for number in range(5_000):
            yield described(f"file-{number}")

    tracemalloc.start()
    try:
        size = 0
        async for piece in manifest("", files(), limit=100_000):
            size += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 600_000
    assert peak < 250_000


async def test_what_breaks_on_the_way_leaves_no_json():
    async def broken():
        yield described("a")
        raise OSError("the disk is gone")

    pieces = []

    async def collect():
        async for piece in manifest("", broken(), limit=10):
            pieces.append(piece)

    with pytest.raises(OSError, match="gone"):
        await collect()
    with pytest.raises(json.JSONDecodeError):
        json.loads(b"".join(pieces))
