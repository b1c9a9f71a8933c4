"""What a file is, by the ending of its name: the same on every machine, whatever its /etc/mime.types says."""

from __future__ import annotations

from mimetypes import MimeTypes

UNKNOWN = "application/octet-stream"
"""Media type of a file whose name says nothing."""

# What Python's own table lacks, or says differently from one version to the next. Compressed files are what they are:
# none of these endings ever means Content-Encoding.
_MORE = {
    ".7z": "application/x-7z-compressed",
    ".apk": "application/vnd.android.package-archive",
    ".asc": "text/plain",
    ".atom": "application/atom+xml",
    ".br": "application/x-brotli",
    ".bz2": "application/x-bzip2",
    ".conf": "text/plain",
    ".deb": "application/vnd.debian.binary-package",
    ".dmg": "application/x-apple-diskimage",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".epub": "application/epub+zip",
    ".flac": "audio/flac",
    ".gz": "application/gzip",
    ".ini": "text/plain",
    ".iso": "application/x-iso9660-image",
    ".jar": "application/java-archive",
    ".js": "text/javascript",
    ".jsonl": "application/jsonl",
    ".jxl": "image/jxl",
    ".log": "text/plain",
    ".lz4": "application/x-lz4",
    ".m4a": "audio/mp4",
    ".md": "text/markdown",
    ".meta4": "application/metalink4+xml",
    ".mjs": "text/javascript",
    ".mkv": "video/matroska",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".otf": "font/otf",
    ".parquet": "application/vnd.apache.parquet",
    ".pem": "text/plain",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rar": "application/vnd.rar",
    ".rpm": "application/x-rpm",
    ".rss": "application/rss+xml",
    ".rst": "text/plain",
    ".rtf": "application/rtf",
    ".svgz": "application/gzip",
    ".taz": "application/x-compress",
    ".tbz2": "application/x-bzip2",
    ".tgz": "application/gzip",
    ".toml": "application/toml",
    ".torrent": "application/x-bittorrent",
    ".ttf": "font/ttf",
    ".txz": "application/x-xz",
    ".tzst": "application/zstd",
    ".wav": "audio/wav",
    ".webp": "image/webp",
    ".whl": "application/zip",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xhtml": "application/xhtml+xml",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xml": "application/xml",  # text/xml; charset=utf-8 would overrule what the document says (RFC 7303 3.2)
    ".xz": "application/x-xz",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".z": "application/x-compress",
    ".zst": "application/zstd",
}
_TYPES = {**MimeTypes(filenames=()).types_map[True], **_MORE}
_ACTIVE = frozenset({"text/html", "text/xml", "application/xml"})


def media_type(name: str) -> str:
    """Value of Content-Type for a file called ``name``; texts are taken for UTF-8."""
    stem, dot, ending = name.rpartition(".")
    found = _TYPES.get(dot + ending.lower(), UNKNOWN) if stem else UNKNOWN
    return f"{found}; charset=utf-8" if found.startswith("text/") else found


def is_active(media_type: str) -> bool:
    """Whether a browser that shows it may run scripts in it: HTML, and XML in all its forms such as SVG."""
    essence = media_type.partition(";")[0].strip().lower()
    return essence in _ACTIVE or essence.endswith("+xml")
