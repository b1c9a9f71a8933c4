"""``out.log``: one JSON object a line, as Circe writes it, appended by the box and by its steps.

Keys in order: ``timestamp`` (UTC), ``level``, ``name``, ``message``, then what a dict as message or ``extra`` adds,
``exc_info`` and ``stack_info`` as text.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
from datetime import UTC, datetime
from typing import Any

STEP_BYTES = 1 << 20
"""How long the log may get by what steps write."""
LOG_BYTES = STEP_BYTES + (1 << 20)
"""How long it may get at all: what the box itself has to say finds its place."""

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_OWN_KEYS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JobLog(logging.Handler):
    """Appends to the file ``fd`` (opened with O_APPEND), one write a record; ``logger`` is what steps are given.

    A step's lines beyond ``STEP_BYTES`` are dropped after one warning, in all processes together.
    """

    def __init__(self, fd: int, job_id: str) -> None:
        super().__init__(logging.DEBUG)
        self.fd = fd
        self._limit = LOG_BYTES
        self._full = mmap.mmap(-1, 1)
        self.logger = logging.getLogger(f"job_logger_{job_id}")
        self.logger.setLevel(logging.DEBUG)
        self.logger.propagate = False
        self.logger.handlers[:] = [self]

    def hold(self) -> None:
        """From now on, in this process and its children, lines are a step's."""
        self._limit = STEP_BYTES

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, or nothing when the log is full."""
        if self._limit == STEP_BYTES and self._full[0]:
            return
        try:
            line = line_of(record)
            if os.fstat(self.fd).st_size + len(line) > self._limit:
                self._full[0] = 1
                text = f"The log is full: nothing after {STEP_BYTES} bytes is kept"
                line = line_of(logging.LogRecord(record.name, logging.WARNING, "", 0, text, None, None))
            os.write(self.fd, line)
        except Exception:  # noqa: BLE001 - logging's own border: what is logged may raise anything when it is shown
            self.handleError(record)

    def tail(self, count: int) -> str:
        """The last lines, at most ``count`` bytes of them."""
        size = os.fstat(self.fd).st_size
        data = os.pread(self.fd, count, max(0, size - count))
        if size > count:
            data = data[data.find(b"\n") + 1 :]
        return data.decode(errors="replace")

    def content(self) -> bytes:
        """All of it, as it goes into the result."""
        return os.pread(self.fd, LOG_BYTES, 0)


def line_of(record: logging.LogRecord) -> bytes:
    """The record as a line of ``out.log``; what JSON cannot say is said by ``str``."""
    said: dict[Any, Any] | None = record.msg if isinstance(record.msg, dict) else None
    fields: dict[Any, Any] = {
        "timestamp": datetime.fromtimestamp(record.created, UTC).strftime(_TIME),
        "level": record.levelname,
        "name": record.name,
        "message": record.getMessage() if said is None else "",
    }
    fields.update(said or {})
    fields.update((key, value) for key, value in vars(record).items() if key not in _OWN_KEYS)
    formatter = logging.Formatter()
    if record.exc_info:
        fields.setdefault("exc_info", formatter.formatException(record.exc_info))
    if record.stack_info:
        fields.setdefault("stack_info", formatter.formatStack(record.stack_info))
    try:
        text = json.dumps(fields, default=str, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps({str(key): value if isinstance(value, str) else str(value) for key, value in fields.items()})
    return text.encode() + b"\n"
