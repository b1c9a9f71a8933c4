"""``gateway pipe connect``: be a node."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click
from click.core import ParameterSource

from gateway_core.errors import ConfigError

if TYPE_CHECKING:
    from gateway_pipe.apps.expose import Exposed
    from gateway_pipe.identity.material import Material
    from gateway_pipe.identity.urls import GatewayUrl
    from gateway_pipe.node.credentials import Identity
    from gateway_pipe.node.program import Options

LOCAL = "127.0.0.1:8788"
"""Where the programs beside a node find it, unless --local says otherwise."""

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:=-]{0,63}")
_SECRET = re.compile(r"[\x21-\x7e]{1,512}")
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_EPILOG = """\b
Exit codes:
  0    told to stop, by SIGTERM or Ctrl-C
  1    it cannot start: the port of --local is taken, the folder cannot be written
  2    wrong usage: options, files, or handlers that cannot be used
A gateway that cannot be reached is no error: the node keeps trying, and says so in its log.
"""


class _Given(TypedDict):
    folder: Path | None
    ca: Path | None
    cert: Path | None
    key: Path | None
    name: str | None
    secret: str | None
    secret_file: Path | None
    local: tuple[str, int] | None
    handlers: tuple[str, ...]
    expose: tuple[Exposed, ...]
    tags: tuple[str, ...]
    slots: int
    statsd: tuple[str, int] | None


def _local(_ctx: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, int] | None:
    return None if value == "off" else _address(value)


def _statsd(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    return None if value is None else _address(value)


def _tags(_ctx: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for tag in value:
        if not _TAG.fullmatch(tag):
            raise click.BadParameter(f"{tag!r}: up to 64 letters, digits and any of `_.:=-`")
    return tuple(dict.fromkeys(value))


def _expose(_ctx: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[Exposed, ...]:
    from gateway_pipe.apps.expose import parse_expose

    try:
        found = tuple(parse_expose(text) for text in value)
    except ConfigError as exc:
        raise click.BadParameter(exc.detail.removeprefix("--expose ")) from exc
    if len({app.name for app in found}) < len(found):
        raise click.BadParameter("two applications have the same name")
    return found


@click.command("connect", epilog=_EPILOG)
@click.argument("url", metavar="[URL]", required=False, envvar="GATEWAY_URL")
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder that `gateway pipe enroll` made: certificate, key, and where the gateway is.",
)
@click.option("--ca", type=_FILE, help="Authority of your own (PEM) that vouches for the gateway.")
@click.option("--cert", type=_FILE, help="Certificate of your own (PEM), with this node's name.")
@click.option("--key", type=_FILE, help="Key of that certificate (PEM).")
@click.option("--name", help="This node's name; with a certificate needed only if that has several.")
@click.option(
    "--secret",
    envvar="GATEWAY_SECRET",
    help="Secret of a client with the scope pipe:connect:NAME; better in GATEWAY_SECRET or a file.",
)
@click.option("--secret-file", type=_FILE, help="File that holds this secret.")
@click.option(
    "--local",
    metavar="HOST:PORT",
    default=LOCAL,
    show_default=True,
    callback=_local,
    help="Where programs on this machine call the gateway's handlers; `off`: nowhere.",
)
@click.option(
    "--handlers",
    metavar="MODULE:CLASS",
    multiple=True,
    help="Class whose methods answer calls, found on PYTHONPATH; any number of times. Default: time and cat.",
)
@click.option(
    "--expose",
    metavar="NAME=URL",
    multiple=True,
    callback=_expose,
    help="Publish a local web application on the gateway; any number of times.",
)
@click.option(
    "--tag", "tags", metavar="T", multiple=True, callback=_tags, help="Put this node into the group T; any number."
)
@click.option(
    "--slots",
    metavar="N",
    type=click.IntRange(1, 4096),
    default=64,
    show_default=True,
    help="Handler calls at once; more wait.",
)
@click.option("--statsd", metavar="HOST:PORT", callback=_statsd, help="Send RestPipe's metrics there.")
@click.option(
    "--log-level",
    envvar="GATEWAY_LOG_LEVEL",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged, on standard error.",
)
@click.option(
    "--log-format",
    envvar="GATEWAY_LOG_FORMAT",
    type=click.Choice(["auto", "json", "console"]),
    default="auto",
    show_default=True,
    help="How; auto: JSON unless it is a terminal.",
)
@click.pass_context
def connect(ctx: click.Context, /, *, url: str | None, log_level: str, log_format: str, **given: Unpack[_Given]) -> int:
    """Be a node of the gateway at URL: keep a link to it for ever, through every failure.

    The gateway's callers reach this machine's handlers and applications through the link, and programs on this machine
    the gateway's handlers through http://127.0.0.1:8788/server/NOUN. The node proves who it is with --dir, or --cert
    and --key, or --name and --secret. URL may be left out with --dir.
    """
    import asyncio

    from gateway_core.observe.logs import configure_logging
    from gateway_pipe.node.program import run_node

    options = _options(ctx, url, given)
    configure_logging(level=log_level, log_format=log_format)  # type: ignore[arg-type]
    _warn(options, plain_secret=given["folder"] is None and given["cert"] is None)
    asyncio.run(run_node(options, announce=click.echo))
    return 0


def _options(ctx: click.Context, url: str | None, given: _Given) -> Options:
    """Raises UsageError and ConfigError."""
    from gateway_pipe.node.program import Options

    target, identity = _identity(ctx, url, given)
    return Options(
        target=target,
        identity=identity,
        folder=given["folder"] or _state_folder(identity.name),
        local=given["local"],
        handlers=given["handlers"],
        expose=given["expose"],
        tags=given["tags"],
        slots=given["slots"],
        statsd=given["statsd"],
    )


def _identity(ctx: click.Context, url: str | None, given: _Given) -> tuple[GatewayUrl, Identity]:
    ways = {
        "--dir": given["folder"] is not None,
        "--cert and --key": given["cert"] is not None or given["key"] is not None,
        "--secret": ctx.get_parameter_source("secret") is ParameterSource.COMMANDLINE or bool(given["secret_file"]),
    }
    chosen = [way for way, taken in ways.items() if taken]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other")
    if given["folder"] is not None:
        named = ctx.get_parameter_source("url") is ParameterSource.COMMANDLINE  # GATEWAY_URL is for other commands
        return _enrolled(url if named else None, given["folder"], given)
    if chosen and chosen[0].startswith("--cert"):
        return _own_certificate(url, given)
    return _with_secret(url, given)


def _enrolled(url: str | None, folder: Path, given: _Given) -> tuple[GatewayUrl, Identity]:
    from gateway_pipe.identity.material import read_enrolled

    if given["ca"] is not None:
        raise click.UsageError("--dir and --ca exclude each other: the folder knows the gateway's authority")
    material = read_enrolled(folder)
    return _certified(url or material.url, material, given["name"])


def _own_certificate(url: str | None, given: _Given) -> tuple[GatewayUrl, Identity]:
    from gateway_pipe.identity.material import read_own

    if given["cert"] is None or given["key"] is None:
        raise click.UsageError("--cert and --key belong together")
    if url is None:
        raise click.UsageError("where is the gateway? Give its URL")
    return _certified(url, read_own(ca=given["ca"], cert=given["cert"], key=given["key"]), given["name"])


def _certified(url: str, material: Material, name: str | None) -> tuple[GatewayUrl, Identity]:
    from gateway_pipe.identity.urls import gateway_url
    from gateway_pipe.node.credentials import CertificateIdentity

    target = gateway_url(url)
    if not target.secure:
        raise click.UsageError(f"{url}: a certificate needs https://, and the port of the gateway's PIPE__LISTEN")
    if name is not None and name not in material.names:
        raise click.UsageError(f"--name: the certificate is for {', '.join(sorted(material.names)) or 'no node'}")
    material.context()  # what cannot be used is told now, not in the log of a node that never connects
    return target, CertificateIdentity(name or material.name, material)


def _with_secret(url: str | None, given: _Given) -> tuple[GatewayUrl, Identity]:
    from gateway_pipe.identity.urls import gateway_url
    from gateway_pipe.link.model import NODE_NAME
    from gateway_pipe.node.credentials import SecretIdentity

    secret, name = _secret(given), given["name"]
    if secret is None:
        raise click.UsageError("who is this? Give --dir, or --cert and --key, or --name and --secret")
    if not _SECRET.fullmatch(secret):
        raise click.UsageError("--secret: a secret has up to 512 visible ASCII characters")
    if name is None:
        raise click.UsageError("--secret needs --name: a secret may be for several nodes")
    if not NODE_NAME.fullmatch(name):
        raise click.UsageError("--name: up to 128 letters, digits and any of `_.-`, none of these at its ends")
    if url is None:
        raise click.UsageError("where is the gateway? Give its URL")
    target = gateway_url(url)
    return target, SecretIdentity(name, secret, ca=given["ca"], secure=target.secure)


def _secret(given: _Given) -> str | None:
    if given["secret_file"] is None:
        return given["secret"]
    try:
        return given["secret_file"].read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise click.UsageError(f"--secret-file: {given['secret_file']} cannot be read") from exc


def _address(text: str) -> tuple[str, int]:
    from gateway_pipe.settings import address

    try:
        return address(text)
    except ValueError as exc:
        raise click.BadParameter(f"expected HOST:PORT, not {text!r}") from exc


def _state_folder(name: str) -> Path | None:
    """Where a node without --dir remembers durable calls (XDG base directories); None where nothing can be kept."""
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if home.startswith("/") else Path("~/.local/state").expanduser()
    folder = base / "content-gateway" / "pipe" / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _warn(options: Options, *, plain_secret: bool) -> None:
    from gateway_core.observe.logs import get_logger
    from gateway_pipe.node.guard import is_loopback

    log = get_logger("gateway.pipe.node")
    if plain_secret and not options.target.secure and not options.target.local:
        log.warning("the secret and all calls travel in the clear: use https://", server=options.target.text)
    if options.local is not None and not is_loopback(options.local[0]):
        log.warning("other machines can call the gateway's handlers through this node", local=options.local[0])
