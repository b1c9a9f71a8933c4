"""Clients in the database, on SQLite and PostgreSQL: made, found, changed, remembered for a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, select, update

from gateway_core.auth.client import Client, scope_covers
from gateway_core.auth.keyring import Keyring
from gateway_core.auth.secrets import digest, new_secret
from gateway_core.auth.store import ClientStore, NewClient, grantable
from gateway_core.db.engine import Database
from gateway_core.db.tables import clients, meta
from gateway_core.db.wakeups import Wakeups
from gateway_core.errors import Conflict, DatabaseError, NotFound, StartupError

KEYS = Keyring(["a key of the tests, new"])
SCOPES = frozenset({"archive:ticket"})
MakeStore = Callable[..., Any]


@pytest.fixture
async def store(db: Database) -> AsyncIterator[ClientStore]:
    made = ClientStore(db, KEYS, Wakeups(db))
    yield made
    await made.close()


@pytest.fixture
async def other(database_url: str, store: ClientStore) -> AsyncIterator[ClientStore]:
    """The store of another process, which watches for changes."""
    async with another_process(database_url) as made:
        yield made


@asynccontextmanager
async def another_process(url: str) -> AsyncIterator[ClientStore]:
    database = Database(url)
    wakeups = Wakeups(database)
    made = ClientStore(database, KEYS, wakeups)
    watching = asyncio.create_task(made.watch())
    wakeups.start()
    try:
        yield made
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await made.close()
        await wakeups.stop()
        await database.close()


async def add(store: ClientStore, name: str = "ckan", **given: Any) -> tuple[Client, str]:
    return await store.add(NewClient(name, given.pop("scopes", SCOPES), **given))


async def rows(db: Database) -> list[Any]:
    async with db.read() as tx:
        return list(await tx.rows(select(clients)))


async def test_a_new_client_has_an_id_a_secret_and_its_scopes(store: ClientStore) -> None:
    before = time.time()
    client, secret = await add(store, scopes=frozenset({"a:b", "c:*"}))
    assert len(client.id) == 32
    assert set(client.id) <= set("0123456789abcdef")
    assert secret.startswith("gw_")
    found = await store.by_secret(secret)
    assert found is not None
    assert (found.id, found.name, found.scopes, found.expires) == (client.id, "ckan", frozenset({"a:b", "c:*"}), None)
    assert before - 1 <= found.created <= time.time() + 1


async def test_the_database_holds_no_secret_in_clear(store: ClientStore, db: Database) -> None:
    _, secret = await add(store)
    (row,) = await rows(db)
    assert secret not in str(row)
    assert row.secret_sha256 == digest(secret)
    assert KEYS.decrypt(row.secret_encrypted.encode()).decode() == secret


async def test_the_plain_secret_is_there_for_schemes_that_sign(store: ClientStore) -> None:
    client, secret = await add(store)
    assert await store.secret_of(client.id) == secret
    with pytest.raises(NotFound):
        await store.secret_of("0" * 32)


@pytest.mark.parametrize(
    "wrong",
    ["", "gw_", "x", new_secret(), new_secret().lower(), "ä", "x" * 8192, "a\x00b"],
    ids=["empty", "prefix", "letter", "other", "lower case", "not ascii", "long", "nul"],
)
async def test_other_secrets_find_nobody(store: ClientStore, wrong: str) -> None:
    await add(store)
    assert await store.by_secret(wrong) is None


async def test_a_secret_with_a_wrong_checksum_is_refused_without_a_look_up(store: ClientStore, db: Database) -> None:
    _, secret = await add(store)
    await db.close()
    assert await store.by_secret(secret[:-1] + ("0" if secret[-1] != "0" else "1")) is None
    with pytest.raises(DatabaseError):
        await store.by_secret(secret)


@pytest.mark.parametrize(
    "twice",
    [{"name": "ckan"}, {"id": "a" * 32}, {"secret": "a secret of another program"}],
    ids=lambda d: next(iter(d)),
)
async def test_name_id_and_secret_are_taken_once(store: ClientStore, twice: dict[str, str]) -> None:
    taken = NewClient("ckan", SCOPES, id="a" * 32, secret="a secret of another program")
    fresh = NewClient("other", SCOPES, id="b" * 32, secret="another secret")
    await store.add(taken)
    with pytest.raises(Conflict, match="already taken"):
        await store.add(replace(fresh, **twice))
    assert [client.name for client in await store.list()] == ["ckan"]


async def test_what_no_header_can_carry_is_refused_as_a_secret_and_named(store: ClientStore) -> None:
    for secret in ("", "ä", "x" * 513, "line\nbreak"):
        with pytest.raises(Conflict, match="client ckan: a secret has 1 to 512 visible ASCII characters"):
            await add(store, secret=secret)
    assert await store.list() == []


@pytest.mark.parametrize("name", ["", "x" * 256, "a\x00b", "line\nbreak", "\ud800"])
async def test_a_name_that_cannot_be_shown_is_refused(store: ClientStore, name: str) -> None:
    with pytest.raises(Conflict, match="a client's name has 1 to 255 printable characters"):
        await add(store, name)
    assert await store.list() == []


async def test_imported_ids_and_secrets_work_as_they_are(store: ClientStore) -> None:
    client, secret = await add(store, id="0123456789abcdef" * 2, secret="their-old-secret")
    assert secret == "their-old-secret"
    for found in (
        await store.by_secret("their-old-secret"),
        await store.find("01234567-89AB-cdef-0123-456789abcdef"),
    ):
        assert found is not None
        assert found.id == client.id


async def test_clients_are_found_by_name_before_id(store: ClientStore) -> None:
    first, _ = await add(store, "first", id="a" * 32)
    second, _ = await add(store, "a" * 32)
    for name, client in (("first", first), ("a" * 32, second)):
        found = await store.find(name)
        assert found is not None
        assert found.id == client.id
    assert await store.find("nobody") is None


@pytest.mark.parametrize(
    "name", ["", "\x00", "a\x00b", "\ud800", "x" * 10_000, "%", "_", "' OR 1=1 --", "ckan\n", "CKAN"]
)
async def test_names_that_nobody_has_find_nobody(store: ClientStore, name: str) -> None:
    await add(store)
    assert await store.find(name) is None


async def test_an_expired_client_is_nobody_at_once_though_remembered(store: ClientStore) -> None:
    found = None
    for number in range(20):  # a busy machine may not look it up before it expires
        client, secret = await add(store, f"ckan-{number}", expires=time.time() + 0.3)
        if found := await store.by_secret(secret):
            break
    assert found is not None
    while time.time() <= (client.expires or 0):
        await asyncio.sleep(0.02)
    assert await store.by_secret(secret) is None
    assert await store.find(client.name) is None
    assert client.name in [c.name for c in await store.list()]


async def test_revoking_shuts_out_at_once_and_frees_the_name(store: ClientStore) -> None:
    client, secret = await add(store)
    assert await store.by_secret(secret)
    assert await store.find("ckan")
    assert (await store.revoke("ckan")).id == client.id
    assert await store.by_secret(secret) is None
    assert await store.find("ckan") is None
    assert await store.list() == []
    with pytest.raises(NotFound):
        await store.secret_of(client.id)
    again, _ = await add(store)
    assert again.id != client.id


async def test_a_revoked_secret_cannot_come_back(store: ClientStore) -> None:
    _, secret = await add(store)
    await store.revoke("ckan")
    with pytest.raises(Conflict):
        await add(store, "other", secret=secret)


async def test_rotating_changes_the_secret_and_nothing_else(store: ClientStore) -> None:
    client, old = await add(store)
    rotated, new = await store.rotate("ckan")
    assert new != old
    assert replace(rotated, last_used=None) == client
    assert await store.by_secret(old) is None
    found = await store.by_secret(new)
    assert found is not None
    assert found.id == client.id
    assert await store.secret_of(client.id) == new


@pytest.mark.parametrize("change", ["revoke", "rotate"])
async def test_changes_go_by_name_or_id_and_miss_what_is_not_there(store: ClientStore, change: str) -> None:
    client, _ = await add(store)
    await add(store, "other")
    dashed = "-".join((client.id[:8], client.id[8:]))
    await getattr(store, change)(dashed.upper())
    for missing in ("nobody", "0" * 32, ""):
        with pytest.raises(NotFound, match="no client"):
            await getattr(store, change)(missing)
    assert "other" in [c.name for c in await store.list()]


async def test_the_list_is_by_name(store: ClientStore) -> None:
    for name in ("b", "a", "c"):
        await add(store, name)
    assert [client.name for client in await store.list()] == ["a", "b", "c"]


async def test_a_client_is_looked_up_once_a_second(store: ClientStore, db: Database) -> None:
    _, secret = await add(store)
    for tried, known in ((secret, True), ("unknown-but-plausible", False)):
        began = time.monotonic()
        with counted_selects(db) as looked:
            for _ in range(50):
                assert (await store.by_secret(tried) is not None) == known
        assert 1 <= looked[0] <= 1 + time.monotonic() - began


class counted_selects:  # a context manager
    """Counts the look-ups of clients."""

    def __init__(self, db: Database) -> None:
        self._engine = db._reader.sync_engine
        self.count = [0]

    def __enter__(self) -> list[int]:
        event.listen(self._engine, "before_cursor_execute", self._seen)
        return self.count

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "before_cursor_execute", self._seen)

    def _seen(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.count[0] += "FROM clients" in statement


async def test_a_flood_of_wrong_secrets_fills_no_memory(store: ClientStore) -> None:
    for n in range(5000):
        store._cache[f"secret/{n}"] = (0.0, None)
    await store.by_secret("wrong")
    assert len(store._cache) <= 4096


async def test_another_process_hears_of_a_change_within_about_a_second(store: ClientStore, other: ClientStore) -> None:
    _, secret = await add(store)
    await flushed(store)
    assert await other.by_secret(secret)
    await store.revoke("ckan")
    await flushed(store)
    began = time.monotonic()
    while await other.by_secret(secret):
        assert time.monotonic() - began < 5
        await asyncio.sleep(0.02)


async def flushed(store: ClientStore) -> None:
    await store._wakeups.flush()


async def test_last_used_is_written_beside_the_request_and_once_a_minute(store: ClientStore, db: Database) -> None:
    _, secret = await add(store)
    assert (await rows(db))[0].last_used is None
    before = time.time()
    await store.by_secret(secret)
    await store.close()
    (row,) = await rows(db)
    assert before - 1 <= row.last_used <= time.time() + 1
    async with db.write() as tx:
        await tx.execute(update(clients).values(last_used=1.0))
    store._cache.clear()
    await store.by_secret(secret)
    await store.close()
    assert (await rows(db))[0].last_used == 1.0


async def test_keys_are_noted_at_first_and_compared_later(store: ClientStore, db: Database) -> None:
    await add(store)
    await store.check_keys()
    await store.check_keys()
    async with db.read() as tx:
        assert (
            await tx.scalar(select(meta.c.value).where(meta.c.key == "secret_key_fingerprint"))
            == (KEYS.fingerprints[0])
        )
    with pytest.raises(StartupError, match="SECRET_KEY is not the key of this database; add the old key"):
        await ClientStore(db, Keyring(["some other key"]), Wakeups(db)).check_keys()


async def test_a_new_first_key_re_encrypts_everything_and_the_old_one_can_go(store: ClientStore, db: Database) -> None:
    made = [await add(store, f"client-{n}") for n in range(5)]
    await store.revoke("client-0")
    await store.check_keys()
    old, new = "a key of the tests, new", "the next key of the tests"
    await ClientStore(db, Keyring([new, old]), Wakeups(db)).check_keys()
    later = ClientStore(db, Keyring([new]), Wakeups(db))
    await later.check_keys()
    for client, secret in made[1:]:
        assert await later.secret_of(client.id) == secret
    with pytest.raises(StartupError):
        await store.check_keys()


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("known", [True, False])
async def test_processes_that_start_together_agree_on_the_key(
    store: ClientStore, db: Database, database_url: str, *, count: int, known: bool
) -> None:
    made = [await add(store, f"client-{n}") for n in range(count)]
    if known:
        await store.check_keys()
    both = Keyring(["the next key of the tests", "a key of the tests, new"])
    databases = [Database(database_url) for _ in range(6)]
    try:
        for one in databases:
            await one.connect()
        await asyncio.gather(*(ClientStore(one, both, Wakeups(one)).check_keys() for one in databases))
    finally:
        for one in databases:
            await one.close()
    async with db.read() as tx:
        assert await tx.scalar(select(meta.c.value)) == both.fingerprints[0]
    for client, secret in made:
        assert await ClientStore(db, Keyring(["the next key of the tests"]), Wakeups(db)).secret_of(client.id) == secret


async def test_of_many_who_take_a_name_at_once_one_gets_it(store: ClientStore) -> None:
    done = await asyncio.gather(*(add(store) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(one, tuple) for one in done) == 1
    assert sum(isinstance(one, Conflict) for one in done) == 9


@pytest.mark.parametrize(
    ("held", "wanted", "covers"),
    [
        ("archive:ticket", "archive:ticket", True),
        ("archive:ticket", "archive:other", False),
        ("archive:*", "archive:ticket", True),
        ("archive:*", "archive:ticket:x", True),
        ("archive:*", "archive", False),
        ("*", "archive:ticket", True),
        ("*", "admin", True),
        ("pipe:*:node", "pipe:call:node", True),
        ("pipe:*:node", "pipe:call:other", False),
        ("pipe:call", "pipe:call:node", False),
        ("pipe:call:node", "pipe:call", False),
        ("pipe:call:*", "pipe:call:a:b", True),
        ("admin", "archive:ticket", False),
        ("", "archive:ticket", False),
        ("archive:tick*", "archive:ticket", False),
        ("ARCHIVE:ticket", "archive:ticket", False),
        ("archive:ticket", "archive:*", False),
    ],
)
def test_scopes_cover_segment_by_segment(held: str, wanted: str, *, covers: bool) -> None:
    assert scope_covers(held, wanted) == covers


def test_new_clients_get_every_scope_but_admin_and_those_that_are_special() -> None:
    known, granted = grantable(
        [
            ("archive:ticket", True),
            ("pipe:call:{node}", True),
            ("pipe:connect", False),
            ("admin", True),
            ("core:metrics", True),
        ]
    )
    assert known == {"admin", "core:metrics", "archive:ticket", "pipe:call:*", "pipe:connect"}
    assert granted == {"archive:ticket", "pipe:call:*"}


def test_the_anonymous_client_may_do_nothing() -> None:
    assert Client.ANONYMOUS.anonymous
    assert not Client.ANONYMOUS.allows("archive:ticket")
    assert not Client("a" * 32, "x").anonymous
