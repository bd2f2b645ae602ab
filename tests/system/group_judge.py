"""Judges what the members of a consumer group say happened: who had which partition, and what was committed of it.

    history = GroupHistory(lines, log={0: [b"…", …]}, observed=[…], committed={0: 17})
    assert judge_group(history, floors={"killed": 3, "refused": 1, "taken over": 5}) == []

The lines are the workers' (``group_worker``) and the test's own (killed, stopped, continued). A commit is accepted or
refused by the server; what was under way when a process died is neither. A history that shows too little is vacuous.
Where the server lost the end of a log, a member that had read it is told and goes back, or whoever has the partition
next does.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tests.system.judge import Anomaly

GOING_ON = re.compile(r"\[(\d+)\].*going on at (\d+)")
"""How a consumer warns that it does not go on where it was: in which partition, and where."""
BACK_WITH_THE_SERVER = frozenset({"resume-rewind", "commit-regress", "lost-commit"})
"""What may be where a server is lost that had said yes: commits wait for no replica, and members commit again."""
LATE_NS = 250_000_000
"""How much later than it happened a live process may log something, on a busy machine."""


class Line(NamedTuple):
    """One line of a log; see ``group_worker``. ``actor`` is a process's name and the number of its life there."""

    at: int
    actor: str
    what: str
    more: Mapping[str, Any]


class Observed(NamedTuple):
    """What an onlooker read as committed, between two moments."""

    asked: int
    answered: int
    offsets: Mapping[int, int]


@dataclass
class Interval:
    """A partition in one member's hands, as that member was told."""

    actor: str
    member: str
    partition: int
    epoch: int
    resumed: int
    begin: int
    end: float = math.inf
    how: str = ""
    instance: str | None = None
    reads: list[tuple[int, int, str]] = field(default_factory=list)  # when, offset, value


@dataclass
class Commit:
    """One offset of one commit."""

    actor: str
    member: str
    epoch: int
    partition: int
    offset: int
    invoked: int
    ended: float = math.inf
    outcome: str = "unknown"


@dataclass
class GroupHistory:
    """All that was logged; the whole logs as they were at the end; what was committed meanwhile, and at the end."""

    lines: list[Line]
    log: Mapping[int, Sequence[str]]
    observed: Sequence[Observed] = ()
    committed: Mapping[int, int] = field(default_factory=dict)


def read_lines(folder: Path) -> list[Line]:
    """What all workers logged in a folder, in the order of time."""
    texts = [text for path in folder.glob("*.log") for text in path.read_text().splitlines()]
    return sorted((Line(*json.loads(text)) for text in texts), key=lambda line: line.at)


class _Story:
    """The same, told as intervals and commits."""

    def __init__(self, history: GroupHistory) -> None:
        self.history = history
        self.counts: Counter[str] = Counter()
        self.intervals: defaultdict[int, list[Interval]] = defaultdict(list)
        self.commits: defaultdict[int, list[Commit]] = defaultdict(list)
        self.woken: defaultdict[str, list[int]] = defaultdict(list)  # process -> when it was continued
        self.told: defaultdict[int, list[tuple[int, str, int]]] = defaultdict(list)  # when, who, goes on where
        self.odd: list[Anomaly] = []
        self._open: dict[tuple[str, int], Interval] = {}
        self._under_way: dict[tuple[str, int], list[Commit]] = {}
        for line in sorted(history.lines, key=lambda line: line.at):
            self.counts[line.what] += 1
            getattr(self, "_" + line.what, self._ignore)(line)
        for intervals in self.intervals.values():
            gone = ("killed", "lost")
            self.counts["taken over"] += sum(b.member != a.member and a.how in gone for a, b in pairwise(intervals))

    def _ignore(self, line: Line) -> None:
        pass

    def _assigned(self, line: Line) -> None:
        for text, position in line.more["positions"].items():
            partition = int(text)
            begun = Interval(line.actor, line.more["member"], partition, line.more["epoch"], position, line.at)
            begun.instance = line.more.get("instance")
            self.intervals[partition].append(begun)
            if (line.actor, partition) in self._open:
                self.odd.append(Anomaly("assigned-twice", f"{line.actor} was told of partition {partition} again"))
            self._open[line.actor, partition] = begun

    def _end(self, actor: str, partition: int, at: int, how: str) -> None:
        interval = self._open.pop((actor, partition), None)
        if interval is None:
            self.odd.append(Anomaly("ended-unowned", f"{actor}: partition {partition} {how}, and never assigned"))
        else:
            interval.end, interval.how = at, how

    def _revoked(self, line: Line) -> None:
        for partition in line.more["partitions"]:
            self._end(line.actor, partition, line.at, line.what)

    _lost = _revoked

    def _left(self, line: Line) -> None:
        for actor, partition in [key for key in self._open if key[0] == line.actor]:
            self.odd.append(Anomaly("left-untold", f"{actor} closed, and was not told to give up {partition}"))
            self._end(actor, partition, line.at, "left")

    def _killed(self, line: Line) -> None:
        for actor, partition in [key for key in self._open if key[0].rpartition(".")[0] == line.actor]:
            self._end(actor, partition, line.at, "killed")

    def _continued(self, line: Line) -> None:
        self.woken[line.actor].append(line.at)

    def _read(self, line: Line) -> None:
        self.counts["records"] += len(line.more["records"])
        interval = self._open.get((line.actor, line.more["partition"]))
        if interval is None:
            self.odd.append(Anomaly("read-unowned", f"{line.actor} was handed records of {line.more['partition']}"))
        else:
            interval.reads += [(line.at, offset, value) for offset, value in line.more["records"]]

    def _warned(self, line: Line) -> None:
        if place := GOING_ON.search(line.more["why"]):
            self.told[int(place[1])].append((line.at, line.actor, int(place[2])))

    def _committing(self, line: Line) -> None:
        more = line.more
        self._under_way[line.actor, more["number"]] = under_way = [
            Commit(line.actor, more["member"], more["epoch"], int(partition), int(offset), line.at)
            for partition, offset in more["offsets"].items()
        ]
        for commit in under_way:
            self.commits[commit.partition].append(commit)

    def _ended(self, line: Line) -> None:
        for commit in self._under_way.pop((line.actor, line.more["number"])):
            commit.ended, commit.outcome = line.at, line.what

    _committed = _refused = _unknown = _ended


