"""Peak memory of the gateway for a hundred thousand items."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from origin import TINY, Origin
from reader import read
from report import Summary
from sides import GatewaySide, KnownSide, SizedSide
from workload import Goal, Rounds, Workload

LIMIT_MIB = 64
PEAKS = ("peak_ticket_mib", "peak_growth_mib")
SIDES: tuple[type[GatewaySide], ...] = (KnownSide, SizedSide)
SETTINGS = {"GATEWAY_ARCHIVE__MAX_ITEMS": str(TINY.count), "GATEWAY_ARCHIVE__PROBE_TIMEOUT_S": "600"}
"""All sizes are asked for, however long it takes: with that the archive has all it can have in memory."""


def run(origin: Origin, names: Sequence[str], _rounds: int) -> Rounds:
    """Once: a peak has no median."""
    rows: Rounds = {}
    for kind in SIDES:
        if kind.name in names:
            print(f"  {kind.name}", file=sys.stderr)
            rows[kind.name] = [measure(kind(origin, **SETTINGS))]
    return rows


def measure(side: GatewaySide) -> Summary:
    """One process makes the ticket and another the download, so that each has a peak of its own, over being idle."""
    home = Path(tempfile.mkdtemp(prefix=f"{side.name}-", dir=side.origin.home))
    with side.running(home):
        idle_bytes = side.server.rss_bytes()
        clock = time.perf_counter()
        downloads = side.ticket(TINY.paths)
        row = {"ticket_s": time.perf_counter() - clock, "peak_ticket_mib": _grown_mib(side, idle_bytes)}
    with side.running(home):
        idle_bytes, cpu_before = side.server.rss_bytes(), side.server.cpu_s()
        reading = read(side.port, downloads, timeout_s=600)
        if reading.wire_bytes < TINY.payload_bytes:
            raise SystemExit(f"{side.name} sent only {reading.wire_bytes:,} of {TINY.payload_bytes:,} bytes")
        row |= {"first_byte_s": reading.first_byte_s, "total_s": reading.total_s}
        row |= {"cpu_s": side.server.cpu_s() - cpu_before, "idle_mib": idle_bytes / (1 << 20)}
        return row | {"peak_growth_mib": _grown_mib(side, idle_bytes)}


def _grown_mib(side: GatewaySide, idle_bytes: int) -> float:
    return (side.server.peak_rss_bytes() - idle_bytes) / (1 << 20)


WORKLOAD = Workload(
    name="archive-memory",
    title="Memory of the server beyond what it has idle, for a ticket of 100,000 x 100 B",
    sides=tuple(kind.name for kind in SIDES),
    columns=(
        ("ticket s", "ticket_s", 1, 1),
        ("ticket MiB", "peak_ticket_mib", 1, 1),
        ("1st byte s", "first_byte_s", 1, 2),
        ("download s", "total_s", 1, 1),
        ("cpu s", "cpu_s", 1, 1),
        ("idle MiB", "idle_mib", 1, 1),
        ("download MiB", "peak_growth_mib", 1, 1),
    ),
    goals=tuple(Goal(kind.name, peak, at_most=LIMIT_MIB) for kind in SIDES for peak in PEAKS),
    run=run,
)
