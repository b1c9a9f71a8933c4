"""Text in scans by tesseract."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway_transform.api import BadInput, BadOptions, Needs, Option, transformation
from gateway_transform.converters.files import FILES, beside, convert_each, matching
from gateway_transform.converters.options import text
from gateway_transform.converters.pdf import drawn_pages
from gateway_transform.converters.pixels import READABLE, opened, upright_frames
from gateway_transform.converters.programs import run

if TYPE_CHECKING:
    from PIL.Image import Image

SCAN_DPI = 300
"""What tesseract was trained for; PDFs are drawn with it."""

LANGUAGES = Option("languages", "Languages, such as eng or eng+fra", default="eng", free_input=True)
OUTPUT = Option(
    "output", "What to make", default="text", values={"text": "Text", "pdf": "PDF in which text can be found"}
)

_LAST = {"text": "txt", "pdf": "pdf"}


@transformation(
    label="Text recognition (OCR)",
    help="The text of every image (PNG, JPEG, WebP, GIF, TIFF, BMP, AVIF) and scanned .pdf file: a-ocr.txt, or "
    "a-ocr.pdf, an image of each page with its text beneath. Takes the languages that are installed for tesseract.",
    options=(FILES, LANGUAGES, OUTPUT),
    needs=Needs(
        modules=("PIL", "pypdfium2"),
        programs=("tesseract",),
        preload=("PIL.PngImagePlugin", "PIL.ImageOps", "pypdfium2"),
    ),
)
def ocr(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.png`` gives ``a-ocr.txt``."""
    kind = _LAST[text(options, OUTPUT)]
    languages = _checked(text(options, LANGUAGES), logger)
    paths = matching(working_dir, options, {*READABLE, ".pdf"}, expected="image or PDF")

    def convert(path: Path) -> list[Path]:
        with tempfile.TemporaryDirectory(prefix="ocr-") as scratch:
            made = _recognised(_pages(path), Path(scratch), languages, kind=kind, logger=logger)
            target = beside(path, f".{kind}", "-ocr")
            target.write_bytes(made.read_bytes())
        return [target]

    convert_each(working_dir, logger, paths, convert=convert)


def _checked(languages: str, logger: logging.Logger) -> str:
    """``languages`` if tesseract has them all, else ``BadOptions`` with those that it has."""
    listed = run(["tesseract", "--list-langs"], logger).output.splitlines()[1:]
    missing = [language for language in languages.split("+") if language not in listed]
    if missing:
        raise BadOptions(f"languages: {missing[0][:50]!r} is not installed, only {', '.join(listed)}")
    return languages


def _pages(path: Path) -> Iterator[Image]:
    if path.suffix.lower() == ".pdf":
        for _tag, page in drawn_pages(path, SCAN_DPI):
            yield page
    else:
        with opened(path) as image:
            yield from upright_frames(image, every=image.format == "TIFF")


def _recognised(pages: Iterator[Image], scratch: Path, languages: str, *, kind: str, logger: logging.Logger) -> Path:
    """The file that tesseract made of all ``pages`` in one run, which takes their names from a list."""
    names = []
    for number, page in enumerate(pages):
        name = scratch / f"{number}.png"
        flat = page.convert("RGBA" if page.has_transparency_data else "RGB") if page.mode not in {"1", "L"} else page
        flat.save(name, "PNG", dpi=page.info.get("dpi", (SCAN_DPI, SCAN_DPI)), compress_level=1)
        names.append(f"{name}\n")
    pages_list = scratch / "pages"
    pages_list.write_text("".join(names), encoding="utf-8")
    made = scratch / f"text.{kind}"
    # Threads of one page wait for each other more than they work.
    ran = run(
        ["tesseract", pages_list, made.with_suffix(""), "-l", languages, kind],
        logger,
        variables={"OMP_THREAD_LIMIT": "1"},
    )
    if ran.code != 0 or not made.is_file():
        raise BadInput(f"tesseract cannot read it: {ran.output[-300:]}")
    return made
