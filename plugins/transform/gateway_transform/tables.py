"""Tables of the transform plugin. Times are Unix seconds by the database's clock."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, String, Table, Text

from gateway_core.db.tables import NAMING_CONVENTION

metadata = MetaData(naming_convention=NAMING_CONVENTION)

jobs = Table(
    "transform_jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("client_id", String(32), nullable=False),
    Column("state", String(10), nullable=False),
    Column("created", Double, nullable=False),
    Column("queued", Double, nullable=False),
    Column("started", Double, nullable=True),
    Column("ended", Double, nullable=True),
    Column("expires", Double, nullable=True, index=True),
    Column("attempt", Integer, nullable=False),
    Column("worker", String(64), nullable=False),
    Column("token", String(32), nullable=False),
    Column("lease_until", Double, nullable=True),
    Column("cancelling", Boolean, nullable=False),
    Column("input_key", String(128), nullable=False),
    Column("input_sha256", String(64), nullable=False),
    Column("input_bytes", BigInteger, nullable=False),
    Column("result_key", String(128), nullable=False),
    Column("result_sha256", String(64), nullable=False),
    Column("result_bytes", BigInteger, nullable=False),
    Column("step", String(200), nullable=False),
    Column("steps", Text, nullable=False),
    Column("queued_ms", BigInteger, nullable=False),
    Column("run_ms", BigInteger, nullable=False),
    Column("error_code", String(32), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("error_step", String(200), nullable=False),
    Column("log", Text, nullable=False),
    Column("cache_key", String(64), nullable=False),
    Column("hook", Text, nullable=False),
    Column("hook_form", String(16), nullable=False),
    Index("ix_transform_jobs_state", "state", "cancelling", "client_id", "created"),
    Index("ix_transform_jobs_client", "client_id", "state", "started"),
    Index("ix_transform_jobs_cache", "client_id", "cache_key"),
)
"""One job. Texts are empty and numbers 0 until known.

``queued`` is when it last began to wait, ``started`` when its last attempt began. While ``state`` is running, ``token``
is the attempt's fencing token and ``lease_until`` when it counts as lost. ``steps`` is JSON, a list as in status.json.
``cancelling`` means that nothing more is to be run of it; while such a job waits, ``error_code`` says what it is to be
published as, empty for cancelled. ``expires`` is when retention deals with it next: a result is then deleted, the row
of an expired job goes. ``log`` is the end of out.log as the last heartbeat saw it. ``hook`` is encrypted: its URL
may carry a secret.
"""

deliveries = Table(
    "transform_deliveries",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("job_id", String(32), nullable=False, index=True),
    Column("at", Double, nullable=False, index=True),
    Column("try_number", Integer, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("status", Integer, nullable=True),
    Column("detail", Text, nullable=False),
    Column("took_ms", Integer, nullable=False),
)
"""The delivery log: one row for each try. ``outcome`` is delivered, failed, refused or given_up."""
