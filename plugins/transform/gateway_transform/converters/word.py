"""Word documents to HTML and Markdown by mammoth: their structure, not their looks."""

from __future__ import annotations

import logging
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.parsers.expat import ExpatError

from gateway_transform.api import BadInput, Needs, transformation
from gateway_transform.converters.files import FILES, beside, convert_each, making, matching
from gateway_transform.converters.office_files import check_office_file
from gateway_transform.converters.page import page
from gateway_transform.converters.versions import versions

_IMAGE_EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/tiff": ".tiff",
    "image/bmp": ".bmp",
    "image/webp": ".webp",
    "image/svg+xml": ".svg",
    "image/x-emf": ".emf",
    "image/x-wmf": ".wmf",
}


@transformation(
    label="Word to HTML",
    help="Every .docx file as a plain HTML page beside it, its images in a folder beside that. Linked images are not "
    "fetched.",
    options=(FILES,),
    needs=Needs(modules=("mammoth", "nh3"), preload=("mammoth", "nh3", "xml.dom.expatbuilder")),
    deterministic=True,
    version=versions("mammoth", "nh3"),
)
def docx2html(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.docx`` gives ``a.html`` and ``a-images/1.png``."""
    import mammoth

    def convert(path: Path) -> list[Path]:
        body, images = _read(path, mammoth.convert_to_html, logger)
        return [_written(beside(path, ".html"), page(path.stem, body)), *images]

    convert_each(working_dir, logger, _documents(working_dir, options), convert=convert)


@transformation(
    label="Word to Markdown",
    help="Every .docx file as Markdown beside it, its images in a folder beside that. Linked images are not fetched.",
    options=(FILES,),
    needs=Needs(modules=("mammoth",), preload=("mammoth", "xml.dom.expatbuilder")),
    deterministic=True,
    version=versions("mammoth"),
)
def docx2markdown(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.docx`` gives ``a.md`` and ``a-images/1.png``."""
    import mammoth

    def convert(path: Path) -> list[Path]:
        body, images = _read(path, mammoth.convert_to_markdown, logger)
        return [_written(beside(path, ".md"), body), *images]

    convert_each(working_dir, logger, _documents(working_dir, options), convert=convert)


def _documents(working_dir: str, options: dict[str, Any]) -> list[Path]:
    return matching(working_dir, options, (".docx",), expected="Word document")


def _written(target: Path, content: str) -> Path:
    with making(target):
        target.write_text(content, encoding="utf-8")
    return target


def _read(path: Path, reader: Any, logger: logging.Logger) -> tuple[str, list[Path]]:
    """What mammoth's ``reader`` makes of ``path``, and the images that were written for it."""
    check_office_file(path)
    images = _Images(beside(path, "-images"))
    try:
        with path.open("rb") as file:
            result = reader(file, convert_image=images.converter(), external_file_access=False)
    except (zipfile.BadZipFile, zlib.error, ExpatError, LookupError, ValueError, RuntimeError, EOFError) as error:
        shutil.rmtree(images.folder, ignore_errors=True)
        raise BadInput(f"is damaged: {str(error)[:200]}") from error
    for message in result.messages:
        level = logging.WARNING if "external" in message.message else logging.DEBUG
        logger.log(level, "%s: %s", path.name, message.message[:500])
    return result.value, images.made


class _Images:
    """Writes a document's images into ``folder`` as 1.png, 2.jpg, ... and refers to them there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Path] = []

    def converter(self) -> Any:
        from mammoth import images

        return images.img_element(self._keep)

    def _keep(self, image: Any) -> dict[str, str]:
        with image.open() as source:
            self.folder.mkdir(exist_ok=True)
            extension = _IMAGE_EXTENSIONS.get(image.content_type, ".bin")
            target = self.folder / f"{len(self.made) + 1}{extension}"
            with making(target), target.open("xb") as file:
                shutil.copyfileobj(source, file)
        self.made.append(target)
        return {"src": quote(f"{self.folder.name}/{target.name}")}
