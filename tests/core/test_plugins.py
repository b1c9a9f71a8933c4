"""Finding and loading plugins: those installed, those given by a test, and all the ways in which one can be broken."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest

from gateway_core import ConfigError, Event, PluginSettings, hookimpl, hookspec
from gateway_core.errors import PluginError
from gateway_core.plugins import PluginInfo, Plugins, load_plugins

HEAD = "from gateway_core import PluginSettings, hookimpl, hookspec\n"


class Site:
    """A folder on ``sys.path`` into which distributions with one plugin each are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, code: str, *, distribution: str = "", version: str = "1.0") -> None:
        """Module ``<name>_plugin_of_a_test`` as plugin ``name``."""
        distribution = distribution or f"gateway-{name}"
        module = f"{name.replace('-', '_')}_of_{distribution.replace('-', '_')}"
        (self.folder / f"{module}.py").write_text(HEAD + dedent(code))
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[gateway.plugins]\n{name} = {module}\n")
        importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def info(plugins: Plugins, name: str) -> PluginInfo:
    return next(found for found in plugins.infos if found.name == name)


def refusal(names: list[str] | None = None, **options: Any) -> str:
    with pytest.raises(PluginError) as caught:
        load_plugins(names, **options)
    return caught.value.detail


def test_the_built_in_plugins_come_through_entry_points() -> None:
    found = info(load_plugins(), "archive")
    assert (found.distribution, found.entry_point, found.status) == (
        "content-gateway",
        "gateway_archive.plugin",
        "enabled",
    )
    assert "gateway_routes" in found.hooks


def test_a_package_that_is_installed_is_found_with_its_version_and_hooks(site: Site) -> None:
    site.install("hello", "@hookimpl\ndef gateway_event(event): ...\n", version="2.3.4")
    found = info(load_plugins(["hello"]), "hello")
    assert (found.distribution, found.version, found.status) == ("gateway-hello", "2.3.4", "enabled")
    assert found.hooks == ("gateway_event",)
    assert found.error == ""


def test_plugins_that_are_not_wanted_are_not_imported(site: Site) -> None:
    site.install("hello", "raise RuntimeError('imported')\n")
    plugins = load_plugins(["archive"])
    assert plugins.enabled == ("archive",)
    assert info(plugins, "hello").status == "disabled"
    assert "hello" in plugins.idle
    assert not [name for name in sys.modules if name.startswith("hello_of_")]


def test_no_plugins_at_all_can_be_wanted() -> None:
    plugins = load_plugins([])
    assert plugins.enabled == ()
    assert "archive" in plugins.idle


def test_an_unknown_name_is_refused_with_those_there_are(site: Site) -> None:
    site.install("hello", "")
    told = refusal(["hello", "pypes"], strict=False)
    assert told.startswith("PLUGINS: no plugin 'pypes' is installed; there are: archive, ")
    assert "hello" in told


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nowhere_to_be_found\n", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("@hookimpl\ndef gateway_rotues(gateway): ...\n", "unknown hook 'gateway_rotues'"),
        ("@hookimpl\ndef gateway_routes(gatway): ...\n", "Argument(s) {'gatway'}"),
        ("def gateway_hookspecs(): raise KeyError('specs')\n", "KeyError: 'specs'"),
    ],
)
def test_a_broken_plugin_stops_the_start_and_is_named_with_its_package(site: Site, code: str, words: str) -> None:
    site.install("broken", code)
    told = refusal(["broken"])
    assert told.startswith("plugin broken (gateway-broken, broken_of_gateway_broken): ")
    assert words in told


@pytest.mark.parametrize(
    "code", ["1 / 0\n", "@hookimpl\ndef gateway_rotues(gateway): ...\n", "raise SystemExit('not here')\n"]
)
def test_without_strictness_a_broken_plugin_is_reported_and_the_others_load(site: Site, code: str) -> None:
    site.install("broken", code)
    site.install("hello", "@hookimpl\ndef gateway_event(event): ...\n")
    plugins = load_plugins(["broken", "hello"], strict=False)
    assert plugins.enabled == ("hello",)
    assert info(plugins, "broken").status == "failed"
    assert "gateway-broken" in info(plugins, "broken").error
    assert "broken" in plugins.idle


def test_nothing_of_a_plugin_that_failed_is_called(site: Site) -> None:
    site.install("half", "@hookimpl\ndef gateway_settings(): 1 / 0\n@hookimpl\ndef gateway_rotues(gateway): ...\n")
    assert load_plugins(["half"], strict=False).sections() == {}


@pytest.mark.parametrize("name", ["core", "Hello", "hel-lo", "hel__lo", "1hello"])
def test_a_name_that_cannot_be_part_of_a_variable_is_refused(site: Site, name: str) -> None:
    site.install(name, "", distribution="gateway-oddly-called")
    assert "lower-case letters" in refusal([name])


