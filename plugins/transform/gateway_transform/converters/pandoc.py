"""Documents from one markup into another by pandoc."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gateway_transform.api import BadInput, Needs, Option, transformation
from gateway_transform.converters.files import FILES, beside, convert_each, files_below, making, matching
from gateway_transform.converters.office_files import check_office_file
from gateway_transform.converters.options import YES_OR_NO, text, yes
from gateway_transform.converters.pixels import READABLE
from gateway_transform.converters.programs import run

_READERS = MappingProxyType(
    {
        ".md": "markdown",
        ".markdown": "markdown",
        ".html": "html",
        ".htm": "html",
        ".xhtml": "html",
        ".docx": "docx",
        ".odt": "odt",
        ".epub": "epub",
        ".fb2": "fb2",
        ".tex": "latex",
        ".rst": "rst",
        ".org": "org",
        ".textile": "textile",
        ".wiki": "mediawiki",
        ".ipynb": "ipynb",
        ".opml": "opml",
        ".dbk": "docbook",
        ".rtf": "rtf",
    }
)
_EXTENSIONS = MappingProxyType(
    {
        "html": ".html",
        "docx": ".docx",
        "odt": ".odt",
        "epub": ".epub",
        "markdown": ".md",
        "gfm": ".md",
        "rst": ".rst",
        "latex": ".tex",
        "plain": ".txt",
        "rtf": ".rtf",
        "mediawiki": ".wiki",
        "asciidoc": ".adoc",
        "org": ".org",
        "pptx": ".pptx",
        "jats": ".xml",
        "docbook": ".dbk",
        "tei": ".tei.xml",
    }
)

MAX_IMAGE_BYTES = 256 << 20

_SANDBOXED = ("--sandbox", "--epub-embed-font=.")
"""In its own sandbox pandoc opens no file but those that its arguments name, whatever documents include or refer to;
fonts for EPUB may be a folder, of which it then knows all files, though embeds none."""

TO = Option(
    "to",
    "Format",
    default="html",
    values={
        "html": "HTML",
        "docx": "Word",
        "odt": "OpenDocument text",
        "epub": "EPUB",
        "markdown": "Markdown",
        "gfm": "Markdown (GitHub)",
        "rst": "reStructuredText",
        "latex": "LaTeX",
        "plain": "Plain text",
        "rtf": "Rich Text Format",
        "mediawiki": "MediaWiki",
        "asciidoc": "AsciiDoc",
        "org": "Org mode",
        "pptx": "PowerPoint",
        "jats": "JATS XML",
        "docbook": "DocBook XML",
        "tei": "TEI XML",
    },
)
FROM = Option(
    "from",
    "Format of the files; empty: as their names say",
    values={"": "As the name says", **{name: name for name in sorted({"gfm", "commonmark", *_READERS.values()})}},
)
TOC = Option("toc", "With a table of contents", default="no", values=YES_OR_NO)

_HOLD_IMAGES = frozenset({"docx", "odt", "epub", "pptx", "rtf"})
_IMAGES = frozenset({*READABLE, ".svg"})
_DATA_FILES = Path("/usr/share/pandoc/data")
"""Where Debian keeps the templates that others build into pandoc."""


@transformation(
    label="Convert with pandoc",
    help="Every document (Markdown, HTML, Word, OpenDocument, EPUB, FictionBook, LaTeX, reStructuredText, Org, "
    "Textile, MediaWiki, Jupyter, OPML, DocBook, RTF) in another format beside it; files that have its extension "
    "already are left alone. Images are taken from the document's folder and those below it.",
    options=(FILES, TO, FROM, TOC),
    needs=Needs(programs=("pandoc",)),
)
def pandoc(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.md`` and ``to=docx`` give ``a.docx``."""
    to, reader = text(options, TO), text(options, FROM)
    extension = _EXTENSIONS[to]
    settings = ["--standalone", *(["--toc"] if yes(options, TOC) else [])]
    candidates = matching(working_dir, options, _READERS, expected="document for pandoc")
    paths = [path for path in candidates if path.suffix.lower() != extension]
    if not paths:
        raise BadInput(f"all documents here end in {extension} already")

    def convert(path: Path) -> list[Path]:
        check_office_file(path)
        command = [f"--from={reader or _READERS[path.suffix.lower()]}", f"--to={to}", *settings]
        with tempfile.TemporaryDirectory(prefix="pandoc-") as scratch, making(beside(path, extension)) as target:
            _lay_out(Path(scratch), path.parent if to in _HOLD_IMAGES else None)
            where = [f"--metadata=pagetitle={path.stem}", f"--output={target}", str(path)]
            ran = run(["pandoc", *_SANDBOXED, *command, *where], logger, folder=Path(scratch))
            if ran.code != 0:
                raise BadInput(f"pandoc cannot read it: {ran.output[:300] or f'it ended with {ran.code}'}")
        return [target]

    convert_each(working_dir, logger, paths, convert=convert)


def _lay_out(scratch: Path, images_of: Path | None) -> None:
    """Links to all that pandoc may read besides the document: its templates, and images in and below a folder.

    ``BadInput`` if the images are too many for pandoc, which reads them all.
    """
    scratch.joinpath("data").mkdir()
    if _DATA_FILES.is_dir():
        scratch.joinpath("data", "data").symlink_to(_DATA_FILES)
    if images_of is None:
        return
    images = [path for path in files_below(images_of) if path.suffix.lower() in _IMAGES]
    if sum(path.stat().st_size for path in images) > MAX_IMAGE_BYTES:
        raise BadInput(f"its folder has more than {MAX_IMAGE_BYTES >> 20} MiB of images")
    for path in images:
        link = scratch / path.relative_to(images_of)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
