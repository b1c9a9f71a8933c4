"""Which nodes connected lately, by the database: the truth, where a message of Redis got lost."""

from __future__ import annotations

from sqlalchemy import select

from gateway_core.db.clock import now
from gateway_core.db.engine import Database
from gateway_pipe.tables import nodes

_SLACK_S = 10.0
"""A transaction may be committed so long after the time that it wrote."""


class RecentEpochs:
    """The newest epochs, each time those since the last successful time."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._since: float | None = None

    async def read(self) -> dict[str, int]:
        """Newest epoch by node's name, of nodes that connected or left since the last time; raises DatabaseError.

        The first time only begins to count.
        """
        since = now() if self._since is None else self._since
        clock = select(now().label("at")).subquery()
        changed = clock.outerjoin(nodes, nodes.c.last_seen > since - _SLACK_S)
        async with self._db.read() as tx:
            rows = await tx.rows(select(clock.c.at, nodes.c.name, nodes.c.epoch).select_from(changed))
        self._since = float(rows[0].at)
        return {row.name: row.epoch for row in rows if row.name is not None}
