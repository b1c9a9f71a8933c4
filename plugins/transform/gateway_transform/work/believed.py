"""What a box says, as far as it can be believed: it may have been taken over by what it ran.

Whatever is not of the right form raises LookupError, TypeError or ValueError. What boxes may ask for, the network and
modules to be loaded, is not theirs to say: the catalogue has it for the steps that they name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gateway_transform.box.codes import storable
from gateway_transform.box.jobfile import MAX_NAME_CHARS, MAX_STEPS
from gateway_transform.jobs.model import ErrorCode, Hook, JobError, JobState

_MESSAGE_CHARS = 4000
_MOST_FIELDS = 1000
_MOST_MS = 1 << 40
_STEP_STATES = frozenset({"succeeded", "failed", "unknown", "skipped", "cancelled"})

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a box says of its upload before the first step, with what those steps need."""

    names: tuple[str, ...]
    hook: Hook | None
    network: bool
    cache_key: str
    preload: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """What a box says of its job's end."""

    state: JobState
    run_ms: int
    steps: tuple[dict[str, Any], ...]
    error: JobError | None


def unpacked_from(message: Message, transformations: Mapping[str, Mapping[str, Any]]) -> Unpacked:
    """The message ``unpacked``; ``transformations`` is the catalogue's."""
    names = tuple(_text(name, MAX_NAME_CHARS) for name in _few(message["names"]))
    steps = [transformations[name] for name in set(names) if name in transformations]
    hook = message["hook"]
    return Unpacked(
        names=names,
        hook=None if hook is None else Hook(_text(hook), "standard" if message["hook_form"] == "standard" else "circe"),
        network=any(step["limits"]["network"] for step in steps),
        cache_key=_text(message["cache_key"], 64),
        preload=tuple(sorted({module for step in steps for module in step["preload"]})),
    )


def ended_from(message: Message) -> Ended:
    """The message ``done``."""
    state, raw = JobState(_text(message["state"])), message["error"]
    error = None
    if raw is not None:
        error = JobError(
            ErrorCode(_text(raw["code"])),
            storable(_text(raw["message"])),
            _text(raw["step"] or "", MAX_NAME_CHARS),
        )
    if not state.final or state is JobState.EXPIRED or (state is JobState.SUCCEEDED) != (error is None):
        raise ValueError(f"a job that is {state}")
    return Ended(state, _ms(message["run_ms"]), tuple(map(_step, _few(message["steps"]))), error)


def scanned_from(message: Message) -> dict[str, Any]:
    """The message ``scanned``: ``error`` with its ``code`` and ``message``, or None, and messages by field."""
    if message["type"] != "scanned":
        raise ValueError(message["type"])
    raw, fields = message["error"], message["fields"]
    error = None if raw is None else {key: storable(_text(raw[key])) for key in ("code", "message")}
    if not isinstance(fields, dict):
        raise TypeError("fields")
    told = {
        storable(field[:_MESSAGE_CHARS]): [storable(_text(text[:_MESSAGE_CHARS])) for text in _few(texts)]
        for field, texts in islice(fields.items(), _MOST_FIELDS)
    }
    return {"error": error, "fields": told}


def _step(step: Any) -> dict[str, Any]:
    """A step as status.json lists it."""
    if step["state"] not in _STEP_STATES:
        raise ValueError("state")
    told = {
        "name": storable(_text(step["name"], MAX_NAME_CHARS)),
        "state": step["state"],
        "ms": _ms(step["ms"]),
        "version": storable(_text(step["version"], _MESSAGE_CHARS)),
    }
    return told | ({"cached": True} if step.get("cached") is True else {})


def _few(values: Any) -> Sequence[Any]:
    if not isinstance(values, list) or len(values) > MAX_STEPS:
        raise TypeError("not a short list")
    return values


def _text(value: Any, most: int = _MESSAGE_CHARS) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise TypeError("not a short text")
    return value


def _ms(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= _MOST_MS:
        raise ValueError("not a time")
    return value
