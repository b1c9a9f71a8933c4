"""``gateway get``: downloads that end bit-exact."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from gateway_blocks.get.limit import parse_rate
from gateway_blocks.get.model import Options
from gateway_blocks.get.outcome import Work
from gateway_blocks.get.urls import basic_authorization, file_name, origin, parse_url, shown
from gateway_core.errors import ConfigError

if TYPE_CHECKING:
    from gateway_blocks.get.command import Order

_OWN_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "if-match", "if-none-match", "if-range", "range"}
    | {"te", "transfer-encoding"}
)
_EPILOG = """\b
Exit codes:
  0    everything is verified, or done where the server has no checksums
  1    something failed; the same command goes on where it was
  2    wrong usage
  3    the server has no checksums, and --require-verify was given
  4    a local file differs (--verify)
  130  stopped by Ctrl-C
Of several files the worst counts, in the order 130, 2, 4, 3, 1, 0.
"""


class _Given(TypedDict):
    output: str | None
    jobs: int
    verify: bool
    repair: bool
    recursive: bool
    seeds: tuple[Path, ...]
    mirrors: tuple[str, ...]
    limit_rate: int
    require_verify: bool
    quiet: bool
    headers: tuple[tuple[str, str], ...]
    secret: str | None
    credentials: Path | None


def _rate(_ctx: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        return parse_rate(value)
    except ConfigError as exc:
        raise click.BadParameter(exc.detail) from exc


def _urls(_ctx: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(parse_url(text) for text in value)
    except ConfigError as exc:
        raise click.BadParameter(exc.detail) from exc


def _headers(_ctx: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for text in value:
        name, colon, content = (part.strip() for part in text.partition(":"))
        if not (colon and name.replace("-", "").replace("_", "").isalnum() and text.isascii() and text.isprintable()):
            raise click.BadParameter("expected NAME:VALUE in printable ASCII")
        if name.lower() in _OWN_HEADERS:
            raise click.BadParameter(f"{name} is set by the download itself")
        pairs.append((name, content))
    return tuple(pairs)


@click.command("get", epilog=_EPILOG)
@click.argument("urls", metavar="URL...", nargs=-1, required=True, callback=_urls)
@click.option("-o", "--output", metavar="OUT", help="File, folder, or `-` for standard output; default: as in the URL.")
@click.option(
    "-j", "--jobs", metavar="N", type=click.IntRange(1, 64), default=5, show_default=True, help="Connections at once."
)
@click.option("-r", "--recursive", is_flag=True, help="The URL is a folder: fetch all its files into OUT.")
@click.option("--verify", is_flag=True, help="Fetch nothing: compare the local file with the server's checksums.")
@click.option("--repair", is_flag=True, help="Fetch only the blocks in which the local file differs.")
@click.option(
    "--seed",
    "seeds",
    metavar="OLD",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Take what fits from this older file or folder; any number of times.",
)
@click.option(
    "--mirror", "mirrors", metavar="URL", multiple=True, callback=_urls, help="The same elsewhere; any number of times."
)
@click.option(
    "--limit-rate", metavar="R", default="0", callback=_rate, help="Bytes a second at most, such as 500K or 2M."
)
@click.option("--require-verify", is_flag=True, help="Fail where the server has no checksums.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option(
    "-H",
    "--header",
    "headers",
    metavar="NAME:VALUE",
    multiple=True,
    callback=_headers,
    help="Send this to the URL's server.",
)
@click.option("--secret", envvar="GATEWAY_SECRET", help="Secret of a client; better in GATEWAY_SECRET or a file.")
@click.option(
    "--credentials",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File that `gateway client add --out` wrote.",
)
@click.pass_context
def get(ctx: click.Context, /, *, urls: tuple[str, ...], **given: Unpack[_Given]) -> int:
    """Download files and verify every block of them.

    What was interrupted goes on where it was. Checksums come from a gateway or from rd-api; from other servers files
    come unverified, and the last line says so. Secret and headers go to the URL's own server only.
    """
    from gateway_blocks.get.command import carry_out

    return carry_out(_order(ctx, urls, given))


def _order(ctx: click.Context, urls: tuple[str, ...], given: _Given) -> Order:
    from gateway_blocks.get.command import Order, Target

    _check(urls, given)
    options = _options(given)
    proof = _authorization(ctx, urls, given)
    targets = []
    for url, path in zip(urls, _paths(urls, given), strict=True):
        headers = {**options.headers, **({"Authorization": proof[url]} if url in proof else {})}
        targets.append(Target(url, path, str(path or _name(url)), replace(options, headers=headers)))
    work = Work.VERIFY if given["verify"] else Work.REPAIR if given["repair"] else Work.DOWNLOAD
    return Order(tuple(targets), work, recursive=given["recursive"], quiet=given["quiet"])


def _check(urls: tuple[str, ...], given: _Given) -> None:
    """Raise UsageError for options that do not fit together."""
    if given["verify"] and given["repair"]:
        raise click.UsageError("--verify and --repair exclude each other")
    if given["output"] == "-":
        for name in ("verify", "repair", "recursive"):
            if given[name]:
                raise click.UsageError(f"--{name} needs files, not standard output")
        if len(urls) > 1:
            raise click.UsageError("--output - takes one URL")
    if given["mirrors"] and len(urls) > 1:
        raise click.UsageError("--mirror belongs to one URL")


def _options(given: _Given) -> Options:
    return Options(
        jobs=given["jobs"],
        limit_rate=given["limit_rate"],
        require_verify=given["require_verify"],
        mirrors=given["mirrors"],
        seeds=given["seeds"],
        headers=dict(given["headers"]),
    )


def _paths(urls: tuple[str, ...], given: _Given) -> list[Path | None]:
    """Where each URL goes; the folder that OUT names is made. Raises UsageError for places that cannot be."""
    output, recursive = given["output"], given["recursive"]
    if output == "-":
        return [None]
    named = output is not None and len(urls) == 1 and (recursive or not (output.endswith("/") or Path(output).is_dir()))
    if not (named or recursive):
        for url in urls:
            if url.partition("?")[0].endswith("/"):
                raise click.UsageError(f"{shown(url)} is a folder: add --recursive, or name a file with --output")
    paths = [Path(output or "")] if named else [Path(output or "") / _name(url) for url in urls]
    if len(set(paths)) < len(paths):
        raise click.UsageError("two of the URLs have the same name; fetch them one by one, with --output")
    if not given["verify"]:
        _make_folders(paths if recursive else [] if named or output is None else [Path(output)])
    _check_places(paths, recursive=recursive)
    return list(paths)


def _make_folders(folders: list[Path]) -> None:
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        text = f"no folder can be made at {exc.filename}: {exc.strerror}"
        raise click.BadParameter(text, param_hint="--output") from exc


def _check_places(paths: list[Path], *, recursive: bool) -> None:
    for path in paths:
        if path.is_dir() and not recursive:
            raise click.BadParameter(f"{path} is a folder; name a file", param_hint="--output")
        needed = path if recursive else path.parent
        if not needed.is_dir():
            raise click.BadParameter(f"there is no folder {needed}", param_hint="--output")


def _name(url: str) -> str:
    """Last name in the path, the host's where there is none."""
    bare = url.partition("?")[0].rstrip("/")
    return file_name(bare) if bare.count("/") > 2 else urlsplit(url).hostname or "download"


