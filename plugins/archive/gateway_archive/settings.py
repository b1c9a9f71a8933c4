"""What can be set for the archive plugin: ``GATEWAY_ARCHIVE__<KEY>``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway_core import PluginSettings, Seconds

MIB = 1 << 20


class ArchiveSettings(PluginSettings):
    """Settings of the archive plugin."""

    queue: bool = Field(default=False, description="Let downloads wait for their turn, as FPX does with its queue on")
    max_active_downloads: int = Field(64, ge=1, description="Downloads at once, all workers together")
    ticket_ttl: Seconds = Field(86400.0, gt=0, description="Life of a ticket, such as `24h`")
    max_ticket_ttl: Seconds = Field(604800.0, gt=0, description="Longest `options.expires_in` a client may ask for")
    max_items: int = Field(10_000, ge=1, description="Items in one ticket")
    max_url_length: int = Field(8192, ge=64, description="Characters in one URL")
    max_ticket_bytes: int = Field(16 * MIB, ge=1024, description="Size of a ticket's JSON body")
    max_total_bytes: int = Field(0, ge=0, description="Bytes of files in one archive; 0: no limit")
    per_host: int = Field(32, ge=1, description="Connections to one host at once, all workers together")
    ahead_items: int = Field(8, ge=1, le=256, description="Files fetched ahead at once for one download")
    ahead_bytes: int = Field(16 * MIB, ge=MIB, description="Bytes fetched ahead for one download")
    stall_timeout_s: Seconds = Field(30.0, gt=0, description="A source that sends nothing for so long has failed")
    probe: Literal["auto", "never"] = Field(
        "auto", description="Ask sources for their sizes first, so that downloads have a length and can be resumed"
    )
    probe_timeout_s: Seconds = Field(10.0, gt=0, description="Longest wait for sizes; then it is streamed without them")
    resume_unproven: bool = Field(
        default=False, description="Let downloads be resumed although a source names no version of its bytes"
    )
    pad_bytes: int = Field(8 * MIB, ge=0, description="Lost bytes that are filled up rather than cut the download")
    remember_s: Seconds = Field(2_592_000.0, ge=0, description="How long the CRC-32 of a file is remembered unused")
    resume_tries: int = Field(5, ge=0, description="How often a source that breaks off is continued")
