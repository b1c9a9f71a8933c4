"""``/transformations/`` and ``/version/``: what there is, for everybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs, web

from gateway_core import Gateway
from gateway_core.version import __version__
from gateway_transform.settings import TransformSettings
from gateway_transform.work.service import SERVICE_KEY


class CatalogueHandlers:
    """Handlers of what needs no credential."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._settings = gateway.section(TransformSettings)

    async def transformations(self, _request: web.Request) -> web.Response:
        """All transformations by name: label, help and options, and beside them what a run may take.

        `limits` has `seconds` and `memory_mb`, and whether it gets the `network`. Equal files and options give an equal
        result where it is `deterministic`, as long as the `version` stays.
        """
        found = self._gateway.state[SERVICE_KEY].found.transformations
        text = json.dumps({name: self._shown(entry) for name, entry in found.items()}, ensure_ascii=False)
        headers = {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "no-cache"}
        return web.Response(body=text.encode(), headers=headers)

    async def version(self, _request: web.Request) -> web.Response:
        """The gateway's version."""
        return web.Response(text=__version__)

    def _shown(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Circe's keys, then ours; limits of its own only make the settings' narrower."""
        settings, own = self._settings, entry["limits"]
        limits = {
            "seconds": min(own["seconds"] or settings.job_timeout_s, settings.job_timeout_s),
            "memory_mb": min(own["memory_mb"] or settings.memory_mb, settings.memory_mb),
            "network": own["network"],
        }
        beside = {"limits": limits, "version": entry["version"], "deterministic": entry["deterministic"]}
        return {**entry["description"], **beside}
