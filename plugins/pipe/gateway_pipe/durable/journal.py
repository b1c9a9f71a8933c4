"""What a node remembers of durable calls, so that one that is delivered twice runs once.

An SQLite file, or nothing but memory. A call is written down before its handler runs, and its answer before it is sent.
The journal file is truncated, never removed: with ``synchronous=FULL`` a commit is then on the disk when it returns
(https://www.sqlite.org/pragma.html#pragma_synchronous), without the write-ahead log, which older versions may corrupt
(https://www.sqlite.org/wal.html#walresetbug).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from gateway_core.errors import StartupError, StorageError
from gateway_core.observe.logs import get_logger
from gateway_pipe.link.messages import head_payload, parse_head
from gateway_pipe.link.model import Head

log = get_logger("gateway.pipe")
T = TypeVar("T")

_SLACK_S = 86400.0
_SETTLED_S = 3600.0
_SWEEP_EVERY_S = 600.0
_BUSY_S = 5.0
_MAX_SETTLED = 10_000
_SCHEMA = """CREATE TABLE IF NOT EXISTS calls (
    id TEXT PRIMARY KEY, attempts INTEGER NOT NULL, expires REAL NOT NULL, head TEXT, body BLOB)"""
_BEGIN = """INSERT INTO calls (id, attempts, expires) VALUES (?, 1, ?)
    ON CONFLICT (id) DO UPDATE SET attempts = attempts + 1 RETURNING attempts"""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, whole."""

    head: Head
    body: bytes


class Journal:
    """``async with Journal(path) as journal``; ``path`` None remembers until the process ends.

    A call is forgotten a day after its time is over, when no gateway delivers it any more; its answer's body soon
    after ``settled``. Methods raise StorageError when the file cannot be written, and then nothing has changed.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._file: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._settled: list[str] = []
        self._swept: float | None = None

    async def __aenter__(self) -> Self:
        """Raises StartupError when the file is none, or not this program's, or another process has it.

        That one would not know what runs here, and run it as well.
        """
        if self._path is None:
            log.warning("no folder to remember durable calls in: one that runs when this program ends may run twice")
        try:
            await self._in_thread(self._open)
        except StorageError as error:
            await self._in_thread(self._close)
            self._thread.shutdown(wait=False)
            raise StartupError(f"{self._path}: {error}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._in_thread(self._close))
        self._thread.shutdown(wait=False)

    async def begin(self, call_id: str, left_s: float) -> int | Answered:
        """Write down that a call begins, which is over in ``left_s``: the number of its attempt, or its answer."""
        return await self._in_thread(lambda: self._begin(call_id, left_s))

    async def finish(self, call_id: str, answer: Answered) -> None:
        """Write down the answer of a call that has begun."""
        head = head_payload(answer.head).decode()

        def write(file: sqlite3.Connection) -> None:
            file.execute("UPDATE calls SET head = ?, body = ? WHERE id = ?", (head, answer.body, call_id))

        await self._in_thread(lambda: self._write(write))

    async def withdraw(self, call_id: str) -> None:
        """An attempt that has begun was refused before anything ran."""

        def write(file: sqlite3.Connection) -> None:
            file.execute("UPDATE calls SET attempts = attempts - 1 WHERE id = ? AND head IS NULL", (call_id,))

        await self._in_thread(lambda: self._write(write))

    def settled(self, call_id: str) -> None:
        """The gateway has kept the call's answer; noted with the next call, as losing it only costs space."""
        if len(self._settled) < _MAX_SETTLED:
            self._settled.append(call_id)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StorageError(f"the journal of durable calls cannot be used: {error}") from error
        except OSError as error:
            raise StorageError(f"the journal of durable calls cannot be opened: {error.strerror}") from error

    def _open(self) -> None:
        if self._path is not None:
            # in a file beside it, because closing any descriptor of its own takes SQLite's locks away (fcntl(2))
            self._lock = _private(self._path.with_name(f"{self._path.name}.lock"))
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StorageError("this node runs already: another process has its journal") from error
            os.close(_private(self._path))
        self._file = sqlite3.connect(
            self._path or ":memory:", timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        for pragma in ("journal_mode = TRUNCATE", "synchronous = FULL"):
            self._file.execute(f"PRAGMA {pragma}")
        self._file.execute(_SCHEMA)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _begin(self, call_id: str, left_s: float) -> int | Answered:
        def write(file: sqlite3.Connection) -> int | Answered:
            self._sweep(file)
            found = file.execute(
                "SELECT head, body FROM calls WHERE id = ? AND head IS NOT NULL", (call_id,)
            ).fetchone()
            if found is not None:
                return Answered(parse_head(found[0].encode()), found[1])
            return int(file.execute(_BEGIN, (call_id, time.time() + left_s + _SLACK_S)).fetchone()[0])

        return self._write(write)

    def _write(self, write: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``write`` in one transaction."""
        if self._file is None:
            raise StorageError("the journal of durable calls is closed")
        self._file.execute("BEGIN IMMEDIATE")
        try:
            result = write(self._file)
            self._file.execute("COMMIT")
        except BaseException:
            if self._file.in_transaction:
                self._file.execute("ROLLBACK")
            raise
        return result

    def _sweep(self, file: sqlite3.Connection) -> None:
        """Drop bodies that are kept elsewhere, and now and then what is over.

        A settled call stays for an hour without its body: a second gateway that began to deliver it before must find it
        answered, and throws away what it gets.
        """
        settled, self._settled = self._settled, []
        if settled:
            shrink = "UPDATE calls SET body = x'', expires = min(expires, ?) WHERE id = ? AND head IS NOT NULL"
            file.executemany(shrink, [(time.time() + _SETTLED_S, call_id) for call_id in settled])
        clock = time.monotonic()
        if self._swept is None or clock - self._swept > _SWEEP_EVERY_S:
            self._swept = clock
            file.execute("DELETE FROM calls WHERE expires < ?", (time.time(),))


def _private(path: Path) -> int:
    """A descriptor of the file, which is made for its owner alone; raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
