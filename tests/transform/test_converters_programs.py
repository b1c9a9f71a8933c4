"""LibreOffice, pandoc and tesseract: documents good and hostile, names that look like options."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import zipfile
from pathlib import Path

import pytest

from gateway_core.testing.requirements import require_program
from gateway_transform.api import BadInput, BadOptions
from gateway_transform.converters import office_kit
from gateway_transform.converters.programs import run
from tests.transform.converting import (
    convert,
    docx,
    files,
    job_logger,
    listening,
    output_of,
    pages_of,
    pdf_info,
    picture,
)

FLAT_TEXT = """<?xml version="1.0" encoding="UTF-8"?><office:document office:version="1.2"
xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" xmlns:xlink="http://www.w3.org/1999/xlink"
xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"
xmlns:svg="urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0"
xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0"
office:mimetype="application/vnd.oasis.opendocument.text"><office:body><office:text><text:p>Own text</text:p><text:p>
<draw:frame svg:width="3cm" svg:height="3cm"><draw:image xlink:href="{address}/image.png"/></draw:frame>
<draw:frame svg:width="3cm" svg:height="3cm"><draw:image xlink:href="file://{folder}/i.png"/></draw:frame>
</text:p><text:section text:name="s">
<text:section-source xlink:href="file://{folder}/secret.txt" text:filter-name="Text"/><text:p>kept</text:p>
</text:section></office:text></office:body></office:document>"""


def everything_in(path: Path) -> bytes:
    """What a file holds, unpacked if it is a zip."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(part) for part in archive.namelist())


