"""From layers to a Settings object, with every wrong name found and every value's origin known."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import Field, ValidationError, create_model
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway_core.errors import ConfigError
from gateway_core.settings.layers import (
    ENV_PREFIX,
    Layer,
    LayerSource,
    PythonFile,
    command_line_layer,
    environment_layers,
)
from gateway_core.settings.model import Lenient, PluginSettings, Settings


@dataclass(frozen=True)
class Inputs:
    """What settings are read from: command-line options and ``--set`` texts, environment, and a settings file."""

    options: Mapping[str, Any] = field(default_factory=dict)
    assignments: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    config: Path | None = None

    @property
    def config_path(self) -> Path | None:
        """The settings file, by option or ``GATEWAY_CONFIG``."""
        return self.config or (Path(p) if (p := self.environ.get(f"{ENV_PREFIX}CONFIG")) else None)

    def private_files(self) -> list[Path]:
        """The settings file and those of ``*_FILE`` names: what may hold secrets, as absolute paths."""
        named = [Path(v) for k, v in self.environ.items() if k.startswith(ENV_PREFIX) and k.endswith("_FILE") and v]
        return [path.absolute() for path in (self.config_path, *named) if path is not None]

    def layers(self) -> tuple[list[Layer], list[str]]:
        """Layers from strongest to weakest, and warnings."""
        plain, files, warnings = environment_layers(self.environ)
        layers = [command_line_layer(self.options, self.assignments), plain, files]
        if self.config_path is not None:
            layers.append(PythonFile(self.config_path).layer())
        return layers, warnings


@dataclass(frozen=True)
class Loaded:
    """Settings, with what is needed to explain them: the layers, and warnings to be logged once."""

    settings: Settings
    layers: Sequence[Layer]
    warnings: Sequence[str]

    def origin(self, path: tuple[str, ...]) -> str:
        """Where the value at ``path`` was set, or ``default``."""
        for layer in self.layers:
            for known, origin in layer.origins.items():
                if known[: len(path)] == path:
                    return origin
        return "default"

    def values(self) -> Iterator[tuple[str, Any, str]]:
        """Every setting as (dotted name, value, origin)."""
        for name in type(self.settings).model_fields:
            value = getattr(self.settings, name)
            if isinstance(value, PluginSettings):
                for key in type(value).model_fields:
                    yield f"{name}.{key}", getattr(value, key), self.origin((name, key))
            else:
                yield name, value, self.origin((name,))


@dataclass(frozen=True)
class Bootstrap:
    """What must be known before the plugins are: which to enable, and whether a broken one stops the start."""

    plugins: tuple[str, ...] | None
    plugins_strict: bool


class _Raw(Lenient):
    plugins: tuple[str, ...] | None = None
    plugins_strict: bool = True


def bootstrap(inputs: Inputs) -> Bootstrap:
    """Read ``PLUGINS`` and ``PLUGINS_STRICT`` alone; raises ConfigError when they do not fit."""
    layers, _ = inputs.layers()
    raw: dict[str, Any] = {}
    for layer in reversed(layers):
        raw.update({p[0]: v for p, v in layer.values.items() if p in {("plugins",), ("plugins_strict",)}})
    try:
        values = _Raw.model_validate(raw)
    except ValidationError as exc:
        raise _readable(exc, layers) from exc
    return Bootstrap(values.plugins, values.plugins_strict)


def load_settings(
    inputs: Inputs, sections: Mapping[str, type[PluginSettings]], *, disabled: frozenset[str] = frozenset()
) -> Loaded:
    """Build the model from the core and ``sections`` and fill it.

    ``disabled`` are installed plugins that are not loaded: their sections are accepted unread. Raises ConfigError that
    names the setting and where it was set, all problems in one message.
    """
    layers, warnings = inputs.layers()
    for layer in layers:
        for path in [p for p in layer.values if p[0] in disabled]:
            del layer.values[path]
    model = settings_model(sections)
    unknown = [text for layer in layers for text in _unknown(layer, model)]
    if unknown:
        raise ConfigError("\n".join(unknown))

    token = _LAYERS.set(layers)
    try:
        fill: Callable[[], Settings] = cast("Any", model)
        return Loaded(fill(), layers, warnings)
    except ValidationError as exc:
        raise _readable(exc, layers) from exc
    finally:
        _LAYERS.reset(token)


class _Layered(Settings):
    """Settings whose sources are the layers of the ``load_settings`` that fills them."""

    model_config = SettingsConfigDict(defer_build=True)

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # the library calls it by keyword
        cls, settings_cls: type[BaseSettings], **_built_in: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The layers, strongest first, and nothing else."""
        return tuple(LayerSource(settings_cls, layer) for layer in _LAYERS.get())


_LAYERS: ContextVar[Sequence[Layer]] = ContextVar("gateway_settings_layers")


def settings_model(sections: Mapping[str, type[PluginSettings]]) -> type[Settings]:
    """Settings with one field a plugin section.

    Raises ConfigError when a section has a core setting's name, or a field that ends in ``_file``: its variable would
    be read as the name of a file that holds another field's value.
    """
    taken = sorted(set(sections) & set(Settings.model_fields))
    if taken:
        raise ConfigError(f"plugin section {taken[0]!r} has the name of a core setting")
    for name, section in sections.items():
        for key in section.model_fields:
            if key.endswith("_file"):
                raise ConfigError(f"plugin section {name}: the setting {key} ends in _file; call it {key[:-5]}_path")
    fields: dict[str, Any] = {
        name: (section, Field(default_factory=section, description=(section.__doc__ or "").strip()))
        for name, section in sections.items()
    }
    return create_model("Settings", __base__=_Layered, **fields)


def _unknown(layer: Layer, model: type[Settings]) -> Iterator[str]:
    """One line for each name that no setting has, with the nearest that one has."""
    sections = {
        name: field.annotation
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, PluginSettings)
    }
    names = {(name,) for name in model.model_fields} | {(s, key) for s, m in sections.items() for key in m.model_fields}
    prefix = "" if layer.name not in {"environment", "secret file"} else ENV_PREFIX
    suffix = "_FILE" if layer.name == "secret file" else ""
    for path, origin in layer.origins.items():
        inside = path[0] in sections and len(path) > 1
        if path not in layer.values or path[: 2 if inside else 1] in names:
            continue
        spelled = "__".join(path).upper()
        near = difflib.get_close_matches(spelled, ["__".join(n).upper() for n in names], n=1)
        yield f"{origin}: no such setting" + (f"; did you mean {prefix}{near[0]}{suffix}?" if near else "")


def _readable(exc: ValidationError, layers: Sequence[Layer]) -> ConfigError:
    lines = []
    for error in exc.errors(include_url=False, include_input=False):
        path = tuple(str(step) for step in error["loc"])
        origins = (
            o for layer in layers for p, o in layer.origins.items() if p[: len(path)] == path or path[: len(p)] == p
        )
        origin = next(origins, "") if path else ""  # what concerns several settings was set nowhere alone
        name = "__".join(step for step in path if not step.isdigit()).upper()
        message = error["msg"].removeprefix("Value error, ")
        lines.append(": ".join(part for part in (name, message) if part) + (f" (from {origin})" if origin else ""))
    return ConfigError("\n".join(lines))
