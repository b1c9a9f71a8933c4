"""Other people's programs that verify downloads, and a line that damages what it carries."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from gateway_core.testing.requirements import require_program
from gateway_core.testing.upstream_answer import Answer
from gateway_core.testing.upstream_behaviour import Fault
from tests.blocks.programs import Ran, run


async def aria2c(*arguments: str, folder: Path) -> Ran:
    """aria2c into ``folder``, over loopback only: no peers, no trackers, no DHT; skips where it is not installed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    offline = ("--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false")
    bounded = ("--seed-time=0", f"--listen-port={port}", "--max-tries=5", "--retry-wait=0", "--timeout=20")
    plain = ("--no-conf", "--follow-metalink=mem", "--follow-torrent=mem", "--console-log-level=warn")
    return await run(require_program("aria2c"), *plain, *offline, *bounded, *arguments, cwd=folder)


@dataclass(frozen=True)
class Flipped(Fault):
    """The right answer, with one bit changed of the byte at ``place`` of the file."""

    place: int = 0

    def touches(self, right: Answer) -> bool:
        """Answers with that byte in them."""
        return super().touches(right) and right.has_body and right.start <= self.place < right.stop

    def answer(self, right: Answer) -> Answer:
        """Head and length are right, so only a checksum can tell."""
        content = bytearray(right.content[:])
        content[self.place] ^= 1
        right.content = bytes(content)
        return right
