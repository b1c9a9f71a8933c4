"""Tar archives written by hand, byte by byte: good ones, and those that no archiver would write."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

BLOCK = 512
END = bytes(2 * BLOCK)
POSIX = b"ustar\x0000"
GNU = b"ustar  \0"


def octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


def header(
    name: bytes,
    size: int | bytes = 0,
    kind: bytes = b"0",
    *,
    mode: int = 0o644,
    link: bytes = b"",
    magic: bytes = POSIX,
    prefix: bytes = b"",
) -> bytes:
    """One header block; ``size`` as bytes stands there as it is."""
    block = bytearray(BLOCK)
    block[0 : len(name)] = name
    block[100:108] = octal(mode, 8)
    block[108:124] = octal(0, 8) + octal(0, 8)
    block[124:136] = size if isinstance(size, bytes) else octal(size, 12)
    block[136:148] = octal(0, 12)
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def file(name: bytes, data: bytes = b"x", **said: object) -> bytes:
    return header(name, len(data), **said) + padded(data)


def folder(name: bytes) -> bytes:
    return header(name, kind=b"5", mode=0o755)


def link(name: bytes, target: bytes, kind: bytes = b"2") -> bytes:
    return header(name, kind=kind, link=target)


def record(key: bytes, value: bytes) -> bytes:
    """One pax record, whose length counts itself."""
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    return file(b"PaxHeader", b"".join(record(*each) for each in records), kind=kind)


def long_name(name: bytes) -> bytes:
    return file(b"././@LongLink", name + b"\0", kind=b"L", magic=GNU)


def gz(*parts: bytes) -> bytes:
    return b"".join(deflated(parts))


def deflated(parts: Iterable[bytes], level: int = 1) -> Iterable[bytes]:
    """One gzip member, piece by piece."""
    deflate = zlib.compressobj(level, zlib.DEFLATED, 31)
    for part in parts:
        yield deflate.compress(part)
    yield deflate.flush()
