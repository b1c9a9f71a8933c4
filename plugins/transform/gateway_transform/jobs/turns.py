"""Whose job is next: fair turns between clients, as one query."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from gateway_core.db.engine import Database
from gateway_transform.jobs.model import JobState
from gateway_transform.tables import jobs

_SPARE = 8
_SERVED_IN = (JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


def in_turns(db: Database) -> sa.Select[Any]:
    """Ids of the ``most`` jobs (a parameter) to run next, locked for the transaction where rows can be.

    First those that are only to be published, as they end in no time. Then by how many jobs their client would have
    running with them, by when it was last served, by age. A client none of whose results is left counts as never
    served. It reads a few rows of a few clients, however many jobs wait.
    """
    most = sa.bindparam("most", type_=sa.Integer)
    # more than asked for, as others may be claiming the first ones in this moment
    candidates = most + _SPARE
    next_up = sa.union_all(_only_published(candidates), _heads(db, candidates)).subquery("next_up")
    return (
        sa.select(jobs.c.id)
        .join_from(jobs, next_up, next_up.c.id == jobs.c.id)
        .where(jobs.c.state == JobState.QUEUED)  # again, as a row may have changed before it could be locked
        .order_by(next_up.c.turn, next_up.c.served, jobs.c.created, jobs.c.id)
        .limit(most)
        .with_for_update(skip_locked=True, of=jobs)
    )


def _only_published(candidates: sa.ColumnElement[int]) -> sa.Select[Any]:
    ended = jobs.alias("ended")
    return (
        sa.select(ended.c.id, sa.literal(0, sa.BigInteger).label("turn"), sa.literal(0.0, sa.Double).label("served"))
        .where(ended.c.state == JobState.QUEUED, ended.c.cancelling)
        .order_by(ended.c.client_id, ended.c.created)
        .limit(candidates)
        .subquery("only_published")
        .select()
    )


def _heads(db: Database, candidates: sa.ColumnElement[int]) -> sa.Select[Any]:
    """The oldest jobs of the clients whose turn it is, numbered for each client, after what it has running."""
    best, head, waiting = _best_clients(db, candidates), jobs.alias("head"), jobs.alias("waiting")
    oldest = (
        sa.select(head.c.id, head.c.client_id, head.c.created)
        .where(_waits(head), head.c.client_id == best.c.client_id)
        .order_by(head.c.created, head.c.id)
        .limit(candidates)
    )
    heads: Any
    joined: Any
    if db.dialect == "sqlite":  # which has no LATERAL, and looks up each id of a list in the index
        heads = waiting.c
        joined = sa.join(best, waiting, waiting.c.id.in_(oldest.with_only_columns(head.c.id).correlate(best)))
    else:
        lateral = oldest.lateral("waiting")
        heads = lateral.c
        joined = sa.join(best, lateral, sa.true())
    of_client = sa.func.row_number().over(partition_by=heads.client_id, order_by=(heads.created, heads.id))
    return sa.select(heads.id, best.c.running + of_client, best.c.served).select_from(joined)


def _best_clients(db: Database, candidates: sa.ColumnElement[int]) -> sa.CTE:
    """Clients that wait, those whose turn it is first. The n-th of them cannot be served before n - 1 others."""
    waiting = jobs.alias("first")
    clients = sa.select(sa.func.min(waiting.c.client_id).label("client_id")).where(_waits(waiting))
    known = clients.cte("clients", recursive=True)
    following = jobs.alias("following")
    # from client to client through the index, as a DISTINCT would read all jobs that wait
    after = sa.select(sa.func.min(following.c.client_id)).where(
        _waits(following), following.c.client_id > known.c.client_id
    )
    known = known.union_all(sa.select(after.scalar_subquery()).where(known.c.client_id.is_not(None)))
    running, served = _running(known.c.client_id), _served(db, known.c.client_id)
    best = sa.select(known.c.client_id, running, served).where(known.c.client_id.is_not(None))
    return best.order_by(running, served).limit(candidates).cte("best")


def _waits(row: sa.FromClause) -> sa.ColumnElement[bool]:
    return sa.and_(row.c.state == JobState.QUEUED, sa.not_(row.c.cancelling))


def _running(client_id: sa.ColumnElement[str]) -> sa.Label[int]:
    own = jobs.alias("own")
    count = sa.select(sa.func.count()).where(own.c.client_id == client_id, own.c.state == JobState.RUNNING)
    return count.scalar_subquery().label("running")


def _served(db: Database, client_id: sa.ColumnElement[str]) -> sa.Label[float]:
    """One look at the end of an index for each state: a maximum over all states would read all rows of the client."""
    greatest = sa.func.max if db.dialect == "sqlite" else sa.func.greatest
    own = jobs.alias("own")
    last = [
        sa.select(sa.func.max(own.c.started)).where(own.c.client_id == client_id, own.c.state == state)
        for state in _SERVED_IN
    ]
    return greatest(*(sa.func.coalesce(one.scalar_subquery(), 0.0) for one in last)).label("served")
