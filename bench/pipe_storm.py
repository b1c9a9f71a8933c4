"""Nodes that all come back at once after the server was started again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pipe_place import Place
from workload import Goal, Rounds, Workload

NODES = 2000


def run(home: Path, _sides: Sequence[str], rounds: int) -> Rounds:
    """From the server's being there again until every node is; tries that failed meanwhile, of all nodes together."""
    place = Place(home, NODES)
    rows = []
    server = place.server()
    process = server.__enter__()
    try:
        with place.swarm("nodes"):
            place.wait_up(300)
            for _ in range(min(rounds, 3)):
                process.process.kill()
                process.process.wait(10)
                server.__exit__(None, None, None)
                while place.told()["up"]:
                    time.sleep(0.05)
                server = place.server()
                process = server.__enter__()
                failed = place.told()["failed"]
                back_s = place.wait_up(300)
                shed = place.told()["failed"] - failed
                rows.append({"back_s": back_s, "shed": shed, "cpu_s": process.cpu_s()})
    finally:
        server.__exit__(None, None, None)
    return {"gateway": rows}


WORKLOAD = Workload(
    name="storm",
    title=f"{NODES:,} nodes reconnect over mutual TLS after the server was killed and started again",
    sides=("gateway",),
    columns=(
        ("s until all are back", "back_s", 1, 1),
        ("tries turned away", "shed", 1, 0),
        ("cpu s of the server", "cpu_s", 1, 1),
    ),
    goals=(Goal("gateway", "back_s", at_most=60),),
    run=run,
)
