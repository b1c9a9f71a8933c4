"""What all converters do alike: find their files, name what they make, go on past a damaged one.

Files are looked for in the working directory and all folders below it. Links are never followed; hidden files, Word's
lock files (``~$``) and the job's own are left alone. What is made lies beside what it was made from, which stays.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

from gateway_transform.api import BadInput, Option
from gateway_transform.converters.options import text

FILES = Option(
    "files",
    "Files, in this order: names or patterns such as *.html, separated by commas; empty: all that fit",
    free_input=True,
)
"""An option of every converter, so that a step can take up what the step before it made and nothing else."""

_OF_THE_JOB = frozenset({"job.json", "out.log", "status.json"})
_NAMED_IN_ERRORS = 10


def shown(path: Path, working_dir: str) -> str:
    """``path`` as people know it: relative, bytes that are no UTF-8 spelled out."""
    return os.fsencode(path.relative_to(working_dir)).decode("utf-8", "backslashreplace")


def matching(working_dir: str, options: Mapping[str, Any], extensions: Collection[str], *, expected: str) -> list[Path]:
    """Absolute paths of the files with one of ``extensions`` (lower case, with the dot), page2 before page10.

    ``BadInput`` names ``expected`` if there is none, or the part of the option ``files`` that fits nothing.
    """
    found = sorted((path for path in files_below(working_dir) if path.suffix.lower() in extensions), key=_natural)
    if not found:
        raise BadInput(f"no {expected} here: the files looked for end in {', '.join(sorted(extensions))}")
    wanted = [pattern for part in text(options, FILES).split(",") if (pattern := part.strip())]
    if not wanted:
        return found
    chosen: dict[Path, None] = {}
    for pattern in wanted:
        fitting = [path for path in found if _fits(path.relative_to(working_dir), pattern)]
        if not fitting:
            raise BadInput(f"files: no {expected} here fits {pattern!r}")
        chosen |= dict.fromkeys(fitting)
    return list(chosen)


def beside(path: Path, extension: str, tag: str = "") -> Path:
    """A free name next to ``path``: ``a.md`` gives ``a.html``, if that is taken ``a.md.html``, then ``a-2.html``.

    ``tag`` stands before the extension.
    """
    names = chain(
        (f"{path.stem}{tag}{extension}", f"{path.name}{tag}{extension}"),
        (f"{path.stem}{tag}-{number}{extension}" for number in count(2)),
    )
    return next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """``target``, which is gone again if the block fails: a job's result has no half files."""
    try:
        yield target
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def convert_each(
    working_dir: str, logger: logging.Logger, paths: Sequence[Path], *, convert: Callable[[Path], Sequence[Path]]
) -> None:
    """Call ``convert`` for every file and log what it made, one line a file.

    A file that is ``BadInput`` does not keep the others from being converted; at the end ``BadInput`` names all such.
    """
    refused = []
    for path in paths:
        try:
            made = convert(path)
        except BadInput as error:
            refused.append(f"{shown(path, working_dir)}: {error}")
            logger.warning("%s: %s", shown(path, working_dir), error)
        else:
            names = ", ".join(shown(each, working_dir) for each in made[:_NAMED_IN_ERRORS])
            more = f" and {len(made) - _NAMED_IN_ERRORS} more" if len(made) > _NAMED_IN_ERRORS else ""
            logger.info("%s -> %s%s", shown(path, working_dir), names, more)
    if refused:
        more = f"; and {len(refused) - _NAMED_IN_ERRORS} more" if len(refused) > _NAMED_IN_ERRORS else ""
        raise BadInput("; ".join(refused[:_NAMED_IN_ERRORS]) + more)


def files_below(top: str | Path) -> Iterator[Path]:
    """All files that converters may take up, in no order."""
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if name.startswith((".", "~$")) or (name in _OF_THE_JOB and folder == str(top)):
                continue
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def _fits(relative: Path, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in (str(relative), relative.name))


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part.casefold()) for part in parts], str(path)