def judge_group(history: GroupHistory, *, floors: Mapping[str, int]) -> list[Anomaly]:
    """Look for everything that must not be.

    :param floors: how much must have happened at least: of the lines' words, ``records`` handed out, or ``taken over``
        (partitions that went on with another after a death or a loss).
    :returns: what is wrong; empty if nothing is.
    """
    story = _Story(history)
    found = [
        Anomaly("vacuous", f"{name}: {story.counts[name]}, less than {least}")
        for name, least in floors.items()
        if story.counts[name] < least
    ]
    found += story.odd
    for check in (_owners, _zombies, _resumes, _regress, _observed, _reads, _late_reads, _end):
        found += check(story)
    return found


def counts_of(history: GroupHistory) -> Counter[str]:
    """How much happened: the lines' words, ``records`` handed out, partitions ``taken over``."""
    return _Story(history).counts


def _accepted(story: _Story, partition: int) -> list[Commit]:
    return [commit for commit in story.commits[partition] if commit.outcome == "committed"]


def _owners(story: _Story) -> Iterator[Anomaly]:
    """One epoch, one owner; and of two who believe to own a partition at a time, one at most commits in that time.

    Who takes the place of a static member that is gone has its epoch too.
    """
    for partition, intervals in story.intervals.items():
        by_epoch: dict[int, str] = {}
        for interval in intervals:
            who = interval.instance or interval.member
            if by_epoch.setdefault(interval.epoch, who) != who:
                yield Anomaly("epoch-reuse", f"partition {partition}, epoch {interval.epoch}: {interval.actor} too")
        accepted = _accepted(story, partition)
        for i, one in enumerate(intervals):
            for other in intervals[i + 1 :]:
                begin, end = max(one.begin, other.begin), min(one.end, other.end)
                if one.member == other.member or begin >= end:
                    continue
                both = {c.member for c in accepted if c.invoked > begin and c.ended < end} & {one.member, other.member}
                if len(both) > 1:
                    yield Anomaly("two-owners", f"partition {partition}: {one.actor} and {other.actor} both committed")


def _zombies(story: _Story) -> Iterator[Anomaly]:
    """No commit of a former owner is accepted when another has been told that the partition is its own."""
    for partition, intervals in story.intervals.items():
        for commit in _accepted(story, partition):
            own = [i.begin for i in intervals if i.member == commit.member and i.begin < commit.invoked]
            for other in intervals:
                if other.begin >= commit.invoked:
                    break
                # In one epoch (static members) the later one owns it; who has not begun yet came last.
                same = other.epoch == commit.epoch and own and other.begin > own[-1]
                if other.member != commit.member and (other.epoch > commit.epoch or same):
                    detail = f"{commit.actor} (epoch {commit.epoch}) after {other.actor} (epoch {other.epoch})"
                    yield Anomaly("zombie-commit", f"partition {partition} at {commit.offset}: {detail}")


