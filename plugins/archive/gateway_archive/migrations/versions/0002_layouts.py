"""Layouts, responses, segments, losses, and what was learned of files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "archive_0002"
down_revision = "archive_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "archive_layouts",
        sa.Column("ticket_id", sa.String(36), nullable=False),
        sa.Column("format", sa.String(8), nullable=False),
        sa.Column("etag", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("stale", sa.Text(), nullable=False),
        sa.Column("frozen", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("ticket_id", "format", name="pk_archive_layouts"),
    )
    op.create_table(
        "archive_responses",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("ticket_id", sa.String(36), nullable=False),
        sa.Column("etag", sa.String(64), nullable=False),
        sa.Column("instance", sa.String(96), nullable=False),
        sa.Column("began", sa.Double(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("spans", sa.Text(), nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_archive_responses"),
    )
    op.create_index("ix_archive_responses_ticket_id", "archive_responses", ["ticket_id"])
    op.create_index("ix_archive_responses_updated", "archive_responses", ["updated"])
    op.create_table(
        "archive_segments",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("ticket_id", sa.String(36), nullable=False),
        sa.Column("etag", sa.String(64), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_archive_segments"),
    )
    op.create_index("ix_archive_segments_ticket_id", "archive_segments", ["ticket_id"])
    op.create_table(
        "archive_losses",
        sa.Column("ticket_id", sa.String(36), nullable=False),
        sa.Column("etag", sa.String(64), nullable=False),
        sa.Column("entry", sa.Integer(), nullable=False),
        sa.Column("failure", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("ticket_id", "etag", "entry", name="pk_archive_losses"),
    )
    op.create_table(
        "archive_learned",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("crc32", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_archive_learned"),
    )
    op.create_index("ix_archive_learned_used", "archive_learned", ["used"])


def downgrade() -> None:
    op.drop_table("archive_learned")
    op.drop_table("archive_losses")
    op.drop_table("archive_segments")
    op.drop_table("archive_responses")
    op.drop_table("archive_layouts")
