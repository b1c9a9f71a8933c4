"""A ticket: which files, in which form, for how long; read from what FPX clients send."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gateway_archive.settings import ArchiveSettings
from gateway_core import Seconds
from gateway_core.errors import Invalid, TooLarge
from gateway_core.http.json_body import parse_json

_IN_THREAD_BYTES = 64 << 10
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class TicketType(StrEnum):
    """What a download of the ticket gives: a ZIP of all items, or the one item as it is."""

    ZIP = "zip"
    STREAM = "stream"


class OnError(StrEnum):
    """What a source that cannot be had means for the archive."""

    REPORT = "report"
    SKIP = "skip"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a ticket: ``url``, its ``name`` and folder ``path`` in the archive, headers for its own server.

    An item without ``url`` whose ``path`` or ``name`` ends with ``/`` is an empty folder. ``size`` in bytes, ``crc32``
    and ``modified`` (Unix seconds) are what the client knows of the file; ``size`` counts against the limit of total
    bytes.
    """

    url: str = ""
    name: Annotated[str, Field(max_length=4096)] | None = None
    path: Annotated[str, Field(max_length=4096)] | None = None
    headers: dict[str, str] | None = field(default=None, repr=False)
    size: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    crc32: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None
    modified: Annotated[int, Field(ge=0, lt=1 << 40)] | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it stands for an empty folder."""
        return not self.url


_ITEM = TypeAdapter(Item)
_ITEM_KEYS = frozenset(known.name for known in fields(Item))


class Options(BaseModel):
    """``options`` of a ticket; what stands here and is not known gives a warning."""

    model_config = ConfigDict(extra="allow", frozen=True)

    filename: str | None = Field(None, max_length=1024)
    expires_in: Annotated[Seconds, Field(gt=0)] | None = None
    once: bool = False
    on_error: OnError = OnError.REPORT


@dataclass(frozen=True, slots=True)
class Order:
    """What a client asks for, checked: nothing is stored yet. ``warnings`` name what was not understood."""

    type: TicketType
    items: tuple[Item, ...]
    options: Options
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ticket:
    """A stored ticket. ``id`` is a UUID with dashes, times are Unix seconds; whoever knows the id may download.

    ``items`` may be decoded as they are asked for: quick one by one, all of many are work for a thread.
    """

    id: str
    client_id: str
    type: TicketType
    created: float
    expires: float
    options: Options
    items: Sequence[Item] = field(default=(), repr=False)


class GenerateRequest(BaseModel):
    """Body of ``/ticket/generate`` and ``/ticket/check``; ``items`` and ``options`` also as base64 of their JSON."""

    type: TicketType = TicketType.ZIP
    items: list[str | Item] | str
    options: Options | str = Field(default_factory=lambda: Options.model_validate({}))


class Orders:
    """Reads orders within the limits of the settings."""

    def __init__(self, settings: ArchiveSettings) -> None:
        self._settings = settings

    async def parse(self, data: bytes, *, strict: bool = False) -> Order:
        """An order from a JSON body, in a thread where it is long; raises as ``read`` does, and as ``parse_json``."""
        if len(data) > _IN_THREAD_BYTES:
            return await asyncio.to_thread(lambda: self.read(parse_json(data), strict=strict))
        return self.read(parse_json(data), strict=strict)

    def read(self, body: Any, *, strict: bool = False) -> Order:
        """An order from a decoded JSON body; raises Invalid by field, TooLarge over the limit of total bytes.

        With ``strict``, what would give a warning is Invalid.
        """
        if not isinstance(body, dict):
            raise Invalid({"_schema": ["Invalid input type."]})
        warnings = [f"{key}: not known" for key in body if key not in {"type", "items", "options"}]
        kind = self._type(body.get("type", "zip"))
        items = self._items(body, warnings)
        options = self._options(body.get("options", {}), warnings)
        if kind is TicketType.STREAM and (len(items) != 1 or items[0].is_folder):
            raise Invalid({"type": ["Ticket with the type `stream` allows only one item"]})
        if strict and warnings:
            raise Invalid({text.partition(":")[0]: [text.partition(": ")[2]] for text in warnings})
        return Order(kind, items, options, tuple(warnings))

    def _type(self, value: Any) -> TicketType:
        try:
            return TicketType(value)
        except ValueError as exc:
            raise Invalid({"type": ["Must be one of: zip, stream."]}) from exc

    def _items(self, body: Mapping[str, Any], warnings: list[str]) -> tuple[Item, ...]:
        if "items" not in body:
            raise Invalid({"items": ["Missing data for required field."]})
        raw = _decoded("items", body["items"], list)
        limit = self._settings.max_items
        if not raw:
            raise Invalid({"items": ["At least one item is needed."]})
        if len(raw) > limit:
            raise Invalid({"items": [f"{len(raw)} items; the limit is {limit}."]})
        unknown: set[str] = set()
        items = tuple(self._item(index, value, unknown) for index, value in enumerate(raw))
        warnings.extend(f"items.{key}: not known" for key in sorted(unknown))
        total = sum(item.size or 0 for item in items)
        if 0 < self._settings.max_total_bytes < total:
            raise TooLarge(f"items: {total} bytes in all; the limit is {self._settings.max_total_bytes}")
        return items

    def _item(self, index: int, value: Any, unknown: set[str]) -> Item:
        if isinstance(value, str):
            value = {"url": value}
        if not isinstance(value, dict):
            raise Invalid({"items": [f"item {index}: neither a URL nor an object."]})
        try:
            item = _ITEM.validate_python(value)
        except ValidationError as exc:
            error = exc.errors(include_url=False)[0]
            where = ".".join(str(step) for step in error["loc"])
            raise Invalid({"items": [f"item {index}: {where}: {error['msg']}."]}) from exc
        unknown.update(value.keys() - _ITEM_KEYS)
        if not item.url and not (item.path or "").endswith("/") and not (item.name or "").endswith("/"):
            raise Invalid({"items": [f"item {index}: url is missing."]})
        if len(item.url) > self._settings.max_url_length:
            raise Invalid({"items": [f"item {index}: the URL has over {self._settings.max_url_length} characters."]})
        for name, text in (item.headers or {}).items():
            if not is_header_name(name) or not text.isprintable() or len(text) > 8192:
                raise Invalid({"items": [f"item {index}: headers: not a valid header: {name[:64]!r}."]})
        return item

    def _options(self, value: Any, warnings: list[str]) -> Options:
        try:
            options = Options.model_validate(_decoded("options", value, dict))
        except ValidationError as exc:
            error = exc.errors(include_url=False)[0]
            where = ".".join(str(step) for step in error["loc"])
            raise Invalid({"options": [f"{where}: {error['msg']}."]}) from exc
        if (options.expires_in or 0) > self._settings.max_ticket_ttl:
            raise Invalid({"options": [f"expires_in: the limit is {self._settings.max_ticket_ttl:.0f} seconds."]})
        warnings.extend(f"options.{key}: not known" for key in sorted(options.model_extra or ()))
        return options


def is_header_name(name: str) -> bool:
    """Whether it is a token (RFC 9110 5.6.2)."""
    return _HEADER_NAME.fullmatch(name) is not None


def _decoded(name: str, value: Any, expected: type) -> Any:
    """The value itself, or what its base64 holds as JSON (line breaks allowed); raises Invalid for the field."""
    if isinstance(value, expected):
        return value
    if not isinstance(value, str):
        raise Invalid({name: ["Not a string."]})
    try:
        text = base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Invalid({name: ["Not a valid base64-encoded value"]}) from exc
    try:
        decoded = parse_json(text)
    except Invalid as exc:
        raise Invalid({name: ["Not a valid JSON"]}) from exc
    if not isinstance(decoded, expected):
        raise Invalid({name: [f"Unexpected value type after deserialization: {type(decoded).__name__}"]})
    return decoded
