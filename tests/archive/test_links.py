"""Signed links: one URL in a JSON web token under a client's secret."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import jwt
import pytest

from gateway_archive.links import link_id, read_link
from gateway_core import Invalid
from gateway_core.testing.upstream_answer import Resource
from gateway_core.testing.upstream_behaviour import Cut, Stall, Status
from tests.archive.conftest import MakeStand
from tests.archive.stand import MIB, Answer, Stand

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "a secret of the client that is long enough"


async def follow(stand: Stand, claims: dict[str, Any], **headers: str) -> Answer:
    """Sign ``claims`` as a new client, and GET the link."""
    client, secret = await stand.gateway.add_client()
    token = jwt.encode(claims, secret, algorithm="HS256")
    return await stand.get(f"/stream/url/{token}?client={client.name}", **headers)


def encoded(part: object) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def test_link_streams_its_file(stand: Stand):
    url = stand.add("/data/report.pdf", Resource(b"%PDF", media_type="application/pdf"))
    answer = await follow(stand, {"url": url})
    assert (answer.status, answer.body) == (200, b"%PDF")
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="report.pdf"'
    assert answer.headers["Content-Length"] == "4"


async def test_link_names_content_type_and_headers(stand: Stand):
    headers = {"Content-Disposition": 'inline; filename="x.txt"', "X-Own": "1", "Cache-Control": "max-age=60"}
    claims = {"url": stand.add("/a", b"a"), "content-type": "text/plain", "response_headers": headers}
    answer = await follow(stand, claims)
    assert answer.headers["Content-Type"] == "text/plain"
    assert {name: answer.headers[name] for name in headers} == headers


async def test_headers_of_a_link_in_any_case_are_in_place_of_ours(stand: Stand):
    headers = {"content-disposition": "inline", "cache-control": "max-age=60"}
    answer = await follow(stand, {"url": stand.add("/a", b"a"), "response_headers": headers})
    assert {name: answer.headers.getall(name) for name in headers} == {name: [headers[name]] for name in headers}


FRAMING = ["Set-Cookie", "Content-Length", "transfer-encoding", "Content-Encoding", "Connection"]
ISOLATING = ["Content-Security-Policy", "x-content-type-options"]
WHOLE_ORIGIN = ["Clear-Site-Data", "Alt-Svc", "Strict-Transport-Security", "Refresh"]


@pytest.mark.parametrize("name", FRAMING + ISOLATING + WHOLE_ORIGIN)
async def test_link_cannot_set_what_frames_or_isolates_the_answer(stand: Stand, name: str):
    answer = await follow(stand, {"url": stand.add("/a", b"abc"), "response_headers": {name: "1"}})
    assert (answer.status, answer.body) == (200, b"abc")
    assert answer.headers.get(name) in {None, "3", "sandbox", "nosniff"}


@pytest.mark.parametrize(
    "headers", [["X"], {"X": 1}, {"X": "a\r\nB: c"}, {"X\r\n": "a"}, {"X: y": "a"}, {"X": "é"}, "X: 1"]
)
async def test_link_with_bad_headers_is_422(stand: Stand, headers: object):
    answer = await follow(stand, {"url": stand.add("/a", b"a"), "response_headers": headers})
    assert (answer.status, list(answer.errors["url"])) == (422, ["url"])


async def test_link_of_a_page_of_another_origin(stand: Stand):
    answer = await follow(stand, {"url": stand.add("/a", b"a")}, Origin="https://ckan.example")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_link_can_be_followed_often(stand: Stand):
    client, secret = await stand.gateway.add_client()
    token = jwt.encode({"url": stand.add("/a", b"a"), "exp": time.time() + 60}, secret, algorithm="HS256")
    link = f"/stream/url/{token}?client={client.name}"
    assert [(await stand.get(link)).body for _ in range(3)] == [b"a"] * 3


async def test_missing_client_is_422(stand: Stand):
    answer = await stand.get("/stream/url/x.y.z")
    assert (answer.status, list(answer.errors), list(answer.errors["query"])) == (422, ["query"], ["client"])


@pytest.mark.parametrize("name", ["nobody", "", "x" * 3000])
async def test_unknown_client_is_404(stand: Stand, name: str):
    assert (await stand.get(f"/stream/url/x.y.z?client={name}")).status == 404


async def test_client_is_named_and_not_numbered(stand: Stand):
    client, secret = await stand.gateway.add_client()
    token = jwt.encode({"url": stand.add("/a", b"a")}, secret, algorithm="HS256")
    assert (await stand.get(f"/stream/url/{token}?client={client.id}")).status == 404


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"url": ""},
        {"url": 7},
        {"url": ["http://x/"]},
        {"url": None},
        {"url": "http://x/", "content-type": 7},
        {"url": "http://x/", "content-type": "text/plain\r\nX: y"},
        {"url": "http://x/", "exp": 1},
        {"url": "http://x/", "exp": "soon"},
        {"url": "http://x/", "nbf": 1e11},
        {"url": "ftp://x/"},
        {"url": "http://10.0.0.1/"},
        {"url": "no url"},
    ],
    ids=str,
)
async def test_link_that_does_not_hold_is_422(stand: Stand, claims: dict[str, Any]):
    answer = await follow(stand, claims)
    assert (answer.status, list(answer.errors["url"])) == (422, ["url"])


async def test_link_signed_by_another_client_is_422(stand: Stand):
    client, _ = await stand.gateway.add_client()
    _, other = await stand.gateway.add_client()
    token = jwt.encode({"url": stand.add("/a", b"a")}, other, algorithm="HS256")
    assert (await stand.get(f"/stream/url/{token}?client={client.name}")).status == 422


async def test_client_without_the_scope_is_403(stand: Stand):
    client, secret = await stand.gateway.add_client("core:metrics")
    token = jwt.encode({"url": stand.add("/a", b"a")}, secret, algorithm="HS256")
    assert (await stand.get(f"/stream/url/{token}?client={client.name}")).status == 403


async def test_link_whose_server_fails_is_502(stand: Stand):
    answer = await follow(stand, {"url": stand.add("/a", b"", Status(404))})
    assert (answer.status, answer.errors) == (502, {"detail": "the file cannot be had: gone: status 404"})


async def test_link_whose_server_is_silent_is_given_up(stand: Stand):
    answer = await follow(stand, {"url": stand.add("/a", 10, Stall())})
    assert answer.status == 502
    assert answer.errors == {"detail": "the file cannot be had: stalled: sent nothing for too long"}


async def test_link_is_continued_where_its_server_breaks_off(stand: Stand):
    answer = await follow(stand, {"url": stand.add("/a", 2 * MIB, Cut(MIB, times=1))})
    assert answer.body == stand.upstream.content("/a")


async def test_link_beyond_the_active_downloads_is_429(make_stand: MakeStand):
    async with make_stand({"max_active_downloads": 1}) as stand:
        ticket = await stand.ticket(stand.add("/big", 64 * MIB))
        async with stand.downloading(ticket):
            assert (await follow(stand, {"url": stand.add("/a", b"a")})).status == 429


# Tokens


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        ({"alg": "none"}, {"url": "http://x/"}),
        ({"alg": "None", "typ": "JWT"}, {"url": "http://x/"}),
        ({"alg": "HS512"}, {"url": "http://x/"}),
        ({"alg": "RS256"}, {"url": "http://x/"}),
        ({"alg": "HS256", "crit": ["b64"], "b64": False}, {"url": "http://x/"}),
        ({}, {"url": "http://x/"}),
        ({"alg": "HS256"}, ["http://x/"]),
        ({"alg": "HS256"}, b"no JSON"),
        (b"no JSON", {"url": "http://x/"}),
        ({"alg": ["HS256"]}, {"url": "http://x/"}),
    ],
    ids=str,
)
async def test_token_of_another_kind_is_refused_though_it_is_signed(header: object, payload: object):
    signed = f"{encoded(header)}.{encoded(payload)}"
    token = f"{signed}.{encoded(hmac.digest(SECRET.encode(), signed.encode(), 'sha256'))}"
    with pytest.raises(Invalid):
        read_link(token, SECRET)


@pytest.mark.parametrize("token", ["", ".", "..", "...", "x", "a.b.c", "\x00.\x00.\x00", "x" * 100_000])
async def test_what_is_no_token_is_refused(token: str):
    with pytest.raises(Invalid):
        read_link(token, SECRET)


async def test_token_without_or_with_another_signature_is_refused():
    head, payload, signature = jwt.encode({"url": "http://x/"}, SECRET, algorithm="HS256").split(".")
    forgeries = ["", signature[::-1], signature[:-1], encoded(b"x" * 32)]
    for forged in [*(f"{head}.{payload}.{forgery}" for forgery in forgeries), f"{head}.{encoded({})}.{signature}"]:
        with pytest.raises(Invalid):
            read_link(forged, SECRET)


async def test_token_that_expired_a_moment_ago_is_borne():
    """Clocks differ."""
    token = jwt.encode({"url": "http://x/", "exp": time.time() - 10}, SECRET, algorithm="HS256")
    assert read_link(token, SECRET).url == "http://x/"


async def test_audience_and_issuer_are_nobodys_business():
    claims = {"url": "http://x/", "aud": "ckan", "iss": "ckan", "sub": "user"}
    assert read_link(jwt.encode(claims, SECRET, algorithm="HS256"), SECRET).url == "http://x/"


async def test_id_of_a_link_in_the_queue_is_its_own_and_fits():
    ids = {link_id(token) for token in ("a", "b", "x" * 9000)}
    assert len(ids) == 3
    assert {len(found) for found in ids} == {36}
