"""Taking over the clients of FPX and Circe, from databases as those programs make them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text

from gateway_core.auth.imports import import_into, read_circe, read_fpx
from gateway_core.auth.keyring import Keyring
from gateway_core.auth.store import ClientStore, NewClient
from gateway_core.db.engine import Database
from gateway_core.db.wakeups import Wakeups
from gateway_core.errors import ConfigError, GatewayError

SCOPES = frozenset({"archive:ticket"})
FPX = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
    "CREATE TABLE clients (id VARCHAR NOT NULL, name VARCHAR NOT NULL, PRIMARY KEY (id), UNIQUE (name))",
    "CREATE TABLE tickets (id VARCHAR NOT NULL PRIMARY KEY, type VARCHAR, content TEXT, created_at DATETIME)",
)
FPX_CLIENTS = [("2ZqJm4vX0y7kQm1bC9dPzg", "ckan"), ("7f9c2ba4e88f827d616045507605853e", "portal")]
CIRCE = ("CREATE TABLE auth(app_uuid text, app_name text, app_secret text)",)
CIRCE_CLIENTS = [
    ("3f2504e04f8911d39a0c0305e82c3301", "certic", "f81d4fae7dec11d0a76500a0c91e6bf6"),
    ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "other", "6ba7b8119dad11d180b400c04fd430c8"),
]


@pytest.fixture
async def store(db: Database) -> AsyncIterator[ClientStore]:
    made = ClientStore(db, Keyring(["a key of the tests, new"]), Wakeups(db))
    yield made
    await made.close()


def make(path: Path, statements: Sequence[str], insert: str, rows: Sequence[Sequence[str]]) -> str:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
        connection.executemany(insert, rows)
    return str(path)


def fpx(tmp_path: Path, rows: Sequence[Sequence[str]] = FPX_CLIENTS) -> str:
    return make(tmp_path / "fpx.db", FPX, "INSERT INTO clients (id, name) VALUES (?, ?)", rows)


def circe(tmp_path: Path, rows: Sequence[Sequence[str]] = CIRCE_CLIENTS) -> str:
    return make(tmp_path / "circe.db", CIRCE, "INSERT INTO auth VALUES (?, ?, ?)", rows)


async def test_names_and_secrets_of_fpx_keep_working(store: ClientStore, tmp_path: Path) -> None:
    assert await import_into(store, await read_fpx(fpx(tmp_path)), SCOPES) == (2, [])
    for secret, name in FPX_CLIENTS:
        client = await store.by_secret(secret)
        assert client is not None
        assert (client.name, client.scopes, client.expires) == (name, SCOPES, None)
        assert await store.secret_of(client.id) == secret


async def test_ids_names_and_secrets_of_circe_keep_working(store: ClientStore, tmp_path: Path) -> None:
    assert await import_into(store, await read_circe(circe(tmp_path)), SCOPES) == (2, [])
    for app, name, secret in CIRCE_CLIENTS:
        client = await store.find(app)
        assert client is not None
        assert (client.name, client.id) == (name, app.replace("-", ""))
        assert await store.secret_of(client.id) == secret


async def test_a_second_import_leaves_everything_alone_and_says_so(store: ClientStore, tmp_path: Path) -> None:
    database = fpx(tmp_path)
    await import_into(store, await read_fpx(database), SCOPES)
    before = await store.list()
    count, kept = await import_into(store, await read_fpx(database), SCOPES)
    assert count == 0
    assert [line.partition(":")[0] for line in kept] == ["client ckan", "client portal"]
    assert [client.id for client in await store.list()] == [client.id for client in before]


async def test_a_name_that_is_taken_keeps_its_client_and_the_others_come(store: ClientStore, tmp_path: Path) -> None:
    _, secret = await store.add(NewClient("ckan", SCOPES))
    count, kept = await import_into(store, await read_fpx(fpx(tmp_path)), SCOPES)
    assert (count, len(kept)) == (1, 1)
    assert await store.by_secret(FPX_CLIENTS[0][0]) is None
    assert await store.by_secret(secret)
    assert await store.by_secret(FPX_CLIENTS[1][0])


async def test_clients_that_cannot_work_here_are_named_and_the_others_come(store: ClientStore, tmp_path: Path) -> None:
    rows = [("größe", "umlaut"), ("", "empty"), ("secret-1", ""), ("secret-2", "good")]
    count, kept = await import_into(store, await read_fpx(fpx(tmp_path, rows)), SCOPES)
    assert count == 1
    assert len(kept) == 3
    assert kept[0].startswith("client umlaut: ")
    assert [client.name for client in await store.list()] == ["good"]


@pytest.mark.parametrize("form", ["{path}", "sqlite:///{path}", "sqlite+aiosqlite:///{path}"])
async def test_the_database_is_a_path_or_a_url(tmp_path: Path, form: str) -> None:
    found = await read_fpx(form.format(path=fpx(tmp_path)))
    assert [(name, secret) for name, _, secret in found] == [(name, secret) for secret, name in FPX_CLIENTS]


async def test_a_relative_url_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fpx(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(await read_fpx("sqlite:///fpx.db")) == 2
    assert len(await read_fpx("fpx.db")) == 2


async def test_a_path_with_odd_characters_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "a b?c#d%20e"
    folder.mkdir()
    assert len(await read_fpx(fpx(folder))) == 2


async def test_reading_changes_nothing_and_makes_no_file(tmp_path: Path) -> None:
    database = Path(fpx(tmp_path))
    database.chmod(0o400)
    before = database.read_bytes()
    await read_fpx(str(database))
    with pytest.raises(ConfigError):
        await read_fpx(str(tmp_path / "missing.db"))
    assert database.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["fpx.db"]


async def test_a_database_of_another_program_is_told(tmp_path: Path) -> None:
    text_file = tmp_path / "notes.txt"
    text_file.write_text("no database " * 1000)
    for database, reader, words in (
        (fpx(tmp_path), read_circe, "no such table: auth"),
        (circe(tmp_path), read_fpx, "no such table: clients"),
        (str(text_file), read_fpx, "not a database"),
        (str(tmp_path), read_fpx, "unable to open|disk I/O error"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            await reader(database)
        assert database in caught.value.detail


async def test_an_application_whose_id_is_no_uuid_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an application's id is no UUID"):
        await read_circe(circe(tmp_path, [("mine", "name", "secret")]))


async def test_clients_come_from_postgresql_too(postgres_server) -> None:
    url = postgres_server.create(f"fpx_{uuid4().hex}")
    source = Database(url)
    try:
        async with source.write() as tx:
            for statement in FPX[1:2]:
                await tx.execute(text(statement))
            await tx.execute(text("INSERT INTO clients (id, name) VALUES ('their-secret', 'ckan')"))
        assert list(await read_fpx(url)) == [("ckan", None, "their-secret")]
        with pytest.raises(ConfigError, match="auth"):
            await read_circe(url)
    finally:
        await source.close()


async def test_a_server_that_is_away_or_no_server_is_told_without_its_password() -> None:
    for url in ("postgresql://u:canary@127.0.0.1:1/fpx", "mysql://u:canary@127.0.0.1:1/fpx"):
        with pytest.raises(GatewayError) as caught:
            await read_fpx(url)
        assert "canary" not in str(caught.value)
