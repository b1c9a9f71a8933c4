"""Logs: structlog for our own and the standard library's loggers alike, JSON when nobody is watching."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal

# structlog.dev imports rich wherever it is installed, for tracebacks that are not used here: 0.1 s and 8 MB a process.
_hide_rich = "structlog" not in sys.modules and "rich" not in sys.modules
if _hide_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402 - see above

if _hide_rich:
    del sys.modules["rich"]

_URL = re.compile(r"""\b([a-z][a-z0-9+.-]*)://([^\s"'<>`]*)""", re.IGNORECASE)
_WEB = frozenset({"http", "https", "ws", "wss"})
_CREDENTIAL = re.compile(
    r"\b(gw_[A-Za-z0-9]{6})[A-Za-z0-9]{20,}"
    r"|\b(gwp_[0-9a-f]{16})_[\w-]+"  # an invitation: what follows its id is its secret
    r"|\b(eyJ[\w-]{6})[\w-]*\.[\w-]+\.[\w-]*"
    r"|\b((?:Bearer|Basic)\s+)[\w.~+/=-]{8,}"
)
_SECRET_KEYS = re.compile(r"secret|token|password|authorization|cookie|api[-_]?key", re.IGNORECASE)
_SEPARATORS = "\x7f-\x9f\u2028\u2029\ud800-\udfff"
_NOT_IN_JSON = re.compile(f"[{_SEPARATORS}]")
"""What the JSON encoder leaves as it is, though terminals, line readers and UTF-8 do not take it."""
_NOT_ON_CONSOLE = re.compile(f"[\x00-\x1f{_SEPARATORS}]")
_NOT_IN_TRACEBACKS = re.compile(f"[\x00-\x08\x0b-\x1f{_SEPARATORS}]")
_DEEPEST = 8
_ENCODE = json.JSONEncoder(ensure_ascii=False, default=repr).encode
_quoted = json.encoder.encode_basestring

LogFormat = Literal["auto", "json", "console"]


def get_logger(name: str) -> Any:
    """A structlog logger; ``name`` is dotted, ``gateway.<room>``."""
    return structlog.get_logger(name)


def begin_context(**values: str) -> None:
    """Put ``values`` into every line that is logged from this task on, in place of what was there."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**values)


def scrub(text: str) -> str:
    """``text`` without URL queries, user info, gateway secrets, JSON web tokens and values of Authorization."""
    if "://" in text:
        text = _URL.sub(_bare_url, text)
    return _CREDENTIAL.sub(lambda m: f"{m[m.lastindex or 0]}…", text)


def _bare_url(match: re.Match[str]) -> str:
    """Scheme, host and path. In a database's URL a password may hold any character, so it ends at the last ``@``."""
    scheme, rest = match[1], match[2]
    if scheme.lower() not in _WEB:
        rest = rest.rpartition("@")[2]
    shown = re.split("[?#]", rest, maxsplit=1)[0]
    authority, slash, path = shown.partition("/")
    cut = "?…" if len(shown) < len(rest) else ""
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}{cut}"


_Line = tuple[float, str, dict[str, Any], dict[str, Any]]
"""Unix seconds, event, values, context."""


