"""What can happen to a file while something is said of it."""

from __future__ import annotations

from gateway_core import Conflict


class FileChanged(Conflict):
    """The file is another version now, or is being written: what was to be said of it holds no more."""

    type, title = "file-changed", "File changed"
