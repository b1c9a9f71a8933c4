"""``gateway doctor``: what is wrong, in one look."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import click

from gateway_core.cli.context import compose_now
from gateway_core.errors import GatewayError, SourceError

if TYPE_CHECKING:
    from gateway_core.gateway import Gateway

FLOORS = {
    "aiohttp": ("3.14.3", "CVE-2026-69244, heap over-read in the HTTP parser"),
    "PyJWT": ("2.13.0", "CVE-2026-48526, a public key taken for an HMAC secret"),
    "redis": ("5.3.1", "cancelled commands must not leave answers for the next caller"),
    "SQLAlchemy": ("2.1", "the version this code is written for"),
    "cryptography": ("46", "the version this code is written for"),
}
"""Versions below which a known fault matters here."""
PYTHON_FLOORS = {(3, 11): 14, (3, 12): 12, (3, 13): 6}
"""Least micro version by Python line: below it tarfile can be made to loop or to write elsewhere (CVE-2025-4517)."""


@dataclass(frozen=True)
class Finding:
    """One line: ``state`` is ok, warning or failed."""

    state: str
    name: str
    text: str


@click.command("doctor")
@click.argument("url", required=False)
def command(url: str | None) -> None:
    """Check configuration, database, storage, versions and, with URL, whether that may and can be fetched.

    Exit code 1 when something failed; warnings alone do not fail.
    """
    from gateway_core.gateway import Role

    gateway = compose_now(Role.CLI).gateway
    findings = [Finding("ok", "configuration", f"plugins {', '.join(_enabled(gateway)) or 'none'}"), *check_versions()]
    findings += asyncio.run(_services(gateway, url))
    for finding in findings:
        click.echo(f"{finding.state:8} {finding.name}: {finding.text}")
    if any(finding.state == "failed" for finding in findings):
        raise SystemExit(1)


def check_versions() -> list[Finding]:
    """Installed versions against the floors; a missing package is failed, a low one a warning."""
    findings = []
    for name, (floor, reason) in FLOORS.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            findings.append(Finding("failed", name, "not installed"))
            continue
        if _numbers(installed) < _numbers(floor):
            findings.append(Finding("warning", name, f"{installed} is below {floor}: {reason}"))
    micro = PYTHON_FLOORS.get(sys.version_info[:2])
    if micro is not None and sys.version_info[2] < micro:
        wanted = ".".join(map(str, (*sys.version_info[:2], micro)))
        running = ".".join(map(str, sys.version_info[:3]))
        findings.append(
            Finding("warning", "Python", f"{running} is below {wanted}, which mends known faults in tarfile")
        )
    return findings or [Finding("ok", "versions", "none below a known floor")]


async def _services(gateway: Gateway, url: str | None) -> list[Finding]:
    gateway.make_data_dir()
    findings = []
    async with gateway.opened():
        findings.append(await _one("database", lambda: _database(gateway)))
        findings.append(await _one("storage", lambda: _storage(gateway)))
        if gateway.settings.redis_url:
            findings.append(await _one("redis", lambda: _redis(gateway)))
        for name, check in gateway.registries.checks.items():
            findings.append(await _one(name, partial(_plugin, check)))
        if url is not None:
            findings.append(await _one(f"egress {url}", lambda: _egress(gateway, url)))
    return findings


async def _one(name: str, check: Callable[[], Awaitable[str]]) -> Finding:
    from gateway_core.gateway import Degraded

    try:
        async with asyncio.timeout(30):
            return Finding("ok", name, await check())
    except Degraded as exc:
        return Finding("warning", name, exc.detail)
    except (GatewayError, OSError, TimeoutError) as exc:
        return Finding("failed", name, str(exc) or type(exc).__name__)


async def _database(gateway: Gateway) -> str:
    from gateway_core.db.migrate import pending

    behind = [n for n, (at, head) in (await pending(gateway.db, gateway.migration_sources())).items() if at != head]
    if behind and gateway.db.dialect != "sqlite":
        return f"{gateway.db.dialect}; behind the code: {', '.join(behind)} (run: gateway db upgrade)"
    if not behind:
        await gateway.clients.check_keys()
    return f"{gateway.db.dialect}, answers"


async def _storage(gateway: Gateway) -> str:
    await gateway.storage.check()
    return f"{type(gateway.storage).__name__}, wrote, read and deleted an object"


async def _redis(gateway: Gateway) -> str:
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    from gateway_core.gateway import Degraded

    client = Redis.from_url(gateway.settings.redis_url, socket_timeout=5, socket_connect_timeout=3)
    try:
        await client.ping()
    except (RedisError, OSError) as exc:
        raise Degraded(f"away ({type(exc).__name__}); the service runs without it") from exc
    finally:
        await client.aclose()
    return "answers"


async def _plugin(check: Callable[[], Awaitable[str | None]]) -> str:
    return await check() or "ok"


async def _egress(gateway: Gateway, url: str) -> str:
    """As a client's URL would be treated; the log line above a refusal names the setting that permits it."""
    from gateway_core.auth.client import Client
    from gateway_core.sources.base import SourceRequest

    try:
        await gateway.sources.check(url, Client.ANONYMOUS)
        info = await gateway.sources.probe(SourceRequest(url))
    except SourceError as exc:
        raise GatewayError(f"{exc.reason}: {exc.detail or exc.title}") from exc
    size = "unknown size" if info.size_bytes is None else f"{info.size_bytes} bytes"
    return f"can be fetched: {size}, {info.media_type or 'unknown type'}, ranges: {'yes' if info.ranges else 'no'}"


def _enabled(gateway: Gateway) -> list[str]:
    return [info.name for info in gateway.plugin_infos if info.status == "enabled"]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.partition("+")[0].split(".") if part.isdigit())
