"""What FPX's clients rely on, line by line of its contract."""

from __future__ import annotations

import base64
import io
import json
import uuid
import zipfile
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError

from gateway_core.testing.upstream_answer import Resource
from gateway_core.testing.upstream_behaviour import Status
from tests.archive.conftest import MakeStand
from tests.archive.stand import REPORT, Stand

pytestmark = pytest.mark.asyncio(loop_scope="module")

CKAN = "https://ckan.example"


def lines64(value: object) -> str:
    """Base64 with line breaks, as the CKAN extension sends it."""
    return base64.encodebytes(json.dumps(value).encode()).decode()


# The secret


@pytest.mark.parametrize("name", ["Authorization", "authorization", "X-Fpx-Authorize", "Authorize", "authorize"])
async def test_secret_is_taken_from_every_header_of_fpx(stand: Stand, name: str):
    body = json.dumps({"items": [stand.add("/a", 1)]})
    answer = await stand.call("POST", "/ticket/generate", data=body, headers={name: stand.secret})
    assert answer.status == 200


async def test_secret_is_taken_as_bearer(stand: Stand):
    body = {"items": [stand.add("/a", 1)]}
    assert (await stand.post("/ticket/generate", body, Authorization=f"Bearer {stand.secret}")).status == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "unknown"}, {"Authorize": "unknown"}, {"Authorize": ""}])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/ticket/generate"), ("POST", "/ticket/check"), ("GET", "/ticket/")]
)
async def test_no_or_unknown_secret_is_401(stand: Stand, method: str, path: str, headers: dict[str, str]):
    answer = await stand.call(method, path, headers=headers)
    assert (answer.status, list(answer.errors)) == (401, ["access"])


async def test_client_without_the_scope_is_403(stand: Stand):
    secret = await stand.gateway.secret("core:metrics")
    answer = await stand.post("/ticket/generate", {"items": [stand.add("/a", 1)]}, Authorization=secret)
    assert (answer.status, list(answer.errors)) == (403, ["access"])


# Tickets


async def test_ticket_has_date_type_and_id(stand: Stand):
    answer = await stand.post("/ticket/generate", {"items": [stand.add("/a", 1)]})
    assert answer.status == 200
    assert answer.json.keys() == {"created", "type", "id"}
    assert answer.json["type"] == "zip"
    assert str(uuid.UUID(answer.json["id"])) == answer.json["id"]
    created = datetime.fromisoformat(answer.json["created"]).replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)


async def test_two_tickets_have_dates_of_their_own(stand: Stand):
    first = await stand.post("/ticket/generate", {"items": [stand.add("/a", 1)]})
    second = await stand.post("/ticket/generate", {"items": [stand.add("/a", 1)]})
    assert datetime.fromisoformat(first.json["created"]) < datetime.fromisoformat(second.json["created"])


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "x"]
)
async def test_body_is_json_whatever_its_content_type_says(stand: Stand, content_type: str):
    body = {"items": [stand.add("/a", 1)]}
    assert (await stand.post("/ticket/generate", body, **{"Content-Type": content_type})).status == 200


async def test_items_are_urls_and_objects_mixed(stand: Stand):
    one, two = stand.add("/one.txt", b"1"), stand.add("/two.txt", b"2")
    answer = await stand.fetch(one, {"url": two, "name": "zwei.txt", "path": "docs"})
    assert answer.entries == {"one.txt": b"1", "docs/zwei.txt": b"2"}


