"""Tables of the pipe plugin. Times are Unix seconds by the database's clock."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from gateway_core.db.tables import NAMING_CONVENTION

metadata = MetaData(naming_convention=NAMING_CONVENTION)

nodes = Table(
    "pipe_nodes",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("first_seen", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    Column("version", String(64), nullable=False),
)
"""Every node that was ever connected. ``epoch`` grows with each connection: the highest is the node's only valid one.

``last_seen`` is when its last connection was made or ended.
"""

authorities = Table(
    "pipe_authorities",
    metadata,
    Column("purpose", String(16), primary_key=True),
    Column("certificate", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("created", Double, nullable=False),
)
"""Built-in certificate authorities: ``nodes`` and ``peers``. ``certificate`` is PEM, ``key`` encrypted."""

invites = Table(
    "pipe_invites",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False, index=True),
    Column("used", Double, nullable=True),
)
"""One-time tokens. A used one stays until it would have expired, so that a second try can be told why."""

certificates = Table(
    "pipe_certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("name", String(128), nullable=False, index=True),
    Column("issued", Double, nullable=False),
    Column("expires", Double, nullable=False, index=True),
)
"""What the built-in authority signed for nodes; ``serial`` in hexadecimal."""

revocations = Table(
    "pipe_revocations",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("revoked", Double, nullable=False),
    Column("lifted", Double, nullable=True),
)
"""Names that may not connect. A new invite lifts it for certificates issued after ``revoked``: ``lifted`` is when."""

calls = Table(
    "pipe_calls",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("client_id", String(32), nullable=False),
    Column("node", String(128), nullable=False),
    Column("state", String(10), nullable=False),
    Column("opening", Text, nullable=False),
    Column("body", LargeBinary, nullable=True),
    Column("body_key", String(128), nullable=False),
    Column("body_bytes", BigInteger, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("idempotency_key", String(255), nullable=True),
    Column("attempts", Integer, nullable=False),
    Column("created", Double, nullable=False),
    Column("deadline", Double, nullable=False),
    Column("ended", Double, nullable=True),
    Column("expires", Double, nullable=True, index=True),
    Column("head", Text, nullable=False),
    Column("result", LargeBinary, nullable=True),
    Column("result_key", String(128), nullable=False),
    Column("result_bytes", BigInteger, nullable=False),
    UniqueConstraint("client_id", "idempotency_key"),
    Index("ix_pipe_calls_node", "node", "state", "seq"),
    Index("ix_pipe_calls_deadline", "state", "deadline"),
)
"""Durable calls; ``seq`` is the order in which a node gets them.

``state`` is waiting, done or expired; ``deadline`` the end of its TTL, ``expires`` when a final one is forgotten.
``opening`` and ``head`` are JSON as on the link. Small bodies stand in the row, large ones in the storage under
``body_key`` and ``result_key``. ``fingerprint`` is the SHA-256 of what was asked, for the same key with another body.
"""
