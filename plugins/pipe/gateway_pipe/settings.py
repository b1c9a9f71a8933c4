"""What can be set for the pipe plugin: ``GATEWAY_PIPE__<KEY>``."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from gateway_core import PluginSettings, Seconds

CALL_SCOPE = "pipe:call:{node}"
CONNECT_SCOPE = "pipe:connect:{node}"
"""Scopes of who calls a node, and of who may be one; templates of ``Route.scope``."""

_HANDLER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class PipeSettings(PluginSettings):
    """Settings of the pipe plugin."""

    listen: str = Field("", description="Port for nodes with certificates, `host:port`; TLS on both sides")
    ca: Path | None = Field(None, description="Certificate authority of your own (PEM); default: the built-in one")
    cert: Path | None = Field(None, description="This server's certificate, with its chain (PEM)")
    key: Path | None = Field(None, description="Key of that certificate (PEM)")
    server_names: tuple[str, ...] = Field((), description="More names and addresses for the built-in certificate")
    cert_days: float = Field(30.0, ge=0.001, le=825, description="Life of a node's certificate; renewed at two thirds")
    handlers: tuple[str, ...] = Field((), description="Handler classes of this server, as `module:Class`")
    handler_slots: int = Field(64, ge=1, le=4096, description="Handler calls at once in this process; more wait")
    call_auth: bool = Field(
        default=True, description="Calls need a client; `off` where only trusted programs reach the port"
    )
    wait_for_node: Seconds = Field(20.0, ge=0, description="How long a call waits for a known node that is away")
    call_timeout: Seconds = Field(300.0, gt=0, description="How long a call waits for its answer to begin")
    ping: Seconds = Field(5.0, ge=0.1, le=300, description="Heartbeat; a link silent for 2.5 of them is dead")
    max_streams: int = Field(256, ge=1, le=65536, description="Calls at once over one link")
    connecting: int = Field(64, ge=1, description="Nodes that may connect at once; more get 503 and a time to wait")
    ttl: Seconds = Field(86400.0, gt=0, description="Life of a durable call without X-Pipe-TTL")
    keep_results: Seconds = Field(86400.0, gt=0, description="Life of a durable call's result")
    max_waiting: int = Field(10_000, ge=1, description="Durable calls that wait for one node; more get 429")
    max_durable_mb: int = Field(64, ge=1, description="Size of a durable call's body, and of its result")
    expose_host: str = Field("", description="Nodes' web applications as `NAME--NODE.<this host>`, for browsers")
    peer_listen: str = Field("127.0.0.1:0", description="Where other gateways reach this process; port 0: any")
    peer_host: str = Field("", description="The name or address in that, as other gateways dial it")
    statsd: str = Field("", description="`host:port` that gets RestPipe's statsd metrics; default: none")

    @field_validator("handlers")
    @classmethod
    def _handler_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HANDLER.fullmatch(name):
                raise ValueError(f"expected module:Class, not {name!r}")
        return value

    @field_validator("listen", "peer_listen", "statsd")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            address(value)
        return value

    @model_validator(mode="after")
    def _whole_certificate(self) -> PipeSettings:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together")
        if self.ca is not None and self.cert is None:
            raise ValueError("a ca of your own needs cert and key of this server")
        return self


def address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` (``[::1]:80`` for IPv6); raises ValueError for another form."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"expected host:port, not {text!r}")
    return host.strip("[]"), int(port)
