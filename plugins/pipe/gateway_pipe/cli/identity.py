"""``gateway pipe ca``, ``invite``, ``enroll``, ``revoke``, ``doctor``: who may be a node."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway_core.cli import run
from gateway_pipe.link.model import NODE_NAME

if TYPE_CHECKING:
    from gateway_core.gateway import Gateway
    from gateway_pipe.identity.authority import Authority
    from gateway_pipe.identity.diagnosis import Credential
    from gateway_pipe.identity.signing import Issuer

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_LONGEST_TTL_S = 366 * 86400.0


def _name(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    if value is None:
        return ""
    if not NODE_NAME.fullmatch(value):
        raise click.BadParameter("1 to 128 letters, digits and `.`, `_`, `-`, the first and the last a letter or digit")
    return value


def _seconds(_ctx: click.Context, _parameter: click.Parameter, value: str) -> float:
    from gateway_core.settings import parse_duration  # loads pydantic, which a node does without

    try:
        seconds = float(parse_duration(value))
    except ValueError as exc:
        raise click.BadParameter("seconds, or a span such as 15m or 2d") from exc
    if not 0 < seconds <= _LONGEST_TTL_S:
        raise click.BadParameter("more than nothing, and at most a year")
    return seconds


@click.group()
def ca() -> None:
    """The built-in certificate authority, which signs for nodes and for their port."""


@ca.command()
def init() -> None:
    """Make the certificate authority, once; its key is kept in the database, encrypted under SECRET_KEY."""

    async def work(gateway: Gateway) -> Issuer:
        from gateway_pipe.identity.authority import AUTHORITY_TOPIC

        made = await _authority(gateway).init()
        gateway.wakeups.publish(AUTHORITY_TOPIC)
        return made

    made = run(work)
    click.echo(f"Certificate authority made: SHA-256 {made.pin.hex()}")
    click.echo("Next: gateway pipe invite NAME")


@ca.command()
def show() -> None:
    """Print the authority's certificate in PEM, and about it on standard error."""

    async def work(gateway: Gateway) -> Issuer:
        from gateway_pipe.identity.authority import Purpose

        return await _authority(gateway).issuer(Purpose.NODES)

    found = run(work)
    subject, end = found.certificate.subject.rfc4514_string(), found.certificate.not_valid_after_utc
    click.echo(f"{subject}, until {end:%Y-%m-%d}, SHA-256 {found.pin.hex()}", err=True)
    click.echo(found.pem, nl=False)


@click.command()
@click.argument("name", callback=_name)
@click.option("--ttl", metavar="S", default="3600", show_default=True, callback=_seconds, help="Seconds, or 15m, 2d.")
@click.option("--json", "as_json", is_flag=True, help="Print token, name and end (Unix seconds) as JSON.")
def invite(*, name: str, ttl: float, as_json: bool) -> None:
    """Print a token with which one machine can enrol as the node NAME, once.

    A revoked name is let in again with the certificate that this token gives, not with older ones.
    """

    async def work(gateway: Gateway) -> tuple[str, float]:
        token, expires = await _authority(gateway).invite(name, ttl_s=ttl)
        return token.text, expires

    token, expires = run(work)
    if as_json:
        click.echo(json.dumps({"token": token, "name": name, "expires": round(expires, 3)}))
        return
    click.echo(f"Invitation for {name}, good once, until {_date(expires)}. On the node:", err=True)
    click.echo("  gateway pipe enroll https://HOST:PORT --dir DIR --token \\", err=True)
    click.echo(token)


@click.command()
@click.argument("url")
@click.option("--token", metavar="T", required=True, help="From `gateway pipe invite`.")
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where key and certificate are kept; made when it is not there.",
)
@click.option("--force", is_flag=True, help="Replace the identity that is in DIR.")
def enroll(*, url: str, token: str, folder: Path, force: bool) -> None:
    """Get a certificate from the gateway at URL, for a key that is made in DIR and never leaves it."""
    from gateway_pipe.identity.enrolment import enrol

    made = asyncio.run(enrol(url, token, folder, force=force))
    click.echo(f"Enrolled as {made.name} until {_date(made.expires)}; it is renewed while the node is connected")
    where = made.url if made.url.startswith("https:") else "https://HOST:PORT"
    click.echo(f"Next: gateway pipe connect {where} --dir {folder}")


