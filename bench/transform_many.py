"""Many clients at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median, quantiles

from process import wait_until_idle
from report import Summary
from transform_client import JobClient, noop_archive, prove
from transform_servers import WORKERS, JobServer, running
from workload import Goal, Rounds, Workload, turns

Ask = Callable[[JobClient, bytes], bytes]
"""Has a job done; its result."""

CLIENTS = 8
LIMIT_S = 0.095
"""What Circe takes for one client alone that asks for its result."""


def _run(home: Path, sides: Sequence[str], rounds: int, *, jobs: int, ask: Ask) -> Rounds:
    """So many jobs, each from its first request until its result is there."""
    rows: Rounds = {side: [] for side in sides}
    with running(home, sides) as servers:
        for side in turns(sides, rounds):
            wait_until_idle(servers)
            rows[side].append(measure(servers[side], jobs, ask))
    return rows


def measure(server: JobServer, jobs: int, ask: Ask) -> Summary:
    """The first job is not measured: Circe's workers look for jobs the more rarely the longer there was none."""
    archive = noop_archive()
    prove(ask(server.client, archive))

    def timed(archive: bytes) -> tuple[float, bytes]:
        clock = time.perf_counter()
        result = ask(server.client, archive)
        return time.perf_counter() - clock, result

    cpu_before, clock = server.cpu_s(), time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        done = list(clients.map(timed, repeat(archive, jobs)))
    total_s = time.perf_counter() - clock
    cpu_s = server.cpu_s() - cpu_before
    for _, result in done:
        prove(result)
    times_s = [time_s for time_s, _ in done]
    return {
        "p50_s": median(times_s),
        "p95_s": quantiles(times_s, n=20)[-1],
        "speed": jobs / total_s,
        "cpu_s": cpu_s / jobs,
    }


def _workload(name: str, how: str, *, jobs: int, ask: Ask, goals: tuple[Goal, ...]) -> Workload[Path]:
    return Workload(
        name=name,
        title=f"{jobs} jobs that do nothing, {CLIENTS} clients, {how}; {WORKERS} workers (gateway: in sandboxes)",
        sides=("gateway", "circe"),
        columns=(
            ("p50 ms", "p50_s", 1000, 1),
            ("p95 ms", "p95_s", 1000, 1),
            ("jobs/s", "speed", 1, 1),
            ("cpu ms / job", "cpu_s", 1000, 1),
        ),
        goals=(*goals, Goal("gateway", "speed", "circe", at_least=3)),
        run=partial(_run, jobs=jobs, ask=ask),
    )


POLLED = _workload(
    "noop-async",
    "asked for every 5 ms",
    jobs=100,
    ask=JobClient.polled_job,
    goals=(Goal("gateway", "p50_s", "circe", at_most=1), Goal("gateway", "p50_s", at_most=LIMIT_S)),
)
WAITED_FOR = _workload("noop-block-8", "waited for in their requests", jobs=40, ask=JobClient.job, goals=())
