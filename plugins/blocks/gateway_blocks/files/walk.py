"""All files below a folder, in a steady order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from gateway_blocks.files.root import Entry, OpenFolder, Root
from gateway_core import NotFound
from gateway_core.errors import HttpError

_MAX_DEPTH = 64
_BATCH = 200

Found = tuple[tuple[str, ...], Entry]
"""A file: its names from the root down, and what the listing says of it."""


def walk(root: Root, names: tuple[str, ...], *, recursive: bool = True) -> Iterator[Found]:
    """Files of the folder ``names``, then those of its folders. Blocks.

    Folders that cannot be opened are left out, as are symlinks that lead back into a folder above. Raises NotFound
    when ``names`` is no folder, and what ``Root.open`` raises for it.
    """
    yield from _walk(root, names, above=(), recursive=recursive)


async def walk_in_threads(root: Root, names: tuple[str, ...], *, recursive: bool = True) -> AsyncIterator[Found]:
    """The same without blocking the loop, some hundred files at a time."""
    found = walk(root, names, recursive=recursive)
    while batch := await asyncio.to_thread(_some, found):
        for item in batch:
            yield item


def _some(found: Iterator[Found]) -> list[Found]:
    return [item for _, item in zip(range(_BATCH), found, strict=False)]


def _walk(
    root: Root, names: tuple[str, ...], *, above: tuple[tuple[int, int], ...], recursive: bool
) -> Iterator[Found]:
    folder = root.open(names)
    with folder:
        here = (folder.stat.st_dev, folder.stat.st_ino)
        if not isinstance(folder, OpenFolder):
            raise NotFound
        if here in above or len(above) > _MAX_DEPTH:
            return
        entries = folder.entries()
    yield from (((*names, entry.name), entry) for entry in entries if not entry.folder)
    for entry in entries if recursive else ():
        if entry.folder:
            try:
                yield from _walk(root, (*names, entry.name), above=(*above, here), recursive=True)
            except HttpError:  # it went away, or may not be read: the others may
                continue
