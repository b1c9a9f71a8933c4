"""Benchmark of archive: the gateway, FPX, a plain relay and bare nginx make one download of many files."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import archive_memory
from origin import BIG, DISTANT, LOGGED, SMALL, Load, Origin
from process import memory_folder
from reader import read
from report import Column, Found, Summary
from sides import SIDES, Side
from workload import Goal, Rounds, Workload, report, turns

COLUMNS: tuple[Column, ...] = (
    ("median s", "total_s", 1, 3),
    ("GB/s", "speed", 1e-9, 3),
    ("ticket ms", "ticket_s", 1000, 1),
    ("1st byte ms", "first_byte_s", 1000, 1),
    ("cpu s", "cpu_s", 1, 2),
    ("peak MiB", "peak_rss_mib", 1, 1),
)
UPSTREAM_COLUMNS: tuple[Column, ...] = (
    ("1st upstream answer ms", "first_upstream_s", 1000, 1),
    ("behind it ms", "first_byte_behind_s", 1000, 1),
)
GOALS = (
    Goal("known", "speed", "relay", at_least=0.9),
    Goal("sized", "speed", "relay", at_least=0.8),
    Goal("gateway", "speed", "relay"),
    Goal("open", "speed", "relay"),
    Goal("gateway", "speed", "fpx"),
)


def results(workloads: Sequence[str], sides: Sequence[str], rounds: int) -> Iterator[tuple[str, Found, str]]:
    """Name, figures and table of each workload, as soon as it is done."""
    taking_part = {name: [side for side in WORKLOADS[name].sides if side in sides] for name in workloads}
    if not any(taking_part.values()):
        return
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-", dir=memory_folder()))
        origin = Origin(Path(home))
        stack.enter_context(origin.running())
        for name in workloads:
            if taking_part[name]:
                print(f"{name}: {', '.join(taking_part[name])}", file=sys.stderr)
                workload = WORKLOADS[name]
                yield name, *report(workload, workload.run(origin, taking_part[name], rounds))


def measure(side: Side, load: Load) -> Summary:
    """Seconds to make the ticket, and from the request of its download on; what the side's processes used for it."""
    clock = time.perf_counter()
    downloads = side.ticket(load.paths)
    row = {"ticket_s": time.perf_counter() - clock}
    answers_before, cpu_before = len(side.origin.moments()), side.server.cpu_s()
    reading = read(side.port, downloads)
    row["cpu_s"] = side.server.cpu_s() - cpu_before
    if reading.wire_bytes < load.payload_bytes:
        raise SystemExit(f"{side.name} sent only {reading.wire_bytes:,} of {load.payload_bytes:,} bytes")
    row |= {"total_s": reading.total_s, "first_byte_s": reading.first_byte_s}
    row["speed"] = load.payload_bytes / reading.total_s
    if answers := side.origin.moments()[answers_before:]:
        row["first_upstream_s"] = answers[0] - reading.started
        row["first_byte_behind_s"] = row["first_byte_s"] - row["first_upstream_s"]
    return row | {"peak_rss_mib": side.server.peak_rss_bytes() / (1 << 20)}


def run(load: Load, origin: Origin, names: Sequence[str], rounds: int) -> Rounds:
    """Fresh processes for every workload, so that peak memory is its own; the order of sides turns every round."""
    sides = {name: SIDES[name](origin) for name in names}
    rows: Rounds = {name: [] for name in names}
    with ExitStack() as running:
        for side in sides.values():
            home = tempfile.mkdtemp(prefix=f"{side.name}-", dir=origin.home)
            running.enter_context(side.running(Path(home)))
            if not side.delivers(SMALL.paths[:50]):
                raise SystemExit(f"{side.name} delivers other bytes than those of its items")
        for name in turns(names, rounds):
            rows[name].append(measure(sides[name], load))
    return rows


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("big", "8 x 256 MiB", tuple(SIDES), COLUMNS, GOALS, partial(run, BIG)),
        Workload("small", "2,000 x 20 kB", tuple(SIDES), COLUMNS, GOALS, partial(run, SMALL)),
        Workload(
            name="first",
            title="First byte of 2,000 x 20 kB",
            sides=tuple(SIDES),
            columns=COLUMNS + UPSTREAM_COLUMNS,
            goals=(),
            run=partial(run, LOGGED),
        ),
        Workload(
            name="distant",
            title="First byte of 2,000 x 20 kB that are 5 ms away, gateway: asked for their sizes, open: not asked",
            sides=("gateway", "open", "fpx", "relay"),
            columns=COLUMNS,
            goals=(
                Goal("gateway", "first_byte_s", at_most=1),
                Goal("open", "first_byte_s", at_most=0.1),
            ),
            run=partial(run, DISTANT),
        ),
        archive_memory.WORKLOAD,
    )
}
