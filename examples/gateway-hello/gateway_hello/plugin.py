"""The hello plugin: a setting, a route, a source of files, a health check, a command and a transformation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import click
from aiohttp import web
from pydantic import BaseModel, Field

from gateway_core import Check, Degraded, Gateway, PluginSettings, Route, Source, client_of, hookimpl
from gateway_core.cli import run
from gateway_hello.greetings import GreetingSource, greet


class HelloSettings(PluginSettings):
    """``GATEWAY_HELLO__GREETING=Moin``, or ``HELLO = {"greeting": "Moin"}`` in the settings file."""

    greeting: str = Field("Hello", max_length=100, description="The word before the name")


class Greeted(BaseModel):
    """The answer of the route, as the API's description shows it."""

    greeting: str
    asked_by: str


@hookimpl
def gateway_settings() -> type[PluginSettings]:
    """The section ``hello``."""
    return HelloSettings


@hookimpl
def gateway_routes(gateway: Gateway) -> Iterable[Route]:
    """``GET /hello/{name}``, for clients with the scope ``hello:greet``."""
    settings = gateway.section(HelloSettings)

    async def hello(request: web.Request) -> web.Response:
        """Greet somebody by name."""
        text = greet(settings.greeting, request.match_info["name"])
        return web.json_response(Greeted(greeting=text, asked_by=client_of(request).name).model_dump())

    return [
        Route(method="GET", path="/hello/{name}", handler=hello, name="hello", scope="hello:greet", response=Greeted)
    ]


@hookimpl
def gateway_sources(gateway: Gateway) -> Mapping[str, Source]:
    """``hello:Ada`` wherever the gateway takes a URL, such as in an archive."""
    return {"hello": GreetingSource(gateway.section(HelloSettings).greeting)}


@hookimpl
def gateway_health(gateway: Gateway) -> Mapping[str, Check]:
    """``hello.greeting`` in ``/readyz``."""

    async def greeting() -> None:
        if not gateway.section(HelloSettings).greeting.strip():
            raise Degraded("HELLO__GREETING is blank: guests are met with a comma")

    return {"greeting": greeting}


@hookimpl
def gateway_commands(cli: click.Group) -> None:
    """``gateway hello NAME``."""

    @cli.command("hello")
    @click.argument("name")
    def command(name: str) -> None:
        """Greet NAME with the greeting that is set."""

        async def work(gateway: Gateway) -> str:
            return greet(gateway.section(HelloSettings).greeting, name)

        click.echo(run(work))


@hookimpl(optionalhook=True)
def transform_transformations() -> Mapping[str, str]:
    """``hello_card`` for jobs; a hook of the transform plugin, without which nobody asks."""
    return {"hello_card": "gateway_hello.card:hello_card"}
