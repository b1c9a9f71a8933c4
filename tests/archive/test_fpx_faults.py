"""The faults of FPX that were not to be inherited, each with the test that would find it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import sqlite3
import struct
import zipfile
from collections.abc import Callable
from datetime import datetime

import jwt
import pytest
from aiohttp import ClientPayloadError, hdrs

from gateway_core.testing.curl import curl
from gateway_core.testing.upstream_answer import Resource
from gateway_core.testing.upstream_behaviour import Cut, Stall, Status
from tests.archive.conftest import MakeStand
from tests.archive.stand import MIB, REPORT, Stand, reasons

pytestmark = pytest.mark.asyncio(loop_scope="module")

DATE = 1_600_000_000.0
BOTS = ["facebookexternalhit/1.1", "Slackbot-LinkExpanding 1.0", "Twitterbot/1.0"]


# "Ticket deleted before the first byte: a broken download, a HEAD or a link-preview bot kills the link."


async def break_off(stand: Stand, ticket: str) -> None:
    """Begin to download, and leave."""
    async with stand.downloading(ticket) as answer:
        await answer.content.readexactly(1000)


async def test_broken_download_leaves_the_link_alive(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 8 * MIB))
    await break_off(stand, ticket)
    assert len((await stand.download(ticket)).entries["a"]) == 8 * MIB


async def test_broken_download_does_not_use_up_a_ticket_for_one_use(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 8 * MIB), once=True)
    await break_off(stand, ticket)
    await stand.upstream.wait_idle()
    assert (await stand.download(ticket)).status == 200


@pytest.mark.parametrize("agent", BOTS)
async def test_preview_bot_leaves_the_link_alive(stand: Stand, agent: str):
    ticket = await stand.ticket(stand.add("/a", 8 * MIB), once=True)
    head = await stand.call("HEAD", f"/ticket/{ticket}/download", headers={"User-Agent": agent})
    async with stand.downloading(ticket) as answer:  # as far as the first bytes, then it has seen enough
        await answer.content.readexactly(100)
    await stand.upstream.wait_idle()
    assert (head.status, (await stand.download(ticket)).status) == (200, 200)


@pytest.mark.parametrize("kind", ["zip", "stream"])
async def test_ticket_for_one_use_is_used_up_by_a_complete_download(stand: Stand, kind: str):
    ticket = await stand.ticket(stand.add("/a", 100_000), type=kind, once=True)
    assert [(await stand.download(ticket)).status for _ in range(2)] == [200, 404]


@pytest.mark.parametrize("kind", ["zip", "stream"])
async def test_ticket_for_one_use_is_used_up_by_a_client_that_closes_at_once(stand: Stand, kind: str):
    url = stand.add("/a", 100_000)
    tickets = [await stand.ticket(url, type=kind, once=True) for _ in range(5)]
    done = [await curl(f"{stand.gateway.url}/ticket/{ticket}/download") for ticket in tickets]
    assert [one.code for one in done] == [0] * 5
    await until(lambda: not stand.gateway.core.state_of_downloads_is_busy)
