"""Lines of ``SHA1SUMS`` and ``SHA256SUMS``, for ``sha1sum --check`` and ``sha256sum --check`` of GNU coreutils."""

from __future__ import annotations

from typing import Final

from gateway_blocks.files.paths import encode_name

MEDIA_TYPE: Final = "text/plain; charset=utf-8"
"""Of the list; names that are no UTF-8 stand in it as the bytes they are."""


def checksum_line(digest: bytes, name: str) -> bytes:
    """The line of a file: its raw ``digest`` in hexadecimal, two spaces, ``name``, as its bytes in the file system.

    A line with a backslash in front has backslashes, line feeds and carriage returns of the name escaped by one
    (GNU coreutils manual, "md5sum invocation"). ``-`` would be read as the standard input.
    """
    octets = b"./-" if name == "-" else encode_name(name)
    escaped = octets.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != octets else b""
    return b"%s%s  %s\n" % (mark, digest.hex().encode(), escaped)
