"""The API's description: valid, whole, and readable on a page that needs nothing from elsewhere."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from openapi_spec_validator import validate
from pydantic import BaseModel, Field

from gateway_core import Body, Kind, Route, hookimpl
from gateway_core.routing.openapi import build_openapi
from gateway_core.routing.table import RouteTable
from gateway_core.testing.plugin import MakeGateway

METHODS = {"get", "put", "post", "delete", "patch"}


async def handler(_request: web.Request) -> web.Response:
    """Do it.

    With care.
    """
    return web.Response()


class Part(BaseModel):
    """A part."""

    name: str


class Whole(BaseModel):
    """Many parts, and parts of itself."""

    parts: list[Part]
    more: list[Whole] = Field(default_factory=list)


class PageQuery(BaseModel):
    """Where to begin."""

    page: int = Field(1, ge=1, description="Counted from 1")
    kind: Part | None = None
    needed: str


def another_part() -> type[BaseModel]:
    """A model of another plugin that happens to have the same name."""

    class Part(BaseModel):
        """Not that part."""

        weight: float

    return Part


def route(path: str, method: Any = "GET", **options: Any) -> Route:
    options.setdefault("name", "it")
    if "scope" not in options:
        options.setdefault("public", True)
    return Route(method=method, path=path, handler=handler, **options)


def described(*routes: Route, **more: list[Route]) -> dict[str, Any]:
    table = RouteTable()
    table.add(routes, owner="one")
    for owner, others in more.items():
        table.add(others, owner=owner)
    document = build_openapi(table, version="1.2.3", server="https://gw.example/fpx")
    validate(document)
    return document


async def test_the_document_is_valid_and_has_every_route(make_gateway: MakeGateway) -> None:
    async with make_gateway({"demo": True}) as running, running.session() as session:
        async with session.get("/openapi.json") as response:
            document = await response.json()
        assert response.content_type == "application/json"
        validate(document)
        assert document["openapi"].startswith("3.1.")
        mounted = [m for m in running.core.registries.routes if m.route.in_openapi]
        assert {m.owner for m in mounted} >= {"core", "archive"}
        for entry in mounted:
            for method in entry.route.methods:
                assert document["paths"][entry.plain_path][method.lower()]["tags"] == [entry.owner]
        operations = [(p, m) for p, item in document["paths"].items() for m in item.keys() & METHODS]
        assert len(operations) == sum(len(m.route.methods) for m in mounted)


async def test_every_route_of_core_and_plugins_says_what_it_does(make_gateway: MakeGateway) -> None:
    async with make_gateway({"demo": True}) as running:
        unspoken = [m.label for m in running.core.registries.routes if not (m.route.handler.__doc__ or "").strip()]
    assert unspoken == []


async def test_the_server_is_what_clients_reach(make_gateway: MakeGateway) -> None:
    async with make_gateway({"public_url": "https://gw.example/fpx/"}) as running, running.session() as session:
        async with session.get("/openapi.json") as response:
            assert (await response.json())["servers"] == [{"url": "https://gw.example/fpx"}]


async def test_operation_ids_are_unique_and_secrets_are_asked_for_where_needed(make_gateway: MakeGateway) -> None:
    async with make_gateway({"metrics_public": False}) as running, running.session() as session:
        async with session.get("/openapi.json") as response:
            document = await response.json()
    operations = [item[method] for item in document["paths"].values() for method in item.keys() & METHODS]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    paths = document["paths"]
    assert paths["/metrics"]["get"]["security"] == [{"secret": []}]
    assert paths["/metrics"]["get"]["x-scope"] == "core:metrics"
    assert "security" not in paths["/healthz"]["get"]
    assert paths["/ticket/generate"]["post"]["x-scope"] == "archive:ticket"


def test_the_docstring_is_summary_and_description() -> None:
    operation = described(route("/x"))["paths"]["/x"]["get"]
    assert (operation["summary"], operation["description"]) == ("Do it.", "With care.")


def test_path_and_query_parameters_are_described() -> None:
    document = described(route(r"/job/{id:[0-9a-f]{32}}/{tail:.*}", query=PageQuery))
    operation = document["paths"]["/job/{id}/{tail}"]["get"]
    found = {(p["in"], p["name"]): p for p in operation["parameters"]}
    assert set(found) == {("path", "id"), ("path", "tail"), ("query", "page"), ("query", "kind"), ("query", "needed")}
    assert found["path", "id"]["required"]
    assert not found["query", "page"]["required"]
    assert found["query", "needed"]["required"]
    assert found["query", "page"]["schema"]["minimum"] == 1


def test_bodies_and_answers_refer_to_their_models() -> None:
    document = described(route("/x", "POST", body=Body.JSON, request=Whole, response=Part))
    operation = document["paths"]["/x"]["post"]

    def named(content: dict[str, Any]) -> Any:
        name = content["application/json"]["schema"]["$ref"].removeprefix("#/components/schemas/")
        return document["components"]["schemas"][name]

    assert set(named(operation["requestBody"]["content"])["properties"]) == {"parts", "more"}
    assert set(named(operation["responses"]["200"]["content"])["properties"]) == {"name"}
    assert operation["responses"]["default"]["content"]["application/problem+json"]


def test_models_of_two_plugins_with_one_name_stay_apart() -> None:
    document = described(
        route("/one", response=Whole),
        two=[route("/two", response=another_part())],
    )
    text = str(document["components"]["schemas"])
    assert "weight" in text
    assert "'name': {" in text
    two = document["paths"]["/two"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    whole = document["paths"]["/one"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    schemas = {f"#/components/schemas/{name}": schema for name, schema in document["components"]["schemas"].items()}
    assert set(schemas[two]["properties"]) == {"weight"}
    part = schemas[whole]["properties"]["parts"]["items"]["$ref"]
    assert set(schemas[part]["properties"]) == {"name"}


@pytest.mark.parametrize(
    ("method", "described_as"),
    [
        ("*", {"get", "post", "put", "patch", "delete"}),
        (("GET", "HEAD", "OPTIONS"), {"get"}),
        (("POST", "PUT"), {"post", "put"}),
        (("GET", "PROPFIND"), {"get"}),
    ],
)
def test_each_method_is_an_operation_of_its_own(method: Any, described_as: set[str]) -> None:
    item = described(route("/x", method))["paths"]["/x"]
    assert set(item) == described_as
    assert len({operation["operationId"] for operation in item.values()}) == len(described_as)


def test_a_path_with_no_describable_method_is_left_out() -> None:
    assert described(route("/x", "PROPFIND"), route("/y", name="y"))["paths"].keys() == {"/y"}


def test_streams_and_websockets_say_what_comes() -> None:
    document = described(
        route("/zip", media_type="application/zip", kind=Kind.STREAM, name="zip"),
        route("/wait", kind=Kind.WEBSOCKET, name="wait"),
        route("/put", "PUT", body=Body.STREAM, name="put"),
        route("/hidden", in_openapi=False, name="hidden"),
    )
    paths = document["paths"]
    assert list(paths["/zip"]["get"]["responses"]["200"]["content"]) == ["application/zip"]
    assert "101" in paths["/wait"]["get"]["responses"]
    assert list(paths["/put"]["put"]["requestBody"]["content"]) == ["application/octet-stream"]
    assert "/hidden" not in paths


async def test_the_page_loads_only_from_here(make_gateway: MakeGateway) -> None:
    async with make_gateway() as running, running.session() as session:
        async with session.get("/docs") as response:
            page = await response.text()
            assert response.status == 200
            assert response.content_type == "text/html"
            policy = response.headers["Content-Security-Policy"]
        links = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(links) == 3
        for link in links:
            assert "//" not in link
            async with session.get(f"/{link}") as response:
                body = await response.text()
            assert response.status == 200, link
            assert response.content_type in {"text/css", "text/javascript"}
            if link.endswith(".css"):
                assert re.findall(r"url\(\s*[\"']?(?:https?:)?//", body) == []
                assert "@import" not in body
            if link.endswith("start.js"):
                assert 'url: "openapi.json"' in body
    assert "default-src 'self'" in policy
    assert not re.search(r"https?:|\*", policy)


@pytest.mark.parametrize("name", ["nothing.js", "..%2Ferrors.py", "LICENSE", "%2e%2e/errors.py"])
async def test_the_page_has_no_other_files(make_gateway: MakeGateway, name: str) -> None:
    async with make_gateway() as running:
        reader, writer = await asyncio.open_connection(*running.address().split(":"))
        writer.write(f"GET /docs/{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head = (await reader.read()).decode()
        writer.close()
    assert head.startswith("HTTP/1.1 404 ")


async def test_routes_of_a_plugin_appear_under_its_name_and_prefix(make_gateway: MakeGateway) -> None:
    probe = SimpleNamespace(gateway_routes=hookimpl(lambda gateway: [route("/x/{id}", scope="probe:x:{id}")]))
    settings = {"plugins": "archive,probe", "archive": {"prefix": "/fpx"}}
    async with make_gateway(settings, plugins={"probe": probe}) as running, running.session() as session:
        async with session.get("/openapi.json") as response:
            document = await response.json()
    validate(document)
    assert document["paths"]["/x/{id}"]["get"]["operationId"] == "probe_it"
    assert "/fpx/ticket/generate" in document["paths"]
    assert {"name": "probe"} in document["tags"]
