"""Clients of the programs that went before: FPX and Circe keep secrets in clear, we take them over as they are."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from gateway_core.auth.store import ClientStore, NewClient
from gateway_core.errors import ConfigError, Conflict

Found = Sequence[tuple[str, str | None, str]]
"""(name, id or None, secret) of each client."""


async def read_fpx(database: str) -> Found:
    """Clients of FPX: its table ``clients`` holds name and, as id, the secret. Raises ConfigError."""
    return [(str(name), None, str(secret)) for secret, name in await _query(database, "SELECT id, name FROM clients")]


async def read_circe(database: str) -> Found:
    """Applications of Circe: its table ``auth`` holds uuid, name and secret. Raises ConfigError."""
    rows = await _query(database, "SELECT app_uuid, app_name, app_secret FROM auth")
    try:
        return [(str(name), uuid.UUID(str(app)).hex, str(secret)) for app, name, secret in rows]
    except ValueError as exc:
        raise ConfigError(f"{database}: an application's id is no UUID") from exc


async def import_into(clients: ClientStore, found: Found, scopes: frozenset[str]) -> tuple[int, list[str]]:
    """Add what was found; returns how many, and a line for each that was left alone because something is taken."""
    count, kept = 0, []
    for name, client_id, secret in found:
        try:
            await clients.add(NewClient(name, scopes, id=client_id, secret=secret))
            count += 1
        except Conflict as exc:
            kept.append(exc.detail)
    return count, kept


async def _query(database: str, query: str) -> Sequence[Sequence[object]]:
    if "://" in database and not database.startswith("sqlite"):
        return await _query_server(database, query)
    path = Path(database.partition("://")[2].removeprefix("/") if "://" in database else database)
    return await asyncio.to_thread(_query_file, path, query)


def _query_file(path: Path, query: str) -> Sequence[Sequence[object]]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            rows: list[tuple[object, ...]] = connection.execute(query).fetchall()
            return rows
    except sqlite3.Error as exc:
        raise ConfigError(f"{path}: {exc}") from exc


async def _query_server(url: str, query: str) -> Sequence[Sequence[object]]:
    import sqlalchemy as sa

    from gateway_core.db.engine import Database

    db = Database(url)
    try:
        async with db.read() as tx:
            return [tuple(row) for row in await tx.rows(sa.text(query))]
    except sa.exc.SQLAlchemyError as exc:
        raise ConfigError(f"the database cannot be read: {exc}") from exc
    finally:
        await db.close()
