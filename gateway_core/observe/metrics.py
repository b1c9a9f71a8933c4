"""Metrics in Prometheus form, right with several worker processes."""

from __future__ import annotations

import os
from functools import lru_cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

# They double the number of series, and nobody reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = CONTENT_TYPE_LATEST
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"

REQUESTS = Counter("gateway_requests_total", "Answered requests", ["route", "method", "status"])
REQUEST_SECONDS = Histogram(
    "gateway_request_seconds",
    "Time from request to end of answer",
    ["route"],
    buckets=(0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600, 3600),
)
IN_PROGRESS = Gauge("gateway_requests_in_progress", "Requests being answered", multiprocess_mode="livesum")
CLIENTS_GONE = Counter("gateway_clients_gone_total", "Answers that ended because the client went away", ["route"])
ERRORS = Counter("gateway_errors_total", "Requests that ended in an unexpected error", ["route"])


def count_request(route: str, method: str, status: int, *, seconds: float) -> None:
    """One answered request."""
    requests, durations = _children(route, method, status)
    requests.inc()
    durations.observe(seconds)


@lru_cache(maxsize=4096)
def _children(route: str, method: str, status: int) -> tuple[Counter, Histogram]:
    """The series of a request: finding them by their labels costs more than counting."""
    return REQUESTS.labels(route, method, status), REQUEST_SECONDS.labels(route)


def render() -> bytes:
    """The text form of all metrics, of all worker processes when there are several."""
    if MULTIPROCESS_DIR not in os.environ:
        return generate_latest(REGISTRY)
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
