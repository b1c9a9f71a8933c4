"""What is said to a gateway about one job: every request is tried again while there is hope, and none is done twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import ssl
import time
import uuid
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse, InvalidURL
from io import BufferedRandom
from typing import Any, TypeVar

from gateway_core.cli.remote import Remote
from gateway_core.errors import ConfigError
from gateway_transform.client.line import Body, Request, exchanged
from gateway_transform.client.model import ClientError, Denied, JobGone, Observer, Status, Unreachable, status_from

T = TypeVar("T")
PATIENCE_S = 300.0
"""How long a request may go on failing before it is given up."""
_ANSWER_S = 300.0
_CANCEL_S = 10.0
_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_MOST_TEXT_BYTES = 8 << 20
_PIECE_BYTES = 256 << 10
_LATER = frozenset({409, 429, 502, 503, 504})
"""That may go away: 409 is the same request still under way."""
_FOR_GOOD = (ssl.SSLCertVerificationError, InvalidURL)
_AT_ONCE = (*_FOR_GOOD, ConnectionRefusedError, socket.gaierror, ssl.SSLError)
"""What will not pass by itself; the others do where the server was reached before."""
_ID = re.compile(r"[0-9a-f]{32}")


class _Again(Exception):
    """It may go well the next time, ``after_s`` from now where the server said so."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Talk:
    """One gateway. Every method raises Denied, Unreachable after ``patience_s``, and ClientError."""

    def __init__(self, remote: Remote, observer: Observer, *, patience_s: float = PATIENCE_S) -> None:
        self._remote = remote
        self._observer = observer
        self._patience_s = patience_s
        self._reached = False

    def transformations(self) -> dict[str, Any]:
        """Those there are, by name, as ``GET /transformations/`` tells them."""
        answer = self._persist(lambda: self._json(Request("GET", "/transformations/")))
        if not isinstance(answer, dict):
            raise ClientError("the server's answer is not a list of transformations")
        return answer

    def send(self, body: Body, *, strict: bool) -> str:
        """Send an archive; returns the job's id. Raises ConfigError for steps that the server refuses."""
        headers = {"Content-Type": "application/gzip", "Idempotency-Key": uuid.uuid4().hex}
        path = "/job/?strict=1" if strict else "/job/"
        told = self._persist(lambda: self._text(Request("POST", path, headers, body, timeout_s=_ANSWER_S)))
        if not _ID.fullmatch(told):
            raise ClientError("the server's answer is not a job's id")
        return told

    def status(self, job_id: str, *, wait_s: int) -> Status:
        """Where the job stands, after ``wait_s`` at most; raises JobGone."""
        request = Request("GET", f"/job/{job_id}/status?wait={wait_s}", timeout_s=wait_s + 30.0)
        return status_from(self._persist(lambda: self._json(request)))

    def fetch(self, job_id: str, out: BufferedRandom, *, sha256: str | None) -> None:
        """Write the result to ``out``, an empty file; goes on where it was cut. Raises JobGone.

        Raises ClientError when the bytes do not have the digest.
        """
        self._persist(lambda: self._fetch(job_id, out), done=lambda: out.seek(0, os.SEEK_END))
        out.seek(0)
        if sha256 and hashlib.file_digest(out, "sha256").hexdigest() != sha256:
            raise ClientError("the result came damaged: it does not have the SHA-256 that the server told")

    def cancel(self, job_id: str) -> None:
        """Ask once that the job be stopped."""
        try:
            with exchanged(self._remote, Request("DELETE", f"/job/{job_id}", timeout_s=_CANCEL_S)) as answer:
                _check(answer)
        except (OSError, HTTPException, _Again) as exc:
            raise Unreachable(f"the job could not be cancelled: {_words(exc)}") from exc

    def _fetch(self, job_id: str, out: BufferedRandom) -> None:
        done = out.seek(0, os.SEEK_END)
        headers = {"Range": f"bytes={done}-"} if done else {}
        with exchanged(self._remote, Request("GET", f"/job/{job_id}", headers)) as answer:
            _check(answer, fine=(200, 206))
            if answer.status == 200:
                done = out.seek(0)
                out.truncate()
            whole = done + (answer.length or 0)
            while piece := answer.read(_PIECE_BYTES):
                _write(out, piece)
                done += len(piece)
                self._observer.show("fetching", f"{100 * done // max(1, whole)}%")
            if done < whole:
                raise _Again("the result broke off")

    def _text(self, request: Request) -> str:
        with exchanged(self._remote, request) as answer:
            _check(answer)
            return answer.read(_MOST_TEXT_BYTES).decode("utf-8", "replace").strip()

    def _json(self, request: Request) -> Any:
        text = self._text(request)  # a certificate's error is a ValueError, too
        try:
            return json.loads(text)
        except ValueError as exc:
            raise ClientError(f"the server's answer to {request.path} is not JSON") from exc

    def _persist(self, attempt: Callable[[], T], *, done: Callable[[], int] = lambda: 0) -> T:
        """Try until it goes well, the server says no, or patience ends; what never answered is not waited for.

        Patience begins anew where ``done`` has grown.
        """
        so_far, failing_since, pauses = -1, 0.0, iter(_PAUSES_S)
        while True:
            try:
                result = attempt()
            except _Again as exc:
                cause: Exception = exc
                reason, after_s, hope, self._reached = str(exc), exc.after_s, True, True
            except (OSError, HTTPException) as exc:
                cause, reason, after_s = exc, f"{self._remote.url}: {_words(exc)}", None
                hope = not isinstance(exc, _FOR_GOOD if self._reached else _AT_ONCE)
            else:
                self._reached = True
                return result
            if done() > so_far:
                so_far, failing_since, pauses = done(), time.monotonic(), iter(_PAUSES_S)
            pause_s = next(pauses, _PAUSES_S[-1]) if after_s is None else after_s
            if not hope or time.monotonic() - failing_since + pause_s > self._patience_s:
                raise Unreachable(reason) from cause
            self._observer.tell(f"{reason}; trying again in {pause_s:g} s")
            time.sleep(pause_s)


