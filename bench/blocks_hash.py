"""Hash a file of which nothing is known, though its pages are in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from blocks_place import Place
from blocks_rd import RdConnection
from blocks_servers import running
from blocks_threads import block_sums
from process import wait_until_idle
from workload import Goal, Rounds, Workload, turns

SIZE_BYTES = 1 << 30
SERVER_OF = {"gateway": "gateway", "gateway-wait": "gateway", "rd-api": "rd-api"}
THREADS = os.cpu_count() or 1  # as many as the gateway has


def run(place: Place, sides: Sequence[str], rounds: int) -> Rounds:
    """Seconds from the first question about the file until all its blocks are known."""
    big = place.random("big.bin", SIZE_BYTES)
    wanted = block_sums(big, THREADS)
    rows: Rounds = {side: [] for side in sides}
    with running(place, [SERVER_OF[side] for side in sides if side in SERVER_OF], big.name) as servers:

        def sums(side: str, name: str) -> list[str]:
            if side == "threads":
                return block_sums(place.root / name, THREADS)
            with RdConnection(servers[SERVER_OF[side]].port) as rd:
                return rd.until_known_waiting(name) if side == "gateway-wait" else rd.until_known(name)

        for side in turns(sides, rounds):
            cpu_s: Callable[[], float] = time.process_time if side == "threads" else servers[SERVER_OF[side]].cpu_s
            with place.renewed(big) as name:
                wait_until_idle(servers)
                cpu_before, clock = cpu_s(), time.perf_counter()
                found = sums(side, name)
                total_s = time.perf_counter() - clock
                row = {"total_s": total_s, "speed": SIZE_BYTES / total_s, "cpu_s": cpu_s() - cpu_before}
            if found != wanted:
                raise SystemExit(f"{side} has other sums than the threads")
            rows[side].append(row)
    return rows


WORKLOAD = Workload(
    name="hash",
    title="SHA-1 of the 512 blocks of a file of 1 GiB in memory (gateway-wait: asked as gateway get does, not as rd)",
    sides=("gateway", "gateway-wait", "rd-api", "threads"),
    columns=(("median s", "total_s", 1, 3), ("GB/s", "speed", 1e-9, 3), ("cpu s", "cpu_s", 1, 2)),
    goals=(
        Goal("gateway", "speed", "rd-api", at_least=3),
        Goal("gateway", "speed", "threads", at_least=0.85),
        Goal("gateway-wait", "speed", "threads", at_least=0.85),
        Goal("threads", "speed", "rd-api"),
    ),
    run=run,
)
