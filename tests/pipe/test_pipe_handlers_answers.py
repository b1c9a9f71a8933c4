"""What callers get of what handlers' methods do, over a real link."""

from __future__ import annotations

import asyncio
import datetime as dt
import json

import pytest

from gateway_pipe.handlers.builtin import NodeHandlers, ServerHandlers
from gateway_pipe.link.model import Kind, Opening, StreamReset
from tests.pipe.handling import handling


class Echo:
    """Tells what it got."""

    def post_echo(self, ctx, post_data):
        mimetype, data = post_data
        return {"mimetype": mimetype, "type": type(data).__name__, "data": data if type(data) is not bytes else None}

    get_echo = post_echo

    def post_bytes(self, ctx, post_data):
        return post_data[1]

    def get_ctx(self, ctx, post_data):
        return {
            "name": ctx.name,
            "query": ctx.query,
            "query_list": ctx.query_list,
            "header": ctx.headers["x-tRace"],
            "content_type": ctx.content_type,
            "deadline": ctx.deadline,
            "cancelled": bool(ctx.cancelled),
            "call_id": ctx.call_id,
            "key": ctx.idempotency_key,
        }

    async def get_two(self, ctx, post_data, one, two="2"):
        return [one, two]


class Results:
    """Returns what others put into it."""

    def __init__(self, value=None):
        self.value = value

    def get_plain(self, ctx, post_data):
        return self.value

    async def get_async(self, ctx, post_data):
        return self.value


class Broken:
    """Fails in every way."""

    def get_plain(self, ctx, post_data):
        raise LookupError("no such thing: ä")

    async def get_async(self, ctx, post_data):
        raise LookupError("no such thing: ä")

    def get_exit(self, ctx, post_data):
        raise SystemExit(3)

    async def get_async_exit(self, ctx, post_data):
        raise SystemExit(3)

    def get_stop(self, ctx, post_data):
        raise StopIteration

    async def get_cancelled(self, ctx, post_data):
        raise asyncio.CancelledError

    def get_timeout(self, ctx, post_data):
        raise TimeoutError("mine")

    def get_dumb(self, ctx, post_data):
        class Dumb(Exception):
            def __str__(self):
                raise ValueError

        raise Dumb


@pytest.mark.parametrize(
    ("handlers", "side"), [(ServerHandlers(), "server"), (NodeHandlers(), "client")], ids=["server", "node"]
)
async def test_the_examples_answer_as_restpipe_did(handlers, side):
    async with handling(handlers) as link:
        assert (await link.ask("cat//hello%20/world")).json == {f"result_from_{side}": "hello world"}
        assert list((await link.ask("time")).json) == [f"time_from_{side}"]


@pytest.mark.parametrize(
    ("kind", "body", "mimetype", "type_", "data"),
    [
        ("application/json", b'{"a": [1, "\xc3\xa4"]}', "application/json", "dict", {"a": [1, "ä"]}),
        ("application/problem+json; charset=utf-8", b"[1]", "application/problem+json", "list", [1]),
        ("application/json;charset=latin-1", b'"\xe4"', "application/json", "str", "ä"),
        ("application/json", b"", "application/json", "NoneType", None),
        ("text/plain", b"\xc3\xa4", "text/plain", "str", "ä"),
        ('Text/Plain; Charset="iso-8859-1"', b"\xe4", "text/plain", "str", "ä"),
        ("application/x-www-form-urlencoded", b"a=1", "application/x-www-form-urlencoded", "bytes", None),
        ("", b"abc", "", "bytes", None),
        ("", b"", "", "bytes", None),
    ],
)
async def test_a_body_arrives_as_its_type_says(kind, body, mimetype, type_, data):
    async with handling(Echo()) as link:
        got = await link.ask("echo", "POST", body, kind=kind)
        assert got.json == {"mimetype": mimetype, "type": type_, "data": data}


async def test_bytes_that_are_no_text_go_through_both_ways():
    data = bytes(range(256)) * 5000
    async with handling(Echo()) as link:
        got = await link.ask("bytes", "POST", data, kind="image/png")
        assert got.body == data
        assert got.head.header("Content-Type") == "application/octet-stream"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{half"),
        ("application/json", b"\xff\xfe\xfd"),
        ("application/json", b"[" * 100_000),
        ("application/json", b"1" * 300_000),
        ("application/json; charset=base64", b"e30="),
        ("text/plain", b"\xff"),
        ("text/plain; charset=klingon", b"x"),
    ],
)
async def test_a_body_that_is_not_what_it_says_is_told_and_the_link_lives(kind, body):
    async with handling(Echo()) as link:
        got = await link.ask("echo", "POST", body, kind=kind)
        assert (got.status, got.exception["class"], got.exception["traceback"]) == (400, "BadRequest", "")
        assert kind in got.exception["message"]
        assert (await link.ask("echo")).code == 0


