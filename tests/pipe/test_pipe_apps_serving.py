"""The node's end: real applications behind a link."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway_pipe.apps import codec
from gateway_pipe.apps.codec import Message, Type
from gateway_pipe.link.model import Body, Head, Headers, Kind, Opening, StreamReset
from tests.pipe.app_stand import PATIENCE_S, LocalApp, local_app, node_with
from tests.pipe.links import Pair

OUTSIDE = (("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "gw.test"), ("X-Forwarded-Prefix", "/node/n/app"))


@pytest.fixture
async def app() -> AsyncIterator[LocalApp]:
    async with local_app() as running:
        yield running


@pytest.fixture
async def node(app: LocalApp) -> AsyncIterator[Pair]:
    """It publishes the application whole, and its folder ``base`` on its own."""
    async with node_with({"app": app.url, "below": f"{app.url}/base"}) as pair:
        yield pair


def asking(target: str, method: str = "GET", headers: Headers = ()) -> Opening:
    return Opening(kind=Kind.APP, method=method, target=target, headers=headers)


async def ask(node: Pair, opening: Opening, body: Body = b"") -> tuple[Head, bytes]:
    async with asyncio.timeout(PATIENCE_S), node.server.call(opening, body) as answer:
        return answer.head, await answer.read(1 << 24)


async def seen(node: Pair, opening: Opening, body: Body = b"") -> dict[str, Any]:
    head, told = await ask(node, opening, body)
    assert head.status == 200
    return json.loads(told)


async def test_the_target_arrives_as_it_was_written(node: Pair) -> None:
    assert (await seen(node, asking("app/a//b%2Fc/..%2F/?q=%20+&r")))["path"] == "/a//b%2Fc/..%2F/?q=%20+&r"
    assert (await seen(node, asking("app")))["path"] == "/"
    assert (await seen(node, asking("below/x?y")))["path"] == "/base/x?y"


@pytest.mark.parametrize("path", ["../x", "%2e%2e/x", "a/..%2f..%2fx", "..\\x"])
async def test_a_path_that_leaves_the_base_never_arrives(node: Pair, path: str) -> None:
    head, text = await ask(node, asking(f"below/{path}"))
    assert (head.status, text) == (400, b"the path leaves the application's")


async def test_an_application_that_is_not_published_is_404(node: Pair) -> None:
    for target in ("other/x", "", "/app", "http://127.0.0.1:1/"):
        head, _ = await ask(node, asking(target))
        assert head.status == 404


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_any_method_arrives(node: Pair, method: str) -> None:
    assert (await seen(node, asking("app/x", method)))["method"] == method


async def test_a_head_has_the_headers_of_a_get_and_no_body(node: Pair) -> None:
    head, body = await ask(node, asking("app/x", "HEAD"))
    assert (head.status, body) == (200, b"")
    assert int(head.header("Content-Length")) > 0


async def test_connect_reaches_nothing(node: Pair) -> None:
    head, _ = await ask(node, asking("app/x", "CONNECT"))
    assert head.status == 405


async def test_the_host_is_the_applications_own_and_nothing_is_added(node: Pair, app: LocalApp) -> None:
    given = (("Accept", "x/y"), ("Cookie", "a=1; b=2"), ("Authorization", "Basic eDp5"), ("Host", "evil"), *OUTSIDE)
    headers = (await seen(node, asking("app/x", headers=(*given, ("Connection", "X-Gone"), ("X-Gone", "1")))))[
        "headers"
    ]
    kept = [list(pair) for pair in given if pair[0] != "Host"]
    assert sorted(headers) == sorted([*kept, ["Host", app.url.removeprefix("http://")]])


async def test_the_origin_fits_the_host_where_the_page_is_the_applications_own(node: Pair, app: LocalApp) -> None:
    for origin, told in (("https://gw.test", app.url), ("https://evil.test", "https://evil.test"), ("null", "null")):
        headers = dict((await seen(node, asking("app/x", headers=(*OUTSIDE, ("Origin", origin)))))["headers"])
        assert headers["Origin"] == told


@pytest.mark.parametrize(
    "headers", [(("Content-Length", str(5 << 20)),), (("Transfer-Encoding", "chunked"),)], ids=["length", "chunked"]
)
async def test_a_body_of_megabytes_goes_both_ways(node: Pair, headers: Headers) -> None:
    data = bytes(range(256)) * (5 << 12)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    _, body = await ask(node, asking("app/body", "PUT", headers), chunks())
    assert body == data


async def test_an_answer_streams_while_the_request_is_still_sent(node: Pair) -> None:
    more = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        await more.wait()
        yield b"two"

    opening = asking("app/body", "POST", (codec.CHUNKED,))
    async with asyncio.timeout(PATIENCE_S), node.server.call(opening, chunks()) as answer:
        received = aiter(answer)
        assert await anext(received) == b"one"
        more.set()
        assert await anext(received) == b"two"


async def test_an_answer_before_the_end_of_the_request_ends_both(node: Pair) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.Event().wait()

    head, body = await ask(node, asking("app/early", "POST", (codec.CHUNKED,)), endless())
    assert (head.status, body) == (413, b"enough")


async def test_events_pass_at_once(node: Pair, app: LocalApp) -> None:
    async with asyncio.timeout(PATIENCE_S), node.server.call(asking("app/stream")) as answer:
        received = aiter(answer)
        assert await anext(received) == b"data: 1\n\n"
        app.go.set()
        assert await anext(received) == b"data: 2\n\n"


async def test_a_caller_that_leaves_frees_the_application(node: Pair, app: LocalApp) -> None:
    async with asyncio.timeout(PATIENCE_S):
        async with node.server.call(asking("app/stream")) as answer:
            await anext(aiter(answer))
        assert await app.left.get() == "stream"


async def test_an_answer_that_breaks_off_is_never_whole(node: Pair, app: LocalApp) -> None:
    async with asyncio.timeout(PATIENCE_S), node.server.call(asking("app/cut")) as answer:
        received = aiter(answer)
        assert await anext(received) == b"half"
        app.go.set()
        with pytest.raises(StreamReset):
            await anext(received)


async def test_an_application_that_does_not_run_is_502_in_words_without_its_address(node: Pair, app: LocalApp) -> None:
    await app.stop()
    for headers in ((), (codec.UPGRADE,)):
        head, text = await ask(node, asking("app/x", headers=headers))
        assert (head.status, text) == (502, b"the application app is not running: connection refused")


async def test_redirects_are_passed_on_from_the_root_of_the_application(node: Pair, app: LocalApp) -> None:
    for location, told in ((f"{app.url}/base/x", "/x"), ("/base/x", "/x"), ("https://other/", "https://other/")):
        head, _ = await ask(node, asking(f"below/x?status=302&Location={location}"))
        assert (head.status, head.header("Location")) == (302, told)


async def test_paths_of_cookies_begin_at_the_root_of_the_application(node: Pair) -> None:
    head, _ = await ask(node, asking("below/mine"))
    assert head.header("Set-Cookie") == "a=1; Path=/; Domain=apps.test; HttpOnly"


async def test_a_compressed_answer_stays_as_it_is(node: Pair) -> None:
    head, body = await ask(node, asking("app/x?Content-Encoding=identity"))
    assert head.header("Content-Encoding") == "identity"
    assert int(head.header("Content-Length")) == len(body)


class Talk:
    """A caller's end of a WebSocket over a link."""

    def __init__(self) -> None:
        self.saying: asyncio.Queue[bytes | None] = asyncio.Queue()

    def say(self, message: Message) -> None:
        self.saying.put_nowait(message.encoded())

    async def said(self) -> AsyncIterator[bytes]:
        while (data := await self.saying.get()) is not None:
            yield data


