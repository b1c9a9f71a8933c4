"""Benchmark of transform: the gateway and Circe do the same jobs, on one disk."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import transform_block
import transform_many
import transform_upload
from report import Found
from workload import report

WORKLOADS = {
    workload.name: workload
    for workload in (
        transform_block.WORKLOAD,
        transform_many.POLLED,
        transform_many.WAITED_FOR,
        transform_upload.WORKLOAD,
    )
}
SIDES = list(dict.fromkeys(side for workload in WORKLOADS.values() for side in workload.sides))
DISK = "/var/tmp"
"""Not in memory, as /tmp may be: both write what they are sent."""


def results(workloads: Sequence[str], sides: Sequence[str], rounds: int) -> Iterator[tuple[str, Found, str]]:
    """Name, figures and table of each workload, as soon as it is done."""
    for name in workloads:
        workload = WORKLOADS[name]
        taking_part = [side for side in workload.sides if side in sides]
        if taking_part:
            print(f"{name}: {', '.join(taking_part)}", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="gateway-bench-", dir=DISK) as home:
                yield name, *report(workload, workload.run(Path(home), taking_part, rounds))
