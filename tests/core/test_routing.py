"""Declaring routes and listeners: what is refused at the start, and in which order paths are matched."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from gateway_core import ConfigError, Listener, Route, hookimpl
from gateway_core.routing.table import Mounted, RouteTable
from gateway_core.testing.plugin import MakeGateway


async def answer(request: web.Request) -> web.Response:
    """Answer."""
    return web.Response()


def route(path: str, method: Any = "GET", **options: Any) -> Route:
    options.setdefault("name", f"{method}{path}")
    if "scope" not in options:
        options.setdefault("public", True)
    options.setdefault("handler", answer)
    return Route(method=method, path=path, **options)


def table(*routes: Route, owner: str = "one", prefix: str = "") -> RouteTable:
    made = RouteTable()
    made.add(routes, owner=owner, prefix=prefix)
    return made


def paths(made: RouteTable) -> list[str]:
    return [mounted.path for mounted in made]


def saying(name: str) -> Any:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response([name, dict(request.match_info)])

    return handler


def plugin(*routes: Route) -> Any:
    return SimpleNamespace(gateway_routes=hookimpl(lambda gateway: list(routes)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "ticket"}, "a path begins with /"),
        ({"method": "get"}, "not a method"),
        ({"method": ()}, "not a method"),
        ({"method": ("GET", "no method")}, "not a method"),
        ({"public": False}, "either a scope or public=True"),
        ({"public": True, "scope": "a:b"}, "either a scope or public=True"),
        ({"scope": "pipe:call:{node}", "path": "/x/{other}"}, "needs path parameter node"),
    ],
)
def test_a_route_that_does_not_fit_is_refused_by_name(options: dict[str, Any], words: str) -> None:
    given = {"path": "/x", "method": "GET", "name": "odd", **options}
    with pytest.raises(ConfigError, match=rf"^route odd.*{words}"):
        Route(handler=answer, **given)


def test_a_route_without_scope_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="either a scope or public=True"):
        Route(method="GET", path="/x", handler=answer, name="open")


@pytest.mark.parametrize(
    ("path", "parameters", "plain", "pattern", "catch_all"),
    [
        ("/ticket/{id}", ["id"], "/ticket/{id}", "/ticket/{}", False),
        (r"/job/{id:[0-9a-f]{32}}", ["id"], "/job/{id}", "/job/{:[0-9a-f]{32}}", False),
        ("/rd/{path:.*}", ["path"], "/rd/{path}", "/rd/{:.*}", True),
        ("/rd/{path:.+}/x", ["path"], "/rd/{path}/x", "/rd/{:.+}/x", True),
        ("/{a}/{b}.zip", ["a", "b"], "/{a}/{b}.zip", "/{}/{}.zip", False),
        ("/plain", [], "/plain", "/plain", False),
    ],
)
def test_parameters_of_a_path(path: str, parameters: list[str], plain: str, pattern: str, *, catch_all: bool) -> None:
    made = route(path)
    assert (made.parameters, made.plain_path, made.pattern, made.catch_all) == (parameters, plain, pattern, catch_all)


def test_prefix_applies_except_to_routes_at_the_root() -> None:
    made = table(route("/ticket/{id}"), route("/rd/{p:.*}", at_root=True), prefix="/fpx")
    assert paths(made) == ["/fpx/ticket/{id}", "/rd/{p:.*}"]
    assert [mounted.plain_path for mounted in made] == ["/fpx/ticket/{id}", "/rd/{p}"]


def test_literal_paths_come_before_patterns_and_those_before_catch_alls() -> None:
    made = table(route("/{tail:.*}"), route("/{a}/{b}"), route("/x/{b}"), route("/x/{t:.+}"), route("/x/y"))
    assert paths(made) == ["/x/y", "/x/{b}", "/{a}/{b}", "/x/{t:.+}", "/{tail:.*}"]


def test_the_label_names_plugin_and_route() -> None:
    mounted: Mounted = next(iter(table(route("/x", name="download"), owner="archive")))
    assert mounted.label == "archive:download"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (route("/x"), route("/x", name="again")),
        (route("/x", "*"), route("/x", "POST")),
        (route("/x", "POST"), route("/x", "*")),
        (route("/x", ("GET", "PUT")), route("/x", ("PUT", "POST"), name="again")),
        (route("/x/{id}"), route("/x/{id}", name="again")),
    ],
)
def test_method_and_path_twice_stop_the_start_with_both_names(first: Route, second: Route) -> None:
    made = table(first)
    with pytest.raises(ConfigError, match=r"is claimed by one:.* and by two:"):
        made.add([second], owner="two")


def test_one_path_may_be_shared_by_methods_and_plugins() -> None:
    made = table(route("/x"), route("/x", "POST"))
    made.add([route("/x", ("PUT", "DELETE"))], owner="two")
    assert paths(made) == ["/x", "/x", "/x"]


def test_one_pattern_with_two_parameter_names_is_refused() -> None:
    made = table(route("/x/{id}"))
    with pytest.raises(ConfigError, match=r"/x/\{name\} is /x/\{id\} of one:.* by another name"):
        made.add([route("/x/{name}", "POST")], owner="two")


def test_a_prefix_can_end_a_clash() -> None:
    made = table(route("/x"))
    made.add([route("/x")], owner="two", prefix="/two")
    assert paths(made) == ["/two/x", "/x"]


def test_a_name_twice_in_one_plugin_is_refused() -> None:
    with pytest.raises(ConfigError, match="plugin one: two routes are called same"):
        table(route("/x", name="same"), route("/y", name="same"))


def test_two_plugins_may_use_one_name() -> None:
    made = table(route("/x", name="same"))
    made.add([route("/y", name="same")], owner="two")
    assert {mounted.label for mounted in made} == {"one:same", "two:same"}


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("[::1]:9000", ("::1", 9000)),
        (":9000", ("0.0.0.0", 9000)),
        ("gateway.example:0", ("gateway.example", 0)),
    ],
)
def test_a_listener_has_host_and_port(bind: str, address: tuple[str, int]) -> None:
    assert Listener(name="tls", bind=bind, routes=[]).address() == address


@pytest.mark.parametrize("bind", ["", "9000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "h:65536", "h:-1", "h:²"])
def test_a_listener_without_host_and_port_is_refused_by_name(bind: str) -> None:
    with pytest.raises(ConfigError, match="listener tls: expected host:port"):
        Listener(name="tls", bind=bind, routes=[]).address()


ROUTES = (
    route("/a/literal", name="literal", handler=saying("literal")),
    route("/a/{id}", name="pattern", handler=saying("pattern")),
    route("/a/{id}", "DELETE", name="delete", handler=saying("delete")),
    route("/a/{tail:.*}", name="below", handler=saying("below")),
    route("/{tail:.*}", name="everything", handler=saying("everything")),
    route("/any", "*", name="any", handler=saying("any")),
    route("/post", "POST", name="post", handler=saying("post")),
)


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/a/literal", ["literal", {}]),
        ("GET", "/a/x", ["pattern", {"id": "x"}]),
        ("DELETE", "/a/x", ["delete", {"id": "x"}]),
        ("GET", "/a/x/y", ["below", {"tail": "x/y"}]),
        ("GET", "/b", ["everything", {"tail": "b"}]),
        ("GET", "/any", ["any", {}]),
        ("PUT", "/any", ["any", {}]),
        ("PROPFIND", "/any", ["any", {}]),
        ("POST", "/post", ["post", {}]),
        ("GET", "/a/x%2Fy", ["pattern", {"id": "x/y"}]),
    ],
)
async def test_requests_reach_the_most_special_route(
    make_gateway: MakeGateway, method: str, path: str, wanted: list[Any]
) -> None:
    async with make_gateway({"plugins": "probe"}, plugins={"probe": plugin(*ROUTES)}) as running:
        async with running.session() as session, session.request(method, path) as response:
            assert await response.json() == wanted


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/a/literal", "GET, HEAD"),
        ("DELETE", "/a/literal", "GET, HEAD"),
        ("POST", "/a/x", "DELETE, GET, HEAD"),
        ("GET", "/post", "POST"),
        ("HEAD", "/post", "POST"),
        ("OPTIONS", "/post", "POST"),
        ("POST", "/b", "GET, HEAD"),
    ],
)
async def test_a_path_that_another_route_claims_answers_405_and_no_catch_all(
    make_gateway: MakeGateway, method: str, path: str, allowed: str
) -> None:
    async with make_gateway({"plugins": "probe"}, plugins={"probe": plugin(*ROUTES)}) as running:
        async with running.session() as session, session.request(method, path) as response:
            assert (response.status, response.headers["Allow"]) == (405, allowed)


async def test_head_is_answered_where_get_is(make_gateway: MakeGateway) -> None:
    async with make_gateway({"plugins": "probe"}, plugins={"probe": plugin(*ROUTES)}) as running:
        async with running.session() as session, session.head("/a/literal") as response:
            assert (response.status, await response.read()) == (200, b"")


async def test_two_plugins_with_one_route_stop_the_start(make_gateway: MakeGateway) -> None:
    both = {"first": plugin(route("/x", name="mine")), "second": plugin(route("/x", name="ours"))}
    with pytest.raises(ConfigError, match="GET /x is claimed by first:mine and by second:ours"):
        async with make_gateway({"plugins": "first,second"}, plugins=both):
            pass


async def test_a_plugin_cannot_take_a_route_of_the_core(make_gateway: MakeGateway) -> None:
    with pytest.raises(ConfigError, match="GET /healthz is claimed by core:healthz and by probe:mine"):
        async with make_gateway({"plugins": "probe"}, plugins={"probe": plugin(route("/healthz", name="mine"))}):
            pass


async def asked(session: Any, path: str, host: str) -> tuple[int, Any]:
    async with session.get(path, headers={"Host": host}) as answered:
        return answered.status, (await answered.json())[0] if answered.status == 200 else None


async def test_routes_of_a_host_are_for_hosts_below_it_and_for_no_others(make_gateway: MakeGateway) -> None:
    routes = route("/x", handler=saying("main")), route("/{p:.*}", host="apps.test", handler=saying("app"), name="app")
    async with (
        make_gateway({"plugins": "one"}, plugins={"one": plugin(*routes)}) as running,
        running.session() as session,
    ):
        for host in ("a.apps.test", "a.apps.test:8000", "A.Apps.TEST", "a.b.apps.test"):
            assert await asked(session, "/x", host) == (200, "app")
            assert await asked(session, "/healthz", host) == (200, "app")
        for host in ("apps.test", "apps.test.evil", "a.apps.test.evil", "aapps.test", "xapps.test:80", "a.appsXtest"):
            assert await asked(session, "/x", host) == (200, "main")
            assert await asked(session, "/y", host) == (404, None)


async def test_a_host_has_answers_of_the_usual_form_where_it_has_no_route(make_gateway: MakeGateway) -> None:
    async with make_gateway({"plugins": "one"}, plugins={"one": plugin(route("/x", host="apps.test"))}) as running:
        async with running.session(headers={"Host": "a.apps.test"}) as session:
            async with session.get("/healthz") as absent, session.post("/x") as refused:
                assert absent.status == 404
                assert absent.content_type == refused.content_type == "application/problem+json"
                assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
                assert refused.headers["X-Content-Type-Options"] == "nosniff"


def test_the_same_path_on_another_host_is_another_route_without_the_prefix() -> None:
    made = table(route("/x"), route("/x", host="apps.test", name="app"), prefix="/fpx")
    assert paths(made) == ["/fpx/x", "/x"]
    with pytest.raises(ConfigError, match="is claimed by"):
        made.add([route("/x", host="apps.test", name="again")], owner="two")


@pytest.mark.parametrize("host", ["*.apps.test", "Apps.test", "apps..test", ".apps.test", "apps.test:80", "a_b.test"])
def test_a_host_that_is_no_domain_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="not a domain"):
        route("/x", host=host)
