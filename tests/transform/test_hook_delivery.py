"""Webhooks reach their receivers: signed, and tried again until they have."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from standardwebhooks import Webhook

from gateway_core.testing.services import free_port
from gateway_core.testing.upstream_answer import Resource, SeenRequest
from gateway_core.testing.upstream_behaviour import Cut, Drip, Endless, Raw, Reset, Stall, Status
from tests.transform import hook_stand
from tests.transform.hook_stand import MakeStand, Stand, outcomes

make_stand = hook_stand.make_stand
stand = hook_stand.stand


def verify(stand: Stand, request: SeenRequest) -> None:
    key = b64encode(stand.secret.encode()).decode()
    Webhook(f"whsec_{key}").verify(request.body, dict(request.headers), json_parse=False)


# What is sent


async def test_receiver_gets_what_circe_sends_and_a_signature(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook?key=1"))
    async with stand.delivering():
        await stand.told(1, name="delivered")
    (request,) = stand.receiver.requests
    assert (request.method, request.target, request.body) == ("POST", "/hook?key=1", f"uuid={job}".encode())
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    verify(stand, request)
    assert outcomes(await stand.tries(job)) == [(1, "delivered", 200)]
    assert await stand.left() == []


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"state": "succeeded"}, None),
        (
            {"state": "failed", "error_code": "timeout", "error_message": "300 s are over", "error_step": "pdf"},
            {"code": "timeout", "message": "300 s are over", "step": "pdf"},
        ),
        (
            {"state": "failed", "error_code": "worker_lost", "error_message": "lost"},
            {"code": "worker_lost", "message": "lost", "step": None},
        ),
        (
            {"state": "cancelled", "error_code": "cancelled"},
            {"code": "cancelled", "message": "", "step": None},
        ),
    ],
    ids=["succeeded", "failed", "lost", "cancelled"],
)
async def test_standard_form_tells_state_and_error(stand: Stand, columns: dict[str, str], error: Any):
    hook = stand.receiver.add("/hook")
    job = await stand.ended(hook, hook_form="standard", ended=1_700_000_000.25, **columns)
    async with stand.delivering():
        await stand.told(1, name="delivered")
    (request,) = stand.receiver.requests
    verify(stand, request)
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.body) == {
        "type": f"job.{columns['state']}",
        "timestamp": "2023-11-14T22:13:20.250Z",
        "data": {"id": job, "state": columns["state"], "error": error},
    }


@pytest.mark.parametrize("character", ["x", "😀", "\x01"], ids=["letter", "emoji", "control"])
async def test_message_stays_below_twenty_thousand_bytes(stand: Stand, character: str):
    hook = stand.receiver.add("/hook")
    error = {"state": "failed", "error_code": "failed", "error_message": character * 100_000}
    await stand.ended(hook, hook_form="standard", **error)
    async with stand.delivering():
        await stand.told(1, name="delivered")
    assert 1000 < len(stand.receiver.requests[0].body) < 20_000


async def test_credentials_in_the_url_are_sent_as_such(stand: Stand):
    hook = stand.receiver.add("/hook")
    await stand.ended(hook.replace("://", "://user:word@"))
    async with stand.delivering():
        await stand.told(1, name="delivered")
    assert stand.receiver.requests[0].headers["Authorization"] == "Basic dXNlcjp3b3Jk"


async def test_job_of_nobody_is_told_without_a_signature(stand: Stand):
    """``use_auth`` is off: there is no secret, and Circe's users expect their hook."""
    await stand.ended(stand.receiver.add("/hook"), client_id="")
    async with stand.delivering():
        await stand.told(1, name="delivered")
    headers = stand.receiver.requests[0].headers
    assert "webhook-id" in headers
    assert "webhook-signature" not in headers


async def test_nothing_is_sent_for_a_client_that_is_gone(stand: Stand):
    await stand.gateway.clients.revoke(stand.client.id)
    job = await stand.ended(stand.receiver.add("/hook"))
    async with stand.delivering():
        await stand.told(1, name="given_up")
    (tried,) = await stand.tries(job)
    assert (tried.outcome, tried.status) == ("given_up", None)
    assert "client is gone" in tried.detail
    assert (stand.receiver.requests, await stand.left()) == ([], [])


# Tries