async def test_a_body_over_the_limit_is_told_and_the_link_lives():
    async def endless():
        while True:
            yield b"x" * 60_000

    async with handling(Echo(), max_body_bytes=500_000) as link:
        got = await link.ask("bytes", "POST", endless())
        assert (got.status, got.exception["class"]) == (413, "TooLarge")
        assert (await link.ask("bytes", "POST", b"x" * 500_000)).body == b"x" * 500_000


async def test_the_method_is_told_of_the_call():
    more = {"headers": (("X-Trace", "t1"),), "call": "c1", "key": "k1", "timeout_ms": 60_000}
    async with handling(Echo()) as link:
        told = (await link.ask("ctx?a=1&b=%2F&a=2", kind="text/plain; charset=utf-8", **more)).json
    assert 0 < told.pop("deadline") <= 60
    assert told == {
        "name": "gateway",
        "query": {"a": "2", "b": "/"},
        "query_list": [["a", "1"], ["b", "/"], ["a", "2"]],
        "header": "t1",
        "content_type": "text/plain; charset=utf-8",
        "cancelled": False,
        "call_id": "c1",
        "key": "k1",
    }


@pytest.mark.parametrize(
    ("value", "kind", "code", "body"),
    [
        ({"a": 1}, "application/json", 0, b'{"a": 1}'),
        ("text", "application/json", 0, b'"text"'),
        (None, "application/json", 0, b"null"),
        (b"\x00\xff", "application/octet-stream", 0, b"\x00\xff"),
        (("text/plain", 0, "text"), "text/plain", 0, b"text"),
        (("text/plain", 7, "\xe4"), "text/plain; charset=utf-8", 7, b"\xc3\xa4"),
        (("text/plain; charset=latin-1", 0, "\xe4"), "text/plain; charset=latin-1", 0, b"\xe4"),
        (("application/json", 4294967295, '{"made": "before"}'), "application/json", 4294967295, b'{"made": "before"}'),
        (("application/json", 1, [1]), "application/json", 1, b"[1]"),
        ((None, 3, {"a": 1}), "application/json", 3, b'{"a": 1}'),
        (("text/plain", 0, None), "text/plain", 0, b""),
        (("image/png", 0, bytearray(b"\x89PNG")), "image/png", 0, b"\x89PNG"),
        (
            [[0] * 100] * 100,
            "application/json",
            0,
            b"[" + b", ".join([b"[" + b", ".join([b"0"] * 100) + b"]"] * 100) + b"]",
        ),
    ],
)
@pytest.mark.parametrize("noun", ["plain", "async"])
async def test_data_of_any_kind_is_sent(noun, value, kind, code, body):
    async with handling(Results(value)) as link:
        got = await link.ask(noun)
    assert (got.head.header("Content-Type"), got.code, got.status, got.body) == (kind, code, 200, body)
    assert got.head.header("Content-Length") == str(len(body))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (dt.datetime.now(), "not JSON serializable"),
        ({1, 2}, "not JSON serializable"),
        (float("nan"), "not JSON compliant"),
        ((1, 2), "(mimetype, code, data)"),
        (("text/plain", -1, "x"), "return code"),
        (("text/plain", 2**32, "x"), "return code"),
        (("text/plain", "0", "x"), "return code"),
        (("text/plain", True, "x"), "return code"),
        (("text/plain\r\nX-Evil: 1", 0, "x"), "media type"),
        ((7, 0, "x"), "media type"),
        (("text/plain", 0, {"a": 1}), "text or bytes"),
        (("text/plain; charset=ascii", 0, "ä"), "cannot be sent"),
        ([object()] * 60_000, "not JSON serializable"),
        (("text/plain", 0, "\ud800"), "cannot be sent"),
    ],
)
async def test_a_result_that_cannot_be_sent_is_told_and_the_link_lives(value, told):
    async with handling(Results(value)) as link:
        got = await link.ask("plain")
        assert (got.status, got.exception["class"]) == (502, "BadResult")
        assert told in got.exception["message"]
        assert (await link.ask("nothing")).code == 255


async def test_large_json_comes_through_both_ways():
    rows = [{"id": number, "name": "ä" * 20, "more": [None, True, 1.5, {}]} for number in range(8000)]
    async with handling(Echo()) as link:
        got = await link.ask("echo", "POST", json.dumps(rows).encode(), kind="application/json")
        assert got.json["data"] == rows


