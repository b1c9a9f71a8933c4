"""Clients in the database: made, found, changed; looked-up ones are remembered for a second."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from gateway_core.auth import secrets
from gateway_core.auth.client import Client
from gateway_core.auth.keyring import Keyring
from gateway_core.db.engine import Database
from gateway_core.db.tables import clients, meta
from gateway_core.db.wakeups import Wakeups
from gateway_core.errors import Conflict, NotFound, StartupError
from gateway_core.observe.logs import get_logger

TOPIC = "core.clients"
CACHE_S = 1.0
CACHE_SIZE = 4096
NAME_LENGTH = 255
TOUCH_INTERVAL_S = 60.0
CORE_SCOPES = frozenset({"admin", "core:metrics"})
"""Known whatever the routes ask for, and never given unless named."""
ALIVE = clients.c.revoked == sa.null()

log = get_logger("gateway.auth")


@dataclass(frozen=True, slots=True)
class NewClient:
    """What a client is made of; ``id`` and ``secret`` are given for imported ones, else random."""

    name: str
    scopes: frozenset[str]
    expires: float | None = None
    id: str | None = None
    secret: str | None = None


class ClientStore:
    """All clients. Secrets are kept as SHA-256 for look-up and encrypted for schemes that need the plain value."""

    def __init__(self, db: Database, keyring: Keyring, wakeups: Wakeups) -> None:
        self._db, self._keyring, self._wakeups = db, keyring, wakeups
        self._cache: OrderedDict[str, tuple[float, Client | None]] = OrderedDict()
        self._secrets: dict[str, tuple[float, str]] = {}
        self._touched: dict[str, float] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def by_secret(self, secret: str) -> Client | None:
        """The client with that secret, None when there is none or it has expired."""
        if len(secret) > secrets.LONGEST or not secret.isascii():
            return None
        hashed = secrets.digest(secret)
        if f"secret/{hashed}" not in self._cache and not secrets.plausible(secret):
            return None
        return await self._cached("secret", hashed)

    async def find(self, name_or_id: str) -> Client | None:
        """The client with that name, else with that id (dashes allowed), None when there is none or it has expired."""
        if not _presentable(name_or_id):
            return None
        by_name = await self._cached("name", name_or_id)
        if by_name is not None:
            return by_name
        plain = name_or_id.replace("-", "").lower()
        return await self._cached("id", plain)

    async def existing(self, name_or_id: str) -> Client:
        """The client with that name, else with that id, expired or not; raises NotFound. Does not count as its use."""
        plain = name_or_id.replace("-", "").lower()
        query = sa.select(clients).where(sa.or_(clients.c.name == name_or_id, clients.c.id == plain), ALIVE)
        rows: Sequence[Any] = ()
        if _presentable(name_or_id):
            async with self._db.read() as tx:
                rows = await tx.rows(query)
        if not rows:
            raise NotFound(f"no client {name_or_id[:40]!r}")
        return _client(next((row for row in rows if row.name == name_or_id), rows[0]))

    async def secret_of(self, client_id: str) -> str:
        """The plain secret, for HMAC and JWT schemes; raises NotFound."""
        now = time.monotonic()
        known = self._secrets.get(client_id)
        if known is not None and known[0] >= now:
            return known[1]
        async with self._db.read() as tx:
            token = await tx.scalar(_SECRET_OF, {"wanted": client_id})
        if token is None:
            raise NotFound(f"no client {client_id}")
        secret = self._keyring.decrypt(token.encode()).decode()
        if len(self._secrets) >= CACHE_SIZE:
            self._secrets.clear()
        self._secrets[client_id] = (now + CACHE_S, secret)
        return secret

    async def add(self, new: NewClient) -> tuple[Client, str]:
        """Make a client; returns it with its plain secret.

        Raises Conflict when name, id or secret is taken or cannot be one.
        """
        secret = new.secret if new.secret is not None else secrets.new_secret()
        if not _presentable(new.name):
            raise Conflict(f"client {new.name[:40]!r}: a client's name has 1 to {NAME_LENGTH} printable characters")
        if not secrets.plausible(secret):
            raise Conflict(f"client {new.name}: a secret has 1 to 512 visible ASCII characters")
        client = Client(
            id=new.id or uuid.uuid4().hex,
            name=new.name,
            scopes=new.scopes,
            created=time.time(),
            expires=new.expires,
        )
        row = {
            "id": client.id,
            "name": client.name,
            "scopes": json.dumps(sorted(client.scopes)),
            "created": client.created,
            "expires": client.expires,
            **self._secret_columns(secret),
        }
        try:
            async with self._db.write() as tx:
                await tx.execute(sa.insert(clients).values(row))
        except sa.exc.IntegrityError as exc:
            raise Conflict(f"client {new.name}: name, id or secret is already taken") from exc
        self._forget()
        return client, secret

    async def list(self) -> list[Client]:
        """All clients by name, expired ones too."""
        async with self._db.read() as tx:
            rows = await tx.rows(sa.select(clients).where(ALIVE).order_by(clients.c.name))
        return [_client(row) for row in rows]

    async def revoke(self, name: str) -> Client:
        """Shut out the client of that name or id at once, and free its name; raises NotFound."""
        client = await self.existing(name)
        async with self._db.write() as tx:
            await tx.execute(sa.update(clients).where(clients.c.id == client.id).values(revoked=self._db.now()))
        self._forget()
        return client

    async def rotate(self, name: str) -> tuple[Client, str]:
        """Give the client of that name or id a new secret; the old one stops at once. Raises NotFound."""
        client = await self.existing(name)
        secret = secrets.new_secret()
        async with self._db.write() as tx:
            await tx.execute(sa.update(clients).where(clients.c.id == client.id).values(self._secret_columns(secret)))
        self._forget()
        return client, secret

    async def watch(self) -> None:
        """Drop remembered clients whenever another process changes one; runs until cancelled."""
        with self._wakeups.subscribe(TOPIC) as changes:
            while True:
                if await changes.wait(60.0):
                    self._clear()

    async def close(self) -> None:
        """Wait for what is being written about ``last_used``."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=5)

    async def check_keys(self) -> None:
        """Compare the keys with those the database was filled under; re-encrypt when a new first key came in.

        Raises StartupError when none of the keys is the one in use.
        """
        key = "secret_key_fingerprint"
        async with self._db.read() as tx:
            known = await tx.scalar(sa.select(meta.c.value).where(meta.c.key == key))
        current = self._keyring.fingerprints[0]
        if known is not None and known not in self._keyring.fingerprints:
            raise StartupError("SECRET_KEY is not the key of this database; add the old key behind the new one")
        if known == current:
            return
        async with self._db.write() as tx:
            for row in await tx.rows(sa.select(clients.c.id, clients.c.secret_encrypted)):
                renewed = self._keyring.rotate(row.secret_encrypted.encode()).decode()
                await tx.execute(sa.update(clients).where(clients.c.id == row.id).values(secret_encrypted=renewed))
            put = self._db.insert(meta).values(key=key, value=current)
            await tx.execute(put.on_conflict_do_update(index_elements=[meta.c.key], set_={"value": current}))

    async def _cached(self, by: str, value: str) -> Client | None:
        now, key = time.monotonic(), f"{by}/{value}"
        known = self._cache.get(key)
        if known is None or known[0] < now:
            async with self._db.read() as tx:
                row = await tx.first(_CLIENT_BY[by], {"wanted": value})
            known = (now + CACHE_S, None if row is None else _client(row))
            self._cache[key] = known
            self._cache.move_to_end(key)
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
        client = known[1]
        if client is None or (client.expires is not None and client.expires <= time.time()):
            return None
        self._touch(client.id, now)
        return client

    def _touch(self, client_id: str, now: float) -> None:
        """Write ``last_used``, once a minute at most, beside the request."""
        if now - self._touched.get(client_id, -TOUCH_INTERVAL_S) < TOUCH_INTERVAL_S:
            return
        self._touched[client_id] = now
        task = asyncio.get_running_loop().create_task(self._write_last_used(client_id))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write_last_used(self, client_id: str) -> None:
        try:
            async with self._db.write() as tx:
                await tx.execute(sa.update(clients).where(clients.c.id == client_id).values(last_used=time.time()))
        except Exception as exc:  # noqa: BLE001 - a supervisor's border: the request must not fail for this
            log.warning("last_used was not written", client=client_id, error=repr(exc))

    def _secret_columns(self, secret: str) -> dict[str, Any]:
        return {
            "secret_sha256": secrets.digest(secret),
            "secret_encrypted": self._keyring.encrypt(secret.encode()).decode(),
        }

    def _clear(self) -> None:
        self._cache.clear()
        self._secrets.clear()

    def _forget(self) -> None:
        self._clear()
        self._wakeups.publish(TOPIC)


