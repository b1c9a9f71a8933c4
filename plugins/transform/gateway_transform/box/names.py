"""Paths inside an archive: which are taken, when two are the same, and how odd file names are written."""

from __future__ import annotations

import os
import re
from unicodedata import normalize

from gateway_transform.box.codes import Refused

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_DEPTH = 32

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_ODD = re.compile(r"[\x00-\x1f\\\x7f-\x9f\udc80-\udcff]")


def checked(raw: bytes) -> str:
    """The path in an archive without ``.`` and empty parts; "" is the archive's root, which tarfile writes as ``/``.

    Raises Refused for whatever leads outside on any system, is longer or deeper than the limits of this module, or
    is no printable UTF-8.
    """
    if len(raw) > MAX_PATH_BYTES:
        raise Refused("path_too_long", f"a path of {len(raw)} bytes")
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise Refused("name_encoding", f"{raw!a} is not UTF-8") from error
    if "\0" in name:
        raise Refused("nul_in_name", f"{name!a} has a NUL")
    if _CONTROL.search(name):
        raise Refused("control_character", f"{name!a} has a control character")
    if "\\" in name:
        raise Refused("backslash", f"{name!a} has a backslash")
    if name.startswith("/") and name.strip("/"):
        raise Refused("absolute_path", f"{name!a} begins with a slash")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    _check_parts(parts)
    return "/".join(parts)


def _check_parts(parts: list[str]) -> None:
    if ".." in parts:
        raise Refused("path_escapes", f"{'/'.join(parts)!a} leads upwards")
    if parts and _DRIVE.match(parts[0]):
        raise Refused("drive_letter", f"{'/'.join(parts)!a} begins with a drive")
    if len(parts) > MAX_DEPTH:
        raise Refused("too_deep", f"a path of {len(parts)} levels")
    for part in parts:
        if len(part.encode()) > MAX_NAME_BYTES:
            raise Refused("name_too_long", f"a name of {len(part.encode())} bytes")


def folded(path: str) -> str:
    """Equal for paths that are the same file where case or composed letters make no difference."""
    return path.lower() if path.isascii() else normalize("NFC", normalize("NFC", path).casefold())


def written(name: str) -> str:
    """The name of a file (as ``os.listdir`` has it) as it goes into an archive, so that ``checked`` takes it.

    Bytes that are no UTF-8, control characters and backslashes become ``%XX``, as does the colon of a drive letter.
    """
    if _DRIVE.match(name):
        name = name.replace(":", "%3A", 1)
    return _ODD.sub(lambda match: "".join(f"%{byte:02X}" for byte in os.fsencode(match[0])), name)
