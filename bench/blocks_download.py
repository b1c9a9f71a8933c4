"""A whole file, verified or not, to a file in memory."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence

from blocks_clients import CLIENTS, measured
from blocks_place import Place
from blocks_rd import RdConnection
from blocks_servers import running
from process import wait_until_idle
from workload import Goal, Rounds, Workload, turns

SIZE_BYTES = 1 << 30


def run(place: Place, sides: Sequence[str], rounds: int) -> Rounds:
    """From the start of the program to its end; the sums are known to the server before."""
    big = place.random("big.bin", SIZE_BYTES)
    rows: Rounds = {side: [] for side in sides}
    with running(place, [CLIENTS[side].server for side in sides], big.name) as servers:
        for name in {"gateway", "rd-api"} & servers.keys():
            with RdConnection(servers[name].port) as rd:
                rd.until_known(big.name)
        for side in turns(sides, rounds):
            client = CLIENTS[side]
            server = servers[client.server]
            wait_until_idle(servers)
            with place.download() as folder:
                cpu_before = server.cpu_s()
                row = measured(client.command(server.url(big.name), folder), folder=folder)
                row |= {"server_cpu_s": server.cpu_s() - cpu_before, "speed": SIZE_BYTES / row["total_s"]}
                (downloaded,) = (path for path in folder.iterdir() if path.is_file())
                if not filecmp.cmp(downloaded, big, shallow=False):
                    raise SystemExit(f"{side} has made another file")
            rows[side].append(row)
    return rows


WORKLOAD = Workload(
    name="download",
    title="Download of a file of 1 GiB to memory (gateway and rd verify it; aria2c -x5 and curl do not)",
    sides=tuple(CLIENTS),
    columns=(
        ("median s", "total_s", 1, 3),
        ("GB/s", "speed", 1e-9, 3),
        ("cpu s", "cpu_s", 1, 2),
        ("server cpu s", "server_cpu_s", 1, 2),
        ("peak MB", "peak_mb", 1, 1),
    ),
    goals=(
        Goal("gateway", "speed", "rd", at_least=3),
        Goal("gateway", "total_s", "aria2c", at_most=1.5),
        Goal("gateway", "total_s", "aria2c-nginx", at_most=1.5),
    ),
    run=run,
)