def _check(answer: HTTPResponse, *, fine: tuple[int, ...] = (200, 202, 204)) -> None:
    """Raise what the status means, unless it is fine."""
    status = answer.status
    if status in fine:
        return
    text = _reason(answer)
    if status in {401, 403}:
        raise Denied(f"{text}; give the secret of a client: GATEWAY_SECRET, --secret or --credentials")
    if status in {404, 410}:
        raise JobGone(text)
    if status in {400, 422}:
        raise ConfigError(text)
    if status in _LATER:
        told = answer.headers.get("Retry-After", "")
        raise _Again(text, float(told) if told.isdecimal() else None)
    raise ClientError(text)


def _reason(answer: HTTPResponse) -> str:
    """What the server says: problem+json (RFC 9457) with errors by field, else its text, else the status alone."""
    text = answer.read(_MOST_TEXT_BYTES).decode("utf-8", "replace").strip()
    head = f"the server says {answer.status} {answer.reason}".rstrip()
    try:
        told = json.loads(text)
    except ValueError:
        line = text.partition("\n")[0][:300]
        return f"{head}: {line}" if line not in {"", answer.reason} else head
    if not isinstance(told, dict):
        return head
    errors = told.get("errors")
    places = errors.values() if isinstance(errors, dict) else ()
    fields = [
        f"{field}: {', '.join(map(str, messages))}"
        for place in places
        if isinstance(place, dict)
        for field, messages in place.items()
        if isinstance(messages, list)
    ]
    detail = "; ".join(fields) or told.get("detail") or told.get("title")
    return f"{head}: {detail}" if detail else head


def _write(out: BufferedRandom, piece: bytes) -> None:
    try:
        out.write(piece)
    except OSError as exc:
        raise ClientError(f"the result cannot be kept: {exc.strerror}") from exc


def _words(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
