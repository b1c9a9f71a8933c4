"""Metalink 4 (RFC 5854): where files are and the SHA-1 of their pieces, written while these become known.

aria2 verifies every piece with it and repairs files; wget2 does where the checksum of the whole file is there too, and
takes the first file of a Metalink only.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway_blocks.files.errors import FileChanged
from gateway_blocks.formats.text import portable_name
from gateway_blocks.sums.layout import BlockLayout

MEDIA_TYPE: Final = "application/metalink4+xml"
"""Of the whole document (RFC 5854 7.2)."""

_SHA1_BYTES: Final = 20
_HEAD: Final = b'<?xml version="1.0" encoding="UTF-8"?>\n<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n'
_TAIL: Final = b"</metalink>\n"
_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", '"': "&quot;"})  # no more: wget2 decodes none in names


@dataclass(frozen=True, slots=True)
class MetalinkFile:
    """One file: ``name`` relative, its parts joined by ``/``; absolute ``urls``, the best first.

    ``digests`` are the raw SHA-1 of its blocks in their order, one or several joined, as soon as they are known; it is
    for who made it to close. ``sha256`` is asked for the whole file's after them, when it may have become known.
    """

    name: str
    size_bytes: int
    block_bytes: int
    digests: AsyncIterable[bytes]
    sha256: Callable[[], bytes | None]
    urls: Sequence[str]


async def metalink(files: AsyncIterable[MetalinkFile]) -> AsyncIterator[bytes]:
    """The document in pieces, each as soon as it can be written.

    Names are told as ``portable_name`` makes them, so no file is left out. Raises FileChanged when the digests of a
    file are not those of all its blocks, and whatever ``files`` and ``digests`` raise: what was written is then no
    well-formed XML, and no client takes it for whole.
    """
    yield _HEAD
    async for file in files:
        layout = BlockLayout(file.size_bytes, file.block_bytes)
        text, digest, told_bytes = _opening(file), b"", 0
        if layout.count:
            async for digest in file.digests:
                told_bytes += len(digest)
                yield (text + _hashes(digest)).encode()
                text = ""
            text += "</pieces>\n"
        if told_bytes != layout.count * _SHA1_BYTES:
            raise FileChanged(f"{told_bytes} bytes of checksums for {layout.count} blocks")
        only = digest if layout.count == 1 else None
        yield (text + _closing(file, sha1=only)).encode()
    yield _TAIL


def _opening(file: MetalinkFile) -> str:
    name = portable_name(file.name).translate(_ESCAPES)
    text = f'<file name="{name}">\n<size>{file.size_bytes}</size>\n'
    return f'{text}<pieces length="{file.block_bytes}" type="sha-1">' if file.size_bytes else text


def _hashes(digests: bytes) -> str:
    digits = digests.hex(" ", -_SHA1_BYTES).split()
    return "".join(f"<hash>{each}</hash>" for each in digits)


def _closing(file: MetalinkFile, *, sha1: bytes | None) -> str:
    """What comes after the pieces. ``sha1`` is of the whole file, where that is its only block."""
    sha256 = file.sha256()
    whole = [("sha-256", sha256), ("sha-1", sha1)]
    lines = [f'<hash type="{kind}">{digest.hex()}</hash>\n' for kind, digest in whole if digest is not None]
    lines += [f'<url priority="{place}">{url.translate(_ESCAPES)}</url>\n' for place, url in enumerate(file.urls, 1)]
    return "".join([*lines, "</file>\n"])
