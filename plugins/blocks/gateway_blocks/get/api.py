"""Downloads that end bit-exact, as four functions: what ``gateway get`` is made of.

All block until they are done, use threads of their own, and end within a second once ``control.stop`` is set. What can
go wrong is a ``GetError`` of ``get/model.py``: Unreachable (what was verified stays, the same call goes on from there),
NotThere, NoChecksums, Stopped; or ``ConfigError`` for what cannot be asked for: a URL without a host, a folder that is
not there or may not be written to.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from gateway_blocks.get.download import download_file
from gateway_blocks.get.model import Control, Options, Summary
from gateway_blocks.get.repair import repair_file, verify_file
from gateway_blocks.get.stream import stream_file

__all__ = ["download", "repair", "stream", "verify"]


def download(
    url: str, out: Path | None = None, *, options: Options | None = None, control: Control | None = None
) -> Summary:
    """Fetch ``url`` into the file ``out``; None: named after the URL in the current folder; a folder: into it.

    The file appears under its name only when it is whole; until then there are ``OUT.part`` and ``OUT.part.journal``,
    from which the next call goes on, after any end of this one. A file of that name is left alone if it is the
    server's already, else its good blocks are used and it is replaced. One download of ``out`` at a time.
    """
    return download_file(url, out, options or Options(), control=control or Control())


def stream(url: str, target: BinaryIO, *, options: Options | None = None, control: Control | None = None) -> Summary:
    """Write the bytes of ``url`` to ``target`` in order, none of them before its block is verified.

    About 32 MiB are on their way at once; seeds are not used. Raises OutputFailed of ``get/outlet.py`` when nobody
    takes the bytes any more, or when the file changed on the server in what was written already.
    """
    return stream_file(url, target, options or Options(), control=control or Control())


def verify(url: str, path: Path, *, options: Options | None = None, control: Control | None = None) -> Summary:
    """Compare a local file with the server's checksums; raises Differs, also where there is no such file."""
    return verify_file(url, path, options or Options(), control=control or Control())


def repair(url: str, path: Path, *, options: Options | None = None, control: Control | None = None) -> Summary:
    """Fetch those blocks of a local file that differ; ``Summary.bad_blocks`` are the ones that were replaced.

    The file is mended in place, and not touched before all that it lacks is there and verified; until then that is
    kept in ``OUT.part``. Where there is no such file it is downloaded.
    """
    return repair_file(url, path, options or Options(), control=control or Control())
