"""Names of archive entries: what a client or a URL says, made safe to extract on every system, and no two alike.

Pure and deterministic: the same names in the same order always give the same entries. The rules come from APPNOTE.TXT
4.4.17.1 (relative, only ``/``), Microsoft's "Naming Files, Paths, and Namespaces" (characters, devices, ends) and the
common limit of 255 bytes a name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import unquote, urlsplit

FALLBACK_NAME: Final = "file"
"""Name of an entry when nothing usable is left of the one it was given."""

FALLBACK_FOLDER: Final = "folder"
"""The same for a folder."""

MAX_NAME_BYTES: Final = 255
"""Most UTF-8 bytes in one part of a path; Windows counts 255 UTF-16 units, which are never more."""

MAX_PATH_BYTES: Final = 1024
"""Most UTF-8 bytes in a whole path as cleaned (PATH_MAX of macOS); a number against duplicates may come on top."""

_NUMBER_BYTES: Final = 12  # " (123456789)"

# C0 and C1 controls, line separators, bidirectional overrides (they make "gpj.exe" look like "exe.jpg"), surrogates,
# and what Windows forbids
_FORBIDDEN: Final = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff<>:"|?*]')
_URL_PATH: Final = re.compile("(?:[^:/?#]+:)?(?://[^/?#]*)?([^?#]*)")  # RFC 3986 appendix B
_DRIVE: Final = re.compile("[A-Za-z]:")
_DEVICE: Final = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3]) *(?:\..*)?", re.IGNORECASE | re.DOTALL
)
_EXTENSION: Final = re.compile(r"(?P<stem>.+?)(?P<extension>(?:\.tar)?\.[^. ]{1,16})", re.IGNORECASE | re.DOTALL)


def name_from_url(url: str) -> str:
    """What a URL calls its file: the last part of its path, percent-decoded once, else its host; may be empty.

    Bytes that are not UTF-8 become U+FFFD. The result is as given by the URL and still wants ``entry_name``.
    """
    match = _URL_PATH.match(url)
    name = unquote(match[1]).rpartition("/")[2] if match else ""
    if name:
        return name
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # a host that is no host
        return ""


def entry_name(raw_path: str, raw_name: str) -> str:
    """Path of a file entry: the folders of ``raw_path``, then the last part of ``raw_name``, each made safe.

    Percent signs stay as they are. A path that is too long loses its innermost folders, a name that is too long its
    end before the extension. Cleaning a result again changes nothing.
    """
    names = _parts(raw_name)
    return _join(_folders(raw_path), names[-1] if names else FALLBACK_NAME)


def folder_name(raw_path: str) -> str:
    """Path of a folder entry, with the ``/`` at its end that says so."""
    *parents, name = _parts(raw_path) or [FALLBACK_FOLDER]
    return _join(parents, name) + "/"


class NameRegistry:
    """Gives every entry of one archive a path of its own, in the order of the calls.

    Paths that differ only in case or Unicode form count as equal, as they do on Windows and macOS. The first comer
    keeps its name; a later equal file becomes ``name (2).ext``, and so does a folder whose name a file has, or a file
    whose name a folder has. Folders of equal name are one folder, spelt as at first. Paths must come from
    ``entry_name`` and ``folder_name``. A call takes constant time, amortised, also with thousands of equal names.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._folders: dict[str, str] = {}  # a folder as asked for -> its path here, with "/" at its end
        self._entered: set[str] = set()
        self._numbers: dict[str, int] = {}

    def file(self, path: str) -> str:
        """The path under which a file goes into the archive."""
        folder, _, name = path.rpartition("/")
        parent = self._folder(folder)
        return parent + self._unique(parent, *_split(name))

    def folder(self, path: str) -> str | None:
        """The path, with ``/`` at its end, of a folder's own entry; None when the archive has that entry already."""
        resolved = self._folder(path.rstrip("/"))
        if resolved in self._entered:
            return None
        self._entered.add(resolved)
        return resolved

    def _folder(self, path: str) -> str:
        resolved = ""
        for name in path.split("/") if path else ():
            wanted = _key(resolved + name)
            if wanted not in self._folders:
                self._folders[wanted] = resolved + self._unique(resolved, name, "") + "/"
            resolved = self._folders[wanted]
        return resolved

    def _unique(self, parent: str, stem: str, extension: str) -> str:
        """``stem + extension``, or the first numbered form that is free in ``parent``; taken from now on."""
        name, key = stem + extension, _key(parent + stem + extension)
        if key in self._taken:
            stem = _cut(stem, MAX_NAME_BYTES - len(extension.encode()) - _NUMBER_BYTES)
            series = _key(f"{parent}{stem}/{extension}")
            number = self._numbers.get(series, 2)
            while (key := _key(parent + (name := f"{stem} ({number}){extension}"))) in self._taken:
                number += 1
            self._numbers[series] = number + 1
        self._taken.add(key)
        return name


def _parts(raw: str) -> list[str]:
    """The usable parts of a path, cleaned; ``.``, ``..``, empty ones and drives are dropped, not resolved."""
    text = unicodedata.normalize("NFC", raw).replace("\\", "/")
    return [part for raw_part in text.split("/") if (part := _clean(raw_part))]


@lru_cache(64)
def _folders(raw_path: str) -> Sequence[str]:
    """Its parts: many files in a row share their path."""
    return _parts(raw_path)


def _clean(part: str) -> str:
    if _DRIVE.fullmatch(part):
        return ""
    # Windows drops dots and spaces at the end; taking all of them leaves nothing of "." and ".."
    part = _no_device(_FORBIDDEN.sub("_", part).lstrip(" ").rstrip(". "))
    if len(part.encode()) <= MAX_NAME_BYTES:
        return part
    stem, extension = _split(part)
    return _no_device(_cut(stem, MAX_NAME_BYTES - len(extension.encode())) + extension)


def _no_device(part: str) -> str:
    return "_" + part if _DEVICE.fullmatch(part) else part


def _split(name: str) -> tuple[str, str]:
    """Stem and extension; ``.tar.gz`` is one, a leading dot is none, nor is what follows a dot in a sentence."""
    match = _EXTENSION.fullmatch(name)
    return (match["stem"], match["extension"]) if match else (name, "")


def _cut(text: str, limit_bytes: int) -> str:
    encoded = text.encode()
    if len(encoded) <= limit_bytes:
        return text
    return encoded[:limit_bytes].decode(errors="ignore").rstrip(". ")


def _join(folders: Sequence[str], name: str) -> str:
    kept, length = [], len(name.encode())
    for folder in folders:
        length += len(folder.encode()) + 1
        if length > MAX_PATH_BYTES:
            break
        kept.append(folder)
    return "/".join([*kept, name])


def _key(path: str) -> str:
    """What two paths that clash have in common."""
    return unicodedata.normalize("NFC", path.casefold())
