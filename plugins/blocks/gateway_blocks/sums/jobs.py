"""What is asked of the threads that hash, and what they tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway_blocks.files.identity import Identity
from gateway_blocks.sums.layout import BlockLayout
from gateway_core.errors import GatewayError


@dataclass(frozen=True, slots=True)
class HashJob:
    """One version of a file to hash.

    ``fd`` belongs to the job once it is submitted and is closed when it ends. ``todo``: blocks of the layout to hash,
    ascending; it is consumed in the threads, one block at a time, when their turn comes. ``full``: also hash the file
    as a whole, when no block is left.
    """

    key: str
    fd: int
    identity: Identity
    layout: BlockLayout
    todo: Iterable[int]
    full: bool


@dataclass(frozen=True, slots=True)
class BlockHashed:
    """A block's SHA-1, 20 bytes."""

    key: str
    index: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class FileHashed:
    """SHA-1 (20 bytes) and SHA-256 (32 bytes) of the whole file."""

    key: str
    sha1: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The last result of a job: FileChanged, Unavailable, or no error when it is done or was dropped."""

    key: str
    error: GatewayError | None


Result = BlockHashed | FileHashed | JobEnded
