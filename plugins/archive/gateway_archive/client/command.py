"""``gateway archive``: the command and its options. It loads no settings, and what it needs when it is called."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypedDict, Unpack

import click

from gateway_core.cli.remote import Remote, remote_options

if TYPE_CHECKING:
    from gateway_archive.client.run import Call

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TICKET = re.compile(r"[0-9a-fA-F-]{32,36}")
_EPILOG = """\b
Exit codes:
  0    the archive is there, checked, with every file in it
  1    it failed; the same command goes on where it was
  2    wrong usage, or an order that the gateway refuses
  3    the archive is there and good, but files are missing in it
  130  stopped by Ctrl-C; the same command goes on where it was
"""


class _Given(TypedDict):
    output: str | None
    names: tuple[str, ...]
    path: str | None
    list_file: TextIO | None
    headers: dict[str, str]
    on_error: str
    format: str
    ticket: str | None
    tries: int
    as_json: bool
    quiet: bool


def _headers(_ctx: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in value:
        name, colon, content = (part.strip() for part in text.partition(":"))
        if not (colon and _HEADER_NAME.fullmatch(name) and content.isprintable()):
            raise click.BadParameter("expected 'NAME: VALUE'")
        pairs[name] = content
    return pairs


def _ticket(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _TICKET.fullmatch(value):
        raise click.BadParameter("a ticket's id has 32 hex digits and dashes")
    return value


@click.command("archive", epilog=_EPILOG)
@click.argument("urls", metavar="URL...", nargs=-1)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="File, which is replaced, or folder, or `-` for standard output; default: a new file, named by the server.",
)
@click.option(
    "--name",
    "names",
    metavar="NAME",
    multiple=True,
    help="Name in the archive of the first URL; again for the second, and so on.",
)
@click.option("--path", metavar="FOLDER", help="Folder in the archive for all files.")
@click.option(
    "--from",
    "list_file",
    metavar="FILE",
    type=click.File(encoding="utf-8-sig"),
    help="Take more URLs from this file, one a line; `-` is standard input.",
)
@click.option(
    "-H",
    "--header",
    "headers",
    metavar="NAME:VALUE",
    multiple=True,
    callback=_headers,
    help="Let the gateway send this to the servers of the URLs.",
)
@click.option(
    "--on-error",
    type=click.Choice(["report", "skip", "abort"]),
    default="report",
    show_default=True,
    help="What a file that cannot be had does to the archive.",
)
@click.option(
    "--format", type=click.Choice(["zip", "tar"]), default="zip", show_default=True, help="Form of the archive."
)
@click.option("--ticket", metavar="ID", callback=_ticket, help="Download this ticket instead of making one.")
@click.option(
    "--tries",
    metavar="N",
    type=click.IntRange(0, 1_000_000),
    default=10,
    show_default=True,
    help="Try so often again in a row without getting further.",
)
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what is missing or went wrong.")
@remote_options
def archive(urls: tuple[str, ...], *, remote: Remote, **given: Unpack[_Given]) -> int:
    """Download many URLs as one ZIP, which a gateway makes on the way.

    A download that breaks goes on where it was, also when this command was killed and is called again in the same way.
    What came is checked before it gets its name. All messages go to standard error.
    """
    from gateway_archive.client.run import carry_out

    return carry_out(_call(urls, remote, given))


def _call(urls: tuple[str, ...], remote: Remote, given: _Given) -> Call:
    from gateway_archive.client.model import Order
    from gateway_archive.client.run import Call

    if remote.secret is not None and not (remote.secret.isascii() and remote.secret.isprintable()):
        raise click.BadParameter("a secret is printable ASCII", param_hint="--secret")
    if given["ticket"] is None:
        items = _items((*urls, *_listed(given["list_file"])), given)
        order = Order(items, on_error=given["on_error"], format=given["format"])
    else:
        if urls or given["list_file"] or given["names"] or given["path"] or given["headers"]:
            raise click.UsageError("--ticket stands for the URLs and all that is about them")
        order = Order(ticket=given["ticket"].lower(), format=given["format"])
    target, into = _target(given)
    flags = {"quiet": given["quiet"], "as_json": given["as_json"]}
    return Call(remote, order, target, into, given["tries"], **flags)


def _listed(file: TextIO | None) -> list[str]:
    """URLs in the list; empty lines and those that begin with ``#``, as no URL does, are left out."""
    if file is None:
        return []
    try:
        lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as exc:
        raise click.BadParameter(f"cannot be read: {exc}", param_hint="--from") from exc
    return [line for line in lines if line and not line.startswith("#")]


def _items(urls: tuple[str, ...], given: _Given) -> tuple[dict[str, Any], ...]:
    if not urls:
        raise click.UsageError("no URL is given; expected URL..., --from or --ticket")
    if len(given["names"]) > len(urls):
        raise click.UsageError(f"{len(given['names'])} names are given for {len(urls)} URLs")
    common: dict[str, Any] = {}
    if given["path"]:
        common["path"] = given["path"]
    if given["headers"]:
        common["headers"] = given["headers"]
    names = [{"name": name} for name in given["names"]]
    names += [{} for _ in range(len(urls) - len(names))]
    return tuple({"url": url, **name, **common} for url, name in zip(urls, names, strict=True))


def _target(given: _Given) -> tuple[Path | None, bool]:
    """Where it goes: file or folder, and whether it is a folder; None for standard output."""
    output = given["output"]
    if output is None:
        return Path(), True
    if output == "-":
        if given["as_json"]:
            raise click.UsageError("--json and --output - exclude each other")
        if sys.stdout is None:
            raise click.UsageError("standard output is closed")
        if sys.stdout.isatty():
            raise click.UsageError("standard output is a terminal, and an archive is nothing to look at")
        return None, False
    return _file_or_folder(output)


def _file_or_folder(output: str) -> tuple[Path, bool]:
    from gateway_archive.client.part import disk_errors

    path = Path(output)
    with disk_errors(path):
        if path.is_dir():
            return path, True
        if output.endswith("/"):
            raise click.BadParameter(f"there is no folder {path}", param_hint="--output")
        if not path.parent.is_dir():
            raise click.BadParameter(f"there is no folder {path.parent}", param_hint="--output")
        if path.exists() and not path.is_file():  # a device or a pipe would be replaced by a file
            raise click.BadParameter(f"{path} is no file", param_hint="--output")
    return path, False
