"""Storage in a bucket: S3 and what speaks it, through obstore, which is imported only when a bucket is opened.

An object's digest is its metadata ``sha256`` (``x-amz-meta-sha256``), which must be sent before the bytes: so these are
spooled to an unnamed local file first. That makes one PUT publish both, retries possible and giving up free.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, urlsplit

from gateway_core.errors import ConfigError, ObjectCorrupt, ObjectMissing, StorageError, StorageFull
from gateway_core.storage.base import StoredObject, Writer, check_key, check_round_trip, sweep_checks
from gateway_core.storage.staging import BUFFER_BYTES, StagedWriter

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, PutResult
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config

T = TypeVar("T")
CHUNK_BYTES = 1 << 20
PART_BYTES = 8 << 20
_MAX_PARTS = 10_000
_PARTS_AT_ONCE = 4
_UPLOADS_AT_ONCE = 4
_HEADS_AT_ONCE = 16
_ANSWER_S = 600
_ABORT_S = 10
_DIGEST = "sha256"
_FULL = ("QuotaExceeded", "XMinioStorageFull", "Insufficient Storage")
_OPTIONS = frozenset({"endpoint", "region", "addressing"})


class ObjectStorage:
    """Storage in an obstore ``store``; ``scratch_dir`` takes what is being written, over 1 MiB, until it is committed.

    Objects above 8 MiB go up in parts of at least that size, 4 at a time, for 4 objects at a time: at most some 160 MiB
    in memory. An upload that is killed leaves invisible parts: give the bucket a lifecycle rule that aborts incomplete
    uploads after a day. ``list`` asks for each object's digest, 16 at a time. Directory buckets (S3 Express) list in no
    order and are not supported.
    """

    def __init__(self, store: ObjectStore, scratch_dir: Path) -> None:
        self._store = store
        self._scratch_dir = scratch_dir
        self._uploads = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    @asynccontextmanager
    async def writer(self, key: str) -> AsyncIterator[Writer]:
        """See Storage."""
        writer = _ObjectWriter(self._store, check_key(key), scratch_dir=self._scratch_dir, uploads=self._uploads)
        try:
            yield writer
        finally:
            await writer.discard()

    @asynccontextmanager
    async def open(self, key: str, *, offset: int = 0) -> AsyncIterator[AsyncIterator[bytes]]:
        """See Storage; also raises ObjectCorrupt for an object without digest, which somebody else put there."""
        if offset < 0:
            raise ValueError(f"offset {offset} is below 0")
        found = await self._from(check_key(key), offset)
        expected = None if offset or not found else _described(key, found).sha256
        async with aclosing(_chunks(key, found, expected)) as chunks:
            yield chunks

    async def stat(self, key: str) -> StoredObject:
        """See Storage; also raises ObjectCorrupt for an object without digest, which somebody else put there."""
        return _described(key, await self._get(check_key(key), {"head": True}))

    async def delete(self, key: str) -> bool:
        """See Storage; of two that delete at once, both may be told True."""
        from obstore import delete_async

        try:
            await self._get(check_key(key), {"head": True})
            await _answer(delete_async(self._store, key), f"delete {key}")
        except ObjectMissing:
            return False
        return True

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """See Storage; leaves out what has no digest."""
        import obstore

        folder = prefix.rpartition("/")[0]
        if folder and not _is_key(folder):
            return
        pages = obstore.list(self._store, folder or None, chunk_size=_HEADS_AT_ONCE)
        while page := await _answer(anext(pages, None), "list objects"):
            keys = [meta["path"] for meta in page]
            for stored in await self._stat_all(key for key in keys if key.startswith(prefix) and _is_key(key)):
                yield stored
            if keys[-1] > prefix and not keys[-1].startswith(prefix):
                return

    def local_path(self, key: str) -> None:
        """See Storage: there is none."""
        check_key(key)

    async def sweep(self, older_than_s: float) -> int:
        """See Storage; nothing else is left behind here, see the class for incomplete uploads."""
        return await sweep_checks(self, older_than_s)

    async def check(self) -> None:
        """See Storage."""
        await check_round_trip(self)

    async def close(self) -> None:
        """See Storage; obstore closes its connections with the process."""

    async def _get(self, key: str, options: GetOptions) -> GetResult:
        from obstore import get_async

        return await _answer(get_async(self._store, key, options=options), f"read {key}")

    async def _from(self, key: str, offset: int) -> GetResult | None:
        """The object from ``offset`` on, None at its end."""
        if offset == 0:
            return await self._get(key, {})
        try:
            return await self._get(key, {"range": {"offset": offset}})
        except ObjectMissing:
            raise
        except StorageError:
            # The end and what is past it are no range (416), for which obstore has no error of its own.
            size_bytes = (await self.stat(key)).size_bytes
            if offset < size_bytes:
                raise
        if offset > size_bytes:
            raise ValueError(f"offset {offset} is past the end of {key}, {size_bytes} bytes")
        return None

    async def _stat_all(self, keys: Iterable[str]) -> Sequence[StoredObject]:
        """Those that are still there and ours, in the order of ``keys``."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._stat_if_ours(key)) for key in keys]
        except ExceptionGroup as errors:
            raise StorageError("cannot list objects") from errors
        return [stored for task in tasks if (stored := task.result())]

    async def _stat_if_ours(self, key: str) -> StoredObject | None:
        try:
            return await self.stat(key)
        except (ObjectMissing, ObjectCorrupt):
            return None


