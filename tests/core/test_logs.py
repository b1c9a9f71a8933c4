"""Logs: one line an event, in JSON where nobody watches, and never a secret in them."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway_core import Route, Unauthorized, hookimpl
from gateway_core.observe.logs import RequestLog, begin_context, configure_logging, get_logger, scrub
from gateway_core.testing.plugin import MakeGateway
from tests.core.log_state import logging_restored

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJja2FuIn0.c2lnbmF0dXJlLW9mLWNhbmFyeQ"


class Written:
    """What was logged, by line; ``lines`` are JSON objects."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        (line,) = self.lines
        return line


Configure = Callable[..., Written]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """``configured(log_format=...)`` sends all logs of the process to the Written it returns, until the test ends."""

    def configure(log_format: str = "json", level: str = "info", *, debug: bool = False) -> Written:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logging(level=level, log_format=log_format, debug=debug)
        return Written(stream)

    with logging_restored():
        yield configure


def failing(message: str) -> None:
    """Log an exception with that message."""
    try:
        raise ValueError(message)
    except ValueError:
        get_logger("gateway.test").exception("failed")


def test_a_line_is_json_with_time_level_logger_and_event(configured: Configure) -> None:
    written = configured()
    get_logger("gateway.test").info("ready", url="http://127.0.0.1:8000", pid=7)
    line = written.line
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "ready",
        "level": "info",
        "logger": "gateway.test",
        "url": "http://127.0.0.1:8000",
        "pid": 7,
    }


def test_lines_of_the_standard_library_look_the_same(configured: Configure) -> None:
    written = configured()
    logging.getLogger("some.library").warning("it took %d s", 3)
    line = written.line
    assert (line["event"], line["level"], line["logger"]) == ("it took 3 s", "warning", "some.library")
    assert line["timestamp"]


def test_json_is_what_comes_where_there_is_no_terminal(configured: Configure) -> None:
    written = configured("auto")
    get_logger("gateway.test").info("x")
    assert written.line["event"] == "x"


def test_warnings_of_libraries_are_lines_too(configured: Configure) -> None:
    written = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("an old thing", DeprecationWarning, stacklevel=1)
    assert "an old thing" in written.line["event"]


@pytest.mark.parametrize(
    ("level", "events"),
    [("debug", ["d", "i", "w", "e"]), ("info", ["i", "w", "e"]), ("warning", ["w", "e"]), ("error", ["e"])],
)
def test_the_level_is_a_setting(configured: Configure, level: str, events: list[str]) -> None:
    written = configured(level=level)
    log = get_logger("gateway.test")
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    assert [line["event"] for line in written.lines] == events


