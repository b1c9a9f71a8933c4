"""Metrics of nodes and of calls to them."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 20, 60, 300)

NODES = Gauge("gateway_pipe_nodes", "Nodes connected to this gateway", multiprocess_mode="livesum")
STREAMS = Gauge("gateway_pipe_streams", "Exchanges under way over all links", multiprocess_mode="livesum")
WAITING = Gauge("gateway_pipe_waiting_calls", "Calls that wait for a node to come back", multiprocess_mode="livesum")
CALLS = Counter("gateway_pipe_calls_total", "Calls of nodes that have ended", ["outcome"])
CALL_SECONDS = Histogram("gateway_pipe_call_seconds", "From a call to the begin of its answer", buckets=_BUCKETS)
LINKS_DROPPED = Counter("gateway_pipe_links_dropped_total", "Links that have ended", ["reason"])
REFUSED = Counter("gateway_pipe_connections_refused_total", "Nodes told to come again later, for too many at once")


@lru_cache(maxsize=32)
def calls_of(outcome: str) -> Counter:
    """The series of an outcome: finding it by its label costs more than counting."""
    return CALLS.labels(outcome)
