from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated, Any

import pytest
from aiohttp import ClientSession, web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gateway_core.errors import Invalid, TooLarge
from gateway_core.http.body import BodyLimits
from gateway_core.http.json_body import MAX_DEPTH, parse_json, read_json, validate
from tests.core.http_serving import serving

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON)
def test_every_json_value_is_read(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Not valid JSON: Expecting value at line 1, column 1."),
        (b"{'a': 1}", "Not valid JSON: Expecting property name enclosed in double quotes at line 1, column 2."),
        (b"{}\n x", "Not valid JSON: Extra data at line 2, column 2."),
        (b'"\xff"', "Not UTF-8: byte 1 cannot be decoded."),
        (b"\xef\xbb\xbf{}", "Not valid JSON: Unexpected UTF-8 BOM (decode using utf-8-sig) at line 1, column 1."),
        *(
            (data, "Not valid JSON: a number is out of range or NaN.")
            for data in (b"NaN", b"[Infinity]", b'{"a": -Infinity}', b"1e999", b"9" * 5000)
        ),
        *((data, "A string has half a surrogate pair.") for data in (rb'"\ud800"', rb'{"\udfff": 1}', rb'["\uDC00x"]')),
        *((data, "More than 64 levels.") for data in (b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65)),
        (b"[" * 200_000, "More than 64 levels."),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "More than 64 levels."),
    ],
)
def test_what_is_not_usable_json_is_told_plainly(data: bytes, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_json(data)
    assert caught.value.errors == {"_schema": [message]}


def test_the_deepest_nesting_allowed_is_read() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert parse_json(b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH)
    assert len(parse_json(b"[" + b",".join([b"[]"] * 1000) + b"]")) == 1000


def test_escaped_pairs_and_escaped_backslashes_are_no_half_pairs() -> None:
    assert parse_json(rb'"\ud83d\ude00"') == "\U0001f600"
    assert parse_json(rb'"\\ud800"') == "\\ud800"


def test_of_equal_keys_the_last_one_counts() -> None:
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}


@given(st.binary(max_size=60) | st.text(alphabet='[]{}",:\\u0d8e19-.\n ', max_size=40).map(str.encode))
def test_any_bytes_are_invalid_or_a_value_that_can_be_written_again(data: bytes) -> None:
    with suppress(Invalid):
        json.dumps(parse_json(data), ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "nonsense"])
async def test_the_content_type_does_not_matter(content_type: str | None) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(await read_json(request))

    headers = {"Content-Type": content_type} if content_type else {}
    async with serving(handler) as server, ClientSession() as session:
        async with session.post(f"http://127.0.0.1:{server.port}/", data=b'{"a": 1}', headers=headers) as answer:
            assert await answer.json() == {"a": 1}


async def test_a_large_document_is_refused_by_the_body_s_limits() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(await read_json(request, BodyLimits(max_bytes=5)))

    async with serving(handler) as server, ClientSession() as session:
        async with session.post(f"http://127.0.0.1:{server.port}/", data=b"[1, 2, 3]"):
            pass
        assert isinstance(await server.end(), TooLarge)


class Item(BaseModel):
    url: str
    size: Annotated[int, Field(ge=0)] = 0

    @field_validator("url")
    @classmethod
    def check_url(cls, value: str) -> str:
        if "://" not in value:
            raise ValueError("Not a URL.")
        return value


class Ticket(BaseModel):
    model_config = ConfigDict(extra="forbid")

    items: list[Item]
    kind: str = Field(default="zip", alias="type")

    @model_validator(mode="after")
    def check_kind(self) -> Ticket:
        if self.kind == "stream" and len(self.items) != 1:
            raise ValueError("A stream has exactly one item.")
        return self


def errors_of(data: object) -> dict[str, list[str]]:
    with pytest.raises(Invalid) as caught:
        validate(Ticket, data)
    return caught.value.errors


def test_valid_data_becomes_the_model() -> None:
    assert validate(Ticket, {"items": [{"url": "a://b"}], "type": "stream"}).items[0].url == "a://b"


@pytest.mark.parametrize(
    ("data", "errors"),
    [
        ({}, {"items": ["Field required"]}),
        ({"items": [{"url": "a://b"}, {}]}, {"items.1.url": ["Field required"]}),
        ({"items": [{"url": "secret"}]}, {"items.0.url": ["Not a URL."]}),
        ({"items": [], "typ": 1}, {"typ": ["Extra inputs are not permitted"]}),
        ({"items": [], "type": 5}, {"type": ["Input should be a valid string"]}),
        ({"items": [], "type": "stream"}, {"_schema": ["A stream has exactly one item."]}),
        (
            {"items": [{"url": "x", "size": -1}]},
            {"items.0.url": ["Not a URL."], "items.0.size": ["Input should be greater than or equal to 0"]},
        ),
    ],
)
def test_errors_are_told_by_dotted_field(data: object, errors: dict[str, list[str]]) -> None:
    assert errors_of(data) == errors


@pytest.mark.parametrize("data", [[], "x", 5, None])
def test_a_body_of_another_shape_is_wrong_as_a_whole(data: object) -> None:
    assert list(errors_of(data)) == ["_schema"]


def test_no_message_repeats_the_value() -> None:
    assert "hunter2" not in str(errors_of({"items": [{"url": "hunter2", "size": "hunter2"}], "type": ["hunter2"]}))


def test_the_location_goes_into_the_problem() -> None:
    with pytest.raises(Invalid) as caught:
        validate(Ticket, {}, location="query")
    assert caught.value.problem()["errors"] == {"query": {"items": ["Field required"]}}
