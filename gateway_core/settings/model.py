"""What can be set: the core's fields, and the base of every plugin's section."""

from __future__ import annotations

import ipaddress
import json
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from platformdirs import user_data_dir
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_duration(value: Any) -> Any:
    """``90``, ``90s``, ``15m``, ``24h``, ``7d`` as seconds; raises ValueError for other texts."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip().lower())
    if match is None:
        raise ValueError("expected seconds or a number with s, m, h, d or w, such as 24h")
    return float(match[1]) * _UNITS_S[match[2] or "s"]


Seconds = Annotated[float, BeforeValidator(parse_duration)]
"""A time span: a number of seconds, or a text such as ``24h``."""

_COLLECTIONS = (list, tuple, set, frozenset, dict)


def _takes_collection(annotation: Any) -> bool:
    """Whether the annotation is, or holds beside None, a list, tuple, set or dict."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType, Annotated):
        return any(_takes_collection(arg) for arg in get_args(annotation))
    return (origin or annotation) in _COLLECTIONS


def split_text(value: str) -> Any:
    """``a,b`` and ``["a", "b"]`` both become lists; ``{...}`` becomes a dict. Raises ValueError for broken JSON."""
    text = value.strip()
    if text[:1] in {"[", "{"}:
        try:
            return json.loads(text)
        except json.JSONDecodeError as exc:
            raise ValueError(f"not valid JSON: {exc}") from exc
    return [part.strip() for part in text.split(",") if part.strip()]


class Lenient(BaseModel):
    """Base of all settings: takes ``a,b`` where a list is expected, since people write that in environments."""

    @field_validator("*", mode="before")
    @classmethod
    def _split_lists(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        return split_text(value) if isinstance(value, str) and _takes_collection(field.annotation) else value


class PluginSettings(Lenient):
    """Base of a plugin's section; every field needs a description, and units in its name where a unit exists."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)

    prefix: str = Field("", description="Path prefix of the plugin's routes, such as `/fpx`; empty for none")

    @field_validator("prefix")
    @classmethod
    def _prefix_form(cls, value: str) -> str:
        stripped = value.rstrip("/")
        if stripped and (not stripped.startswith("/") or any(c in stripped for c in "{}?#% ")):
            raise ValueError("a prefix begins with / and holds no braces, spaces, %, ? or #")
        return stripped


class Settings(Lenient, BaseSettings):
    """The core's settings; plugin sections are added to a subclass when the plugins are known."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)

    host: str = Field("127.0.0.1", description="Address to bind; `0.0.0.0` for all")
    port: int = Field(8000, ge=0, le=65535, description="Port to bind; 0 picks a free one")
    workers: int = Field(1, ge=1, le=64, description="Server processes that share the port")
    data_dir: Path = Field(
        default_factory=lambda: Path(user_data_dir("content-gateway")),
        description="SQLite, local storage, instance key and `files/`; default: the user's data folder",
    )
    plugins: tuple[str, ...] | None = Field(None, description="Plugins to enable, `a,b`; default: all installed")
    plugins_strict: bool = Field(default=True, description="A plugin that fails to load stops the start")
    db_url: str = Field("", description="`sqlite:///path` or `postgresql://...`; default: SQLite in the data folder")
    redis_url: str = Field("", description="`redis://...` for wake-ups across processes and nodes; optional")
    storage_url: str = Field("", description="`file:///path` or `s3://bucket/prefix`; default: the data folder")
    secret_key: tuple[SecretStr, ...] = Field(
        (), description="Keys, `new,old`: the first encrypts, all decrypt; needed with PostgreSQL, else made by itself"
    )
    auto_migrate: bool = Field(default=False, description="`serve` upgrades the database itself (SQLite: always)")
    public_url: str = Field("", description="URL under which clients reach the gateway, path prefix included")
    trusted_proxies: tuple[str, ...] = Field((), description="Networks whose forwarding headers are believed")
    cors_origins: tuple[str, ...] = Field(("*",), description="Origins that may use capability routes from a browser")
    egress_allow: tuple[str, ...] = Field(
        (),
        description="Private networks and hosts that may be fetched from, any port: `10.1.0.0/16,host.example`",
    )
    egress_ports: tuple[int, ...] = Field((80, 443), description="Ports that may be reached on public addresses")
    egress_connections: int = Field(256, ge=1, description="Outgoing connections at once, all workers together")
    egress_stall_s: Seconds = Field(30.0, gt=0, description="An upstream that sends nothing for so long has failed")
    db_pool: int = Field(10, ge=1, description="PostgreSQL connections, all workers together")
    max_body_bytes: int = Field(1 << 20, ge=1024, description="Largest request body where a route sets no other limit")
    keepalive_timeout_s: Seconds = Field(15.0, gt=0, description="Idle time of a connection, and of a request's head")
    write_stall_s: Seconds = Field(30.0, gt=0, description="A client that takes nothing for so long is dropped")
    drain_delay_s: Seconds = Field(0.0, ge=0, description="After SIGTERM: unready for so long before the port closes")
    drain_timeout_s: Seconds = Field(30.0, ge=0, description="After SIGTERM: running answers get so long to complete")
    metrics_public: bool = Field(default=True, description="`/metrics` without a secret; else scope `core:metrics`")
    demo: bool = Field(
        default=False, description="Serve the small sample files under `/demo/` that the quickstart uses"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="`auto`: JSON when not on a terminal")
    debug: bool = Field(
        default=False, description="Tracebacks on the console and asyncio's debug mode; never in production"
    )

    @field_validator("public_url")
    @classmethod
    def _public_url_form(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            ipaddress.ip_network(text, strict=False)
        return value

    @field_validator("secret_key")
    @classmethod
    def _key_length(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < 16 for key in value):
            raise ValueError("a key has at least 16 characters")
        return value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _key_with_postgres(self) -> Self:
        if self.db_url.startswith("postgres") and not self.secret_key:
            raise ValueError("SECRET_KEY must be set with PostgreSQL, so that all gateways use the same")
        return self

    @property
    def database_url(self) -> str:
        """``db_url``, or SQLite in the data folder."""
        return self.db_url or f"sqlite:///{self.data_dir / 'gateway.db'}"

    def section(self, name: str) -> PluginSettings:
        """The section of plugin ``name``; raises KeyError when it has none."""
        section = self.__dict__.get(name)
        if not isinstance(section, PluginSettings):
            raise KeyError(name)
        return section
