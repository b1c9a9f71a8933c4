"""Answers that stream: a ticket's ZIP, or one file as it is."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import hdrs, web
from multidict import CIMultiDict

from gateway_archive.delivery.freezing import owner_of, request_for
from gateway_archive.delivery.single import SourceContent, look, single_tag
from gateway_archive.delivery.tracker import Tracker
from gateway_archive.downloads import Downloads
from gateway_archive.names import entry_name, name_from_url
from gateway_archive.tickets import Item, Ticket
from gateway_core import (
    SourceChanged,
    SourceError,
    SourceFailed,
    SourceInfo,
    SourceRequest,
    TooLarge,
    Unavailable,
    UpstreamFailed,
)
from gateway_core.http.conditional import ETag, Validators
from gateway_core.http.disposition import content_disposition
from gateway_core.http.gone import ClientGone
from gateway_core.http.representation import RangeSupport, Representation, not_modified, send_representation
from gateway_core.http.stream import open_response
from gateway_core.sources.resume import ResumingReader

_ISOLATED = {
    "Content-Security-Policy": "sandbox",  # somebody else's page must not act as this origin's
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-store",
}

_SELECTING = (
    hdrs.RANGE,
    hdrs.IF_MATCH,
    hdrs.IF_NONE_MATCH,
    hdrs.IF_MODIFIED_SINCE,
    hdrs.IF_UNMODIFIED_SINCE,
)
"""With one of these the answer may be other than the whole."""

Describe = Callable[[SourceInfo], Mapping[str, str]]
"""Headers of an answer with a source's bytes, Content-Type among them."""


async def send_item(
    request: web.Request,
    downloads: Downloads,
    ticket: Ticket,
    *,
    item: Item,
    name: str | None,
    tracker: Tracker | None = None,
) -> web.StreamResponse:
    """One file of a ticket, fetched as its owner, under ``name`` or else its own; raises as ``send_single`` does."""
    owner = await owner_of(downloads.gateway, ticket)
    source = request_for(item, owner, stall_s=downloads.settings.stall_timeout_s)

    def describe(info: SourceInfo) -> Mapping[str, str]:
        return file_headers(info, url=item.url, name=name)

    return await send_single(request, downloads, source, describe=describe, tracker=tracker)


async def send_single(
    request: web.Request,
    downloads: Downloads,
    source: SourceRequest,
    *,
    describe: Describe,
    tracker: Tracker | None = None,
) -> web.StreamResponse:
    """One source as it is: the whole, ranges of it, or that the client has it already (RFC 9110 13 to 15).

    HEAD and what asks for a part only look at the source first. When the version they saw is not to be had any more, or
    not in parts, the answer is the whole. Raises UpstreamFailed where it cannot be had, TooLarge over the limit of
    total bytes, and as ``send_representation`` does.
    """
    single = _Single(request, downloads, source, describe, tracker)
    try:
        if request.method == hdrs.METH_HEAD or any(name in request.headers for name in _SELECTING):
            response = await single.send_looked_at()
            if response is not None:
                return response
        return await single.send_opened()
    except SourceError as exc:
        raise as_upstream_failure(exc) from exc
    except Unavailable as exc:
        if isinstance(exc.__cause__, SourceError):
            raise as_upstream_failure(exc.__cause__) from exc
        raise


async def send_now(request: web.Request, response: web.StreamResponse) -> None:
    """Send an answer that was made whole, so that what counts as complete has gone out; raises ClientGone."""
    try:
        await response.prepare(request)
        await response.write_eof()
    except OSError as error:
        raise ClientGone from error


