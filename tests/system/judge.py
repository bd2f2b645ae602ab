"""Judges what producers and consumers say happened against what a log can do: Jepsen's Kafka checks, without groups.

    history = History()
    history.sending(value) … history.acked(value, partition, offset) … history.read("reader-1", partition, records)
    history.drained(partition, records)            # at the end: everything, from the beginning, by somebody new
    assert judge(history, floors={"acked": 1000, "read": 1000, "dropped": 20}, fired=proxy.counts) == []

With ``lossy`` the server may take back the end of a log, acknowledged records too, and use offsets again; but nobody
may be left in the dark: see `_told_readers` and `_told_writers`.

An outcome is one of three: acked, failed (certainly not written) or unknown. Values are unique and name their writer;
who reads anew after a seek or a death does so under a new name. A history that shows too little is refused as vacuous.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Self


class Value(NamedTuple):
    """What a record holds: who wrote it, under which key, and its place among that writer's records of that key."""

    writer: str
    key: str
    index: int

    def __bytes__(self) -> bytes:
        """As it is stored."""
        return "/".join(map(str, self)).encode()

    @classmethod
    def parse(cls, stored: bytes) -> Self:
        """As it was before."""
        writer, key, index = stored.decode().split("/")
        return cls(writer, key, int(index))


NOTHING = Value("", "", -1)
Records = Iterable[tuple[int, Value]]
"""Offsets and what is there."""


class Event(NamedTuple):
    """One line of a history; `what` is sending, acked, failed, unknown, read, told, handled or drained.

    *told*: the actor learnt that the log parts at that offset. *handled*: a member of a group was given these.
    """

    what: str
    actor: str
    partition: int
    records: tuple[tuple[int, Value], ...]
    at: float  # seconds of the clock that all processes of a machine share


class Anomaly(NamedTuple):
    """Something that cannot have happened on a log."""

    name: str
    detail: str


@dataclass
class History:
    """What was tried, and what was seen, in order. Any thread may add to it."""

    events: list[Event] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    losses: dict[str, int] = field(default_factory=dict)  # writer -> how often it was told of a loss
    counted: dict[str, int] = field(default_factory=dict)  # writer -> how many records it was told are gone

    def _add(self, what: str, actor: str, partition: int, records: Records) -> None:
        event = Event(what, actor, partition, tuple(records), time.monotonic())
        self.events.append(event)
        self.counts[what] += len(event.records)

    def sending(self, value: Value) -> None:
        """A send begins."""
        self._add("sending", value.writer, -1, [(-1, value)])

    def acked(self, value: Value, partition: int, offset: int) -> None:
        """A send succeeded."""
        self._add("acked", value.writer, partition, [(offset, value)])

    def failed(self, value: Value) -> None:
        """A send failed, and the record is certainly not in the log."""
        self._add("failed", value.writer, -1, [(-1, value)])

    def unknown(self, value: Value) -> None:
        """A send failed, and the record may be in the log."""
        self._add("unknown", value.writer, -1, [(-1, value)])

    def read(self, reader: str, partition: int, records: Records) -> None:
        """A poll returned these records of a partition."""
        self._add("read", reader, partition, records)

    def told(self, actor: str, partition: int, diverged_at: int) -> None:
        """A reader learnt that the log lost its end, and goes on at an offset."""
        self._add("told", actor, partition, [(diverged_at, NOTHING)])

    def handled(self, member: str, partition: int, records: Records) -> None:
        """A member of a group was given these records."""
        self._add("handled", member, partition, records)

    def drained(self, partition: int, records: Records) -> None:
        """The whole partition, read at the end by somebody new."""
        self._add("drained", "drain", partition, records)

    def of(self, what: str) -> Iterator[Event]:
        """The events of one kind."""
        return (event for event in self.events if event.what == what)