async def test_items_and_options_come_as_base64_with_line_breaks(stand: Stand):
    items = [{"url": stand.add(f"/{n}", n), "name": f"a rather long name {n}.bin"} for n in range(1, 9)]
    options = {"filename": "a file name that is long enough to need a second line of base64.zip"}
    body = {"items": lines64(items), "options": lines64(options)}
    assert all(text.count("\n") > 1 for text in body.values())
    made = await stand.post("/ticket/generate", body)
    answer = await stand.download(made.json["id"])
    assert list(answer.entries) == [item["name"] for item in items]
    assert options["filename"] in answer.headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "items"),
        ({"items": None}, "items"),
        ({"items": 7}, "items"),
        ({"items": {}}, "items"),
        ({"items": []}, "items"),
        ({"items": "no base64!"}, "items"),
        ({"items": base64.b64encode(b"no JSON").decode()}, "items"),
        ({"items": lines64({"url": "http://x/"})}, "items"),
        ({"items": lines64("http://x/")}, "items"),
        ({"items": base64.b64encode(b'["http://x/\\ud800"]').decode()}, "items"),
        ({"items": base64.b64encode(b"[" * 500 + b"]" * 500).decode()}, "items"),
        ({"items": [7]}, "items"),
        ({"items": [{}]}, "items"),
        ({"items": [{"name": "no url"}]}, "items"),
        ({"items": [{"url": ["http://x/"]}]}, "items"),
        ({"items": ["http://x/"], "options": []}, "options"),
        ({"items": ["http://x/"], "options": "no base64!"}, "options"),
        ({"items": ["http://x/"], "options": lines64([])}, "options"),
        ({"items": ["http://x/"], "options": base64.b64encode(b'{"a": NaN}').decode()}, "options"),
        ({"items": ["http://x/"], "options": {"on_error": "explode"}}, "options"),
        ({"items": ["http://x/"], "type": "tar"}, "type"),
        ({"items": ["http://x/"], "type": None}, "type"),
        ({"items": ["http://x/", "http://x/2"], "type": "stream"}, "type"),
        ({"items": [{"path": "folder/"}], "type": "stream"}, "type"),
        (["http://x/"], "_schema"),
        (b"", "_schema"),
        (b"items=http://x/", "_schema"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else str(value)[:40],
)
async def test_bad_body_is_422_that_names_the_field(stand: Stand, body: object, field: str):
    answer = await stand.post("/ticket/generate", body)
    assert (answer.status, list(answer.errors["json"])) == (422, [field])
    (*texts,) = answer.errors["json"][field]
    assert texts
    assert all(isinstance(text, str) and text for text in texts)


async def test_stream_of_no_item_is_422(stand: Stand):
    answer = await stand.post("/ticket/generate", {"items": [], "type": "stream"})
    assert answer.status == 422


async def test_unknown_options_are_warnings(stand: Stand):
    body = {"items": [{"url": stand.add("/a", 1), "colour": "red"}], "options": {"foo": 1, "bar": 2}, "extra": 0}
    answer = await stand.post("/ticket/generate", body)
    assert answer.status == 200
    names = ["extra", "items.colour", "options.bar", "options.foo"]
    assert answer.json["warnings"] == [f"{name}: not known" for name in names]


async def test_unknown_options_are_refused_where_strict(stand: Stand):
    body = {"items": [stand.add("/a", 1)], "options": {"foo": 1}}
    answer = await stand.post("/ticket/generate?strict=1", body)
    assert (answer.status, answer.errors) == (422, {"json": {"options.foo": ["not known"]}})


async def test_strict_passes_what_is_known(stand: Stand):
    options = {"filename": "a.zip", "expires_in": 60, "once": True, "on_error": "skip"}
    body = {"items": [{"url": stand.add("/a", 1), "name": "a", "path": "p", "headers": {"X": "y"}, "size": 1}]}
    answer = await stand.post("/ticket/generate?strict=1", {**body, "options": options, "type": "zip"})
    assert (answer.status, "warnings" in answer.json) == (200, False)


# The index


async def test_index_lists_own_tickets_ten_a_page(stand: Stand):
    url = stand.add("/a", 1)
    secret = await stand.gateway.secret()
    orders = [{"items": [url], "type": "stream" if n % 2 else "zip"} for n in range(13)]
    made = [await stand.post("/ticket/generate", order, Authorization=secret) for order in orders]
    await stand.ticket(url)
    pages = [await stand.get(f"/ticket/?page={page}", Authorization=secret) for page in (1, 2, 3)]
    assert [(page.json["page"], page.json["count"]) for page in pages] == [(1, 13), (2, 13), (3, 13)]
    listed = [ticket for page in pages for ticket in page.json["tickets"]]
    assert [len(page.json["tickets"]) for page in pages] == [10, 3, 0]
    assert [ticket["id"] for ticket in listed] == [answer.json["id"] for answer in made]
    assert {ticket["type"] for ticket in listed} == {"zip", "stream"}
    assert all(datetime.fromisoformat(ticket["created"]) for ticket in listed)


async def test_index_begins_with_page_one(stand: Stand):
    answer = await stand.get("/ticket/", authorize=await stand.gateway.secret())
    assert (answer.status, answer.json) == (200, {"page": 1, "count": 0, "tickets": []})


@pytest.mark.parametrize("page", ["0", "-1", "x", "", "1e3", "9" * 30])
async def test_index_refuses_what_is_no_page(stand: Stand, page: str):
    answer = await stand.get(f"/ticket/?page={page}", Authorization=stand.secret)
    assert (answer.status, list(answer.errors["query"])) == (422, ["page"])


# The download


async def test_download_needs_no_secret_and_is_a_zip_for_saving(stand: Stand):
    answer = await stand.fetch(stand.add("/a.txt", b"a"))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="collection.zip"'
    assert "no-store" in answer.headers["Cache-Control"]


