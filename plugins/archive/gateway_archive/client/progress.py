"""How far it is, on standard error: a bar on a terminal, a line every few seconds elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from gateway_archive.client.model import printable, size_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY_S = 5.0
_LEAST_WIDTH = 80
_LONG_S = 100 * 3600.0
_EMPTY = {"part": "", "size": "", "speed": "", "left": ""}


class Quiet:
    """An observer that shows nothing but complaints."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def begin(self, stage: str, done_bytes: int, total_bytes: int | None) -> None:
        """See Observer."""

    def advance(self, count_bytes: int) -> None:
        """See Observer."""

    def tell(self, text: str) -> None:
        """See Observer."""

    def complain(self, text: str) -> None:
        """A line that is shown in any case."""
        with contextlib.suppress(OSError):  # whoever read standard error may have gone
            self._out.write(f"{printable(text)}\n")
            self._out.flush()

    def close(self) -> None:
        """Nothing changes any more."""


class Lines(Quiet):
    """For logs and pipes."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(out)
        self._clock = clock
        self._stage = ""
        self._meter = _Meter(0, None, clock())
        self._due = math.inf

    def begin(self, stage: str, done_bytes: int, total_bytes: int | None) -> None:
        """See Observer."""
        now = self._clock()
        if stage != self._stage:
            self._due = now + _LINE_EVERY_S
        self._stage, self._meter = stage, _Meter(done_bytes, total_bytes, now)

    def advance(self, count_bytes: int) -> None:
        """See Observer; a line is due every five seconds."""
        self._meter.done_bytes += count_bytes
        now = self._clock()
        if now >= self._due:
            self._due = now + _LINE_EVERY_S
            words = self._meter.read(now)
            shown = [words["part"], words["size"], words["speed"], f"{words['left']} left" if words["left"] else ""]
            self.complain(f"{self._stage}: {', '.join(filter(None, shown))}")

    def tell(self, text: str) -> None:
        """See Observer."""
        self.complain(text)


class Bar(Quiet):
    """For terminals; lines go above the bar. The cursor stays visible, so that no end can lose it."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._progress = _rich_progress(out)
        self._task: TaskID | None = None
        self._stage = ""
        self._meter = _Meter(0, None, time.monotonic())
        self._due = 0.0

    def begin(self, stage: str, done_bytes: int, total_bytes: int | None) -> None:
        """See Observer."""
        if self._task is None:
            self._task = self._progress.add_task("", total=None, **dict[str, Any](_EMPTY))
        self._stage, self._meter, self._due = stage, _Meter(done_bytes, total_bytes, time.monotonic()), 0.0
        self.advance(0)
        if not self._progress.live.is_started:
            with contextlib.suppress(OSError):
                self._progress.start()
                self._progress.console.show_cursor()

    def advance(self, count_bytes: int) -> None:
        """See Observer; drawn ten times a second."""
        self._meter.done_bytes += count_bytes
        now = time.monotonic()
        if now < self._due or self._task is None:
            return
        self._due = now + 0.1
        done, total = self._meter.done_bytes, self._meter.total_bytes
        words = self._meter.read(now)
        with contextlib.suppress(OSError):  # the terminal may have gone
            shown: dict[str, Any] = {"description": self._stage, **words}
            self._progress.update(self._task, completed=done, total=total, **shown)
            self._progress.refresh()

    def tell(self, text: str) -> None:
        """See Observer."""
        self.complain(text)

    def complain(self, text: str) -> None:
        """See Quiet."""
        with contextlib.suppress(OSError):
            shown = printable(text)
            self._progress.console.print(shown, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._task is not None:
            with contextlib.suppress(OSError):
                self._progress.stop()


def display(out: TextIO, *, quiet: bool = False, alone: bool = True) -> Quiet:
    """What fits: ``Bar`` where ``out`` is a terminal that nothing else is written to, else ``Lines``."""
    if quiet:
        return Quiet(out)
    drawable = alone and out.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}
    return Bar(out) if drawable else Lines(out)


class _Meter:
    """Bytes done, and how fast: over the last five to ten seconds."""

    def __init__(self, done_bytes: int, total_bytes: int | None, now: float) -> None:
        self.done_bytes, self.total_bytes = done_bytes, total_bytes
        self._old = self._recent = (now, done_bytes)

    def read(self, now: float) -> dict[str, str]:
        """``part``, ``size``, ``speed`` and time ``left`` as words, empty where nobody can say."""
        if now - self._recent[0] >= _LINE_EVERY_S:
            self._old, self._recent = self._recent, (now, self.done_bytes)
        elapsed = now - self._old[0]
        rate = (self.done_bytes - self._old[1]) / elapsed if elapsed >= 0.5 else 0.0
        words = {**_EMPTY, "size": size_text(self.done_bytes)}
        if self.total_bytes:
            words["part"] = f"{100 * self.done_bytes // self.total_bytes}%"
            words["size"] = _share(self.done_bytes, self.total_bytes)
        if rate:
            words["speed"] = f"{size_text(round(rate))}/s"
            words["left"] = _left((self.total_bytes - self.done_bytes) / rate) if self.total_bytes else ""
        return words


def _share(done_bytes: int, total_bytes: int) -> str:
    """``1.20 of 2.60 GiB``."""
    done, size = size_text(done_bytes), size_text(total_bytes)
    return f"{done.split()[0]} of {size}" if done.split()[1] == size.split()[1] else f"{done} of {size}"


def _left(seconds: float) -> str:
    """``0:07``, ``12:34``, ``1:02:03``."""
    if seconds >= _LONG_S:
        return "days"
    minutes, rest = divmod(math.ceil(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rich_progress(out: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    console = Console(file=out, highlight=False)

    def field(name: str, style: str = "none") -> TextColumn:
        column = Column(no_wrap=True, justify="right")
        return TextColumn(f"{{task.fields[{name}]}}", style, justify="right", markup=False, table_column=column)

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None),
        field("part"),
        *([field("size"), field("speed", "cyan")] if console.width >= _LEAST_WIDTH else []),
        field("left", "green"),
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        expand=True,
    )
