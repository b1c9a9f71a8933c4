"""The pages for users say what the code says: every setting, every command, every option."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gateway_core.cli.root import root
from gateway_core.plugins import load_plugins
from gateway_core.settings import ENV_PREFIX, PluginSettings, Settings
from gateway_core.settings.docs import render_docs

ROOT = Path(__file__).parents[2]
OURS = [info.name for info in load_plugins().infos if info.distribution == "content-gateway"]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("plugins/*/README.md")))
}
BESIDE = {"GATEWAY_CONFIG", "GATEWAY_URL", "GATEWAY_SECRET", "GATEWAY_TEST_REQUIRE"}


def sections() -> dict[str, type[PluginSettings]]:
    return load_plugins(OURS).sections()


def commands() -> dict[str, click.Command]:
    """Commands of the core and our plugins by what is typed: ``gateway client add``."""
    context = click.Context(root, info_name="gateway", obj=None)
    context.params["plugins"] = ",".join(OURS)
    return dict(_below(root, context, "gateway"))


def _below(command: click.Command, context: click.Context, typed: str) -> Iterator[tuple[str, click.Command]]:
    yield typed, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            if not inner.hidden:
                yield from _below(inner, click.Context(inner, parent=context), f"{typed} {name}")


def options(command: click.Command) -> list[str]:
    """Long names of what may be given to it."""
    shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    return [max(option.opts, key=len) for option in shown]


COMMANDS = commands()


def names_in(text: str) -> set[str]:
    """Names of variables that it mentions, whole ones: ``GATEWAY_ARCHIVE__`` and ``GATEWAY_TEST_*`` are none.

    A name that is shown to be refused counts nowhere.
    """
    refused = set(re.findall(r"\b(GATEWAY_\w+): no such setting", text))
    return set(re.findall(r"\bGATEWAY_[A-Z0-9_]*[A-Z0-9]\b(?![*_<])", text)) - refused


def test_the_page_of_settings_is_what_the_command_prints():
    assert PAGES["docs/configuration.md"] == render_docs(sections()), "run: gateway config docs > docs/configuration.md"


def test_every_setting_has_a_description_that_ends_like_a_phrase():
    models = {"": Settings, **sections()}
    lacking = [
        f"{name}.{key}"
        for name, model in models.items()
        for key, field in model.model_fields.items()
        if not field.description or field.description.endswith(".") or "|" in field.description
    ]
    assert lacking == []


def test_there_are_commands_of_core_and_plugins():
    assert {"gateway serve", "gateway client add", "gateway config show", "gateway ticket list"} <= set(COMMANDS)


@pytest.mark.parametrize("typed", COMMANDS)
def test_every_command_is_documented_with_its_options(typed: str):
    pages = [text for text in PAGES.values() if typed in text]
    assert pages, typed
    told = "\n".join(pages)
    assert [option for option in options(COMMANDS[typed]) if not re.search(rf"(?<![\w-]){option}\b", told)] == []


@pytest.mark.parametrize("typed", COMMANDS)
def test_every_command_and_option_says_what_it_is_for(typed: str):
    command = COMMANDS[typed]
    assert command.help, typed
    silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.hidden and not p.help]
    assert silent == []


def test_names_of_variables_are_found():
    text = "`GATEWAY_HOST`, GATEWAY_ARCHIVE__QUEUE=1, GATEWAY_TEST_*; GATEWAY_HSOT: no such setting"
    assert names_in(text) == {"GATEWAY_HOST", "GATEWAY_ARCHIVE__QUEUE"}


@pytest.mark.parametrize("page", PAGES)
def test_no_variable_is_mentioned_that_no_setting_has(page: str):
    own = {f"{ENV_PREFIX}{key.upper()}" for key in Settings.model_fields}
    ours = {
        f"{ENV_PREFIX}{name.upper()}__{key.upper()}" for name, model in sections().items() for key in model.model_fields
    }
    known = own | ours | BESIDE
    foreign = tuple(f"{ENV_PREFIX}{name.upper()}__" for name in sections())
    unknown = {
        name
        for name in names_in(PAGES[page])
        if name.removesuffix("_FILE") not in known and (("__" not in name) or name.startswith(foreign))
    }
    assert unknown == set()
