"""PDFs merged, split and turned by pikepdf, read and drawn by pypdfium2."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway_transform.api import BadInput, BadOptions, Needs, Option, transformation
from gateway_transform.converters.files import FILES, beside, convert_each, making, matching, shown
from gateway_transform.converters.options import number, page_ranges, text
from gateway_transform.converters.pixels import MAX_PIXELS
from gateway_transform.converters.versions import versions

if TYPE_CHECKING:
    import pikepdf
    from PIL.Image import Image

MAX_MERGED = 400
"""Files of one merge: all are open until it is written, and a job may have 1024 open files."""

PAGES = Option("pages", "Pages, such as 1-3, 5, 8-; empty: all", free_input=True)
PARTS = Option("pages", "Parts, such as 1-3, 4-: a PDF of each; empty: a PDF of each page", free_input=True)
NAME = Option("name", "Name of the merged file", default="merged.pdf", free_input=True)
DEGREES = Option(
    "degrees", "Clockwise by", default="90", values={"90": "90°", "180": "180°", "270": "270° (90° to the left)"}
)
DPI = Option(
    "dpi", "Dots per inch, 18 to 1200", default="150", values={"72": "72", "150": "150", "300": "300"}, free_input=True
)

_PIKEPDF = Needs(modules=("pikepdf",), preload=("pikepdf",))


@transformation(
    label="Merge PDFs",
    help="All .pdf files as one, with a bookmark for each: in the order of the option “files”, else of their names "
    "(page2 before page10).",
    options=(FILES, NAME),
    needs=_PIKEPDF,
    deterministic=True,
    version=versions("pikepdf"),
)
def pdf_merge(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.pdf`` and ``b.pdf`` give ``merged.pdf``."""
    import pikepdf

    name = _file_name(text(options, NAME))
    paths = _pdfs(working_dir, options)
    if len(paths) > MAX_MERGED:
        raise BadInput(f"{len(paths)} PDFs; no more than {MAX_MERGED} can be merged at once")
    with ExitStack() as stack, pikepdf.new() as merged:
        with merged.open_outline() as outline:
            for path in paths:
                try:
                    pages = stack.enter_context(_opened(path)).pages
                    outline.root.append(pikepdf.OutlineItem(path.stem, len(merged.pages)))
                    merged.pages.extend(pages)
                except (BadInput, pikepdf.PdfError) as error:
                    raise BadInput(f"{shown(path, working_dir)}: {error}") from error
                logger.info("%s: %d pages", shown(path, working_dir), len(pages))
        target = _saved(merged, beside(Path(working_dir, name), ".pdf"))
    logger.info("%d files -> %s", len(paths), target.name)


