"""What goes wrong between a person and a gateway, and what is told while it works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from gateway_core.errors import GatewayError


class ClientError(GatewayError):
    """A job that could not be sent, followed or taken home."""

    type, title = "transform-client", "The job did not come through"


class Unreachable(ClientError):
    """The server or the network failed, or said for too long that it has no room."""

    type, title = "unreachable", "The gateway cannot be reached"


class Denied(ClientError):
    """The server does not know the secret, or the client may not do that."""

    type, title = "denied", "The gateway says no"


class JobGone(ClientError):
    """There is no such job, or not any more."""

    type, title = "job-gone", "No such job"


class Observer(Protocol):
    """Hears how far it is."""

    def show(self, stage: str, detail: str = "") -> None:
        """``stage`` is a word for what is being done, ``detail`` changes often."""

    def tell(self, text: str) -> None:
        """A line that stays."""


@dataclass(frozen=True, slots=True)
class Status:
    """A job as ``GET /job/<id>/status`` tells it; what it does not have yet is None."""

    state: str
    step: str | None
    position: int | None
    error: dict[str, Any] | None
    result_sha256: str | None
    run_ms: int

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self.state not in {"queued", "running"}


def status_from(answer: Any) -> Status:
    """The answer's JSON; raises ClientError for what is none."""
    try:
        position, error = answer["position"], answer["error"]
        return Status(
            state=str(answer["state"]),
            step=None if answer["step"] is None else str(answer["step"]),
            position=None if position is None else int(position),
            error=None if error is None else dict(error),
            result_sha256=None if answer["result_sha256"] is None else str(answer["result_sha256"]),
            run_ms=int(answer["run_ms"]),
        )
    except (LookupError, TypeError, ValueError) as exc:
        raise ClientError("the server's answer is not a job's status") from exc


def printable(text: str) -> str:
    """Names and messages come from elsewhere: what could steer a terminal is shown as U+FFFD."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text.expandtabs())


def size_text(count_bytes: int) -> str:
    """``812 B``, ``1.2 MiB``."""
    amount, units = float(count_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1024
        del units[0]
    return f"{amount:.3g} {units[0]}"
