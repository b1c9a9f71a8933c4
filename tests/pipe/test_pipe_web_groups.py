"""``/group/<selector>/<noun>``: one call to many nodes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from gateway_core.testing.harness import RunningGateway, running_gateway
from gateway_pipe.link.model import Head, Incoming
from gateway_pipe.web.groups import AT_ONCE
from tests.pipe.web_nodes import PATIENCE_S, Serve, gone, node, told

pytestmark = pytest.mark.asyncio(loop_scope="module")
JSON = Head(headers=(("Content-Type", "application/json"),))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[RunningGateway]:
    """One for all; every test has nodes of its own."""
    settings = {"plugins": "pipe", "pipe": {"wait_for_node": 5, "call_timeout": 5}}
    async with running_gateway(
        tmp_path_factory.mktemp("groups"), settings=settings, templates=gateway_templates
    ) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def session(gateway: RunningGateway) -> AsyncIterator[ClientSession]:
    async with gateway.session(headers={"Authorization": await gateway.secret()}) as http:
        yield http


def saying(body: bytes, head: Head = JSON) -> Serve:
    async def serve(incoming: Incoming) -> None:
        await incoming.answer(head, body)

    return serve


class Stuck:
    """Answers nothing, and notes that it was asked and cancelled."""

    def __init__(self) -> None:
        self.asked, self.cancelled = asyncio.Event(), asyncio.Event()

    async def __call__(self, incoming: Incoming) -> None:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


async def nodes(stack: AsyncExitStack, gateway: RunningGateway, serving: dict[str, Serve], tag: str = "") -> None:
    for name, serve in serving.items():
        await stack.enter_async_context(node(gateway, name, serve, tags=(tag,) if tag else ()))


async def asked(session: ClientSession, path: str, **options: Any) -> tuple[dict[str, dict], dict]:
    """The nodes' lines by name, and the summary."""
    async with session.request(options.pop("method", "GET"), path, **options) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "application/x-ndjson"
        *lines, last = [json.loads(line) for line in (await answer.text()).splitlines()]
    return {line["node"]: line for line in lines}, last["summary"]


async def test_all_nodes_with_a_tag_answer(gateway: RunningGateway, session: ClientSession) -> None:
    async with AsyncExitStack() as stack:
        await nodes(stack, gateway, {f"tagged{n}": saying(b'{"n": %d}' % n) for n in range(3)}, "web")
        await nodes(stack, gateway, {"untagged": saying(b"{}")})
        lines, summary = await asked(session, "/group/web/time")
    assert {name: line["data"] for name, line in lines.items()} == {f"tagged{n}": {"n": n} for n in range(3)}
    assert {(line["status"], line["code"], line["content_type"]) for line in lines.values()} == {
        (200, 0, "application/json")
    }
    assert all(line["ms"] >= 0 for line in lines.values())
    assert summary == {"matched": 3, "answered": 3, "failed": [], "cancelled": [], "away": [], "quorum": True}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("p*", {"p1", "p2"}), ("p1", {"p1"}), ("%3F1", {"p1"}), ("p[2-9]", {"p2"}), ("*1", {"p1"})],
)
async def test_nodes_match_by_pattern(
    gateway: RunningGateway, session: ClientSession, pattern: str, names: set[str]
) -> None:
    async with AsyncExitStack() as stack:
        await nodes(stack, gateway, {name: saying(b"1") for name in ("p1", "p2", "q3")})
        lines, _ = await asked(session, f"/group/{pattern}/x")
    assert set(lines) == names


async def test_every_node_gets_the_whole_request(gateway: RunningGateway, session: ClientSession) -> None:
    async with AsyncExitStack() as stack:
        await nodes(stack, gateway, {"whole1": told, "whole2": told})
        lines, _ = await asked(session, "/group/whole*/cat//a%2Fb?x=1", method="POST", data=b"body")
    for line in lines.values():
        seen = line["data"]
        assert (seen["method"], seen["target"], seen["body"]) == ("POST", "cat//a%2Fb?x=1", "body")
        assert "authorization" not in {name.lower() for name, _ in seen["headers"]}


