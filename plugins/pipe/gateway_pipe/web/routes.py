"""All routes of the pipe plugin, and the port for nodes with certificates."""

from __future__ import annotations

from typing import Any

from gateway_core import Body, Gateway, Kind, Listener, Route
from gateway_pipe.identity.listener import listener_context
from gateway_pipe.settings import CALL_SCOPE, CONNECT_SCOPE, PipeSettings
from gateway_pipe.web.apps import app_routes
from gateway_pipe.web.calls import calls_routes
from gateway_pipe.web.enrolment import enrolment_routes
from gateway_pipe.web.groups import GroupHandlers
from gateway_pipe.web.link import LinkHandlers
from gateway_pipe.web.nodes import NodesHandlers
from gateway_pipe.web.nouns import NounHandlers

VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def pipe_routes(gateway: Gateway) -> list[Route]:
    """The routes of the main port; calls are public where ``CALL_AUTH`` is off."""
    nouns, groups, nodes = NounHandlers(gateway), GroupHandlers(gateway), NodesHandlers(gateway)
    guarded: dict[str, Any] = {"scope": CALL_SCOPE} if gateway.section(PipeSettings).call_auth else {"public": True}
    return [
        _link(gateway),
        Route(
            method=VERBS,
            path="/client/{node}/{noun:.*}",
            handler=nouns.call,
            name="client",
            body=Body.STREAM,
            **guarded,
        ),
        # The handlers of these look for the caller's scopes themselves: which nodes are meant shows only there.
        Route(
            method=VERBS,
            path="/group/{selector}/{noun:.*}",
            handler=groups.call,
            name="group",
            public=True,
            kind=Kind.STREAM,
            body=Body.RAW,
            media_type="application/x-ndjson",
        ),
        Route(method="GET", path="/pipe/nodes", handler=nodes.show, name="nodes", public=True),
        *calls_routes(gateway),
        *enrolment_routes(gateway),
        *app_routes(gateway),
    ]


def node_listeners(gateway: Gateway) -> list[Listener]:
    """The port for nodes with certificates, where ``LISTEN`` names one."""
    settings = gateway.section(PipeSettings)
    if not settings.listen:
        return []
    routes = (_link(gateway), *enrolment_routes(gateway))
    return [Listener(name="nodes", bind=settings.listen, routes=routes, ssl_context=lambda: listener_context(gateway))]


def _link(gateway: Gateway) -> Route:
    """For both ports."""
    return Route(
        method="GET",
        path="/pipe/link/{node}",
        handler=LinkHandlers(gateway).connect,
        name="link",
        scope=CONNECT_SCOPE,
        grant=False,
        kind=Kind.WEBSOCKET,
        origins=(),
    )
