"""Small files that were served lately: what their head says need not be worked out again."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass

from aiohttp import hdrs, web
from multidict import CIMultiDict

from gateway_blocks.files.identity import Identity
from gateway_blocks.files.root import OpenFile, Root
from gateway_blocks.sums.catalogue import Catalogue
from gateway_blocks.sums.store import Whole
from gateway_core.http.representation import SMALL_BYTES

_MOST = 4096
_SPECIAL = (
    hdrs.RANGE,
    hdrs.IF_NONE_MATCH,
    hdrs.IF_MODIFIED_SINCE,
    hdrs.IF_MATCH,
    hdrs.IF_UNMODIFIED_SINCE,
    "Want-Repr-Digest",
    "Want-Digest",
)
"""What makes a request one that has to be looked at."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a file was answered: for the same version the same again."""

    names: tuple[str, ...]
    identity: Identity
    whole: Whole | None
    headers: CIMultiDict[str]


class Recent:
    """By the path of the URL. The file is opened and looked at each time all the same."""

    def __init__(self, root: Root, catalogue: Catalogue) -> None:
        self._root = root
        self._catalogue = catalogue
        self._plans: OrderedDict[str, _Plan] = OrderedDict()

    def answer(self, request: web.Request) -> web.Response | None:
        """The whole file at once, if it is the version that was served at this path before, and in memory; else None.

        Plain GETs only: conditions and ranges are for ``send_representation``.
        """
        path = request.rel_url.raw_path
        plan = self._plans.get(path)
        if plan is None or not _plain(request):
            return None
        file = self._root.open_cached(plan.names)
        if file is None:
            return None
        with file:
            if not isinstance(file, OpenFile) or file.identity != plan.identity or self.whole(file) is not plan.whole:
                del self._plans[path]
                return None
            body = bytearray(plan.identity.size_bytes)
            try:
                if os.preadv(file.fd, [body], 0, os.RWF_NOWAIT) != len(body):
                    return None
            except OSError:  # not in memory
                return None
        return web.Response(body=body, headers=plan.headers)

    def note(self, request: web.Request, file: OpenFile, response: web.StreamResponse) -> None:
        """Remember how a plain GET of a whole file was answered, unless the file may still change unseen."""
        small = 0 < file.stat.st_size <= SMALL_BYTES
        if response.status != 200 or not small or not _plain(request) or file.identity.young():
            return
        headers = response.headers.copy()
        headers.popall(hdrs.CONTENT_LENGTH, None)
        path = request.rel_url.raw_path
        self._plans[path] = _Plan(file.names, file.identity, self.whole(file), headers)
        self._plans.move_to_end(path)
        if len(self._plans) > _MOST:
            self._plans.popitem(last=False)

    def whole(self, file: OpenFile) -> Whole | None:
        """Digests of the whole file, where they are in memory."""
        record = self._catalogue.peek(file.identity)
        return None if record is None else record.whole


def _plain(request: web.Request) -> bool:
    """Whether it is a GET without conditions, ranges and wishes."""
    headers = request.headers
    return request.method == hdrs.METH_GET and not any(name in headers for name in _SPECIAL)
