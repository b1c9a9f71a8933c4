"""``NAME--NODE.<EXPOSE_HOST>``: applications on hosts of their own, and how a browser logs in there."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from http.cookies import SimpleCookie
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, ClientSession, DummyCookieJar, WSServerHandshakeError

from gateway_core import ConfigError
from gateway_core.testing.harness import RunningGateway
from tests.pipe.app_stand import PATIENCE_S, LocalApp, app_gateway, attached, local_app
from tests.pipe.links import Pair

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOST = "app--n1.apps.test"
PAGE = {"Host": HOST, "Accept": "text/html,*/*"}
OWN = {"Origin": f"http://{HOST}"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    settings = {"wait_for_node": 0.1, "expose_host": "apps.test"}
    async with app_gateway(tmp_path_factory.mktemp("hosts"), pipe=settings, trusted_proxies=["127.0.0.1"]) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def app() -> AsyncIterator[LocalApp]:
    async with local_app() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def node(gateway: RunningGateway, app: LocalApp) -> AsyncIterator[Pair]:
    apps = {"app": app.url, "below": f"{app.url}/base"}
    async with attached(gateway, "n1", apps) as pair, attached(gateway, "n2", apps):
        yield pair


@pytest_asyncio.fixture(loop_scope="module")
async def secret(gateway: RunningGateway) -> str:
    return await gateway.secret("pipe:call:n1")


@pytest_asyncio.fixture(loop_scope="module")
async def session(gateway: RunningGateway, node: Pair) -> AsyncIterator[ClientSession]:
    """A browser without a memory: every test says what it sends."""
    async with (
        asyncio.timeout(PATIENCE_S),
        gateway.session(headers={"Host": HOST}, cookie_jar=DummyCookieJar()) as http,
    ):
        yield http


def logging_in(session: ClientSession, secret: str, *, then: str = "/", **headers: str) -> Any:
    fields = {"secret": secret, "next": then}
    return session.post("/.gateway/login", data=fields, headers=headers or OWN, allow_redirects=False)


def cookie_of(answer: ClientResponse) -> str:
    """What the browser sends from now on."""
    morsel = next(iter(SimpleCookie(answer.headers["Set-Cookie"]).values()))
    return f"{morsel.key}={morsel.value}"


@pytest_asyncio.fixture(loop_scope="module")
async def cookie(session: ClientSession, secret: str) -> str:
    async with logging_in(session, secret) as answer:
        return cookie_of(answer)


async def status(session: ClientSession, path: str = "/x", method: str = "GET", **headers: str) -> int:
    async with session.request(method, path, headers=headers, allow_redirects=False) as answer:
        return answer.status


async def headers_seen(session: ClientSession, **headers: str) -> Mapping[str, str]:
    async with session.get("/x", headers=headers) as answer:
        assert answer.status == 200
        return dict((await answer.json())["headers"])


async def test_a_page_without_a_login_leads_to_the_form_and_back(session: ClientSession, secret: str) -> None:
    async with session.get("/a%2Fb?x=1&y", headers=PAGE, allow_redirects=False) as asked:
        assert asked.status == 303
        where = asked.headers["Location"]
    async with session.get(where, headers=PAGE) as shown:
        page = await shown.text()
        assert (shown.status, shown.content_type) == (200, "text/html")
        assert shown.headers["X-Frame-Options"] == "DENY"
        assert "form-action 'self'" in shown.headers["Content-Security-Policy"]
    found = re.search('name="next" value="([^"]*)"', page)
    assert found is not None
    then = found[1].replace("&amp;", "&")
    async with logging_in(session, secret, then=then) as done:
        assert (done.status, done.headers["Location"]) == (303, "/a%2Fb?x=1&y")
        assert "HttpOnly" in done.headers["Set-Cookie"]
        assert "SameSite=Lax" in done.headers["Set-Cookie"]
        assert "Domain" not in done.headers["Set-Cookie"]
        logged_in = cookie_of(done)
    assert await status(session, done.headers["Location"], Cookie=logged_in) == 200


async def test_what_is_no_page_gets_401_without_a_login(session: ClientSession) -> None:
    assert await status(session) == 401
    assert await status(session, method="POST", Accept="text/html") == 401


async def test_with_tls_before_the_gateway_the_cookie_is_secure_and_the_hosts_alone(
    session: ClientSession, secret: str
) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "10.0.0.1", "Origin": f"https://{HOST}"}
    async with logging_in(session, secret, **forwarded) as answer:
        assert answer.headers["Set-Cookie"].startswith("__Host-gateway=")
        assert "Secure" in answer.headers["Set-Cookie"]
        assert "Path=/" in answer.headers["Set-Cookie"]
        logged_in = cookie_of(answer)
    assert await status(session, Cookie=logged_in, **{"X-Forwarded-Proto": "https"}) == 200
    assert await status(session, Cookie=logged_in) == 401


async def test_a_wrong_secret_and_one_without_the_scope_are_told_so(
    gateway: RunningGateway, session: ClientSession
) -> None:
    for wrong in ("nonsense", "", await gateway.secret("pipe:call:n2")):
        async with logging_in(session, wrong) as answer:
            assert answer.status == 403
            assert "Set-Cookie" not in answer.headers
            assert "No client with this secret" in await answer.text()


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.test"}, {"Origin": "http://other--n1.apps.test"}, {"Sec-Fetch-Site": "same-site"}],
)
async def test_pages_of_other_hosts_cannot_log_anybody_in_or_out(
    session: ClientSession, secret: str, headers: dict[str, str]
) -> None:
    async with logging_in(session, secret, **headers) as answer:
        assert (answer.status, "Set-Cookie" in answer.headers) == (403, False)
    assert await status(session, "/.gateway/logout", "POST", **headers) == 403


@pytest.mark.parametrize("then", ["https://evil.test/", "//evil.test/", "/\\evil.test", "/a\r\nX: y", "x", ""])
async def test_the_way_back_stays_on_this_host(session: ClientSession, secret: str, then: str) -> None:
    async with logging_in(session, secret, then=then) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/")


async def test_the_form_shows_what_it_is_given_as_text(session: ClientSession) -> None:
    async with session.get('/.gateway/login?next=/"><script>', headers=PAGE) as shown:
        assert "<script>" not in await shown.text()


async def test_logging_out_takes_the_cookie_back(session: ClientSession, cookie: str) -> None:
    async with session.post("/.gateway/logout", headers={**OWN, "Cookie": cookie}, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/.gateway/login")
        assert "Max-Age=0" in answer.headers["Set-Cookie"]


async def test_a_cookie_is_for_one_application_of_one_node(session: ClientSession, gateway: RunningGateway) -> None:
    everywhere = await gateway.secret("pipe:call:*")
    async with logging_in(session, everywhere) as answer:
        logged_in = cookie_of(answer)
    assert await status(session, Cookie=logged_in) == 200
    for other in ("below--n1.apps.test", "app--n2.apps.test"):
        assert await status(session, Cookie=logged_in, Host=other) == 401


@pytest.mark.parametrize(
    "forged", ["gateway-login=x", "gateway-login=gAAAAA", "gateway-login=", 'gateway-login="\\377"']
)
async def test_a_cookie_that_is_not_ours_opens_nothing(session: ClientSession, forged: str) -> None:
    assert await status(session, Cookie=forged) == 401


async def test_what_the_keyring_encrypted_for_another_purpose_opens_nothing(
    gateway: RunningGateway, session: ClientSession
) -> None:
    for plain in (b"secret", b"[]", b'{"purpose": "other"}'):
        assert await status(session, Cookie=f"gateway-login={gateway.core.keyring.encrypt(plain).decode()}") == 401


async def test_a_login_ends_after_its_time(gateway: RunningGateway, session: ClientSession, cookie: str) -> None:
    keyring = gateway.core.keyring
    name, _, value = cookie.partition("=")
    told = json.loads(keyring.decrypt(value.encode()))
    assert 12 * 3600 - 60 < told["expires"] - time.time() <= 12 * 3600
    for expires, wanted in ((time.time() + 60, 200), (time.time() - 1, 401)):
        again = keyring.encrypt(json.dumps({**told, "expires": expires}).encode()).decode()
        assert await status(session, Cookie=f"{name}={again}") == wanted


async def test_a_new_secret_and_a_revocation_end_the_login(gateway: RunningGateway, session: ClientSession) -> None:
    for end in (gateway.core.clients.rotate, gateway.core.clients.revoke):
        client, shown = await gateway.add_client("pipe:call:n1")
        async with logging_in(session, shown) as answer:
            logged_in = cookie_of(answer)
        assert await status(session, Cookie=logged_in) == 200
        await end(client.name)
        assert await status(session, Cookie=logged_in) == 401


@pytest.mark.parametrize("scheme", ["basic", "bearer", "own"])
async def test_programs_show_a_secret_and_it_does_not_reach_the_application(
    session: ClientSession, secret: str, scheme: str
) -> None:
    encoded = base64.b64encode(f"anybody:{secret}".encode()).decode()
    given = {
        "basic": {"Authorization": f"Basic {encoded}"},
        "bearer": {"Authorization": f"Bearer {secret}"},
        "own": {"X-Gateway-Authorization": secret},
    }[scheme]
    assert not {"Authorization", "X-Gateway-Authorization"} & set(await headers_seen(session, **given))


async def test_a_secret_as_password_stays_here_whatever_else_was_shown(session: ClientSession, secret: str) -> None:
    encoded = base64.b64encode(f"anybody:{secret}".encode()).decode()
    given = {"Authorization": f"Basic {encoded}", "X-Gateway-Authorization": "of-somebody-else"}
    assert "Authorization" not in await headers_seen(session, **given)


async def test_a_client_without_the_scope_is_refused(gateway: RunningGateway, session: ClientSession) -> None:
    assert await status(session, Authorization=await gateway.secret("pipe:call:n2")) == 403


async def test_cookies_and_authorization_of_the_application_reach_it_and_ours_does_not(
    session: ClientSession, cookie: str
) -> None:
    given = {"Cookie": f"a=1; {cookie}; b=2", "Authorization": "Basic eDp5"}
    headers = await headers_seen(session, **given)
    assert (headers["Cookie"], headers["Authorization"]) == ("a=1; b=2", "Basic eDp5")
    assert "Cookie" not in await headers_seen(session, Cookie=cookie)


async def test_the_application_sets_cookies_for_its_own_host_and_never_ours(
    session: ClientSession, secret: str
) -> None:
    async with session.get("/mine", headers={"Authorization": secret, "Host": "below--n1.apps.test"}) as answer:
        assert answer.headers.getall("Set-Cookie") == ["a=1; Path=/; HttpOnly"]
        assert answer.headers.getall("Content-Security-Policy") == ["default-src 'self'"]
        assert "X-Accel-Redirect" not in answer.headers
        assert answer.headers["Vary"] == "Authorization, Cookie"


async def test_the_application_is_told_its_host_and_sees_its_pages_as_its_own(
    session: ClientSession, cookie: str, app: LocalApp
) -> None:
    headers = await headers_seen(session, Cookie=cookie, **OWN)
    assert (headers["X-Forwarded-Host"], headers["X-Forwarded-Proto"]) == (HOST, "http")
    assert "X-Forwarded-Prefix" not in headers
    assert headers["Origin"] == app.url


async def test_pages_of_other_hosts_change_nothing_with_our_cookie(session: ClientSession, cookie: str) -> None:
    for foreign in ({"Origin": "http://other--n1.apps.test"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert await status(session, method="POST", Cookie=cookie, **foreign) == 403
        assert await status(session, Cookie=cookie, **foreign) == 200
    assert await status(session, method="POST", Cookie=cookie, **OWN) == 200


async def test_a_websocket_with_our_cookie_is_for_pages_of_the_host(session: ClientSession, cookie: str) -> None:
    async with session.ws_connect("/ws", headers={"Cookie": cookie, **OWN}) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
    with pytest.raises(WSServerHandshakeError) as caught:
        await session.ws_connect("/ws", headers={"Cookie": cookie, "Origin": "http://other--n1.apps.test"})
    assert caught.value.status == 403


async def test_redirects_stay_on_the_host(session: ClientSession, secret: str, app: LocalApp) -> None:
    for location, told in (
        (f"{app.url}/x", "/x"),
        ("/x", "/x"),
        (f"http://{HOST}/x", "/x"),
        (f"http://{HOST}//o.test/", "/.//o.test/"),
        ("//o.test/", "//o.test/"),
    ):
        async with session.get(
            "/x",
            params={"status": "302", "Location": location},
            headers={"Authorization": secret},
            allow_redirects=False,
        ) as answer:
            assert answer.headers["Location"] == told


@pytest.mark.parametrize(
    "host", ["n1.apps.test", "app-n1.apps.test", "--n1.apps.test", "app--.apps.test", "app--a%2f.apps.test"]
)
async def test_a_host_that_names_no_application_is_404(session: ClientSession, secret: str, host: str) -> None:
    assert await status(session, Authorization=secret, Host=host) == 404


async def test_the_gateways_own_routes_are_not_on_these_hosts(session: ClientSession, secret: str) -> None:
    assert await status(session, "/healthz") == 401
    async with session.get("/healthz", headers={"Authorization": secret}) as answer:
        assert (await answer.json())["path"] == "/healthz"
    async with session.get("/healthz", headers={"Host": "apps.test"}) as answer:
        assert "path" not in await answer.text()


async def test_where_calls_need_no_client_neither_do_pages(tmp_path: Any, app: LocalApp) -> None:
    settings = {"call_auth": False, "expose_host": "apps.test"}
    async with app_gateway(tmp_path, pipe=settings) as gateway, attached(gateway, "n1", {"app": app.url}):
        async with gateway.session() as session:
            assert await status(session, Host=HOST) == 200
            assert await status(session, "/node/n1/app/x") == 200


async def test_a_host_that_is_no_domain_stops_the_start(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"PIPE__EXPOSE_HOST: .*not a domain"):
        async with app_gateway(tmp_path, pipe={"expose_host": "*.apps.test"}):
            pass
