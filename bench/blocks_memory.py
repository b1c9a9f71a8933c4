"""Peak memory for huge files."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from blocks_clients import OUT, measured
from blocks_place import Place
from blocks_rd import RdConnection
from blocks_servers import GatewayServer
from process import wait_until_idle
from programs import GATEWAY
from report import Summary
from workload import Goal, Rounds, Workload

LIMIT_MB = 100
HUGE_BYTES = 20 * 10**9
LARGE_BYTES = 4 * 10**9


def run(place: Place, _sides: Sequence[str], _rounds: int) -> Rounds:
    """Once: a peak has no median. The server hashes all, blocks and whole files, then sends all."""
    huge, large = place.sparse("20g.bin", HUGE_BYTES), place.sparse("4g.bin", LARGE_BYTES)
    server = GatewayServer(place.root)
    rows: Rounds = {}
    with server.running(place.folder(server.name)), RdConnection(server.port) as rd:
        for path in (huge, large):
            print(f"  hashing {path.name}", file=sys.stderr)
            clock = time.perf_counter()
            rd.until_known(path.name, timeout_s=300)
            rows[f"server, {path.name} hashed"] = [{"total_s": time.perf_counter() - clock, **_peak(server)}]
        print("  waiting until the whole files are hashed", file=sys.stderr)
        wait_until_idle({server.name: server}, timeout_s=600)
        rows["server, whole files too"] = [_peak(server)]
        get = [str(GATEWAY), "get", "--quiet", "--require-verify", "-o"]
        print(f"  gateway get of {huge.name} to /dev/null", file=sys.stderr)
        rows["get 20 GB, -o -"] = [measured([*get, "-", server.url(huge.name)], folder=place.home, to_nowhere=True)]
        print(f"  gateway get of {large.name} to the disk", file=sys.stderr)
        out = place.home / OUT
        rows["get 4 GB, to disk"] = [measured([*get, str(out), server.url(large.name)], folder=place.home)]
        rows["server, after both"] = [_peak(server)]
    for path in (huge, large, out):
        path.unlink()
    return rows


def _peak(server: GatewayServer) -> Summary:
    return {"peak_mb": server.processes[-1].peak_rss_bytes() / 1e6}


WORKLOAD = Workload(
    name="memory",
    title="Peak memory of server and client, sparse files of 20 and 4 GB",
    sides=("gateway",),
    columns=(("s", "total_s", 1, 1), ("cpu s", "cpu_s", 1, 1), ("peak MB", "peak_mb", 1, 1)),
    goals=(
        Goal("server, after both", "peak_mb", at_most=LIMIT_MB),
        Goal("get 20 GB, -o -", "peak_mb", at_most=LIMIT_MB),
        Goal("get 4 GB, to disk", "peak_mb", at_most=LIMIT_MB),
    ),
    run=run,
)
