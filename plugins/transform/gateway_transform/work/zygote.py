"""The zygote as its worker sees it: a process that has the transformations loaded and makes boxes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway_core import ConfigError
from gateway_core.errors import StartupError
from gateway_core.observe.logs import get_logger
from gateway_core.storage.removal import remove_folder
from gateway_transform.box.wire import WireError
from gateway_transform.work.channel import Channel
from gateway_transform.work.folders import make_folder

log = get_logger("gateway.transform")

ZYGOTE_LOST = -1
"""As the status of a box that ended because its zygote did."""
SANDBOX_UID = 65534
"""Whom a box runs as where the gateway is root."""
_START_S = 120.0
_STOP_S = 5.0
_KEPT_VARIABLES = ("PATH", "TZ", "PYTHONPATH", "VIRTUAL_ENV")
_LINE_BYTES = 4096
_MOST_LINES = 100
_LINES_S = 10.0


@dataclass(frozen=True)
class ZygotePlan:
    """What a zygote loads and what its boxes may see; ``named`` maps names to ``module:callable``."""

    modules: Sequence[str]
    named: Mapping[str, str]
    sandbox: str
    readable: Sequence[Path]
    hide: Sequence[Path]


@dataclass(frozen=True)
class Catalogue:
    """What the zygote found: transformations by name, why others are hidden, how tight its boxes are."""

    transformations: Mapping[str, Mapping[str, Any]]
    hidden: Mapping[str, str]
    level: str
    missing: Sequence[str]


@dataclass
class Box:
    """One sandbox, for one job: its folder holds ``work`` and ``tmp``, its channel ends with it."""

    id: str
    folder: Path
    channel: Channel
    network: bool
    exited: asyncio.Future[int] = field(repr=False)


class ZygoteLost(Exception):
    """The zygote is gone, and all of its boxes with it."""


class Zygote:
    """A running zygote. ``lost`` is set when it ends, by ``stop`` or by itself."""

    def __init__(
        self, process: asyncio.subprocess.Process, channel: Channel, catalogue: Catalogue, *, lines: asyncio.Task[str]
    ) -> None:
        self.catalogue = catalogue
        self.lost = asyncio.Event()
        self._process = process
        self._channel = channel
        self._boxes: dict[str, Box] = {}
        self._tasks = (asyncio.create_task(self._listen(), name="zygote"), lines)

    @classmethod
    async def start(cls, plan: ZygotePlan) -> Zygote:
        """Start one and wait until its transformations are loaded.

        Raises ConfigError for a module that cannot be loaded, StartupError when it does not start or the sandbox is
        less than required.
        """
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        try:
            with theirs:
                process = await _process(plan, theirs)
        except BaseException:
            channel.close()
            raise
        lines = asyncio.create_task(_relay_lines(process), name="zygote's lines")  # a full pipe would hold it up
        try:
            return cls(process, channel, await _catalogue(channel, lines), lines=lines)
        except BaseException:
            channel.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            lines.cancel()
            await asyncio.wait([lines])
            raise

    async def spawn(self, folder: Path, *, network: bool = False) -> Box:
        """Make a box whose files are in the new folder ``folder``; raises ZygoteLost, OSError."""
        try:
            make_folder(folder, uid=SANDBOX_UID if os.geteuid() == 0 else None)
            return await self._spawn(folder, network=network)
        except BaseException:
            remove_folder(folder)
            raise

    async def _spawn(self, folder: Path, *, network: bool) -> Box:
        ours, theirs = socket.socketpair()
        exited = asyncio.get_running_loop().create_future()
        box = Box(uuid.uuid4().hex, folder, Channel(ours), network, exited)
        with theirs:
            self._boxes[box.id] = box
            try:
                message = {"type": "spawn", "box": box.id, "folder": str(folder), "network": network}
                await self._send(message, [theirs.fileno()])
            except BaseException:
                self._boxes.pop(box.id, None)
                box.channel.close()
                raise
        return box

    async def preload(self, modules: Sequence[str]) -> None:
        """Load ``modules`` for the boxes that are made from now on; raises ZygoteLost."""
        await self._send({"type": "preload", "modules": list(modules)})

    async def kill(self, box: Box) -> None:
        """End the box with all that runs in it."""
        if not box.exited.done():
            with contextlib.suppress(ZygoteLost):
                await self._send({"type": "kill", "box": box.id})
        await asyncio.wait([box.exited], timeout=_STOP_S)
        self._boxes.pop(box.id, None)

    async def discard(self, box: Box) -> None:
        """End the box with all that runs in it, and remove its folder."""
        box.channel.close()
        await self.kill(box)
        await asyncio.to_thread(remove_folder, box.folder)

    async def stop(self) -> None:
        """End it and all of its boxes."""
        self._channel.shut()
        try:
            async with asyncio.timeout(_STOP_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._channel.close()
        self._all_gone()

    async def _send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if self.lost.is_set():
            raise ZygoteLost
        try:
            await self._channel.send(message, fds)
        except OSError as error:
            raise ZygoteLost from error

    async def _listen(self) -> None:
        try:
            while (message := await self._channel.receive()) is not None:
                if message["type"] == "exited":
                    self._ended(str(message.get("box")), int(message.get("status", 0)))
        except (OSError, WireError) as error:
            log.warning("the zygote talks nonsense", error=str(error))
        finally:
            self._all_gone()

    def _ended(self, box_id: str, status: int) -> None:
        box = self._boxes.pop(box_id, None)
        if box is not None and not box.exited.done():
            box.exited.set_result(status)

    def _all_gone(self) -> None:
        self.lost.set()
        for box_id, box in list(self._boxes.items()):
            box.channel.shut()  # where there are no namespaces, a box learns from it that it must end
            self._ended(box_id, ZYGOTE_LOST)


async def _process(plan: ZygotePlan, control: socket.socket) -> asyncio.subprocess.Process:
    arguments = {
        "socket": control.fileno(),
        "modules": list(plan.modules),
        "named": dict(plan.named),
        "sandbox": plan.sandbox,
        "readable": [str(path) for path in plan.readable],
        "hide": [str(path) for path in plan.hide],
        "uid": SANDBOX_UID if os.geteuid() == 0 else None,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway_transform.box.zygote",
        json.dumps(arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(),
        pass_fds=[control.fileno()],
        limit=_LINE_BYTES,
    )


async def _catalogue(channel: Channel, lines: asyncio.Task[str]) -> Catalogue:
    try:
        async with asyncio.timeout(_START_S):
            message = await channel.receive()
    except (TimeoutError, OSError, WireError) as error:
        raise StartupError(f"transform: the process that makes sandboxes does not start: {error}") from error
    if message is None:
        raise StartupError(f"transform: the process that makes sandboxes does not start: {await _last_words(lines)}")
    if message["type"] != "catalogue":
        raise ConfigError(f"transform: {message.get('message', 'no transformations')}")
    return Catalogue(message["transformations"], message["hidden"], message["level"], message["missing"])


async def _last_words(lines: asyncio.Task[str]) -> str:
    await asyncio.wait([lines], timeout=_STOP_S)
    return (lines.result() if lines.done() else "") or "it said nothing"


async def _relay_lines(process: asyncio.subprocess.Process) -> str:
    """What modules print while they are loaded belongs into the gateway's log; returns the last line.

    Boxes have this error output too, and one that was taken over must not fill the log: lines beyond a few are dropped.
    """
    last, until, told = "", 0.0, 0
    while process.stderr is not None:
        try:
            line = await process.stderr.readline()
        except ValueError:  # a line without an end
            continue
        if not line:
            break
        last = line.decode(errors="replace").rstrip() or last
        if time.monotonic() >= until:
            until, told = time.monotonic() + _LINES_S, 0
        told += 1
        if told <= _MOST_LINES:
            log.warning("from transformations", line=line.decode(errors="replace").rstrip())
        elif told == _MOST_LINES + 1:
            log.warning("more from transformations is left out", for_s=_LINES_S)
    return last


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return {"PATH": os.defpath, **kept, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "HOME": "/tmp"}  # noqa: S108
