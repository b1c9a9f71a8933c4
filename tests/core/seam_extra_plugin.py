"""A plugin that extends another, and gets along without it."""

from __future__ import annotations

from collections.abc import Iterable

from gateway_core import hookimpl


@hookimpl(optionalhook=True)
def seam_words(length: int) -> Iterable[str]:
    return [word for word in ("pipe", "zip", "tick") if len(word) == length]