@pytest.mark.parametrize(
    ("query", "headers", "target"),
    [
        ("?quorum=1&timeout=3", {}, "x"),
        ("?a=1&quorum=1&b=2&timeout=3", {}, "x?a=1&b=2"),
        ("?quorum=7&timeout=abc", {"X-Pipe-Quorum": "1", "X-Request-Timeout": "3"}, "x?quorum=7&timeout=abc"),
        ("?quorum=7&timeout=3", {"X-Pipe-Quorum": "1"}, "x?quorum=7"),
        ("?quorums=7&xtimeout", {}, "x?quorums=7&xtimeout"),
    ],
)
async def test_what_is_for_the_group_is_not_for_the_nouns(
    gateway: RunningGateway, session: ClientSession, query: str, headers: dict[str, str], target: str
) -> None:
    async with node(gateway, "queried", told):
        lines, _ = await asked(session, f"/group/queried/x{query}", headers=headers)
    assert lines["queried"]["data"]["target"] == target


@pytest.mark.parametrize(
    "query", ["quorum=0", "quorum=", "quorum=x", "quorum=-1", "timeout=0", "timeout=x", "timeout="]
)
async def test_numbers_that_are_none_are_refused_by_name(
    gateway: RunningGateway, session: ClientSession, query: str
) -> None:
    async with node(gateway, "refused"), session.get(f"/group/refused/x?{query}") as answer:
        assert answer.status == 400
        assert query.partition("=")[0] in (await answer.json())["detail"].lower()


async def test_a_quorum_ends_it_and_cancels_the_rest(gateway: RunningGateway, session: ClientSession) -> None:
    stuck = Stuck()
    async with AsyncExitStack() as stack:
        await nodes(stack, gateway, {"q1": saying(b"1"), "q2": saying(b"2"), "q3": stuck})
        lines, summary = await asked(session, "/group/q*/x?quorum=2")
        async with asyncio.timeout(PATIENCE_S):
            await stuck.cancelled.wait()
    assert set(lines) == {"q1", "q2"}
    assert (summary["answered"], summary["cancelled"], summary["quorum"]) == (2, ["q3"], True)


async def test_only_good_answers_count_for_the_quorum(gateway: RunningGateway, session: ClientSession) -> None:
    async with AsyncExitStack() as stack:
        await nodes(stack, gateway, {"g1": saying(b"1", Head(status=502, code=251)), "g2": saying(b"2")})
        lines, summary = await asked(session, "/group/g*/x?quorum=2")
    assert (lines["g1"]["code"], lines["g1"]["status"]) == (251, 502)
    assert (summary["answered"], summary["quorum"]) == (2, False)


async def test_who_does_not_answer_in_time_has_failed(gateway: RunningGateway, session: ClientSession) -> None:
    stuck = Stuck()
    async with AsyncExitStack() as stack:
        await nodes(stack, gateway, {"t1": saying(b"1"), "t2": stuck})
        lines, summary = await asked(session, "/group/t*/x?timeout=0.2")
        async with asyncio.timeout(PATIENCE_S):
            await stuck.cancelled.wait()
    assert (lines["t2"]["status"], summary["failed"], summary["quorum"]) == (504, ["t2"], False)
    assert lines["t2"]["error"]


async def test_a_node_whose_link_breaks_has_failed(gateway: RunningGateway, session: ClientSession) -> None:
    stuck = Stuck()
    async with AsyncExitStack() as stack:
        await nodes(stack, gateway, {"b1": saying(b"1")})
        link = await stack.enter_async_context(node(gateway, "b2", stuck))
        call = asyncio.create_task(asked(session, "/group/b*/x"))
        async with asyncio.timeout(PATIENCE_S):
            await stuck.asked.wait()
            link.drop("cut")
            lines, summary = await call
    assert (lines["b2"]["status"], summary["failed"]) == (502, ["b2"])


async def test_who_is_away_is_told_and_not_waited_for(gateway: RunningGateway, session: ClientSession) -> None:
    async with node(gateway, "a1", saying(b"1")):
        async with node(gateway, "a2"):
            pass
        await gone(gateway, "a2")
        lines, summary = await asked(session, "/group/a*/x")
    assert set(lines) == {"a1"}
    assert (summary["matched"], summary["away"], summary["quorum"]) == (2, ["a2"], False)


async def test_answers_come_as_they_are_there(gateway: RunningGateway, session: ClientSession) -> None:
    async with AsyncExitStack() as stack:
        await nodes(stack, gateway, {"s1": saying(b"1"), "s2": Stuck()})
        async with session.get("/group/s*/x") as answer, asyncio.timeout(PATIENCE_S):
            assert json.loads(await answer.content.readline())["node"] == "s1"