def judge(
    history: History, *, floors: Mapping[str, int], fired: Mapping[str, int] | None = None, lossy: bool = False
) -> list[Anomaly]:
    """Look for everything that must not be.

    :param floors: how much of what must have happened at least: of the history's counts, or of `fired`.
    :param fired: how often each fault struck.
    :param lossy: acknowledged records may be gone, if those concerned were told.
    :returns: what is wrong; empty if nothing is.
    """
    counts = Counter(history.counts)
    counts.update(fired or {})
    found = [
        Anomaly("vacuous", f"{name}: {counts[name]}, less than {least}")
        for name, least in floors.items()
        if counts[name] < least
    ]
    log = {event.partition: dict(event.records) for event in history.of("drained")}
    checks = (_dense, _values, _outcomes, _order, _members)
    checks += (_told_readers, _told_writers) if lossy else (_lasting, _acked, _polls, _real_time)
    for check in checks:
        found += check(history, log)
    return found


def lost(history: History) -> int:
    """How many acknowledged records are not where they were said to be."""
    log = {event.partition: dict(event.records) for event in history.of("drained")}
    acked = [(event.partition, *record) for event in history.of("acked") for record in event.records]
    return sum(log.get(partition, {}).get(offset) != value for partition, offset, value in acked)


Log = Mapping[int, Mapping[int, Value]]


def _dense(history: History, log: Log) -> Iterator[Anomaly]:
    """Offsets are dense from 0."""
    for event in history.of("drained"):
        offsets = [offset for offset, _ in event.records]
        if offsets != list(range(len(offsets))):
            gap = next((i for i, offset in enumerate(offsets) if i != offset), -1)
            yield Anomaly("log-gap", f"partition {event.partition}: place {gap} holds offset {offsets[gap]}")


def _lasting(history: History, log: Log) -> Iterator[Anomaly]:
    """One offset holds one value for everybody, for ever."""
    for event in history.events:
        if event.what not in {"acked", "read"}:
            continue
        for offset, value in event.records:
            there = log.get(event.partition, {}).get(offset)
            place = f"{event.partition}@{offset}"
            if there is None:
                yield Anomaly("vanished", f"{place}: {event.actor} {event.what} {value}, and nothing is there")
            elif there != value:
                yield Anomaly("inconsistent-offsets", f"{place}: {event.actor} {event.what} {value}, there is {there}")


def _values(history: History, log: Log) -> Iterator[Anomaly]:
    """Each value once, in one partition with all of its key, and sent by somebody."""
    sent = {value for event in history.of("sending") for _, value in event.records}
    places: defaultdict[Value, list[tuple[int, int]]] = defaultdict(list)
    partitions: defaultdict[str, set[int]] = defaultdict(set)
    for partition, records in log.items():
        for offset, value in records.items():
            places[value].append((partition, offset))
            partitions[value.key].add(partition)
    for value, at in places.items():
        if value not in sent:
            yield Anomaly("phantom", f"{value} at {at[0]} was never sent")
        if len(at) > 1:
            yield Anomaly("duplicate", f"{value} is at {at}")
    for key, found in partitions.items():
        if len(found) > 1:
            yield Anomaly("key-split", f"{key} is in the partitions {sorted(found)}")


def _outcomes(history: History, log: Log) -> Iterator[Anomaly]:
    """What failed is not there, and every send had one outcome."""
    there = {value for records in log.values() for value in records.values()}
    outcomes: Counter[Value] = Counter()
    for event in history.events:
        for _, value in event.records:
            if event.what in {"acked", "failed", "unknown"}:
                outcomes[value] += 1
            if event.what == "failed" and value in there:
                yield Anomaly("aborted-read", f"{value} is there, though its send was said not to have written it")
    for event in history.of("sending"):
        for _, value in event.records:
            if outcomes[value] != 1:
                yield Anomaly("no-outcome", f"{value} has {outcomes[value]} outcomes")


def _acked(history: History, log: Log) -> Iterator[Anomaly]:
    """What was acked is there."""
    there = {value for records in log.values() for value in records.values()}
    for event in history.of("acked"):
        for _, value in event.records:
            if value not in there:
                yield Anomaly("lost-write", f"{value} was acked and is nowhere")


def _members(history: History, log: Log) -> Iterator[Anomaly]:
    """What is in the log was given to some member of the group, if there was one."""
    handled = {value for event in history.of("handled") for _, value in event.records}
    if handled:
        for records in log.values():
            for offset, value in records.items():
                if value not in handled:
                    yield Anomaly("unseen", f"{value} at {offset} was given to no member")


