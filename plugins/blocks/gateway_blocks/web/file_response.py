"""A file of the folder as an answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

from aiohttp import hdrs
from multidict import CIMultiDict

from gateway_blocks.files.media import is_active
from gateway_blocks.files.root import OpenFile
from gateway_core.http.conditional import Validators
from gateway_core.http.representation import FileContent, Representation


def as_representation(file: OpenFile, *, headers: Mapping[str, str], media_type: str) -> Representation:
    """What there is to send of ``file``, which stays the caller's to close; ``headers`` win over those made here.

    The bytes are those of the file, never of a compressed neighbour, and no cache may transform them: what is checked
    by hash must arrive as it is.
    """
    shown = CIMultiDict({hdrs.CACHE_CONTROL: "no-transform"})
    if is_active(media_type):
        shown["Content-Security-Policy"] = "sandbox"
    shown.update(headers)
    content = FileContent(file.fd, file.stat.st_size)
    return Representation(media_type, _current_validators(file), shown, lambda: nullcontext(content))


def _current_validators(file: OpenFile) -> Validators:
    """Those of the file; one from the future is told as modified now (RFC 9110 8.8.2.1)."""
    current, now = file.identity.validators(), time.time()
    return current if current.modified is None or current.modified <= now else replace(current, modified=now)
