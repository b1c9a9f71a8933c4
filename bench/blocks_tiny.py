"""Small files, many clients."""

from __future__ import annotations

import json
from collections.abc import Sequence

from blocks_place import Place
from blocks_servers import FileServer, running
from process import clean_environment, output_of, wait_until_idle
from programs import HERE, program
from report import Summary
from workload import Goal, Rounds, Workload, turns

SIZE_BYTES = 20_000
FILES = 1000
CONNECTIONS = 32
SECONDS = 4


def run(place: Place, sides: Sequence[str], rounds: int) -> Rounds:
    """As many requests as can be answered in four seconds."""
    for number in range(FILES):
        path = place.random(f"tiny/{number:04}.bin", SIZE_BYTES)
    rows: Rounds = {side: [] for side in sides}
    with running(place, sides, str(path.relative_to(place.root))) as servers:
        for server in servers.values():
            load(server, seconds=1)
        for side in turns(sides, rounds):
            wait_until_idle(servers)
            rows[side].append(load(servers[side], seconds=SECONDS))
    return rows


def load(server: FileServer, *, seconds: int) -> Summary:
    """What wrk finds; raises SystemExit when an answer was not as it should be."""
    command = [program("wrk", "wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(HERE / "blocks_tiny.lua"), server.url(""), "--", str(FILES)]
    cpu_before = server.cpu_s()
    told = json.loads(output_of(command, clean_environment()).splitlines()[-1])
    cpu_s = server.cpu_s() - cpu_before
    count = told["requests"]
    if told["failed"] or told["bytes"] < count * SIZE_BYTES:
        raise SystemExit(f"{server.name}: {told}")
    return {
        "speed": count / told["duration_us"] * 1e6,
        "cpu_us": cpu_s / count * 1e6,
        "p50_s": told["p50_us"] / 1e6,
        "p99_s": told["p99_us"] / 1e6,
    }


WORKLOAD = Workload(
    name="tiny",
    title="Files of 20 kB in memory, 32 connections",
    sides=("gateway", "rd-api", "nginx", "file-response", "bare"),
    columns=(
        ("requests/s", "speed", 1, 0),
        ("cpu us / request", "cpu_us", 1, 1),
        ("p50 ms", "p50_s", 1000, 2),
        ("p99 ms", "p99_s", 1000, 2),
    ),
    goals=(
        Goal("gateway", "speed", "file-response", at_least=3),
        Goal("gateway", "speed", "bare", at_least=0.6),
        Goal("gateway", "speed", "nginx"),
    ),
    run=run,
)