def _told_readers(history: History, log: Log) -> Iterator[Anomaly]:
    """A reader gets each record in turn, or goes back where it was told; what it was not told of is still there."""
    views: defaultdict[tuple[str, int], dict[int, Value]] = defaultdict(dict)
    nexts: dict[tuple[str, int], int] = {}
    for event in history.events:
        at = event.actor, event.partition
        for offset, value in event.records:
            if event.what == "told":
                views[at] = {there: held for there, held in views[at].items() if there < offset}
                nexts[at] = min(offset, nexts.get(at, offset))
            elif event.what == "read":
                if offset != nexts.get(at, offset):
                    yield Anomaly("poll-skip", f"{at}: {offset} came, {nexts[at]} was due, and nothing was told")
                views[at][offset] = value
                nexts[at] = offset + 1
    for at, view in views.items():
        for offset, value in view.items():
            there = log.get(at[1], {}).get(offset)
            if there != value:
                yield Anomaly("untold-loss", f"{at}: read {value} at {offset}, there is {there}, and nothing was told")


def _told_writers(history: History, log: Log) -> Iterator[Anomaly]:
    """Told was each writer whose acknowledged records are gone, and that had one acknowledged there since; and of all.

    It may be told of more: those of others between its own.
    """
    gone: dict[tuple[str, int], float] = {}
    many: Counter[tuple[str, int]] = Counter()
    for event in history.of("acked"):
        at = event.actor, event.partition
        for offset, value in event.records:
            if log.get(event.partition, {}).get(offset) != value:
                gone[at] = event.at
                many[at] += 1
    owed = {
        (event.actor, event.partition)
        for event in history.of("acked")
        if event.at > gone.get((event.actor, event.partition), math.inf)
    }
    for writer in {name for name, _ in owed}:
        partitions = sum(name == writer for name, _ in owed)
        if history.losses.get(writer, 0) < partitions:
            told = history.losses.get(writer, 0)
            yield Anomaly("untold-loss", f"{writer} lost records of {partitions} partitions, and was told of {told}")
        records, counted = sum(many[at] for at in owed if at[0] == writer), history.counted.get(writer, 0)
        if counted < records:
            yield Anomaly("untold-loss", f"{writer} lost {records} records, and was told of {counted}")


def _order(history: History, log: Log) -> Iterator[Anomaly]:
    """A writer's records of a key stand in the order in which they were sent."""
    for records in log.values():
        last: dict[tuple[str, str], int] = {}
        for _, value in sorted(records.items()):
            before = last.get(value[:2], -1)
            if value.index <= before:
                yield Anomaly("nonmonotonic-send", f"{value} stands behind index {before}")
            last[value[:2]] = max(before, value.index)


def _polls(history: History, log: Log) -> Iterator[Anomaly]:
    """A reader gets each record of a partition in turn: none left out, none again, within a poll or between polls."""
    offsets: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for event in history.of("read"):
        offsets[event.actor, event.partition] += [offset for offset, _ in event.records]
    for (reader, partition), seen in offsets.items():
        for before, after in pairwise(seen):
            if after != before + 1:
                name = "poll-skip" if after > before else "nonmonotonic-poll"
                yield Anomaly(name, f"{reader}, partition {partition}: {after} came after {before}")


def _real_time(history: History, log: Log) -> Iterator[Anomaly]:
    """A record that is sent after another is known to be there stands behind it."""
    known: defaultdict[int, int] = defaultdict(lambda: -1)
    before: dict[Value, dict[int, int]] = {}
    for event in sorted(history.events, key=lambda event: event.at):
        for offset, value in event.records:
            if event.what == "sending":
                before[value] = dict(known)
            elif event.what == "acked" and offset <= before.get(value, {}).get(event.partition, -1):
                yield Anomaly("realtime-order", f"{value} got {event.partition}@{offset}, which was known to be taken")
        if event.what in {"acked", "read"} and event.records:
            known[event.partition] = max(known[event.partition], event.records[-1][0])
