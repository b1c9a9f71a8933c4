"""Which callables of a module are transformations, and what is said about them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway_transform.box import catalogue
from gateway_transform.box.catalogue import Catalogue, Unloadable

_NUMBERS = itertools.count()
Load = Callable[..., Catalogue]
RUN = "def run(working_dir, logger, options): ...\n"

CIRCE = """
import logging
from collections import OrderedDict
from {helper} import borrowed, unrelated

def bare(working_dir: str, logger: logging.Logger, options: dict): ...
def described(working_dir, logger, options): ...
described.description = {{"label": "A label", "options": [{{"id": "x"}}]}}
class Whole:
    def __init__(self, working_dir, logger, options): ...
def with_more(working_dir, logger, options, extra=None): ...
def asks_more(working_dir, logger, options, extra): ...
def _private(working_dir, logger, options): ...
def fewer(working_dir): ...
def none(): ...
def other_names(a, b, c): ...
def swapped(logger, working_dir, options): ...
def keywords(*, working_dir, logger, options): ...
def many(*args): ...
value = 3
instance = OrderedDict()
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load modules of these texts, ``m`` first; ``{m}`` in ``named`` stands for its real name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(text: str = "", named: dict[str, str] | None = None, **others: str) -> Catalogue:
        names = {name: f"{name}_{next(_NUMBERS)}" for name in ("m", *others)}
        for name, source in {"m": text, **others}.items():
            (tmp_path / f"{names[name]}.py").write_text(source.format(**names))
        targets = {name: target.format(**names) for name, target in (named or {}).items()}
        return catalogue.load([names["m"]] if text else [], targets)

    return load


def needing(**needs: Any) -> str:
    body = f"def run(working_dir, logger, options): ...\nrun.needs = {needs!r}\n"
    return body.replace("{", "{{").replace("}", "}}")


def test_module_shows_what_circe_would_and_nothing_private_or_borrowed(load: Load) -> None:
    helper = "def borrowed(working_dir, logger, options): ...\ndef unrelated(): ...\n"
    assert set(load(CIRCE, helper=helper).entries) == {"bare", "described", "Whole", "with_more"}


def test_callable_without_description_gets_the_default_of_circe(load: Load) -> None:
    entry = load(CIRCE, helper="borrowed = unrelated = None").entries["bare"]
    assert entry.description == {"label": "bare", "help": "bare", "options": []}
    assert (entry.seconds, entry.memory_mb, entry.network) == (None, None, False)
    assert (entry.deterministic, entry.version) == (False, "")


def test_what_a_description_leaves_out_is_filled_in(load: Load) -> None:
    entry = load(CIRCE, helper="borrowed = unrelated = None").entries["described"]
    assert entry.description == {"label": "A label", "help": "described", "options": [{"id": "x"}]}


def test_list_of_all_lets_borrowed_names_in_and_others_out(load: Load) -> None:
    helper = "def borrowed(working_dir, logger, options): ...\n"
    listed = "from {helper} import borrowed\n__all__ = ['borrowed', 'absent', 3]\n"
    assert set(load(listed + RUN, helper=helper).entries) == {"borrowed"}


def test_package_shows_what_comes_from_its_submodules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"package_{next(_NUMBERS)}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("from .inner import run\n")
    (tmp_path / name / "inner.py").write_text("def run(working_dir, logger, options): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert set(catalogue.load([name], {}).entries) == {"run"}


def test_wrapped_function_counts_as_what_it_wraps(load: Load) -> None:
    text = """
import functools
def logged(function):
    @functools.wraps(function)
    def inner(*args): return function(*args)
    return inner
@logged
def run(working_dir, logger, options): ...
"""
    assert set(load(text).entries) == {"run"}


def test_named_callable_may_be_anything_that_can_be_called(load: Load) -> None:
    text = "class Box:\n    @staticmethod\n    def run(a, b, c): ...\n"
    assert set(load(m_other=text, named={"boxed": "{m_other}:Box.run"}).entries) == {"boxed"}


def test_declared_needs_are_told(load: Load) -> None:
    text = needing(seconds=5, memory_mb=100, network=True, preload=["json"], modules=["json"], programs=["sh"])
    entry = load(text + "run.deterministic = True\nrun.version = 3\n").entries["run"]
    assert entry.described() == {
        "description": {"label": "run", "help": "run", "options": []},
        "limits": {"seconds": 5, "memory_mb": 100, "network": True},
        "deterministic": True,
        "version": "3",
        "preload": ["json"],
    }


@pytest.mark.parametrize(
    ("needs", "word"),
    [
        ({"modules": ["json", "absent_module"]}, "absent_module"),
        ({"modules": ["json.absent"]}, "json.absent"),
        ({"modules": ["sys.absent"]}, "sys.absent"),
        ({"programs": ["sh", "absent-program"]}, "absent-program"),
        ({"programs": ["/usr/bin"]}, "/usr/bin"),
    ],
)
def test_transformation_is_hidden_where_something_is_missing(load: Load, needs: dict, word: str) -> None:
    found = load(needing(**needs))
    assert not found.entries
    assert word in found.hidden["run"]


def test_module_that_is_needed_is_not_imported(load: Load, tmp_path: Path) -> None:
    (tmp_path / "explosive").mkdir()
    for name in ("__init__", "part"):
        (tmp_path / "explosive" / f"{name}.py").write_text("raise SystemExit")
    assert set(load(needing(modules=["explosive.part"])).entries) == {"run"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import absent_module", ["module 'm_", "ModuleNotFoundError", "absent_module"]),
        ("raise SystemExit('no')", ["module 'm_", "SystemExit: no"]),
        ("def broken(:", ["module 'm_", "SyntaxError"]),
        (RUN + "run.needs = 3", ["'run'", "needs"]),
        (needing(seconds=-1), ["'run'", "seconds"]),
        (needing(memory_mb="much"), ["'run'", "memory_mb"]),
        (needing(modules="json"), ["'run'", "modules"]),
        (RUN + "run.description = {{'options': 3}}", ["'run'", "options"]),
        (RUN + "run.description = {{'label': run}}", ["'run'", "description"]),
        (RUN + "run.description = {{'label': float('nan')}}", ["'run'", "description"]),
    ],
)
def test_what_cannot_be_loaded_is_named(load: Load, text: str, words: list[str]) -> None:
    with pytest.raises(Unloadable) as caught:
        load(text)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("target", ["{m}:absent", "{m}", "{m}:", "{m}:value", "absent_module:run", ":run", ""])
def test_name_that_leads_nowhere_is_told(load: Load, target: str) -> None:
    with pytest.raises(Unloadable, match="transformation 'bad'"):
        load(RUN + "value = 3\n", named={"bad": target})


def test_name_given_twice_is_refused_with_both_places(load: Load) -> None:
    with pytest.raises(Unloadable, match=r"'run'.*m_\d+\.run and other_\d+\.run"):
        load(RUN, named={"run": "{other}:run"}, other=RUN)


def test_same_callable_by_two_ways_is_one(load: Load) -> None:
    assert set(load(RUN, named={"run": "{m}:run"}).entries) == {"run"}
