"""Rounds: every probe once, neighbours next to each other, every second round backwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.measurement import Group, Row
from benchmarks.place import Place


class Results:
    """What the rounds found, by figure."""

    def __init__(self) -> None:
        self._figures: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, name: str, figure: float) -> None:
        """Take one round's figure in."""
        self._figures[name].append(figure)

    def median(self, name: str) -> float:
        """Of all rounds."""
        return median(self._figures[name])

    def ratios(self, row: Row) -> list[float]:
        """Ours over the baseline, in each round: what a noisy neighbour does to a whole round cancels out."""
        return [ours / base for ours, base in zip(self._figures[row.ours], self._figures[row.baseline], strict=True)]


def run(place: Place, groups: Sequence[Group], rounds: int, tell: Callable[[str], None]) -> Results:
    """Measure.

    :param tell: is told what runs.
    """
    results = Results()
    for number in range(rounds):
        for group in groups:
            if group.once and number:
                continue
            for probe in group.probes if number % 2 == 0 else reversed(group.probes):
                tell(f"round {number + 1} of {rounds}: {probe.__module__.rpartition('.')[2]}.{probe.__name__}")
                for name, figure in probe(place).items():
                    results.add(name, figure)
        place.clear()
    tell("")
    return results
