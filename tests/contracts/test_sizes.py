"""Gates on size and shape: when one hurts, the design is to be changed, not the gate."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = [p for top in ("gateway_core", "plugins") for p in sorted((ROOT / top).rglob("*.py"))]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def p95(values: list[int]) -> int:
    return sorted(values)[int(len(values) * 0.95)]


def test_files_are_short():
    lines = {path: len(path.read_text().splitlines()) for path in CODE}
    assert max(lines.values()) <= 600, max(lines, key=lines.get)
    assert p95(list(lines.values())) <= 400


def test_functions_are_short():
    lengths = {f"{path.relative_to(ROOT)}:{f.name}": length(f) for path in CODE for f in functions(path)}
    assert {name: n for name, n in lengths.items() if n > 80} == {}
    assert p95(list(lengths.values())) <= 40


def test_classes_are_short():
    found = {
        f"{path.relative_to(ROOT)}:{node.name}": length(node)
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and length(node) > 250
    }
    assert found == {}


def test_parameters_are_few_and_keyword_only_after_three():
    found = []
    for path in CODE:
        for f in functions(path):
            positional = [a.arg for a in (*f.args.posonlyargs, *f.args.args) if a.arg not in {"self", "cls"}]
            dunder_exit = f.name in {"__exit__", "__aexit__"}
            if len(positional) + len(f.args.kwonlyargs) > 6 or (len(positional) > 3 and not dunder_exit):
                found.append(f"{path.relative_to(ROOT)}:{f.name}({', '.join(positional)})")
    assert found == []


def test_public_names_are_documented():
    missing = []
    for path in CODE:
        if "migrations" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        if ast.get_docstring(tree) is None:
            missing.append(str(path.relative_to(ROOT)))
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                members = [node, *(m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef))]
                missing += [
                    f"{path.relative_to(ROOT)}:{m.name}"
                    for m in (members if isinstance(node, ast.ClassDef) else [node])
                    if m.name[0] != "_" and ast.get_docstring(m) is None
                ]
    assert missing == []


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X"])
def test_nothing_is_left_for_later(word):
    marked = [str(p.relative_to(ROOT)) for p in CODE if re.search(rf"\b{word}\b", p.read_text())]
    assert marked == []


def test_front_doors_are_small():
    doors = {
        path: len(path.read_text().splitlines())
        for path in CODE
        if path.name == "plugin.py" and "plugins" in path.parts
    }
    assert doors
    assert all(count < 80 for count in doors.values()), doors
