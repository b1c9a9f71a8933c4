"""Metrics of durable calls."""

from __future__ import annotations

from prometheus_client import Counter

ENDED = Counter("gateway_pipe_durable_calls_total", "Durable calls that have ended, done or expired", ["outcome"])
