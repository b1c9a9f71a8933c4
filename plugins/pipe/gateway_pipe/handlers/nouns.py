"""What a call names: the noun, its arguments and its query, from the raw target as the caller wrote it.

The path is split before anything is decoded, so that ``%2F`` splits nothing. The noun is what stands before the first
``//``, all that follows are arguments, divided by ``/``:

========================  =====================  ==================
target                    method of GET          arguments
========================  =====================  ==================
``time``                  ``get_time``
``time/utc``              ``get_time_utc``
``time/``                 ``get_time_``
(empty)                   ``get_``
``cat//hello%20/world``   ``get_cat``            ``hello ``, ``world``
``cat//``                 ``get_cat``            one, empty
``cat//a/``               ``get_cat``            ``a``, empty
``cat//a//b``             ``get_cat``            ``a``, empty, ``b``
``cat//a%2Fb``            ``get_cat``            ``a/b``
========================  =====================  ==================
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_to_bytes

from gateway_core.errors import BadRequest

VERBS = ("DELETE", "GET", "PATCH", "POST", "PUT")
"""The HTTP methods that handlers can have methods for; HEAD is answered as GET without its body."""

_MOST_QUERY_FIELDS = 1000


@dataclass(frozen=True, slots=True)
class Noun:
    """A target, decoded: ``query`` has all names and values in their order."""

    name: str
    args: tuple[str, ...] = ()
    query: tuple[tuple[str, str], ...] = ()


def parse(target: str) -> Noun:
    """The noun that ``target`` (raw path and query, no leading slash) names; raises BadRequest for what is no UTF-8."""
    path, _, query = target.partition("?")
    name, separator, rest = path.partition("//")
    try:
        args = tuple(_decoded(part) for part in rest.split("/")) if separator else ()
        return Noun(_decoded(name), args, _fields(query) if query else ())
    except ValueError as exc:
        raise BadRequest(f"the path or the query of the call cannot be decoded: {exc}") from exc


def method_name(verb: str, noun: str) -> str:
    """What the method is called that answers ``verb`` (upper case) on ``noun``: RestPipe's rule, the case is kept."""
    return f"{'get' if verb == 'HEAD' else verb.lower()}_{noun.replace('/', '_')}"


def _decoded(text: str) -> str:
    """Raises ValueError. A percent sign that begins no escape stands for itself."""
    return text if text.isascii() and "%" not in text else unquote_to_bytes(text).decode()


def _fields(query: str) -> tuple[tuple[str, str], ...]:
    """Raises ValueError, also for more than 1,000 fields."""
    query.encode()
    return tuple(parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_QUERY_FIELDS))
