"""Frames of streams that are open already, on their way to them."""

from __future__ import annotations

from gateway_pipe.link import messages
from gateway_pipe.link.abuse import Abuse
from gateway_pipe.link.frames import credit_of
from gateway_pipe.link.model import StreamReset
from gateway_pipe.link.streams import Streams

_LEAST_CREDIT = 4096
"""A good peer gives no less: half of its window."""


class Receiver:
    """Each method is for one type of frame, and raises ProtocolViolation.

    A stream that has ended here gets nothing: the other end did not know yet. A flood of such frames is a violation.
    """

    __slots__ = ("_abuse", "_streams")

    def __init__(self, streams: Streams, abuse: Abuse) -> None:
        self._streams = streams
        self._abuse = abuse

    def data(self, number: int, payload: bytes, *, fin: bool) -> None:
        """DATA: some of a body, the last of it with ``fin``."""
        stream = self._streams.get(number)
        if stream is None or not stream.feed(payload, fin=fin):
            self._abuse.idle()
        elif fin and stream.complete:
            self._streams.forget(stream)

    def head(self, number: int, payload: bytes, *, fin: bool) -> None:
        """HEAD: an answer begins."""
        stream = self._streams.get(number)
        if stream is None:
            self._abuse.idle()
            return
        stream.begin_answer(messages.parse_head(payload))
        if fin:
            self.data(number, b"", fin=True)

    def window(self, number: int, payload: bytes) -> None:
        """WINDOW: the other end has taken so much."""
        credit = credit_of(payload)
        stream = self._streams.get(number)
        if stream is None or credit < _LEAST_CREDIT:
            self._abuse.idle()
        if stream is not None:
            stream.add_credit(credit)

    def reset(self, number: int, payload: bytes) -> None:
        """RESET: the other end has broken it off."""
        stream = self._streams.get(number)
        if stream is None:
            self._abuse.idle()
            return
        if self._streams.theirs(number):
            self._abuse.reset()
        code, reason, retry_after_s = messages.parse_reset(payload)
        self._streams.was_reset(stream, StreamReset(code, reason, retry_after_s=retry_after_s))