@dataclass(frozen=True, slots=True)
class _Single:
    """An answer with one source's bytes."""

    request: web.Request
    downloads: Downloads
    source: SourceRequest
    describe: Describe
    tracker: Tracker | None

    async def send_looked_at(self) -> web.StreamResponse | None:
        """None where it must be opened to be answered: its size is not known, or it is other than it looked."""
        info = await look(self.downloads.gateway.sources, self.source, lanes=self.downloads.lanes)
        if info.size_bytes is None:
            return None
        content = SourceContent(self.downloads.stream, self.source, info, tracker=self.tracker)
        try:
            return await self._send(content, self.describe(info))
        except SourceChanged:
            if content.prepared:
                raise
            return None

    async def send_opened(self) -> web.StreamResponse:
        """The whole, whatever part of it was asked for."""
        async with self.downloads.stream(self.source) as reader:
            headers = self.describe(reader.info)
            if reader.info.size_bytes is None:
                return await self._send_unsized(reader, headers)
            content = SourceContent(self.downloads.stream, self.source, reader.info, tracker=self.tracker, begun=reader)
            return await self._send(content, headers, whole=hdrs.RANGE in self.request.headers)

    async def _send(
        self, content: SourceContent, headers: Mapping[str, str], *, whole: bool = False
    ) -> web.StreamResponse:
        """With ``whole`` no part of it."""
        info, settings = content.info, self.downloads.settings
        size, limit = content.size_bytes, settings.max_total_bytes
        if 0 < limit < size:
            raise TooLarge(f"the file has {size} bytes; the limit is {limit}")
        tag = single_tag(info, headers[hdrs.CONTENT_DISPOSITION])
        in_parts = not whole and (info.strong or settings.resume_unproven) and self._in_parts_at_little_cost(info)
        shown = Representation(
            headers[hdrs.CONTENT_TYPE],
            Validators(ETag(tag) if tag else None, _past(info.modified), modified_strong=_dated(info)),
            _isolated(headers),
            lambda: aclosing(content),
            ranges=RangeSupport.ALWAYS if in_parts else RangeSupport.NEVER,
        )
        if self.tracker is not None and size:
            self.tracker.of_layout(tag or uuid.uuid4().hex, size)  # unproven bytes are counted with no others
        return await send_representation(self.request, shown, stall_s=self._stall_s)

    async def _send_unsized(self, reader: ResumingReader, headers: Mapping[str, str]) -> web.StreamResponse:
        """The bytes as they come; raises SourceFailed where they are over the limit."""
        limit = self.downloads.settings.max_total_bytes
        known = not_modified(self.request, Validators(), shown := _isolated(headers))
        if known is not None:
            return known
        response = web.StreamResponse(headers=shown)
        async with open_response(self.request, response, stall_s=self._stall_s) as writer:
            if not writer.bodyless:
                async for chunk in reader:
                    if 0 < limit < writer.sent_bytes + len(chunk):
                        raise SourceFailed(f"the limit of {limit} bytes is reached")
                    if self.tracker is not None:
                        self.tracker.check()
                        self.tracker.sent(len(chunk))
                    await writer.write(chunk)
        return response

    def _in_parts_at_little_cost(self, info: SourceInfo) -> bool:
        """Whether the parts cost no more than the whole: a source without ranges is read from its start for each."""
        return info.ranges or "," not in self.request.headers.get(hdrs.RANGE, "")

    @property
    def _stall_s(self) -> float:
        return self.downloads.gateway.settings.write_stall_s


def _isolated(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """With ``headers``, whose names may be in any case, in place of ours."""
    found = CIMultiDict(_ISOLATED)
    found.update(headers)
    return found


def _dated(info: SourceInfo) -> bool:
    """Whether the date alone proves the version: only where it is the validator, and proves it."""
    return info.strong and info.validator is not None and not info.validator.startswith('"')


def _past(modified: float | None) -> float | None:
    """Nothing is said to have changed in the future (RFC 9110 8.8.2.1)."""
    return modified if modified is not None and modified <= time.time() else None


def file_headers(info: SourceInfo, *, url: str, name: str | None) -> dict[str, str]:
    """The source's own content type and, unless one was asked for, its own name."""
    name = name or info.name or entry_name("", name_from_url(url))
    return {
        hdrs.CONTENT_TYPE: info.media_type or "application/octet-stream",
        hdrs.CONTENT_DISPOSITION: content_disposition(name),
    }


def as_upstream_failure(error: SourceError) -> UpstreamFailed:
    """A single source that cannot be had before the first byte."""
    reason = f"{error.reason}: {error.detail or error.title}"
    return UpstreamFailed(f"the file cannot be had: {reason}")


def iso(unix_s: float) -> str:
    """UTC to the second, as RFC 3339 has it."""
    return datetime.fromtimestamp(int(unix_s), UTC).isoformat().replace("+00:00", "Z")
