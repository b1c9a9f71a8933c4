"""Which gateway of a cluster holds which node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gateway_pipe.link.session import Link


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """A connected node as others see it.

    ``since`` is in Unix seconds, ``via`` is ``certificate`` or ``secret``, ``address`` the IP address it came from,
    ``gateway`` the instance that holds its link. ``rtt_ms`` is the round trip of its last heartbeat, None before one.
    """

    name: str
    epoch: int
    since: float
    version: str = ""
    nouns: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    via: str = ""
    address: str = ""
    gateway: str = ""
    rtt_ms: float | None = None

    def described(self) -> dict[str, Any]:
        """As ``GET /pipe/nodes`` tells it."""
        return {
            "name": self.name,
            "since": self.since,
            "nouns": list(self.nouns),
            "apps": list(self.apps),
            "tags": list(self.tags),
            "rtt_ms": self.rtt_ms,
            "version": self.version,
            "via": self.via,
            "address": self.address,
            "gateway": self.gateway,
        }


Change = Callable[[str, int], None]
"""Called with a node's name and the epoch of its connection to another gateway; 0 when that is gone. Never blocks."""


class Directory(Protocol):
    """Where the nodes of the other gateways are.

    It answers for other processes only: what this process holds is announced to it, and never asked of it. Entries of
    a process that died vanish by themselves. All methods may be called at any time between start and stop of the
    process; those that are not ``async`` only note what is to be told and return at once.
    """

    def announce(self, info: NodeInfo) -> None:
        """This process holds the node's link now, or something about it has changed."""

    def withdraw(self, name: str, epoch: int) -> None:
        """This process no longer holds the node's connection of that epoch; a newer one, anywhere, stays."""

    async def where(self, name: str) -> NodeInfo | None:
        """The node's newest connection to another gateway, None when there is none, or nobody can be asked."""

    async def everywhere(self) -> list[NodeInfo]:
        """Nodes of other gateways, each once."""

    async def link_to(self, info: NodeInfo) -> Link:
        """A link to the gateway that holds this node, for all nodes it holds: ``Opening.node`` names the one meant.

        Raises Unavailable when that gateway cannot be reached; soon after, ``where`` no longer names it.
        """

    def on_change(self, changed: Change) -> None:
        """Call ``changed`` whenever a node connects to another gateway or leaves it; calls may be lost or doubled."""


class LocalDirectory:
    """The directory of a gateway that is alone."""

    def announce(self, info: NodeInfo) -> None:
        """Nobody is there to hear it."""

    def withdraw(self, name: str, epoch: int) -> None:
        """Likewise."""

    async def where(self, name: str) -> NodeInfo | None:  # noqa: ARG002 - a Directory
        """None."""
        return None

    async def everywhere(self) -> list[NodeInfo]:
        """Nobody."""
        return []

    async def link_to(self, info: NodeInfo) -> Link:
        """Never asked: no node is elsewhere."""
        raise LookupError(info.name)

    def on_change(self, changed: Change) -> None:
        """Nothing changes."""
