"""One job after another, each waited for in its request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from process import wait_until_idle
from report import Summary
from transform_client import noop_archive, prove
from transform_servers import JobServer, running
from workload import Goal, Rounds, Workload, turns

SECONDS = 4
LEAST_JOBS = 3
LIMIT_S = 0.025


def run(home: Path, sides: Sequence[str], rounds: int) -> Rounds:
    """As many jobs as can be done in four seconds."""
    rows: Rounds = {side: [] for side in sides}
    with running(home, sides) as servers:
        for side in turns(sides, rounds):
            wait_until_idle(servers)
            rows[side].append(measure(servers[side]))
    return rows


def measure(server: JobServer) -> Summary:
    """The first job is not measured: Circe's workers look for jobs the more rarely the longer there was none."""
    archive = noop_archive()
    prove(server.client.job(archive))
    cpu_before, clock = server.cpu_s(), time.perf_counter()
    results: list[bytes] = []
    moments = [clock]
    while len(results) < LEAST_JOBS or moments[-1] < clock + SECONDS:
        results.append(server.client.job(archive))
        moments.append(time.perf_counter())
    cpu_s = server.cpu_s() - cpu_before
    for result in results:
        prove(result)
    times_s = [after - before for before, after in pairwise(moments)]
    return {"p50_s": median(times_s), "max_s": max(times_s), "cpu_s": cpu_s / len(results)}


WORKLOAD = Workload(
    name="noop-block",
    title="A job that does nothing, waited for in its request, one client (gateway: in a sandbox of namespaces)",
    sides=("gateway", "circe"),
    columns=(("p50 ms", "p50_s", 1000, 1), ("max ms", "max_s", 1000, 1), ("cpu ms / job", "cpu_s", 1000, 1)),
    goals=(Goal("gateway", "p50_s", at_most=LIMIT_S), Goal("gateway", "p50_s", "circe", at_most=1)),
    run=run,
)