async def test_a_caller_that_hangs_up_cancels_all(gateway: RunningGateway, session: ClientSession) -> None:
    stuck = [Stuck(), Stuck()]
    async with AsyncExitStack() as stack:
        await nodes(stack, gateway, {"h1": stuck[0], "h2": stuck[1]})
        async with session.get("/group/h*/x") as answer:
            async with asyncio.timeout(PATIENCE_S):
                for each in stuck:
                    await each.asked.wait()
                answer.close()
                for each in stuck:
                    await each.cancelled.wait()


@pytest.mark.parametrize(
    ("content_type", "body", "shown"),
    [
        ("application/json", b'{"a": [1, "\xc3\xbc"]}', {"data": {"a": [1, "ü"]}}),
        ("application/problem+json; charset=utf-8", b"null", {"data": None}),
        ("text/plain", "grüße\n".encode(), {"data": "grüße\n"}),
        ("text/plain; charset=latin-1", b"\xe9t\xe9", {"data": "été"}),
        ("text/plain", b"\xff", {"data_base64": "/w=="}),
        ("application/json", b"{not json", {"data_base64": base64.b64encode(b"{not json").decode()}),
        ("application/json", b"[NaN]", {"data_base64": base64.b64encode(b"[NaN]").decode()}),
        ("application/json", b"1e999", {"data_base64": base64.b64encode(b"1e999").decode()}),
        ("application/json", b"[" * 100_000, {"data_base64": base64.b64encode(b"[" * 100_000).decode()}),
        ("image/png", b"\x89PNG", {"data_base64": base64.b64encode(b"\x89PNG").decode()}),
        ("", b"", {"data_base64": ""}),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_answers_of_all_kinds_fit_into_a_line(
    gateway: RunningGateway, session: ClientSession, content_type: str, body: bytes, shown: dict[str, Any]
) -> None:
    head = Head(headers=(("Content-Type", content_type),) if content_type else ())
    async with node(gateway, "kinds", saying(body, head)):
        lines, _ = await asked(session, "/group/kinds/x")
    assert {key: value for key, value in lines["kinds"].items() if key.startswith("data")} == shown


async def test_an_answer_that_is_too_large_for_a_line_has_failed(
    gateway: RunningGateway, session: ClientSession
) -> None:
    async with node(gateway, "huge", saying(bytes(1_100_000))):
        lines, summary = await asked(session, "/group/huge/x")
    assert summary["failed"] == ["huge"]
    assert "1048576" in lines["huge"]["error"]


async def test_nothing_that_matches_is_404(session: ClientSession) -> None:
    async with session.get("/group/nothing*/x") as answer:
        assert answer.status == 404
        assert "nothing*" in (await answer.json())["detail"]


async def test_a_pattern_longer_than_any_name_holds_nobody_up(gateway: RunningGateway, session: ClientSession) -> None:
    async with node(gateway, "patterned"), session.get(f"/group/{'*' * 600}/x") as answer:
        assert answer.status == 404


async def test_many_nodes_are_all_asked(gateway: RunningGateway, session: ClientSession) -> None:
    async with AsyncExitStack() as stack:
        await nodes(stack, gateway, {f"many{n}": saying(b"%d" % n) for n in range(AT_ONCE + 3)})
        lines, summary = await asked(session, "/group/many*/x")
    assert (len(lines), summary["answered"], summary["quorum"]) == (AT_ONCE + 3, AT_ONCE + 3, True)


async def test_only_nodes_that_the_caller_may_call_are_meant(gateway: RunningGateway) -> None:
    async with AsyncExitStack() as stack:
        await nodes(stack, gateway, {"mine": saying(b"1"), "others": saying(b"2")}, "shared")
        secret = await gateway.secret("pipe:call:mine")
        http = await stack.enter_async_context(gateway.session(headers={"Authorization": secret}))
        lines, summary = await asked(http, "/group/shared/x")
        assert (set(lines), summary["matched"]) == ({"mine"}, 1)
        async with http.get("/group/others/x") as answer:
            assert answer.status == 404


async def test_a_group_without_a_credential_is_401(gateway: RunningGateway) -> None:
    async with gateway.session() as bare, bare.get("/group/any/x") as answer:
        assert answer.status == 401


async def test_head_of_a_group_calls_nobody(gateway: RunningGateway, session: ClientSession) -> None:
    stuck = Stuck()
    async with node(gateway, "head", stuck), session.head("/group/head/x") as answer:
        assert answer.status == 200
        assert not stuck.asked.is_set()
