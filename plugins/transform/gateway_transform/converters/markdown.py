"""Markdown (CommonMark with tables) to HTML and PDF."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

from gateway_transform.api import BadInput, Needs, transformation
from gateway_transform.converters.files import FILES, beside, convert_each, making, matching
from gateway_transform.converters.html import PDF_OPTIONS, write_pdf
from gateway_transform.converters.page import PANGO, page
from gateway_transform.converters.versions import versions

_EXTENSIONS = (".md", ".markdown")


@transformation(
    label="Markdown to HTML",
    help="Every .md and .markdown file (CommonMark with tables and ~~strikethrough~~) as an HTML page beside it. HTML "
    "within it is cleaned: no scripts, styles or frames.",
    options=(FILES,),
    needs=Needs(modules=("markdown_it", "nh3"), preload=("markdown_it", "nh3")),
    deterministic=True,
    version=versions("markdown-it-py", "nh3"),
)
def markdown2html(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.md`` gives ``a.html``."""
    paths = matching(working_dir, options, _EXTENSIONS, expected="Markdown file")

    def convert(path: Path) -> list[Path]:
        markup = _page(path)
        with making(beside(path, ".html")) as target:
            target.write_text(markup, encoding="utf-8")
        return [target]

    convert_each(working_dir, logger, paths, convert=convert)


@transformation(
    label="Markdown to PDF",
    help="Every .md and .markdown file (CommonMark with tables and ~~strikethrough~~) as a PDF beside it. Images are "
    "taken from the job's own files; nothing is fetched from the network.",
    options=PDF_OPTIONS,
    needs=Needs(
        modules=("markdown_it", "nh3", "weasyprint"), libraries=PANGO, preload=("markdown_it", "nh3", "weasyprint")
    ),
    deterministic=True,
    version=versions("markdown-it-py", "nh3", "weasyprint", "Pillow", "fonttools", "pydyf"),
)
def markdown2pdf(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.md`` gives ``a.pdf``."""
    paths = matching(working_dir, options, _EXTENSIONS, expected="Markdown file")

    def convert(path: Path) -> list[Path]:
        markup = _page(path).encode()
        with making(beside(path, ".pdf")) as target:
            write_pdf(markup, path, target, folder=working_dir, logger=logger, options=options)
        return [target]

    convert_each(working_dir, logger, paths, convert=convert)


def _page(path: Path) -> str:
    """The file as a page whose title is its first heading, or its name."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    try:
        tokens = parser.parse(path.read_text(encoding="utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise BadInput("is no text in UTF-8") from error
    headings = (after.content for token, after in pairwise(tokens) if token.type == "heading_open")
    return page(next(headings, "") or path.stem, parser.renderer.render(tokens, parser.options, {}))
