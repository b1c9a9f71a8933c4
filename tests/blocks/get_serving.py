"""What the tests of the download client's network layer share: clients that end with their test, and block maps."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from gateway_blocks.get.connection import HttpClient
from gateway_blocks.get.model import Options, Stopped

BLOCK = 1000
TAG = '"v1"'

MakeClient = Callable[..., HttpClient]
"""``make(home, stall_s=1)``: a client that is closed in the end; ``stop`` and ``tls`` as HttpClient's, else Options."""


@contextmanager
def clients() -> Iterator[MakeClient]:
    made: list[HttpClient] = []

    def make(home: str, *, stop: threading.Event | None = None, tls: Any = None, **options: Any) -> HttpClient:
        made.append(HttpClient(Options(**{"stall_s": 20.0, **options}), stop or threading.Event(), home=home, tls=tls))
        return made[-1]

    yield make
    for client in made:
        client.close()


def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def stops(work: Callable[[], object], stop: threading.Event, *, once: Callable[[], object]) -> bool:
    """Whether ``work``, running in a thread, raises Stopped soon after the stop, which is set after ``once()``."""
    ended: list[str] = []

    def run() -> None:
        try:
            work()
        except Stopped:
            ended.append("stopped")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        once()
        running = thread.is_alive()
    finally:
        stop.set()
        thread.join(5)
        prompt = not thread.is_alive()
        thread.join(30)
    return running and prompt and ended == ["stopped"]


def sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def blocks(data: bytes, known: Callable[[int], bool] = lambda number: True, unit: int = BLOCK) -> list[list[Any]]:
    starts = range(0, len(data), unit)
    return [
        [n, at, min(at + unit, len(data)) - 1, sha1(data[at : at + unit]) if known(n) else "pending"]
        for n, at in enumerate(starts)
    ]


def rd_map(data: bytes, known: Callable[[int], bool] = lambda number: True, **fields: Any) -> dict[str, Any]:
    """As rd-api tells it; ``fields`` are added or put in place of its own."""
    listed = blocks(data, known)
    return {
        "block_count": len(listed),
        "block_size": f"{BLOCK}B",
        "blocks": listed,
        "file_size": len(data),
        "filepath": "./a.bin",
        "msg": "",
        "ok": True,
        "path": "a.bin",
        **fields,
    }


def our_map(data: bytes, known: Callable[[int], bool] = lambda number: True, **fields: Any) -> dict[str, Any]:
    """As the gateway tells it."""
    told = rd_map(data, known, etag=TAG, block_bytes=BLOCK, eta_s=None)
    told["hashed_blocks"] = sum(block[3] != "pending" for block in told["blocks"])
    return {**told, **fields}


def news(told: Mapping[str, Any], after: int) -> bytes:
    """The answer to ``?after=``."""
    return json.dumps({**told, "blocks": [block for block in told["blocks"] if block[0] > after]}).encode()
