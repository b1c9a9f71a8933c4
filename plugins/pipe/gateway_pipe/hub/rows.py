"""The table of nodes: epochs, names that were ever here, and when they were last seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_core.errors import DatabaseError, Forbidden
from gateway_core.observe.logs import get_logger
from gateway_pipe.link.model import NODE_NAME
from gateway_pipe.tables import nodes, revocations

log = get_logger("gateway.pipe")

_MOST_AT_ONCE = 500
_MOST_REMEMBERED = 10_000
_MOST_NAMES = 10_000
_KNOWN_S = 300.0
_UNKNOWN_S = 1.0
_END_S = 10.0


class _Wanted(NamedTuple):
    name: str
    version: str
    epoch: asyncio.Future[int]


class NodeRows:
    """What many connections write at once goes into few transactions: one is under way, the rest waits for the next."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._wanted: list[_Wanted] = []
        self._seen: set[str] = set()
        self._writing: asyncio.Task[None] | None = None
        self._known: dict[str, tuple[float, bool]] = {}
        insert = db.insert(nodes).values(epoch=1, first_seen=now(), last_seen=now())
        self._connect = insert.on_conflict_do_update(
            index_elements=[nodes.c.name],
            set_={"epoch": nodes.c.epoch + 1, "last_seen": now(), "version": insert.excluded.version},
        )

    async def next_epoch(self, name: str, version: str) -> int:
        """The number of a new connection, higher than those of all before it.

        Raises Forbidden for a name that is revoked, DatabaseError when the database cannot answer.
        """
        wanted = _Wanted(name, version[:64], asyncio.get_running_loop().create_future())
        self._wanted.append(wanted)
        self._begin()
        return await wanted.epoch

    def seen(self, names: Iterable[str]) -> None:
        """Their connections have just ended; written soon."""
        self._seen.update(names)
        if self._seen:
            self._begin()

    def note(self, name: str) -> None:
        """Somebody saw the node: it is known."""
        self._remember(name, known=True)

    async def known(self, name: str) -> bool:
        """Whether the node was ever connected; raises DatabaseError. An answer is remembered, a No for a second."""
        if not NODE_NAME.fullmatch(name):
            return False
        remembered = self._known.get(name)
        if remembered is not None and remembered[0] > time.monotonic():
            return remembered[1]
        async with self._db.read() as tx:
            found = await tx.first(_IS_KNOWN, {"wanted": name}) is not None
        self._remember(name, known=found)
        return found

    async def names(self, prefix: str, *, whole: bool) -> list[str]:
        """Names of known nodes that begin with ``prefix``, or are it; sorted, 10,000 at most. Raises DatabaseError."""
        where = nodes.c.name == prefix if whole else nodes.c.name.startswith(prefix, autoescape=True)
        async with self._db.read() as tx:
            rows = await tx.rows(sa.select(nodes.c.name).where(where).order_by(nodes.c.name).limit(_MOST_NAMES))
        return [row.name for row in rows]

    async def close(self) -> None:
        """Wait for what is being written, some seconds at most."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_END_S)
        if self._writing is not None:
            self._writing.cancel()

    def _remember(self, name: str, *, known: bool) -> None:
        if len(self._known) >= _MOST_REMEMBERED and name not in self._known:
            self._known.clear()
        self._known[name] = (time.monotonic() + (_KNOWN_S if known else _UNKNOWN_S), known)

    def _begin(self) -> None:
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write(), name="pipe nodes")

    async def _write(self) -> None:
        try:
            while self._wanted or self._seen:
                if self._wanted:
                    await self._number(self._take())
                elif not await self._write_seen() and not self._wanted:
                    return  # they are written with what comes next
        finally:
            self._writing = None

    def _take(self) -> dict[str, _Wanted]:
        """Those of the next transaction: every name once, so that a second connection of a node gets its own number."""
        batch: dict[str, _Wanted] = {}
        rest: list[_Wanted] = []
        for wanted in self._wanted:
            if len(batch) < _MOST_AT_ONCE and wanted.name not in batch:
                batch[wanted.name] = wanted
            else:
                rest.append(wanted)
        self._wanted = rest
        return batch

    async def _number(self, batch: Mapping[str, _Wanted]) -> None:
        try:
            epochs = await self._connected({name: wanted.version for name, wanted in batch.items()})
        except Exception as error:  # noqa: BLE001 - whoever waits gets it, whatever it is
            for wanted in batch.values():
                if not wanted.epoch.done():
                    wanted.epoch.set_exception(_told(error))
            return
        for name, wanted in batch.items():
            if wanted.epoch.done():
                continue
            if name in epochs:
                self._remember(name, known=True)
                wanted.epoch.set_result(epochs[name])
            else:
                wanted.epoch.set_exception(Forbidden(f"node {name} is revoked"))

    async def _connected(self, versions: Mapping[str, str]) -> dict[str, int]:
        """Epochs by name, without those that are revoked.

        Rows are locked in the order of names: transactions that lock in another order would wait for each other.
        """
        async with self._db.write() as tx:
            await tx.execute(self._connect, [{"name": name, "version": versions[name]} for name in sorted(versions)])
            return {row.name: row.epoch for row in await tx.rows(_EPOCHS, {"names": list(versions)})}

    async def _write_seen(self) -> bool:
        names = sorted(self._seen)[:_MOST_AT_ONCE]
        try:
            async with self._db.write() as tx:
                await tx.execute(_SEEN, [{"node": name} for name in names])
        except Exception as error:  # noqa: BLE001 - a supervisor's border: whoever waits for an epoch must get it
            log.warning("when nodes were last seen is not written yet", error=str(error))
            return False
        self._seen.difference_update(names)
        return True


def _told(error: Exception) -> Exception:
    """An error of its own for each that waits: a traceback grows with every raise."""
    if not isinstance(error, DatabaseError):
        return error
    told = DatabaseError(error.detail)
    told.__cause__ = error
    return told


_EPOCHS = sa.select(nodes.c.name, nodes.c.epoch).where(
    nodes.c.name.in_(sa.bindparam("names", expanding=True)),
    ~sa.exists().where(revocations.c.name == nodes.c.name, revocations.c.lifted == sa.null()),
)
_SEEN = sa.update(nodes).where(nodes.c.name == sa.bindparam("node")).values(last_seen=now())
_IS_KNOWN = sa.select(nodes.c.name).where(nodes.c.name == sa.bindparam("wanted"))
