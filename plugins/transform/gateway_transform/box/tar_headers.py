"""The blocks of a tar archive that tell of its members: POSIX ustar and pax, GNU's long names (POSIX.1-2017 pax).

Only what a regular file or a folder needs is understood. All else is refused by name: every known way out of an
unpacked archive's folder needs a link or a special file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway_transform.box.codes import Refused

BLOCK_BYTES: Final = 512
MAX_PAYLOAD_BYTES: Final = 64 << 10
"""Of a pax header or a long name."""

LONG_NAME: Final = b"L"
PAX: Final = b"x"
PAX_GLOBAL: Final = b"g"

_FILES: Final = (b"0", b"\0", b"7")
_FOLDER: Final = b"5"
_TYPES: Final = frozenset({*_FILES, _FOLDER, LONG_NAME, PAX, PAX_GLOBAL})
_REFUSED: Final = {
    b"1": ("hard_link", "a hard link"),
    b"2": ("symbolic_link", "a symbolic link"),
    b"3": ("device", "a character device"),
    b"4": ("device", "a block device"),
    b"6": ("fifo", "a FIFO"),
    b"K": ("symbolic_link", "the long target of a link"),
    b"S": ("sparse", "a sparse file"),
}
_POSIX_MAGIC: Final = b"ustar\0"
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([^=]+)=")
_SET_ID_BITS: Final = 0o6000
_MAX_SIZE: Final = (1 << 63) - 1

_HARMLESS: Final = frozenset(
    {"atime", "charset", "comment", "ctime", "gid", "gname", "mtime", "uid", "uname", "hdrcharset"}
    | {f"SCHILY.{key}" for key in ("dev", "ino", "nlink", "fflags")}
)
_HARMLESS_BEGINNINGS: Final = ("LIBARCHIVE.", "RHT.", "SCHILY.acl.", "SCHILY.xattr.")
_REFUSED_KEYS: Final = {"linkpath": "symbolic_link", "SCHILY.realsize": "sparse"}


@dataclass(frozen=True, slots=True)
class Header:
    """One header block: ``kind`` is the type flag, ``name`` with the prefix, ``size`` of what follows in bytes."""

    name: bytes
    kind: bytes
    size: int

    def is_folder(self, name: bytes) -> bool:
        """Whether the member, with its true ``name``, is a folder: before POSIX a slash at the end said so.

        Raises Refused for what systems read differently: a file named like a folder, a folder with content.
        """
        slash = name.endswith(b"/")
        if self.kind in {b"0", b"7"} and slash:
            raise Refused("bad_header", f"{name!a} is a file and named like a folder")
        return self.kind == _FOLDER or slash


def parse(block: bytes) -> Header:
    """The header in 512 bytes. Raises Refused: ``bad_header``, or a word for what its member is."""
    _check_sum(block)
    kind = block[156:157]
    if refused := _REFUSED.get(kind):
        raise Refused(refused[0], f"{_shown(block)} is {refused[1]}")
    if kind not in _TYPES:
        raise Refused("unsupported_type", f"{_shown(block)} has the type {kind!a}")
    if kind in _FILES and _number(block[100:108], "mode") & _SET_ID_BITS:
        raise Refused("setuid", f"{_shown(block)} runs as its owner")
    name = _text(block[:100])
    if block[257:263] == _POSIX_MAGIC and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    return Header(name, kind, _size(block[124:136]))


def _check_sum(block: bytes) -> None:
    said = _OCTAL.fullmatch(block[148:156])
    if said is None or not said[1] or int(said[1], 8) != sum(block) - sum(block[148:156]) + 8 * 0x20:
        raise Refused("bad_header", "a header's checksum is wrong: not a tar archive, or a damaged one")


def _shown(block: bytes) -> str:
    return ascii(block[:100].rstrip(b"\0").decode(errors="replace"))


def _text(field: bytes) -> bytes:
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise Refused("nul_in_name", f"{field.rstrip(bytes(1))!a} has a NUL")
    return text


def _number(field: bytes, what: str) -> int:
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise Refused("bad_header", f"the {what} {field!a} is no octal number")
    return int(match[1] or b"0", 8)


def _size(field: bytes) -> int:
    """GNU writes sizes from 8 GiB on in base 256, the highest bit set; one more means a negative number."""
    if not field[0] & 0x80:
        return _number(field, "size")
    size = int.from_bytes(field[1:])
    if field[0] != 0x80 or size > _MAX_SIZE:
        raise Refused("bad_size", "a size below zero or beyond all files")
    return size


def long_name(payload: bytes) -> bytes:
    """The name that a GNU ``L`` member holds for the next one. Raises Refused."""
    name = payload.rstrip(b"\0")
    if b"\0" in name:
        raise Refused("nul_in_name", f"{name[:100]!a} has a NUL")
    return name


def pax_records(payload: bytes) -> dict[str, bytes]:
    """``path`` and ``size`` of the next member where a pax header names them; harmless keys are left out.

    Raises Refused: ``bad_header``, ``header_key`` for keys that nobody knows, or a word for what they make of it.
    """
    records: dict[str, bytes] = {}
    at = 0
    while at < len(payload):
        match = _RECORD.match(payload, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(payload) or payload[end - 1 : end] != b"\n":
            raise Refused("bad_header", "a pax header with a broken record")
        key, value = match[2].decode(errors="replace"), payload[match.end() : end - 1]
        if _counts(key):
            if key in records or not value:
                raise Refused("bad_header", f"a pax header with {key} twice or empty")
            records[key] = value
        at = end
    return records


def _counts(key: str) -> bool:
    """Whether the record changes what is unpacked; raises Refused for those that may not stand there."""
    if key in {"path", "size"}:
        return True
    if key in _HARMLESS or key.startswith(_HARMLESS_BEGINNINGS):
        return False
    if key.startswith("GNU.sparse."):
        raise Refused("sparse", "a sparse file")
    raise Refused(_REFUSED_KEYS.get(key, "header_key"), f"a pax header with {key[:100]!a}")


def pax_size(header: Header, value: bytes) -> int:
    """The size a pax header gives to ``header``'s member; raises Refused when the two contradict each other."""
    if not value.isdigit() or len(value) > 19 or int(value) > _MAX_SIZE:
        raise Refused("bad_size", f"a pax header with the size {value[:100]!a}")
    if header.size not in {0, int(value)}:
        raise Refused("bad_size", f"sizes that differ: {header.size} and {int(value)}")
    return int(value)
