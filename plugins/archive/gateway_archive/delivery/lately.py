"""What is worth remembering for some seconds, so that it is not asked for by everybody anew."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Lately(Generic[KeyT, ValueT]):
    """A mapping whose entries go by themselves."""

    def __init__(self) -> None:
        self._found: dict[KeyT, tuple[float, ValueT]] = {}

    def __contains__(self, key: KeyT) -> bool:
        self._expire()
        return key in self._found

    def put(self, key: KeyT, value: ValueT, for_s: float) -> None:
        """Remember ``value`` for so long."""
        self._found[key] = time.monotonic() + for_s, value

    def get(self, key: KeyT) -> ValueT | None:
        """What is remembered; None for nothing."""
        self._expire()
        found = self._found.get(key)
        return None if found is None else found[1]

    def items(self) -> Iterator[tuple[KeyT, ValueT]]:
        """All that is remembered."""
        self._expire()
        return ((key, value) for key, (_, value) in self._found.items())

    def _expire(self) -> None:
        now = time.monotonic()
        if any(until <= now for until, _ in self._found.values()):
            self._found = {key: kept for key, kept in self._found.items() if kept[0] > now}
