"""``blocks:/path`` as a source, also of a ZIP."""

from __future__ import annotations

import asyncio
import io
import os
import zipfile

import pytest

from gateway_blocks.source import BlocksSource
from gateway_core import Client, SourceChanged, SourceRefused, SourceRequest
from gateway_core.testing import SourceConformance
from tests.blocks.conftest import MakeServed, Served

READER = Client("1" * 32, "reader", frozenset({"blocks:read"}))


class BlocksBed:
    """Files below the root."""

    owner = READER
    stranger = Client("2" * 32, "stranger", frozenset({"archive:ticket"}))

    def __init__(self, served: Served) -> None:
        self.source = BlocksSource(served.gateway.core)
        self._served = served

    async def put(self, name: str, data: bytes) -> str:
        self._served.put(f"some folder/{name}", data)
        return f"blocks:/some%20folder/{name}"

    async def remove(self, name: str) -> None:
        (self._served.root / "some folder" / name).unlink()


class TestBlocksSource(SourceConformance):
    @pytest.fixture
    async def bed(self, served: Served) -> BlocksBed:
        return BlocksBed(served)


@pytest.mark.parametrize(
    "url",
    [
        "blocks:/../secret",
        "blocks:/%2e%2e/secret",
        "blocks:/..%2fsecret",
        "blocks:secret",
        "blocks://host/x",
        "blocks:/",
    ],
)
async def test_only_paths_below_the_root_are_taken(served, url):
    (served.root.parent / "secret").write_bytes(b"secret")
    with pytest.raises(SourceRefused):
        await BlocksSource(served.gateway.core).check(url, READER)


async def test_a_file_that_is_written_to_while_it_is_read_is_not_read_on(served):
    path = served.put("a.bin", bytes(1 << 20))
    source = BlocksSource(served.gateway.core)
    async with source.open(SourceRequest("blocks:/a.bin", client=READER)) as stream:
        chunks = aiter(stream)
        await anext(chunks)
        path.write_bytes(bytes(1 << 20))
        with pytest.raises(SourceChanged):
            await anext(chunks)


async def test_no_more_is_read_than_is_asked_for(served):
    data = os.urandom(1 << 20)
    served.put("a.bin", data)
    request = SourceRequest("blocks:/a.bin", client=READER, offset=5, length=300_000)
    async with BlocksSource(served.gateway.core).open(request) as stream:
        assert b"".join([chunk async for chunk in stream]) == data[5:300_005]
        assert stream.info.size_bytes == len(data)


async def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(served):
    data = os.urandom(1 << 20)
    path = served.put("a.bin", data)
    source = BlocksSource(served.gateway.core)
    chunks = []
    async with source.open(SourceRequest("blocks:/a.bin", client=READER)) as stream:
        async for chunk in stream:
            chunks.append(chunk)
            served.put("new", b"another version").replace(path)
    assert b"".join(chunks) == data


async def test_a_zip_of_served_files_for_who_may_read_them(make_served: MakeServed):
    async with make_served({}, plugins="archive,blocks") as served:
        served.put("docs/a.txt", b"alpha")
        served.put("b.bin", bytes(300_000))
        order = {"items": ["blocks:/docs/a.txt", "blocks:/b.bin"]}
        async with served.gateway.session() as session, asyncio.timeout(20):
            headers = {"Authorization": await served.gateway.secret("archive:ticket", "blocks:read")}
            async with session.post("/ticket/generate", json=order, headers=headers) as answer:
                ticket = (await answer.json())["id"]
            async with session.get(f"/ticket/{ticket}/download") as answer:
                with zipfile.ZipFile(io.BytesIO(await answer.read())) as archive:
                    assert {name: archive.read(name) for name in archive.namelist()} == {
                        "a.txt": b"alpha",
                        "b.bin": bytes(300_000),
                    }
            headers = {"Authorization": await served.gateway.secret("archive:ticket")}
            async with session.post("/ticket/generate", json=order, headers=headers) as answer:
                assert answer.status == 422
                assert "blocks:read" in await answer.text()
