"""Tables of the archive plugin. Times are Unix seconds by the database's clock."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Integer, LargeBinary, MetaData, String, Table, Text

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

layouts = Table(
    "archive_layouts",
    metadata,
    Column("ticket_id", String(36), primary_key=True),
    Column("format", String(8), primary_key=True),
    Column("etag", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("stale", Text, nullable=False),
    Column("frozen", LargeBinary, nullable=False),
)
"""What a ticket's archive was frozen to. ``frozen`` is encrypted; ``stale`` is a JSON list of items to be asked again.

``generation`` counts from 1; above it the bytes of an earlier one may be in some client's hands.
"""

responses = Table(
    "archive_responses",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("ticket_id", String(36), nullable=False, index=True),
    Column("etag", String(64), nullable=False),
    Column("instance", String(96), nullable=False),
    Column("began", Double, nullable=False),
    Column("updated", Double, nullable=False, index=True),
    Column("state", String(12), nullable=False),
    Column("spans", Text, nullable=False),
    Column("sent", BigInteger, nullable=False),
    Column("total", BigInteger),
    Column("entry", Text, nullable=False),
    Column("failures", Integer, nullable=False),
)
"""Answers to requests for a ticket's download, while they run and after. ``etag`` is of the layout, empty for none.

``spans`` is a JSON list of ``[first, end]`` in the archive that were sent; ``updated`` tells whether it still runs.
"""

segments = Table(
    "archive_segments",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("ticket_id", String(36), nullable=False, index=True),
    Column("etag", String(64), nullable=False),
    Column("updated", Double, nullable=False),
    Column("packed", LargeBinary, nullable=False),
)
"""CRC-32s of source bytes that went through, packed many to a row; ``etag`` is of the layout they belong to."""

losses = Table(
    "archive_losses",
    metadata,
    Column("ticket_id", String(36), primary_key=True),
    Column("etag", String(64), primary_key=True),
    Column("entry", Integer, primary_key=True),
    Column("failure", LargeBinary, nullable=False),
)
"""Entries that failed on the way and were filled up: part of no directory from then on. ``failure`` is encrypted."""

learned = Table(
    "archive_learned",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("crc32", BigInteger, nullable=False),
    Column("used", Double, nullable=False, index=True),
)
"""CRC-32 of files that went through whole; ``key`` is a hash of URL, validator, size and maybe the client."""