def _resumes(story: _Story) -> Iterator[Anomaly]:
    """A new owner begins at the highest commit acknowledged, or at one that was tried."""
    for partition, intervals in story.intervals.items():
        accepted = _accepted(story, partition)
        newest = -1
        for interval in intervals:
            place = f"partition {partition}: {interval.actor} began at {interval.resumed}"
            tried = max((c.offset for c in story.commits[partition] if c.invoked < interval.begin), default=0)
            if interval.resumed > tried:
                yield Anomaly("resume-skip", f"{place}, nobody had tried to commit more than {tried}")
            # Who was stopped between being given a partition and hearing of it may be late: its commits say so.
            if interval.epoch > newest:
                acked = max((c.offset for c in accepted if c.ended < interval.begin), default=0)
                if interval.resumed < acked:
                    yield Anomaly("resume-rewind", f"{place}, {acked} was committed")
            newest = max(newest, interval.epoch)


def _regress(story: _Story) -> Iterator[Anomaly]:
    """What is committed after another commit was acknowledged is not lower."""
    for partition in story.commits:
        accepted = _accepted(story, partition)
        ended = sorted(accepted, key=lambda commit: commit.ended)
        highest: list[int] = []
        for commit in ended:
            highest.append(max(commit.offset, highest[-1] if highest else 0))
        times = [commit.ended for commit in ended]
        for commit in accepted:
            before = bisect_left(times, commit.invoked)
            if before and commit.offset < highest[before - 1]:
                detail = f"{commit.actor} committed {commit.offset} after {highest[before - 1]}"
                yield Anomaly("commit-regress", f"partition {partition}: {detail}")


def _observed(story: _Story) -> Iterator[Anomaly]:
    """What an onlooker reads never falls, is not below what was acknowledged, and was tried by somebody."""
    last: dict[int, int] = {}
    for seen in story.history.observed:
        for partition, offset in seen.offsets.items():
            commits = story.commits[partition]
            place = f"partition {partition}: {offset} was read"
            if offset < last.get(partition, 0):
                yield Anomaly("commit-regress", f"{place} after {last[partition]}")
            acked = max((c.offset for c in commits if c.outcome == "committed" and c.ended < seen.asked), default=0)
            if offset < acked:
                yield Anomaly("lost-commit", f"{place}, {acked} was acknowledged")
            if not any(c.offset == offset and c.outcome != "refused" and c.invoked < seen.answered for c in commits):
                yield Anomaly("phantom-commit", f"{place}, and nobody committed that")
            last[partition] = offset


def _reads(story: _Story) -> Iterator[Anomaly]:
    """Within an interval each record comes in turn, from where it began or was told to go on, and is in the log."""
    for partition, intervals in story.intervals.items():
        log = story.history.log[partition]
        for interval in intervals:
            expected = interval.resumed
            told = [(at, to) for at, who, to in story.told[partition] if who == interval.actor and at > interval.begin]
            for at, offset, value in interval.reads:
                while told and told[0][0] < at:
                    _, expected = told.pop(0)
                if offset != expected:
                    name = "poll-skip" if offset > expected else "nonmonotonic-poll"
                    yield Anomaly(name, f"partition {partition}: {interval.actor} got {offset}, not {expected}")
                gone = any(later > at and to <= offset for later, _, to in story.told[partition])
                if (offset >= len(log) or log[offset] != value) and not gone:
                    yield Anomaly("inconsistent-offsets", f"partition {partition}@{offset}: {interval.actor} {value}")
                expected = offset + 1


def _late_reads(story: _Story) -> Iterator[Anomaly]:
    """Nobody is handed records when another has been told that they are its own, but who was stopped just then."""
    for partition, intervals in story.intervals.items():
        for interval in intervals:
            later = [o.begin for o in intervals if o.member != interval.member and o.epoch > interval.epoch]
            if not later:
                continue
            woken = story.woken[interval.actor.rpartition(".")[0]]
            for at, offset, _ in interval.reads:
                just_woken = any(0 <= at - moment < LATE_NS for moment in woken)
                if at > min(later) + LATE_NS and not just_woken:
                    yield Anomaly("late-read", f"partition {partition}@{offset}: {interval.actor}, another owned it")


def _end(story: _Story) -> Iterator[Anomaly]:
    """Everything was handed to somebody, and committed."""
    for partition, log in story.history.log.items():
        seen = {(offset, value) for interval in story.intervals[partition] for _, offset, value in interval.reads}
        missing = [offset for offset, value in enumerate(log) if (offset, value) not in seen]
        if missing:
            yield Anomaly("unseen", f"partition {partition}: {len(missing)} records, the first at {missing[0]}")
        committed = story.history.committed.get(partition, 0)
        if committed != len(log):
            yield Anomaly("lag", f"partition {partition}: {committed} is committed, the log ends at {len(log)}")
