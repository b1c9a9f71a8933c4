"""Tickets and turns."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "archive_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "archive_tickets",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("client_id", sa.String(32), nullable=False),
        sa.Column("type", sa.String(8), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("items", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_archive_tickets"),
    )
    op.create_index("ix_archive_tickets_client_id", "archive_tickets", ["client_id"])
    op.create_index("ix_archive_tickets_expires", "archive_tickets", ["expires"])
    op.create_table(
        "archive_turns",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("ticket_id", sa.String(36), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("holder", sa.String(96), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_archive_turns"),
    )
    op.create_index("ix_archive_turns_ticket_id", "archive_turns", ["ticket_id"])
    op.create_index("ix_archive_turns_until", "archive_turns", ["until"])


def downgrade() -> None:
    op.drop_table("archive_turns")
    op.drop_table("archive_tickets")
