"""Handler classes by name, and what is callable of them."""

from __future__ import annotations

import pytest

from gateway_core import ConfigError
from gateway_pipe.handlers.builtin import NodeHandlers, ServerHandlers
from gateway_pipe.handlers.describe import catalogue, nouns
from gateway_pipe.handlers.load import Handlers

MODULE = """
class One:
    def get_one(self, ctx, post_data): return 1
class Two:
    def get_two(self, ctx, post_data): return 2
    def connection_added(self, name, count): pass
class Again:
    def get_one(self, ctx, post_data): return 3
class Needs:
    def __init__(self, what): pass
class Empty:
    def nothing(self): pass
value = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "pipe_handlers_here.py").write_text(MODULE)
    (tmp_path / "pipe_handlers_broken.py").write_text("raise ValueError('half a module')")
    (tmp_path / "pipe_handlers_exits.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    return "pipe_handlers_here"


def load(*names, **more):
    return Handlers.load(names, default=ServerHandlers, option="--handlers", **more)


def test_classes_are_combined_from_names_and_from_plugins(module):
    handlers = load(f"{module}:One", f"{module}:Two", extra=[NodeHandlers])
    assert set(handlers.methods) == {"get_one", "get_two", "get_time", "get_cat"}
    assert set(handlers.hooks) == {"connection_added"}


def test_without_any_class_the_examples_answer():
    assert nouns(load()) == ("cat", "time")


def test_the_examples_are_away_where_there_is_a_class(module):
    assert nouns(load(f"{module}:One")) == ("one",)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pipe_handlers_here", "module:Class"),
        ("no_such_module_here:One", "No module named 'no_such_module_here'"),
        ("pipe_handlers_broken:One", "half a module"),
        ("pipe_handlers_exits:One", "SystemExit"),
        ("pipe_handlers_here:Nobody", "no class Nobody"),
        ("pipe_handlers_here:value", "no class value"),
        ("pipe_handlers_here:Needs", "without arguments"),
        ("pipe_handlers_here:Empty", "no method such as get_time"),
    ],
)
def test_a_class_that_cannot_be_used_is_told_with_option_and_reason(module, name, told):
    with pytest.raises(ConfigError, match=r"^--handlers: ") as raised:
        load(name)
    assert told in raised.value.detail


def test_a_method_that_two_classes_have_is_told_with_both(module):
    with pytest.raises(ConfigError, match=r"--handlers: .*:One and .*:Again both have get_one"):
        load(f"{module}:One", f"{module}:Again")


class Odd:
    get_number = 3

    def __init__(self):
        self.get_late = lambda ctx, post_data: "late"

    @property
    def get_property(self):
        raise RuntimeError("nobody asked for this")

    def get_config(self):
        return "not for callers"

    def _get_private(self, ctx, post_data): ...
    def options_x(self, ctx, post_data): ...
    def start_hook(self): ...
    def get_any(*args): ...
    def get_two(self, ctx, post_data): ...


def test_only_methods_that_take_a_call_can_be_called():
    assert set(Handlers.of([Odd()]).methods) == {"get_late", "get_any", "get_two"}


class Described:
    def get_cat(self, ctx, post_data, first, second: int = 2, *rest, key=None):
        """Cats."""

    def post_cat(self, ctx, post_data): ...
    def put_a_b(self, ctx, post_data): ...


def test_the_catalogue_tells_verbs_parameters_and_documentation():
    assert catalogue(Handlers.of([Described()])) == {
        "nouns": {
            "a_b": {"verbs": {"PUT": {"parameters": [], "variadic": False, "doc": ""}}},
            "cat": {
                "verbs": {
                    "GET": {
                        "parameters": [
                            {"name": "first", "required": True},
                            {"name": "second", "required": False, "annotation": "int"},
                        ],
                        "variadic": True,
                        "doc": "Cats.",
                    },
                    "POST": {"parameters": [], "variadic": False, "doc": ""},
                }
            },
        }
    }
