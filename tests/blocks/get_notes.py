"""What a download tells while it runs, written down; and options that lose no time."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from gateway_blocks.get.model import Control, Options, Summary

QUICK = Options(jobs=3, run_bytes=256 << 10, retry_base_s=0.01, retry_cap_s=0.05, stall_s=5.0, connect_s=5.0)


def quick(**changes) -> Options:
    """Options that wait hardly at all, with changes."""
    return replace(QUICK, **changes)


def noise(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes of which no two blocks are alike."""
    return random.Random(seed).randbytes(size_bytes)


class Notes:
    """An observer that keeps all it hears."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, int]] = []
        self.advanced_bytes = 0
        self.remarks: list[str] = []
        self.summaries: list[Summary] = []
        self.moved = threading.Condition()

    def started(self, name: str, size_bytes: int, done_bytes: int) -> None:
        with self.moved:
            self.starts.append((size_bytes, done_bytes))
            self.moved.notify_all()

    def advanced(self, name: str, count_bytes: int) -> None:
        with self.moved:
            self.advanced_bytes += count_bytes
            self.moved.notify_all()

    def remarked(self, name: str, text: str) -> None:
        self.remarks.append(text)

    def finished(self, name: str, summary: Summary) -> None:
        self.summaries.append(summary)

    @property
    def control(self) -> Control:
        """A control that is told to nobody else."""
        return Control(self)

    def wait_started(self) -> None:
        """Wait until it is known what there is to do."""
        with self.moved:
            assert self.moved.wait_for(lambda: self.starts, 20)

    def wait_for(self, count_bytes: int) -> None:
        """Wait until so many bytes are there."""
        with self.moved:
            assert self.moved.wait_for(lambda: self.advanced_bytes >= count_bytes, 20)


@contextmanager
def aside(function: Callable[[], object], *, ends: type[BaseException] | None = None) -> Iterator[None]:
    """Have it done in a thread, which must be over soon after the body: well, or with an error of the type ``ends``."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()
    if errors and (ends is None or not isinstance(errors[0], ends)):
        raise errors[0]
    assert ends is None or errors
