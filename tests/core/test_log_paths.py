"""Ids that give the right to download stay out of the log, wherever they stand in a path."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from gateway_core.testing import serve_process

TICKET = "6873062f-b48c-462f-9932-371dffd702de"


@pytest.mark.parametrize("path", ["/ticket/{}/download", "/ticket/{}/download/", "/ticket/{}/wiat", "/tickets/{}"])
async def test_a_ticket_id_is_not_logged(tmp_path: Path, path: str):
    async with serve_process(data_dir=tmp_path) as server:
        async with aiohttp.ClientSession() as session, session.get(server.url + path.format(TICKET)) as answer:
            assert answer.status == 404
        await server.wait_log("request")
        assert TICKET not in str(server.logs)
