"""Programs that download: started, watched, and what they used."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocks_servers import PEERS
from process import clean_environment
from programs import GATEWAY, installed, program
from report import Summary

LIMIT_S = 600
OUT = "out.bin"


@dataclass(frozen=True)
class Client:
    """``command`` downloads a URL to the file ``OUT`` in a folder, or to the file of the URL's name."""

    name: str
    server: str
    command: Callable[[str, Path], list[str]]


def _gateway_get(url: str, folder: Path) -> list[str]:
    return [str(GATEWAY), "get", "--quiet", "--require-verify", "-o", str(folder / OUT), url]


def _rd(url: str, folder: Path) -> list[str]:
    return [str(installed(*PEERS) / "rd"), "-d", str(folder / "blocks"), "-o", str(folder), url]


def _aria2c(url: str, folder: Path) -> list[str]:
    return [program("aria2c", "aria2"), "--no-conf", "-q", "-x5", "-d", str(folder), "-o", OUT, url]


def _curl(url: str, folder: Path) -> list[str]:
    return [program("curl", "curl"), "-q", "-sSf", "-o", str(folder / OUT), url]


CLIENTS = {
    client.name: client
    for client in (
        Client("gateway", "gateway", _gateway_get),
        Client("rd", "rd-api", _rd),
        Client("aria2c", "gateway", _aria2c),
        Client("aria2c-nginx", "nginx", _aria2c),
        Client("curl", "gateway", _curl),
    )
}


def measured(command: Sequence[str], *, folder: Path, to_nowhere: bool = False) -> Summary:
    """Run ``command`` in ``folder`` to its end: seconds, CPU and peak memory of it and its children.

    Raises SystemExit when it fails, or takes more than ten minutes: then it is killed.
    """
    environment = {name: value for name, value in clean_environment().items() if not name.lower().endswith("_proxy")}
    with tempfile.TemporaryFile() as told:
        clock = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if to_nowhere else told,
            stderr=told,
            start_new_session=True,
        )
        limit = threading.Timer(LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
        limit.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
            total_s = time.perf_counter() - clock
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            limit.cancel()
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            told.seek(0)
            tail = told.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"{command} ended with {process.returncode} after {total_s:.0f} s:\n{tail}")
    # ru_maxrss of Linux is in KiB, and at least what this process had when it started the other
    return {"total_s": total_s, "cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss * 1024 / 1e6}