async def test_filename_option_names_the_download(stand: Stand):
    answer = await stand.fetch(stand.add("/a.txt", b"a"), filename="my data.zip")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="my data.zip"'


async def test_entries_are_stored_and_the_comment_tells_who_wrote_it(stand: Stand):
    answer = await stand.fetch(stand.add("/small", 1000), stand.add("/big", 2_000_000))
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.comment == b"Written by content-gateway"
        small, big = archive.infolist()
    assert small.compress_size == small.file_size
    assert 0 <= big.compress_size - big.file_size < 1000


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"name": "given.txt"}, "given.txt"),
        ({"name": "deep/er/given.txt"}, "given.txt"),
        ({"name": "given.txt", "path": "some/folder"}, "some/folder/given.txt"),
        ({"path": "some/folder/"}, "some/folder/file.txt"),
        ({}, "file.txt"),
    ],
)
async def test_entry_is_named_by_the_item(stand: Stand, item: dict[str, str], name: str):
    answer = await stand.fetch({"url": stand.add("/over/there/file.txt", b"x"), **item})
    assert list(answer.entries) == [name]


async def test_entry_without_a_path_in_its_url_is_named_by_the_host(stand: Stand):
    stand.add("/", b"x")
    assert list((await stand.fetch(stand.upstream.base_url)).entries) == ["127.0.0.1"]


@pytest.mark.parametrize("status", [201, 203, 204, 206, 304, 401, 403, 404, 410, 416, 429, 500, 503])
async def test_upstream_that_answers_other_than_200_is_left_out(stand: Stand, status: int):
    answer = await stand.fetch(stand.add("/good", b"good"), stand.add("/bad", b"bad", Status(status)))
    assert answer.entries.keys() == {"good", REPORT}
    assert f"status {status}".encode() in answer.entries[REPORT]


async def test_empty_folder_is_an_entry(stand: Stand):
    answer = await stand.fetch(stand.add("/a", b"a"), {"path": "empty/"}, {"path": "other", "name": "inner/"})
    assert answer.entries == {"a": b"a", "empty/": b"", "other/inner/": b""}


async def test_item_headers_reach_their_own_server(stand: Stand):
    item = {"url": stand.add("/a", b"a"), "headers": {"Authorization": "Token of the user", "X-Own": "1"}}
    assert (await stand.fetch(item)).entries == {"a": b"a"}
    (seen,) = stand.upstream.requests
    assert (seen.headers["Authorization"], seen.headers["X-Own"]) == ("Token of the user", "1")


async def test_item_headers_never_reach_another_server(stand: Stand):
    async with type(stand.upstream)() as other:
        other.add("/a", b"a")
        url = stand.upstream.redirect("/a", f"{other.base_url}/a")
        answer = await stand.fetch({"url": url, "headers": {"Authorization": "Token of the user", "X-Api-Key": "k"}})
        assert answer.entries == {"a": b"a"}
        assert not {"Authorization", "X-Api-Key"} & set(other.requests[0].headers)


async def test_download_can_be_repeated(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 100_000), stand.add("/b", 2_000_000))
    assert (await stand.download(ticket)).body == (await stand.download(ticket)).body


@pytest.mark.parametrize("ticket", ["nope", str(uuid.UUID(int=0)), "x" * 2000, "%00", "'; --"])
async def test_unknown_ticket_is_404(stand: Stand, ticket: str):
    answer = await stand.download(ticket)
    assert (answer.status, list(answer.errors)) == (404, ["id"])


# Stream tickets


async def test_stream_ticket_gives_the_file_as_its_server_does(stand: Stand):
    headers = {"Content-Disposition": 'attachment; filename="report.csv"'}
    url = stand.add("/export", Resource(b"a,b\n", media_type="text/csv; charset=utf-8", headers=headers))
    answer = await stand.fetch(url, type="stream")
    assert (answer.status, answer.body) == (200, b"a,b\n")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="report.csv"'
    assert answer.headers["Content-Length"] == "4"


@pytest.mark.parametrize(
    ("item", "options", "name"),
    [({}, {}, "file.bin"), ({"name": "own.bin"}, {}, "own.bin"), ({"name": "own"}, {"filename": "asked"}, "asked")],
)
async def test_stream_ticket_is_named_by_option_item_or_url(stand: Stand, item: dict, options: dict, name: str):
    answer = await stand.fetch({"url": stand.add("/dir/file.bin", 10), **item}, type="stream", **options)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'


async def test_stream_ticket_cannot_act_as_this_origin(stand: Stand):
    answer = await stand.fetch(stand.add("/x", Resource(b"<script>", media_type="text/html")), type="stream")
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"].startswith("attachment")


