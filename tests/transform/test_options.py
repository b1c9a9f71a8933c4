from __future__ import annotations

import pytest

from gateway_transform.api import Option, transformation
from gateway_transform.box.options import check_options

DESCRIPTION = {
    "label": "l",
    "help": "h",
    "options": [
        {"id": "size", "label": "Size", "values": {"a4": "A4", "a5": "A5"}, "default": "a4", "free_input": False},
        {"id": "title", "label": "Title", "values": {"none": "None"}, "default": "", "free_input": True},
        {"id": "pages", "label": "Pages", "values": {"1": "One", "2": "Two"}, "default": "1", "free_input": False},
        {
            "id": "toc",
            "label": "Contents",
            "values": {"true": "Yes", "false": "No"},
            "default": "",
            "free_input": False,
        },
        {"id": "lang", "label": "Language", "values": {}, "default": "", "free_input": False},
    ],
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": "a5"},
        {"size": None},
        {"title": "anything at all"},
        {"pages": 2},
        {"pages": "2"},
        {"toc": True},
        {"toc": "false"},
        {"lang": "fr"},
    ],
)
def test_declared_values_are_taken(options):
    assert check_options(DESCRIPTION, options) == {}


@pytest.mark.parametrize("value", ["a6", "", 4, ["a4"], {"a4": "A4"}, True])
def test_other_values_are_named_with_those_that_are_taken(value):
    assert check_options(DESCRIPTION, {"size": value}) == {"size": ["Must be one of: a4, a5"]}


def test_unknown_options_are_named_with_those_that_exist():
    errors = check_options(DESCRIPTION, {"colour": "red", "size": "a4"})
    assert errors == {"colour": ["No such option; there are: size, title, pages, toc, lang"]}


def test_transformation_that_declares_nothing_takes_anything():
    assert check_options({"label": "l", "help": "h", "options": []}, {"x": 1}) == {}


@pytest.mark.parametrize("options", [None, [5], [{"label": "no id"}]])
def test_odd_declarations_refuse_nothing(options):
    assert check_options({"options": options}, {"x": 1}) == {}


def test_long_lists_of_values_are_cut():
    description = {"options": [{"id": "x", "values": {str(at): "" for at in range(50)}}]}
    (message,) = check_options(description, {"x": "y"})["x"]
    assert message.endswith("18, 19, ...")


def test_declarations_of_the_decorator_are_understood():
    @transformation(label="l", help="h", options=[Option("size", "Size", "a4", {"a4": "A4"})])
    def convert(working_dir, logger, options):
        pass

    assert set(check_options(convert.description, {"size": "b5"})) == {"size"}
