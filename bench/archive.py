"""Benchmark of archive: the gateway, FPX, a plain relay and bare nginx make one download of many files."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from origin import BIG, FIRST, SMALL, Origin, Workload
from process import memory_folder
from reader import read
from report import Found, Summary, summaries, table
from sides import SIDES, Side

WORKLOADS = {workload.name: workload for workload in (BIG, SMALL, FIRST)}


def results(workloads: Sequence[str], sides: Sequence[str], rounds: int) -> Iterator[tuple[str, Found, str]]:
    """Name, figures and table of each workload, as soon as it is done."""
    taking_part = [SIDES[side] for side in sides if side in SIDES]
    if not taking_part:
        return
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-", dir=memory_folder()))
        origin = Origin(Path(home))
        stack.enter_context(origin.running())
        for name in workloads:
            workload = WORKLOADS[name]
            found = run(workload, [side(origin) for side in taking_part], rounds)
            yield name, found, table(workload, found["medians"])


def measure(side: Side, workload: Workload) -> Summary:
    """Seconds to make the ticket, and from the request of its download on; what the side's processes used for it."""
    clock = time.perf_counter()
    downloads = side.ticket(workload.paths)
    row = {"ticket_s": time.perf_counter() - clock}
    answers_before, cpu_before = len(side.origin.moments()), side.server.cpu_s()
    reading = read(side.port, downloads)
    row["cpu_s"] = side.server.cpu_s() - cpu_before
    if reading.wire_bytes < workload.payload_bytes:
        raise SystemExit(f"{side.name} sent only {reading.wire_bytes:,} of {workload.payload_bytes:,} bytes")
    row |= {"total_s": reading.total_s, "first_byte_s": reading.first_byte_s}
    if answers := side.origin.moments()[answers_before:]:
        row["first_upstream_s"] = answers[0] - reading.started
        row["first_byte_behind_s"] = row["first_byte_s"] - row["first_upstream_s"]
    return row | {"peak_rss_mib": side.server.peak_rss_bytes() / (1 << 20)}


def run(workload: Workload, sides: list[Side], rounds: int) -> Found:
    """Fresh processes for every workload, so that peak memory is its own; the order of sides turns every round."""
    rows: dict[str, list[Summary]] = {side.name: [] for side in sides}
    with ExitStack() as running:
        for side in sides:
            home = tempfile.mkdtemp(prefix=f"{side.name}-", dir=side.origin.home)
            running.enter_context(side.running(Path(home)))
            if not side.delivers(SMALL.paths[:50]):
                raise SystemExit(f"{side.name} delivers other bytes than those of its items")
        for number in range(rounds):
            turn = number % len(sides)
            for side in sides[turn:] + sides[:turn]:
                print(f"{workload.name}, round {number + 1} of {rounds}: {side.name}", file=sys.stderr)
                rows[side.name].append(measure(side, workload))
    return {"medians": summaries(workload, rows), "rounds": rows}