def words(text: str, path: Path, points: int = 40) -> None:
    """A scan: black on white, 300 dots per inch."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (1200, 300), "white")
    ImageDraw.Draw(image).text((40, 100), text, fill="black", font=ImageFont.load_default(points))
    image.save(path, dpi=(300, 300))


def test_a_programs_end_and_words_are_told(tmp_path):
    logger = job_logger(logging.NullHandler())
    ran = run(["/bin/sh", "-c", "echo out; echo err >&2; pwd; exit 3"], logger, folder=tmp_path)
    assert (ran.code, ran.output) == (3, f"out\nerr\n{tmp_path}")
    assert run(["/bin/sh", "-c", "kill -9 $$"], logger).code == -signal.SIGKILL


def test_office_documents_become_pdfs_without_reaching_out(tmp_path):
    require_program("soffice")
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.joinpath("sub").mkdir(parents=True)
    elsewhere.mkdir()
    elsewhere.joinpath("secret.txt").write_text("TOP SECRET")
    picture(elsewhere / "i.png")
    docx(work / "-rf report.docx", "Größe", image=elsewhere / "i.png")
    docx(work / "sub/-rf report.docx", "Other")
    work.joinpath("bad.docx").write_bytes(b"garbage")
    with listening() as (address, asked):
        work.joinpath("links.fodt").write_text(FLAT_TEXT.format(address=address, folder=elsewhere))
        with pytest.raises(BadInput, match=r"^bad\.docx: is damaged"):
            convert("office2pdf", work)
    assert asked == []
    assert files(work) == {
        *("-rf report.docx", "-rf report.pdf", "sub/-rf report.docx", "sub/-rf report.pdf"),
        *("links.fodt", "links.pdf", "bad.docx"),
    }
    assert pages_of(work / "-rf report.pdf")[0].startswith("Größe")
    assert pages_of(work / "sub/-rf report.pdf")[0].startswith("Other")
    assert pages_of(work / "links.pdf")[0].split() == ["Own", "text", "kept"]
    assert "image" not in output_of("pdfimages", "-list", work / "links.pdf").partition("---")[2]
    assert "LibreOffice" in pdf_info(work / "links.pdf")["Producer"]


def test_libreoffice_works_as_a_library_where_its_program_cannot_start(tmp_path):
    program = Path(require_program("soffice")).resolve().parent
    docx(tmp_path / "a.docx", "Größe")
    tmp_path.joinpath("b.odt").write_bytes(b"PK\x03\x04")
    argv = [sys.executable, "-I", office_kit.__file__, program, (tmp_path / "profile").as_uri()]
    ran = run([*argv, tmp_path / "b.odt", tmp_path / "a.docx"], job_logger(logging.NullHandler()))
    assert (ran.code, f"{tmp_path / 'b.odt'} could not be loaded" in ran.output) == (0, True)
    assert pages_of(tmp_path / "a.pdf")[0].startswith("Größe")
    assert not tmp_path.joinpath("b.pdf").exists()


def test_without_libreoffice_the_library_says_so(tmp_path):
    argv = [sys.executable, "-I", office_kit.__file__, tmp_path, tmp_path.as_uri(), tmp_path / "a.docx"]
    assert run(argv, job_logger(logging.NullHandler())).code == 1


def test_markdown_becomes_a_word_document_with_its_images(tmp_path):
    require_program("pandoc")
    picture(tmp_path / "img/a photo.png")
    tmp_path.joinpath("-rf.md").write_text("# Größe\n\n![seen](img/a%20photo.png)\n", encoding="utf-8")
    assert convert("pandoc", tmp_path, to="docx")[-1] == "INFO -rf.md -> -rf.docx"
    with zipfile.ZipFile(tmp_path / "-rf.docx") as made:
        assert [name for name in made.namelist() if name.startswith("word/media/")]
    convert("docx2html", tmp_path)
    assert "Größe</h1>" in tmp_path.joinpath("-rf.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("to", "extension"),
    [
        *[(name, f".{name}") for name in ("html", "docx", "odt", "epub", "rst", "rtf", "org", "pptx")],
        *[("latex", ".tex"), ("plain", ".txt"), ("mediawiki", ".wiki"), ("asciidoc", ".adoc")],
        *[("jats", ".xml"), ("docbook", ".dbk"), ("tei", ".tei.xml")],
    ],
)
def test_every_format_of_pandoc_can_be_written(tmp_path, to, extension):
    require_program("pandoc")
    tmp_path.joinpath("a.md").write_text("# Title\n\nSome *text*.\n")
    convert("pandoc", tmp_path, to=to, toc="yes")
    assert files(tmp_path) == {"a.md", f"a{extension}"}
    assert tmp_path.joinpath(f"a{extension}").stat().st_size > 15


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.md", "before ![x]({secret}) ![y](../secret.png) ![z](file://{secret}) after"),
        ("a.rst", "before\n\n.. include:: {secret}\n\n.. csv-table::\n   :file: {secret}\n\nafter\n"),
        ("a.tex", "before \\input{{{secret}}} \\includegraphics{{{secret}}} after"),
        ("a.org", 'before\n\n#+INCLUDE: "{secret}"\n\nafter\n'),
        ("a.html", '<p>before <img src="{secret}"> <iframe src="{secret}"></iframe> after'),
    ],
)
@pytest.mark.parametrize("to", ["docx", "epub", "plain"])
def test_pandoc_reads_nothing_from_elsewhere(tmp_path, name, content, to):
    require_program("pandoc")
    work = tmp_path / "work"
    work.mkdir()
    tmp_path.joinpath("secret.png").write_text("TOP SECRET")
    work.joinpath(name).write_text(content.format(secret=tmp_path / "secret.png"))
    with contextlib.suppress(BadInput):
        convert("pandoc", work, to=to)
    for made in files(work) - {name}:
        assert b"TOP SECRET" not in everything_in(work / made)


def test_pandoc_takes_the_format_that_it_is_told(tmp_path):
    require_program("pandoc")
    tmp_path.joinpath("a.md").write_text("*one*")
    convert("pandoc", tmp_path, to="html", **{"from": "rst"})
    assert "<em>one</em>" in tmp_path.joinpath("a.html").read_text()


@pytest.mark.parametrize(("option", "value"), [("to", "pdf"), ("to", "html+x"), ("from", "../x"), ("toc", "maybe")])
def test_a_wrong_option_for_pandoc_is_named(tmp_path, option, value):
    tmp_path.joinpath("a.md").write_text("x")
    with pytest.raises(BadOptions, match=f"^{option}: "):
        convert("pandoc", tmp_path, **{option: value})


def test_documents_that_have_the_format_already_are_left_alone(tmp_path):
    tmp_path.joinpath("a.md").write_text("x")
    with pytest.raises(BadInput, match=r"^all documents here end in \.md already"):
        convert("pandoc", tmp_path, to="markdown")


def test_a_document_that_pandoc_cannot_read_is_named(tmp_path):
    require_program("pandoc")
    tmp_path.joinpath("a.ipynb").write_text("{")
    with pytest.raises(BadInput, match=r"^a\.ipynb: pandoc cannot read it: "):
        convert("pandoc", tmp_path, to="html")
    assert files(tmp_path) == {"a.ipynb"}


def test_a_scan_becomes_text(tmp_path):
    require_program("tesseract")
    words("Invoice 4711", tmp_path / "-psm 0.png")
    assert convert("ocr", tmp_path)[-1] == "INFO -psm 0.png -> -psm 0-ocr.txt"
    assert "Invoice 4711" in tmp_path.joinpath("-psm 0-ocr.txt").read_text(encoding="utf-8")


def test_a_scanned_pdf_becomes_one_in_which_text_is_found(tmp_path):
    require_program("tesseract")
    from PIL import Image

    for number, text in enumerate(["First page", "Second page"]):
        words(text, tmp_path / f"{number}.tif")
    with Image.open(tmp_path / "0.tif") as first, Image.open(tmp_path / "1.tif") as second:
        first.save(tmp_path / "scan.pdf", save_all=True, append_images=[second], resolution=300)
    convert("ocr", tmp_path, files="scan.pdf", output="pdf")
    assert pages_of(tmp_path / "scan-ocr.pdf") == ["First page", "Second page"]
    assert pdf_info(tmp_path / "scan-ocr.pdf")["Page size"] == "288 x 72 pts"


def test_a_language_that_is_not_installed_is_named(tmp_path):
    require_program("tesseract")
    words("x", tmp_path / "a.png")
    with pytest.raises(BadOptions, match=r"^languages: 'xxx' is not installed, only .*eng"):
        convert("ocr", tmp_path, languages="eng+xxx")


@pytest.mark.parametrize("languages", ["../eng", "eng+", "--psm", "eng eng"])
def test_languages_are_nothing_but_names(tmp_path, languages):
    require_program("tesseract")
    words("x", tmp_path / "a.png")
    with pytest.raises(BadOptions, match=r"^languages: "):
        convert("ocr", tmp_path, languages=languages)


@pytest.mark.parametrize("name", ["a.png", "a.pdf"])
def test_a_damaged_scan_is_named(tmp_path, name):
    require_program("tesseract")
    tmp_path.joinpath(name).write_bytes(b"garbage")
    with pytest.raises(BadInput, match=rf"^{name}: is damaged"):
        convert("ocr", tmp_path)


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    require_program("pandoc")
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    tmp_path.joinpath("work").mkdir()
    tmp_path.joinpath("work/a.md").write_text("x")
    convert("pandoc", tmp_path / "work")
    assert os.listdir(scratch) == []
