"""A result into the folder of a person: what the job made, and nothing that was there before."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gateway_transform.box.untar import Caps, Facts, Refused, unpack
from gateway_transform.client.model import ClientError
from gateway_transform.client.packing import RESERVED

LOG = "out.log"
_CAPS = Caps.of_result(unpacked_bytes=1 << 50, files=10_000_000)
_MOST_LOG_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Placed:
    """What came of placing: paths written, those that were there with these bytes, and those left alone, with why."""

    written: tuple[Path, ...]
    there: tuple[Path, ...]
    kept: tuple[tuple[Path, str], ...]


class Result:
    """An unpacked result in a temporary folder."""

    def __init__(self, folder: Path, files: Mapping[str, Facts]) -> None:
        self._folder = folder
        self._files = files

    def outputs(self) -> list[str]:
        """Paths of what the job made or changed, sorted."""
        before = self._inputs()
        made = (path for path, facts in self._files.items() if before.get(path) != facts.sha256)
        return sorted(path for path in made if path not in RESERVED)

    def has(self, path: str) -> bool:
        """Whether the result holds that file."""
        return path in self._files

    def log(self) -> list[dict[str, Any]]:
        """The lines of out.log; what is no JSON object is left out."""
        if not self.has(LOG):
            return []
        with (self._folder / LOG).open("rb") as file:
            lines = file.read(_MOST_LOG_BYTES).splitlines()
        return [line for line in map(_json, lines) if isinstance(line, dict)]

    def place(self, paths: Sequence[str], into: Path, *, force: bool) -> Placed:
        """Move ``paths`` of the result below ``into``; a file that differs gives way to ``force`` only.

        Raises OSError.
        """
        written, there, kept = [], [], []
        # The temporary folder is for its owner alone; what is moved out of it gets the mode of any new file.
        mode = 0o666 & ~_umask()
        for path in paths:
            target = into / path
            reason = _in_the_way(target, self._files[path])
            if reason is None:
                there.append(target)
            elif reason and not (force and target.is_file()):
                kept.append((target, reason))
            else:
                (self._folder / path).chmod(mode)
                (self._folder / path).replace(target)
                written.append(target)
        return Placed(tuple(written), tuple(there), tuple(kept))

    def _inputs(self) -> dict[str, str]:
        """SHA-256 of the files that were sent, by path."""
        status = _json((self._folder / "status.json").read_bytes()) if self.has("status.json") else None
        inputs = status.get("inputs") if isinstance(status, dict) else None
        if not isinstance(inputs, dict):
            return {}
        return {path: str(facts.get("sha256")) for path, facts in inputs.items() if isinstance(facts, dict)}


@contextmanager
def unpacked(archive: BinaryIO, into: Path) -> Iterator[Result]:
    """Unpack the tar.gz ``archive`` inside the folder where it shall go, and take away at the end what was not placed.

    Raises ClientError for an archive that is none, OSError.
    """
    with tempfile.TemporaryDirectory(prefix=".gateway-", dir=into) as name:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = unpack(archive, folder, _CAPS)
        except Refused as exc:
            raise ClientError(f"the result cannot be unpacked: {exc.message}") from exc
        finally:
            os.close(folder)
        yield Result(Path(name), found.files)


def _in_the_way(target: Path, facts: Facts) -> str | None:
    """Why ``target`` cannot be written without force; empty where nothing is there, None where the same file is."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        return "a file is where its folder would be"
    if target.is_symlink():
        return "a symbolic link is there"
    if not target.exists():
        return ""
    if not target.is_file():
        return "a folder is there"
    with target.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == facts.sha256
    return None if same else "another file is there"


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _umask() -> int:
    """Of this process; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
