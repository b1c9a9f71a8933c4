"""Logging is set up once a process; tests that set it up give it back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

NOISY = ("asyncio", "aiohttp.access")


@contextmanager
def logging_restored() -> Iterator[None]:
    """Handlers, levels and structlog's configuration are at the end what they were at the beginning."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in NOISY}
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
        structlog.contextvars.clear_contextvars()
        structlog.reset_defaults()
