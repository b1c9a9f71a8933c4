"""The page for plugin authors says what the code says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import gateway_core
from gateway_core import hookspecs, testing

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text()
BLOCKS = re.findall(r"(?:<!-- (\S+) -->\n)?```python\n(.*?)```\n", PAGE, re.DOTALL)


def signatures() -> list[str]:
    """``def gateway_x(...) -> ...: ...`` of every hook, as the source has it."""
    functions = [
        node
        for node in ast.parse(Path(hookspecs.__file__).read_text()).body
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "hookspec" for d in node.decorator_list)
    ]
    return [f"def {f.name}({ast.unparse(f.args)}) -> {ast.unparse(f.returns)}: ..." for f in functions]


def plugins_signatures() -> list[str]:
    """The same of hooks that our plugins specify, as those write them who implement one."""
    functions = [
        node
        for path in ROOT.glob("plugins/*/gateway_*/hookspecs.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    return [
        f"def {f.name}({ast.unparse(f.args).removeprefix('self').lstrip(', ')}) -> {ast.unparse(f.returns)}: ..."
        for f in functions
    ]


def test_there_are_hooks():
    assert len(signatures()) >= 12
    assert "def transform_transformations() -> Mapping[str, str]: ..." in plugins_signatures()


@pytest.mark.parametrize("signature", [*signatures(), *plugins_signatures()])
def test_every_hook_is_documented_with_its_exact_signature(signature: str):
    assert f"\n{signature}\n```\n\n" in PAGE, "followed by what it is for"


def test_no_hook_is_documented_that_is_not_there():
    assert set(re.findall(r"^def gateway_\w+\(.*\.\.\.$", PAGE, re.MULTILINE)) == set(signatures())


@pytest.mark.parametrize("name", [*gateway_core.__all__, *testing.__all__])
def test_every_public_name_is_mentioned(name: str):
    assert re.search(rf"\b{name}\b", PAGE)


def test_every_fixture_is_mentioned():
    source = (ROOT / "gateway_core" / "testing" / "plugin.py").read_text()
    fixtures = set(re.findall(r"fixture(?:\([^)]*\))?\n\s*(?:async )?def (\w+)\(", source)) - {"gateway_templates"}
    assert {"gateway", "make_gateway", "gateway_config"} <= fixtures
    assert [name for name in sorted(fixtures) if f"`{name}`" not in PAGE] == []


def test_quoted_files_are_quoted_whole():
    quoted = {path: text for path, text in BLOCKS if path}
    assert set(quoted) == {
        f"examples/gateway-hello/gateway_hello/{name}.py" for name in ("plugin", "greetings", "card")
    }
    for path, text in quoted.items():
        assert text == (ROOT / path).read_text(), path


def test_all_python_is_python():
    for _, text in BLOCKS:
        ast.parse(text)


def test_inner_links_lead_somewhere():
    heads = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
    links = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert links
    assert links <= anchors
