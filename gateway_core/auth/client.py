"""Who is asking: a client, its scopes, and how a request proved to be from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

from gateway_core.http.body import BodyCheck


@dataclass(frozen=True, slots=True)
class Client:
    """A program that may use the gateway. ``id`` is 32 hex characters; times are Unix seconds.

    ``scopes`` are ``<plugin>:<action>[:<object>]``, compared segment by segment, ``*`` stands for one segment and, at
    the end, for all that follow; ``admin`` alone covers the operator's routes.
    """

    ANONYMOUS: ClassVar[Client]

    id: str
    name: str
    scopes: frozenset[str] = frozenset()
    created: float = 0.0
    expires: float | None = None
    last_used: float | None = None

    @property
    def anonymous(self) -> bool:
        """True for callers of public routes who showed no credential."""
        return not self.id

    def allows(self, scope: str) -> bool:
        """Whether one of the client's scopes covers ``scope``."""
        return any(scope_covers(held, scope) for held in self.scopes)


Client.ANONYMOUS = Client(id="", name="anonymous")


@lru_cache(maxsize=4096)
def scope_covers(held: str, wanted: str) -> bool:
    """``archive:*`` covers ``archive:ticket`` and ``archive:ticket:x``; ``pipe:call:*`` covers ``pipe:call:node1``."""
    have, want = held.split(":"), wanted.split(":")
    if have[-1] == "*" and len(want) >= len(have):
        want = want[: len(have)]
    return len(have) == len(want) and all(h in {"*", w} for h, w in zip(have, want, strict=True))


@dataclass(frozen=True, slots=True)
class Identity:
    """What an authenticator found: the client, and a check of the body still to come where its scheme has one."""

    client: Client
    body_check: BodyCheck | None = field(default=None, compare=False)
