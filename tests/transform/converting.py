"""What the tests of the converters share: a call by name, a log to read, documents to convert."""

from __future__ import annotations

import http.server
import importlib
import logging
import struct
import subprocess
import threading
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway_core.testing.requirements import require_program
from gateway_transform.converters.names import BUILT_IN

HTML = """<!DOCTYPE html><html lang="en"><head><title>Report</title><link rel="stylesheet" href="style/site.css">
</head><body><h1>Naïve report</h1><p>First page</p><img src="image.png" alt="one">
<p class="next">Second page</p></body></html>"""
CSS = "h1 { color: #036 } .next { break-before: page }"


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


def converter(name: str) -> Any:
    module, attribute = BUILT_IN[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def job_logger(handler: logging.Handler) -> logging.Logger:
    """Nobody else's logger, which hands all it gets to ``handler``."""
    logger = logging.getLogger(f"job_logger_{uuid.uuid4().hex}")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    return logger


def convert(name: str, folder: Path, /, **options: Any) -> list[str]:
    """Run a transformation as a box does, and give the lines of its log."""
    handler = _Lines()
    converter(name)(str(folder), job_logger(handler), options)
    return handler.lines


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """A web server's address, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_OPTIONS = do_PROPFIND = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def output_of(program: str, *arguments: str | Path) -> str:
    """What another program says of a file; the test is skipped where it is not installed."""
    argv = [require_program(program), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def pdf_info(path: Path) -> dict[str, str]:
    lines = output_of("pdfinfo", path).splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def pages_of(path: Path) -> list[str]:
    return [page.strip() for page in output_of("pdftotext", path, "-").split("\f")[:-1]]


def picture(path: Path, size: tuple[int, int] = (60, 40), **saved: Any) -> Path:
    """A photo that has something to see: red on the left, blue on the right, brighter downwards."""
    from PIL import Image

    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.paste((200, 0, 0), (0, 0, size[0] // 2, size[1] // 2))
    image.paste((0, 0, 200), (size[0] // 2, 0, size[0], size[1] // 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **saved)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def site(folder: Path) -> Path:
    """A page of two printed pages, with a stylesheet and an image."""
    folder.joinpath("style").mkdir(parents=True)
    folder.joinpath("style/site.css").write_text(CSS)
    picture(folder / "image.png")
    page = folder / "report.html"
    page.write_text(HTML, encoding="utf-8")
    return page


def pdf(path: Path, *texts: str) -> Path:
    """A PDF with one page for each of ``texts``."""
    import weasyprint

    body = "".join(f'<p style="break-after: page">{text}</p>' for text in texts)
    weasyprint.HTML(string=f"<style>@page {{ size: 10cm }}</style>{body}").write_pdf(path)
    return path


_TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/><Default Extension="png" ContentType="image/png"/>
<Override PartName="/word/document.xml" ContentType=
"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
_RELATIONS = """<?xml version="1.0"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>"""
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_DOCUMENT = """<?xml version="1.0"?><w:document
xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"
xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"
xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing"
xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"
xmlns:pic="http://schemas.openxmlformats.org/drawingml/2006/picture"><w:body>{}</w:body></w:document>"""
_IMAGE = """<w:p><w:r><w:drawing><wp:inline><wp:extent cx="900000" cy="600000"/><wp:docPr id="1" name="i" descr="seen"/>
<a:graphic><a:graphicData uri="http://schemas.openxmlformats.org/drawingml/2006/picture"><pic:pic><pic:nvPicPr>
<pic:cNvPr id="1" name="i"/><pic:cNvPicPr/></pic:nvPicPr><pic:blipFill><a:blip r:{kind}="rId9"/></pic:blipFill>
<pic:spPr><a:xfrm><a:off x="0" y="0"/><a:ext cx="900000" cy="600000"/></a:xfrm><a:prstGeom prst="rect"/></pic:spPr>
</pic:pic></a:graphicData></a:graphic></wp:inline></w:drawing></w:r></w:p>"""
_HEADING = '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>{}</w:t></w:r></w:p>'


def docx(
    path: Path, heading: str, *, image: Path | None = None, linked: str = "", parts: dict[str, bytes] | None = None
) -> Path:
    """A Word document: a heading, a bold word, an image within or one that is ``linked``, more ``parts`` if wanted."""
    body = _HEADING.format(heading) + "<w:p><w:r><w:rPr><w:b/></w:rPr><w:t>strong</w:t></w:r></w:p>"
    relations = f'<Relationship Id="rId2" Type="{_OFFICE}/hyperlink" Target="javascript:x()" TargetMode="External"/>'
    body += '<w:p><w:hyperlink r:id="rId2"><w:r><w:t>press</w:t></w:r></w:hyperlink></w:p>'
    if image:
        relations += f'<Relationship Id="rId9" Type="{_OFFICE}/image" Target="media/image1.png"/>'
        body += _IMAGE.format(kind="embed")
    elif linked:
        relations += f'<Relationship Id="rId9" Type="{_OFFICE}/image" Target="{linked}" TargetMode="External"/>'
        body += _IMAGE.format(kind="link")
    main = f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="word/document.xml"/>'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as document:
        document.writestr("[Content_Types].xml", _TYPES)
        document.writestr("_rels/.rels", _RELATIONS.format(main))
        document.writestr("word/document.xml", _DOCUMENT.format(body))
        document.writestr("word/_rels/document.xml.rels", _RELATIONS.format(relations))
        if image:
            document.write(image, "word/media/image1.png")
        for name, content in (parts or {}).items():
            document.writestr(name, content)
    return path
