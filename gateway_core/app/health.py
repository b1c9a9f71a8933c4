"""Readiness: the named checks of core and plugins, run together and remembered for a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway_core.errors import GatewayError
from gateway_core.gateway import Check, Degraded, Gateway

CHECK_TIMEOUT_S = 5.0
REMEMBER_S = 1.0


@dataclass(frozen=True)
class Readiness:
    """The answer of ``/readyz``: ``checks`` by name is ``ok``, ``ok: what is in force``, or what is wrong."""

    ready: bool
    draining: bool
    checks: Mapping[str, str]
    degraded: tuple[str, ...]

    def body(self) -> dict[str, Any]:
        """The JSON form."""
        status = "draining" if self.draining else "ready" if self.ready else "unready"
        return {"status": status, "checks": dict(self.checks), "degraded": list(self.degraded)}


class Health:
    """Runs the checks of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known: tuple[float, Readiness] | None = None
        self._lock = asyncio.Lock()

    async def readiness(self) -> Readiness:
        """Whether everything that is needed works; a check gets 5 s."""
        async with self._lock:
            draining = self._gateway.draining.is_set()
            if self._known and self._known[0] > time.monotonic() and self._known[1].draining == draining:
                return self._known[1]
            answer = await self._run(draining=draining)
            self._known = (time.monotonic() + REMEMBER_S, answer)
            return answer

    async def _run(self, *, draining: bool) -> Readiness:
        checks = {**self._core_checks(), **self._gateway.registries.checks}
        outcomes = await asyncio.gather(*(self._one(check) for check in checks.values()))
        texts = {name: text for name, (_, text) in zip(checks, outcomes, strict=True)}
        degraded = tuple(name for name, (state, _) in zip(checks, outcomes, strict=True) if state == "degraded")
        failed = any(state == "failed" for state, _ in outcomes)
        return Readiness(ready=not failed and not draining, draining=draining, checks=texts, degraded=degraded)

    async def _one(self, check: Check) -> tuple[str, str]:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                said = await check()
        except Degraded as exc:
            return "degraded", exc.detail
        except TimeoutError:
            return "failed", f"no answer within {CHECK_TIMEOUT_S:g} s"
        except GatewayError as exc:
            return "failed", exc.detail or exc.title
        except Exception as exc:  # noqa: BLE001 - a supervisor's border: a broken check is an unready gateway
            return "failed", type(exc).__name__
        return "ok", f"ok: {said}" if said else "ok"

    def _core_checks(self) -> dict[str, Check]:
        gateway = self._gateway
        checks: dict[str, Check] = {"database": gateway.db.check, "storage": gateway.storage.check}
        if gateway.settings.redis_url:
            checks["redis"] = self._redis
        if any(info.status == "failed" for info in gateway.plugin_infos):
            checks["plugins"] = self._plugins
        return checks

    async def _redis(self) -> None:
        if self._gateway.redis is None:
            raise Degraded("Redis is away; wake-ups go through the database")

    async def _plugins(self) -> None:
        failed = [info.name for info in self._gateway.plugin_infos if info.status == "failed"]
        raise Degraded(f"failed to load: {', '.join(failed)}")
