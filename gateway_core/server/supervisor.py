"""Several serving processes on one port: the parent binds, starts, watches and stops them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from gateway_core.gateway import Gateway
from gateway_core.observe.logs import get_logger
from gateway_core.observe.metrics import MULTIPROCESS_DIR
from gateway_core.server.sockets import MAIN, address, notify_systemd

log = get_logger("gateway.supervisor")

RESTART_MAX_S = 10.0
STEADY_S = 10.0
STOP_GRACE_S = 10.0


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    started: float
    failures: int = 0


@dataclass
class Supervisor:
    """Runs ``settings.workers`` children of this command line until it is told to stop.

    Children are spawned afresh, never forked from a process that has threads. A child that ends is started again,
    with growing pauses while it keeps ending early.
    """

    gateway: Gateway
    sockets: Mapping[str, socket.socket]
    arguments: Sequence[str]
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _stopping: int = 0

    def run(self) -> int:
        """Block until every child has ended after a signal; returns the exit code."""
        metrics_dir = self.gateway.settings.data_dir / "scratch" / f"metrics-{os.getpid()}"
        metrics_dir.mkdir(parents=True)
        os.environ[MULTIPROCESS_DIR] = str(metrics_dir)
        reading, writing = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            for index in range(self.gateway.settings.workers):
                self._workers[index] = _Worker(self._spawn(reading), time.monotonic())
            log.info("ready", url=f"http://{address(self.sockets[MAIN])}", workers=len(self._workers))
            notify_systemd("READY=1")
            return self._watch(reading)
        finally:
            os.close(writing)
            os.close(reading)
            shutil.rmtree(metrics_dir, ignore_errors=True)

    def _spawn(self, parent: int) -> subprocess.Popen[bytes]:
        descriptors = {name: sock.fileno() for name, sock in self.sockets.items()}
        inherit = ",".join(f"{name}={number}" for name, number in {**descriptors, "parent": parent}.items())
        return subprocess.Popen(  # noqa: S603 - our own interpreter and our own arguments
            [sys.executable, "-m", "gateway_core", *self.arguments, "--inherit", inherit],
            pass_fds=[*descriptors.values(), parent],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then asks the children to drain
        )

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping += 1
        for worker in self._workers.values():
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)

    def _watch(self, parent: int) -> int:
        limit_s = self.gateway.settings.drain_delay_s + self.gateway.settings.drain_timeout_s + STOP_GRACE_S
        deadline = float("inf")
        while True:
            alive = [w for w in self._workers.values() if w.process.poll() is None]
            if self._stopping:
                deadline = min(deadline, time.monotonic() + limit_s)
                if not alive:
                    return max((abs(w.process.returncode) for w in self._workers.values()), default=0) and 1
                if time.monotonic() > deadline:
                    for worker in alive:
                        worker.process.kill()
            else:
                self._restart(parent)
            time.sleep(0.1)

    def _restart(self, parent: int) -> None:
        for index, worker in self._workers.items():
            code = worker.process.poll()
            if code is None:
                continue
            lived_s = time.monotonic() - worker.started
            failures = 0 if lived_s > STEADY_S else worker.failures + 1
            pause_s = min(RESTART_MAX_S, 0.1 * 2**failures)
            log.error("worker ended", index=index, pid=worker.process.pid, code=code, restart_in_s=pause_s)
            time.sleep(pause_s)
            if not self._stopping:
                self._workers[index] = _Worker(self._spawn(parent), time.monotonic(), failures)
