"""What is said to a gateway, whatever it answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import socket
import tempfile

import pytest
import trustme
from aiohttp import web

from gateway_core import ConfigError
from gateway_core.cli import Remote
from gateway_transform.client.line import Body
from gateway_transform.client.model import ClientError, Denied, JobGone, Unreachable
from gateway_transform.client.talk import Talk
from tests.transform.client_server import Server, Told, body_of, serving

JOB = "0123456789abcdef" * 2
DATA = os.urandom(700_000)
DIGEST = hashlib.sha256(DATA).hexdigest()

seen: list[tuple[web.Request, bytes]] = []
"""Requests of the running test, with the bytes that came."""


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


def saying(status: int = 200, text: str = "", **headers: str):
    """Reads the request and answers that; ``Retry_After`` is a header of that name."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def handle(request: web.Request) -> web.Response:
        seen.append((request, await request.read()))
        return web.Response(status=status, text=text, headers=named)

    return handle


def cutting(after_bytes: int):
    """Cuts the connection when so much of the request's body has come."""

    async def handle(request: web.Request) -> web.Response:
        seen.append((request, await request.content.readexactly(after_bytes)))
        request.transport.abort()
        return web.Response()

    return handle


def send(server: Server, *, strict: bool = False, patience_s: float = 20.0):
    return server.says(lambda talk: talk.send(body_of(DATA), strict=strict), patience_s=patience_s)


async def test_an_archive_is_sent_once_with_all_that_is_needed():
    async with serving([saying(200, JOB)]) as server:
        told: list[int] = []
        assert await server.says(lambda talk: talk.send(body_of(DATA, told), strict=True)) == JOB
    ((request, body),) = seen
    assert body == DATA
    assert (request.method, request.path_qs) == ("POST", "/job/?strict=1")
    assert request.headers["Authorization"] == "Bearer s3cret"
    assert request.headers["Content-Length"] == str(len(DATA))
    assert told == sorted(told)
    assert told[-1] == len(DATA)


async def test_a_server_below_a_path_is_asked_there():
    async with serving([saying(200, JOB)]) as server:
        talk = Talk(Remote(f"{server.url}/gateway"), Told())
        await asyncio.to_thread(talk.send, body_of(b"x"), strict=False)
    ((request, _),) = seen
    assert request.path_qs == "/gateway/job/"
    assert "Authorization" not in request.headers


@pytest.mark.parametrize("status", [429, 503, 409])
async def test_no_room_is_waited_for_and_the_upload_stays_one(status):
    problem = json.dumps({"title": "Busy", "detail": "500 of your jobs wait"})
    async with serving([saying(status, problem, Retry_After="0"), saying(200, JOB)]) as server:
        assert await send(server) == JOB
        (line,) = server.told.lines
        assert re.fullmatch(rf"the server says {status} [\w ]+: 500 of your jobs wait; trying again in 0 s", line)
    first, second = seen
    assert first[1] == second[1] == DATA
    assert first[0].headers["Idempotency-Key"] == second[0].headers["Idempotency-Key"]


async def test_an_upload_that_is_cut_is_sent_again_under_the_same_key():
    async with serving([cutting(100_000), saying(200, JOB)]) as server:
        assert await send(server) == JOB
    first, second = seen
    assert second[1] == DATA
    assert first[0].headers["Idempotency-Key"] == second[0].headers["Idempotency-Key"]


async def test_two_uploads_have_two_keys():
    async with serving([saying(200, JOB)]) as server:
        await send(server)
        await send(server)
    assert len({request.headers["Idempotency-Key"] for request, _ in seen}) == 2


async def test_patience_ends():
    async with serving([saying(429, Retry_After="60")]) as server:
        with pytest.raises(Unreachable, match="429 Too Many Requests"):
            await send(server, patience_s=5)
    assert len(seen) == 1


async def test_where_nobody_listens_is_told_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        talk = Talk(Remote(f"http://127.0.0.1:{free.getsockname()[1]}"), Told())
        with pytest.raises(Unreachable, match="Connection refused"):
            await asyncio.to_thread(talk.transformations)


async def test_a_server_that_refuses_steps_says_which():
    problem = {"title": "Invalid request", "errors": {"json": {"transformations.0.name": ["no such transformation"]}}}
    async with serving([saying(422, json.dumps(problem))]) as server:
        with pytest.raises(ConfigError, match=r"422.*: transformations.0.name: no such transformation"):
            await send(server, strict=True)


@pytest.mark.parametrize(
    ("status", "text", "error", "message"),
    [
        (403, "the client lacks scope transform:run", Denied, "lacks scope transform:run; give the secret"),
        (401, "", Denied, "401 Unauthorized; give the secret"),
        (404, "Not Found", JobGone, "the server says 404 Not Found$"),
        (410, "", JobGone, "410"),
        (400, '{"detail": "bad_input: no job.json"}', ConfigError, "bad_input: no job.json"),
        (413, '{"title": "Too large"}', ClientError, "413.*Too large"),
        (500, "<html>\nboom</html>", ClientError, "500 Internal Server Error: <html>$"),
        (302, "", ClientError, "302 Found"),
        (200, "<html>", ClientError, "not a job's id"),
    ],
)
async def test_every_other_answer_is_told_and_not_repeated(status, text, error, message):
    async with serving([saying(status, text)]) as server:
        with pytest.raises(error, match=message):
            await send(server)
    assert len(seen) == 1


