"""Every error the gateway raises on purpose, and how each is told over HTTP.

::

    GatewayError                 500  the root; never raised itself
    ├── ConfigError              -    settings or usage; the process exits with 2
    │   └── PluginError          -    a plugin that cannot be loaded
    ├── StartupError             -    the process cannot start; it exits with 1
    ├── HttpError                     a request that cannot be answered
    │   ├── BadRequest           400
    │   ├── Unauthorized         401
    │   ├── Forbidden            403
    │   ├── NotFound             404
    │   ├── MethodNotAllowed     405
    │   ├── RequestTimeout       408
    │   ├── Conflict             409
    │   ├── Gone                 410
    │   ├── PreconditionFailed   412  another version than the one meant
    │   ├── TooLarge             413
    │   ├── UriTooLong           414
    │   ├── RangeNotSatisfiable  416
    │   ├── Invalid              422  fields that do not fit, by name
    │   ├── TooManyRequests      429  with Retry-After
    │   ├── UpstreamFailed       502
    │   ├── Unavailable          503  with Retry-After
    │   ├── DeadlineExceeded     504  the caller's time was up
    │   └── UnsupportedVersion   505
    ├── SourceError                   bytes that cannot be had from elsewhere
    │   ├── SourceRefused             the policy says no (egress guard, scope, owner)
    │   ├── SourceGone                it is not there (404, 410, no such job)
    │   ├── SourceChanged             another version than the one asked for
    │   ├── SourceFailed              it broke: reset, short, lied
    │   └── SourceStalled             it stopped sending
    ├── StorageError             500
    │   ├── ObjectMissing        404
    │   ├── ObjectCorrupt        500  its bytes are not those that were written
    │   └── StorageFull          507
    └── DatabaseError            503
        └── LeaseLost            -    another process holds the lease now

Answers follow RFC 9457 (problem+json); a contract's own shape is a route's ``errors`` renderer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

FieldErrors = Mapping[str, Sequence[str]]
"""Messages by field name, dotted for nested fields (``items.3.url``)."""


class GatewayError(Exception):
    """Root of the tree: ``status`` is the HTTP status, ``type`` the stable problem type, ``title`` its fixed words."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str = "", *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.headers: dict[str, str] = dict(headers or {})

    def problem(self) -> dict[str, Any]:
        """Body of the answer, RFC 9457: ``type``, ``title``, ``status`` and ``detail`` where there is one."""
        body: dict[str, Any] = {"type": f"urn:content-gateway:{self.type}", "title": self.title, "status": self.status}
        if self.detail:
            body["detail"] = self.detail
        return body


class ConfigError(GatewayError):
    """Settings or usage are wrong; the message names the setting. Exit code 2."""

    type, title = "configuration", "Wrong configuration"


class PluginError(ConfigError):
    """A plugin cannot be found, imported or registered; the message names distribution and entry point."""

    type, title = "plugin", "Plugin failed"


class StartupError(GatewayError):
    """Something the gateway needs is not there (database, port, key). Exit code 1."""

    type, title = "startup", "Cannot start"


class HttpError(GatewayError):
    """A request that gets an error answer; handlers raise the subclasses."""


class BadRequest(HttpError):
    """400: the request cannot be understood."""

    status, type, title = 400, "bad-request", "Bad request"


class Unauthorized(HttpError):
    """401: no credential, or one that is not valid."""

    status, type, title = 401, "unauthorized", "Authentication required"

    def __init__(self, detail: str = "", *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="gateway"', **(headers or {})})


class Forbidden(HttpError):
    """403: known, but not allowed."""

    status, type, title = 403, "forbidden", "Not allowed"


class NotFound(HttpError):
    """404: not there, or somebody else's."""

    status, type, title = 404, "not-found", "Not found"


class MethodNotAllowed(HttpError):
    """405: the path exists, not with this method; ``allowed`` goes into Allow (RFC 9110 15.5.6)."""

    status, type, title = 405, "method-not-allowed", "Method not allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(headers={"Allow": ", ".join(sorted(allowed))})


class RequestTimeout(HttpError):
    """408: the request's body came too slowly."""

    status, type, title = 408, "request-timeout", "Request body too slow"


class Conflict(HttpError):
    """409: the request does not fit the present state."""

    status, type, title = 409, "conflict", "Conflict"


class Gone(HttpError):
    """410: it was there and is no more."""

    status, type, title = 410, "gone", "Gone"


class PreconditionFailed(HttpError):
    """412: what is there is not the version that the request is about; the headers tell which it is."""

    status, type, title = 412, "precondition-failed", "Precondition failed"


class TooLarge(HttpError):
    """413: body or request over a limit; the detail names limit and size."""

    status, type, title = 413, "too-large", "Too large"


class UriTooLong(HttpError):
    """414: a name in the path is longer than any file's."""

    status, type, title = 414, "uri-too-long", "URI too long"


class RangeNotSatisfiable(HttpError):
    """416: no byte of the range exists; ``size_bytes`` goes into Content-Range (RFC 9110 15.5.17)."""

    status, type, title = 416, "range-not-satisfiable", "Range not satisfiable"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(headers={"Content-Range": f"bytes */{size_bytes}"})


class Invalid(HttpError):
    """422: fields that do not fit; ``errors`` are messages by field, ``location`` is json, query or path."""

    status, type, title = 422, "invalid", "Invalid request"

    def __init__(self, errors: FieldErrors, *, location: str = "json") -> None:
        super().__init__("; ".join(f"{field}: {', '.join(texts)}" for field, texts in errors.items()))
        self.errors = {field: list(texts) for field, texts in errors.items()}
        self.location = location

    def problem(self) -> dict[str, Any]:
        """As above, with ``errors`` by field."""
        return {**super().problem(), "errors": {self.location: self.errors}}


class TooManyRequests(HttpError):
    """429: a limit in time or number; ``retry_after_s`` goes into Retry-After."""

    status, type, title = 429, "too-many-requests", "Too many requests"

    def __init__(self, detail: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, retry_after_s))})


