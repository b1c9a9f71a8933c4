"""Ranges of 2 MiB, as download managers ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from blocks_drain import drain
from blocks_place import Place
from blocks_rd import RdConnection
from blocks_servers import running
from process import wait_until_idle
from workload import Goal, Rounds, Workload, turns

SIZE_BYTES = 1 << 30
RANGE_BYTES = 2 << 20
PASSES = 4
CONNECTIONS = 8


def _run(place: Place, sides: Sequence[str], rounds: int, *, read: bool) -> Rounds:
    """All of a file whose sums are known, four times.

    The ranges lie across the blocks: whoever asks for the same block again and again has the gateway hash it anew.
    """
    big = place.random("big.bin", SIZE_BYTES)
    starts = range(RANGE_BYTES // 2, SIZE_BYTES - RANGE_BYTES, RANGE_BYTES)
    ranges = [range(start, start + RANGE_BYTES) for start in starts] * PASSES
    payload_bytes = len(ranges) * RANGE_BYTES
    rows: Rounds = {side: [] for side in sides}
    with running(place, sides, big.name) as servers:
        for side in {"gateway", "gateway-2", "rd-api"} & set(sides):
            with RdConnection(servers[side].port) as rd:
                rd.until_known(big.name)
        for side in turns(sides, rounds):
            wait_until_idle(servers)
            cpu_before = servers[side].cpu_s()
            total_s = drain(servers[side].port, big.name, ranges, connections=CONNECTIONS, read=read)
            cpu_s = servers[side].cpu_s() - cpu_before
            rows[side].append(
                {"total_s": total_s, "speed": payload_bytes / total_s, "cpu_s_per_gb": cpu_s / payload_bytes * 1e9}
            )
    return rows


def _workload(name: str, client: str, *, read: bool) -> Workload[Place]:
    return Workload(
        name=name,
        title=f"Ranges of 2 MiB of a file of 1 GiB in memory, 8 connections, {client}",
        sides=("gateway", "gateway-2", "rd-api", "nginx", "file-response"),
        columns=(("median s", "total_s", 1, 3), ("GB/s", "speed", 1e-9, 3), ("cpu s / GB", "cpu_s_per_gb", 1, 3)),
        goals=(
            Goal("gateway", "speed", "rd-api", at_least=1),
            Goal("gateway-2", "speed", "rd-api"),
            Goal("gateway", "speed", "nginx"),
        ),
        run=partial(_run, read=read),
    )


READ = _workload("ranges", "to one thread that reads all of it", read=True)
DROPPED = _workload("ranges-dropped", "to a client that costs nothing: what the server could do", read=False)
