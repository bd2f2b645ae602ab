"""What is measured, and what it is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from benchmarks.place import Place

Figures: TypeAlias = Mapping[str, float]
"""Figures by name, as one run of a probe found them."""
Probe: TypeAlias = Callable[[Place], Figures]
"""Measures something once, and leaves nothing behind."""


class Unit(Enum):
    """How a figure is written."""

    RATE = "records/s"
    MICROSECONDS = "µs"
    NANOSECONDS = "ns/record"
    BYTES = "bytes/record"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    :ivar ours: the name of our figure.
    :ivar baseline: the name of the figure it is held against.
    :ivar target: the ratio to reach (a rate) or to stay under (a time, a size); ``None``: nothing is promised.
    """

    title: str
    unit: Unit
    ours: str
    baseline: str
    target: float | None = None

    def met(self, ratio: float) -> bool:
        """Whether a ratio is good enough."""
        if self.target is None:
            return True
        return ratio >= self.target if self.unit is Unit.RATE else 0 < ratio <= self.target


@dataclass(frozen=True, slots=True)
class Group:
    """Probes that take turns, and the rows made of their figures.

    :ivar probes: ours and the baselines, neighbours where they are compared.
    :ivar once: what they find does not vary, or they take turns by themselves: one round is enough.
    """

    probes: tuple[Probe, ...]
    rows: tuple[Row, ...]
    once: bool = False
