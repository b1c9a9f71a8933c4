"""Versions of files and the checksums of their blocks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "blocks_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blocks_files",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("place", sa.String(64), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("root", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("identity", sa.String(128), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("block_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha1", sa.LargeBinary(20), nullable=True),
        sa.Column("sha256", sa.LargeBinary(32), nullable=True),
        sa.Column("used", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_blocks_files"),
    )
    op.create_index("ix_blocks_files_place", "blocks_files", ["place"])
    op.create_index("ix_blocks_files_used", "blocks_files", ["used"])
    op.create_table(
        "blocks_segments",
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("known", sa.LargeBinary(64), nullable=False),
        sa.Column("digests", sa.LargeBinary(10240), nullable=False),
        sa.PrimaryKeyConstraint("file_id", "number", name="pk_blocks_segments"),
    )


def downgrade() -> None:
    op.drop_table("blocks_segments")
    op.drop_table("blocks_files")