_CLIENT_BY = {
    by: sa.select(clients).where(column == sa.bindparam("wanted"), ALIVE)
    for by, column in (("secret", clients.c.secret_sha256), ("name", clients.c.name), ("id", clients.c.id))
}
"""Asked with many requests: making a statement takes longer than running it."""
_SECRET_OF = sa.select(clients.c.secret_encrypted).where(clients.c.id == sa.bindparam("wanted"), ALIVE)


def _presentable(name: str) -> bool:
    """Whether a client may be called so; other texts are not looked for, since databases fail on some of them."""
    return 0 < len(name) <= NAME_LENGTH and name.isprintable()


def _client(row: Any) -> Client:
    return Client(
        id=row.id,
        name=row.name,
        scopes=frozenset(json.loads(row.scopes)),
        created=row.created,
        expires=row.expires,
        last_used=row.last_used,
    )


def grantable(scopes: Iterable[tuple[str, bool]]) -> tuple[frozenset[str], frozenset[str]]:
    """(all known scopes, those a new client gets) from routes' (scope template, grant) pairs; ``{x}`` becomes ``*``."""
    known, granted = set(CORE_SCOPES), set()
    for template, grant in scopes:
        scope = ":".join("*" if part.startswith("{") else part for part in template.split(":"))
        known.add(scope)
        if grant and scope not in CORE_SCOPES:
            granted.add(scope)
    return frozenset(known), frozenset(granted)
