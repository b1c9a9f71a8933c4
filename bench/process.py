"""Processes under measurement: started in a session of their own, read through /proc, stopped with all children."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def clean_environment(**own: str) -> dict[str, str]:
    """The caller's environment without settings meant for another gateway or FPX."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "FPX_"))} | own


def memory_folder(room_bytes: int = 0) -> str | None:
    """Where files are in memory; None where there is no such place with so much room, for the usual one."""
    if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free >= room_bytes:
        return "/dev/shm"
    return None


def output_of(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise SystemExit(f"{command} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Server:
    """A server process; ``log`` takes its output and is shown when it does not come up."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    @contextmanager
    def running(self, ready: Callable[[], bool], *, timeout_s: float = 60) -> Iterator[None]:
        """Wait for it; at the end SIGTERM, 10 s of grace, then SIGKILL to whatever is left of its group."""
        try:
            deadline = time.monotonic() + timeout_s
            while not ready():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = self.log.read_text(errors="replace")[-2000:]
                    raise SystemExit(f"{self.process.args!r} did not come up (exit {self.process.poll()}):\n{tail}")
                time.sleep(0.05)
            yield
        finally:
            self.process.terminate()
            try:
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(10)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)

    def pids(self) -> list[int]:
        """The process and its descendants."""
        found = [self.process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
                    found += map(int, children.read_text().split())
        return found

    def peak_rss_bytes(self) -> int:
        """VmHWM since its start of the largest process: where there are several, the one that does the work."""
        lines = (line for pid in self.pids() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return max(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024

    def cpu_s(self) -> float:
        """User and system time of all processes so far."""
        return sum(_cpu_s(Path(f"/proc/{pid}/stat")) for pid in self.pids())

    def main_thread_cpu_s(self) -> float:
        """The same of the process's first thread alone."""
        return _cpu_s(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/stat"))


def _cpu_s(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
