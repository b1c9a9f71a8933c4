"""HTML and Markdown to PDF and HTML: the PDFs are read by poppler."""

from __future__ import annotations

import os
import re

import pytest

from gateway_transform.api import BadInput, BadOptions
from gateway_transform.converters import html as html_converter
from tests.transform.converting import (
    convert,
    files,
    listening,
    output_of,
    pages_of,
    pdf_info,
    picture,
    png_header,
    site,
)

MARKDOWN = """# Größe & <Maß>

| left | right |
|------|------:|
| 1    | 2     |

![photo](image.png) ~~old~~

```python
print("hi")
```
"""


def warnings(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("WARNING")]


def test_a_page_with_style_and_image_becomes_a_pdf(tmp_path):
    site(tmp_path)
    assert convert("html2pdf", tmp_path)[-1] == "INFO report.html -> report.pdf"
    assert pages_of(tmp_path / "report.pdf") == ["Naïve report\nFirst page", "Second page"]
    assert pdf_info(tmp_path / "report.pdf")["Title"] == "Report"
    assert "image" in output_of("pdfimages", "-list", tmp_path / "report.pdf")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<p>Größe €".encode(), "Größe €"),
        ("\ufeff<p>Größe €".encode(), "Größe €"),
        ("<p>Größe €".encode("cp1252"), "Größe €"),
        ("<meta charset=iso-8859-2><p>Łódź".encode("iso-8859-2"), "Łódź"),
    ],
)
def test_the_encoding_is_found(tmp_path, content, text):
    tmp_path.joinpath("a.html").write_bytes(content)
    convert("html2pdf", tmp_path)
    assert pages_of(tmp_path / "a.pdf") == [text]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, "595.276 x 841.89 pts (A4)"),
        ({"page_size": "a5", "landscape": "yes"}, "595.276 x 419.528 pts"),
        ({"page_size": "letter"}, "612 x 792 pts (letter)"),
    ],
)
def test_the_page_has_the_size_that_was_asked_for(tmp_path, options, size):
    tmp_path.joinpath("a.html").write_text("<p>a")
    convert("html2pdf", tmp_path, **options)
    assert pdf_info(tmp_path / "a.pdf")["Page size"] == size


def test_the_documents_own_page_size_wins(tmp_path):
    tmp_path.joinpath("a.html").write_text("<style>@page { size: 144pt 72pt; margin: 0 }</style><p>a")
    convert("html2pdf", tmp_path)
    assert pdf_info(tmp_path / "a.pdf")["Page size"] == "144 x 72 pts"


def test_a_pdf_for_archives_says_so(tmp_path):
    tmp_path.joinpath("a.html").write_text("<html lang=en><title>A</title><p>a")
    convert("html2pdf", tmp_path, variant="pdf/a-3b")
    assert re.search(r"pdfaid:part(>|=.)3", output_of("pdfinfo", "-meta", tmp_path / "a.pdf"))


def test_a_wrong_option_is_named_before_any_work(tmp_path):
    tmp_path.joinpath("a.html").write_text("<p>a")
    with pytest.raises(BadOptions, match=r"^page_size: 'A9' is none of A3, A4"):
        convert("html2pdf", tmp_path, page_size="A9")
    assert files(tmp_path) == {"a.html"}


def test_links_to_the_network_are_not_fetched(tmp_path):
    with listening() as (address, asked):
        tmp_path.joinpath("a.html").write_text(
            f'<base href="{address}/base/"><link rel="stylesheet" href="{address}/a.css"><img src="relative.png">'
            f"<style>@font-face {{ font-family: f; src: url({address}/f.ttf) }} p {{ font-family: f }}</style><p>text"
            f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{address}/s.png" width="9" height="9"/></svg>'
            f'<a rel="attachment" href="{address}/at">x</a>'
        )
        lines = convert("html2pdf", tmp_path)
    assert asked == []
    assert any(f"{address}/a.css" in line for line in warnings(lines))
    assert any(f"{address}/base/relative.png" in line for line in warnings(lines))
    assert pages_of(tmp_path / "a.pdf")[0].startswith("text")


