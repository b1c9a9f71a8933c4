"""Which failures of the drivers mean that the database cannot answer now, and which that our SQL is wrong."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, NotSupportedError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from gateway_core.errors import DatabaseError

_SQLITE_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "the database is busy",
    sqlite3.SQLITE_LOCKED: "the database is busy",
    sqlite3.SQLITE_PERM: "the database file may not be opened",
    sqlite3.SQLITE_NOMEM: "the database is out of memory",
    sqlite3.SQLITE_READONLY: "the database file is read-only",
    sqlite3.SQLITE_IOERR: "the database file cannot be read or written",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged",
    sqlite3.SQLITE_FULL: "no space left for the database",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened",
    sqlite3.SQLITE_PROTOCOL: "the database is busy",
    sqlite3.SQLITE_NOTADB: "the file is not an SQLite database",
}
_POSTGRESQL_UNAVAILABLE = {
    "08": "the connection to the database broke",
    "25006": "the database is read-only",
    "25P03": "the transaction was idle for too long",
    "28": "the database refuses the login",
    "3D": "the database does not exist",
    "40": "the transaction lost a conflict with another one",
    "53": "the database is out of resources",
    "55P03": "the database is busy",
    "57": "the database is starting, stopping, or cut the statement off",
    "58": "the database cannot be read or written",
}
"""SQLSTATE codes and classes, PostgreSQL documentation, appendix A."""

HOPELESS = frozenset({"28", "3D"})
"""Classes that no waiting cures: wrong login, no such database."""


def as_unavailable(error: BaseException) -> DatabaseError | None:
    """The DatabaseError that ``error`` amounts to; None when it is not the database's state but our SQL or a bug.

    An IntegrityError is None too: a constraint that holds is an answer, which the caller expects or not.
    """
    if isinstance(error, PoolTimeoutError):
        return DatabaseError("all connections to the database are in use")
    if isinstance(error, IntegrityError):
        return None
    if isinstance(error, DBAPIError):
        return _from_driver(error)
    if isinstance(error, OSError):  # TimeoutError is one too; asyncpg lets both through while it connects
        return DatabaseError("the database cannot be reached")
    state = sqlstate(error)
    return DatabaseError(_postgresql_reason(state) or "the database cannot be reached") if state else None


def sqlstate(error: BaseException | None) -> str:
    """SQLSTATE of an error of asyncpg, wrapped by SQLAlchemy or not; empty where there is none."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlstate", None) or "")


def _from_driver(error: DBAPIError) -> DatabaseError | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        reason = _SQLITE_UNAVAILABLE.get(code & 0xFF)  # extended codes keep the primary one in the low byte
        return DatabaseError(reason) if reason else None
    reason = _postgresql_reason(sqlstate(error))
    if reason:
        return DatabaseError(reason)
    if isinstance(error, NotSupportedError):  # asyncpg: a prepared statement from before a migration
        return DatabaseError("the database has just been migrated")
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return DatabaseError("the connection to the database broke")
    return None


def _postgresql_reason(state: str) -> str | None:
    return _POSTGRESQL_UNAVAILABLE.get(state) or _POSTGRESQL_UNAVAILABLE.get(state[:2])