def test_what_a_request_began_with_stands_in_its_lines(configured: Configure) -> None:
    written = configured()
    begin_context(request_id="first")
    begin_context(request_id="second")
    get_logger("gateway.test").info("x")
    logging.getLogger("lib").warning("y")
    assert [line["request_id"] for line in written.lines] == ["second", "second"]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\x0b", "\x1b[2J", "\x00", "\x85", "\u2028"])
def test_nothing_a_client_sends_begins_a_line_or_moves_the_cursor(
    configured: Configure, log_format: str, end: str
) -> None:
    written = configured(log_format)
    forged = f'x{end}{{"event": "forged"}}'
    get_logger("gateway.test").info("request", path=forged, nested={"path": [forged]})
    get_logger("gateway.test").info(forged)
    logging.getLogger("lib").warning("said %s", forged)
    assert written.text.count("\n") == 3
    assert written.text.endswith("\n")
    assert end.strip("\n") == "" or end not in written.text
    assert len(written.text.splitlines()) == 3


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_half_a_surrogate_pair_does_not_stop_the_log(configured: Configure, log_format: str) -> None:
    written = configured(log_format)
    get_logger("gateway.test").info("request", path="/\ud800", header="caf\udce9")
    assert "ud800" in written.text
    written.text.encode()


SECRETS = {
    "gateway secret": "canary gw_canaryCANARYcanaryCANARYcanaryCANARY1234567890 ",
    "invitation": f"canary gwp_{'a0' * 8}_{'0' * 40}CANARY-_x ",
    "bearer": "Bearer gw_canaryCANARYcanaryCANARYcanaryCANARY1234567890",
    "bearer of another form": "Bearer canary.CANARY~canary",
    "token": f"canary? {JWT} ",
    "user info": "https://user:canary@host.example/path",
    "user alone": "http://canary@host.example/path",
    "signed query": "https://host.example/path?X-Amz-Signature=canary&x=canary",
    "fragment": "https://host.example/path#canary",
    "scheme in capitals": "HTTPS://user:canary@host.example/?canary",
    "database": "postgresql://gateway:canary@db.example/gateway",
    "redis": "redis://:canary@127.0.0.1:6379/0",
    "password with a slash": "postgresql://gateway:canary/x@db.example/gateway",
    "in brackets": "('https://host.example/?sig=canary', 5)",
    "in a link": "<https://host.example/?sig=canary>",
}
CANARY = ("canary@", "canary&", "=canary", "#canary", "?canary", "canary/x", ":canary", "CANARY", "c2lnbmF0dXJl")


def leaked(text: str) -> list[str]:
    return [canary for canary in CANARY if canary in text.replace("canary? ", "")]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("kind", SECRETS)
def test_planted_secrets_never_appear(configured: Configure, log_format: str, kind: str) -> None:
    written, secret = configured(log_format), SECRETS[kind]
    assert leaked(secret)
    log = get_logger("gateway.test")
    text = f"went to {secret}"
    log.info(text)
    log.info("values", url=secret, nested={"items": [{"url": secret}, (secret,)]}, error=ValueError(secret))
    log.info("with %s", secret)
    logging.getLogger("lib").error("library: %s", secret)
    logging.getLogger("lib").error("library: %(url)s", {"url": secret})
    failing(f"reached {secret} not")
    begin_context(url=secret)
    log.info("context")
    assert leaked(written.text) == []
    assert written.text.count("went to") == 1


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "key",
    [
        "secret",
        "client_secret",
        "Authorization",
        "password",
        "access_token",
        "Cookie",
        "api_key",
        "X-Api-Key",
        "apikey",
    ],
)
def test_values_under_telling_names_are_hidden_at_any_depth(configured: Configure, log_format: str, key: str) -> None:
    written = configured(log_format)
    get_logger("gateway.test").info(
        "x", **{key: "canary"}, headers={key: "canary"}, items=[{"more": {key: ["canary"]}}]
    )
    assert "canary" not in written.text
    assert written.text.count("***") == 3


def test_what_is_no_secret_stays_readable(configured: Configure) -> None:
    written = configured()
    get_logger("gateway.test").info(
        "allow it: GATEWAY_EGRESS_ALLOW=10.1.2.3",
        url="https://host.example/path/file.zip",
        count=3,
        share=0.5,
        none=None,
        yes=True,
        names=["a", "b"],
        email="mail to admin@host.example",
    )
    line = written.line
    assert line["event"] == "allow it: GATEWAY_EGRESS_ALLOW=10.1.2.3"
    assert line["url"] == "https://host.example/path/file.zip"
    assert (line["count"], line["share"], line["none"], line["yes"]) == (3, 0.5, None, True)
    assert line["names"] == ["a", "b"]
    assert line["email"] == "mail to admin@host.example"


def test_an_exception_is_one_json_line_with_its_traceback(configured: Configure) -> None:
    written = configured()
    failing("broken")
    assert "ValueError: broken" in written.line["exception"]
    assert "Traceback" in written.line["exception"]


def test_an_exception_is_a_readable_traceback_on_the_console(configured: Configure) -> None:
    written = configured("console")
    failing("broken")
    assert "\nTraceback (most recent call last):\n" in written.text
    assert "\nValueError: broken" in written.text


def test_objects_that_json_does_not_know_are_told_by_their_form(configured: Configure) -> None:
    written = configured()
    get_logger("gateway.test").info("x", path=__import__("pathlib").Path("/tmp"), some={1}, raw=b"\xff")
    assert written.line["event"] == "x"
    assert "/tmp" in str(written.line["path"])


@given(st.text())
def test_scrubbing_takes_any_text(text: str) -> None:
    assert isinstance(scrub(text), str)


