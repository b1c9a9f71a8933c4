"""Which nodes a group is: those with a tag, or those whose names fit a pattern."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gateway_pipe.hub.nodes import Match

if TYPE_CHECKING:
    from gateway_pipe.hub.directory import NodeInfo
    from gateway_pipe.hub.rows import NodeRows

_LONGEST = 512
_WILDCARD = re.compile(r"[*?\[]")


async def matching(selector: str, connected: Iterable[NodeInfo], rows: NodeRows) -> list[Match]:
    """Nodes by name: the connected ones with that tag or a fitting name, and those that are away with a fitting name.

    Patterns are those of shells: ``*``, ``?``, ``[a-f]``; one that is longer than any name means nobody, since the time
    to read it grows with its square. Raises DatabaseError.
    """
    if len(selector) > _LONGEST:
        return []
    fits = re.compile(fnmatch.translate(selector)).match
    there = {info.name: selector in info.tags or fits(info.name) is not None for info in connected}
    wildcard = _WILDCARD.search(selector)
    prefix = selector if wildcard is None else selector[: wildcard.start()]
    known = await rows.names(prefix, whole=wildcard is None)
    found = [Match(name, connected=True) for name, meant in there.items() if meant]
    found += [Match(name, connected=False) for name in known if name not in there and fits(name) is not None]
    return sorted(found)
