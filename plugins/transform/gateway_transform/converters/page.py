"""HTML pages around what was made from Markdown and Word: cleaned, complete, in UTF-8."""

from __future__ import annotations

import html
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import nh3

PANGO = ("libpango-1.0.so.0", "libpangoft2-1.0.so.0")
"""Libraries of the system that weasyprint loads when it is imported."""

_PAGE = """\
<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 11pt/1.5 sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em; }}
h1, h2, h3, h4 {{ line-height: 1.2; break-after: avoid; }}
img {{ max-width: 100%; }}
pre, code {{ font-family: monospace; font-size: 90%; }}
pre {{ background: #f4f4f4; padding: .7em; white-space: pre-wrap; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; }}
th, td {{ border: 1px solid #bbb; padding: .3em .6em; vertical-align: top; }}
blockquote {{ border-left: 3px solid #bbb; margin-left: 0; padding-left: 1em; color: #444; }}
@media print {{ body {{ margin: 0; max-width: none; padding: 0; }} }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(title: str, body: str) -> str:
    """A document of ``body``, which loses scripts, styles, frames, handlers and links such as ``javascript:``."""
    printable = title.encode("utf-8", "replace").decode()
    return _PAGE.format(title=html.escape(printable), body=_cleaner().clean(body).strip())


@cache
def _cleaner() -> nh3.Cleaner:
    import nh3

    cells = {name: nh3.ALLOWED_ATTRIBUTES[name] | {"style"} for name in ("td", "th")}
    return nh3.Cleaner(
        attributes={**nh3.ALLOWED_ATTRIBUTES, **cells, "*": {"id", "lang", "title"}, "code": {"class"}},
        filter_style_properties={"text-align"},
        url_schemes={"http", "https", "mailto", "tel"},
    )
