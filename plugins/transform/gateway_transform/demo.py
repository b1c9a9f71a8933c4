"""What ``gateway demo`` shows of this plugin: a document that becomes another."""

from __future__ import annotations

import sys
from pathlib import Path

_DOCUMENT = """# Hello

This page came out of a **sandbox**: unpacked, converted and packed again.

| step | what it does |
|------|--------------|
| `markdown2html` | Markdown becomes a page |
| `pdf2png` | a PDF becomes pictures |
"""
_LINES = """A first converted document: Markdown in, HTML out. The other conversions: gateway transform list

  {command} transform run {sample} -t markdown2html --server {url} --credentials {credentials}
"""


def lines(data_dir: Path, *, url: str) -> str:
    """Lines to paste, with a sample document that is made in the data folder."""
    folder = data_dir / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    sample = folder / "hello.md"
    sample.write_text(_DOCUMENT, encoding="utf-8")
    command, credentials = Path(sys.executable).with_name("gateway"), data_dir / "demo-client.json"
    return _LINES.format(command=_shown(command), sample=_shown(sample), url=url, credentials=_shown(credentials))


def _shown(path: Path) -> Path:
    """As a person in the current folder would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