@given(st.text(alphabet="ab:/@?#&=. '\"<>%", max_size=40))
def test_no_user_info_or_query_is_left_of_a_url(rest: str) -> None:
    text = scrub(f"https://u:canary@h.example/{rest}?canary#canary")
    assert "u:canary@" not in text


async def test_the_log_of_requests_has_no_secret_of_theirs(make_gateway: MakeGateway, configured: Configure) -> None:
    async def fails(request: web.Request) -> web.Response:
        """Fail with what was sent."""
        raise RuntimeError(f"could not fetch https://u:canary@h/?sig=canary for {request.headers['Authorization']}")

    async def refuses(_request: web.Request) -> web.Response:
        """Refuse."""
        raise Unauthorized("no")

    class Plugin:
        """Routes that log."""

        @hookimpl
        def gateway_routes(self) -> list[Route]:
            return [
                Route(method="GET", path="/fails", name="fails", handler=fails, public=True),
                Route(method="GET", path="/refuses", name="refuses", handler=refuses, public=True),
                Route(method="GET", path="/ticket/{id}", name="ticket", handler=refuses, public=True, cors=True),
            ]

    written = configured()
    async with make_gateway({"plugins": "probe"}, plugins={"probe": Plugin()}) as running, running.session() as session:
        _, secret = await running.add_client("admin")
        for path in ("/fails?token=canary", "/refuses?token=canary", "/ticket/canary-id?x=canary", "/a%0Ab?x=canary"):
            for method in ("GET", "POST", "OPTIONS"):
                for credential in (f"Bearer {secret}", f"Bearer {JWT}"):
                    headers = {"Authorization": credential, "Cookie": "session=canary", "Referer": "http://x/?canary"}
                    async with session.request(method, path, headers=headers) as response:
                        await response.read()
    assert secret not in written.text
    assert secret[10:40] not in written.text
    assert "canary" not in written.text
    requests = [line for line in written.lines if line["event"] == "request"]
    assert len(requests) == 24
    assert {"method", "path", "status", "route", "seconds", "client", "request_id"} <= requests[0].keys()
    assert {line["path"] for line in requests} == {"/fails", "/refuses", "/ticket/{id}", "/a\nb"}


async def test_probes_and_metrics_are_not_in_the_log(make_gateway: MakeGateway, configured: Configure) -> None:
    written = configured()
    async with make_gateway({"plugins": ""}) as running, running.session() as session:
        for path in ("/healthz", "/readyz", "/metrics", "/nowhere"):
            async with session.get(path) as response:
                await response.read()
    assert [line["path"] for line in written.lines if line["event"] == "request"] == ["/nowhere"]


REQUEST = {"method": "GET", "path": "/a", "status": 200, "seconds": 0.1, "client": "::1"}


def test_a_request_is_told_like_everything_else(configured: Configure) -> None:
    written = configured()
    begin_context(request_id="r1")
    RequestLog()("request", **REQUEST)
    get_logger(RequestLog.NAME).info("request", **REQUEST)
    fast, usual = written.lines
    assert [*fast] == [*usual]
    assert {**fast, "timestamp": ""} == {**usual, "timestamp": ""}
    assert len(fast["timestamp"]) == len(usual["timestamp"])


def test_a_request_whose_path_is_nasty_stays_one_line_without_secrets(configured: Configure) -> None:
    written = configured()
    RequestLog()("request", **{**REQUEST, "path": f"/a\n\x1b[2J\u2028/{JWT}"})
    assert len(written.text.splitlines()) == 1
    assert leaked(written.text) == []
    assert not {"\x1b", "\u2028"} & set(written.text)


def test_requests_are_not_told_above_their_level(configured: Configure) -> None:
    written = configured(level="warning")
    RequestLog()("request", **REQUEST)
    assert written.text == ""


def test_requests_reach_a_handler_that_somebody_added(configured: Configure) -> None:
    configured()
    stream = io.StringIO()
    logging.getLogger().addHandler(logging.StreamHandler(stream))
    RequestLog()("request", **REQUEST)
    assert "/a" in stream.getvalue()


def test_requests_are_readable_on_the_console(configured: Configure) -> None:
    written = configured("console")
    RequestLog()("request", **REQUEST)
    assert "request" in written.text
    assert not written.text.startswith("{")
