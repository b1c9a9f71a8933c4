"""The answer of ``/rd/``: a file's blocks as reliable-download tells them, and what we tell besides."""

from __future__ import annotations

import json

from gateway_blocks.sums.record import Record


def block_list(record: Record, path: str, *, after: int = -1) -> list[bytes]:
    """Pieces of the JSON answer about a file: blocks with an id above ``after``, in file order.

    The first eight keys are those of reliable-download 1.7, whose client needs them all; a block is
    ``[id, first, last, sha1 or "pending"]`` and may have no fifth element. The others are ours.
    """
    layout = record.layout
    head = {
        "ok": True,
        "msg": "",
        "path": path,
        "filepath": f"./{path}",
        "block_size": layout.label,
        "file_size": layout.size_bytes,
        "block_count": layout.count,
        "block_bytes": layout.block_bytes,
        "etag": str(record.key.identity.etag()),
        "hashed_blocks": record.table.known,
        "eta_s": _rounded(record.eta_s()),
        "sha256": record.whole.sha256.hex() if record.whole is not None else None,
    }
    return [json.dumps(head)[:-1].encode() + b', "blocks": ', *record.table.rendered(after), b"}\n"]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
