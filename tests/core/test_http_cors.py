from __future__ import annotations

import pytest
from aiohttp import ClientSession, web

from gateway_core.errors import Forbidden
from gateway_core.http.cors import CorsPolicy, check_origin, cors_headers, is_preflight
from tests.core.http_serving import serving

PAGE = "https://ckan.example"
ONE = CorsPolicy(origins=frozenset({"https://CKAN.example/"}), methods=("GET",), request_headers=("X-A", "X-B"))


async def asked(policy: CorsPolicy, method: str = "GET", **fields: str) -> dict[str, str]:
    """The CORS headers a real server adds to a request with ``fields``."""

    async def handler(request: web.Request) -> web.Response:
        response = web.Response(status=204)
        response.headers.extend(cors_headers(request, policy))
        return response

    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    async with serving(handler) as server, ClientSession() as session:
        async with session.request(method, f"http://127.0.0.1:{server.port}/", headers=headers) as answer:
            return {
                name: value
                for name, value in answer.headers.items()
                if name.startswith("Access-Control") or name == "Vary"
            }


async def test_any_origin_may_read_where_the_url_is_the_capability() -> None:
    headers = await asked(CorsPolicy(), Origin=PAGE)
    assert headers["Access-Control-Allow-Origin"] == "*"
    exposed = headers["Access-Control-Expose-Headers"].split(", ")
    assert {"Content-Disposition", "Accept-Ranges", "Content-Range", "ETag"} <= {*exposed}
    assert "Vary" not in headers


async def test_a_listed_origin_is_repeated_and_caches_are_told() -> None:
    headers = await asked(ONE, Origin=PAGE)
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert headers["Vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://ckan.example.evil", "http://ckan.example", "null", "https://evil", ""])
async def test_other_origins_get_only_vary(origin: str) -> None:
    assert await asked(ONE, Origin=origin) == {"Vary": "Origin"}


async def test_requests_without_an_origin_get_only_vary() -> None:
    assert await asked(ONE) == {"Vary": "Origin"}


async def test_a_preflight_is_told_what_may_be_sent() -> None:
    headers = await asked(ONE, "OPTIONS", Origin=PAGE, Access_Control_Request_Method="GET")
    assert headers == {
        "Access-Control-Allow-Origin": PAGE,
        "Access-Control-Allow-Methods": "GET",
        "Access-Control-Allow-Headers": "X-A, X-B",
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }


@pytest.mark.parametrize("policy", [ONE, CorsPolicy()])
async def test_credentials_are_never_allowed(policy: CorsPolicy) -> None:
    for method, fields in (("GET", {}), ("OPTIONS", {"Access_Control_Request_Method": "GET"})):
        assert "Access-Control-Allow-Credentials" not in await asked(policy, method, Origin=PAGE, **fields)


async def test_an_ordinary_options_request_is_no_preflight() -> None:
    seen: list[bool] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(is_preflight(request))
        return web.Response()

    async with serving(handler) as server, ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}/"
        await session.options(url, headers={"Origin": PAGE})
        await session.options(url, headers={"Origin": PAGE, "Access-Control-Request-Method": "PUT"})
    assert seen == [False, True]


@pytest.mark.parametrize(
    ("allowed", "origin", "refused"),
    [
        (None, "https://evil", False),
        (["*"], "https://evil", False),
        ([PAGE], PAGE, False),
        ([PAGE], None, False),
        ([PAGE], "https://evil", True),
        ([], PAGE, True),
    ],
)
async def test_pages_of_other_origins_are_refused(
    allowed: list[str] | None, origin: str | None, *, refused: bool
) -> None:
    async def handler(request: web.Request) -> web.Response:
        check_origin(request, allowed)
        return web.Response()

    async with serving(handler) as server, ClientSession() as session:
        headers = {"Origin": origin} if origin else {}
        async with session.get(f"http://127.0.0.1:{server.port}/", headers=headers):
            pass
        assert isinstance(await server.end(), Forbidden) == refused