async def test_failed_message_is_tried_again_under_the_same_id(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook", b"", Status(500, times=2)))
    async with stand.delivering():
        await stand.told(1, name="delivered")
    assert len({request.headers["webhook-id"] for request in stand.receiver.requests}) == 1
    for request in stand.receiver.requests:
        verify(stand, request)
    assert outcomes(await stand.tries(job)) == [(1, "failed", 500), (2, "failed", 500), (3, "delivered", 200)]


async def test_message_is_given_up_after_its_last_try(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook", b"", Status(500)))
    async with stand.delivering():
        await stand.told(1, name="given_up")
    assert outcomes(await stand.tries(job)) == [(1, "failed", 500), (2, "failed", 500), (3, "given_up", 500)]
    assert await stand.left() == []


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_status_of_2xx_is_success(stand: Stand, status: int):
    await stand.ended(stand.receiver.add("/hook", b"", Status(status)))
    async with stand.delivering():
        (event,) = await stand.told(1)
    assert event.name == "transform.webhook.delivered"
    assert event.data["status"] == status


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_a_failure_and_not_followed(stand: Stand, status: int):
    elsewhere = stand.receiver.add("/elsewhere")
    job = await stand.ended(stand.receiver.redirect("/hook", elsewhere, status))
    async with stand.delivering(webhook_backoff_s=(0,)):
        await stand.told(1, name="given_up")
    assert [request.path for request in stand.receiver.requests] == ["/hook"]
    (tried,) = await stand.tries(job)
    assert (tried.status, "redirects are not followed" in tried.detail) == (status, True)


async def test_receiver_that_is_gone_is_not_asked_again(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook", b"", Status(410)))
    async with stand.delivering():
        await stand.told(1, name="given_up")
    assert outcomes(await stand.tries(job)) == [(1, "given_up", 410)]
    assert await stand.left() == []


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("after", "least_s", "most_s"),
    [
        (lambda: "120", 110, 121),
        (lambda: formatdate(time.time() + 120, usegmt=True), 110, 121),
        (lambda: "9" * 400, 86_000, 86_401),
        (lambda: formatdate(time.time() + 9e6, usegmt=True), 86_000, 86_401),
        (lambda: "0", 0, 11),
        (lambda: "-5", 0, 11),
        (lambda: "soon", 0, 11),
        (lambda: "Fri, 99 Nov 2026 00:00:00 GMT", 0, 11),
    ],
    ids=["seconds", "date", "many seconds", "far date", "none", "negative", "words", "no date"],
)
async def test_pause_that_the_receiver_asks_for_is_kept_within_a_day(
    stand: Stand, status: int, after: Callable[[], str], least_s: float, most_s: float
):
    await stand.ended(stand.receiver.add("/hook", b"", Status(status, {"Retry-After": after()})))
    async with stand.delivering(webhook_backoff_s=(0, 10)):
        await stand.told(1, name="failed")
        assert least_s <= (await stand.next_try_s() or 0) <= most_s


async def test_pauses_are_those_of_the_settings_and_a_little_longer(stand: Stand):
    await stand.ended(stand.receiver.add("/hook", b"", Status(500)))
    async with stand.delivering(webhook_backoff_s=(0, 0.01, 300)):
        await stand.told(2, name="failed")
        assert 290 < (await stand.next_try_s() or 0) <= 330


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        (Stall(), "no answer in 0.3 s"),
        (Cut(), "connection failed"),
        (Reset(), "connection failed"),
        (Raw(b"SSH-2.0-OpenSSH_9.2p1\r\n"), "not a valid HTTP answer"),
    ],
    ids=["silence", "cut", "reset", "another protocol"],
)
async def test_what_is_no_answer_is_a_failure(stand: Stand, fault: Any, detail: str):
    job = await stand.ended(stand.receiver.add("/hook", b"", fault))
    async with stand.delivering(webhook_backoff_s=(0,), webhook_timeout_s=0.3):
        await stand.told(1)
    (tried,) = await stand.tries(job)
    assert (tried.outcome, tried.status, tried.detail) == ("given_up", None, detail)


async def test_receiver_that_is_away_is_a_failure(stand: Stand):
    job = await stand.ended(f"http://127.0.0.1:{free_port()}/hook")
    async with stand.delivering(webhook_backoff_s=(0,)):
        await stand.told(1)
    (tried,) = await stand.tries(job)
    assert (tried.outcome, tried.status, tried.detail) == ("given_up", None, "connection failed")


async def test_answer_is_told_without_what_a_terminal_obeys(stand: Stand):
    refusal = Resource(b"no\x1b[31m such\r\n\x00job" + b"x" * 5000, status=400, media_type="text/plain")
    job = await stand.ended(stand.receiver.add("/hook", refusal))
    async with stand.delivering(webhook_backoff_s=(0,)):
        await stand.told(1)
    (tried,) = await stand.tries(job)
    assert tried.detail.startswith("answered 400: no[31m such jobx")
    assert len(tried.detail) < 220


async def test_no_more_than_the_beginning_of_an_answer_is_read(stand: Stand):
    job = await stand.ended(stand.receiver.add("/hook", Resource(b"x", status=500), Endless()))
    async with stand.delivering(webhook_backoff_s=(0,)):
        await stand.told(1)
        await stand.receiver.wait_disconnected()
    assert stand.receiver.requests[0].sent_bytes < 50 << 20
    assert (await stand.tries(job))[0].status == 500


@pytest.mark.parametrize("fault", [Stall(after=0), Drip(5), Cut(after=10), Reset(after=10)])
async def test_status_counts_whatever_becomes_of_the_body(stand: Stand, fault: Any):
    failing = stand.receiver.add("/failing", Resource(b"x" * 100, status=500), fault)
    thanking = stand.receiver.add("/thanking", Resource(b"x" * 100), fault)
    jobs = [await stand.ended(hook) for hook in (failing, thanking)]
    async with stand.delivering(webhook_backoff_s=(0,), webhook_timeout_s=0.5):
        await stand.told(2)
    assert [outcomes(await stand.tries(job)) for job in jobs] == [[(1, "given_up", 500)], [(1, "delivered", 200)]]


async def test_address_that_may_not_be_fetched_is_refused_when_it_is_sent(make_stand: MakeStand):
    async with make_stand(egress_allow=()) as stand:
        job = await stand.ended(stand.receiver.add("/hook"))
        async with stand.delivering():
            await stand.told(1, name="given_up")
        (tried,) = await stand.tries(job)
        assert (tried.outcome, tried.detail) == ("refused", "this address may not be fetched")
        assert (stand.receiver.total_connections, await stand.left()) == (0, [])