def _authorization(ctx: click.Context, urls: tuple[str, ...], given: _Given) -> dict[str, str]:
    """Header by URL: the secret goes to one server only, that in the environment to that of GATEWAY_URL if it is set.

    User and password in a URL, and a header of that name, are stronger than the environment's. Raises
    UsageError where the URLs leave open which server it is for.
    """
    secret, ambient = given["secret"], ctx.get_parameter_source("secret") is ParameterSource.ENVIRONMENT
    if given["credentials"] is not None and (secret is None or ambient):
        secret, ambient = _secret_in(given["credentials"]), False
    if secret is None or any(name.lower() == "authorization" for name, _ in given["headers"]):
        return {}
    if not (secret.isascii() and secret.isprintable()):
        raise click.BadParameter("a secret is printable ASCII", param_hint="--secret")
    origins = {origin(url) for url in urls}
    home = os.environ.get("GATEWAY_URL") if ambient else None
    if home:
        origins &= {_origin_of_gateway(home)}
    elif len(origins) > 1:
        raise click.UsageError("a secret is for one server, and these URLs name several; fetch from one at a time")
    asked = [url for url in urls if origin(url) in origins and not (ambient and basic_authorization(url))]
    return dict.fromkeys(asked, f"Bearer {secret}")


def _origin_of_gateway(url: str) -> str:
    try:
        return origin(parse_url(url))
    except ConfigError as exc:
        raise click.BadParameter(exc.detail, param_hint="GATEWAY_URL") from exc


def _secret_in(path: Path) -> str:
    try:
        secret = json.loads(path.read_text(encoding="utf-8"))["secret"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise click.BadParameter(f"{path} is no credentials file", param_hint="--credentials") from exc
    if not isinstance(secret, str):
        raise click.BadParameter(f"{path} is no credentials file", param_hint="--credentials")
    return secret
