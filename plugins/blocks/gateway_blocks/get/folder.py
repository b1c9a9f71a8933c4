"""A whole folder: the server's list of its files, and every file of it below a local folder, never beside it."""

from __future__ import annotations

import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes, urlsplit, urlunsplit

from gateway_blocks.get import api
from gateway_blocks.get.connection import Busy, HttpClient
from gateway_blocks.get.model import Control, GetError, NotThere, Options, Stopped, Summary, Unreachable
from gateway_blocks.get.progress import Named
from gateway_blocks.get.session import Session
from gateway_blocks.get.urls import metadata_url, parse_url, relative_parts, shown
from gateway_core.errors import GatewayError

_LIST_BYTES = 64 << 20
_FRUITLESS = 20
"""So many files in a row that could not be fetched: the server, the network or the disk is gone, not the files."""
_LOCATION = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]+")
"""Characters of a path (RFC 3986 3.3): what follows them would be a query or another host."""
_PART_SUFFIXES = (".part", ".part.journal")


class Refused(GetError):
    """A file that the server lists cannot have a place below the local folder."""

    type, title = "refused", "No place for it"


class FileWork(Protocol):
    """``api.download``, ``api.verify`` or ``api.repair``."""

    def __call__(self, url: str, path: Path, /, *, options: Options | None, control: Control | None) -> Summary:
        """Do it with one file."""


class Watcher(Protocol):
    """Told what becomes of a folder, from any thread."""

    def planned(self, files: int, size_bytes: int) -> None:
        """The list is there: so many files, so large together."""

    def settled(self, name: str, size_bytes: int, outcome: Summary | GatewayError) -> None:
        """A file is over, well or not; ``name`` is its local path, as the observer hears it."""


