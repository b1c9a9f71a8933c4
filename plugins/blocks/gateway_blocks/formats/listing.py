"""What a folder holds, as JSON for programs and as one page of HTML for people.

The page needs nothing else from anywhere and works without JavaScript; with it, columns sort and commands are copied.
Both forms come in pieces of a few hundred entries, so that a folder of 100,000 neither fills memory nor holds the loop.
"""

from __future__ import annotations

import json
import shlex
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Final

from gateway_blocks.files.paths import UrlPath
from gateway_blocks.files.root import Entry
from gateway_blocks.formats.text import utc_time, visible_name


def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash_source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


HTML_TYPE: Final = "text/html; charset=utf-8"
"""Media type of the page."""

JSON_TYPE: Final = "application/json"
"""Media type of the JSON."""

_STYLE: Final = _source("listing.css")
_SCRIPT: Final = _source("listing.js")

CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src {_hash_source(_STYLE)}; script-src {_hash_source(_SCRIPT)}; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The field to send with the page: nothing runs or loads but what stands in it (Content Security Policy 3, 2.3)."""

_CHUNK_ENTRIES: Final = 200
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@dataclass(frozen=True, slots=True)
class Listing:
    """A folder: its ``path`` below the root, its absolute ``url`` with a slash at the end, ``entries`` in their order.

    ``links`` leads from labels to what else is told of the folder, as references relative to ``url``.
    """

    path: UrlPath
    url: str
    entries: Sequence[Entry]
    links: Mapping[str, str] = field(default_factory=dict)


def listing_json(listing: Listing) -> Iterator[bytes]:
    """``path`` and ``entries``, each with ``name``, ``url``, ``folder``, ``size`` (null for folders) and ``modified``.

    ``url`` is relative to the folder's and exact for every name; ``name`` has U+FFFD for bytes that are no UTF-8.
    """
    yield json.dumps({"ok": True, "msg": "", "path": listing.path.decoded})[:-1].encode() + b', "entries": ['
    separator = "\n"
    for entries in _chunks(listing.entries):
        yield (separator + ",\n".join(map(_json_row, entries))).encode()
        separator = ",\n"
    yield b"\n]}\n"


def listing_html(listing: Listing) -> Iterator[bytes]:
    """The page. Send it with ``CONTENT_SECURITY_POLICY``."""
    yield _head(listing).encode()
    for entries in _chunks(listing.entries):
        yield "".join(map(_html_row, entries)).encode()
    yield _tail(listing).encode()


def human_size(size_bytes: int) -> str:
    """Three digits or so and a binary unit: ``1.5 KiB``, ``15 KiB``, ``999 B``."""
    power = min(max(size_bytes.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    value = size_bytes / 1024**power
    digits = 1 if power and value < 9.95 else 0
    if round(value) == 1024 and power < len(_UNITS) - 1:
        value, power, digits = 1.0, power + 1, 1
    return f"{value:.{digits}f} {_UNITS[power]}"


def _chunks(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    return (entries[start : start + _CHUNK_ENTRIES] for start in range(0, len(entries), _CHUNK_ENTRIES))


def _json_row(entry: Entry) -> str:
    path = UrlPath((entry.name,), entry.folder)
    row = {
        "name": path.decoded,
        "url": path.encoded,
        "folder": entry.folder,
        "size": None if entry.folder else entry.size_bytes,
        "modified": utc_time(entry.mtime_ns),
    }
    return json.dumps(row, ensure_ascii=False)


def _html_row(entry: Entry) -> str:
    name, href = escape(visible_name(entry.name)), UrlPath((entry.name,), entry.folder).encoded
    time = utc_time(entry.mtime_ns)
    if entry.folder:
        kind, size, copies = "folder", "<td></td>", ""
    else:
        exact = f'data-bytes="{entry.size_bytes}" title="{entry.size_bytes:,} bytes"'
        kind, size = "file", f"<td {exact}>{human_size(entry.size_bytes)}</td>"
        copies = '<button data-run="curl -OC -">curl</button>'
    get = f'<button data-run="gateway get{" --recursive" if entry.folder else ""}">gateway get</button>'
    return (
        f'<tr class="{kind}"><td><a href="{href}"><bdi>{name}</bdi></a></td>{size}'
        f'<td><time datetime="{time}">{time[:10]} {time[11:16]}</time></td><td>{get}{copies}</td></tr>\n'
    )


def _head(listing: Listing) -> str:
    label = escape(_root_label(listing))
    title = escape(visible_name("/".join(listing.path.names))) or label
    command = escape(f"gateway get --recursive {shlex.quote(listing.url)}")
    parent = f'<tbody><tr class="parent"><td><a href="../">Parent folder</a></td>{"<td></td>" * 3}</tr></tbody>\n'
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body data-url="{escape(listing.url)}">
<header>
<h1>{_breadcrumb(listing, label)}</h1>
<p>{_summary(listing.entries)}</p>
<div class="command"><code>{command}</code><button data-copy>copy</button></div>
</header>
<main>
<table>
<thead><tr>
<th scope="col" aria-sort="ascending"><button data-sort="name">Name</button></th>
<th scope="col"><button data-sort="size">Size</button></th>
<th scope="col"><button data-sort="time">Modified <small>UTC</small></button></th>
<th scope="col">Copy command</th>
</tr></thead>
{parent if listing.path.names else ""}<tbody id="entries">
"""


def _tail(listing: Listing) -> str:
    links = "".join(f'<a href="{escape(href)}">{escape(label)}</a>\n' for label, href in listing.links.items())
    empty = "" if listing.entries else '<p class="empty">This folder is empty.</p>\n'
    return f"""</tbody>
</table>
{empty}</main>
<footer>
<nav aria-label="About this folder">
{links}</nav>
<p>Checksums of a file: add <code>.meta4</code> (for aria2 and wget2) or <code>.torrent</code> to its URL.</p>
<p id="said" role="status"></p>
</footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _root_label(listing: Listing) -> str:
    """What the root is called: its URL, without the scheme."""
    return listing.url.removesuffix(listing.path.encoded).partition("://")[2].rstrip("/")


def _breadcrumb(listing: Listing, label: str) -> str:
    """Each folder down to this one, as a link to it but for the last."""
    names = [label, *(escape(visible_name(name)) for name in listing.path.names)]
    up = [f'<a href="{"../" * (len(names) - 1 - depth)}"><bdi>{name}</bdi></a>' for depth, name in enumerate(names)]
    return "<span>/</span>".join([*up[:-1], f"<bdi>{names[-1]}</bdi>"])


def _summary(entries: Sequence[Entry]) -> str:
    sizes = [entry.size_bytes for entry in entries if not entry.folder]
    folders = _counted(len(entries) - len(sizes), "folder")
    return f"{folders} · {_counted(len(sizes), 'file')}, {human_size(sum(sizes))}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
