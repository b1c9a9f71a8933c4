"""Which version of which library a converter has, for status.json and for keys of the result cache."""

from __future__ import annotations

from functools import cache
from importlib import metadata


def versions(*distributions: str) -> str:
    """As in ``gateway 1.0.0, pikepdf 10.17.0``: ours too, for our code shapes the output. Loads no library."""
    return ", ".join(f"{shown} {found}" for shown, name in _named(distributions) if (found := _version(name)))


def _named(distributions: tuple[str, ...]) -> list[tuple[str, str]]:
    return [("gateway", "content-gateway"), *((name, name) for name in distributions)]


@cache
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