class Unwatched:
    """A watcher that looks away."""

    def planned(self, files: int, size_bytes: int) -> None:
        """Nothing."""

    def settled(self, name: str, size_bytes: int, outcome: Summary | GatewayError) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as the server lists it.

    ``path`` below the folder is decoded as the file system does it; ``location`` is the same percent-encoded, and exact
    for names that are not UTF-8.
    """

    path: str
    location: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FolderSummary:
    """What came of a folder. ``untried``: files left out, because too many in a row had failed."""

    files: tuple[Summary, ...]
    failures: tuple[tuple[str, GatewayError], ...]
    untried: int = 0


def folder(
    url: str,
    out: Path,
    *,
    options: Options,
    control: Control,
    work: FileWork = api.download,
    watcher: Watcher | None = None,
) -> FolderSummary:
    """Do ``work`` with every file below the folder ``url``: ``a/b`` goes to ``out/a/b``; folders are made as needed.

    Files that are whole already are left as they are. Small ones are fetched several at once, each over one
    connection, large ones one after another over ``options.jobs``. A file that fails stops no other one. A mirror is
    the URL of a folder with the same files, and so is a seed that is a folder. Raises NotThere where the server has no
    list of the folder, Unreachable where it cannot be had, Stopped.
    """
    url = folder_url(parse_url(url))
    listed, whole = _list_of(url, options, control)
    visit = _Visit(url, out, options=options, control=control, work=work, watcher=watcher or Unwatched())
    visit.watcher.planned(len(listed), sum(file.size_bytes for file in listed))
    visit.all(listed)
    if control.stop.is_set():
        raise Stopped(f"stopped with {len(visit.done)} of {len(listed)} files")
    if not whole:
        error = Unreachable(f"the server lists only the first {len(listed)} files of this folder")
        visit.failures.append(("", error))
        visit.watcher.settled(shown(url), 0, error)
    return FolderSummary(tuple(visit.done), tuple(visit.failures), visit.untried)


def folder_url(url: str) -> str:
    """The URL with a slash at the end of its path."""
    head, mark, query = url.partition("?")
    return f"{head.rstrip('/')}/{mark}{query}"


class _Visit:
    """One round through the files of a folder, from several threads."""

    def __init__(
        self, url: str, out: Path, *, options: Options, control: Control, work: FileWork, watcher: Watcher
    ) -> None:
        self.watcher = watcher
        self.done: list[Summary] = []
        self.failures: list[tuple[str, GatewayError]] = []
        self.untried = 0
        self._url = url
        self._out = out
        self._options = options
        self._control = control
        self._work = work
        self._lock = threading.Lock()
        self._fruitless = 0
        self._paths: set[str] = set()

    def all(self, files: list[Listed]) -> None:
        """Small files several at once, then the large ones."""
        self._paths = {file.path for file in files}
        small = [file for file in files if file.size_bytes <= self._options.run_bytes]
        jobs = self._options.jobs
        limit = max(1, self._options.limit_rate // jobs) if self._options.limit_rate else 0
        single = replace(self._options, jobs=1, limit_rate=limit)
        with ThreadPoolExecutor(jobs, thread_name_prefix="folder") as pool:
            for _ in pool.map(lambda file: self._one(file, single), small):
                pass
        for file in files:
            if file.size_bytes > self._options.run_bytes:
                self._one(file, self._options)

    def _one(self, file: Listed, options: Options) -> None:
        if self._control.stop.is_set():
            return
        if self._fruitless >= _FRUITLESS:
            with self._lock:
                self.untried += 1
            return
        try:
            summary = self._fetch(file, options)
        except Stopped:
            return
        except GatewayError as exc:
            self._failed(file, exc)
        else:
            with self._lock:
                self._fruitless = 0
                self.done.append(summary)
            self.watcher.settled(self._name(file), file.size_bytes, summary)

    def _failed(self, file: Listed, error: GatewayError) -> None:
        with self._lock:
            self._fruitless = self._fruitless + 1 if isinstance(error, Unreachable) else 0
            self.failures.append((file.path, error))
        self.watcher.settled(self._name(file), file.size_bytes, error)

    def _fetch(self, file: Listed, options: Options) -> Summary:
        target = self._target(file)
        if self._fruitless:
            options = replace(options, tries=1)  # a server that is down costs its many tries once, not for each file
        seeds = [seed / file.path if seed.is_dir() else seed for seed in options.seeds]
        options = replace(
            options,
            mirrors=tuple(_file_url(folder_url(mirror), file) for mirror in options.mirrors),
            seeds=tuple(seed for seed in seeds if seed.is_file()),
        )
        control = Control(Named(self._name(file), self._control.observer), self._control.stop)
        return self._work(_file_url(self._url, file), target, options=options, control=control)

    def _name(self, file: Listed) -> str:
        return file.path if self._out == Path() else f"{self._out}/{file.path}"

    def _target(self, file: Listed) -> Path:
        """Where the file goes, its folder made; raises Refused where that is outside ``out`` or cannot be."""
        if any(file.path.endswith(end) and file.path.removesuffix(end) in self._paths for end in _PART_SUFFIXES):
            raise Refused("it has the name of another file's part file")
        try:
            names = relative_parts(file.path)
            if not _LOCATION.fullmatch(file.location) or file.location.count("/") != len(names) - 1:
                raise Refused("its URL is none of a file in this folder")
            target = self._out.joinpath(*names)
            inside = target.resolve().is_relative_to(self._out.resolve())
            if inside and self._work is not api.verify:
                target.parent.mkdir(parents=True, exist_ok=True)
        except Unreachable as exc:
            raise Refused(exc.detail) from exc
        except OSError as exc:
            raise Refused(f"its folder cannot be made: {exc.strerror}") from exc
        if not inside:
            raise Refused("a link leads out of the folder here")
        if target.is_dir():
            raise Refused("there is a folder of that name here")
        return target


def _list_of(url: str, options: Options, control: Control) -> tuple[list[Listed], bool]:
    """The files of the folder, and whether these are all; tried as often as a file would be."""
    session = Session(url, shown(url), options, control=control)
    with session.client() as client:
        return session.insist(lambda: _ask(client, url))


def _ask(client: HttpClient, url: str) -> tuple[list[Listed], bool]:
    with client.open(
        "GET", metadata_url(url, files=1), {"Accept": "application/json", "Accept-Encoding": "gzip"}
    ) as answer:
        if answer.status == 429 or answer.status >= 500:
            raise Busy(f"the server answers {answer.status}", retry_after_s=answer.retry_after_s)
        raw = answer.read_all(_LIST_BYTES)
    manifest = _json(raw)
    if answer.status != 200 or manifest.get("ok") is False:
        told = manifest.get("msg")
        raise NotThere(told if isinstance(told, str) and told else f"{answer.status}: no list of this folder's files")
    if not isinstance(manifest.get("files"), list):
        raise NotThere("the server has no list of this folder's files")
    return _listed(manifest["files"]), not manifest.get("truncated")


def _listed(files: list[Any]) -> list[Listed]:
    """Raises Unreachable for what is no list of files."""
    try:
        found = [_listed_one(file) for file in files]
    except ValueError as exc:  # UnicodeEncodeError among them
        raise Unreachable("the list of this folder's files is not one") from exc
    return list({file.path: file for file in found}.values())


def _listed_one(file: Any) -> Listed:
    match file:
        case {"url": str() as location, "size": int() as size} if size >= 0:
            return Listed(os.fsdecode(unquote_to_bytes(location)), location, size)
        case {"path": str() as path, "size": int() as size} if size >= 0:
            return Listed(path, quote(path, errors="surrogateescape"), size)
        case _:
            raise ValueError("a file has a path and a size")


def _file_url(folder: str, file: Listed) -> str:
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path}{file.location}"))


def _json(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