def test_two_packages_with_one_plugin_name_are_refused_whatever_is_wanted(site: Site) -> None:
    site.install("hello", "", distribution="gateway-hello")
    site.install("hello", "", distribution="another-hello")
    told = refusal(["archive"], strict=False)
    assert "another-hello" in told
    assert "gateway-hello" in told
    assert told.endswith("both bring a plugin 'hello'")


def test_a_package_listed_twice_on_the_path_is_no_clash(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("hello", "")
    link = tmp_path.with_name("link")
    link.symlink_to(tmp_path)
    monkeypatch.syspath_prepend(link)
    assert load_plugins(["hello"]).enabled == ("hello",)


def test_extra_plugins_count_as_installed() -> None:
    plugin = SimpleNamespace(gateway_event=hookimpl(lambda event: None))
    plugins = load_plugins(["mine"], extra={"mine": plugin})
    assert plugins.enabled == ("mine",)
    assert info(plugins, "mine").hooks == ("gateway_event",)
    assert load_plugins(["archive"], extra={"mine": plugin}).idle >= {"mine"}


def test_an_extra_plugin_stands_in_for_an_installed_one(site: Site) -> None:
    site.install("hello", "1 / 0\n")
    assert load_plugins(["hello"], extra={"hello": SimpleNamespace()}).enabled == ("hello",)


class Named:
    """A plugin that says its name in the hooks it was given."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    @hookimpl
    def gateway_settings(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def test_hooks_are_asked_plugin_by_plugin_in_the_order_of_names() -> None:
    extra = {name: Named(name) for name in ("zebra", "ant", "cat")} | {"none": Named(None)}
    plugins = load_plugins(list(extra), extra=extra)
    assert list(plugins.each("gateway_settings")) == [("ant", "ant"), ("cat", "cat"), ("zebra", "zebra")]


def test_a_hook_that_fails_names_its_plugin() -> None:
    plugins = load_plugins(["bad"], extra={"bad": Named(ValueError("broken"))})
    with pytest.raises(PluginError, match=r"plugin bad: gateway_settings failed: ValueError\('broken'\)"):
        list(plugins.each("gateway_settings"))


def test_an_error_of_the_tree_in_a_hook_keeps_its_words() -> None:
    plugins = load_plugins(["bad"], extra={"bad": Named(ConfigError("BAD__KEY: wrong"))})
    with pytest.raises(PluginError, match=r"^plugin bad: BAD__KEY: wrong$"):
        list(plugins.each("gateway_settings"))


def test_a_hook_that_nobody_specified_yields_nothing() -> None:
    assert list(load_plugins([]).each("gateway_nothing_like_it", anything=1)) == []


def test_sections_must_be_settings_models() -> None:
    class Mine(PluginSettings):
        """Mine."""

    assert load_plugins(["mine"], extra={"mine": Named(Mine)}).sections() == {"mine": Mine}
    for wrong in (Mine(), dict, "archive"):
        with pytest.raises(PluginError, match="plugin mine: gateway_settings must return a PluginSettings class"):
            load_plugins(["mine"], extra={"mine": Named(wrong)}).sections()


class Observer:
    """Keeps the events it hears of, or fails."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.heard: list[str] = []

    @hookimpl
    def gateway_event(self, event: Event) -> None:
        self.heard.append(event.name)
        if self.fails:
            raise RuntimeError("observer")


def test_a_failing_observer_hurts_nobody() -> None:
    extra = {"a": Observer(fails=True), "b": Observer(), "c": Observer(fails=True)}
    load_plugins(list(extra), extra=extra).notify("gateway_event", event=Event("x.y.happened"))
    assert [observer.heard for observer in extra.values()] == [["x.y.happened"]] * 3


class Extensible:
    """Brings a hook of its own."""

    class Specs:
        @hookspec
        def words(self, length: int) -> Any: ...

    @hookimpl
    def gateway_hookspecs(self) -> type:
        return self.Specs


class Extending:
    """Implements a hook of another plugin, and loads without that one."""

    @hookimpl(optionalhook=True)
    def words(self, length: int) -> str:
        return "x" * length


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_plugins_extend_plugins_in_any_order_of_names(names: tuple[str, str]) -> None:
    extra = {names[0]: Extensible(), names[1]: Extending()}
    plugins = load_plugins(list(extra), extra=extra)
    assert list(plugins.each("words", length=3)) == [(names[1], "xxx")]


def test_an_optional_hook_of_a_plugin_that_is_not_there_is_no_error() -> None:
    plugins = load_plugins(["b"], extra={"b": Extending()})
    assert plugins.enabled == ("b",)
    assert list(plugins.each("words", length=3)) == []
