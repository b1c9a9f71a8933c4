"""How far downloads are, on standard error: a bar on a terminal, a line every few seconds elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TextIO

from gateway_blocks.get.model import Observer, Silent, Summary
from gateway_blocks.get.outcome import printable, size_text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_WINDOW_S = 10.0
_SPEED_AFTER_S = 0.5
_ROW_AFTER_S = 0.5
_WIDE, _BESIDE_NAME, _BESIDE_SHORT, _ECHO = 80, 66, 32, 4
_EMPTY: dict[str, Any] = {"part": "", "size": "", "speed": "", "left": ""}
_MOST_LINES = 10_000
"""Lines that wait for the next drawing; more do so only when the terminal is held, and the oldest are lost."""
_LONG_S = 100 * 3600.0
_TOTAL = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How far something is: bytes, bytes a second over the last ten seconds, seconds left (None: nobody can say)."""

    size_bytes: int
    done_bytes: int
    age_s: float
    rate: float | None

    @property
    def left_s(self) -> float | None:
        """Seconds until it is done at this speed."""
        return max(0, self.size_bytes - self.done_bytes) / self.rate if self.rate and self.size_bytes > 0 else None


class Meter:
    """Bytes done of one file, or of several."""

    def __init__(self, size_bytes: int, done_bytes: int, began: float) -> None:
        self.size_bytes = size_bytes
        self.done_bytes = done_bytes
        self._began = began
        self._samples = deque([(began, done_bytes)])

    def read(self, now: float) -> Reading:
        """Where it is at ``now``; the speed comes from the readings of the last ten seconds."""
        self._samples.append((now, self.done_bytes))
        while len(self._samples) > 2 and self._samples[0][0] < now - _WINDOW_S:
            self._samples.popleft()
        first, before = self._samples[0]
        rate = max(0.0, (self.done_bytes - before) / (now - first)) if now - first >= _SPEED_AFTER_S else None
        return Reading(self.size_bytes, self.done_bytes, now - self._began, rate)


class Named:
    """Passes everything on under one name: the one that the user sees, whatever the engine calls the file."""

    def __init__(self, name: str, observer: Observer) -> None:
        self._name = name
        self._observer = observer

    def started(self, _name: str, size_bytes: int, done_bytes: int) -> None:
        """As told."""
        self._observer.started(self._name, size_bytes, done_bytes)

    def advanced(self, _name: str, count_bytes: int) -> None:
        """As told."""
        self._observer.advanced(self._name, count_bytes)

    def remarked(self, _name: str, text: str) -> None:
        """As told."""
        self._observer.remarked(self._name, text)

    def finished(self, _name: str, summary: Summary) -> None:
        """As told."""
        self._observer.finished(self._name, summary)


