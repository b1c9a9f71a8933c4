"""Options as they come from clients: text from forms, numbers and booleans from programs; wrong ones are named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway_transform.api import BadOptions, Option

YES_OR_NO: Mapping[str, str] = {"yes": "Yes", "no": "No"}

_RANGE = re.compile(r"(\d{1,7})?\s*(-)?\s*(\d{1,7})?")


def text(options: Mapping[str, Any], option: Option) -> str:
    """The option's value without blanks around it, its default where it is missing, null or empty.

    ``BadOptions`` where it must be one of ``option.values``, in any case of letters, and is not. True and false are
    ``yes`` and ``no``.
    """
    value = options.get(option.id)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if value is not None and not isinstance(value, str | int | float):
        raise BadOptions(f"{option.id}: a text is expected, not {type(value).__name__}")
    chosen = "" if value is None else str(value).strip()
    if not chosen:
        return option.default
    if option.values and not option.free_input:
        allowed = {value.casefold(): value for value in option.values}
        if chosen.casefold() not in allowed:
            raise BadOptions(f"{option.id}: {chosen[:100]!r} is none of {', '.join(option.values)}")
        return allowed[chosen.casefold()]
    return chosen


def number(options: Mapping[str, Any], option: Option, *, low: int, high: int) -> int | None:
    """The option's value as a whole number from ``low`` to ``high``; None if it is empty and has no default."""
    chosen = text(options, option)
    if not chosen:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", chosen) or not low <= int(chosen) <= high:
        raise BadOptions(f"{option.id}: {chosen[:100]!r} is no whole number from {low} to {high}")
    return int(chosen)


def yes(options: Mapping[str, Any], option: Option) -> bool:
    """Whether an option whose values are ``YES_OR_NO`` says yes."""
    return text(options, option) == "yes"


def page_ranges(options: Mapping[str, Any], option: Option) -> list[tuple[int, int | None]]:
    """``1-3, 5, 8-`` as first and last pages, counted from 1; None stands for the document's end.

    Empty for an empty option: all pages.
    """
    chosen = text(options, option)
    return [_page_range(part.strip(), option.id) for part in chosen.split(",")] if chosen else []


def _page_range(part: str, option_id: str) -> tuple[int, int | None]:
    match = _RANGE.fullmatch(part)
    if match is not None and (match[1] or match[3]):
        first = int(match[1] or 1)
        last = int(match[3]) if match[3] else None if match[2] else first
        if first >= 1 and (last is None or first <= last):
            return first, last
    raise BadOptions(f"{option_id}: {part[:100]!r} are no pages; write them as 1-3, 5, 8-")