class _ObjectWriter(StagedWriter):
    def __init__(self, store: ObjectStore, key: str, *, scratch_dir: Path, uploads: asyncio.Semaphore) -> None:
        super().__init__(key)
        self._store = store
        self._scratch_dir = scratch_dir
        self._uploads = uploads
        self._given_up = False

    async def commit(self) -> StoredObject:
        """See Writer."""
        await self._finish(self._seal)
        sha256 = self._digest.hexdigest()
        async with self._uploads:
            await self._upload(sha256)
        return StoredObject(self.key, self._size_bytes, sha256, time.time())

    def _create(self) -> int:
        self._scratch_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._scratch_dir, buffering=0) as spool:
            return os.dup(spool.fileno())

    def _seal(self) -> None:
        if self._fd is None:
            self._digest.update(self._buffer)
        else:
            self._append(self._buffer)

    async def _upload(self, sha256: str) -> None:
        from obstore import put_async

        upload = asyncio.ensure_future(
            put_async(
                self._store,
                self.key,
                bytes(self._buffer) if self._fd is None else self._pieces(),
                attributes={_DIGEST: sha256},
                use_multipart=self._size_bytes > PART_BYTES,
                chunk_size=max(PART_BYTES, -(-self._size_bytes // _MAX_PARTS)),
                max_concurrency=_PARTS_AT_ONCE,
            )
        )
        try:
            await _answer(asyncio.shield(upload), f"write {self.key}", limit_s=None)
        except ObjectMissing as error:
            raise StorageError(f"cannot write {self.key}: no such bucket") from error
        except asyncio.CancelledError:
            await self._abort(upload)
            raise

    async def _abort(self, upload: asyncio.Future[PutResult]) -> None:
        """Stop feeding, at which obstore removes the parts already sent; simply dropped it would leave them."""
        self._given_up = True
        try:
            await asyncio.wait([upload], timeout=_ABORT_S)
        finally:
            if not upload.cancel() and not upload.cancelled():
                upload.exception()

    async def _pieces(self) -> AsyncIterator[bytes]:
        offset = 0
        while piece := await asyncio.to_thread(self._locked, partial(self._read, offset)):
            if self._given_up:
                raise StorageError(f"writing {self.key} was given up")
            yield piece
            offset += len(piece)

    def _read(self, offset: int) -> bytes:
        assert self._fd is not None
        return os.pread(self._fd, BUFFER_BYTES, offset)


async def _chunks(key: str, found: GetResult | None, expected: str | None) -> AsyncGenerator[bytes]:
    """Bytes as they come, verified when there is a digest to ``expect``."""
    if found is None:
        return
    digest = hashlib.sha256()
    stream = found.stream(CHUNK_BYTES)
    while chunk := await _answer(anext(stream, b""), f"read {key}"):
        if expected:
            await asyncio.to_thread(digest.update, chunk)
        yield chunk
    if expected and digest.hexdigest() != expected:
        raise ObjectCorrupt(f"{key} does not have the SHA-256 it was written with, {expected}")


async def _answer(request: Awaitable[T], action: str, *, limit_s: float | None = _ANSWER_S) -> T:
    """What obstore answers, its errors told as ours. The message names no more than their kind: clients see it."""
    from obstore.exceptions import BaseError

    try:
        async with asyncio.timeout(limit_s):
            return await request
    except FileNotFoundError as error:
        raise ObjectMissing(f"cannot {action}: not there") from error
    except (BaseError, OSError) as error:
        kind = StorageFull if any(word in str(error) for word in _FULL) else StorageError
        raise kind(f"cannot {action}: {type(error).__name__}") from error


def _described(key: str, found: GetResult) -> StoredObject:
    sha256 = found.attributes.get(_DIGEST)
    if not sha256:
        raise ObjectCorrupt(f"{key} has no metadata {_DIGEST}: not written by the gateway, or copied without it")
    return StoredObject(key, found.meta["size"], sha256, found.meta["last_modified"].timestamp())


def _is_key(text: str) -> bool:
    try:
        check_key(text)
    except ValueError:
        return False
    return True


def open_s3(url: str, scratch_dir: Path) -> ObjectStorage:
    """The bucket of ``s3://bucket/prefix?endpoint=https://host:port&region=...&addressing=path|virtual``.

    Credentials come from the environment or the machine's role, as obstore finds them: AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, web identity, container or instance metadata. They are refused in the URL,
    which ends up in more places. Requests are retried 5 times with jitter, an answer may take 60 s, a whole transfer as
    long as it likes. Raises ConfigError.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "@" in parts.netloc or {key for key in options if "secret" in key or "access_key" in key or "token" in key}:
        raise ConfigError("STORAGE_URL: credentials belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if unknown := options.keys() - _OPTIONS:
        raise ConfigError(f"STORAGE_URL: unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(_OPTIONS))}")
    if not parts.netloc or options.get("addressing", "path") not in {"path", "virtual"} or parts.fragment:
        raise ConfigError("STORAGE_URL: s3://bucket/prefix?endpoint=...&region=...&addressing=path|virtual")
    return ObjectStorage(_s3_store(parts.netloc, parts.path.strip("/"), options), scratch_dir)


def _s3_store(bucket: str, prefix: str, options: dict[str, str]) -> ObjectStore:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError as error:
        raise ConfigError("STORAGE_URL: s3 needs obstore: pip install 'content-gateway[s3]'") from error
    config: S3Config = {"disable_bulk_delete": True}
    if "region" in options:
        config["region"] = options["region"]
    if "endpoint" in options:
        config["endpoint"] = options["endpoint"]
    if "addressing" in options:
        config["virtual_hosted_style_request"] = options["addressing"] == "virtual"
    # obstore's own total of 30 s would cut every long transfer; a stalled one is ended by read_timeout.
    client: ClientConfig = {"timeout": timedelta(days=7), "read_timeout": timedelta(seconds=60)}
    if options.get("endpoint", "").startswith("http://"):
        client["allow_http"] = True
    # The number bounds a request; the time would end the retries of a download that has been going on for longer.
    retry: RetryConfig = {"max_retries": 5, "retry_timeout": timedelta(days=7)}
    try:
        return S3Store(bucket, prefix=prefix or None, config=config, client_options=client, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise ConfigError(f"STORAGE_URL: {error}") from error
