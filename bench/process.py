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
from typing import Protocol

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


def output_of(command: Sequence[str], environment: Mapping[str, str], *, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise SystemExit(f"{command} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Server:
    """A server process; ``log`` takes its output and is shown when it does not come up."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str], *, cwd: Path | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
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

    def family(self) -> list[tuple[int, int]]:
        """Pid and generation: of the process, which is 0, and of its descendants."""
        found = [(self.process.pid, 0)]
        for pid, generation in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                    found += [(int(child), generation + 1) for child in children.read_text().split()]
        return found

    def peak_rss_bytes(self) -> int:
        """VmHWM since its start of the largest process: where there are several, the one that does the work."""
        return max(peak for _, peak in self.peaks_bytes())

    def rss_bytes(self) -> int:
        """VmRSS of the largest process now."""
        return max(_memory_bytes(pid, "VmRSS") for pid, _ in self.family())

    def peaks_bytes(self) -> list[tuple[int, int]]:
        """Generation and VmHWM of each process."""
        return [(generation, _memory_bytes(pid, "VmHWM")) for pid, generation in self.family()]

    def cpu_s(self) -> float:
        """User and system time of all processes so far, also of those that have ended and were waited for."""
        return sum(sum(_times_s(Path(f"/proc/{pid}/stat"))) for pid, _ in self.family())

    def main_thread_cpu_s(self) -> float:
        """Of the process's first thread alone."""
        return sum(_times_s(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/stat"))[:2])


def _times_s(stat: Path) -> list[float]:
    """proc(5): utime, stime, cutime, cstime; none of a process that has just ended."""
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(field) / TICKS_PER_S for field in fields[11:15]]


def _memory_bytes(pid: int, key: str) -> int:
    """0 of a process that has just ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0


class Computes(Protocol):
    """Whatever can say how much CPU time it has taken so far."""

    def cpu_s(self) -> float: ...


def wait_until_idle(servers: Mapping[str, Computes], *, timeout_s: float = 120) -> None:
    """Until none of them computes any more: what one does in the background must not slow the next.

    Raises SystemExit when that does not come.
    """
    deadline = time.monotonic() + timeout_s
    before = _all_cpu_s(servers)
    while True:
        time.sleep(0.3)
        now = _all_cpu_s(servers)
        if now - before < 0.025:  # two ticks: some have a timer
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"{', '.join(servers)}: still busy after {timeout_s:g} s")
        before = now


def _all_cpu_s(servers: Mapping[str, Computes]) -> float:
    return sum(server.cpu_s() for server in servers.values())
