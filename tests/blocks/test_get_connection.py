"""The HTTP client of downloads against servers that stall, cut, lie and redirect."""

from __future__ import annotations

import gzip
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import pytest

from gateway_blocks.get.connection import Answer, HttpClient
from gateway_blocks.get.model import Stopped, Unreachable
from gateway_core.errors import ConfigError
from gateway_core.testing.upstream import Upstream, upstream_thread
from gateway_core.testing.upstream_answer import Framing, Generated, Resource
from gateway_core.testing.upstream_behaviour import (
    BadChunk,
    Cut,
    Drip,
    Endless,
    Fault,
    Garbage,
    Headers,
    Length,
    Raw,
    Reset,
    Stall,
    Status,
)
from gateway_core.testing.upstream_exchange import Exchange
from gateway_core.version import __version__
from tests.blocks.get_serving import MakeClient, clients, stops, without_proxies

DATA = random.Random(2).randbytes(300_000)
PLENTY = 1 << 20


@dataclass(frozen=True)
class Slowing(Fault):
    """Half of the head, then silence."""

    async def play(self, exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\nContent-")
        await exchange.stall(None)
        exchange.answer.close = True


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    without_proxies(monkeypatch)


@pytest.fixture
def up() -> Iterator[Upstream]:
    with upstream_thread() as upstream:
        yield upstream


@pytest.fixture
def other() -> Iterator[Upstream]:
    with upstream_thread() as upstream:
        yield upstream


@pytest.fixture
def make() -> Iterator[MakeClient]:
    with clients() as make:
        yield make


def get(client: HttpClient, url: str, **headers: str) -> bytes:
    with client.open("GET", url, headers) as answer:
        return answer.read_all(PLENTY)


def read_required(answer: Answer, count_bytes: int) -> bytes:
    answer.require(count_bytes)
    return answer.read_all(PLENTY)


def read_into(answer: Answer, size: int) -> bytes:
    buffer, found = memoryview(bytearray(size)), b""
    while count := answer.readinto(buffer):
        found += buffer[:count]
    return found


@pytest.mark.parametrize("framing", list(Framing))
@pytest.mark.parametrize("size", [0, 1, len(DATA)])
@pytest.mark.parametrize("buffer_bytes", [100, 7919, 1 << 20])
def test_a_body_comes_whole_however_it_is_framed(up, make, framing, size, buffer_bytes):
    if size > 1000 > buffer_bytes:
        size = 1000  # many receives, not many seconds
    url = up.add("/a", Resource(DATA[:size], framing=framing))
    with make(url).open("GET", url, {}) as answer:
        assert (answer.status, answer.url) == (200, url)
        assert answer.length == (size if framing is Framing.LENGTH else None)
        assert read_into(answer, buffer_bytes) == DATA[:size]
        assert answer.readinto(memoryview(bytearray(10))) == 0


def test_headers_are_found_in_any_case(up, make):
    url = up.add("/a", Resource(b"", headers={"X-Thing": "yes"}))
    with make(url).open("GET", url, {}) as answer:
        assert answer.headers.get("x-tHING") == "yes"


def test_any_status_is_an_answer(up, make):
    url = up.add("/a", b"", Status(418))
    with make(url).open("GET", url, {}) as answer:
        assert (answer.status, answer.read_all(100)) == (418, b"status 418\n")


def test_head_tells_the_length_of_what_it_leaves_out(up, make):
    url, client = up.add("/a", DATA), make("http://h")
    with client.open("HEAD", url, {}) as answer:
        assert answer.length == len(DATA)
        assert answer.read_all(0) == b""
    assert get(client, url) == DATA
    assert up.total_connections == 1


@pytest.mark.parametrize("framing", [Framing.LENGTH, Framing.CHUNKED])
def test_requests_of_a_client_share_a_connection(up, make, framing):
    url = up.add("/a", Resource(DATA, framing=framing))
    client = make(url)
    for _ in range(3):
        get(client, url)
    assert [request.connection for request in up.requests] == [1, 1, 1]


def test_a_body_that_was_not_read_costs_the_connection(up, make):
    url = up.add("/a", DATA)
    client = make(url)
    client.open("GET", url, {}).close()
    assert get(client, url) == DATA
    assert up.total_connections == 2


def test_a_short_rest_can_be_thrown_away_for_the_connection(up, make):
    url = up.add("/a", b"", Status(404))
    client = make(url)
    for _ in range(2):
        with client.open("GET", url, {}) as answer:
            answer.discard()
    assert up.total_connections == 1


def test_a_long_rest_is_not_waited_for(up, make):
    url = up.add("/a", Generated(1 << 40))
    with make(url).open("GET", url, {}) as answer:
        answer.discard()
    up.sync(up.wait_disconnected())


def test_two_answers_at_once_have_a_connection_each(up, make):
    url = up.add("/a", DATA)
    client = make(url)
    with client.open("GET", url, {}) as one, client.open("GET", url, {}) as two:
        assert two.read_all(PLENTY) == one.read_all(PLENTY) == DATA


def test_a_kept_connection_that_the_server_closed_is_replaced_unseen(up, make):
    first, second = up.add("/first", b"x"), up.add("/second", DATA, Cut(times=1))
    client = make(first)
    get(client, first)
    assert get(client, second) == DATA
    assert [request.connection for request in up.seen("/second")] == [1, 2]


def test_a_connection_closed_between_requests_is_not_used_again(up, make):
    url = up.add("/a", DATA, Length(0, times=1))
    client = make(url)
    get(client, url)
    up.sync(up.wait_disconnected())
    assert get(client, url) == DATA
    assert len(up.requests) == 2


def test_bytes_that_nobody_asked_for_are_not_taken_for_an_answer(up, make):
    url, after = up.add("/a", b"x", Garbage(times=1)), up.add("/b", DATA)
    client = make(url)
    get(client, url)
    up.sync(up.wait_for(lambda: up.active_requests == 1))
    assert get(client, after) == DATA


def test_a_new_connection_that_is_closed_is_not_tried_again(up, make):
    url = up.add("/a", DATA, Cut())
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:\d+ closed the connection without an answer"):
        get(make(url), url)
    assert len(up.requests) == 1


def test_post_is_never_repeated(up, make):
    first, second = up.add("/first", b"x"), up.add("/second", b"", Cut(times=1))
    client = make(first)
    get(client, first)
    with pytest.raises(Unreachable):
        client.open("POST", second, {}, body=b"{}")
    assert len(up.seen("/second")) == 1


def test_a_body_is_sent_with_its_length(up, make):
    url = up.add("/a")
    with make(url).open("POST", url, {"Content-Type": "application/json"}, body=b"{}"):
        pass
    assert (up.requests[0].body, up.requests[0].headers["Content-Length"]) == (b"{}", "2")


def test_requests_name_their_program_and_want_no_coding(up, make):
    url = up.add("/a")
    get(make(url), url)
    headers = up.requests[0].headers
    assert headers["User-Agent"] == f"content-gateway/{__version__}"
    assert headers["Accept-Encoding"] == "identity"
    assert headers.getall("Host") == [f"127.0.0.1:{up.port}"]


# Redirects, and what may follow them


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(up, make, status):
    up.add("/x/b%20c", DATA)
    url = up.redirect("/x/a", "b c?q=1#end", status)
    with make(url).open("GET", url, {"Range": "bytes=0-9"}) as answer:
        assert answer.url == f"{up.base_url}/x/b%20c?q=1"
        assert answer.read_all(100) == DATA[:10]
    assert up.total_connections == 1


def test_a_redirect_may_be_spelt_in_utf8(up, make):
    up.add("/na%C3%AFve", b"found")
    url = up.redirect("/a", "/na\u00efve".encode().decode("latin-1"))
    assert get(make(url), url) == b"found"


def test_redirects_in_a_circle_end(up, make):
    url = up.redirect("/a", "/a")
    with pytest.raises(Unreachable, match="redirected more than 10 times"):
        get(make(url), url)
    assert len(up.requests) == 11


@pytest.mark.parametrize("location", ["ftp://h/a", "file:///etc/passwd", "http://[/", "http://h:0/", "//h h/"])
def test_redirects_elsewhere_are_refused(up, make, location):
    url = up.redirect("/a", location)
    with pytest.raises(Unreachable, match="redirected to what is no"):
        get(make(url), url)


def test_a_redirect_without_a_place_is_an_answer(up, make):
    url = up.add("/a", b"", Status(302))
    with make(url).open("GET", url, {}) as answer:
        assert answer.status == 302


def test_post_follows_no_redirect(up, make):
    url = up.redirect("/a", "/b")
    with make(url).open("POST", url, {}, body=b"") as answer:
        assert answer.status == 302


def test_credentials_do_not_leave_their_origin_with_a_redirect(up, other, make):
    url = up.redirect("/a", other.add("/b", DATA)).replace("http://", "http://user:pass@")
    client = make(url, headers={"Cookie": "c=1", "X-Key": "k"})
    with client.open("GET", url, {"Range": "bytes=1-2"}) as answer:
        assert answer.read_all(10) == DATA[1:3]
    told = up.requests[0].headers
    assert (told["Authorization"], told["Cookie"], told["X-Key"]) == ("Basic dXNlcjpwYXNz", "c=1", "k")
    assert other.requests[0].headers["Range"] == "bytes=1-2"
    assert not {"Authorization", "Cookie", "X-Key"} & set(other.requests[0].headers)


def test_credentials_that_were_dropped_do_not_come_back(up, other, make):
    up.add("/end", b"x")
    back = other.redirect("/back", f"{up.base_url}/end")
    url = up.redirect("/a", back)
    get(make(url, headers={"Authorization": "secret"}), url)
    assert "Authorization" in up.requests[0].headers
    assert "Authorization" not in up.requests[1].headers


def test_credentials_stay_on_their_origin(up, make):
    up.add("/b", b"x")
    url = up.redirect("/a", "/b").replace("http://", "http://user:pass@")
    get(make(url), url)
    assert up.requests[1].headers["Authorization"] == "Basic dXNlcjpwYXNz"


def test_a_password_in_a_redirect_is_not_sent(up, make):
    up.add("/b", b"x")
    url = up.redirect("/a", f"http://user:pass@127.0.0.1:{up.port}/b")
    with make(url).open("GET", url, {}) as answer:
        assert "pass" not in answer.url
    assert "Authorization" not in up.requests[1].headers


def test_mirrors_do_not_get_the_callers_headers(up, other, make):
    mirror = other.add("/a", b"x")
    get(make(up.add("/a"), headers={"Authorization": "secret"}), mirror)
    assert "Authorization" not in other.requests[0].headers


def test_mirrors_on_the_origin_of_the_download_get_the_callers_headers(up, make):
    get(make(up.add("/a"), headers={"authorization": "secret"}), up.add("/mirror/a"))
    assert up.requests[0].headers["Authorization"] == "secret"


def test_user_and_password_of_the_download_are_for_its_whole_origin(up, other, make):
    url = up.add("/a")
    client = make(url.replace("http://", "http://user:pass@"))
    get(client, url)
    get(client, other.add("/a"))
    assert up.requests[0].headers["Authorization"] == "Basic dXNlcjpwYXNz"
    assert "Authorization" not in other.requests[0].headers


def test_a_header_of_the_caller_beats_the_url(up, make):
    url = up.add("/a").replace("http://", "http://user:pass@")
    get(make(url, headers={"Authorization": "Bearer x"}), url)
    assert up.requests[0].headers.getall("Authorization") == ["Bearer x"]


def test_the_caller_cannot_change_what_answers_mean(up, make):
    url = up.add("/a", DATA)
    client = make(url, headers={"range": "bytes=5-", "Accept-Encoding": "br", "If-None-Match": "*", "User-Agent": "me"})
    assert get(client, url) == DATA
    headers = up.requests[0].headers
    assert (headers["Accept-Encoding"], headers["User-Agent"]) == ("identity", "me")
    assert not {"Range", "If-None-Match"} & set(headers)


@pytest.mark.parametrize("header", [("X", "a\r\nY: b"), ("X Y", "a"), ("", "a"), ("X", "\u20ac"), ("X", "a\0")])
def test_headers_that_cannot_be_sent_are_refused_at_once(make, header):
    with pytest.raises(ConfigError, match="cannot be sent"):
        make("http://h", headers=dict([header]))


def test_what_is_no_url_is_refused(make):
    with pytest.raises(ConfigError):
        make("http://h").open("GET", "ftp://h", {})


# Bodies and heads that break


@pytest.mark.parametrize(
    ("fault", "framing", "words"),
    [
        (Length(+10), Framing.LENGTH, "ended the body 10 bytes early"),
        (Cut(1000), Framing.LENGTH, "ended the body 299000 bytes early"),
        (Cut(100_000), Framing.CHUNKED, "broke the body off"),
        (BadChunk(70_000), Framing.CHUNKED, "broke the body off"),
        (Reset(1000), Framing.LENGTH, "broke the connection off"),
        (Reset(1000), Framing.CHUNKED, "broke the connection off"),
        (Reset(1000), Framing.CLOSE, "broke the connection off"),
        (Reset(), Framing.LENGTH, "broke the connection off"),
        (Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), Framing.LENGTH, "does not answer in HTTP"),
        (Raw(b"HTTP/1.1 2xx OK\r\n\r\n"), Framing.LENGTH, "does not answer in HTTP"),
        (Raw(b"HTTP/3.0 200 OK\r\n\r\n"), Framing.LENGTH, "sent what is no HTTP"),
        (Raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"), Framing.LENGTH, "sent what is no HTTP"),
        (Raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"), Framing.LENGTH, "sent what is no HTTP"),
        (Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc"), Framing.LENGTH, "broke the body off"),
        (Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5" * 70_000), Framing.LENGTH, "is no HTTP"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_breaks_is_told_with_host_and_reason(up, make, fault, framing, words):
    url = up.add("/a", Resource(DATA, framing=framing), fault)
    with pytest.raises(Unreachable, match=rf"127\.0\.0\.1:{up.port} .*{words}"):
        get(make(url), url)


def test_what_came_before_the_break_is_handed_over(up, make):
    url, buffer = up.add("/a", DATA, Cut(1000)), memoryview(bytearray(PLENTY))
    with make(url).open("GET", url, {}) as answer:
        found = b""
        while len(found) < 1000:
            found += buffer[: answer.readinto(buffer)]
        assert found == DATA[:1000]
        with pytest.raises(Unreachable):
            answer.readinto(buffer)


def test_a_transfer_coding_that_nobody_asked_for_is_refused(up, make):
    url = up.add("/a", DATA, Headers({"Transfer-Encoding": "gzip"}))
    with pytest.raises(Unreachable, match="encoded"):
        get(make(url), url)


@pytest.mark.parametrize("framing", [Framing.CHUNKED, Framing.LENGTH])
@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_body_of_another_length_than_required_is_refused(up, make, framing, off_by):
    url = up.add("/a", Resource(DATA, framing=framing))
    with make(url).open("GET", url, {}) as answer, pytest.raises(Unreachable):
        read_required(answer, len(DATA) + off_by)


def test_a_body_that_lasts_until_the_connection_closes_must_have_the_length_required(up, make):
    url = up.add("/a", Resource(DATA, framing=Framing.CLOSE))
    with make(url).open("GET", url, {}) as answer, pytest.raises(Unreachable, match="1 bytes early"):
        read_required(answer, len(DATA) + 1)


@pytest.mark.parametrize("fault", [None, Endless(), Endless(Framing.LENGTH), Endless(Framing.CLOSE)])
def test_no_more_is_read_than_the_limit(up, make, fault):
    url = up.add("/a", DATA, *([fault] if fault else []))
    with make(url).open("GET", url, {}) as answer, pytest.raises(Unreachable, match="more than the 1000 bytes"):
        answer.read_all(1000)


# Content codings


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP"])
def test_gzip_that_was_asked_for_is_decoded(up, make, coding):
    url = up.add("/a", Resource(gzip.compress(DATA), headers={"Content-Encoding": coding}))
    client = make(url)
    for _ in range(2):
        with client.open("GET", url, {"Accept-Encoding": "gzip"}) as answer:
            assert answer.read_all(PLENTY) == DATA
    assert up.total_connections == 1


@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, gzip"])
def test_a_coding_that_was_not_asked_for_is_refused(up, make, coding):
    url = up.add("/a", Resource(gzip.compress(DATA), headers={"Content-Encoding": coding}))
    with pytest.raises(Unreachable, match="encoded"):
        get(make(url), url, **({} if coding == "gzip" else {"Accept-Encoding": "gzip"}))


def test_a_bomb_does_not_burst(up, make):
    url = up.add("/a", Resource(gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"}))
    with pytest.raises(Unreachable, match=f"more than the {PLENTY} bytes"):
        get(make(url), url, **{"Accept-Encoding": "gzip"})


@pytest.mark.parametrize("encoded", [b"", gzip.compress(DATA)[:-9], b"no gzip", gzip.compress(DATA)[:-1] + b"x"])
def test_gzip_that_is_cut_or_none_is_refused(up, make, encoded):
    url = up.add("/a", Resource(encoded, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(Unreachable, match="gzip"):
        get(make(url), url, **{"Accept-Encoding": "gzip"})


# Retry-After


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": formatdate(1_700_000_060, usegmt=True), "Date": formatdate(1_700_000_000, usegmt=True)}, 60),
        ({"Retry-After": formatdate(1_600_000_000, usegmt=True)}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "1" * 30}, None),
    ],
)
def test_retry_after_is_told_in_seconds(up, make, headers, expected):
    url = up.add("/a", Resource(b"", status=503, headers=headers))
    with make(url).open("GET", url, {}) as answer:
        assert answer.retry_after_s == expected


# Silence, and the stop


@pytest.mark.parametrize("fault", [Stall(), Slowing(), Stall(after=1000)])
def test_silence_is_given_up(up, make, fault):
    url = up.add("/a", DATA, fault)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:\d+ sent nothing for 0\.3 s"):
        get(make(url, stall_s=0.3), url)


def test_a_slow_server_is_not_a_silent_one(up, make):
    url = up.add("/a", b"longer than stall_s", Drip(0.1))
    assert get(make(url, stall_s=1.5), url) == b"longer than stall_s"


@pytest.mark.parametrize("fault", [Stall(), Slowing(), Stall(after=1000)])
def test_a_stop_ends_a_blocked_receive(up, make, fault):
    stop, url = threading.Event(), up.add("/a", DATA, fault)
    client = make(url, stop=stop, stall_s=60)
    assert stops(lambda: get(client, url), stop, once=lambda: up.sync(up.wait_requests(1)))


def test_a_stop_ends_a_flood(up, make):
    stop, url = threading.Event(), up.add("/a", b"", Endless())
    client = make(url, stop=stop)

    def receive() -> None:
        buffer = memoryview(bytearray(PLENTY))
        with client.open("GET", url, {}) as answer:
            while answer.readinto(buffer):
                pass

    assert stops(receive, stop, once=lambda: up.sync(up.wait_requests(1)))


def test_a_stop_ends_a_pause(make):
    stop = threading.Event()
    client = make("http://h", stop=stop)
    assert stops(lambda: client.pause(60), stop, once=lambda: None)


def test_nothing_is_begun_after_a_stop(up, make):
    stop, url = threading.Event(), up.add("/a")
    stop.set()
    with pytest.raises(Stopped):
        get(make(url, stop=stop), url)
    assert up.total_connections == 0


@pytest.fixture
def deaf() -> Iterator[str]:
    """URL of a port whose queue is full: whoever connects is not answered."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(3):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            with suppress(BlockingIOError):
                waiting[-1].connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        for sock in waiting:
            sock.close()


def test_a_connection_that_is_not_taken_is_given_up(make, deaf):
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:\d+ did not answer in time"):
        get(make(deaf, connect_s=0.3), deaf)


def test_a_stop_ends_connecting(make, deaf):
    stop = threading.Event()
    client = make(deaf, stop=stop, connect_s=60)
    assert stops(lambda: get(client, deaf), stop, once=lambda: None)


@pytest.fixture
def hanging_names(monkeypatch) -> Iterator[None]:
    """A resolver that does not come back, which is how dead name servers look for half a minute."""
    released, look_up = threading.Event(), socket.getaddrinfo

    def hang(*question: Any, **options: Any) -> Any:
        released.wait(60)
        return look_up("127.0.0.1", 1, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield
    released.set()
    for thread in threading.enumerate():
        if thread.name == "gateway-get-dns":
            thread.join()


@pytest.mark.usefixtures("hanging_names")
def test_a_name_that_is_not_found_in_time_is_given_up(make):
    with pytest.raises(Unreachable, match=r"files\.example:8 did not answer in time"):
        get(make("http://h", connect_s=0.3), "http://files.example:8/")


@pytest.mark.usefixtures("hanging_names")
def test_a_stop_ends_looking_for_a_name(make):
    stop = threading.Event()
    client = make("http://h", stop=stop, connect_s=60)
    assert stops(lambda: get(client, "http://files.example/"), stop, once=lambda: None)


def test_a_name_that_nobody_has_is_told(make, monkeypatch):
    def unknown(*question: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unreachable, match=r"files\.example is not found: Name or service not known"):
        get(make("http://h"), "http://files.example/")


def test_a_closed_port_is_told(make):
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
        with pytest.raises(Unreachable, match="refused the connection"):
            get(make(url), url)


def test_the_next_address_of_a_name_is_tried(up, make):
    """localhost is ::1 as well on most machines, where nobody listens."""
    url = up.add("/a", DATA).replace("127.0.0.1", "localhost")
    assert get(make(url), url) == DATA
