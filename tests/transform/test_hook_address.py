"""No spelling of a hook's URL makes the gateway call what is inside: told when it is read, and stopped when it is sent.

Nothing but loopback is ever dialled: 127.0.0.2 is what the sending tests may reach.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway_core import Gateway
from gateway_core.db.outbox import OutboxItem
from gateway_transform.hooks.address import MOST_CHARACTERS, check_hook
from gateway_transform.hooks.message import Message
from gateway_transform.hooks.sending import Outcome, send
from tests.core import test_ssrf_forms as forms
from tests.transform.hook_stand import opened

inner = forms.inner
dials = forms.dials

PORT = 8080
# Names: what they lead to is found out when they are dialled.
NAMED = {
    "http://localhost:{p}/",
    "http://LOCALHOST.:{p}/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{p}/",
    "http://public.test#@127.0.0.1:{p}/",
}
REFUSED = "notify_hook will not be called: this address may not be fetched"


@pytest.fixture
async def gateway(tmp_path: Path, gateway_templates: Path) -> AsyncIterator[Gateway]:
    """It may fetch nothing that is not public."""
    async with opened(tmp_path, gateway_templates, egress_allow=(), egress_ports=(80, 443, PORT)) as there:
        yield there


async def test_forms_are_told_when_they_are_read(gateway: Gateway):
    told = {form: check_hook(gateway, form.replace("{p}", str(PORT))) for form in forms.FORMS}
    assert {form for form, sentence in told.items() if sentence is None} == NAMED
    assert all(sentence.startswith("notify_hook will not be called: ") for sentence in told.values() if sentence)


@pytest.mark.parametrize("form", forms.FORMS)
async def test_form_reaches_nothing_when_it_is_sent(form: str, inner: forms.Listeners, dials: list[str]):
    url = form.replace("{p}", str(inner.port))
    message = Message(OutboxItem("id", "topic", {}, 1, 0.0), "job", "", url, "", "text/plain", b"body")
    async with forms.client(inner) as guarded:
        verdict = await send(guarded, message, {}, timeout_s=5)
    assert verdict.outcome in {Outcome.REFUSED, Outcome.FAILED}
    assert (inner.hits, dials) == ([], [])


@pytest.mark.parametrize("name", forms.NAMES)
async def test_name_that_leads_inside_reaches_nothing(name: str, inner: forms.Listeners, dials: list[str]):
    url = f"http://{name}:{inner.port}/"
    message = Message(OutboxItem("id", "topic", {}, 1, 0.0), "job", "", url, "", "text/plain", b"body")
    async with forms.client(inner, ["127.0.0.2"]) as guarded:
        verdict = await send(guarded, message, {}, timeout_s=5)
    assert verdict.outcome in {Outcome.REFUSED, Outcome.FAILED}
    assert (inner.hits, dials) == ([], [])


async def test_sentence_is_the_same_for_all_that_is_inside(gateway: Gateway):
    urls = [
        "http://127.0.0.1/",
        "http://127.0.0.1:22/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "https://[::1]:9/",
        "http://8.8.8.8:22/",
        "http://0.0.0.0/",
    ]
    assert {check_hook(gateway, url) for url in urls} == {REFUSED}


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/done",
        "http://hooks.example:8080/done?job=1&key=a%2Fb",
        "https://user:word@hooks.example/",
        "https://8.8.8.8/",
        "https://bücher.example/",
        "https://hooks.example/" + "x" * (MOST_CHARACTERS - 22),
    ],
    ids=lambda url: url[:40],
)
async def test_nothing_is_wrong_with_a_public_one(gateway: Gateway, url: str):
    assert check_hook(gateway, url) is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "only http:// and https:// URLs can be fetched"),
        ("hooks.example/done", "only http:// and https:// URLs can be fetched"),
        ("ftp://hooks.example/", "only http:// and https:// URLs can be fetched"),
        ("https:///done", "not a valid URL"),
        ("https://hooks.example/a\nb", "URL with a control character or backslash"),
        ("https://hooks.example/" + "x" * (MOST_CHARACTERS - 21), f"longer than {MOST_CHARACTERS} characters"),
    ],
    ids=lambda value: value[:40],
)
async def test_what_is_no_url_is_told_with_the_reason(gateway: Gateway, url: str, reason: str):
    assert check_hook(gateway, url) == f"notify_hook will not be called: {reason}"
