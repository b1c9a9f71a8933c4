"""Benchmark of archive: the gateway, FPX, a plain relay and bare nginx in one run, taking turns, by medians.

Read the ratios: machines differ and are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from origin import BIG, FIRST, SMALL, Origin, Workload
from reader import read
from report import Summary, summaries, table
from sides import HERE, SIDES, Side

WORKLOADS = {workload.name: workload for workload in (BIG, SMALL, FIRST)}


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


def run(workload: Workload, sides: list[Side], rounds: int) -> dict[str, Any]:
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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 101), metavar="N")
    parser.add_argument("--only", choices=WORKLOADS, help="this workload alone")
    parser.add_argument("--sides", default=",".join(SIDES), help="of %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result goes, else below bench/out/")
    chosen = parser.parse_args()
    chosen.sides = chosen.sides.split(",")
    if unknown := set(chosen.sides) - set(SIDES):
        parser.error(f"no such side: {', '.join(sorted(unknown))}")
    return chosen


def main() -> None:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    machine = {"cores": len(os.sched_getaffinity(0)), "platform": platform.platform(), "load_before": os.getloadavg()}
    result: dict[str, Any] = {"when": when, "machine": machine, "workloads": {}}
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with ExitStack() as stack:
        origin = Origin(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-", dir=memory))))
        stack.enter_context(origin.running())
        for workload in [WORKLOADS[chosen.only]] if chosen.only else WORKLOADS.values():
            found = run(workload, [SIDES[name](origin) for name in chosen.sides], chosen.rounds)
            result["workloads"][workload.name] = found
            print(table(workload, found["medians"]), flush=True)
    target = chosen.json or HERE / "out" / f"{when}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{target}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
