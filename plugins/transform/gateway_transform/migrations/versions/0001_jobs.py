"""Jobs, and the log of webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "transform_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "transform_jobs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("client_id", sa.String(32), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("queued", sa.Double(), nullable=False),
        sa.Column("started", sa.Double(), nullable=True),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("expires", sa.Double(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(64), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("cancelling", sa.Boolean(), nullable=False),
        sa.Column("input_key", sa.String(128), nullable=False),
        sa.Column("input_sha256", sa.String(64), nullable=False),
        sa.Column("input_bytes", sa.BigInteger(), nullable=False),
        sa.Column("result_key", sa.String(128), nullable=False),
        sa.Column("result_sha256", sa.String(64), nullable=False),
        sa.Column("result_bytes", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.String(200), nullable=False),
        sa.Column("steps", sa.Text(), nullable=False),
        sa.Column("queued_ms", sa.BigInteger(), nullable=False),
        sa.Column("run_ms", sa.BigInteger(), nullable=False),
        sa.Column("error_code", sa.String(32), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=False),
        sa.Column("error_step", sa.String(200), nullable=False),
        sa.Column("log", sa.Text(), nullable=False),
        sa.Column("cache_key", sa.String(64), nullable=False),
        sa.Column("hook", sa.Text(), nullable=False),
        sa.Column("hook_form", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_transform_jobs"),
    )
    op.create_index("ix_transform_jobs_expires", "transform_jobs", ["expires"])
    op.create_index("ix_transform_jobs_state", "transform_jobs", ["state", "cancelling", "client_id", "created"])
    op.create_index("ix_transform_jobs_client", "transform_jobs", ["client_id", "state", "started"])
    op.create_index("ix_transform_jobs_cache", "transform_jobs", ["client_id", "cache_key"])
    op.create_table(
        "transform_deliveries",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("took_ms", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_transform_deliveries"),
    )
    op.create_index("ix_transform_deliveries_job_id", "transform_deliveries", ["job_id"])
    op.create_index("ix_transform_deliveries_at", "transform_deliveries", ["at"])


def downgrade() -> None:
    op.drop_table("transform_deliveries")
    op.drop_table("transform_jobs")