@transformation(
    label="Split PDFs",
    help="Every .pdf file as several: a-1.pdf, a-2.pdf, ... for its pages, or a-1-3.pdf for the parts that are named.",
    options=(FILES, PARTS),
    needs=_PIKEPDF,
    deterministic=True,
    version=versions("pikepdf"),
)
def pdf_split(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.pdf`` of ten pages gives ``a-01.pdf`` to ``a-10.pdf``."""
    import pikepdf

    parts = page_ranges(options, PARTS)

    def convert(path: Path) -> list[Path]:
        with _opened(path) as pdf:
            total = len(pdf.pages)
            digits = len(str(total))
            made = []
            for first, last in _clipped(parts, total) or [(page, page) for page in range(1, total + 1)]:
                tag = f"-{first:0{digits}}" if first == last else f"-{first:0{digits}}-{last:0{digits}}"
                with pikepdf.new() as part:
                    part.pages.extend(pdf.pages[first - 1 : last])
                    made.append(_saved(part, beside(path, ".pdf", tag)))
            return made

    convert_each(working_dir, logger, _pdfs(working_dir, options), convert=convert)


@transformation(
    label="Turn pages of PDFs",
    help="Every .pdf file with all its pages, or those that are named, turned clockwise: a-rotated.pdf.",
    options=(FILES, DEGREES, PAGES),
    needs=_PIKEPDF,
    deterministic=True,
    version=versions("pikepdf"),
)
def pdf_rotate(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.pdf`` gives ``a-rotated.pdf``."""
    degrees = int(text(options, DEGREES))
    ranges = page_ranges(options, PAGES)

    def convert(path: Path) -> list[Path]:
        with _opened(path) as pdf:
            for page_number in _selected(ranges, len(pdf.pages)):
                pdf.pages[page_number - 1].rotate(degrees, relative=True)
            return [_saved(pdf, beside(path, ".pdf", "-rotated"))]

    convert_each(working_dir, logger, _pdfs(working_dir, options), convert=convert)


@transformation(
    label="PDF to text",
    help="The text of every .pdf file, in UTF-8, a form feed between pages. Scanned pages have none: take OCR.",
    options=(FILES, PAGES),
    needs=Needs(modules=("pypdfium2",), preload=("pypdfium2",)),
    deterministic=True,
    version=versions("pypdfium2"),
)
def pdf2text(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.pdf`` gives ``a.txt``."""
    ranges = page_ranges(options, PAGES)

    def convert(path: Path) -> list[Path]:
        with _drawable(path) as pdf, making(beside(path, ".txt")) as target:
            with target.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
                for index, page_number in enumerate(_selected(ranges, len(pdf))):
                    page = pdf[page_number - 1]
                    file.write(("\f" if index else "") + _text_of(page))
                    page.close()
        return [target]

    convert_each(working_dir, logger, _pdfs(working_dir, options), convert=convert)


@transformation(
    label="PDF to PNG",
    help="Every page of every .pdf file as an image: a-1.png, a-2.png, ...",
    options=(FILES, PAGES, DPI),
    needs=Needs(modules=("pypdfium2", "PIL"), preload=("pypdfium2", "PIL.PngImagePlugin")),
    deterministic=True,
    version=versions("pypdfium2", "Pillow"),
)
def pdf2png(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.pdf`` of ten pages gives ``a-01.png`` to ``a-10.png``."""
    ranges = page_ranges(options, PAGES)
    dpi = number(options, DPI, low=18, high=1200) or 150

    def convert(path: Path) -> list[Path]:
        made = []
        for tag, image in drawn_pages(path, dpi, ranges):
            with making(beside(path, ".png", tag)) as target:
                image.save(target, "PNG", dpi=(dpi, dpi))
            made.append(target)
        return made

    convert_each(working_dir, logger, _pdfs(working_dir, options), convert=convert)


def drawn_pages(path: Path, dpi: int, ranges: Sequence[tuple[int, int | None]] = ()) -> Iterator[tuple[str, Image]]:
    """``-01`` and the first page of the PDF as an image, and so on; each is good until the next is asked for.

    ``BadInput`` for a damaged file or a page of more than ``MAX_PIXELS``.
    """
    with _drawable(path) as pdf:
        pdf.init_forms()
        digits = len(str(len(pdf)))
        for page_number in _selected(ranges, len(pdf)):
            page = pdf[page_number - 1]
            width, height = (math.ceil(points * dpi / 72) for points in page.get_size())
            if width * height > MAX_PIXELS:
                raise BadInput(f"page {page_number} has {width} x {height} pixels at {dpi} dpi, that is too many")
            bitmap = page.render(scale=dpi / 72)
            yield f"-{page_number:0{digits}}", bitmap.to_pil()
            bitmap.close()
            page.close()


def _pdfs(working_dir: str, options: dict[str, Any]) -> list[Path]:
    return matching(working_dir, options, (".pdf",), expected="PDF")


def _file_name(name: str) -> str:
    """Ends in .pdf; ``BadOptions`` for more than a name."""
    if "/" in name or "\0" in name or name.startswith(".") or len(name.encode()) > 200:
        raise BadOptions(f"name: {name[:100]!r} is no name of a file")
    return name if name.lower().endswith(".pdf") else f"{name}.pdf"


@contextmanager
def _opened(path: Path) -> Iterator[pikepdf.Pdf]:
    import pikepdf

    try:
        with pikepdf.open(path) as pdf:
            if not pdf.pages:
                raise BadInput("is damaged: it has no pages")
            yield pdf
    except pikepdf.PasswordError as error:
        raise BadInput("is protected by a password") from error
    except pikepdf.PdfError as error:
        raise BadInput(f"is damaged: {str(error).removeprefix(f'{path}: ')[:200]}") from error


def _saved(pdf: pikepdf.Pdf, target: Path) -> Path:
    with making(target):
        pdf.save(target, deterministic_id=True)
    return target


@contextmanager
def _drawable(path: Path) -> Iterator[Any]:
    """A document of pypdfium2, read through a stream: its own way to files wants names in UTF-8."""
    import pypdfium2

    try:
        with path.open("rb") as file, pypdfium2.PdfDocument(file) as pdf:
            yield pdf
    except pypdfium2.PdfiumError as error:
        locked = "password" in str(error).lower()
        raise BadInput("is protected by a password" if locked else f"is damaged: {error}") from error


def _text_of(page: Any) -> str:
    """A page's text; PDFium marks a hyphen at a line's end as U+0002 or U+FFFE."""
    text_page = page.get_textpage()
    found: str = text_page.get_text_bounded()
    text_page.close()
    return found.replace("\r\n", "\n").replace("\x02", "-").replace("\ufffe", "-").rstrip() + "\n"


def _clipped(ranges: Sequence[tuple[int, int | None]], total: int) -> list[tuple[int, int]]:
    """``ranges`` without what lies behind the last page; ``BadInput`` if nothing remains of them."""
    clipped = [(first, min(last or total, total)) for first, last in ranges if first <= total]
    if ranges and not clipped:
        raise BadInput(f"has {total} pages, none of those that are wanted")
    return clipped


def _selected(ranges: Sequence[tuple[int, int | None]], total: int) -> list[int]:
    """Page numbers, each once, in the document's order."""
    if not ranges:
        return list(range(1, total + 1))
    return sorted({page for first, last in _clipped(ranges, total) for page in range(first, last + 1)})
