"""The notes of the seam plugin."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "seam_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("seam_notes", sa.Column("text", sa.String(64), nullable=False, primary_key=True))


def downgrade() -> None:
    op.drop_table("seam_notes")