def socket(target: str = "app/ws", headers: Headers = ()) -> Opening:
    return asking(target, headers=(codec.UPGRADE, *headers))


async def test_messages_of_a_websocket_go_both_ways(node: Pair) -> None:
    talk = Talk()
    opening = socket(headers=(("Sec-WebSocket-Protocol", "v0, v1"),))
    async with asyncio.timeout(PATIENCE_S), node.server.call(opening, talk.said()) as answer:
        assert (answer.head.status, answer.head.headers) == (101, (("Sec-WebSocket-Protocol", "v1"),))
        heard = codec.messages(answer)
        for sent in (
            Message(Type.TEXT, "grüße".encode()),
            Message(Type.BINARY, bytes(300_000)),
            Message(Type.TEXT, b""),
        ):
            talk.say(sent)
            assert await anext(heard) == sent


async def test_a_close_of_the_application_comes_with_its_code(node: Pair) -> None:
    talk = Talk()
    async with asyncio.timeout(PATIENCE_S), node.server.call(socket(), talk.said()) as answer:
        talk.say(Message(Type.TEXT, b"close"))
        heard = [message async for message in codec.messages(answer)]
        assert [message.closing() for message in heard] == [(4001, b"as asked")]


async def test_a_close_of_the_caller_comes_with_its_code(node: Pair, app: LocalApp) -> None:
    talk = Talk()
    async with asyncio.timeout(PATIENCE_S), node.server.call(socket(), talk.said()) as answer:
        talk.say(Message.close(4002, "enough"))
        assert [message async for message in codec.messages(answer)] == []
        assert await app.closed.get() == (4002, "enough")


async def test_an_application_is_told_when_its_caller_is_gone(node: Pair, app: LocalApp) -> None:
    talk = Talk()
    async with asyncio.timeout(PATIENCE_S):
        async with node.server.call(socket(), talk.said()):
            pass
        assert (await app.closed.get())[0] == 1001


async def test_a_websocket_that_breaks_off_breaks_the_stream(node: Pair) -> None:
    talk = Talk()
    async with asyncio.timeout(PATIENCE_S), node.server.call(socket(), talk.said()) as answer:
        talk.say(Message(Type.TEXT, b"cut"))
        with pytest.raises(StreamReset):
            await anext(codec.messages(answer))


async def test_a_handshake_that_is_refused_is_an_answer_like_others(node: Pair) -> None:
    assert await ask_socket(node, "app/ws?refuse=1") == (403, b"not you")


async def test_a_handshake_follows_no_redirect(node: Pair, app: LocalApp) -> None:
    status, _ = await ask_socket(node, f"app/x?status=302&Location={app.url}/ws")
    assert status == 302


async def ask_socket(node: Pair, target: str) -> tuple[int, bytes]:
    head, body = await ask(node, socket(target))
    return head.status, body


async def test_keys_and_extensions_of_a_handshake_are_the_nodes_own(node: Pair, app: LocalApp) -> None:
    given = (("Sec-WebSocket-Key", "mine"), ("Sec-WebSocket-Extensions", "permessage-deflate"), ("Cookie", "a=1"))
    talk = Talk()
    async with asyncio.timeout(PATIENCE_S), node.server.call(socket("app/ws?tell=1", given), talk.said()) as answer:
        headers = json.loads((await anext(codec.messages(answer))).payload)
    assert headers["Sec-WebSocket-Key"] != "mine"
    assert "Sec-WebSocket-Extensions" not in headers
    assert (headers["Cookie"], headers["Host"]) == ("a=1", app.url.removeprefix("http://"))