async def test_large_json_that_is_broken_is_the_callers_error():
    async with handling(Echo()) as link:
        got = await link.ask("echo", "POST", b'["' + b"x" * 1_100_000, kind="application/json")
        assert (got.status, got.exception["class"]) == (400, "BadRequest")


@pytest.mark.parametrize("count", [1, 60_000])
async def test_a_result_that_contains_itself_is_told(count):
    value: list = []
    value.extend([value] * count)
    async with handling(Results(value)) as link:
        assert "Circular" in (await link.ask("plain")).exception["message"]


@pytest.mark.parametrize("noun", ["plain", "async"])
async def test_an_exception_is_forwarded_with_message_class_and_traceback(noun):
    async with handling(Broken()) as link:
        got = await link.ask(noun)
    assert got.status == 502
    assert got.exception["message"] == "no such thing: ä"
    assert got.exception["class"] == "LookupError"
    assert f"in get_{noun}" in got.exception["traceback"]


@pytest.mark.parametrize(
    ("noun", "name"),
    [
        ("exit", "SystemExit"),
        ("async/exit", "SystemExit"),
        ("stop", "RuntimeError"),
        ("cancelled", "CancelledError"),
        ("timeout", "TimeoutError"),
        ("dumb", "Dumb"),
    ],
)
async def test_whatever_a_method_raises_the_caller_is_told_and_the_link_lives(noun, name):
    async with handling(Broken()) as link:
        assert (await link.ask(noun)).exception["class"] == name
        assert (await link.ask("plain")).exception["class"] == "LookupError"


async def test_a_noun_that_is_not_there_is_255_and_404():
    async with handling(Echo()) as link:
        got = await link.ask("nothing")
    assert (got.code, got.status, got.head.header("Content-Type"), got.body) == (255, 404, "text/plain", b"")


async def test_another_verb_than_the_noun_has_is_255_and_405():
    async with handling(Echo()) as link:
        got = await link.ask("echo", "DELETE")
        assert (got.code, got.status, got.head.header("Allow"), got.body) == (255, 405, "GET, POST, HEAD", b"")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("START", "hook"),
        ("CONNECTION", "added"),
        ("GET", "_class__"),
        ("_", "class__"),
        ("GET", "time.__class__"),
        ("GET", "time%00"),
        ("OPTIONS", "time"),
    ],
)
async def test_hooks_and_what_is_private_are_no_methods_for_callers(method, target):
    class Hooked(NodeHandlers):
        def connection_added(self, ctx, count):
            raise AssertionError("called by a caller")

        def start_hook(self, *args):
            assert not args

    from gateway_pipe.handlers.load import Handlers
    from gateway_pipe.handlers.runner import Runner
    from tests.pipe.handling import Got, opening

    class Asked:
        def __init__(self):
            self.opening = opening(target, method)

        def time_left_s(self):
            return None

        async def answer(self, head, body=b""):
            self.got = Got(head, body)

    asked = Asked()
    await Runner(Handlers.of([Hooked()])).serve(asked, "gateway")
    assert (asked.got.code, asked.got.body) == (255, b"")


@pytest.mark.parametrize("target", ["two", "two//1/2/3"])
async def test_arguments_that_do_not_fit_are_the_callers_error(target):
    async with handling(Echo()) as link:
        got = await link.ask(target)
        assert (got.status, got.exception["traceback"]) == (400, "")
        assert "argument" in got.exception["message"]
        assert (await link.ask("two//1")).json == ["1", "2"]


async def test_a_target_that_is_no_utf8_is_the_callers_error():
    async with handling(Echo()) as link:
        assert (await link.ask("two//%ff")).status == 400


async def test_head_gets_what_get_would_send_without_its_body():
    async with handling(Results({"a": 1})) as link:
        got = await link.ask("plain", "HEAD")
    assert (got.code, got.body, got.head.header("Content-Length")) == (0, b"", "8")


async def test_the_empty_noun_tells_what_there_is():
    async with handling(NodeHandlers()) as link:
        assert set((await link.ask("")).json["nouns"]) == {"cat", "time"}
        assert link.runner.nouns() == ("cat", "time")


async def test_a_handlers_own_method_for_the_empty_noun_wins():
    class Root:
        def get_(self, ctx, post_data):
            return "mine"

    async with handling(Root()) as link:
        assert (await link.ask("")).json == "mine"


async def test_only_nouns_are_answered():
    async with handling(NodeHandlers()) as link:
        with pytest.raises(StreamReset, match="only nouns"):
            async with link.pair.server.call(Opening(kind=Kind.APP, method="GET", target="time"), timeout_s=5):
                pass
