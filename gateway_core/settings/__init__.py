"""Settings: one model, read from the command line, the environment, secret files and a Python file."""

from __future__ import annotations

from gateway_core.settings.layers import ENV_PREFIX, Layer, PythonFile
from gateway_core.settings.load import Inputs, Loaded, bootstrap, load_settings
from gateway_core.settings.model import PluginSettings, Seconds, Settings, parse_duration

__all__ = [
    "ENV_PREFIX",
    "Inputs",
    "Layer",
    "Loaded",
    "PluginSettings",
    "PythonFile",
    "Seconds",
    "Settings",
    "bootstrap",
    "load_settings",
    "parse_duration",
]
