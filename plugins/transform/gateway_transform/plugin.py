"""The transform plugin's front door."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from gateway_core import Authenticator, Check, Gateway, MigrationSource, PluginSettings, Route, Source, hookimpl
from gateway_transform import converters, demo, hookspecs, settings


@hookimpl
def gateway_settings() -> type[PluginSettings]:
    """The section ``transform``."""
    return settings.TransformSettings


@hookimpl
def gateway_hookspecs() -> type:
    """``transform_transformations``."""
    return hookspecs.TransformHooks


@hookimpl
def gateway_migrations() -> MigrationSource:
    """Jobs and the delivery log."""
    return MigrationSource("transform", str(Path(__file__).parent / "migrations"))


@hookimpl
def gateway_routes(gateway: Gateway) -> list[Route]:
    """Circe's routes and ours."""
    from gateway_transform.web.routes import transform_routes

    return transform_routes(gateway)


@hookimpl
def gateway_authenticators(gateway: Gateway) -> list[Authenticator]:
    """Circe's signatures."""
    from gateway_transform.web.authenticator import CirceSignature

    return [CirceSignature(gateway)]


@hookimpl
def gateway_sources(gateway: Gateway) -> dict[str, Source]:
    """``job:<id>/<path>``."""
    from gateway_transform.source import JobSource

    return {"job": JobSource(gateway)}


@hookimpl
def gateway_lifespan(gateway: Gateway) -> AbstractAsyncContextManager[None]:
    """Jobs are accepted and run."""
    from gateway_transform.work.service import lifespan

    return lifespan(gateway)


@hookimpl
def gateway_health(gateway: Gateway) -> dict[str, Check]:
    """The sandbox and the transformations."""
    from gateway_transform.work.service import checks

    return checks(gateway)


@hookimpl
def gateway_demo(gateway: Gateway, url: str) -> str:
    """A first converted document."""
    return demo.lines(gateway.settings.data_dir, url=url)


@hookimpl
def transform_transformations() -> dict[str, str]:
    """Those that come with the gateway."""
    return dict(converters.BUILT_IN)
