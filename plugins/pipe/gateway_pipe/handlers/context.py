"""What a handler's method is told about the call, beside the body: its first argument, ``ctx``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping

from gateway_pipe.link.model import Headers, Opening


class Cancelled(threading.Event):
    """Whether nobody wants the answer any more: true as soon as it is so; ``is_set`` and ``wait`` as of any event."""

    def __bool__(self) -> bool:
        return self.is_set()


class HeaderMap(Mapping[str, str]):
    """Headers by name in any case: the first of each, ``get_all`` for the others."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Headers) -> None:
        self._pairs = pairs

    def __getitem__(self, name: str) -> str:
        wanted = name.lower()
        for key, value in self._pairs:
            if key.lower() == wanted:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter({key.lower(): key for key, _ in reversed(self._pairs)}.values())

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self._pairs})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)})"

    def get_all(self, name: str) -> list[str]:
        """All values of that name, in their order."""
        wanted = name.lower()
        return [value for key, value in self._pairs if key.lower() == wanted]


class Context:
    """A call, as its handler sees it; safe to use from any thread.

    ``name`` is who is at the other end of the link. ``query`` has the last value of each name, ``query_list`` all pairs
    in their order. ``content_type`` is the whole header, with its charset. ``cancelled`` becomes true when the caller
    has given up; an ``async def`` method is cancelled besides. ``call_id`` is a durable call's, the same at each try,
    ``idempotency_key`` the caller's own; both empty where there is none.
    """

    __slots__ = (
        "_end",
        "call_id",
        "cancelled",
        "content_type",
        "headers",
        "idempotency_key",
        "method",
        "name",
        "query",
        "query_list",
    )

    def __init__(
        self, name: str, opening: Opening, query: tuple[tuple[str, str], ...], *, time_left_s: float | None
    ) -> None:
        self.name = name
        self.method = opening.method
        self.query: dict[str, str] = dict(query)
        self.query_list = list(query)
        self.headers = HeaderMap(opening.headers)
        self.content_type = opening.header("Content-Type")
        self.cancelled = Cancelled()
        self.call_id = opening.call
        self.idempotency_key = opening.key
        self._end = None if time_left_s is None else time.monotonic() + time_left_s

    @property
    def deadline(self) -> float | None:
        """Seconds that are left of the caller's time, now; never below 0, None without a limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())
