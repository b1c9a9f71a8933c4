"""Database URLs: which forms there are, and what of them may be shown."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import ArgumentError

from gateway_core.errors import ConfigError

Dialect = Literal["sqlite", "postgresql"]

_SQLITE = frozenset({"sqlite", "sqlite+aiosqlite"})
_POSTGRESQL = frozenset({"postgres", "postgresql", "postgresql+asyncpg"})
_POSTGRESQL_OPTIONS = frozenset({"host", "port", "ssl", "prepared_statement_cache_size"})


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseUrl:
    """One database: ``sqlite:///file`` (four slashes: an absolute path) or ``postgresql://user:password@host/name``.

    ``path`` is the file of an SQLite database, None elsewhere; ``shown`` has no password and no options in it.
    """

    dialect: Dialect
    url: URL
    path: Path | None
    shown: str

    @classmethod
    def parse(cls, text: str) -> DatabaseUrl:
        """Read ``text``; raises ConfigError, which never quotes it, as it may hold a password."""
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            raise ConfigError("the database URL cannot be read; it is sqlite:///file or postgresql://…") from None
        if url.drivername in _SQLITE:
            return cls._sqlite(url)
        if url.drivername in _POSTGRESQL:
            return cls._postgresql(url)
        raise ConfigError(f"the database URL begins with {url.drivername}:, not with sqlite: or postgresql:")

    @classmethod
    def _sqlite(cls, url: URL) -> DatabaseUrl:
        if not url.database or url.database == ":memory:" or url.host or url.query:
            raise ConfigError("an SQLite database needs a file, and nothing else: sqlite:////absolute/path")
        path = Path(url.database).absolute()
        return cls("sqlite", URL.create("sqlite+pysqlite", database=str(path)), path, f"sqlite:///{path}")

    @classmethod
    def _postgresql(cls, url: URL) -> DatabaseUrl:
        if find_spec("asyncpg") is None:
            raise ConfigError("PostgreSQL needs the extra: pip install 'content-gateway[postgres]'")
        query = dict(url.query)
        if "sslmode" in query:  # what libpq and every provider call it; asyncpg takes the same words as ``ssl``
            query["ssl"] = query.pop("sslmode")
        unknown = sorted(query.keys() - _POSTGRESQL_OPTIONS)
        if unknown:
            raise ConfigError(f"the database URL has an option that is not known: {unknown[0]}; known is sslmode")
        shown = url.set(drivername="postgresql", password=None, query={})
        return cls(
            "postgresql",
            url.set(drivername="postgresql+asyncpg", query=query),
            None,
            shown.render_as_string(),
        )

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.shown})"
