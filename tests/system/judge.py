"""Judges what producers and consumers say happened against what a log can do: Jepsen's Kafka checks, without groups.

    history = History()
    history.sending(value) … history.acked(value, partition, offset) … history.read("reader-1", partition, records)
    history.drained(partition, records)            # at the end: everything, from the beginning, by somebody new
    assert judge(history, floors={"acked": 1000, "read": 1000, "dropped": 20}, fired=proxy.counts) == []

An outcome is one of three: acked, failed (certainly not written) or unknown. Values are unique and name their writer;
who reads anew after a seek or a death does so under a new name. A history that shows too little is refused as vacuous.
"""

from __future__ import annotations

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


Records = Iterable[tuple[int, Value]]
"""Offsets and what is there."""


class Event(NamedTuple):
    """One line of a history; `what` is sending, acked, failed, unknown, read or drained."""

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

    def drained(self, partition: int, records: Records) -> None:
        """The whole partition, read at the end by somebody new."""
        self._add("drained", "drain", partition, records)

    def of(self, what: str) -> Iterator[Event]:
        """The events of one kind."""
        return (event for event in self.events if event.what == what)


def judge(history: History, *, floors: Mapping[str, int], fired: Mapping[str, int] | None = None) -> list[Anomaly]:
    """Look for everything that must not be.

    :param floors: how much of what must have happened at least: of the history's counts, or of `fired`.
    :param fired: how often each fault struck.
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
    for check in (_offsets, _values, _outcomes, _order, _polls, _real_time):
        found += check(history, log)
    return found


Log = Mapping[int, Mapping[int, Value]]


def _offsets(history: History, log: Log) -> Iterator[Anomaly]:
    """Dense from 0; one offset holds one value for everybody, for ever."""
    for event in history.of("drained"):
        offsets = [offset for offset, _ in event.records]
        if offsets != list(range(len(offsets))):
            gap = next((i for i, offset in enumerate(offsets) if i != offset), -1)
            yield Anomaly("log-gap", f"partition {event.partition}: place {gap} holds offset {offsets[gap]}")
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
    """What was acked is there, what failed is not, and every send had one outcome."""
    there = {value for records in log.values() for value in records.values()}
    outcomes: Counter[Value] = Counter()
    for event in history.events:
        for _, value in event.records:
            if event.what in {"acked", "failed", "unknown"}:
                outcomes[value] += 1
            if event.what == "acked" and value not in there:
                yield Anomaly("lost-write", f"{value} was acked and is nowhere")
            if event.what == "failed" and value in there:
                yield Anomaly("aborted-read", f"{value} is there, though its send was said not to have written it")
    for event in history.of("sending"):
        for _, value in event.records:
            if outcomes[value] != 1:
                yield Anomaly("no-outcome", f"{value} has {outcomes[value]} outcomes")


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
