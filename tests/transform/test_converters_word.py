"""Word documents to HTML and Markdown, good and hostile."""

from __future__ import annotations

import subprocess
import zipfile

import pytest

from gateway_core.testing.requirements import require_program
from gateway_transform.api import BadInput
from gateway_transform.converters import office_files
from tests.transform.converting import convert, docx, files, output_of, picture

BOTH = pytest.mark.parametrize(("name", "extension"), [("docx2html", ".html"), ("docx2markdown", ".md")])


def report(folder, **more):
    return docx(folder / "-my report.docx", "Größe", image=picture(folder / "in.png"), **more)


def test_a_document_becomes_a_page_with_its_image_beside(tmp_path):
    report(tmp_path)
    lines = convert("docx2html", tmp_path)
    assert lines[-1] == "INFO -my report.docx -> -my report.html, -my report-images/1.png"
    page = tmp_path.joinpath("-my report.html").read_text(encoding="utf-8")
    assert "<h1>Größe</h1>" in page
    assert "<strong>strong</strong>" in page
    assert '<img alt="seen" src="-my%20report-images/1.png">' in page
    assert tmp_path.joinpath("-my report-images/1.png").read_bytes() == tmp_path.joinpath("in.png").read_bytes()


def test_links_that_run_scripts_are_dropped(tmp_path):
    report(tmp_path)
    convert("docx2html", tmp_path)
    page = tmp_path.joinpath("-my report.html").read_text(encoding="utf-8")
    assert "press" in page
    assert "javascript" not in page


def test_a_document_becomes_markdown_with_its_image_beside(tmp_path):
    report(tmp_path)
    convert("docx2markdown", tmp_path)
    content = tmp_path.joinpath("-my report.md").read_text(encoding="utf-8")
    assert content.startswith("# Größe\n")
    assert "__strong__" in content
    convert("markdown2html", tmp_path)
    assert '<img src="-my%20report-images/1.png" alt="seen">' in tmp_path.joinpath("-my report.html").read_text("utf-8")


def test_a_document_of_another_program_is_read(tmp_path):
    tmp_path.joinpath("a.md").write_text("# Title\n\n1. one\n2. two\n\nNote[^1].\n\n[^1]: The note.\n")
    pandoc = require_program("pandoc")
    subprocess.run([pandoc, "-o", tmp_path / "a.docx", tmp_path / "a.md"], check=True, timeout=60)
    convert("docx2html", tmp_path)
    text = output_of("pandoc", "-f", "html", "-t", "plain", tmp_path / "a.html")
    assert "Title" in text
    assert "2.  two" in text
    assert "The note." in text


@pytest.mark.parametrize("link", ["file:///etc/passwd", "http://127.0.0.1:9/x.png", "secret.png"])
@BOTH
def test_linked_images_are_not_fetched(tmp_path, name, extension, link):
    picture(tmp_path / "secret.png")
    docx(tmp_path / "a.docx", "Title", linked=link)
    lines = convert(name, tmp_path)
    assert any(line.startswith("WARNING") and link in line for line in lines)
    assert files(tmp_path) == {"secret.png", "a.docx", f"a{extension}"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged"),
        (b"garbage", "is damaged"),
        (b"PK\x03\x04" + bytes(100), "is damaged"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is protected by a password, or an old format"),
    ],
)
@BOTH
def test_a_file_that_is_no_document_is_bad_input(tmp_path, name, extension, content, said):
    tmp_path.joinpath("a.docx").write_bytes(content)
    with pytest.raises(BadInput, match=rf"^a\.docx: {said}"):
        convert(name, tmp_path)


def test_a_document_cut_short_is_bad_input(tmp_path):
    whole = report(tmp_path)
    tmp_path.joinpath("cut.docx").write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(BadInput, match=r"^cut\.docx: is damaged"):
        convert("docx2html", tmp_path)


def test_broken_xml_is_bad_input_and_leaves_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as document:
        document.writestr("[Content_Types].xml", "<Types/>")
        document.writestr("word/document.xml", "<w:document>")
    with pytest.raises(BadInput, match=r"^a\.docx: is damaged"):
        convert("docx2html", tmp_path)
    assert files(tmp_path) == {"a.docx"}


def test_a_zip_bomb_is_bad_input_before_it_is_unpacked(tmp_path):
    docx(tmp_path / "a.docx", "Title", parts={"word/styles.xml": bytes(office_files.MAX_XML_BYTES)})
    assert tmp_path.joinpath("a.docx").stat().st_size < 100_000
    with pytest.raises(BadInput, match=r"^a\.docx: unpacks to more than"):
        convert("docx2html", tmp_path)


def test_a_bomb_of_entities_is_bad_input(tmp_path):
    laughs = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    styles = f'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a0 "haha">{laughs}]><s>&a11;</s>'
    docx(tmp_path / "a.docx", "Title", parts={"word/styles.xml": styles.encode()})
    with zipfile.ZipFile(tmp_path / "b.docx", "w") as document:
        with zipfile.ZipFile(tmp_path / "a.docx") as source:
            for part in source.namelist():
                document.writestr(part, styles if part == "word/document.xml" else source.read(part))
    with pytest.raises(BadInput, match=r"b\.docx: is damaged: limit on input amplification"):
        convert("docx2html", tmp_path)
