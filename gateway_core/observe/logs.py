"""Logs: structlog for our own and the standard library's loggers alike, JSON when nobody is watching."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

# structlog.dev imports rich wherever it is installed, for tracebacks that are not used here: 0.1 s and 8 MB a process.
_hide_rich = "structlog" not in sys.modules and "rich" not in sys.modules
if _hide_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402 - see above

if _hide_rich:
    del sys.modules["rich"]

_URL_QUERY = re.compile(r"(https?://)(?:[^\s/?#@\"']*@)?([^\s?#\"']*)(?:\?[^\s#\"']*)?(?:#[^\s\"']*)?")
_BEARER = re.compile(r"\b(gw_[A-Za-z0-9]{6})[A-Za-z0-9]{20,}|\b(eyJ[\w-]{6})[\w-]*\.[\w-]+\.[\w-]*")
_SECRET_KEYS = re.compile(r"secret|token|password|authorization|cookie|api[-_]?key", re.IGNORECASE)

LogFormat = Literal["auto", "json", "console"]


def get_logger(name: str) -> Any:
    """A structlog logger; ``name`` is dotted, ``gateway.<room>``."""
    return structlog.get_logger(name)


def begin_context(**values: str) -> None:
    """Put ``values`` into every line that is logged from this task on, in place of what was there."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**values)


def scrub(text: str) -> str:
    """``text`` without URL queries, user info, gateway secrets and JSON web tokens."""
    if "://" in text:
        text = _URL_QUERY.sub(lambda m: f"{m[1]}{m[2]}" + ("?…" if "?" in m[0] else ""), text)
    return _BEARER.sub(lambda m: f"{m[1] or m[2]}…", text)


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if _SECRET_KEYS.search(key):
            event[key] = "***"
        elif isinstance(value, str):
            event[key] = scrub(value)
    return event


def configure_logging(*, level: str, log_format: LogFormat, debug: bool = False) -> None:
    """Send everything to standard error, one line an event, redacted; ``debug`` keeps tracebacks readable."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if console:
        formatter = structlog.dev.plain_traceback
        final += [_redact, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=formatter)]
    else:
        final += [structlog.processors.format_exc_info, _redact, structlog.processors.JSONRenderer(ensure_ascii=False)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=final))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiosqlite", "asyncio", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.DEBUG if debug else logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
