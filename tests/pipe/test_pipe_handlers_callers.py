"""For programs that call: exceptions raised again; for those who watch: statsd."""

from __future__ import annotations

import json
import pickle
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

from gateway_pipe import PipeFailError, raise_for_exception
from gateway_pipe.handlers.statsd import Statsd
from tests.pipe.handling import handling

RAISED = {"exception": {"message": "no", "traceback": "Traceback ...", "class": "LookupError"}}


class Got:
    """A response with ``headers`` and ``text``, as old versions of clients have."""

    def __init__(self, code, text, name="X-Event-Return-Code"):
        self.headers = {name: code}
        self.text = text


@pytest.mark.parametrize("name", ["X-Event-Return-Code", "x-event-return-code"])
@pytest.mark.parametrize("pair", [True, False])
def test_an_exception_of_a_handler_is_raised_again(name, pair):
    body = json.dumps(RAISED)
    with pytest.raises(PipeFailError) as raised:
        raise_for_exception(({name: "251"}, body.encode()) if pair else Got("251", body, name))
    error = raised.value
    assert (error.error_message, error.error_traceback) == ("no", "Traceback ...")
    assert (error.error_class_name, error.return_code) == ("LookupError", 251)
    assert str(error) == "(251) [LookupError] no"


def test_a_noun_that_is_not_there_is_raised_though_its_body_is_empty():
    with pytest.raises(PipeFailError) as raised:
        raise_for_exception(Got("255", ""))
    assert raised.value.return_code == 255
    assert raised.value.error_message


@pytest.mark.parametrize("body", ["", "nonsense", "[]", '{"exception": 1}', '{"exception": null}', "\x00"])
def test_a_failure_without_its_usual_body_is_raised_as_well(body):
    with pytest.raises(PipeFailError):
        raise_for_exception(Got("251", body))


@pytest.mark.parametrize("headers", [{}, {"X-Event-Return-Code": "0"}, {"X-Event-Return-Code": "7"}])
def test_other_codes_are_the_handlers_own_business(headers):
    assert raise_for_exception((headers, json.dumps(RAISED))) is None


def test_the_error_can_be_pickled():
    told = {"error_message": "no", "error_traceback": "trace", "error_class_name": "LookupError", "return_code": 251}
    error = pickle.loads(pickle.dumps(PipeFailError(**told)))
    assert (error.error_class_name, error.return_code) == ("LookupError", 251)


async def test_what_a_handler_raises_is_raised_at_the_caller():
    class Handlers:
        def get_fail(self, ctx, post_data):
            raise LookupError("no such thing")

    async with handling(Handlers()) as link:
        got = await link.ask("fail")
    with pytest.raises(PipeFailError, match="no such thing") as raised:
        raise_for_exception(({"X-Event-Return-Code": str(got.code)}, got.body))
    assert "in get_fail" in raised.value.error_traceback


@contextmanager
def answering(code, body):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("X-Event-Return-Code", code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args): ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        thread.join(10)


def test_responses_of_requests_are_understood():
    with answering("251", json.dumps(RAISED).encode()) as url, requests.get(url, timeout=10) as response:
        with pytest.raises(PipeFailError, match="LookupError"):
            raise_for_exception(response)


def test_the_helper_for_callers_loads_nothing_else():
    code = (
        "import sys; from gateway_pipe import raise_for_exception;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'gateway_core', 'aiohttp', 'structlog'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_handlers_run_in_a_lean_program():
    code = (
        "import sys; import gateway_pipe.handlers.runner, gateway_pipe.handlers.statsd, gateway_pipe.handlers.builtin;"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'aiohttp', 'pydantic', 'sqlalchemy', 'prometheus_client'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture
def listener():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(10)
        yield udp


async def test_statsd_gets_a_call_under_the_names_of_restpipe(listener):
    class Handlers:
        def get_time(self, ctx, post_data):
            return 1

    statsd = Statsd(listener.getsockname())
    async with handling(Handlers(), metrics=statsd) as link:
        await link.ask("time")
        known = listener.recv(1500).decode().splitlines()
        await link.ask("nothing")
        unknown = listener.recv(1500).decode().splitlines()
    statsd.close()
    names = ["message.receive.tick", "message.receive.handle.timing"]
    method = ["message.received.handle.get_time.tick", "message.received.handle.get_time.timing"]
    assert [line.partition(":")[0] for line in known] == names + method
    assert [line.partition(":")[0] for line in unknown] == names
    assert known[0].endswith(":1|c")
    assert float(known[1].removesuffix("|ms").partition(":")[2]) > 0


def test_statsd_gets_ticks_and_timings(listener):
    statsd = Statsd(listener.getsockname())
    statsd.tick("message.send.tick")
    statsd.timing("message.send.timing", 1.5)
    assert listener.recv(1500) == b"message.send.tick:1|c"
    assert listener.recv(1500) == b"message.send.timing:1.500|ms"
    statsd.close()


@pytest.mark.parametrize("address", [None, ("127.0.0.1", 9), ("no-such-host.invalid", 8125)])
def test_statsd_harms_nobody_when_it_is_off_or_away(address):
    statsd = Statsd(address)
    for _ in range(3):
        statsd.tick("a")
        statsd.timing("b", 1)
        statsd.handled("get_time", 0.1)
    statsd.close()
    statsd.tick("a")
