"""OpenAPI 3.1 from the route table: what is declared is what is described."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

from gateway_core.routing.route import ANY, Body, Kind, Route
from gateway_core.routing.table import Mounted

_REFERENCE = "#/components/schemas/{model}"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_Use = tuple[type[BaseModel], Literal["validation", "serialization"]]


class Problem(BaseModel):
    """RFC 9457 problem details; `errors` holds messages by location and field."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: dict[str, dict[str, list[str]]] | None = None


def build_openapi(mounted: Iterable[Mounted], *, version: str, server: str) -> dict[str, Any]:
    """The document; ``server`` is the base URL that clients reach, with path prefix."""
    shown = [entry for entry in mounted if entry.route.in_openapi and _methods(entry.route)]
    builder = _Builder(entry.route for entry in shown)
    for entry in shown:
        builder.add(entry)
    return {
        "openapi": "3.1.0",
        "info": {"title": "content-gateway", "version": version},
        "servers": [{"url": server}],
        "tags": [{"name": name} for name in sorted(builder.tags)],
        "paths": builder.paths,
        "components": {
            "schemas": builder.schemas,
            "securitySchemes": {
                "secret": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "The client's secret, alone or after `Bearer `",
                }
            },
        },
    }


def _methods(route: Route) -> list[str]:
    """Those that are described: HEAD is GET's shadow, OPTIONS the browser's, and others have no place in OpenAPI."""
    return [method for method in _METHODS if method in route.methods or ANY in route.methods]


def _uses(routes: Iterable[Route]) -> Iterator[_Use]:
    """Every model with what it is used for; what is read and what is written may differ in form."""
    yield Problem, "serialization"
    for route in routes:
        for model in (route.query, route.request):
            if model is not None:
                yield model, "validation"
        if route.response is not None:
            yield route.response, "serialization"


class _Builder:
    def __init__(self, routes: Iterable[Route]) -> None:
        """All models at once: pydantic keeps those of one name apart."""
        uses = list(dict.fromkeys(_uses(routes)))
        self._references, definitions = models_json_schema(uses, ref_template=_REFERENCE)
        self.schemas: dict[str, Any] = definitions["$defs"]
        self.paths: dict[str, Any] = {}
        self.tags: set[str] = set()

    def add(self, entry: Mounted) -> None:
        path = self.paths.setdefault(entry.plain_path, {})
        for method in _methods(entry.route):
            path[method.lower()] = self._operation(entry, method)
        self.tags.add(entry.owner)

    def _operation(self, entry: Mounted, method: str) -> dict[str, Any]:
        route = entry.route
        doc = inspect.cleandoc(route.handler.__doc__ or route.name)
        summary, _, description = doc.partition("\n")
        suffix = "" if len(route.methods) == 1 and ANY not in route.methods else f"_{method.lower()}"
        operation: dict[str, Any] = {
            "operationId": f"{entry.owner}_{route.name}{suffix}",
            "tags": [entry.owner],
            "summary": summary,
            "parameters": [*self._path_parameters(route), *self._query_parameters(route)],
            "responses": self._responses(route),
        }
        if description.strip():
            operation["description"] = description.strip()
        if route.scope is not None:
            operation["security"] = [{"secret": []}]
            operation["x-scope"] = route.scope
        body = self._request_body(route)
        if body is not None and method not in {"GET", "DELETE"}:
            operation["requestBody"] = body
        return operation

    def _path_parameters(self, route: Route) -> list[dict[str, Any]]:
        return [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in route.parameters]

    def _query_parameters(self, route: Route) -> list[dict[str, Any]]:
        if route.query is None:
            return []
        schema = self.schemas[self._reference((route.query, "validation"))["$ref"].rpartition("/")[2]]
        required = schema.get("required", [])
        return [
            {"name": name, "in": "query", "required": name in required, "schema": field}
            for name, field in schema.get("properties", {}).items()
        ]

    def _request_body(self, route: Route) -> dict[str, Any] | None:
        if route.request is not None:
            return {
                "required": True,
                "content": {"application/json": {"schema": self._reference((route.request, "validation"))}},
            }
        if route.body in {Body.RAW, Body.STREAM}:
            return {"required": True, "content": {"application/octet-stream": {}}}
        return None

    def _responses(self, route: Route) -> dict[str, Any]:
        if route.kind is Kind.WEBSOCKET:
            good: dict[str, Any] = {"101": {"description": HTTPStatus(101).phrase}}
        elif route.response is not None:
            content = {"application/json": {"schema": self._reference((route.response, "serialization"))}}
            good = {"200": {"description": "OK", "content": content}}
        else:
            good = {"200": {"description": "OK", "content": {route.media_type: {}}}}
        problem = {"application/problem+json": {"schema": self._reference((Problem, "serialization"))}}
        return {**good, "default": {"description": "An error", "content": problem}}

    def _reference(self, use: _Use) -> dict[str, str]:
        reference: dict[str, str] = self._references[use]
        return reference
