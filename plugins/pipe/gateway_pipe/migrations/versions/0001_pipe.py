"""Nodes, who may be one, and durable calls."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "pipe_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pipe_nodes",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("first_seen", sa.Double(), nullable=False),
        sa.Column("last_seen", sa.Double(), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_pipe_nodes"),
    )
    op.create_table(
        "pipe_authorities",
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("purpose", name="pk_pipe_authorities"),
    )
    op.create_table(
        "pipe_invites",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_pipe_invites"),
    )
    op.create_index("ix_pipe_invites_expires", "pipe_invites", ["expires"])
    op.create_table(
        "pipe_certificates",
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("issued", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("serial", name="pk_pipe_certificates"),
    )
    op.create_index("ix_pipe_certificates_name", "pipe_certificates", ["name"])
    op.create_index("ix_pipe_certificates_expires", "pipe_certificates", ["expires"])
    op.create_table(
        "pipe_revocations",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("revoked", sa.Double(), nullable=False),
        sa.Column("lifted", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_pipe_revocations"),
    )
    op.create_table(
        "pipe_calls",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("client_id", sa.String(32), nullable=False),
        sa.Column("node", sa.String(128), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("opening", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("body_key", sa.String(128), nullable=False),
        sa.Column("body_bytes", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("expires", sa.Double(), nullable=True),
        sa.Column("head", sa.Text(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("result_key", sa.String(128), nullable=False),
        sa.Column("result_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_pipe_calls"),
        sa.UniqueConstraint("id", name="uq_pipe_calls_id"),
        sa.UniqueConstraint("client_id", "idempotency_key", name="uq_pipe_calls_client_id"),
    )
    op.create_index("ix_pipe_calls_expires", "pipe_calls", ["expires"])
    op.create_index("ix_pipe_calls_node", "pipe_calls", ["node", "state", "seq"])
    op.create_index("ix_pipe_calls_deadline", "pipe_calls", ["state", "deadline"])


def downgrade() -> None:
    for table in ("calls", "revocations", "certificates", "invites", "authorities", "nodes"):
        op.drop_table(f"pipe_{table}")
