"""Benchmark of blocks: the gateway, rd-api and rd, aria2c, curl, nginx, plain aiohttp and bare threads, on one disk."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import blocks_download
import blocks_hash
import blocks_memory
import blocks_poll
import blocks_ranges
import blocks_tiny
from blocks_place import Place
from process import memory_folder
from report import Found
from workload import report

WORKLOADS = {
    workload.name: workload
    for workload in (
        blocks_hash.WORKLOAD,
        blocks_ranges.READ,
        blocks_ranges.DROPPED,
        blocks_tiny.WORKLOAD,
        blocks_download.WORKLOAD,
        blocks_poll.WORKLOAD,
        blocks_memory.WORKLOAD,
    )
}
SIDES = list(dict.fromkeys(side for workload in WORKLOADS.values() for side in workload.sides))
DISK = "/var/tmp"
"""Not in memory, as /tmp may be: sendfile(2) and the page cache take part."""

ROOM_BYTES = 4 << 30
"""For a download of 1 GiB; rd puts it together from blocks that it keeps until the end."""


def results(workloads: Sequence[str], sides: Sequence[str], rounds: int) -> Iterator[tuple[str, Found, str]]:
    """Name, figures and table of each workload, as soon as it is done."""
    with ExitStack() as stack:
        home, downloads = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-", dir=folder)))
            for folder in (DISK, memory_folder(ROOM_BYTES) or DISK)
        )
        place = Place(home, downloads)
        for name in workloads:
            workload = WORKLOADS[name]
            taking_part = [side for side in workload.sides if side in sides]
            if taking_part:
                print(f"{name}: {', '.join(taking_part)}", file=sys.stderr)
                yield name, *report(workload, workload.run(place, taking_part, rounds))
