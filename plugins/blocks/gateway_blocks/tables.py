"""Tables of the blocks plugin. Times are Unix seconds by the database's clock."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Integer, LargeBinary, MetaData, String, Table, Text

from gateway_core.db.tables import NAMING_CONVENTION

metadata = MetaData(naming_convention=NAMING_CONVENTION)

files = Table(
    "blocks_files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("place", String(64), nullable=False, index=True),
    Column("host", String(255), nullable=False),
    Column("root", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("identity", String(128), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("block_bytes", BigInteger, nullable=False),
    Column("sha1", LargeBinary(20), nullable=True),
    Column("sha256", LargeBinary(32), nullable=True),
    Column("used", Double, nullable=False, index=True),
)
"""One version of a file, cut into blocks of one size.

``place`` is the SHA-256 of host, root, path and block size, ``id`` that of place and identity: a changed file is
another row. ``sha1`` and ``sha256`` are of the whole file, null until known. ``used`` is when it was last asked for.
"""

segments = Table(
    "blocks_segments",
    metadata,
    Column("file_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("known", LargeBinary(64), nullable=False),
    Column("digests", LargeBinary(10240), nullable=False),
)
"""SHA-1 of 512 blocks in order, 20 bytes each; bit ``i % 8`` of byte ``i // 8`` of ``known`` says which are there.

A file's last segment ends with its last block.
"""
