"""Clients that close the connection the moment they have the last byte, as command-line programs do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.archive.stand import MIB, Stand, standing, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[Stand]:
    async with standing(tmp_path_factory.mktemp("left"), {"plugins": "archive"}, templates=gateway_templates) as stood:
        yield stood


async def take_all_and_leave(stand: Stand, ticket: str) -> None:
    answer = await stand.download(ticket, Connection="close")
    assert len(answer.body) == int(answer.headers["Content-Length"])


async def test_ticket_for_one_use_is_used_up(stand: Stand):
    ticket = await stand.ticket(stand.add("/once", 3 * MIB), once=True)
    await take_all_and_leave(stand, ticket)

    async def gone() -> bool:
        return (await stand.call("HEAD", f"/ticket/{ticket}/download")).status == 404

    await until(gone)


async def test_no_journal_is_left(stand: Stand):
    ticket = await stand.ticket(stand.add("/journaled", 3 * MIB))
    await take_all_and_leave(stand, ticket)
    folder = stand.gateway.core.settings.data_dir / "archive" / ticket

    async def empty() -> bool:
        return not list(folder.iterdir())

    assert folder.exists()
    await until(empty)
