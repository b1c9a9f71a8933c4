"""A gigabyte over the link, while small calls go on."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from statistics import quantiles

from pipe_servers import NODE, HttpSide, running
from process import clean_environment, wait_until_idle
from programs import program
from report import Summary
from workload import Goal, Rounds, Workload, turns

SIZE_BYTES = 10**9
PAUSE_S = 0.01


def run(home: Path, sides: Sequence[str], rounds: int) -> Rounds:
    """Alone for the speed, then with a small call every 10 ms for their times."""
    rows: Rounds = {side: [] for side in sides}
    with running(home, sides) as servers:
        for side in turns(sides, rounds):
            wait_until_idle(servers)
            server = servers[side]
            assert isinstance(server, HttpSide)
            rows[side].append(measure(server))
    return rows


def measure(server: HttpSide) -> Summary:
    cpu_before, alone_s = server.cpu_s(), download(server)
    cpu_s = server.cpu_s() - cpu_before
    stop, times_s = threading.Event(), list[float]()
    asking = threading.Thread(target=ask, args=(server, stop, times_s))
    asking.start()
    try:
        shared_s = download(server)
    finally:
        stop.set()
        asking.join()
    return {
        "alone_mb_s": SIZE_BYTES / alone_s / 1e6,
        "shared_mb_s": SIZE_BYTES / shared_s / 1e6,
        "cpu_s": cpu_s,
        "small_p50_s": quantiles(times_s, n=100)[49],
        "small_p99_s": quantiles(times_s, n=100)[98],
        "peak_mb": server.processes[0].peak_rss_bytes() / 1e6,
    }


def download(server: HttpSide) -> float:
    """Seconds that curl takes; raises SystemExit when it did not get all."""
    command = [program("curl", "curl"), "-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download}"]
    command += [part for name, value in server.headers.items() for part in ("-H", f"{name}: {value}")]
    clock = time.perf_counter()
    done = subprocess.run(
        [*command, server.url(f"/client/{NODE}/bulk//{SIZE_BYTES}")],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    took_s = time.perf_counter() - clock
    if done.returncode or done.stdout != f"200 {SIZE_BYTES}":
        raise SystemExit(f"{server.name}: {done.stdout} {done.stderr}")
    return took_s


def ask(server: HttpSide, stop: threading.Event, times_s: list[float]) -> None:
    """Small calls one after another until ``stop``."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    while not stop.wait(PAUSE_S):
        clock = time.perf_counter()
        connection.request("GET", server.path, headers=server.headers)
        answer = connection.getresponse()
        if answer.read() and answer.status == 200:
            times_s.append(time.perf_counter() - clock)
    connection.close()


WORKLOAD = Workload(
    name="bulk",
    title="1 GB over the link, alone and with small calls beside it; peak of the server",
    sides=("gateway", "gateway-mtls"),
    columns=(
        ("MB/s alone", "alone_mb_s", 1, 0),
        ("MB/s with calls", "shared_mb_s", 1, 0),
        ("call p50 ms", "small_p50_s", 1000, 1),
        ("call p99 ms", "small_p99_s", 1000, 1),
        ("cpu s", "cpu_s", 1, 2),
        ("peak MB", "peak_mb", 1, 0),
    ),
    goals=(
        Goal("gateway", "alone_mb_s", at_least=300),
        Goal("gateway", "small_p99_s", at_most=0.02),
        Goal("gateway-mtls", "alone_mb_s", at_least=300),
        Goal("gateway-mtls", "small_p99_s", at_most=0.02),
    ),
    run=run,
)
