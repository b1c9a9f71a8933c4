"""Engines for the two databases, with the settings that make them durable and keep them from hanging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.pool import QueuePool

from gateway_core.db.files import journal_mode
from gateway_core.db.sqlalchemy_core import AsyncEngine, create_async_engine
from gateway_core.db.sqlite_threads import SqliteEngine
from gateway_core.db.url import DatabaseUrl

_POOL_RECYCLE_S = 300
_IDLE_IN_TRANSACTION_MS = 15_000


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a connection may take to open, and one statement to run."""

    connect_s: float
    statement_s: float


def sqlite_reader(url: DatabaseUrl, connections: int, busy_s: float) -> SqliteEngine:
    """Connections that see one state a transaction and refuse to write."""
    return _sqlite(url, connections, busy_s, begin="BEGIN", pragmas=("PRAGMA query_only=ON",))


def sqlite_writer(url: DatabaseUrl, busy_s: float) -> SqliteEngine:
    """The one connection that writes: durable at commit (``synchronous=FULL``) and never half-way from read to write.

    A deferred transaction that turns from reading to writing fails at once, whatever ``busy_timeout`` says.
    """
    return _sqlite(url, 1, busy_s, begin="BEGIN IMMEDIATE", pragmas=(f"PRAGMA journal_mode={journal_mode()}",))


def postgresql(url: DatabaseUrl, *, connections: int, overflow: int, timeouts: Timeouts) -> AsyncEngine:
    """Connections that are tested when taken and that both ends give up on when the other is silent."""
    statement_ms = str(int(timeouts.statement_s * 1000))
    return create_async_engine(
        url.url,
        pool_size=connections,
        max_overflow=overflow,
        pool_timeout=timeouts.connect_s,
        pool_recycle=_POOL_RECYCLE_S,
        pool_pre_ping=True,
        pool_use_lifo=True,
        hide_parameters=True,
        connect_args={
            "timeout": timeouts.connect_s,
            "command_timeout": timeouts.statement_s,
            "server_settings": {
                "application_name": "content-gateway",
                "statement_timeout": statement_ms,
                "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_MS),
                "tcp_user_timeout": statement_ms,
            },
        },
    )


def _sqlite(url: DatabaseUrl, connections: int, busy_s: float, *, begin: str, pragmas: tuple[str, ...]) -> SqliteEngine:
    engine = create_engine(
        url.url,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=busy_s,
        pool_use_lifo=True,
        pool_reset_on_return=None,  # a Transaction gives no connection back that is not clean
        hide_parameters=True,
        # isolation_level None: the driver begins nothing by itself, BEGIN is ours
        connect_args={"timeout": busy_s, "isolation_level": None, "check_same_thread": False},
    )

    def on_connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("PRAGMA foreign_keys=ON", "PRAGMA synchronous=FULL", *pragmas):
            cursor.execute(pragma)
        cursor.close()

    def on_begin(connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        driver.execute(begin)

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return SqliteEngine(engine, connections)
