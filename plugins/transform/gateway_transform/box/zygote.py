"""The process that boxes are forked from: it has loaded the transformations, and never runs one.

``python -m gateway_transform.box.zygote JSON`` (see ``ZygoteOptions``). One thread, no event loop: it forks.
Started by a thread that lives as long as the worker, since its end would be the zygote's too.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from gateway_transform.box import catalogue, descendants, isolation, levels, skeleton, watch, wire
from gateway_transform.box import syscalls as calls
from gateway_transform.box.context import NAMESPACES, RLIMITS, Context
from gateway_transform.box.isolation import Ground
from gateway_transform.box.namespaces import Base, fork_first

Init = Callable[[socket.socket, Context], object]
_BROKEN = 70  # EX_SOFTWARE of sysexits.h
_NO_BOX = _BROKEN << 8


@dataclass(frozen=True, slots=True)
class ZygoteOptions:
    """The zygote's one argument, as JSON.

    ``socket`` is the number of its inherited end of the control socket. ``modules`` are searched for transformations,
    ``named`` are name -> ``module:attribute``. ``sandbox`` is the setting; ``best`` the strongest level that is tried.
    ``readable`` may be read by boxes, ``hide`` never. ``uid`` is the user of boxes when this process is root; None:
    nobody. Paths are absolute.
    """

    socket: int
    modules: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)
    sandbox: str = "auto"
    readable: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    uid: int | None = None
    best: str = NAMESPACES


class Zygote:
    """Forks boxes and reaps them; whoever is in no box is killed."""

    def __init__(self, control: socket.socket, ground: Ground, init: Init) -> None:
        self._control = control
        self._ground = ground
        self._init = init
        self._boxes: dict[int, str] = {}
        self._spared = frozenset(descendants.descendants(os.getpid()))
        self._alive_reading, self._alive = os.pipe2(os.O_CLOEXEC)
        self._wake_reading, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until the worker closes the control socket, or is gone; then every box is ended."""
        waiting = select.poll()
        waiting.register(self._control, select.POLLIN)
        waiting.register(self._wake_reading, select.POLLIN)
        try:
            while True:
                ready = {descriptor for descriptor, _ in waiting.poll()}
                if self._wake_reading in ready:
                    os.read(self._wake_reading, 4096)
                    self._reap()
                if self._control.fileno() in ready and not self._obey():
                    return
        except (ConnectionError, wire.WireError):
            return
        finally:
            self._end_all()

    def _obey(self) -> bool:
        """One message of the worker; False at the end."""
        received = wire.receive(self._control)
        if received is None:
            return False
        message, fds = received
        if message["type"] == "spawn":
            self._spawn(message, fds)
        elif message["type"] == "kill":
            for pid in [pid for pid, box in self._boxes.items() if box == message["box"]]:
                self._kill(pid)
        elif message["type"] == "preload":
            preload(message["modules"])
        for fd in fds:
            os.close(fd)
        return True

    def _spawn(self, message: dict[str, Any], fds: list[int]) -> None:
        box, folder, network, fd = message["box"], str(message["folder"]), bool(message["network"]), fds[0]
        try:
            pid = fork_first() if self._ground.level == NAMESPACES else os.fork()
        except OSError as error:
            self._tell({"type": "exited", "box": box, "status": _NO_BOX, "message": str(error)})
            return
        if pid == 0:
            self._become(fd, folder, network=network)
        self._boxes[pid] = box
        self._tell({"type": "spawned", "box": box, "pid": pid})

    def _become(self, fd: int, folder: str, *, network: bool) -> NoReturn:
        """In the child: be a box, whatever happens. Nothing of the zygote's own work goes on here."""
        status = _BROKEN
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.close(self._alive)
            self._control.detach()
            sock = socket.socket(fileno=fd)
            status = self._run(sock, folder, network=network)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else _BROKEN
        except BaseException as error:  # noqa: BLE001 - the border of a process: nothing may return from here
            sys.stderr.write(f"box: {type(error).__name__}: {error}\n")
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _run(self, sock: socket.socket, folder: str, *, network: bool) -> int:
        try:
            context = isolation.enter(self._ground, folder, network=network).context
        except OSError as error:
            wire.send(sock, {"type": "broken", "message": str(error)})
            return _BROKEN
        isolation.tie_to_zygote(self._alive_reading, pid1=context.pid1)
        isolation.let_go(sock.fileno())
        calls.set_dumpable(dumpable=False)
        self._init(sock, context)
        return 0

    def _kill(self, pid: int) -> None:
        """A box and all that is in it; it is reaped by the loop."""
        if self._ground.level != NAMESPACES:
            signal_quietly(pid, signal.SIGSTOP)
            descendants.kill_descendants(pid)
        signal_quietly(pid, signal.SIGKILL)

    def _reap(self) -> None:
        ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            ended = True
            if (box := self._boxes.pop(pid, None)) is not None:
                self._tell({"type": "exited", "box": box, "status": status})
        if ended and self._ground.level != NAMESPACES:
            descendants.kill_descendants(os.getpid(), spare=[*self._boxes, *self._spared])

    def _end_all(self) -> None:
        for pid in self._boxes:
            self._kill(pid)
        descendants.kill_descendants(os.getpid())

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            wire.send(self._control, message)
        except BrokenPipeError:
            return


