"""What it costs to be asked about a huge file, while it is hashed and afterwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from blocks_place import Place
from blocks_rd import RdConnection
from blocks_servers import FileServer, GatewayServer, RdApiServer
from process import wait_until_idle
from report import Summary
from workload import Rounds, Workload

NAME = "huge.bin"
SIZE_BYTES = 100 * 10**9
POLLS = 20
KNOWN_WITHIN_S = 400


def run(place: Place, sides: Sequence[str], rounds: int) -> Rounds:
    """One server after the other, because each hashes on all cores; of rd-api only what can be had without waiting."""
    path = place.sparse(NAME, SIZE_BYTES)
    rows: Rounds = {}
    try:
        if "gateway" in sides:
            _gateway(place, rounds, rows)
        if "rd-api" in sides:
            _rd_api(place, rounds, rows)
    finally:
        path.unlink()
    return rows


def _gateway(place: Place, rounds: int, rows: Rounds) -> None:
    """The pass over the whole file is left out: it would go on for minutes after the blocks are known."""
    server = GatewayServer(place.root, GATEWAY_BLOCKS__FULL_DIGEST="false")
    with server.running(place.folder(server.name)), RdConnection(server.port) as rd:
        rd.ask(NAME)
        time.sleep(2)
        before, clock = _loop_cpu_s(server), time.perf_counter()
        time.sleep(2)
        idle = (_loop_cpu_s(server) - before) / (time.perf_counter() - clock)
        rows["gateway, pending"] = [
            _polls(rd, cpu_s=lambda: _loop_cpu_s(server), idle=idle) for _ in _told("gateway, pending", rounds)
        ]
        print("  waiting until all blocks are known", file=sys.stderr)
        deadline = time.monotonic() + KNOWN_WITHIN_S
        while b'"pending"' in rd.ask(NAME, _last_block()):
            if time.monotonic() > deadline:
                print(f"  not known within {KNOWN_WITHIN_S} s: not measured", file=sys.stderr)
                return
            time.sleep(1)
        wait_until_idle({server.name: server})
        for side, query, polls in (("gateway, known", "", POLLS), ("gateway, known, last block", _last_block(), 500)):
            rows[side] = [_polls(rd, query, polls=polls, cpu_s=server.cpu_s) for _ in _told(side, rounds)]


def _rd_api(place: Place, rounds: int, rows: Rounds) -> None:
    server = RdApiServer(place.root)
    with server.running(place.folder(server.name)), RdConnection(server.port) as rd:
        rd.ask(NAME)
        time.sleep(2)
        rows["rd-api, pending"] = [_polls(rd) for _ in _told("rd-api, pending", rounds)]


def _last_block() -> str:
    return f"?after={SIZE_BYTES // (2 << 20) - 1}"


def _told(side: str, rounds: int) -> range:
    print(f"  {side}: {rounds} rounds", file=sys.stderr)
    return range(rounds)


def _loop_cpu_s(server: FileServer) -> float:
    """Of the thread with the event loop alone; the others hash."""
    return server.processes[-1].main_thread_cpu_s()


def _polls(
    rd: RdConnection, query: str = "", *, polls: int = POLLS, cpu_s: Callable[[], float] | None = None, idle: float = 0
) -> Summary:
    """Of one poll. ``idle`` is what the CPU would have done in a second without any."""
    before, clock, asked_s = cpu_s() if cpu_s else 0, time.perf_counter(), 0.0
    for _ in range(polls):
        rd.ask(NAME, query)
        asked_s += rd.answer_s
    row = {"total_s": asked_s / polls, "wire_mb": rd.wire_bytes / 1e6}
    if cpu_s:
        row["cpu_s"] = (cpu_s() - before - idle * (time.perf_counter() - clock)) / polls
    return row


WORKLOAD = Workload(
    name="poll",
    title="One question about a sparse file of 100 GB (cpu while pending: of the event loop's thread)",
    sides=("gateway", "rd-api"),
    columns=(("median ms", "total_s", 1000, 1), ("cpu ms", "cpu_s", 1000, 1), ("MB on the wire", "wire_mb", 1, 3)),
    goals=(),
    run=run,
)
