"""Steps as people type them."""

from __future__ import annotations

import json

import pytest

from gateway_core import ConfigError
from gateway_transform.client.steps import Step, job_json, parse_step


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("html2pdf", Step("html2pdf")),
        ("image_resize:width=100:height=50", Step("image_resize", {"width": "100", "height": "50"})),
        ("pandoc:to=", Step("pandoc", {"to": ""})),
        (r"page:at=http\://host\:8000/a=b", Step("page", {"at": "http://host:8000/a=b"})),
        (r"page:folder=C\:\\temp\new", Step("page", {"folder": r"C:\temp\new"})),
        ("crop:box=1,2,3,4", Step("crop", {"box": "1,2,3,4"})),
    ],
)
def test_a_step_is_its_name_and_options(text, step):
    assert parse_step(text) == step


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with"),
        (":width=1", "does not begin with"),
        ("width=1", "does not begin with"),
        ("image_resize:", "is not OPTION=VALUE"),
        ("image_resize:width", "'width' in 'image_resize:width' is not"),
        ("image_resize:=1", "is not OPTION=VALUE"),
        ("image_resize:width=1:width=2", "'width' is given twice"),
    ],
)
def test_what_is_no_step_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_step(text)


def test_steps_become_a_job_in_their_order():
    steps = [parse_step("a:x=1"), parse_step("b")]
    assert json.loads(job_json(steps, hook="https://h.test/?a=1")) == {
        "transformations": [{"name": "a", "options": {"x": "1"}}, {"name": "b", "options": {}}],
        "notify_hook": "https://h.test/?a=1",
    }
