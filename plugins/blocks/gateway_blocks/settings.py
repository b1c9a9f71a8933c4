"""What can be set for the blocks plugin: ``GATEWAY_BLOCKS__<KEY>``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from gateway_core import PluginSettings, Seconds

_SIZE = re.compile(r"([0-9]+)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_MOUNT = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


def parse_size(value: Any) -> Any:
    """``2097152``, ``2M``, ``2MiB``, ``64K`` as bytes, in powers of 1024; raises ValueError for other texts."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("expected bytes or a number with K, M or G, such as 4M")
    return int(match[1]) * _UNITS[match[2].lower()]


Bytes = Annotated[int, BeforeValidator(parse_size)]
"""A size: bytes, or a text such as ``4M``."""


class BlocksSettings(PluginSettings):
    """Settings of the blocks plugin."""

    root: Path | None = Field(None, description="Folder to serve; default: `files` in the data folder")
    mount: str = Field("/files", description="Where the folder appears; `/` takes the place of rd-api")
    block_size: Bytes = Field(
        2 << 20, ge=4096, le=1 << 30, description="Bytes in a block, or `4M`; another size means hashing anew"
    )
    hash_workers: int = Field(
        0, ge=0, le=64, description="Threads that hash, all workers together; 0: one for each core"
    )
    public: bool = Field(default=True, description="Files without a secret; else scope `blocks:read`")
    full_digest: bool = Field(default=True, description="Hash whole files too (SHA-256 and SHA-1), in the background")
    accel: Literal["", "nginx"] = Field("", description="`nginx` sends the files itself, told by X-Accel-Redirect")
    host: str = Field("", max_length=255, description="Name of this machine in the database; default: its host name")
    keep: Seconds = Field(90 * 86400.0, gt=0, description="Checksums that nobody asked for in so long are dropped")

    @field_validator("mount")
    @classmethod
    def _mount_form(cls, value: str) -> str:
        stripped = value.rstrip("/")
        if not _MOUNT.fullmatch(stripped) or "/.." in stripped or "/./" in f"{stripped}/":
            raise ValueError("a mount is a path such as /files, or /")
        return stripped

    @field_validator("root")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()
