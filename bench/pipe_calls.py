"""Small calls to a program elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipe_servers import running
from process import wait_until_idle
from workload import Goal, Rounds, Workload, turns

SECONDS = 4
COLUMNS = (
    ("calls/s", "speed", 1, 0),
    ("p50 ms", "p50_s", 1000, 2),
    ("p99 ms", "p99_s", 1000, 2),
    ("cpu us / call", "cpu_us", 1, 0),
)
PARALLEL = 32


def _run(home: Path, sides: Sequence[str], rounds: int, *, parallel: int) -> Rounds:
    rows: Rounds = {side: [] for side in sides}
    with running(home, sides) as servers:
        for server in servers.values():
            server.load(parallel=parallel, seconds=1)
        for side in turns(sides, rounds):
            wait_until_idle(servers)
            rows[side].append(servers[side].load(parallel=parallel, seconds=SECONDS))
    return rows


ONE = Workload(
    name="call",
    title="Small calls one after another; cpu of server and node together",
    sides=("gateway", "gateway-mtls", "proxy", "nats"),
    columns=COLUMNS,
    goals=(
        Goal("gateway", "p50_s", at_most=0.002),
        Goal("gateway-mtls", "p50_s", at_most=0.002),
        Goal("gateway", "p50_s", "nats"),
    ),
    run=partial(_run, parallel=1),
)
MANY = Workload(
    name="calls",
    title=f"Small calls, {PARALLEL} at once; cpu of server and node together",
    sides=("gateway", "gateway-mtls", "proxy", "nats"),
    columns=COLUMNS,
    goals=(
        Goal("gateway", "speed", at_least=5000),
        Goal("gateway", "speed", "proxy", at_least=2),
        Goal("gateway", "speed", "nats"),
    ),
    run=partial(_run, parallel=PARALLEL),
)
