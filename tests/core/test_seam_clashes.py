"""What stops the start: two plugins that claim one thing, and plugins that cannot be loaded; each is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import web

from gateway_core import ConfigError, Gateway, Listener, MigrationSource, PluginSettings, Role, Route
from gateway_core.app.compose import compose
from gateway_core.cli.commands import plugin_commands
from gateway_core.errors import PluginError
from gateway_core.plugins import load_plugins
from gateway_core.settings import Inputs
from tests.core import seam_plugin
from tests.core.seam_install import install, plugin_of


def routes_of(*routes: Route) -> ModuleType:
    return plugin_of(gateway_routes=lambda gateway: routes)


def put_together(tmp_path: Path, **plugins: object) -> Gateway:
    inputs = Inputs(options={"plugins": ",".join(plugins), "data_dir": tmp_path})
    return compose(inputs, role=Role.SERVER, extra=plugins).gateway


async def nothing(request: web.Request) -> web.Response:
    return web.Response()


def route(method: str, path: str, name: str = "r", **options: object) -> Route:
    return Route(method=method, path=path, handler=nothing, name=name, **(options or {"public": True}))


CLASHING_ROUTES = {
    "the same": (("GET", "/a"), ("GET", "/a")),
    "a pattern by another name": (("GET", "/a/{x}"), ("GET", "/a/{y}")),
    "another method of a pattern by another name": (("GET", "/a/{x}"), ("POST", "/a/{y}")),
    "one method of any": (("*", "/a"), ("POST", "/a")),
    "any of one method": (("POST", "/a"), ("*", "/a")),
    "a route of the core": (("POST", "/a"), ("GET", "/readyz")),
}


@pytest.mark.parametrize("routes", CLASHING_ROUTES.values(), ids=CLASHING_ROUTES)
def test_routes_that_match_the_same_requests_stop_the_start(tmp_path: Path, routes):
    first, second = (routes_of(route(*one)) for one in routes)
    with pytest.raises(ConfigError, match="two:r"):
        put_together(tmp_path, one=first, two=second)


def test_routes_that_match_different_requests_live_together(tmp_path: Path):
    paths = ("/a", "/a/{x}", r"/a/{x:\d+}", "/a/{x:.*}", "/a/{x}/b")
    routes = [route(method, path, f"{method}{path}") for method in ("GET", "POST") for path in paths]
    put_together(tmp_path, one=routes_of(*routes[:5]), two=routes_of(*routes[5:]))


def test_two_routes_of_one_name_stop_the_start(tmp_path: Path):
    with pytest.raises(ConfigError, match="two routes are called r"):
        put_together(tmp_path, one=routes_of(route("GET", "/a"), route("GET", "/b")))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scope": "a:b", "public": True}, "either a scope or public"),
        ({"grant": False}, "either a scope or public"),
        ({"scope": "a:{node}"}, "needs path parameter node"),
    ],
)
def test_route_that_is_neither_open_nor_guarded_cannot_be_made(options: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said):
        route("GET", "/a", **options)


def both(hook: str, answer: Callable[..., object]) -> dict[str, ModuleType]:
    """Two plugins that give the same answer to a hook."""
    return {"one": plugin_of(**{hook: answer}), "two": plugin_of(**{hook: answer})}


MIGRATIONS = str(Path(__file__).parent / "seam_migrations")


def periodic(gateway: Gateway) -> list[Route]:
    gateway.every(1, nothing, "mine")
    return []


CLASHES = {
    "source": (
        both("gateway_sources", lambda gateway: {"mine": object()}),
        "two sources for the URL scheme 'mine'",
    ),
    "storage": (both("gateway_storages", lambda: {"mine": object()}), "storage scheme 'mine' is registered twice"),
    "migrations": (
        both("gateway_migrations", lambda: MigrationSource("mine", MIGRATIONS)),
        "migrations 'mine' are registered twice",
    ),
    "migrations of the core": (
        both("gateway_migrations", lambda: MigrationSource("core", MIGRATIONS)),
        "migrations 'core' are registered twice",
    ),
    "periodic task": (
        {"one": plugin_of(gateway_routes=periodic), "two": plugin_of(gateway_health=lambda gateway: periodic(gateway))},
        "two periodic tasks are called mine",
    ),
    "listener": (
        {
            "one": plugin_of(
                gateway_listeners=lambda gateway: [Listener(name="mine", bind="127.0.0.1:0", routes=[])] * 2
            )
        },
        "two listeners are called mine",
    ),
}


@pytest.mark.parametrize(("plugins", "said"), CLASHES.values(), ids=CLASHES)
def test_two_plugins_that_claim_one_thing_stop_the_start(tmp_path: Path, plugins: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said):
        put_together(tmp_path, **plugins)


def test_plugin_with_the_name_of_a_core_setting_stops_the_start(tmp_path: Path):
    with pytest.raises(ConfigError, match="'host' has the name of a core setting"):
        put_together(tmp_path, host=plugin_of(gateway_settings=lambda: PluginSettings))


@pytest.mark.parametrize("name", ["core", "My-Plugin", "a__b", "1a"])
def test_plugin_name_that_cannot_be_part_of_a_setting_stops_the_start(name: str):
    with pytest.raises(PluginError, match="is called by"):
        load_plugins((name,), extra={name: plugin_of()})


def test_settings_that_are_no_section_stop_the_start(tmp_path: Path):
    with pytest.raises(PluginError, match="plugin one: gateway_settings must return a PluginSettings class"):
        put_together(tmp_path, one=plugin_of(gateway_settings=lambda: dict))


def test_error_of_a_hook_names_the_plugin_once_and_plainly(tmp_path: Path):
    def refuse(gateway: Gateway) -> None:
        raise ConfigError("MINE__SIZE is too small")

    with pytest.raises(PluginError, match=r"^plugin one: MINE__SIZE is too small$"):
        put_together(tmp_path, one=plugin_of(gateway_routes=refuse))


def test_misspelt_hook_stops_the_start(tmp_path: Path):
    with pytest.raises(PluginError, match="gateway_rutes"):
        put_together(tmp_path, one=plugin_of(gateway_rutes=lambda gateway: ()))


def test_hook_of_a_plugin_that_is_not_there_needs_optionalhook(tmp_path: Path):
    with pytest.raises(PluginError, match="seam_words"):
        put_together(tmp_path, one=plugin_of(seam_words=lambda length: ()))
    put_together(tmp_path, one=plugin_of(seam_words=lambda length: ()), seam=seam_plugin)


@pytest.mark.parametrize("names", [("serve",), ("mine", "mine")])
def test_two_commands_of_one_name_stop_the_command_line(tmp_path: Path, names: tuple[str, ...]):
    with install(tmp_path, "clash", module=COMMANDS.format(names=names)):
        with pytest.raises(PluginError, match=f"{names[-1]!r} is defined twice"):
            plugin_commands(Inputs(options={"plugins": "clash"}), taken=frozenset({"serve"}))


COMMANDS = """
import click
from gateway_core import hookimpl

@hookimpl
def gateway_commands(cli):
    for name in {names}:
        cli.add_command(click.Command(name))
"""
