"""Who comes next: files wait by client, and clients take turns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator


class Turns:
    """A bounded queue of ids, at most ``per_client`` of one client; each id stands in it once."""

    def __init__(self, *, total: int, per_client: int) -> None:
        self._total = total
        self._per_client = per_client
        self._waiting: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()
        self._ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def add(self, client: str, name: str) -> bool:
        """Whether ``name`` waits now; False when there is no room: ask again later."""
        if name in self._ids:
            return True
        mine = self._waiting.get(client, OrderedDict())
        if len(self._ids) >= self._total or len(mine) >= self._per_client:
            return False
        mine[name] = None
        self._waiting[client] = mine
        self._ids.add(name)
        return True

    def next(self) -> str | None:
        """The first of the client whose turn it is."""
        if not self._waiting:
            return None
        client, mine = self._waiting.popitem(last=False)
        name, _ = mine.popitem(last=False)
        if mine:
            self._waiting[client] = mine
        self._ids.discard(name)
        return name
