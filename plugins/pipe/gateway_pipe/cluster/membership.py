"""One process of several gateways that are one: its port for the others, and its place in the directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gateway_core import Gateway
from gateway_pipe.cluster.peers import Peers
from gateway_pipe.cluster.redis_directory import RedisDirectory
from gateway_pipe.cluster.relay import LinkOf, relay
from gateway_pipe.identity.authority import Authority, Purpose
from gateway_pipe.identity.contexts import peer_contexts
from gateway_pipe.settings import PipeSettings

if TYPE_CHECKING:
    from gateway_pipe.link.model import Incoming

_CERTIFICATE_DAYS = 825.0
"""Longer than a process lives; the key never leaves its memory."""


@asynccontextmanager
async def member(
    gateway: Gateway, settings: PipeSettings, authority: Authority, *, directory: RedisDirectory, link_of: LinkOf
) -> AsyncIterator[Peers]:
    """Take part for the block; ``link_of`` gives the links of this process's own nodes.

    At its end others look for its nodes elsewhere at once. Raises StartupError and ConfigError as ``Peers.listening``.
    """
    issuer = await authority.issuer(Purpose.PEERS, create=True)
    contexts = peer_contexts(issuer.pem, issuer.peer(gateway.instance, days=_CERTIFICATE_DAYS))

    async def serve(incoming: Incoming) -> None:
        await relay(incoming, link_of)

    peers = Peers(gateway, settings, serve, contexts=contexts)
    async with peers.listening(), directory.joined(peers):
        yield peers
