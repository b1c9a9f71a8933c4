"""What a job came to, as ``status.json`` and the worker are told."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from gateway_transform.box import codes
from gateway_transform.box.untar import Facts


def _gateway_version() -> str:
    try:
        return metadata.version("content-gateway")
    except metadata.PackageNotFoundError:
        return ""


GATEWAY_VERSION = _gateway_version()
"""Of the installed distribution, read before there are boxes; empty when it runs without one."""


@dataclass(slots=True)
class Account:
    """Filled while a job runs. ``steps`` are ``{"name", "state", "ms", "version"}``, ``inputs`` the upload's files."""

    job_id: str
    attempt: int
    queued_ms: int
    sandbox: str
    state: str = codes.SUCCEEDED
    error: dict[str, Any] | None = None
    run_ms: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)
    inputs: Mapping[str, Facts] = field(default_factory=dict)

    def fail(self, code: str, message: str, step: str = "") -> None:
        """The job has ended with this error: ``cancelled`` is a state of its own."""
        self.state = codes.CANCELLED if code == codes.CANCELLED else codes.FAILED
        self.error = codes.error(code, message, step)

    def status_json(self, outputs: Mapping[str, Facts]) -> bytes:
        """The file ``status.json``; ``outputs`` are the result's files."""
        status = {
            "id": self.job_id,
            "state": self.state,
            "error": self.error,
            "attempt": self.attempt,
            "queued_ms": self.queued_ms,
            "run_ms": self.run_ms,
            "steps": self.steps,
            "inputs": _described(self.inputs),
            "outputs": _described(outputs),
            "versions": {"gateway": GATEWAY_VERSION, "python": platform.python_version()},
            "sandbox": self.sandbox,
        }
        return json.dumps(status, indent=1).encode() + b"\n"


def _described(files: Mapping[str, Facts]) -> dict[str, dict[str, object]]:
    return {path: {"bytes": facts.size, "sha256": facts.sha256} for path, facts in files.items()}
