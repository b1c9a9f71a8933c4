from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_transform.box.codes import Refused
from gateway_transform.box.jobfile import JobFile, Step, parse


def test_circes_job_file_is_understood():
    data = json.dumps(
        {"transformations": [{"name": "a", "options": {"x": 1}}, {"name": "b", "options": None}], "notify_hook": None},
        indent=4,
    )
    assert parse(data.encode()) == JobFile((Step("a", {"x": 1}), Step("b", {})), None, "circe")


def test_options_and_hook_may_be_missing():
    assert parse(b'{"transformations": [{"name": "a"}]}') == JobFile((Step("a"),))


def test_no_steps_are_fine():
    assert parse(b'{"transformations": []}') == JobFile(())


def test_hook_and_its_form():
    data = b'{"transformations": [], "notify_hook": "https://h/x", "notify_format": "standard"}'
    assert parse(data) == JobFile((), "https://h/x", "standard")


def test_empty_hook_is_none():
    assert parse(b'{"transformations": [], "notify_hook": ""}').hook is None


def test_keys_that_nobody_knows_are_passed_over():
    assert parse(b'{"transformations": [{"name": "a", "x": 1}], "y": {}}') == JobFile((Step("a"),))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"transformations": [], "transformations": []}', "a key comes twice"),
        (b'{"transformations": [{"name": "a", "options": {"x": NaN}}]}', "NaN is not JSON"),
        (b" " * (1 << 20) + b"{}", "more than 1048576 bytes"),
        (b"[]", "not an object"),
        (b"{}", "transformations: must be a list"),
        (b'{"transformations": {}}', "transformations: must be a list"),
        (b'{"transformations": [' + b",".join([b'{"name": "a"}'] * 257) + b"]}", "at most 256"),
        (b'{"transformations": [{"name": "a"}, 5]}', r"transformations\.1: must be an object"),
        (b'{"transformations": [{}]}', r"transformations\.0\.name: "),
        (b'{"transformations": [{"name": 5}]}', r"transformations\.0\.name: "),
        (b'{"transformations": [{"name": ""}]}', r"transformations\.0\.name: "),
        (b'{"transformations": [{"name": "a\\u0000"}]}', r"transformations\.0\.name: "),
        (b'{"transformations": [{"name": "\\ud800"}]}', r"transformations\.0\.name: "),
        (b'{"transformations": [{"name": "' + b"n" * 201 + b'"}]}', r"transformations\.0\.name: "),
        (b'{"transformations": [{"name": "a", "options": []}]}', r"transformations\.0\.options: "),
        (b'{"transformations": [], "notify_hook": 5}', "notify_hook: "),
        (b'{"transformations": [], "notify_hook": "http://h/\\n"}', "notify_hook: "),
    ],
)
def test_refusal_names_what_is_wrong(data, message):
    with pytest.raises(Refused, match=f"^bad_job_json: .*{message}"):
        parse(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["transformations", "name", "options", "notify_hook"]), inner, max_size=4)
    ),
)


@given(JSON)
def test_any_json_is_a_job_or_refused(value):
    try:
        job = parse(json.dumps(value).encode())
    except Refused as refused:
        assert refused.reason == "bad_job_json"  # noqa: PT017 - either outcome is right
    else:
        assert [step.name for step in job.steps] == [step["name"] for step in value["transformations"]]
