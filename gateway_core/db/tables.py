"""The core's tables. Times are Unix seconds by the database's clock; a plugin's tables are in its own package."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, String, Table, Text

NAMING_CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Names for every constraint: Alembic can only alter on SQLite what has a name. Plugins use it for their MetaData."""

metadata = MetaData(naming_convention=NAMING_CONVENTION)

clients = Table(
    "clients",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("secret_encrypted", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("last_used", Double),
    Column("revoked", Double),
)
"""Who may use the gateway. ``scopes`` is a JSON list; a revoked client keeps its row and gives its name free.

The index ``uq_clients_name``, unique over names that are not revoked, stands in the migration alone: describing a
partial index here would load both databases' dialects into every process.
"""

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""Facts about this database, such as the fingerprint of the secret key."""

leases = Table(
    "leases",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("until", Double, nullable=False),
)
"""Who may do what only one process does at a time. Rows stay, because ``token`` must never go back."""

wakeups = Table(
    "wakeups",
    metadata,
    Column("topic", String(255), primary_key=True),
    Column("counter", BigInteger, nullable=False),
    Column("changed", Double, nullable=False, index=True),
)
"""Signals between processes that share no Redis."""

idempotency = Table(
    "idempotency",
    metadata,
    Column("client_id", String(32), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("token", String(32), nullable=False),
    Column("response", Text),
    Column("expires", Double, nullable=False, index=True),
)
"""Requests that must not be done twice. ``response`` is null while the first one is under way."""

outbox = Table(
    "outbox",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("topic", String(64), nullable=False),
    Column("payload", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("next_at", Double, nullable=False),
    Column("created", Double, nullable=False),
    Column("finished", Double, index=True),
    Column("error", Text),
)
"""Things to do after a commit. ``finished`` with an ``error`` is dead, without one it is done.

``next_at`` is both when to try and, once claimed, until when the claim holds; ``attempt`` is the claim's fencing token.
"""

Index("ix_outbox_due", outbox.c.topic, outbox.c.finished, outbox.c.next_at)