async def test_stream_ticket_whose_server_fails_is_502(stand: Stand):
    answer = await stand.fetch(stand.add("/x", b"", Status(404)), type="stream")
    assert (answer.status, answer.errors) == (502, {"detail": "the file cannot be had: gone: status 404"})


# HEAD


@pytest.mark.parametrize("kind", ["zip", "stream"])
async def test_head_tells_what_a_get_would_and_consumes_nothing(stand: Stand, kind: str):
    ticket = await stand.ticket(stand.add("/a", 5000), type=kind, once=True)
    head = await stand.call("HEAD", f"/ticket/{ticket}/download")
    again = await stand.call("HEAD", f"/ticket/{ticket}/download")
    assert (head.status, again.status) == (200, 200)
    got = await stand.download(ticket)
    told = ("Content-Type", "Content-Disposition", "Content-Length")
    assert [head.headers.get(name) for name in told] == [got.headers.get(name) for name in told]


async def test_head_of_a_zip_asks_no_upstream(stand: Stand):
    await stand.call("HEAD", f"/ticket/{await stand.ticket(stand.add('/a', 5000))}/download")
    assert stand.upstream.requests == []


async def test_head_of_an_unknown_ticket_is_404(stand: Stand):
    assert (await stand.call("HEAD", "/ticket/nope/download")).status == 404


# Other origins


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_any_origin_may_download(stand: Stand, method: str):
    ticket = await stand.ticket(stand.add("/a", 10))
    answer = await stand.call(method, f"/ticket/{ticket}/download", headers={"Origin": CKAN})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Content-Disposition" in answer.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_any_origin_may_read_why_not(stand: Stand):
    answer = await stand.get("/ticket/nope/download", Origin=CKAN)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (404, "*")


async def test_preflight_is_answered_on_capability_routes(stand: Stand):
    asked = {"Origin": CKAN, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range"}
    answer = await stand.call("OPTIONS", "/ticket/nope/download", headers=asked)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "GET" in answer.headers["Access-Control-Allow-Methods"]
    assert "Range" in answer.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize(("method", "path"), [("POST", "/ticket/generate"), ("GET", "/ticket/")])
async def test_routes_that_need_a_secret_are_not_for_other_origins(stand: Stand, method: str, path: str):
    asked = {"Origin": CKAN, "Access-Control-Request-Method": method}
    answers = [await stand.call("OPTIONS", path, headers=asked), await stand.call(method, path, headers=asked)]
    assert [answer.headers.get("Access-Control-Allow-Origin") for answer in answers] == [None, None]


async def test_only_configured_origins_may_download(make_stand: MakeStand):
    async with make_stand({}, cors_origins=CKAN) as stand:
        ticket = await stand.ticket(stand.add("/a", 10))
        friend = await stand.download(ticket, Origin=CKAN)
        other = await stand.download(ticket, Origin="https://other.example")
        assert friend.headers["Access-Control-Allow-Origin"] == CKAN
        assert "Access-Control-Allow-Origin" not in other.headers


# Waiting, where there is no queue


async def test_wait_says_at_once_that_the_download_may_begin(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 10))
    async with stand.http.ws_connect(f"/ticket/{ticket}/wait", headers={"Origin": CKAN}) as socket:
        assert await socket.receive_json() == {"position": 0, "available": True}
        end = await socket.receive()
        assert (end.type, end.data, end.extra) == (WSMsgType.CLOSE, 1000, "available")


async def test_wait_for_an_unknown_ticket_is_404(stand: Stand):
    with pytest.raises(WSServerHandshakeError) as refused:
        await stand.http.ws_connect("/ticket/nope/wait")
    assert refused.value.status == 404


async def test_wait_without_a_websocket_is_400(stand: Stand):
    ticket = await stand.ticket(stand.add("/a", 10))
    assert (await stand.get(f"/ticket/{ticket}/wait")).status == 400


# A path prefix


async def test_every_route_lives_under_the_prefix(make_stand: MakeStand):
    async with make_stand({"prefix": "/fpx"}) as stand:
        made = await stand.post("/fpx/ticket/generate", {"items": [stand.add("/a", b"a")]})
        ticket = made.json["id"]
        assert (await stand.get(f"/fpx/ticket/{ticket}/download")).entries == {"a": b"a"}
        assert (await stand.get("/fpx/ticket/", Authorize=stand.secret)).json["count"] == 1
        async with stand.http.ws_connect(f"/fpx/ticket/{ticket}/wait") as socket:
            assert (await socket.receive_json())["available"]
        assert (await stand.download(ticket)).status == 404
