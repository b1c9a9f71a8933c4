"""What a workload is, in what order its sides come, and what is asked of its figures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

from report import Column, Found, Summary, lines, medians

Rounds = dict[str, list[Summary]]
PlaceT = TypeVar("PlaceT")
"""Where a suite has its files."""


@dataclass(frozen=True)
class Goal:
    """What a figure of a side must be: times the same figure of ``other``, or by itself. Without a bound: only told."""

    side: str
    key: str
    other: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    def value(self, found: dict[str, Summary]) -> float | None:
        """None where a side did not take part."""
        if self.key not in found.get(self.side, {}):
            return None
        if self.other is None:
            return found[self.side][self.key]
        return found[self.side][self.key] / found[self.other][self.key] if self.other in found else None

    def reached(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def told(self, value: float) -> str:
        what = f"{self.side}: {self.key} {value:.2f}" + (f" x {self.other}" if self.other else "")
        if self.at_least is None and self.at_most is None:
            return what
        bound = f"at most {self.at_most:g}" if self.at_least is None else f"at least {self.at_least:g}"
        return f"{what}, {bound} wanted: {'reached' if self.reached(value) else 'MISSED'}"


@dataclass(frozen=True)
class Workload(Generic[PlaceT]):
    """``run`` measures the sides that take part, so many rounds."""

    name: str
    title: str
    sides: tuple[str, ...]
    columns: tuple[Column, ...]
    goals: tuple[Goal, ...]
    run: Callable[[PlaceT, Sequence[str], int], Rounds]


def turns(sides: Sequence[str], rounds: int) -> Iterator[str]:
    """Each side once a round; who begins changes from round to round."""
    for number in range(rounds):
        turn = number % len(sides)
        for side in (*sides[turn:], *sides[:turn]):
            print(f"  round {number + 1} of {rounds}: {side}", file=sys.stderr)
            yield side


def report(workload: Workload[PlaceT], rounds: Rounds) -> tuple[Found, str]:
    """The figures, and how they are shown."""
    found = medians(rounds)
    values = [(goal, value) for goal in workload.goals if (value := goal.value(found)) is not None]
    goals = [{**asdict(goal), "value": value, "reached": goal.reached(value)} for goal, value in values]
    table = lines(workload.title, workload.columns, found)
    text = "\n".join([table, *(goal.told(value) for goal, value in values)])
    return {"medians": found, "rounds": rounds, "goals": goals}, text
