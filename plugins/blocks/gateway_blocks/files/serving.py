"""The served folder and where it appears, also in the demo."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from gateway_blocks.settings import BlocksSettings
from gateway_core import ConfigError

_FOLDER_MODE = 0o755
_SAMPLE = "sample.bin"
_SAMPLE_BYTES = 20_000_000
_DEMO = """\
A first verified download, of {name} in {folder}; every block of it is checked:

  {command} get {url}/{name}
"""


def served_folder(settings: BlocksSettings, data_dir: Path) -> Path:
    """``BLOCKS__ROOT``, or ``files`` in the data folder, which is made; raises ConfigError."""
    if settings.root is not None:
        return settings.root
    folder = data_dir / "files"
    try:
        folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"BLOCKS__ROOT: cannot make {folder}: {error.strerror}") from error
    return folder


def base_path(settings: BlocksSettings) -> str:
    """Path of the root's URL without a slash at its end: prefix and mount."""
    return settings.prefix + settings.mount


def make_sample(settings: BlocksSettings, data_dir: Path, *, url: str) -> str:
    """A file to download, unless it is there, and the lines that tell of it; raises ConfigError."""
    folder = served_folder(settings, data_dir)
    sample = folder / _SAMPLE
    if settings.root is None and not sample.exists():
        sample.write_bytes(hashlib.shake_256(b"content-gateway").digest(_SAMPLE_BYTES))
    command = Path(sys.executable).with_name("gateway")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    return _DEMO.format(name=_SAMPLE, folder=folder, command=shown, url=url + base_path(settings))
