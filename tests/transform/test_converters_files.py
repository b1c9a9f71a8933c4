"""Which files converters take up, how they name what they make, and what they say of the rest."""

from __future__ import annotations

import os

import pytest

from gateway_transform.api import BadInput, BadOptions, Option
from gateway_transform.converters.files import beside, matching
from gateway_transform.converters.options import YES_OR_NO, number, page_ranges, text, yes
from tests.transform.converting import convert, files

PAGES = Option("pages", "Pages", free_input=True)
WIDTH = Option("width", "Width", free_input=True)


def found(folder, **options):
    return [
        str(path.relative_to(folder)) for path in matching(str(folder), options, (".md",), expected="Markdown file")
    ]


def write(folder, *names):
    for name in names:
        folder.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        folder.joinpath(name).write_text(f"# {name}\n", encoding="utf-8")


def test_files_of_all_folders_come_in_the_order_people_count(tmp_path):
    write(tmp_path, "page10.md", "page2.MD", "Page1.md", "sub/b.md", "other.txt")
    assert found(tmp_path) == ["Page1.md", "page2.MD", "page10.md", "sub/b.md"]


def test_hidden_files_and_those_of_the_job_are_left_alone(tmp_path):
    write(tmp_path, ".hidden.md", ".git/a.md", "~$open.md", "a.md")
    assert found(tmp_path) == ["a.md"]


def test_links_are_not_followed(tmp_path):
    write(tmp_path, "out/secret.md", "in/a.md")
    tmp_path.joinpath("in/link.md").symlink_to(tmp_path / "out/secret.md")
    tmp_path.joinpath("in/folder").symlink_to(tmp_path / "out")
    assert found(tmp_path / "in") == ["a.md"]


def test_the_option_files_chooses_and_orders(tmp_path):
    write(tmp_path, "a.md", "b.md", "c1.md", "c2.md", "sub/a.md")
    assert found(tmp_path, files="c*.md, sub/*, b.md, c1.md") == ["c1.md", "c2.md", "sub/a.md", "b.md"]


def test_a_pattern_that_fits_nothing_is_named(tmp_path):
    write(tmp_path, "a.md")
    with pytest.raises(BadInput, match=r"files: no Markdown file here fits 'b\.md'"):
        found(tmp_path, files="a.md,b.md")


def test_without_a_file_the_error_says_what_was_expected(tmp_path):
    write(tmp_path, "a.txt")
    with pytest.raises(BadInput, match=r"no Markdown file here.*\.md"):
        found(tmp_path)


def test_what_is_made_never_replaces_a_file(tmp_path):
    names = []
    for _ in range(4):
        made = beside(tmp_path / "a.md", ".html")
        made.touch()
        names.append(made.name)
    assert names == ["a.html", "a.md.html", "a-2.html", "a-3.html"]


def test_a_damaged_file_keeps_no_other_from_being_converted(tmp_path):
    write(tmp_path, "a.md", "c.md")
    tmp_path.joinpath("b.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match=r"^b\.md: is no text in UTF-8$"):
        convert("markdown2html", tmp_path)
    assert files(tmp_path) == {"a.md", "a.html", "b.md", "c.md", "c.html"}


def test_each_file_has_its_line_in_the_log(tmp_path):
    write(tmp_path, "a.md", "sub/b.md")
    assert convert("markdown2html", tmp_path) == ["INFO a.md -> a.html", "INFO sub/b.md -> sub/b.html"]


def test_a_name_that_is_no_utf8_is_converted_and_logged(tmp_path):
    tmp_path.joinpath(os.fsdecode(b"caf\xe9.md")).write_text("# x")
    assert convert("markdown2html", tmp_path) == [r"INFO caf\xe9.md -> caf\xe9.html"]


@pytest.mark.parametrize("value", ["0", "-1", "1e3", "ten", "100001", "1.5", "٣", True])
def test_a_wrong_number_names_its_option(value):
    with pytest.raises(BadOptions, match=r"^width: "):
        number({"width": value}, WIDTH, low=1, high=100_000)


@pytest.mark.parametrize("value", ["800", " 800 ", 800])
def test_a_number_may_be_text(value):
    assert number({"width": value}, WIDTH, low=1, high=1000) == 800


@pytest.mark.parametrize("value", [None, "", "  "])
def test_an_empty_option_has_its_default(value):
    assert text({"o": value}, Option("o", "O", default="d")) == "d"


@pytest.mark.parametrize("value", [["a"], {"a": 1}])
def test_an_option_that_is_no_text_is_refused(value):
    with pytest.raises(BadOptions, match=r"^o: a text is expected"):
        text({"o": value}, Option("o", "O", free_input=True))


def test_a_value_that_is_not_on_the_list_is_refused_with_the_list():
    with pytest.raises(BadOptions, match=r"^size: 'b4' is none of A4, A5$"):
        text({"size": "b4"}, Option("size", "Size", default="A4", values={"A4": "", "A5": ""}))


@pytest.mark.parametrize(("value", "meant"), [(True, True), ("Yes", True), ("no", False), (False, False), ("", False)])
def test_yes_and_no_may_be_booleans(value, meant):
    assert yes({"o": value}, Option("o", "O", default="no", values=YES_OR_NO)) is meant


def test_pages_are_written_as_in_a_print_dialogue():
    assert page_ranges({"pages": "1-3, 5,8-,-2"}, PAGES) == [(1, 3), (5, 5), (8, None), (1, 2)]
    assert page_ranges({}, PAGES) == []


@pytest.mark.parametrize("value", ["0", "3-1", "a", "1,,2", "-", "1-2-3", "²"])
def test_wrong_pages_name_their_option(value):
    with pytest.raises(BadOptions, match=r"^pages: "):
        page_ranges({"pages": value}, PAGES)
