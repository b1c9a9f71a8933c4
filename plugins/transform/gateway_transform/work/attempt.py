"""One attempt of a job: the talk with its box, from the upload to the archive that is the result."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway_core import ObjectMissing, StorageError, Unavailable
from gateway_core.settled import settled
from gateway_core.storage.base import Storage
from gateway_transform.box.pack import PackCaps
from gateway_transform.box.wire import WireError
from gateway_transform.jobs.model import Claim, ErrorCode, JobError, JobState, Upload
from gateway_transform.settings import TransformSettings
from gateway_transform.work.believed import Message, Unpacked, ended_from, unpacked_from
from gateway_transform.work.pool import BoxPool
from gateway_transform.work.salvage import Wreck, salvage, state_for
from gateway_transform.work.zygote import ZYGOTE_LOST, Box

_MARGIN_S = 300.0
_CANCEL_S = 10.0
_LOG_TAIL_BYTES = 64 << 10
_OWN_MB = 256
"""More than what a box adds to a job's files: out.log, status.json, the archive's own bytes."""

Advice = Callable[[Unpacked], Awaitable["Go"]]


@dataclass(frozen=True, slots=True)
class Go:
    """What it is told then: lines for out.log, and a stored result that makes its steps needless."""

    warnings: tuple[str, ...] = ()
    cached: Upload | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How it ended; the archive is the file ``archive`` in the box's folder."""

    state: JobState
    archive: Path
    run_ms: int
    steps: tuple[dict[str, Any], ...] = ()
    error: JobError | None = None
    log: str = ""


@dataclass
class Progress:
    """What others are told while it runs. ``changed`` is set with every step."""

    step: str = ""
    done: list[str] = field(default_factory=list)
    unpacked: Unpacked | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    log_fd: int | None = None

    def begins(self, index: object) -> None:
        """The next step begins; raises ValueError for one that is not the next."""
        names = self.unpacked.names if self.unpacked is not None else ()
        begun = len(self.done) + bool(self.step)
        if index != begun or begun >= len(names):
            raise ValueError("not the next step")
        if self.step:
            self.done.append(self.step)
        self.step = names[begun]
        self.changed.set()

    def broken_steps(self, error: JobError) -> list[dict[str, Any]]:
        """The steps as status.json lists them, when the box cannot say any more."""
        last = "cancelled" if error.code is ErrorCode.CANCELLED else "failed"
        begun = [{"name": name, "state": "succeeded"} for name in self.done]
        begun += [{"name": self.step, "state": last}] if self.step else []
        names = self.unpacked.names if self.unpacked is not None else ()
        return begun + [{"name": name, "state": "skipped"} for name in names[len(begun) :]]

    def log_tail(self) -> str:
        """The end of out.log as it is now."""
        if self.log_fd is None:
            return ""
        try:
            size = os.fstat(self.log_fd).st_size
            return os.pread(self.log_fd, _LOG_TAIL_BYTES, max(0, size - _LOG_TAIL_BYTES)).decode(errors="replace")
        except OSError:
            return ""


