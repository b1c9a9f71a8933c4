"""A node's connection, as the hub keeps it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, Self

from gateway_pipe.hub.directory import NodeInfo
from gateway_pipe.link.model import Hello
from gateway_pipe.link.session import Link


class Via(StrEnum):
    """How a node proved who it is."""

    CERTIFICATE = "certificate"
    SECRET = "secret"  # noqa: S105 - a word


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """By what right a node is connected.

    ``address`` is the IP address it came from; ``client_id`` whose secret it showed; ``serial`` and ``not_after``
    (Unix seconds) are those of its certificate.
    """

    epoch: int
    via: Via
    address: str = ""
    client_id: str = ""
    serial: str = ""
    not_after: float | None = None


class Registry(Protocol):
    """Who is told when a connection has ended."""

    def detach(self, node: Connected) -> None:
        """The link of ``node`` has ended, or is about to."""


class Connected:
    """A node's connection to this process: ``with node: await link.run()``, which removes it at the end."""

    __slots__ = ("_registry", "entrance", "hello", "link", "since")

    gateway = ""
    """Of this process."""

    def __init__(self, link: Link, hello: Hello, entrance: Entrance, *, registry: Registry) -> None:
        self.link = link
        self.hello = hello
        self.entrance = entrance
        self.since = time.time()
        self._registry = registry

    @property
    def name(self) -> str:
        """The node's name, as its credential has it."""
        return self.hello.name

    @property
    def epoch(self) -> int:
        """The number of this connection: a node's highest one counts."""
        return self.entrance.epoch

    def info(self, gateway: str) -> NodeInfo:
        """What others may know, with the name of the process that holds it."""
        rtt_s = self.link.traffic.rtt_s
        return NodeInfo(
            name=self.hello.name,
            epoch=self.entrance.epoch,
            since=self.since,
            version=self.hello.version,
            nouns=self.hello.nouns,
            apps=self.hello.apps,
            tags=self.hello.tags,
            via=self.entrance.via.value,
            address=self.entrance.address,
            gateway=gateway,
            rtt_ms=None if rtt_s is None else round(rtt_s * 1000, 3),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._registry.detach(self)


class Elsewhere(NamedTuple):
    """A node that another gateway holds: ``link`` leads there, and takes ``Opening.node``."""

    info: NodeInfo
    link: Link

    @property
    def epoch(self) -> int:
        """As ``Connected.epoch``."""
        return self.info.epoch

    @property
    def gateway(self) -> str:
        """Which one."""
        return self.info.gateway


Reached = Connected | Elsewhere


class Match(NamedTuple):
    """A node that a group's selector means."""

    name: str
    connected: bool
