"""Blocks that clients call bad: is it the file, or the line?"""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from gateway_blocks.tables import segments
from tests.blocks.conftest import BLOCK, Served
from tests.blocks.test_rd_contract import DATA, complete


async def report(served: Served, path: str, block: object) -> tuple[int, dict]:
    async with served.gateway.session() as session, session.post(f"/rd{path}", json={"block": block}) as answer:
        return answer.status, await answer.json()


async def test_a_block_that_is_as_it_was_told_means_a_bad_line(served):
    served.put("a.bin", DATA)
    body = await complete(served, "/files/a.bin")
    status, finding = await report(served, "/files/a.bin", 3)
    assert status == 200
    assert finding == {"ok": True, "msg": "", "block": 3, "verdict": "same", "sha1": body["blocks"][3][3]}


async def test_a_block_that_is_not_hashed_yet_is_pending(served):
    with (served.root / "big.bin").open("wb") as file:
        file.truncate(20_000 * BLOCK)
    status, finding = await report(served, "/files/big.bin", 19_999)
    assert (status, finding["verdict"], finding["sha1"]) == (200, "pending", None)


@pytest.mark.parametrize("block", [6, -1, "x", None, 1.5])
async def test_a_block_that_the_file_does_not_have_is_named(served, block):
    served.put("a.bin", DATA)
    status, body = await report(served, "/files/a.bin", block)
    assert status == 422
    assert "block" in body["msg"]


async def test_a_report_about_nothing_is_404(served):
    assert (await report(served, "/files/none", 0))[0] == 404
    (served.root / "folder").mkdir()
    assert (await report(served, "/files/folder/", 0))[0] == 404


async def test_a_change_that_no_time_stamp_shows_is_found_by_a_report(make_served):
    """What a store through mmap into a dirty page does: here the database is told another digest beforehand."""
    async with make_served() as served:
        served.put("a.bin", DATA)
        await complete(served, "/files/a.bin")
        await falsify(served, block=2)
    async with make_served() as served:
        body = await complete(served, "/files/a.bin")
        assert body["blocks"][2][3] == "00" * 20
        status, finding = await report(served, "/files/a.bin", 2)
        assert (status, finding["verdict"]) == (200, "changed")
        body = await complete(served, "/files/a.bin")
        assert body["blocks"][2][3] == hashlib.sha1(DATA[2 * BLOCK : 3 * BLOCK]).hexdigest() == finding["sha1"]


async def test_three_requests_for_one_block_make_it_suspicious(make_served):
    async with make_served() as served:
        served.put("a.bin", DATA)
        await complete(served, "/files/a.bin")
        await falsify(served, block=2)
    async with make_served() as served:
        await complete(served, "/files/a.bin")
        headers = {"Range": f"bytes={2 * BLOCK}-{3 * BLOCK - 1}"}
        async with served.gateway.session() as session:
            for _ in range(3):
                async with session.get("/files/a.bin", headers=headers) as answer:
                    assert answer.status == 206
                    await answer.read()
        async with asyncio.timeout(20):
            while (await complete(served, "/files/a.bin"))["blocks"][2][3] == "00" * 20:
                await asyncio.sleep(0.02)


async def test_requests_for_other_ranges_are_no_reports(served):
    served.put("a.bin", DATA)
    await complete(served, "/files/a.bin")
    before = REGISTRY.get_sample_value("gateway_blocks_reports_total", {"verdict": "same"}) or 0
    async with served.gateway.session() as session:
        for first in range(4):
            async with session.get("/files/a.bin", headers={"Range": f"bytes={first}-{BLOCK}"}) as answer:
                await answer.read()
    assert (await report(served, "/files/a.bin", 0))[1]["verdict"] == "same"
    assert REGISTRY.get_sample_value("gateway_blocks_reports_total", {"verdict": "same"}) == before + 1


async def test_many_reports_of_one_block_cost_one_read(served):
    served.put("a.bin", os.urandom(3 * BLOCK))
    await complete(served, "/files/a.bin")
    before = REGISTRY.get_sample_value("gateway_blocks_reports_total", {"verdict": "same"}) or 0
    findings = await asyncio.gather(*(report(served, "/files/a.bin", 1) for _ in range(20)))
    assert {finding["verdict"] for _, finding in findings} == {"same"}
    assert REGISTRY.get_sample_value("gateway_blocks_reports_total", {"verdict": "same"}) == before + 1


async def falsify(served: Served, *, block: int) -> None:
    """Write a wrong digest of ``block`` of the only file into the database."""
    async with served.gateway.core.db.write() as tx:
        row = await tx.first(sa.select(segments))
        digests = bytearray(row.digests)
        digests[block * 20 : (block + 1) * 20] = bytes(20)
        await tx.execute(sa.update(segments).values(digests=bytes(digests)))
