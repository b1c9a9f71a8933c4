"""From a Gateway to an aiohttp application: composition only."""

from __future__ import annotations

from aiohttp import hdrs, web

from gateway_core.app.frame import frame, on_prepare
from gateway_core.app.guard import Guard
from gateway_core.app.traffic import Traffic
from gateway_core.gateway import Gateway
from gateway_core.routing import Handler, Listener
from gateway_core.routing.route import ANY
from gateway_core.routing.table import Mounted, RouteTable

__all__ = ["make_app"]


def make_app(
    gateway: Gateway, traffic: Traffic, *, owner: str = "core", listener: Listener | None = None
) -> web.Application:
    """The application of the main port, or of one of the plugins' listeners."""
    table = gateway.registries.routes
    if listener is not None:
        table = RouteTable()
        table.add(listener.routes, owner=owner)
    app = web.Application(middlewares=[frame(gateway, traffic)])
    app.on_response_prepare.append(on_prepare)
    guard = Guard(gateway)
    hosts = {"": app}
    for mounted in _by_path(table):
        _mount(hosts.setdefault(mounted[0].route.host, web.Application()), mounted, guard)
    for host, below in hosts.items():
        if host:
            app.add_domain(f"*.{host}", below)
    return app


def _by_path(table: RouteTable) -> list[list[Mounted]]:
    """Routes of equal host and path together, in the order in which paths are matched."""
    paths: dict[tuple[str, str], list[Mounted]] = {}
    for mounted in table:
        paths.setdefault((mounted.route.host, mounted.path), []).append(mounted)
    return list(paths.values())


def _mount(app: web.Application, mounted: list[Mounted], guard: Guard) -> None:
    """One resource; methods that nobody claims answer 405 here rather than fall through to a catch-all."""
    resource = app.router.add_resource(mounted[0].path)
    handlers: dict[str, Handler] = {}
    for entry in mounted:
        for method in entry.route.methods:
            handlers[method] = guard.wrap(entry)
    if hdrs.METH_GET in handlers:
        handlers.setdefault(hdrs.METH_HEAD, handlers[hdrs.METH_GET])
    shared = [entry for entry in mounted if entry.route.cors]
    if shared:
        handlers.setdefault(hdrs.METH_OPTIONS, guard.preflight(shared, sorted({*handlers, hdrs.METH_OPTIONS} - {ANY})))
    for method, handler in sorted(handlers.items(), key=lambda pair: pair[0] == ANY):
        resource.add_route(method, handler)
    if ANY not in handlers:
        resource.add_route(ANY, guard.refuse(mounted[0], sorted(handlers)))
