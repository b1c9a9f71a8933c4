"""PDFs merged, split, turned, read and drawn; poppler and ImageMagick look at what came out."""

from __future__ import annotations

import pikepdf
import pytest

from gateway_transform.api import BadInput, BadOptions
from tests.transform.converting import convert, files, output_of, pages_of, pdf, pdf_info

EACH = pytest.mark.parametrize("name", ["pdf_merge", "pdf_split", "pdf_rotate", "pdf2text", "pdf2png"])


def test_files_are_merged_in_the_order_of_their_names(tmp_path):
    pdf(tmp_path / "part10.pdf", "ten")
    pdf(tmp_path / "part2.pdf", "two", "three")
    convert("pdf_merge", tmp_path)
    assert pages_of(tmp_path / "merged.pdf") == ["two", "three", "ten"]


def test_files_are_merged_in_the_order_that_was_asked_for(tmp_path):
    for name in ("a", "-b", "c"):
        pdf(tmp_path / f"{name}.pdf", name)
    convert("pdf_merge", tmp_path, files="c.pdf, a.pdf, -b.pdf", name="all")
    assert pages_of(tmp_path / "all.pdf") == ["c", "a", "-b"]


def test_a_merged_file_has_a_bookmark_for_each(tmp_path):
    pdf(tmp_path / "first.pdf", "1", "2")
    pdf(tmp_path / "second.pdf", "3")
    convert("pdf_merge", tmp_path)
    with pikepdf.open(tmp_path / "merged.pdf") as merged, merged.open_outline() as outline:
        assert [item.title for item in outline.root] == ["first", "second"]


@pytest.mark.parametrize("name", ["../a.pdf", "/a.pdf", "a/b.pdf", ".a.pdf", "a\0.pdf", "x" * 250])
def test_the_merged_file_stays_in_the_folder(tmp_path, name):
    pdf(tmp_path / "a.pdf", "1")
    with pytest.raises(BadOptions, match=r"^name: "):
        convert("pdf_merge", tmp_path, name=name)


def test_each_page_becomes_a_file(tmp_path):
    pdf(tmp_path / "a.pdf", *map(str, range(1, 11)))
    convert("pdf_split", tmp_path)
    assert files(tmp_path) == {"a.pdf"} | {f"a-{page:02}.pdf" for page in range(1, 11)}
    assert pages_of(tmp_path / "a-10.pdf") == ["10"]


def test_named_parts_become_files(tmp_path):
    pdf(tmp_path / "a.pdf", "1", "2", "3", "4")
    convert("pdf_split", tmp_path, pages="2-3, 4-, 9-")
    assert files(tmp_path) == {"a.pdf", "a-2-3.pdf", "a-4.pdf"}
    assert pages_of(tmp_path / "a-2-3.pdf") == ["2", "3"]


def test_named_pages_are_turned(tmp_path):
    pdf(tmp_path / "a.pdf", "1", "2", "3")
    convert("pdf_rotate", tmp_path, degrees="270", pages="1,3-")
    output = output_of("pdfinfo", "-f", "1", "-l", "3", tmp_path / "a-rotated.pdf")
    assert [line.split()[-1] for line in output.splitlines() if " rot:" in line] == ["270", "0", "270"]


def test_turning_adds_to_what_the_page_had(tmp_path):
    pdf(tmp_path / "a.pdf", "1")
    convert("pdf_rotate", tmp_path)
    convert("pdf_rotate", tmp_path, files="a-rotated.pdf")
    assert pdf_info(tmp_path / "a-rotated-rotated.pdf")["Page rot"] == "180"


@pytest.mark.parametrize("degrees", ["45", "-90", "x"])
def test_a_wrong_angle_is_named(tmp_path, degrees):
    pdf(tmp_path / "a.pdf", "1")
    with pytest.raises(BadOptions, match=r"^degrees: "):
        convert("pdf_rotate", tmp_path, degrees=degrees)


def test_text_is_as_poppler_reads_it(tmp_path):
    pdf(tmp_path / "a.pdf", "Größe 10 €", "emoji 😀 and Ω")
    convert("pdf2text", tmp_path)
    text = tmp_path.joinpath("a.txt").read_text(encoding="utf-8")
    assert [page.strip() for page in text.split("\f")] == pages_of(tmp_path / "a.pdf")
    assert "😀" in text


def test_pages_are_drawn_with_the_dots_that_were_asked_for(tmp_path):
    pdf(tmp_path / "a.pdf", "1", "2", "3")
    convert("pdf2png", tmp_path, dpi="96", pages="2-")
    assert files(tmp_path) == {"a.pdf", "a-2.png", "a-3.png"}
    described = output_of("identify", "-units", "PixelsPerInch", "-format", "%m %w %h %x", tmp_path / "a-2.png")
    assert described.split()[:3] == ["PNG", "378", "378"]
    assert round(float(described.split()[3])) == 96


def test_a_page_as_large_as_a_house_is_bad_input(tmp_path):
    with pikepdf.new() as document:
        document.add_blank_page(page_size=(14400, 14400))
        document.save(tmp_path / "a.pdf")
    with pytest.raises(BadInput, match=r"^a\.pdf: page 1 has 60000 x 60000 pixels at 300 dpi"):
        convert("pdf2png", tmp_path, dpi="300")
    assert files(tmp_path) == {"a.pdf"}


@pytest.mark.parametrize("dpi", ["0", "17", "1201", "many"])
def test_wrong_dots_are_named(tmp_path, dpi):
    pdf(tmp_path / "a.pdf", "1")
    with pytest.raises(BadOptions, match=r"^dpi: "):
        convert("pdf2png", tmp_path, dpi=dpi)


@EACH
def test_a_damaged_file_is_named(tmp_path, name):
    tmp_path.joinpath("a.pdf").write_bytes(b"%PDF-1.7\ngarbage")
    with pytest.raises(BadInput, match=r"^a\.pdf: is damaged"):
        convert(name, tmp_path)
    assert files(tmp_path) == {"a.pdf"}


@EACH
def test_a_protected_file_is_named(tmp_path, name):
    with pikepdf.new() as document:
        document.add_blank_page()
        document.save(tmp_path / "a.pdf", encryption=pikepdf.Encryption(user="u", owner="o"))
    with pytest.raises(BadInput, match=r"^a\.pdf: is protected by a password$"):
        convert(name, tmp_path)
    assert files(tmp_path) == {"a.pdf"}


@EACH
def test_no_file_is_bad_input(tmp_path, name):
    with pytest.raises(BadInput, match=r"^no PDF here"):
        convert(name, tmp_path)


@pytest.mark.parametrize("name", ["pdf_split", "pdf_rotate", "pdf2text", "pdf2png"])
def test_pages_that_are_not_there_are_bad_input(tmp_path, name):
    pdf(tmp_path / "a.pdf", "1", "2")
    with pytest.raises(BadInput, match=r"^a\.pdf: has 2 pages, none of those"):
        convert(name, tmp_path, pages="3-")
    assert files(tmp_path) == {"a.pdf"}
