"""Metrics of jobs."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800)

JOBS = Counter("gateway_transform_jobs_total", "Jobs that have ended", ["state", "code"])
RUN_SECONDS = Histogram("gateway_transform_run_seconds", "From the begin of an attempt to its end", buckets=_BUCKETS)
QUEUED_SECONDS = Histogram("gateway_transform_queued_seconds", "What a job waited before an attempt", buckets=_BUCKETS)
RUNNING = Gauge("gateway_transform_running", "Jobs being run", multiprocess_mode="livesum")
LEASES_LOST = Counter("gateway_transform_leases_lost_total", "Attempts whose result was thrown away as another has it")
