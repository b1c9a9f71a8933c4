"""Where settings come from: each layer is a nested dict of raw values that remembers where each one stood."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from gateway_core.errors import ConfigError

ENV_PREFIX = "GATEWAY_"
_BESIDE = {"GATEWAY_CONFIG", "GATEWAY_URL", "GATEWAY_SECRET"}
"""Names that other parts read: the settings file, and what client commands use."""
_INJECTED = re.compile(r"GATEWAY_(PORT_\d+_(TCP|UDP).*|SERVICE_(HOST|PORT.*))")
"""What Kubernetes and Docker links inject for a service called "gateway"."""

Path_ = tuple[str, ...]


class Layer:
    """Raw values by path (``("archive", "max_items")``), each with the words that say where it was set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[Path_, Any] = {}
        self.origins: dict[Path_, str] = {}

    def put(self, path: Path_, value: Any, origin: str) -> None:
        """Record one value; dicts are taken apart so that layers merge key by key."""
        if isinstance(value, Mapping) and len(path) == 1 and value:
            for key, inner in value.items():
                self.put((*path, str(key).lower()), inner, origin)
            return
        self.values[path] = value
        self.origins[path] = origin

    def nested(self) -> dict[str, Any]:
        """The values as pydantic wants them; raises ConfigError for a name that is both a value and a section."""
        tree: dict[str, Any] = {}
        for path, value in sorted(self.values.items(), key=lambda item: len(item[0])):
            node = tree
            for step in path[:-1]:
                below = node.setdefault(step, {})
                if not isinstance(below, dict):
                    raise ConfigError(f"{self.origins[path]}: {step} is both a value and a section")
                node = below
            node[path[-1]] = value
        return tree


class LayerSource(PydanticBaseSettingsSource):
    """A layer as pydantic-settings sees it."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._data = layer.nested()

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """One field's raw value, as the base class wants it."""
        del field
        return self._data.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """The whole layer."""
        return self._data


def command_line_layer(options: Mapping[str, Any], assignments: Iterable[str]) -> Layer:
    """``--host`` and the like (None = not given), and the weaker ``--set a.b=c``.

    Raises ConfigError for an assignment without ``=``.
    """
    layer = Layer("command line")
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {text}: expected key=value")
        layer.put(tuple(key.strip().lower().split(".")), value, f"--set {key.strip()}")
    for name, value in options.items():
        if value is not None:
            layer.put((name,), value, f"--{name.replace('_', '-')}")
    return layer


def environment_layers(environ: Mapping[str, str]) -> tuple[Layer, Layer, list[str]]:
    """The ``GATEWAY_`` environment, its ``*_FILE`` secrets, and warnings; empty values count as not set."""
    plain, files, warnings = Layer("environment"), Layer("secret file"), []
    injected = [name for name in environ if _INJECTED.fullmatch(name)]
    if environ.get("GATEWAY_PORT", "").startswith("tcp://"):
        injected.append("GATEWAY_PORT")
    if injected:
        warnings.append(
            f"ignored what the platform injected for a service called gateway: {', '.join(sorted(injected))}"
        )
    for name, value in environ.items():
        skip = name in _BESIDE or name.startswith("GATEWAY_TEST_") or name in injected
        if not name.startswith(ENV_PREFIX) or skip or not value:
            continue
        key = name.removeprefix(ENV_PREFIX).lower()
        if key.endswith("_file"):
            files.put(tuple(key.removesuffix("_file").split("__")), _read_secret(name, value), f"{name}={value}")
        else:
            plain.put(tuple(key.split("__")), value, name)
    return plain, files, warnings


def _read_secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{name}: cannot read {path}: {exc}") from exc


class PythonFile:
    """A Python settings file: its UPPERCASE globals are the settings, dicts are plugin sections."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def layer(self) -> Layer:
        """Run the file; raises ConfigError when it is missing, fails, or others than its owner may write it."""
        layer = Layer("file")
        for name, value in self._globals().items():
            if name.isupper() and not name.startswith("_"):
                layer.put(tuple(name.lower().split("__")), value, f"{self.path}: {name}")
        return layer

    def _globals(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ConfigError(f"{self.path}: not a regular file")
                if status.st_mode & 0o022 or status.st_uid not in {0, os.geteuid()}:
                    raise ConfigError(
                        f"{self.path}: others may write to it; chmod go-w, and own it yourself or as root"
                    )
                code = compile(file.read(), str(self.path), "exec")
        except OSError as exc:
            raise ConfigError(f"{self.path}: {exc.strerror}") from exc
        except (SyntaxError, ValueError) as exc:
            raise ConfigError(f"{self.path}: {exc}") from exc
        names: dict[str, Any] = {"__file__": str(self.path), "__name__": "gateway_settings_file"}
        try:
            exec(code, names)  # noqa: S102 - a settings file is code by contract; its owner was checked above
        except (Exception, SystemExit) as exc:
            raise ConfigError(f"{self.path}: {type(exc).__name__}: {exc}") from exc
        return names
