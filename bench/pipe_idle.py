"""Memory of idle links over mutual TLS."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pipe_place import Place, rss_bytes
from workload import Goal, Rounds, Workload

NODES = 10_000
SETTLE_S = 20


def run(home: Path, _sides: Sequence[str], _rounds: int) -> Rounds:
    """Once: what the server has before, and with all of them after some heartbeats."""
    place = Place(home, NODES)
    with place.server() as server:
        before = rss_bytes(server.process.pid)
        with place.swarm("idle"):
            connected_s = place.wait_up(600)
            cpu_before = server.cpu_s()
            time.sleep(SETTLE_S)
            cpu_s = server.cpu_s() - cpu_before
            after = rss_bytes(server.process.pid)
            if (up := place.told()["up"]) != NODES:
                raise SystemExit(f"{up} of {NODES} are left")
    return {
        "gateway": [
            {
                "kib": (after - before) / NODES / 1024,
                "mb": after / 1e6,
                "connected_s": connected_s,
                "beats": cpu_s / SETTLE_S,
            }
        ]
    }


WORKLOAD = Workload(
    name="idle",
    title=f"{NODES:,} idle links over mutual TLS: memory of the server",
    sides=("gateway",),
    columns=(
        ("KiB a link", "kib", 1, 1),
        ("MB in all", "mb", 1, 0),
        ("s to connect", "connected_s", 1, 0),
        ("cores for heartbeats", "beats", 1, 2),
    ),
    goals=(Goal("gateway", "kib", at_most=70), Goal("gateway", "mb", at_most=1000)),
    run=run,
)
