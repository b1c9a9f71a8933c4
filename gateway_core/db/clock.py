"""The database's clock: the one clock that all processes of a cluster share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class _Now(FunctionElement[float]):
    type = Double()
    inherit_cache = True
    name = "gateway_now"


@compiles(_Now, "sqlite")
def _sqlite_now(_element: _Now, _compiler: Any, **_options: Any) -> str:
    # unixepoch('subsec') needs 3.42; 2440587.5 is 1970-01-01 as a Julian day, of which a double resolves 40 µs
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(_Now, "postgresql")
def _postgresql_now(_element: _Now, _compiler: Any, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def now() -> ColumnElement[float]:
    """Unix seconds by the database's clock, as a SQL expression, to the millisecond on both databases."""
    return _Now()
