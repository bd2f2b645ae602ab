"""Sets of partitions as text, runs of numbers: ``orders:0-3,5;users:1``. ``lib/runs.lua`` reads and writes the same.

Topics are sorted and runs as long as they can be, so that two texts are equal if and only if the sets are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter

from streamlayer._types import TopicPartition

_NUMBERS = r"\d{1,5}(?:-\d{1,5})?"
_RUNS = re.compile(rf"(?:[^:;]+:{_NUMBERS}(?:,{_NUMBERS})*(?:;|$))*")
"""A topic has 10,000 partitions at most: what is longer would be counted through for hours."""


def checked_runs(text: str) -> str:
    """The text itself, if it is one of runs.

    :raises ValueError: it is not.
    """
    if _RUNS.fullmatch(text) is None:
        msg = f"not a set of partitions: {text[:100]!r}"
        raise ValueError(msg)
    return text


def format_runs(partitions: Iterable[TopicPartition]) -> str:
    """The text of a set of partitions; empty for none."""
    return ";".join(
        f"{topic}:{_format_numbers([number for _, number in group])}"
        for topic, group in groupby(sorted(set(partitions)), key=itemgetter(0))
    )


def _format_numbers(numbers: list[int]) -> str:
    runs: list[str] = []
    first = last = numbers[0]
    for number in [*numbers[1:], -1]:
        if number == last + 1:
            last = number
            continue
        runs.append(f"{first}" if first == last else f"{first}-{last}")
        first = last = number
    return ",".join(runs)


def parse_runs(text: str) -> set[TopicPartition]:
    """The partitions that a text names."""
    partitions: set[TopicPartition] = set()
    for part in filter(None, text.split(";")):
        topic, _, runs = part.partition(":")
        for run in runs.split(","):
            first, _, last = run.partition("-")
            partitions.update(TopicPartition(topic, number) for number in range(int(first), int(last or first) + 1))
    return partitions