class RequestLog:
    """The line of each answered request, written as all others but without their machinery, which costs 0.1 ms.

    It goes the long way where it would look different: on a console, or when somebody has added a handler. Lines of
    one turn of the event loop are written at its end, together.
    """

    NAME = "gateway.access"
    _handler: logging.StreamHandler[Any] | None = None

    def __init__(self) -> None:
        self._logger = logging.getLogger(self.NAME)
        self._clean = _Redact(_NOT_IN_JSON)
        self._lines: list[_Line] = []
        self._second, self._shown_second = 0, ""
        self._no_context = contextvars.Context()

    @classmethod
    def write_to(cls, handler: logging.StreamHandler[Any] | None) -> None:
        """Lines are written here, in JSON; None: all go the long way. ``configure_logging`` does it."""
        cls._handler = handler

    def __call__(self, event: str, **values: Any) -> None:
        """Log ``event`` at level info, with ``values`` of which ``path`` is redacted, and the task's context."""
        handler = self._handler
        processors = structlog.get_config()["processors"]
        usual = processors[:1] == [structlog.stdlib.filter_by_level]  # not while tests capture what is logged
        if handler is None or not usual or self._logger.handlers or logging.root.handlers != [handler]:
            get_logger(self.NAME).info(event, **values)
            return
        if not self._logger.isEnabledFor(logging.INFO):
            return
        self._lines.append((time.time(), event, values, structlog.contextvars.get_contextvars()))
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self._write, context=self._no_context)
            except RuntimeError:  # there is no loop
                self._write()

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        handler = self._handler
        if handler is None:
            return
        text = "".join(map(self._line, lines))
        handler.acquire()
        try:
            handler.stream.write(text)
            handler.flush()
        finally:
            handler.release()

    def _line(self, line: _Line) -> str:
        """One line, with the keys in the order in which structlog has them."""
        moment, event, values, context = line
        second = int(moment)
        if second != self._second:
            self._second = second
            self._shown_second = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        if "path" in values:
            values["path"] = self._clean.text(values["path"])
        told = ", ".join([f"{_quoted(key)}: {_encoded(value)}" for key, value in (*values.items(), ("event", event))])
        more = "".join([f", {_quoted(key)}: {_encoded(value)}" for key, value in context.items()])
        micros = int((moment - second) * 1e6)
        stamp = f"{self._shown_second}.{micros:06}Z"
        return f'{{{told}{more}, "logger": "{self.NAME}", "level": "info", "timestamp": "{stamp}"}}\n'


def _encoded(value: Any) -> str:
    """``value`` in JSON."""
    return _quoted(value) if type(value) is str else _ENCODE(value)


class _Redact:
    """Takes what must stay secret out of every value at any depth, and what breaks lines out of every text."""

    def __init__(self, unprintable: re.Pattern[str]) -> None:
        self._unprintable = unprintable

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {key: self._clean(key, value, _DEEPEST) for key, value in event.items()}

    def _clean(self, key: str, value: Any, depth: int) -> Any:
        if _SECRET_KEYS.search(key):
            return "***"
        if value is None or isinstance(value, bool | int | float):
            return value
        if depth and isinstance(value, Mapping):
            return {str(name): self._clean(str(name), inner, depth - 1) for name, inner in value.items()}
        if depth and isinstance(value, list | tuple | set | frozenset):
            return [self._clean(key, inner, depth - 1) for inner in value]
        lines = self._unprintable is _NOT_ON_CONSOLE and key in {"exception", "stack"}
        return self.text(value if isinstance(value, str) else repr(value), lines=lines)

    def text(self, text: str, *, lines: bool = False) -> str:
        """One text without secrets and control characters, ``lines`` with its line breaks."""
        unprintable = _NOT_IN_TRACEBACKS if lines else self._unprintable
        return unprintable.sub(lambda m: ascii(m[0])[1:-1], scrub(text))


def configure_logging(*, level: str, log_format: LogFormat, debug: bool = False) -> None:
    """Send everything to standard error, warnings too, one line an event, redacted.

    On the console a traceback takes several lines. ``debug`` lets libraries tell what they do.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    final += [structlog.processors.format_exc_info]
    if console:
        formatter = structlog.dev.plain_traceback
        final += [
            _Redact(_NOT_ON_CONSOLE),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=formatter),
        ]
    else:
        final += [_Redact(_NOT_IN_JSON), structlog.processors.JSONRenderer(ensure_ascii=False)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=final))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    RequestLog.write_to(None if console else handler)
    logging.captureWarnings(True)
    for noisy in ("asyncio", "aiohttp.access"):
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
        cache_logger_on_first_use=False,  # logging may be set up again
    )
