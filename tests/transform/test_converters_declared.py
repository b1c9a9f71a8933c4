"""The built-in transformations as `/transformations/` shows them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway_transform.converters.names import BUILT_IN
from tests.transform.converting import converter

ASKED_FOR = [
    *("html2pdf", "markdown2html", "markdown2pdf", "docx2html", "docx2markdown"),
    *("pdf_merge", "pdf_split", "pdf_rotate", "pdf2text", "pdf2png"),
    *("image_resize", "image_convert", "office2pdf", "pandoc", "ocr"),
]

LOAD_ALL = """
import importlib, sys
from gateway_transform.converters.names import BUILT_IN
for where in BUILT_IN.values():
    module, attribute = where.split(":")
    getattr(importlib.import_module(module), attribute)
heavy = {"weasyprint", "PIL", "pikepdf", "pypdfium2", "mammoth", "nh3", "markdown_it", "gateway_core", "pydantic"}
print(sorted(heavy & set(sys.modules)))
"""


def test_all_transformations_have_their_names():
    assert list(BUILT_IN) == ASKED_FOR


def test_declarations_load_no_library():
    loaded = subprocess.run([sys.executable, "-c", LOAD_ALL], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ASKED_FOR)
def test_each_says_what_it_does_and_needs(name):
    declared = converter(name)
    assert declared.description["label"]
    assert declared.description["help"].endswith(".")
    assert declared.needs["network"] is False
    assert declared.needs["modules"] or declared.needs["programs"]
    assert declared.version or declared.needs["programs"]


@pytest.mark.parametrize("name", ASKED_FOR)
def test_each_option_can_be_filled_in(name):
    for option in converter(name).description["options"]:
        assert set(option) == {"id", "label", "values", "default", "free_input"}
        assert option["label"]
        assert option["free_input"] or option["default"] in option["values"]


@pytest.mark.parametrize("name", ASKED_FOR)
def test_what_the_result_depends_on_is_in_the_version(name):
    declared = converter(name)
    assert not declared.deterministic or declared.version.startswith("gateway ")
