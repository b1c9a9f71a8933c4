"""``job.json``: the steps of a job and who is told of its end."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from gateway_transform.box.codes import Refused
from gateway_transform.box.context import Entry
from gateway_transform.box.untar import Facts

JOB_FILE = "job.json"
MAX_BYTES = 1 << 20
MAX_STEPS = 256
MAX_NAME_CHARS = 200
MAX_URL_CHARS = 2048

_REASON = "bad_job_json"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Step:
    """One transformation to be run, by its name, with the options of the job file."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobFile:
    """``hook`` is the address to be told, ``hook_form`` is ``circe`` or ``standard``."""

    steps: tuple[Step, ...]
    hook: str | None = None
    hook_form: str = "circe"


def parse(data: bytes) -> JobFile:
    """The job in the bytes of ``job.json``; raises Refused (``bad_job_json``) with the field's name in the message.

    Keys that nobody knows are passed over, as in Circe.
    """
    if len(data) > MAX_BYTES:
        raise Refused(_REASON, f"job.json has more than {MAX_BYTES} bytes")
    try:
        job = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise Refused(_REASON, "job.json is nested too deeply") from error
    except ValueError as error:
        raise Refused(_REASON, f"job.json is not JSON: {error}") from error
    if not isinstance(job, dict):
        raise Refused(_REASON, "job.json is not an object")
    steps = job.get("transformations")
    if not isinstance(steps, list) or len(steps) > MAX_STEPS:
        raise Refused(_REASON, f"transformations: must be a list of at most {MAX_STEPS} steps")
    return JobFile(
        tuple(_step(f"transformations.{at}", step) for at, step in enumerate(steps)),
        _hook(job.get("notify_hook")),
        "standard" if job.get("notify_format") == "standard" else "circe",
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice in an object")
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _step(place: str, step: object) -> Step:
    if not isinstance(step, dict):
        raise Refused(_REASON, f"{place}: must be an object")
    name, options = step.get("name"), step.get("options")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS or _UNPRINTABLE.search(name):
        raise Refused(_REASON, f"{place}.name: must be text of 1 to {MAX_NAME_CHARS} printable characters")
    if options is not None and not isinstance(options, dict):
        raise Refused(_REASON, f"{place}.options: must be an object or null")
    return Step(name, options or {})


def _hook(url: object) -> str | None:
    if url is None or url == "":
        return None
    if not isinstance(url, str) or len(url) > MAX_URL_CHARS or _UNPRINTABLE.search(url):
        raise Refused(_REASON, f"notify_hook: must be an address of at most {MAX_URL_CHARS} characters, or null")
    return url


def cache_key(files: Mapping[str, Facts], steps: Sequence[Step], entries: Mapping[str, Entry]) -> str:
    """Hex SHA-256 that is equal where the result must be: same files, same steps, all of them deterministic.

    "" when that cannot be promised.
    """
    if not steps or not all(step.name in entries and entries[step.name].deterministic for step in steps):
        return ""
    parts = [
        sorted((path, facts.sha256) for path, facts in files.items() if path != JOB_FILE),
        [(step.name, entries[step.name].version, step.options) for step in steps],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
