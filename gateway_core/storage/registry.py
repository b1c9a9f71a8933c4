"""Which storage a URL means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gateway_core.errors import ConfigError
from gateway_core.storage.base import Storage
from gateway_core.storage.local import LocalStorage

StorageFactory = Callable[[str, Path], Storage]
"""Opens the storage of a URL without waiting for it; the folder is the gateway's data directory, for scratch files."""


def open_storage(url: str, factories: Mapping[str, StorageFactory], data_dir: Path) -> Storage:
    """The storage that ``STORAGE_URL`` names: empty for ``data_dir``/storage, ``file:///path``, ``s3://bucket/prefix``
    or a scheme of ``factories``, which plugins bring.

    Nothing is read or written yet. Raises ConfigError for a scheme nobody knows or two claim, and for a URL that its
    storage cannot use.
    """
    if taken := factories.keys() & _BUILT_IN.keys():
        raise ConfigError(f"a plugin's storage may not be called {', '.join(sorted(taken))}")
    if not url:
        return LocalStorage(data_dir / "storage")
    known = {**_BUILT_IN, **factories}
    scheme = urlsplit(url).scheme
    if scheme not in known:
        raise ConfigError(f"STORAGE_URL: unknown scheme {scheme!r}; known: {', '.join(sorted(known))}")
    return known[scheme](url, data_dir)


def _open_file(url: str, _data_dir: Path) -> Storage:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc or parts.query or parts.fragment or not path.is_absolute():
        raise ConfigError("STORAGE_URL: a folder is written file:///path/to/it")
    return LocalStorage(path)


def _open_s3(url: str, data_dir: Path) -> Storage:
    from gateway_core.storage.objects import open_s3

    return open_s3(url, data_dir / "scratch")


_BUILT_IN: Mapping[str, StorageFactory] = {"file": _open_file, "s3": _open_s3}
