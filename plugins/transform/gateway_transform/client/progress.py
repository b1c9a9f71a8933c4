"""How far it is, on standard error: a line that changes on a terminal, now and then one more elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from typing import TextIO

from gateway_transform.client.model import printable

_EVERY_S, _LINE_EVERY_S = 0.1, 5.0
_ERASE = "\r\x1b[K"


class Progress:
    """An Observer that writes to ``out``; ``close`` takes the changing line away."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._terminal = out.isatty()
        self._every_s = _EVERY_S if self._terminal else _LINE_EVERY_S
        self._due = 0.0 if self._terminal else clock() + _LINE_EVERY_S
        self._shown = ""

    @property
    def watched(self) -> bool:
        """Whether somebody looks on."""
        return self._terminal

    def show(self, stage: str, detail: str = "") -> None:
        """See Observer; ten times a second on a terminal, else every five seconds where something has changed."""
        text = printable(f"{stage} {detail}".rstrip())
        if text == self._shown or self._clock() < self._due:
            return
        self._due = self._clock() + self._every_s
        self._shown = text
        if self._terminal:
            self._write(f"{_ERASE}{text[: max(10, shutil.get_terminal_size().columns - 1)]}")
        else:
            self._write(f"{text}\n")

    def tell(self, text: str) -> None:
        """See Observer."""
        self.close()
        self._write(f"{printable(text)}\n")

    def close(self) -> None:
        """Leave the terminal's line empty."""
        if self._terminal and self._shown:
            self._write(_ERASE)
            self._shown = ""

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # whoever read standard error may have gone
            self._out.write(text)
            self._out.flush()
