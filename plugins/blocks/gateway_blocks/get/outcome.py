"""How it ended: exit codes, and the one line that says what was verified, fetched and reused, and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from gateway_blocks.get.model import Checked, Differs, GetError, Stopped, Summary, Unreachable
from gateway_core.errors import ConfigError, GatewayError

OK, RETRY, USAGE, UNVERIFIABLE, DIFFERS, STOPPED = 0, 1, 2, 3, 4, 130
_WORST_FIRST = (STOPPED, USAGE, DIFFERS, UNVERIFIABLE, RETRY, OK)
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_SHOWN_BLOCKS = 10


class Work(Enum):
    """What is done with a URL."""

    DOWNLOAD = "download"
    VERIFY = "verify"
    REPAIR = "repair"


def exit_code(error: GatewayError) -> int:
    """What ``gateway get`` exits with for one error."""
    if isinstance(error, GetError):
        return error.exit_code
    return USAGE if isinstance(error, ConfigError) else RETRY


def worst(codes: Iterable[int]) -> int:
    """The exit code of several files: stopped, then what trying again cannot mend (2, 4, 3), then 1, then 0."""
    return min(codes, key=_WORST_FIRST.index, default=OK)


def success_line(name: str, summary: Summary, work: Work = Work.DOWNLOAD) -> str:
    """One line for a file that is as it should be; it says ``NOT verified`` where nothing proves it."""
    return printable(f"{name}: {size_text(summary.size_bytes)} {_verdict(summary)}{_details(summary, work)}")


def failure_line(name: str, error: GatewayError) -> str:
    """One line for a file that is not, with what can be done about it."""
    return printable(f"{name}: {_what_failed(error).removeprefix(f'{name} ').removeprefix('is ')}")


def is_unchanged(summary: Summary) -> bool:
    """Whether nothing was fetched for a file that is proven: it was whole already, or is empty."""
    return summary.checked is Checked.BLOCKS and not summary.fetched_bytes and not summary.bad_blocks


def total_line(summaries: Sequence[Summary], failed: int, seconds: float, *, unit: str = "files") -> str:
    """One line for several files: how many and how much, what of it is verified, and how many failed."""
    sure = sum(s.size_bytes for s in summaries if s.checked is Checked.BLOCKS)
    unsure = sum(s.size_bytes for s in summaries if s.checked is not Checked.BLOCKS)
    fetched = sum(s.fetched_bytes for s in summaries)
    count = len(summaries)
    units = unit.removesuffix("s") if count + failed == 1 else unit
    parts = [f"{count} of {count + failed} {units}" if failed else f"{count} {units}"]
    if sure or not unsure:
        parts.append(f"{size_text(sure)} verified")
    if unsure:
        parts.append(f"{size_text(unsure)} NOT verified (no checksums)")
    parts += _moved(fetched, sum(s.reused_bytes for s in summaries), seconds)
    if failed:
        parts.append(f"{failed} failed")
    return f"total: {', '.join(parts)}"


def size_text(size_bytes: int) -> str:
    """``17 bytes``, ``9.8 KiB``, ``512 MiB``, ``1.40 GiB``: three digits, powers of 1024."""
    if size_bytes < 1024:
        return f"{size_bytes} byte{'' if size_bytes == 1 else 's'}"
    value, unit = size_bytes / 1024, 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def span_text(seconds: float) -> str:
    """``40 ms``, ``1.4 s``, ``17 s``, ``3:07``, ``1:02:03``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def printable(text: str) -> str:
    """Names and messages come from elsewhere: what could steer a terminal is shown as U+FFFD."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _verdict(summary: Summary) -> str:
    if summary.checked is Checked.BLOCKS:
        return "verified"
    return "NOT verified: the server has no checksums"


def _details(summary: Summary, work: Work) -> str:
    replaced = len(summary.bad_blocks)
    if work is Work.VERIFY:
        notes = ["the same as the server's", f"took {span_text(summary.seconds)}"]
    elif is_unchanged(summary) and summary.size_bytes:
        same = "nothing to repair" if work is Work.REPAIR else "whole already"
        notes = [same, f"took {span_text(summary.seconds)}"]
    else:
        notes = _moved(summary.fetched_bytes, summary.reused_bytes, summary.seconds)
    if replaced and work is Work.REPAIR:
        notes.insert(0, f"{_blocks(replaced)} replaced")
    elif replaced:
        notes.append(f"{_blocks(replaced)} came damaged and {'was' if replaced == 1 else 'were'} fetched again")
    return f"; {', '.join(notes)}"


def _moved(fetched: int, reused: int, seconds: float) -> list[str]:
    speed = f" at {size_text(round(fetched / seconds))}/s" if fetched and seconds > 0 else ""
    notes = [f"fetched {size_text(fetched)}{speed}"]
    if reused:
        notes.append(f"reused {size_text(reused)}")
    return [*notes, f"took {span_text(seconds)}"]


def _blocks(count: int) -> str:
    return f"{count} block{'' if count == 1 else 's'}"


def _what_failed(error: GatewayError) -> str:
    text = error.detail or error.title
    if isinstance(error, Differs) and error.bad_blocks:
        shown = ", ".join(str(number) for number in error.bad_blocks[:_SHOWN_BLOCKS])
        more = ", ..." if len(error.bad_blocks) > _SHOWN_BLOCKS else ""
        return f"{text} ({_blocks(len(error.bad_blocks))}: {shown}{more}); --repair fetches what differs"
    if isinstance(error, Unreachable | Stopped):
        return f"{text}; the same command goes on from here"
    return text
