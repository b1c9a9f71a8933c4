"""What can be set for the transform plugin: ``GATEWAY_TRANSFORM__<KEY>``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from gateway_core import PluginSettings, Seconds

_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


class TransformSettings(PluginSettings):
    """Settings of the transform plugin."""

    modules: tuple[str, ...] = Field((), description="Python modules with transformations, as for Circe: `mine,other`")
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=0,
        le=256,
        description="Jobs at once, all processes of this `serve` or `worker` together; 0: only accept; default: cores",
    )
    use_auth: bool = Field(default=True, description="Jobs need a client; `false` for a network of friends only")
    sandbox: Literal["auto", "require", "off"] = Field(
        "auto", description="`require` refuses to start without namespaces, `auto` takes what the system can do"
    )
    readable: tuple[Path, ...] = Field((), description="More files and folders that transformations may read")
    job_timeout_s: Seconds = Field(300.0, gt=0, description="Longest run of a job, all its steps; waiting not counted")
    memory_mb: int = Field(1024, ge=64, description="Memory of a job, all its processes together")
    disk_mb: int = Field(4096, ge=1, description="What a job may have on disk, and write into one file")
    processes: int = Field(128, ge=8, description="Processes and threads of one job")
    max_upload_mb: int = Field(1024, ge=1, description="Size of an upload")
    client_upload_mb: dict[str, int] = Field({}, description='Other sizes by client name: `{"scans": 8192}`')
    max_unpacked_mb: int = Field(4096, ge=1, description="Size of an upload's files, unpacked")
    max_files: int = Field(10_000, ge=1, description="Files in an upload")
    max_queued: int = Field(1000, ge=1, description="Jobs that wait; more get 429")
    max_queued_per_client: int = Field(500, ge=1, description="Jobs of one client that wait; more get 429")
    max_attempts: int = Field(3, ge=1, le=20, description="How often a job is begun whose worker is lost")
    lease_s: Seconds = Field(30.0, ge=3, description="A worker silent for so long has lost its job")
    keep_s: Seconds = Field(86400.0, gt=0, description="Life of a result after the job's end, such as `24h`")
    cache: bool = Field(default=True, description="Equal files and steps of a client give the stored result at once")
    webhook_backoff_s: tuple[float, ...] = Field(
        (0, 5, 60, 300, 1800, 7200, 18000, 28800, 28800),
        min_length=1,
        description="Seconds before each try to deliver a webhook; after the last it is given up",
    )
    webhook_timeout_s: Seconds = Field(15.0, gt=0, description="A webhook's receiver must answer within")

    @field_validator("modules")
    @classmethod
    def _module_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _MODULE.fullmatch(name):
                raise ValueError(f"not a module's name: {name!r}")
        return value

    @field_validator("readable")
    @classmethod
    def _absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(path.expanduser().absolute() for path in value)

    @field_validator("webhook_backoff_s")
    @classmethod
    def _not_negative(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= pause <= 7 * 86400 for pause in value):
            raise ValueError("pauses are between 0 and a week")
        return value

    def upload_bytes(self, client_name: str) -> int:
        """How much that client may send in one body."""
        return self.client_upload_mb.get(client_name, self.max_upload_mb) << 20
