"""A local file against the server's checksums, some of which may still be to come."""

from __future__ import annotations

from collections.abc import Callable

from gateway_blocks.get.connection import HttpClient
from gateway_blocks.get.remote import RemoteMap
from gateway_blocks.get.seeds import OldFile
from gateway_blocks.get.session import Session
from gateway_blocks.get.watch import learn_more


def differing_blocks(
    session: Session,
    client: HttpClient,
    block_map: RemoteMap,
    *,
    old: OldFile,
    equal: Callable[[int], object] = lambda _: None,
    first_only: bool = False,
) -> list[int]:
    """Numbers of the blocks that the hashed file has not, or not right, ascending; ``equal`` hears of the others.

    Waits for checksums that the server has not told yet; with ``first_only`` no longer than until one block differs.
    Raises NewVersion, and as polling does.
    """
    differing: list[int] = []
    unchecked = list(range(block_map.count))
    while True:
        pending = []
        for index in unchecked:
            digest = block_map.digest(index)
            if digest is None:
                pending.append(index)
            elif old.in_place(index) == digest:
                equal(index)
            else:
                differing.append(index)
        if not pending or (differing and first_only):
            return sorted(differing)
        unchecked = pending
        learn_more(session, client, block_map)


def complete_map(session: Session, client: HttpClient, block_map: RemoteMap) -> None:
    """Wait until the server has told all checksums; raises as ``learn_more`` does."""
    while not block_map.complete:
        learn_more(session, client, block_map)
