"""Benchmark of pipe: calls, bodies and links, beside a plain reverse proxy and NATS.

RestPipe is not among the sides: it needs Python 2. Measured with its own parts it takes 0.98 to 1.00 s a call, and does
51 a second with 32 in parallel, because both its ends look for work twice a second.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pipe_bulk
import pipe_calls
import pipe_idle
import pipe_storm
from report import Found
from workload import report

WORKLOADS = {
    workload.name: workload
    for workload in (
        pipe_calls.ONE,
        pipe_calls.MANY,
        pipe_bulk.WORKLOAD,
        pipe_idle.WORKLOAD,
        pipe_storm.WORKLOAD,
    )
}
SIDES = list(dict.fromkeys(side for workload in WORKLOADS.values() for side in workload.sides))


def results(workloads: Sequence[str], sides: Sequence[str], rounds: int) -> Iterator[tuple[str, Found, str]]:
    """Name, figures and table of each workload, as soon as it is done."""
    for name in workloads:
        workload = WORKLOADS[name]
        taking_part = [side for side in workload.sides if side in sides]
        if taking_part:
            print(f"{name}: {', '.join(taking_part)}", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="gateway-bench-") as home:
                yield name, *report(workload, workload.run(Path(home), taking_part, rounds))
