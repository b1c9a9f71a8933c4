"""CRC-32s of files that went through whole, for the next archive that has them; no URL is kept, only hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import unquote_plus, urlsplit

import sqlalchemy as sa

from gateway_archive.layout.frozen import FrozenEntry
from gateway_archive.tables import learned
from gateway_archive.tickets import Ticket
from gateway_core import Gateway
from gateway_core.db.sweep import sweep_rows

TOUCH_EVERY_S: Final = 86_400.0
_BATCH: Final = 1000
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_SIGNED_PREFIXES = ("x-amz-", "x-goog-")
"""AWS Signature Version 4 and Google's V4 signing: all parameters that begin so belong to the signature."""
_SIGNED_SETS = (
    ({"awsaccesskeyid", "signature"}, {"awsaccesskeyid", "signature", "expires"}),  # AWS Signature Version 2
    ({"googleaccessid", "signature"}, {"googleaccessid", "signature", "expires"}),  # Google's V2 signing
    ({"key-pair-id", "signature"}, {"key-pair-id", "signature", "expires", "policy", "hash-algorithm"}),  # CloudFront
    (  # Azure: service, account and user delegation SAS
        {"sig", "sv"},
        {"sv", "ss", "srt", "sp", "se", "st", "spr", "sip", "sig", "sr", "si", "ses", "sdd", "saoid", "suoid", "scid"}
        | {"skoid", "sktid", "skt", "ske", "sks", "skv"},
    ),
)
"""What shows that a URL is signed, and what is the signature's then: the short names mean other things elsewhere."""


def learned_key(url: str, validator: str, size: int, *, client_id: str = "") -> str:
    """64 hex digits that are the same for the same file however its URL is signed, and tell nothing of it.

    With ``client_id`` the file is that client's alone.
    """
    told = json.dumps([_unsigned(url), validator, size, client_id])
    return hashlib.sha256(told.encode("ascii")).hexdigest()


def key_of(ticket: Ticket, entry: FrozenEntry) -> str:
    """The key of a ticket's file whose version is proven.

    Headers of the client's own, or a user named in the URL, may choose what is answered, validator and all: what is
    learned then is for that client alone.
    """
    item = ticket.items[entry.item]
    authority = item.url.partition("//")[2].partition("/")[0]
    client_id = ticket.client_id if item.headers or "@" in authority else ""
    return learned_key(item.url, entry.validator or "", entry.size, client_id=client_id)


class Learned:
    """The CRC-32s of one gateway's database, forgotten when unused for ``keep_s`` (0: nothing is learned).

    Methods raise DatabaseError.
    """

    def __init__(self, gateway: Gateway, keep_s: float) -> None:
        self._db = gateway.db
        self._keep_s = keep_s

    async def find(self, keys: Collection[str]) -> dict[str, int]:
        """CRC-32 by key, of those that are known; they count as used now."""
        if not self._keep_s:
            return {}
        now = self._db.now()
        aging = (learned.c.used < now - TOUCH_EVERY_S).label("aging")
        query = sa.select(learned.c.key, learned.c.crc32, aging).where(learned.c.used > now - self._keep_s)
        found: dict[str, int] = {}
        touched: list[str] = []
        for batch in _batches(keys):
            async with self._db.read() as tx:
                rows = await tx.rows(query.where(learned.c.key.in_(batch)))
            found.update((row.key, row.crc32) for row in rows)
            touched += (row.key for row in rows if row.aging)
        for batch in _batches(touched):
            async with self._db.write() as tx:
                await tx.execute(sa.update(learned).where(learned.c.key.in_(batch)).values(used=now))
        return found

    async def learn(self, crc32s: Mapping[str, int]) -> None:
        """Keep these; what is newer counts."""
        if not self._keep_s:
            return
        put = self._db.insert(learned).values(
            key=sa.bindparam("learned_key"), crc32=sa.bindparam("learned_crc32"), used=self._db.now()
        )
        changes = {"crc32": put.excluded.crc32, "used": put.excluded.used}
        put = put.on_conflict_do_update(index_elements=[learned.c.key], set_=changes)
        for batch in _batches(crc32s):
            async with self._db.write() as tx:
                await tx.execute(put, [{"learned_key": key, "learned_crc32": crc32s[key]} for key in batch])

    async def forget(self, keys: Collection[str]) -> None:
        """Drop what proved wrong."""
        for batch in _batches(keys):
            async with self._db.write() as tx:
                await tx.execute(sa.delete(learned).where(learned.c.key.in_(batch)))

    async def sweep(self) -> int:
        """Remove what was not used for ``keep_s``; how many."""
        return await sweep_rows(self._db, learned, learned.c.used, before=self._db.now() - self._keep_s)


def _batches(keys: Collection[str]) -> Iterator[Sequence[str]]:
    """All in one order, so that two transactions never wait for each other's rows."""
    ordered = sorted(keys)
    return (ordered[first : first + _BATCH] for first in range(0, len(ordered), _BATCH))


def _unsigned(url: str) -> str:
    """The URL in one way of writing, without fragment, user information and signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    host = parts.netloc.rpartition("@")[2].lower().removesuffix(_DEFAULT_PORTS.get(parts.scheme, ":")).rstrip(":")
    pairs = [(unquote_plus(pair.partition("=")[0]).lower(), pair) for pair in parts.query.split("&") if pair]
    names = {name for name, _ in pairs}
    dropped = {name for name in names if name.startswith(_SIGNED_PREFIXES)}
    for shown_by, belonging in _SIGNED_SETS:
        if shown_by <= names:
            dropped |= belonging
    query = "&".join(pair for name, pair in pairs if name not in dropped)
    return parts._replace(netloc=host, path=parts.path or "/", query=query, fragment="").geturl()