async def test_an_early_refusal_is_read_before_all_is_sent():
    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"detail": "at most 1 MiB"}, status=413)

    sent: list[int] = []
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 30)
        async with serving([refuse]) as server:
            body = Body(file, 1 << 30, sent.append)
            with pytest.raises(ClientError, match="at most 1 MiB"):
                await server.says(lambda talk: talk.send(body, strict=False))
    assert max(sent, default=0) < 1 << 29


STATUS = {
    "id": JOB,
    "state": "running",
    "step": "html2pdf",
    "position": None,
    "error": None,
    "run_ms": 5,
    "result_sha256": None,
}


async def test_a_status_is_what_the_server_tells():
    async with serving([saying(200, json.dumps(STATUS))]) as server:
        status = await server.says(lambda talk: talk.status(JOB, wait_s=2))
    assert (status.state, status.step, status.final, status.run_ms) == ("running", "html2pdf", False, 5)
    assert seen[0][0].path_qs == f"/job/{JOB}/status?wait=2"


@pytest.mark.parametrize("text", ["", "[]", "{}", '"x"', '{"state": "failed", "run_ms": "soon"}'])
async def test_what_is_no_status_is_told(text):
    async with serving([saying(200, text)]) as server:
        with pytest.raises(ClientError):
            await server.says(lambda talk: talk.status(JOB, wait_s=2))


def sending(data: bytes, *, cut_at: int | None = None, ranges: bool = True):
    """Sends ``data``, from where it is asked for; cuts the connection after ``cut_at`` bytes."""

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append((request, b""))
        start = (request.http_range.start or 0) if ranges else 0
        answer = web.StreamResponse(status=206 if start else 200)
        answer.content_length = len(data) - start
        await answer.prepare(request)
        await answer.write(data[start : len(data) if cut_at is None else start + cut_at])
        if cut_at is not None:
            request.transport.close()
        return answer

    return handle


async def fetched(server: Server, sha256: str | None = DIGEST) -> bytes:
    with tempfile.TemporaryFile() as out:
        await server.says(lambda talk: talk.fetch(JOB, out, sha256=sha256))
        out.seek(0)
        return out.read()


@pytest.mark.parametrize("sha256", [DIGEST, None], ids=["checked", "unchecked"])
async def test_a_result_is_fetched(sha256):
    async with serving([sending(DATA)]) as server:
        assert await fetched(server, sha256) == DATA
    assert seen[0][0].path_qs == f"/job/{JOB}"


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_result_that_broke_off_is_fetched_to_its_end(ranges):
    async with serving([sending(DATA, cut_at=300_000), sending(DATA, ranges=ranges)]) as server:
        assert await fetched(server) == DATA
    assert seen[1][0].headers["Range"] == "bytes=300000-"


async def test_a_damaged_result_is_told():
    async with serving([sending(DATA[:-1] + bytes([DATA[-1] ^ 1]))]) as server:
        with pytest.raises(ClientError, match="damaged"):
            await fetched(server)


async def test_cancelling_asks_once():
    async with serving([saying(503)]) as server:
        with pytest.raises(Unreachable, match="could not be cancelled"):
            await server.says(lambda talk: talk.cancel(JOB))
    ((request, _),) = seen
    assert (request.method, request.path) == ("DELETE", f"/job/{JOB}")


async def test_a_proxy_of_the_environment_is_used(monkeypatch):
    async with serving([saying(200, "{}")]) as server:
        monkeypatch.setenv("http_proxy", server.url.replace("//", "//user:p%40ss@"))
        talk = Talk(Remote("http://gateway.test:8000/x"), Told())
        assert await asyncio.to_thread(talk.transformations) == {}
    ((request, _),) = seen
    assert str(request.url) == "http://gateway.test:8000/x/transformations/"
    assert request.headers["Proxy-Authorization"] == "Basic dXNlcjpwQHNz"


async def test_a_proxy_that_is_none_is_a_usage_error(monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(ConfigError, match="http_proxy names a proxy"):
        await asyncio.to_thread(Talk(Remote("http://gateway.test"), Told()).transformations)


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://host:99999", "http://a b", "http://h/\u00fc", "http://h:0"]
)
async def test_a_server_that_is_no_url_is_a_usage_error(url):
    with pytest.raises(ConfigError, match="not a server's URL"):
        await asyncio.to_thread(Talk(Remote(url), Told()).transformations)


async def test_a_certificate_of_nobody_is_told_at_once():
    async with serving([saying(200, "{}")], tls=trustme.CA().issue_cert("127.0.0.1")) as server:
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await server.says(Talk.transformations)


async def test_a_server_whose_certificate_is_trusted_gets_all_of_an_archive(tmp_path, monkeypatch):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with serving([saying(200, JOB)], tls=authority.issue_cert("127.0.0.1")) as server:
        assert await send(server) == JOB
    assert seen[0][1] == DATA
