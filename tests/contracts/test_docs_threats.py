"""The threat model names code and tests that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "THREAT_MODEL.md").read_text()
SHORT = {"core": "gateway_core"} | {
    path.name: f"plugins/{path.name}/gateway_{path.name}" for path in (ROOT / "plugins").iterdir()
}
SPANS = sorted(set(re.findall(r"`([^`\s]+)`", PAGE)))
TESTS = [span for span in SPANS if re.search(r"(?:^|/|::)test_\w+", span)]
PATHS = [span for span in SPANS if "/" in span and span not in TESTS and span.split("/")[0] in {*SHORT, "deploy"}]


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


FILES = {str(path.relative_to(ROOT / "tests")): functions(path) for path in (ROOT / "tests").rglob("test_*.py")}


def test_names_are_found():
    assert "core/test_egress.py" in FILES
    assert len(TESTS) > 100
    assert {"core/sources/egress.py", "deploy/systemd/"} <= set(PATHS)


@pytest.mark.parametrize("span", TESTS)
def test_a_test_that_is_named_is_there(span: str):
    file, _, name = span.rpartition("::")
    if span.endswith(".py"):
        assert span in FILES
    elif file:
        assert name in FILES.get(file, ())
    else:
        assert any(name in names for names in FILES.values())


@pytest.mark.parametrize("span", PATHS)
def test_a_piece_of_code_that_is_named_is_there(span: str):
    first, _, rest = span.partition("/")
    assert (ROOT / SHORT.get(first, first) / rest).exists()