def signal_quietly(pid: int, number: signal.Signals) -> None:
    """To a child that has not been reaped, so that the number is still its own."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def preload(modules: Sequence[str]) -> None:
    """Load modules now that boxes will need; what cannot be loaded is said and left to them."""
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - anything can go wrong in somebody's module, exits too
            sys.stderr.write(f"preload of {name}: {type(error).__name__}: {error}\n")
    gc.freeze()


def prepare(options: ZygoteOptions) -> tuple[Ground, dict[str, Any]]:
    """Load the transformations and make ready for boxes; the catalogue message.

    Raises catalogue.Unloadable or OSError, which say why there can be no boxes.
    """
    uid = isolation.box_uid(options.uid)
    best = RLIMITS if options.sandbox == "off" else options.best
    level, missing = levels.choose(best, uid=uid)
    if options.sandbox == "require" and level != NAMESPACES:
        raise OSError(f"this system gives no namespaces, which are required: {'; '.join(missing)}")
    base = Base() if level == NAMESPACES else None
    found = catalogue.load(options.modules, options.named)
    if (count := watch.threads([os.getpid()])) > 1:
        sys.stderr.write(f"modules of transformations started {count - 1} threads, which no box will have\n")
    readable = skeleton.readable_paths(options.readable)
    if base is not None:
        base.build(skeleton.plan(readable, options.hide), uid=os.getuid() if uid is None else uid)
        allowed: list[str] = []
    else:
        allowed = ["/proc", *skeleton.unmasked(readable, options.hide)]
    ground = Ground(level, uid, base, tuple(allowed), found.entries)
    message = {
        "type": "catalogue",
        "transformations": {name: entry.described() for name, entry in found.entries.items()},
        "hidden": found.hidden,
        "level": level,
        "missing": missing,
    }
    return ground, message


def run(options: ZygoteOptions, init: Init) -> int:
    """Serve boxes that run ``init``; the exit status. Modules of the current folder can be imported, as in Circe."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    control = socket.socket(fileno=options.socket)
    control.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they come to the worker too, which may still finish its jobs
    calls.die_with_parent(signal.SIGKILL)
    calls.adopt_orphans()
    try:
        ground, message = prepare(options)
    except (catalogue.Unloadable, OSError) as error:
        wire.send(control, {"type": "failed", "message": str(error)})
        return 1
    calls.die_with_parent(signal.SIGKILL if ground.level == NAMESPACES else 0)
    gc.collect()
    gc.freeze()
    wire.send(control, message)
    Zygote(control, ground, init).serve()
    return 0


def main(arguments: Sequence[str]) -> int:
    """The command: its one argument is JSON."""
    from gateway_transform.box import init

    return run(ZygoteOptions(**json.loads(arguments[0])), init.main)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
