"""Tables of the archive plugin. Times are Unix seconds by the database's clock."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, MetaData, String, Table, Text

from gateway_core.db.tables import NAMING_CONVENTION

metadata = MetaData(naming_convention=NAMING_CONVENTION)

tickets = Table(
    "archive_tickets",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("client_id", String(32), nullable=False, index=True),
    Column("type", String(8), nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False, index=True),
    Column("options", Text, nullable=False),
    Column("items", Text, nullable=False),
)
"""``items`` is encrypted: URLs and headers carry the tokens of those who made the ticket. Rows go when they expire."""

turns = Table(
    "archive_turns",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("ticket_id", String(36), nullable=False, index=True),
    Column("number", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("holder", String(96), nullable=False),
    Column("until", Double, nullable=False, index=True),
)
"""The queue: who waits, whose turn it is, who downloads. A row whose ``until`` has passed counts no more."""
