"""Judges what the processes of a worker have handled, against the log and what was committed meanwhile.

    story = Story(log=[…], notes=crew.notes(), killed={pid: when}, commits=[…])
    assert judge(story) == []

The rule: what a handler did counts when its note is in the file, which is before it returned; so a record that is
committed, or said to be done above a commit, has a note from before.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from tests.system.worker_crew import Note


class Logged(NamedTuple):
    """A record as it is in the log; its value is its number among those of its key."""

    partition: int
    offset: int
    key: str
    value: str


class Seen(NamedTuple):
    """What an onlooker read of a commit: when it was answered, how far it is, and the ranges done above that."""

    answered: float
    partition: int
    offset: int
    ranges: Sequence[tuple[int, int]]


@dataclass
class Story:
    """All that happened."""

    log: Sequence[Logged]
    notes: Sequence[Note]
    killed: Mapping[int, float] = field(default_factory=dict)
    commits: Sequence[Seen] = ()

    def repeats(self) -> Counter[int]:
        """How many records were handled again after somebody's death, by the pid of the first to handle them."""
        first: dict[tuple[int, int], int] = {}
        again: Counter[int] = Counter()
        for note in sorted(self.notes, key=lambda note: note.begun):
            place = note.partition, note.offset
            if place in first:
                again[first[place]] += 1
            first[place] = note.pid
        return again


def judge(story: Story) -> list[str]:
    """Everything that must not be, in words; empty if nothing is."""
    return [fault for check in (_all_handled, _repeats, _order, _commits) for fault in check(story)][:20]


def _all_handled(story: Story) -> Iterator[str]:
    """Every record of the log was handled, as it is; and nothing else."""
    handled = {(note.partition, note.offset, note.key, note.value) for note in story.notes}
    logged = {tuple(record) for record in story.log}
    if not logged:
        yield "vacuous: nothing is in the log"
    for what in sorted(logged - handled):
        yield f"not handled: {what}"
    for what in sorted(handled - logged):
        yield f"handled, and not in the log: {what}"


def _repeats(story: Story) -> Iterator[str]:
    """A record is handled again only if who handled it before was killed."""
    for pid, count in story.repeats().items():
        if pid not in story.killed:
            yield f"{count} records of process {pid}, which was not killed, were handled again"


def _order(story: Story) -> Iterator[str]:
    """No record is begun before those of its key that come before it have been handled, nor beside another of it."""
    by_key: defaultdict[str, list[Note]] = defaultdict(list)
    for note in sorted(story.notes, key=lambda note: note.begun):
        by_key[note.key].append(note)
    for key, notes in by_key.items():
        through = -1
        for note in notes:
            if int(note.value) > through + 1:
                yield f"{key}: {note.value} was handled when {through} was the last: {note}"
            through = max(through, int(note.value))
        for one, other in pairwise(notes):
            if other.begun < one.at:
                yield f"{key}: {one.value} and {other.value} were handled at once: {one}, {other}"


def _commits(story: Story) -> Iterator[str]:
    """What was committed had been handled: all before the offset, and each record in a range above it."""
    handled: dict[tuple[int, int], float] = {}
    for note in story.notes:
        place = note.partition, note.offset
        handled[place] = min(note.at, handled.get(place, note.at))
    upto: dict[int, list[float]] = {}  # partition -> by offset, when it and all before it had been handled
    for record in sorted(story.log):
        times = upto.setdefault(record.partition, [])
        times.append(max(times[-1] if times else 0.0, handled.get((record.partition, record.offset), float("inf"))))
    last: dict[int, int] = {}
    for seen in story.commits:
        times = upto.get(seen.partition, [])
        if seen.offset > len(times) or (seen.offset and times[seen.offset - 1] > seen.answered):
            yield f"committed with a gap: {seen}"
        for first, end in seen.ranges:
            for offset in range(first, end):
                if handled.get((seen.partition, offset), float("inf")) > seen.answered:
                    yield f"said to be done, and not handled: {offset} of {seen}"
        if seen.offset < last.get(seen.partition, 0):
            yield f"the commit went back from {last[seen.partition]}: {seen}"
        last[seen.partition] = seen.offset


def recoveries(story: Story, owned: Mapping[int, Sequence[int]]) -> list[float]:
    """How long each partition of each process that was killed stood still, in seconds.

    :param owned: what each of them had when it was killed, by pid.
    """
    found: list[float] = []
    for pid, killed_at in story.killed.items():
        for partition in owned.get(pid, ()):
            later = [n.begun for n in story.notes if n.partition == partition and n.pid != pid and n.begun > killed_at]
            found.append(min(later, default=float("inf")) - killed_at)
    return found