@pytest.mark.parametrize(
    "link",
    [
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "file://localhost/etc/passwd",
        "/etc/passwd",
        "../../../../../../../etc/passwd",
        "..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "link",
        "file://other.example/etc/passwd",
        "ftp://127.0.0.1/x",
        "fifo",
    ],
)
def test_files_outside_of_the_job_are_not_read(tmp_path, link):
    folder = tmp_path / "work"
    folder.mkdir()
    folder.joinpath("link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "fifo")
    folder.joinpath("a.html").write_text(f'<p>x<a rel="attachment" href="{link}">y</a><img src="{link}">')
    assert len(warnings(convert("html2pdf", folder))) == 2
    assert "0 embedded files" in output_of("pdfdetach", "-list", folder / "a.pdf")


def test_an_image_comes_from_the_job_although_the_system_has_one_of_that_name(tmp_path):
    outside = picture(tmp_path / "outside.png", (50, 50))
    picture(tmp_path / "work" / str(outside).lstrip("/"), (20, 20))
    tmp_path.joinpath("work/a.html").write_text(f'<img src="{outside}">')
    convert("html2pdf", tmp_path / "work")
    listed = output_of("pdfimages", "-list", tmp_path / "work/a.pdf").splitlines()[2].split()
    assert listed[3:5] == ["20", "20"]


def test_an_svg_gets_no_external_entity(tmp_path):
    tmp_path.joinpath("a.html").write_text('<p>x<img src="a.svg">')
    tmp_path.joinpath("a.svg").write_text(
        '<!DOCTYPE svg [<!ENTITY secret SYSTEM "file:///etc/passwd">]>'
        '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="99"><text y="20">[&secret;]</text></svg>'
    )
    convert("html2pdf", tmp_path)
    assert "root" not in "".join(pages_of(tmp_path / "a.pdf"))


def test_an_image_bomb_is_left_out(tmp_path):
    tmp_path.joinpath("bomb.png").write_bytes(png_header(50_000, 50_000))
    tmp_path.joinpath("a.html").write_text('<p>x<img src="bomb.png">')
    assert any("bomb.png" in line for line in warnings(convert("html2pdf", tmp_path)))
    assert pages_of(tmp_path / "a.pdf") == ["x"]


def test_a_resource_that_is_too_large_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(html_converter, "MAX_RESOURCE_BYTES", 100)
    site(tmp_path)
    assert any("image.png" in line and "larger" in line for line in warnings(convert("html2pdf", tmp_path)))


def test_a_page_that_is_nested_too_deeply_is_bad_input(tmp_path):
    tmp_path.joinpath("a.html").write_text("<div>" * 1000 + "x")
    with pytest.raises(BadInput, match=r"^a\.html: its elements are nested too deeply"):
        convert("html2pdf", tmp_path)
    assert files(tmp_path) == {"a.html"}


def test_markdown_becomes_a_page(tmp_path):
    tmp_path.joinpath("a.md").write_text("\ufeff" + MARKDOWN, encoding="utf-8")
    convert("markdown2html", tmp_path)
    page = tmp_path.joinpath("a.html").read_text(encoding="utf-8")
    assert page.startswith('<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">')
    assert "<title>Größe &amp; &lt;Maß&gt;</title>" in page
    assert '<td style="text-align:right">2</td>' in page
    assert '<img src="image.png" alt="photo">' in page
    assert '<code class="language-python">' in page
    assert "<s>old</s>" in page


def test_markdown_with_scripts_is_cleaned(tmp_path):
    tmp_path.joinpath("a.md").write_text(
        "hello <script>alert(1)</script> <a href=javascript:alert(1)>x</a> <img src=x onerror=alert(1)>\n\n"
        "<iframe src='http://a'></iframe><p style='position:fixed'>p</p><a href='data:text/html,x'>d</a>\n"
    )
    convert("markdown2html", tmp_path)
    body = tmp_path.joinpath("a.html").read_text().partition("<body>")[2]
    assert "hello" in body
    for bad in ("script", "alert", "onerror", "iframe", "position", "data:"):
        assert bad not in body


def test_markdown_becomes_a_pdf_with_its_images(tmp_path):
    picture(tmp_path / "sub/image.png")
    tmp_path.joinpath("sub/-a.md").write_text(MARKDOWN, encoding="utf-8")
    assert convert("markdown2pdf", tmp_path, page_size="A5")[-1] == "INFO sub/-a.md -> sub/-a.pdf"
    info = pdf_info(tmp_path / "sub/-a.pdf")
    assert (info["Title"], info["Pages"]) == ("Größe & <Maß>", "1")
    assert 'print("hi")' in pages_of(tmp_path / "sub/-a.pdf")[0]
    assert "image" in output_of("pdfimages", "-list", tmp_path / "sub/-a.pdf")