class Display(Silent):
    """An observer that writes to ``out``; use it as a context manager. By itself it shows complaints only.

    Whoever starts a file says with ``settled`` that it is over, well or not.
    """

    every_s: ClassVar[float] = 0.0
    """How often it draws; 0 for never."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._lock = threading.Lock()
        self._meters: dict[str, Meter] = {}
        self._plan: tuple[int, Meter] | None = None
        self._settled_files = 0
        self._settled_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self.every_s:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def planned(self, files: int, size_bytes: int) -> None:
        """So many files are to come: a total is shown."""
        with self._lock:
            self._plan = files, Meter(size_bytes, 0, self._clock())
            self._settled_files = self._settled_bytes = 0

    def settled(self, name: str, size_bytes: int = 0) -> None:
        """A file is over; ``size_bytes`` of the plan are dealt with."""
        with self._lock:
            self._meters.pop(name, None)
            self._settled_files += 1
            self._settled_bytes += size_bytes

    def started(self, name: str, size_bytes: int, done_bytes: int) -> None:
        """A file begins, goes on, or begins anew because it changed."""
        with self._lock:
            self._meters[name] = Meter(size_bytes, done_bytes, self._clock())

    def advanced(self, name: str, count_bytes: int) -> None:
        """More of it is there."""
        with self._lock:
            meter = self._meters.get(name)
            if meter is not None:
                meter.done_bytes += count_bytes

    def tell(self, text: str) -> None:
        """Write a line of information."""

    def complain(self, text: str) -> None:
        """Write a line about something that went wrong."""
        with contextlib.suppress(OSError):  # whoever read standard error may have gone
            self._out.write(f"{printable(text)}\n")
            self._out.flush()

    def draw(self) -> None:
        """Show how far everything is; called every ``every_s``."""

    def _watch(self) -> None:
        while not self._ended.wait(self.every_s):
            with contextlib.suppress(OSError):  # as above
                self.draw()

    def _readings(self) -> tuple[Reading | None, str, dict[str, Reading]]:
        """That of all files together, where there is a plan, and its words; those of single files by name."""
        now = self._clock()
        with self._lock:
            files = {name: meter.read(now) for name, meter in self._meters.items()}
            if self._plan is None:
                return None, "", files
            count, total = self._plan
            total.done_bytes = self._settled_bytes + sum(reading.done_bytes for reading in files.values())
            return total.read(now), f"{min(self._settled_files, count)} of {count} files", files


class Lines(Display):
    """For logs and pipes: one line a file, or one for all files of a folder, every five seconds."""

    every_s = 5.0

    def remarked(self, name: str, text: str) -> None:
        """A line of its own."""
        self.tell(f"{name}: {text}")

    def tell(self, text: str) -> None:
        """As complaints."""
        self.complain(text)

    def draw(self) -> None:
        """One line for the total where there is one, else for every file."""
        total, words, files = self._readings()
        for name, reading in (files if total is None else {words: total}).items():
            self.tell(f"{name}: {', '.join(_words(reading))}")


class Bar(Display):
    """For terminals: a bar a file, lines above it; the cursor stays visible, so that no end can lose it."""

    every_s = 0.1

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(out, clock=clock)
        self._progress = _rich_progress(out)
        self._rows: dict[str, TaskID] = {}
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)

    def __enter__(self) -> Self:
        self._progress.start()
        self._progress.console.show_cursor()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        with contextlib.suppress(OSError):
            self._write_lines()
            self._progress.stop()

    def remarked(self, name: str, text: str) -> None:
        """A line above the bars."""
        self.tell(f"{name}: {text}")

    def tell(self, text: str) -> None:
        """A line above the bars, with the next drawing."""
        self._lines.append(printable(text))

    def complain(self, text: str) -> None:
        """As information."""
        self.tell(text)

    def draw(self) -> None:
        """Lines that came, then the bars; a row for a file only when it takes a while."""
        total, words, files = self._readings()
        if total is not None:
            files = {name: reading for name, reading in files.items() if reading.age_s >= _ROW_AFTER_S}
            self._draw_row(_TOTAL, words, total)
        for name, reading in files.items():
            self._draw_row(name, name, reading)
        for name in [name for name in self._rows if name not in files and (name != _TOTAL or total is None)]:
            self._progress.remove_task(self._rows.pop(name))
        self._write_lines()
        self._progress.refresh()

    def _draw_row(self, key: str, label: str, reading: Reading) -> None:
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = self._progress.add_task("", total=None, **_EMPTY)
        room = self._progress.console.width - (_BESIDE_NAME if self._progress.console.width >= _WIDE else _BESIDE_SHORT)
        self._progress.update(
            row,
            description=_shortened(printable(label), max(8, room)),
            completed=reading.done_bytes,
            total=reading.size_bytes if reading.size_bytes > 0 else None,
            part=f"{math.floor(100 * reading.done_bytes / reading.size_bytes)}%" if reading.size_bytes > 0 else "",
            size=_share(reading),
            speed="" if reading.rate is None else f"{size_text(round(reading.rate))}/s",
            left="" if reading.left_s is None else _left(reading.left_s),
        )

    def _write_lines(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if lines:
            self._progress.console.print("\n".join(lines), markup=False, highlight=False, emoji=False, soft_wrap=True)


def display(out: TextIO, *, quiet: bool = False, alone: bool = True) -> Display:
    """The display that fits: ``Bar`` where ``out`` is a terminal that nothing else is written to, ``Lines`` else."""
    if quiet:
        return Display(out)
    drawable = alone and out.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}
    return Bar(out) if drawable else Lines(out)


def _rich_progress(out: TextIO) -> Progress:
    from rich.console import Console, RenderableType
    from rich.constrain import Constrain
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    console = Console(file=out, highlight=False)

    class Narrow(Progress):
        """Leaves room for the ``^C`` that the terminal echoes: wrapped, it would shift what is to be erased."""

        def get_renderables(self) -> Iterable[RenderableType]:
            yield Constrain(self.make_tasks_table(self.tasks), max(1, console.width - _ECHO))

    def field(name: str, style: str = "none") -> TextColumn:
        column = Column(no_wrap=True, justify="right")
        return TextColumn(f"{{task.fields[{name}]}}", style, justify="right", markup=False, table_column=column)

    return Narrow(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=None),
        field("part"),
        *([field("size"), field("speed", "cyan")] if console.width >= _WIDE else []),
        field("left", "green"),
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        expand=True,
    )


def _words(reading: Reading) -> list[str]:
    words = [_share(reading)]
    if reading.size_bytes > 0:
        words.insert(0, f"{math.floor(100 * reading.done_bytes / reading.size_bytes)}%")
    if reading.rate is not None:
        words.append(f"{size_text(round(reading.rate))}/s")
    if reading.left_s is not None:
        words.append(f"{_left(reading.left_s)} left")
    return words


def _share(reading: Reading) -> str:
    """``1.20 of 2.60 GiB``."""
    done, size = size_text(reading.done_bytes), size_text(reading.size_bytes)
    if reading.size_bytes <= 0:
        return done
    return f"{done.split()[0]} of {size}" if done.split()[1] == size.split()[1] else f"{done} of {size}"


def _left(seconds: float) -> str:
    """``0:07``, ``12:34``, ``1:02:03``."""
    if seconds >= _LONG_S:
        return "days"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _shortened(name: str, width: int) -> str:
    """The end of a long name: that is where names differ."""
    return name if len(name) <= width else f"…{name[-width + 1 :]}"
