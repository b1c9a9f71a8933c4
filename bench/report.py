"""What the rounds of a side amount to, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

Column = tuple[str, str, float, int]
"""Title, key of a summary, factor, decimals."""

Summary = dict[str, float]
Found = dict[str, Any]
"""Of a workload: the rounds and medians of each side."""


def medians(rounds: dict[str, list[Summary]]) -> dict[str, Summary]:
    """By side; of a peak the highest."""
    return {
        side: {key: (max if key.startswith("peak_") else median)(row[key] for row in rows) for key in rows[0]}
        for side, rows in rounds.items()
    }


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
