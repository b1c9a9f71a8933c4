"""HTML to PDF by weasyprint, which may read the job's files and nothing else."""

from __future__ import annotations

import logging
import mimetypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from gateway_transform.api import BadInput, Needs, Option, transformation
from gateway_transform.converters.files import FILES, beside, convert_each, making, matching
from gateway_transform.converters.options import YES_OR_NO, text, yes
from gateway_transform.converters.page import PANGO
from gateway_transform.converters.pixels import bounded_pixels
from gateway_transform.converters.versions import versions

MAX_RESOURCE_BYTES = 64 << 20
"""The largest image, font or stylesheet that is read."""

PAGE_SIZE = Option(
    "page_size",
    "Size of the page, unless the document says it",
    default="A4",
    values={name: name for name in ("A3", "A4", "A5", "letter", "legal")},
)
LANDSCAPE = Option("landscape", "Landscape, unless the document says it", default="no", values=YES_OR_NO)
VARIANT = Option(
    "variant",
    "Kind of PDF",
    default="pdf",
    values={
        "pdf": "PDF",
        "pdf/a-2b": "PDF/A-2b, for archives",
        "pdf/a-3b": "PDF/A-3b, for archives",
        "pdf/ua-1": "PDF/UA, accessible",
    },
)
PDF_OPTIONS = (FILES, PAGE_SIZE, LANDSCAPE, VARIANT)


@transformation(
    label="HTML to PDF",
    help="Every .html, .htm and .xhtml file as a PDF beside it. Images, styles and fonts are taken from the job's own "
    "files; nothing is fetched from the network.",
    options=PDF_OPTIONS,
    needs=Needs(modules=("weasyprint",), libraries=PANGO, preload=("weasyprint",)),
    deterministic=True,
    version=versions("weasyprint", "Pillow", "fonttools", "pydyf"),
)
def html2pdf(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.html`` gives ``a.pdf``."""
    paths = matching(working_dir, options, (".html", ".htm", ".xhtml"), expected="HTML file")

    def convert(path: Path) -> list[Path]:
        with making(beside(path, ".pdf")) as target:
            write_pdf(path.read_bytes(), path, target, folder=working_dir, logger=logger, options=options)
        return [target]

    convert_each(working_dir, logger, paths, convert=convert)


def write_pdf(
    markup: bytes, source: Path, target: Path, *, folder: str, logger: logging.Logger, options: Mapping[str, Any]
) -> None:
    """The HTML ``markup`` as a PDF; its links are relative to ``source``, which lies below ``folder``.

    ``/style.css`` is that file in ``folder``. ``options`` are those of ``PDF_OPTIONS``. The PDF holds no dates or
    random ids, so equal input gives equal bytes. ``BadInput`` if the markup is nested too deeply.
    """
    variant = text(options, VARIANT)
    orientation = "landscape" if yes(options, LANDSCAPE) else "portrait"
    size = f"@page {{ size: {text(options, PAGE_SIZE)} {orientation} }}"
    import weasyprint

    base_url = f"file:///{quote(os.fsencode(source.relative_to(folder)))}"
    with _logged(logger), bounded_pixels():
        try:
            document = weasyprint.HTML(
                string=markup,
                encoding=_encoding(markup),
                base_url=base_url,
                url_fetcher=_fetcher(Path(folder)),
            )
            document.write_pdf(
                target,
                stylesheets=[weasyprint.CSS(string=size)],
                pdf_variant=None if variant == "pdf" else variant,
                pdf_identifier=b"content-gateway",
                finisher=_without_dates,
            )
        except RecursionError as error:
            raise BadInput("its elements are nested too deeply") from error


def _encoding(markup: bytes) -> str | None:
    """UTF-8 if the markup says nothing and is that; the HTML standard would take it for windows-1252."""
    if b"charset" in markup[:1024].lower():
        return None
    try:
        markup.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return "utf-8"


def _fetcher(folder: Path) -> Any:
    """A weasyprint fetcher for which ``folder`` is the root of all there is, ``data:`` links aside."""
    from weasyprint.urls import URLFetcher, URLFetcherResponse

    # An image would be read from the response's path, below the true root: PDFs are made of what was read here.
    response = type("Response", (URLFetcherResponse,), {"path": None})
    fetcher = URLFetcher(allowed_protocols=("data",))
    inline = fetcher.fetch

    def fetch(url: str, headers: dict[str, str] | None = None) -> Any:
        parts = urlsplit(url)
        if parts.scheme != "file":
            return inline(url, headers)
        kind = mimetypes.guess_type(parts.path)[0] or "application/octet-stream"
        return response(url, _read_below(folder, unquote(parts.path)), {"Content-Type": kind})

    fetcher.fetch = fetch
    return fetcher


def _read_below(folder: Path, path: str) -> bytes:
    target = (folder / path.lstrip("/")).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise ValueError("not fetched: it lies outside of the job's files")
    if not target.is_file():
        raise FileNotFoundError("no such file in the job")
    if target.stat().st_size > MAX_RESOURCE_BYTES:
        raise ValueError(f"not read: larger than {MAX_RESOURCE_BYTES >> 20} MiB")
    return target.read_bytes()


def _without_dates(_document: object, pdf: Any) -> None:
    """Attached files carry the time of the conversion, which would make each PDF another one."""
    for item in pdf.objects:
        extra = getattr(item, "extra", None)
        if extra and extra.get("Type") == "/EmbeddedFile":
            for date in ("CreationDate", "ModDate"):
                extra["Params"].pop(date)


class _Forward(logging.Handler):
    """What weasyprint could not load as warnings of the job, its remarks about styles at debug; no more than 100."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger
        self._left = 100

    def emit(self, record: logging.LogRecord) -> None:
        if self._left > 0:
            self._left -= 1
            level = logging.WARNING if record.levelno >= logging.ERROR else logging.DEBUG
            self._logger.log(level, "%s", record.getMessage()[:500])


@contextmanager
def _logged(logger: logging.Logger) -> Iterator[None]:
    source = logging.getLogger("weasyprint")
    handler = _Forward(logger)
    source.addHandler(handler)
    try:
        yield
    finally:
        source.removeHandler(handler)
