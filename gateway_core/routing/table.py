"""All routes of one port in the order in which they are matched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway_core.errors import ConfigError
from gateway_core.routing.route import ANY, Route


@dataclass(frozen=True)
class Mounted:
    """A route at its full path: ``owner`` is the plugin's name, ``core`` for the core's own.

    ``pattern`` is what it matches, after its host where it has one: no two routes of a method have the same.
    """

    route: Route
    owner: str
    path: str
    plain_path: str
    pattern: str

    @property
    def label(self) -> str:
        """``archive:download``, for logs and metrics."""
        return f"{self.owner}:{self.route.name}"


class RouteTable:
    """Collects routes, finds clashes, and orders them: literal paths, then patterns, then catch-alls."""

    def __init__(self) -> None:
        self._mounted: list[Mounted] = []
        self._claims: dict[tuple[str, str], Mounted] = {}
        self._patterns: dict[str, Mounted] = {}

    def add(self, routes: Iterable[Route], *, owner: str, prefix: str = "") -> None:
        """Mount a plugin's routes; raises ConfigError when method and pattern are taken or a name is used twice.

        Routes of one pattern must call its parameters alike, since they share a place in the matching order.
        """
        names: dict[str, Route] = {}
        for route in routes:
            if names.setdefault(route.name, route) is not route:
                raise ConfigError(f"plugin {owner}: two routes are called {route.name}")
            base = "" if route.at_root or route.host else prefix
            pattern = route.host + base + route.pattern
            mounted = Mounted(route, owner, base + route.path, base + route.plain_path, pattern)
            other = self._patterns.setdefault(mounted.pattern, mounted)
            for method in route.methods:
                self._claim(method, mounted)
            if other.path != mounted.path:
                raise ConfigError(f"{mounted.label}: {mounted.path} is {other.path} of {other.label} by another name")
            self._mounted.append(mounted)

    def _claim(self, method: str, mounted: Mounted) -> None:
        for taken in (method, ANY) if method != ANY else [m for m, p in self._claims if p == mounted.pattern]:
            other = self._claims.get((taken, mounted.pattern))
            if other is not None:
                raise ConfigError(f"{method} {mounted.plain_path} is claimed by {other.label} and by {mounted.label}")
        self._claims[method, mounted.pattern] = mounted

    def __iter__(self) -> Iterator[Mounted]:
        return iter(sorted(self._mounted, key=_precedence))


def _precedence(mounted: Mounted) -> tuple[bool, bool, int]:
    """Literal before pattern before catch-all; the longer fixed beginning first, otherwise as declared."""
    fixed = mounted.plain_path.split("{", 1)[0]
    return mounted.route.catch_all, "{" in mounted.plain_path, -len(fixed)
