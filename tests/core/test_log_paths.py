"""Ids that give the right to download stay out of the log, wherever they stand in a path."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway_core.testing import ServeProcess, serve_process

pytestmark = pytest.mark.asyncio(loop_scope="module")

TICKET = "6873062f-b48c-462f-9932-371dffd702de"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServeProcess]:
    """One for all: each only asks something of it."""
    folder = tmp_path_factory.mktemp("log")
    async with serve_process(data_dir=folder, env={"GATEWAY_PLUGINS": "archive"}) as running:
        yield running


@pytest.mark.parametrize("path", ["/ticket/{}/download", "/ticket/{}/download/", "/ticket/{}/wiat", "/tickets/{}"])
async def test_a_ticket_id_is_not_logged(server: ServeProcess, path: str):
    before = len([line for line in server.logs if line["event"] == "request"])
    async with server.session() as session, session.get(path.format(TICKET)) as answer:
        assert answer.status == 404
    await server.wait_log("request", count=before + 1)
    assert TICKET not in str(server.logs)
