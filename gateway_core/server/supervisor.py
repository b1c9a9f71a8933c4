"""Several serving processes on one port: the parent binds, starts, watches and stops them."""

from __future__ import annotations

import os
import select
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
from gateway_core.storage.scratch import scratch_folder

log = get_logger("gateway.supervisor")

LOOK_EVERY_S = 0.1
RESTART_MAX_S = 10.0
STEADY_S = 10.0
STOP_GRACE_S = 10.0
_ENDED_WELL = (0, -signal.SIGTERM)
"""The second is a worker that was stopped before it listened to signals, so before it served anybody."""

_REFUSED = (1, 2)
"""What the command line ends with when something needed cannot be had, or the configuration is wrong."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    started: float
    failures: int = 0
    restart_at: float | None = None

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


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
    _stops: int = 0

    def run(self) -> int:
        """Block until every child has ended after a signal; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        ours, theirs = socket.socketpair()
        with scratch_folder(self.gateway.settings.data_dir / "scratch") as folder, ours, theirs:
            os.environ[MULTIPROCESS_DIR] = str(folder)
            for index in range(self.gateway.settings.workers):
                self._workers[index] = _Worker(self._spawn(theirs), time.monotonic())
            return self._watch(ours, theirs)

    def _spawn(self, link: socket.socket) -> subprocess.Popen[bytes]:
        descriptors = {name: sock.fileno() for name, sock in {**self.sockets, "parent": link}.items()}
        inherit = ",".join(f"{name}={number}" for name, number in descriptors.items())
        return subprocess.Popen(  # noqa: S603 - our own interpreter and our own arguments
            [sys.executable, "-P", "-m", "gateway_core", *self.arguments, "--inherit", inherit],
            pass_fds=list(descriptors.values()),
            env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},  # the parent speaks
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then asks the children to drain
        )

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stops += 1

    def _watch(self, ours: socket.socket, theirs: socket.socket) -> int:
        """Each child writes a byte to its end of the link when it serves, and stops when ours is closed."""
        settings = self.gateway.settings
        limit_s = settings.drain_delay_s + settings.drain_timeout_s + STOP_GRACE_S
        deadline, deaf_at, serving, passed_on = float("inf"), float("inf"), 0, 0
        while True:
            if passed_on < self._stops:
                passed_on += 1
                now = time.monotonic()
                deadline, deaf_at = min(deadline, now + limit_s), min(deaf_at, now + settings.drain_delay_s)
                self._stop(first=passed_on == 1)
            elif not passed_on:
                if not serving and self._refused():
                    self._stops += 1
                else:
                    self._restart(theirs)
            elif not any(worker.alive for worker in self._workers.values()):
                return int(any(w.process.returncode not in _ENDED_WELL for w in self._workers.values()))
            elif time.monotonic() > deadline:
                self._kill()
            if time.monotonic() >= deaf_at:
                self._deafen()
            if select.select([ours], [], [], LOOK_EVERY_S)[0]:
                before, serving = serving, serving + len(ours.recv(64))
                if before < settings.workers <= serving and not passed_on:
                    log.info("ready", url=f"http://{address(self.sockets[MAIN])}", workers=len(self._workers))
                    notify_systemd("READY=1")

    def _refused(self) -> bool:
        """Whether a worker could not start, and said so; while nobody has served yet, trying again mends nothing."""
        return any(worker.process.poll() in _REFUSED for worker in self._workers.values())

    def _stop(self, *, first: bool) -> None:
        if first:
            notify_systemd("STOPPING=1")
        for worker in self._workers.values():
            if worker.alive:
                worker.process.send_signal(signal.SIGTERM)

    def _deafen(self) -> None:
        """Close the ports with the children, or the kernel goes on to accept clients whom nobody will serve."""
        for sock in self.sockets.values():
            sock.close()

    def _kill(self) -> None:
        for worker in self._workers.values():
            if worker.alive:
                worker.process.kill()

    def _restart(self, link: socket.socket) -> None:
        for index, worker in self._workers.items():
            if worker.alive:
                continue
            now, process = time.monotonic(), worker.process
            if worker.restart_at is None:
                worker.failures = 0 if now - worker.started > STEADY_S else worker.failures + 1
                pause_s = min(RESTART_MAX_S, 0.1 * 2**worker.failures)
                worker.restart_at = now + pause_s
                _forget_gauges(process.pid)
                log.error("worker ended", index=index, pid=process.pid, code=process.returncode, restart_in_s=pause_s)
            elif now >= worker.restart_at:
                self._workers[index] = _Worker(self._spawn(link), now, worker.failures)


def _forget_gauges(pid: int) -> None:
    """What a worker was doing when it died is not being done any more."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]