class UpstreamFailed(HttpError):
    """502: what the answer is made of cannot be had; ``reasons`` by item."""

    status, type, title = 502, "upstream-failed", "Upstream failed"

    def __init__(self, detail: str = "", *, reasons: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(detail)
        self.reasons = [dict(reason) for reason in reasons]

    def problem(self) -> dict[str, Any]:
        """As above, with ``reasons``, one object an item."""
        return {**super().problem(), "reasons": self.reasons} if self.reasons else super().problem()


class Unavailable(HttpError):
    """503: not now; ``retry_after_s`` goes into Retry-After."""

    status, type, title = 503, "unavailable", "Unavailable"

    def __init__(self, detail: str = "", *, retry_after_s: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, retry_after_s))})


class DeadlineExceeded(HttpError):
    """504: who should have answered did not in the time there was."""

    status, type, title = 504, "deadline-exceeded", "Deadline exceeded"


class UnsupportedVersion(HttpError):
    """505: an HTTP version other than 1.0 and 1.1."""

    status, type, title = 505, "http-version", "HTTP version not supported"


class SourceError(GatewayError):
    """Bytes that cannot be had from a source; ``reason`` is a short stable word for reports and metrics."""

    status, type, title = 502, "source", "Source failed"
    reason: ClassVar[str] = "failed"


class SourceRefused(SourceError):
    """The policy says no. The message is safe for the caller; what the operator needs goes to the log."""

    status, type, title = 422, "source-refused", "Source not allowed"
    reason: ClassVar[str] = "refused"


class SourceGone(SourceError):
    """It is not there, or answers other than with its bytes; the message carries the status.

    ``upstream_status`` is that status as a number, None where the source has none.
    """

    type, title = "source-gone", "Source not there"
    reason: ClassVar[str] = "gone"

    def __init__(self, detail: str = "", *, upstream_status: int | None = None) -> None:
        super().__init__(detail)
        self.upstream_status = upstream_status


class SourceChanged(SourceError):
    """Its validator or size is not the one asked for."""

    type, title = "source-changed", "Source changed"
    reason: ClassVar[str] = "changed"


class SourceFailed(SourceError):
    """It broke or lied: reset, short, long, wrong range, encoded."""

    reason: ClassVar[str] = "failed"


class SourceStalled(SourceError):
    """It sent nothing for longer than the stall limit."""

    type, title = "source-stalled", "Source stalled"
    reason: ClassVar[str] = "stalled"


class StorageError(GatewayError):
    """The storage cannot do it now."""

    type, title = "storage", "Storage failed"


class ObjectMissing(StorageError):
    """No object with that key."""

    status, type, title = 404, "object-missing", "Not found"


class ObjectCorrupt(StorageError):
    """The object's bytes do not have the SHA-256 they were written with."""

    type, title = "object-corrupt", "Stored object is damaged"


class StorageFull(StorageError):
    """No space left; nothing was published."""

    status, type, title = 507, "storage-full", "No space left"


class DatabaseError(GatewayError):
    """The database cannot answer now."""

    status, type, title = 503, "database", "Database unavailable"

    def __init__(self, detail: str = "", *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": "2", **(headers or {})})


class LeaseLost(DatabaseError):
    """Another process holds the lease now; whatever was done under it must not be published."""

    type, title = "lease-lost", "Lease lost"
