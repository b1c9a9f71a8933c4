"""What the rounds of a side amount to, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from origin import Workload

Column = tuple[str, str, float, int]
"""Title, key of a summary, factor, decimals."""

COLUMNS: tuple[Column, ...] = (
    ("median s", "total_s", 1, 3),
    ("min", "min_s", 1, 3),
    ("max", "max_s", 1, 3),
    ("GB/s", "gb_per_s", 1, 3),
    ("ticket ms", "ticket_s", 1000, 1),
    ("1st byte ms", "first_byte_s", 1000, 1),
    ("1st upstream answer ms", "first_upstream_s", 1000, 1),
    ("behind it ms", "first_byte_behind_s", 1000, 1),
    ("cpu s", "cpu_s", 1, 2),
    ("peak MiB", "peak_rss_mib", 1, 1),
    ("speed / fpx", "speed_by_fpx", 1, 2),
    ("speed / relay", "speed_by_relay", 1, 2),
)
"""A column shows where all sides have its figure."""

Summary = dict[str, float]
Found = dict[str, Any]
"""Of a workload: the rounds and medians of each side."""


def summaries(workload: Workload, rounds: dict[str, list[Summary]]) -> dict[str, Summary]:
    """Medians of all but memory by side, the spread of the total, and how many times as fast as FPX and the relay."""
    found = medians(rounds)
    for side, summary in found.items():
        summary["min_s"] = min(row["total_s"] for row in rounds[side])
        summary["max_s"] = max(row["total_s"] for row in rounds[side])
        summary["gb_per_s"] = workload.payload_bytes / summary["total_s"] / 1e9
        for other in {"fpx", "relay"} & found.keys():
            summary[f"speed_by_{other}"] = found[other]["total_s"] / summary["total_s"]
    return found


def medians(rounds: dict[str, list[Summary]]) -> dict[str, Summary]:
    """By side; of a peak the highest."""
    return {
        side: {key: (max if key.startswith("peak_") else median)(row[key] for row in rows) for key in rows[0]}
        for side, rows in rounds.items()
    }


def table(workload: Workload, sides: dict[str, Summary]) -> str:
    shown = [column for column in COLUMNS if all(column[1] in side for side in sides.values())]
    return lines(f"{workload.title}, {workload.payload_bytes:,} bytes", shown, sides)


def lines(title: str, columns: Sequence[Column], sides: dict[str, Summary]) -> str:
    """A row for each side; a dash where it has no such figure."""
    cells = [["side", *(name for name, *_ in columns)]]
    for side, summary in sides.items():
        figures = (
            f"{summary[key] * factor:.{digits}f}" if key in summary else "-" for _, key, factor, digits in columns
        )
        cells.append([side, *figures])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    text = ("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join([f"\n{title}", *text])
