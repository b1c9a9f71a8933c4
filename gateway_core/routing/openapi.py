"""OpenAPI 3.1 from the route table: what is declared is what is described."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from gateway_core.routing.route import ANY, Body, Kind, Route
from gateway_core.routing.table import Mounted

_REFERENCE = "#/components/schemas/{model}"
_ALL_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem details; `errors` holds messages by location and field",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {"type": "object"},
    },
}


def build_openapi(mounted: Iterable[Mounted], *, version: str, server: str) -> dict[str, Any]:
    """The document; ``server`` is the base URL that clients reach, with path prefix."""
    builder = _Builder()
    for entry in mounted:
        if entry.route.in_openapi:
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


class _Builder:
    def __init__(self) -> None:
        self.paths: dict[str, Any] = {}
        self.schemas: dict[str, Any] = {"Problem": _PROBLEM}
        self.tags: set[str] = set()

    def add(self, entry: Mounted) -> None:
        path = self.paths.setdefault(entry.plain_path, {})
        methods = _ALL_METHODS if ANY in entry.route.methods else sorted(entry.route.methods - {"HEAD", "OPTIONS"})
        for method in methods:
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
        schema = self._schema_of(route.query)
        required = schema.get("required", [])
        return [
            {"name": name, "in": "query", "required": name in required, "schema": field}
            for name, field in schema.get("properties", {}).items()
        ]

    def _request_body(self, route: Route) -> dict[str, Any] | None:
        if route.request is not None:
            return {"required": True, "content": {"application/json": {"schema": self._reference(route.request)}}}
        if route.body in {Body.RAW, Body.STREAM}:
            return {"required": True, "content": {"application/octet-stream": {}}}
        return None

    def _responses(self, route: Route) -> dict[str, Any]:
        if route.kind is Kind.WEBSOCKET:
            good: dict[str, Any] = {"101": {"description": HTTPStatus(101).phrase}}
        elif route.response is not None:
            content = {"application/json": {"schema": self._reference(route.response)}}
            good = {"200": {"description": "OK", "content": content}}
        else:
            good = {"200": {"description": "OK", "content": {route.media_type: {}}}}
        problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        return {**good, "default": {"description": "An error", "content": problem}}

    def _reference(self, model: type[BaseModel]) -> dict[str, str]:
        self.schemas[model.__name__] = self._schema_of(model)
        return {"$ref": _REFERENCE.format(model=model.__name__)}

    def _schema_of(self, model: type[BaseModel]) -> dict[str, Any]:
        schema = model.model_json_schema(ref_template=_REFERENCE)
        self.schemas.update(schema.pop("$defs", {}))
        return schema