@click.command()
@click.argument("name", callback=_name)
@click.option("--undo", is_flag=True, help="Let NAME in again with all that it has; for a typing error.")
def revoke(*, name: str, undo: bool) -> int:
    """Shut the node NAME out: its links are closed within a second, its certificates and invitations are void.

    A node of the built-in authority is let in again with a new certificate by `gateway pipe invite`; one that has a
    client's secret, or a certificate of another authority, by --undo.
    """

    async def forget(gateway: Gateway) -> bool:
        return await _authority(gateway).revocations.undo(name)

    async def work(gateway: Gateway) -> bool:
        from gateway_pipe.identity.revocations import REVOKED_TOPIC

        known = await _authority(gateway).revocations.revoke(name)
        gateway.wakeups.publish(REVOKED_TOPIC)
        return known

    if undo:
        undone = run(forget)
        told = f"Revocation undone: {name}" if undone else f"gateway: {name} is not revoked"
        click.echo(told, err=not undone)
        return 0 if undone else 1
    if not run(work):
        click.echo(f"gateway: no node {name} was ever seen here; a typing error?", err=True)
    click.echo(f"Node revoked: {name} - its links are closed; `gateway pipe invite {name}` lets it in again")
    return 0


@click.command()
@click.argument("url")
@click.option("--dir", "folder", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Of `enroll`.")
@click.option("--ca", "ca_file", type=_FILE, help="Authority of the gateway's certificate (PEM).")
@click.option("--cert", type=_FILE, help="Certificate of the node, with its chain (PEM).")
@click.option("--key", type=_FILE, help="Key of that certificate (PEM).")
@click.option("--name", callback=_name, help="Name of the node.")
@click.option("--secret", envvar="GATEWAY_SECRET", default="", help="Secret of a client with `pipe:connect:<name>`.")
def doctor(*, url: str, folder: Path | None, ca_file: Path | None, **given: str | Path | None) -> int:
    """Say what keeps a node from connecting to the gateway at URL; exit code 1 when something does.

    Give what the node is started with: --dir, or --ca with --cert and --key, or --name and --secret.
    """
    from gateway_pipe.identity.diagnosis import diagnose

    findings = asyncio.run(diagnose(url, _credential(folder, ca_file, given)))
    for finding in findings:
        click.echo(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.what}")
        if finding.hint:
            click.echo(f"       {finding.hint}")
    return 0 if all(finding.ok for finding in findings) else 1


def _credential(folder: Path | None, ca_file: Path | None, given: dict[str, str | Path | None]) -> Credential:
    """Raises UsageError for options that do not fit together, ConfigError for files that cannot be used."""
    from gateway_pipe.identity.diagnosis import Credential
    from gateway_pipe.identity.material import read_enrolled, read_own

    name, secret, cert, key = str(given["name"]), str(given["secret"]), given["cert"], given["key"]
    if (cert is None) != (key is None):
        raise click.UsageError("--cert and --key belong together")
    if folder is not None and cert is not None:
        raise click.UsageError("--dir has a certificate; leave --cert out")
    material = None
    if folder is not None:
        material = read_enrolled(folder)
    elif cert is not None and key is not None:
        material = read_own(ca=ca_file, cert=Path(cert), key=Path(key))
    if material is not None:
        if not name and len(material.names) == 1:
            name = material.name
        return Credential(name=name, material=material)
    return Credential(name=name, secret=secret, ca=ca_file)


def _authority(gateway: Gateway) -> Authority:
    from gateway_pipe.identity.authority import Authority
    from gateway_pipe.settings import PipeSettings

    return Authority(gateway.db, gateway.keyring, gateway.section(PipeSettings))


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
