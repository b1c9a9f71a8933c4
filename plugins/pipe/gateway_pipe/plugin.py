"""The pipe plugin's front door."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from gateway_core import Authenticator, Check, Gateway, Listener, MigrationSource, Route, Source, hookimpl
from gateway_pipe import demo, hookspecs, settings

gateway_demo = demo.gateway_demo


@hookimpl
def gateway_settings() -> type[settings.PipeSettings]:
    """The section ``pipe``."""
    return settings.PipeSettings


@hookimpl
def gateway_hookspecs() -> type:
    """``pipe_handlers``."""
    return hookspecs.PipeHooks


@hookimpl
def gateway_migrations() -> MigrationSource:
    """Nodes, who may be one, and durable calls."""
    return MigrationSource("pipe", str(Path(__file__).parent / "migrations"))


@hookimpl
def gateway_routes(gateway: Gateway) -> list[Route]:
    """RestPipe's ``/client/`` and ours."""
    from gateway_pipe.service import sweep_now_and_then
    from gateway_pipe.web.routes import pipe_routes

    sweep_now_and_then(gateway)
    return pipe_routes(gateway)


@hookimpl
def gateway_listeners(gateway: Gateway) -> list[Listener]:
    """The port for nodes with certificates."""
    from gateway_pipe.web.routes import node_listeners

    return node_listeners(gateway)


@hookimpl
def gateway_authenticators(gateway: Gateway) -> list[Authenticator]:
    """Certificates of nodes."""
    from gateway_pipe.web.certificates import CertificateAuthenticator

    return [CertificateAuthenticator(gateway)]


@hookimpl
def gateway_sources(gateway: Gateway) -> dict[str, Source]:
    """``pipe:<node>/<noun>``."""
    from gateway_pipe.source import PipeSource

    return {"pipe": PipeSource(gateway)}


@hookimpl
def gateway_lifespan(gateway: Gateway) -> AbstractAsyncContextManager[None]:
    """Nodes connect and are called."""
    from gateway_pipe.service import lifespan

    return lifespan(gateway)


@hookimpl
def gateway_health(gateway: Gateway) -> dict[str, Check]:
    """How many nodes are here."""
    from gateway_pipe.service import checks

    return checks(gateway)
