"""The JSON manifest of a folder: every file below it, with what is known of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Final

from gateway_blocks.files.paths import UrlPath
from gateway_blocks.formats.text import utc_time

_CHUNK_FILES: Final = 200


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file: ``path`` relative to the folder, ``etag`` as the field tells it, raw digests where they are known."""

    path: UrlPath
    size_bytes: int
    mtime_ns: int
    etag: str
    sha1: bytes | None = None
    sha256: bytes | None = None


async def manifest(path: str, files: AsyncIterable[ManifestFile], *, limit: int) -> AsyncIterator[bytes]:
    """The manifest in pieces; ``path`` is what the folder is called.

    ``url`` of a file is its path percent-encoded, exact for every name; its ``path`` has U+FFFD for bytes that are no
    UTF-8. ``truncated`` tells that there are more than ``limit`` files.
    """
    yield json.dumps({"ok": True, "msg": "", "path": path})[:-1].encode() + b', "files": ['
    rows: list[str] = []
    count, truncated, separator = 0, False, "\n"
    async for file in files:
        if count == limit:
            truncated = True
            break
        count += 1
        rows.append(_row(file))
        if len(rows) == _CHUNK_FILES:
            yield (separator + ",\n".join(rows)).encode()
            rows, separator = [], ",\n"
    rest = separator + ",\n".join(rows) if rows else ""
    yield f'{rest}\n], "truncated": {json.dumps(truncated)}}}\n'.encode()


def _row(file: ManifestFile) -> str:
    return json.dumps(
        {
            "path": file.path.decoded,
            "url": file.path.encoded,
            "size": file.size_bytes,
            "modified": utc_time(file.mtime_ns),
            "etag": file.etag,
            "sha1": None if file.sha1 is None else file.sha1.hex(),
            "sha256": None if file.sha256 is None else file.sha256.hex(),
        },
        ensure_ascii=False,
    )
