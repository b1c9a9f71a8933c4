"""What the rounds of a side amount to, and how it is told."""

from __future__ import annotations

from statistics import median

from origin import Workload

COLUMNS = (
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
"""Title, key of a summary, factor, decimals; a column shows where the key is there."""

Summary = dict[str, float]


def summaries(workload: Workload, rounds: dict[str, list[Summary]]) -> dict[str, Summary]:
    """Medians of all but memory by side, the spread of the total, and how many times as fast as FPX and the relay."""
    found = {side: {key: median(row[key] for row in rows) for key in rows[0]} for side, rows in rounds.items()}
    for side, medians in found.items():
        medians["min_s"] = min(row["total_s"] for row in rounds[side])
        medians["max_s"] = max(row["total_s"] for row in rounds[side])
        medians["peak_rss_mib"] = max(row["peak_rss_mib"] for row in rounds[side])
        medians["gb_per_s"] = workload.payload_bytes / medians["total_s"] / 1e9
        for other in {"fpx", "relay"} & found.keys():
            medians[f"speed_by_{other}"] = found[other]["total_s"] / medians["total_s"]
    return found


def table(workload: Workload, sides: dict[str, Summary]) -> str:
    shown = [column for column in COLUMNS if all(column[1] in side for side in sides.values())]
    lines = [["side", *(title for title, *_ in shown)]]
    for name, side in sides.items():
        lines.append([name, *(f"{side[key] * factor:.{digits}f}" for _, key, factor, digits in shown)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join([f"\n{workload.title}, {workload.payload_bytes:,} bytes", *text])