class Attempt:
    """Runs ``claim`` once. ``advise`` answers when the box has looked into the upload."""

    def __init__(
        self, claim: Claim, pool: BoxPool, storage: Storage, *, settings: TransformSettings, advise: Advice
    ) -> None:
        self.claim = claim
        self.progress = Progress()
        self._pool = pool
        self._storage = storage
        self._settings = settings
        self._advise = advise

    @asynccontextmanager
    async def verdict(self) -> AsyncIterator[Verdict]:
        """Run it; the archive is there until the block ends.

        Raises NoBox, ObjectMissing when the upload is gone, StorageError, Unavailable when all boxes were lost. A box
        that breaks, hangs or lies gives a verdict too, with what can be saved of its files.
        """
        network = False
        while True:
            box = await self._pool.take(network=network)
            try:
                found = await self._in_box(box)
                if found is not None:
                    yield found
                    return
                network = True
            finally:
                self._pool.discard(box)

    async def _in_box(self, box: Box) -> Verdict | None:
        """None when this job needs a box with the network."""
        began = time.monotonic()
        archive = box.folder / "result"
        async with _files(self._storage, self.claim.upload.key, archive) as fds:
            self.progress.log_fd = fds[2]
            try:
                done = await self._until_done(box, fds)
                return None if done is None else self._believed(done, archive, most_ms=round(1000 * _since(began)))
            except _Broken as broken:
                await self._pool.kill(box)
                wreck = Wreck(
                    box.folder / "work", archive, fds[2], self.claim, broken.error, round(1000 * _since(began))
                )
                steps = tuple(self.progress.broken_steps(broken.error))
                caps = PackCaps(self._settings.disk_mb << 20, 20 * self._settings.max_files)
                await settled(asyncio.to_thread(salvage, wreck, steps, caps=caps))  # it uses the descriptors
                state, log = state_for(broken.error), self.progress.log_tail()
                return Verdict(state, archive, wreck.run_ms, steps, broken.error, log)
            finally:
                self.progress.log_fd = None

    async def _until_done(self, box: Box, fds: Sequence[int]) -> Message | None:
        """What the box said at its end, None when it was stopped for want of the network; raises _Broken."""
        limit_s = self._settings.job_timeout_s + _MARGIN_S
        try:
            async with asyncio.timeout(limit_s) as timer:
                cancelling = asyncio.create_task(self._cancel_when_asked(box, timer), name="cancel a job")
                try:
                    return await self._talk(box, fds)
                finally:
                    cancelling.cancel()
                    await asyncio.wait([cancelling])
        except TimeoutError as error:
            if self.progress.cancelled.is_set():
                raise _Broken(self._error(ErrorCode.CANCELLED, "cancelled")) from error
            raise _Broken(self._error(ErrorCode.TIMEOUT, f"not done within {limit_s:g} s")) from error
        except (OSError, WireError, LookupError, TypeError, ValueError) as error:
            if box.exited.done() and box.exited.result() == ZYGOTE_LOST:
                raise Unavailable("the process that makes sandboxes has died, and the job's box with it") from error
            raise _Broken(self._error(ErrorCode.CRASHED, "the sandbox ended before the job")) from error

    def _error(self, code: ErrorCode, message: str) -> JobError:
        return JobError(code, message, self.progress.step)

    async def _talk(self, box: Box, fds: Sequence[int]) -> Message | None:
        """Whatever comes out of its turn ends it: each message may come once, so that they have an end."""
        await box.channel.send(self._job_message(), fds)
        unpacked: Unpacked | None = None
        while True:
            message = await box.channel.receive()
            if message is None:
                raise WireError("the box has ended")
            if message["type"] == "done":
                return message
            if message["type"] == "step":
                self.progress.begins(message["index"])
            elif message["type"] == "unpacked" and unpacked is None:
                unpacked = unpacked_from(message, self._pool.catalogue.transformations)
                self.progress.unpacked = unpacked
                if unpacked.network and not box.network:
                    await box.channel.send({"type": "stop"})
                    return None
                await self._let_go(box, await self._advise(unpacked))
            else:
                raise WireError("a message out of its turn")

    async def _let_go(self, box: Box, go: Go) -> None:
        answer = {"type": "go", "warnings": list(go.warnings)}
        if go.cached is not None:
            with contextlib.suppress(StorageError):  # it may expire at any moment: then the steps are run
                async with opened(self._storage, go.cached.key, box.folder / "cached") as fd:
                    await box.channel.send(answer | {"restore": True}, [fd])
                    return
        await box.channel.send(answer | {"restore": False})

    async def _cancel_when_asked(self, box: Box, timer: asyncio.Timeout) -> None:
        await self.progress.cancelled.wait()
        latest = asyncio.get_running_loop().time() + _CANCEL_S
        if not timer.expired():
            timer.reschedule(min(latest, timer.when() or latest))
        with contextlib.suppress(OSError):
            await box.channel.send({"type": "cancel"})

    def _job_message(self) -> Message:
        settings, claim = self._settings, self.claim
        return {
            "type": "job",
            "id": claim.job_id,
            "attempt": claim.attempt,
            "queued_ms": claim.queued_ms,
            "created": claim.created,
            "limits": limits(settings, claim.upload.size_bytes),
        }

    def _believed(self, done: Message, archive: Path, *, most_ms: int) -> Verdict:
        """What a box says counts for its own job only, and must have the right form; raises _Broken."""
        try:
            ended = ended_from(done)
            if not 0 < archive.stat().st_size <= (self._settings.disk_mb + _OWN_MB) << 20:
                raise ValueError("no archive")
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as wrong:
            raise _Broken(self._error(ErrorCode.CRASHED, "the sandbox gave no account of the job")) from wrong
        run_ms = min(ended.run_ms, most_ms)
        return Verdict(ended.state, archive, run_ms, ended.steps, ended.error, self.progress.log_tail())


def limits(settings: TransformSettings, upload_bytes: int) -> dict[str, Any]:
    """What a box is told to keep to."""
    return {
        "seconds": settings.job_timeout_s,
        "memory_mb": settings.memory_mb,
        "disk_mb": settings.disk_mb,
        "processes": settings.processes,
        "max_unpacked_mb": settings.max_unpacked_mb,
        "max_files": settings.max_files,
        "upload_bytes": upload_bytes,
    }


class _Broken(Exception):
    """The box did not bring the job to its end."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


@asynccontextmanager
async def _files(storage: Storage, key: str, archive: Path) -> AsyncIterator[Sequence[int]]:
    """Descriptors of the upload, of the empty archive and of out.log."""
    async with opened(storage, key, archive.with_name("upload")) as upload:
        result = os.open(archive, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            log = os.open(
                archive.with_name("out.log"), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            try:
                yield upload, result, log
            finally:
                os.close(log)
        finally:
            os.close(result)


@asynccontextmanager
async def opened(storage: Storage, key: str, copy: Path) -> AsyncIterator[int]:
    """A descriptor of a stored object: of its file, or of a verified ``copy`` where the storage has no files."""
    local = storage.local_path(key)
    if local is None:
        await fetch(storage, key, copy)
        local = copy
    try:
        fd = os.open(local, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ObjectMissing(key) from error
    try:
        yield fd
    finally:
        os.close(fd)


async def fetch(storage: Storage, key: str, copy: Path) -> None:
    """Write a stored object into the new file ``copy``; raises ObjectMissing, StorageError."""
    async with storage.open(key) as chunks:
        with copy.open("xb") as file:
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)


def _since(began: float) -> float:
    return time.monotonic() - began
