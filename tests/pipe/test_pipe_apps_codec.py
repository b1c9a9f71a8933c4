"""WebSocket messages on a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_pipe.apps import codec
from gateway_pipe.apps.codec import Message, Type
from gateway_pipe.link.model import ProtocolViolation


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(data: bytes, size: int = 7) -> list[Message]:
    return [message async for message in codec.messages(pieces(data, size))]


@given(
    st.lists(st.builds(Message, st.sampled_from([Type.TEXT, Type.BINARY]), st.binary(max_size=40)), max_size=6),
    st.integers(1, 50),
)
async def test_messages_come_as_they_were_sent_whatever_the_pieces(sent: list[Message], size: int) -> None:
    sent.append(Message.close(4001, "bye"))
    assert await read(b"".join(message.encoded() for message in sent), size) == sent


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x03\x00\x00\x00\x00", "type 3"),
        (b"\x00\x00\x00\x00\x00", "type 0"),
        (b"\x02\x01\x00\x00\x01", "16777217 bytes"),
        (b"\x02\xff\xff\xff\xff", "4294967295 bytes"),
        (b"\x01\x00\x00\x00\x02a", "inside of a message"),
        (b"\x01\x00", "inside of a message"),
        (Message.close(1000).encoded() + Message(Type.TEXT, b"x").encoded(), "after the close"),
    ],
)
async def test_what_no_peer_sends_is_a_violation(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolViolation, match=words):
        await read(data)


def test_a_close_without_a_code_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation, match="without a code"):
        Message(Type.CLOSE, b"\x01").closing()


@pytest.mark.parametrize("code", [None, 0, 999, 1004, 1005, 1006, 1015, 5000, 70000])
def test_codes_that_no_frame_may_hold_become_a_normal_end(code: int | None) -> None:
    assert Message.close(code, "why").closing() == (1000, b"why")


def test_a_reason_is_cut_between_characters_at_the_size_of_a_control_frame() -> None:
    code, reason = Message.close(4000, "ä" * 100).closing()
    assert (code, reason.decode()) == (4000, "ä" * 61)


def test_the_subprotocols_of_all_headers_count_in_their_order() -> None:
    headers = (("Sec-WebSocket-Protocol", "b, a"), ("X", "y"), ("sec-websocket-protocol", ",c"))
    assert codec.subprotocols(headers) == ("b", "a", "c")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ((), False),
        ((("Content-Length", "0"),), False),
        ((("content-length", "5"),), True),
        ((("Transfer-Encoding", "chunked"),), True),
    ],
)
def test_headers_tell_whether_there_is_a_body(headers: tuple[tuple[str, str], ...], *, body: bool) -> None:
    assert codec.has_body(headers) is body


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"\x03\xed", (1000, b"")),
        (b"\x00\x00never", (1000, b"never")),
        (b"\xff\xff", (1000, b"")),
        (b"\x0f\xa1" + b"x" * 500, (4001, b"x" * 123)),
        (b"\x0f\xa1\xff", (4001, "\ufffd".encode())),
    ],
)
def test_a_close_that_no_frame_may_hold_becomes_one_that_it_may(payload, told):
    assert Message(Type.CLOSE, payload).closing() == told
