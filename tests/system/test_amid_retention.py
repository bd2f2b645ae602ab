"""Consumers in the middle of logs that are trimmed, emptied, altered, replaced and cut back: the record, or the truth.

Random histories, from a seed. Each thing a consumer says is held against what the world knows: a record is the next one
of the history that the consumer reads, or a gap was told before, with the right number; and nothing hangs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, TypeVar

import pytest

from streamlayer import Consumer, ConsumerRecord, TopicPartition
from streamlayer.embedded import Server
from streamlayer.errors import LogTruncationError, OffsetOutOfRangeError, UnknownTopicOrPartitionError
from tests import servers
from tests.profiles import examples
from tests.system.saboteur import PARTITIONS, TOPIC, Range, Stored, World, parse
from tests.waiting import sync_wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]
T = TypeVar("T")

TURNS = 60
MARGIN_S = 2.0
TPS = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
OVERTAKEN = re.compile(r"orders\[(\d)\]: offset (\d+) is not in the log; going on at (\d+), (\d+) records were missed$")
CUT_BACK = re.compile(r"orders\[(\d)\]: the server lost the log's end; going on at (\d+), (\d+) records that were read")
HARMLESS = re.compile("reading is in trouble|reading goes on|connection|does not exist yet|subscri", re.IGNORECASE)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that may be killed."""
    with Server(binary=servers.binary(request.param)) as running:
        yield running


class Place:
    """Where a reader is in one partition, as told to its user.

    :ivar topic_id: the log; ``None`` when it has not begun.
    :ivar position: the next offset.
    :ivar before: the log, the offset and what was read when it was told that the topic is gone, until it begins again.
    :ivar read: what was read without a gap up to there: of all that, one history must be the source.
    """

    def __init__(self) -> None:
        self.topic_id: str | None = None
        self.position: int | None = None
        self.read: list[int] = []
        self.before: tuple[str, int | None, list[int]] | None = None

    def go(self, position: int | None) -> None:
        """Begin elsewhere."""
        self.position = position
        self.read = []

    @property
    def first(self) -> int:
        """The offset of the first of what was read without a gap."""
        assert self.position is not None
        return self.position - len(self.read)


class Reader:
    """A consumer, and all that is checked of what it says."""

    def __init__(self, world: World, reset: str, **options: Any) -> None:
        self.world = world
        self.reset = reset
        options = {"consumer_timeout_ms": 5} | options
        self.consumer = Consumer(TOPIC, url=world.server.url, auto_offset_reset=reset, **options)
        self.places = [Place() for _ in TPS]
        self.records = 0
        self.gaps = 0
        self._policy = reset
        self.trail: list[str] = []
        self._since = [0 for _ in TPS]
        begin = self.consumer._assignment._begin

        def begun(tps: list[TopicPartition], *rest: Any) -> None:
            begin(tps, *rest)
            self._begun(tps)

        self.consumer._assignment._begin = begun  # type: ignore[method-assign]

    def _begun(self, tps: list[TopicPartition]) -> None:
        """It begins to read partitions: at once by its reset policy, later at the first record, or where it was."""
        self.world.look()
        for tp in tps:
            place, position = self.places[tp.partition], self.consumer._assignment.positions[tp]
            assert place.position is None
            place.topic_id = position.topic_id
            place.go(position.position)
            (log, at, read), place.before = place.before or ("", None, []), None
            if log == position.topic_id and (read or at == position.position):
                assert at == position.position, f"{tp}: that log goes on at {at}, not at {position.position}"
                place.read = read  # it was only looked for in vain
                continue
            self._within(position.position, tp.partition, "end" if self._policy == "latest" else "start")
        if tps:
            self._policy = "earliest"

    # --- one call, and what came of it -------------------------------------------------------------------------------

    def call(self, what: Callable[[], T], timeout_ms: int = 0) -> T | None:
        """Call, with what happens between its round trips; take in what was told and raised. Nothing hangs."""
        world = self.world
        world.told.clear()
        world.look()
        # An error may have been noticed in an earlier call, which had other partitions' records to hand out.
        for number, tp in enumerate(TPS):
            position = self.consumer._assignment.positions.get(tp)
            if position is None or position.error is None:
                self._since[number] = len(world.seen[number]) - 1
        began, spent = time.monotonic(), world.spent
        result: T | None = None
        error: Exception | None = None
        with world.between_round_trips(self.consumer, 0.15):
            try:
                result = what()
                self.trail.append(what.__qualname__)
            except (OffsetOutOfRangeError, LogTruncationError, UnknownTopicOrPartitionError) as raised:
                error = raised
                self.trail.append(repr(raised))
        took = time.monotonic() - began - (world.spent - spent)
        assert took < timeout_ms / 1000 + MARGIN_S, f"took {took:.1f} s, not {timeout_ms} ms"
        world.look()
        for message in world.told:
            self._told(message)
        if error is not None:
            self._raised(error)
        return result

    def _ranges(self, number: int) -> list[Range]:
        place = self.places[number]
        return [seen for seen in self.seen(number) if seen.topic_id == place.topic_id]

    def seen(self, number: int) -> list[Range]:
        """Where a log began and ended in the course of the call."""
        return self.world.seen[number][self._since[number] :]

    def _within(self, offset: int, number: int, what: str) -> None:
        """An offset is a log's start (or end) as it was at some moment of the call."""
        seen = [getattr(place, what) for place in self._ranges(number)]
        assert seen, (number, offset)
        assert min(seen) <= offset <= max(seen), f"{what} of {number} was {min(seen)} to {max(seen)}, not {offset}"

    def _told(self, message: str) -> None:
        if found := OVERTAKEN.match(message):
            number, at, to, missed = map(int, found.groups())
            self._overtaken(number, at)
            assert missed == max(0, to - at), message
            self._within(to, number, "end" if self.reset == "latest" else "start")
            self.places[number].go(to)
        elif found := CUT_BACK.match(message):
            number, to, lost = map(int, found.groups())
            self._cut_back(number, to, lost)
        else:
            assert HARMLESS.search(message), message

    def _overtaken(self, number: int, at: int) -> None:
        place = self.places[number]
        assert place.position == at, f"{number}: at {place.position}, and told that it was at {at}"
        ranges = self._ranges(number)
        assert at < max(seen.start for seen in ranges) or at > min(seen.end for seen in ranges), (at, ranges)
        self.gaps += 1

    def _cut_back(self, number: int, to: int, lost: int) -> None:
        place = self.places[number]
        assert place.position == to + lost, (number, place.position, to, lost)
        if to >= place.first:
            kept = place.read[: to - place.first]
            history = self.world.histories[str(place.topic_id), number][-1][place.first : to]
            assert kept == [stored.life for stored in history], "what was read before is not in the log as it is"
        place.go(to)
        self.gaps += 1

    def _raised(self, error: Exception) -> None:
        """What a user does: go on where the error says."""
        if isinstance(error, UnknownTopicOrPartitionError):
            ids = {place.topic_id for place in self.places} | {p.topic_id for p in self._positions()}
            assert len(self.world.topics) > 1, error
            assert ids != {self.world.topic_id} or len({s.topic_id for s in self.seen(0)}) > 1, error
            for tp, place in zip(TPS, self.places, strict=True):
                position = self.consumer._assignment.positions.get(tp)
                if position is None or position.topic_id != place.topic_id:  # else it was only a question's answer
                    if place.topic_id is not None:
                        place.before = place.topic_id, place.position, place.read
                    place.topic_id = None
                    place.go(None)
            return
        assert self.reset == "none", error
        number = int(str(error).split("[")[1][0])
        place = self.places[number]
        if isinstance(error, OffsetOutOfRangeError):
            position = int(re.findall(r"the position is (\d+)", str(error))[0])
            self._overtaken(number, position)
            self._within(error.log_start, number, "start")
            assert error.missed == max(0, error.log_start - position), error
            self.seek(number, error.log_start)
        else:
            assert isinstance(error, LogTruncationError)
            assert error.diverged_at is not None
            assert error.lost is not None
            self._cut_back(number, error.diverged_at, error.lost)
            self.seek(number, error.diverged_at)

    def _positions(self) -> list[Any]:
        return list(self.consumer._assignment.positions.values())

    def took(self, record: ConsumerRecord) -> None:
        """A record was handed out: the next one of a history, or the first that is served."""
        place = self.places[record.partition]
        topic_id, partition, offset, life = parse(record.value)
        assert (partition, offset) == (record.partition, record.offset), record
        assert place.topic_id == topic_id, f"{record} is of another log than {place.topic_id}"
        assert offset == place.position, f"{record.topic_partition}: {offset} came, {place.position} was next"
        place.read.append(life)
        place.position = offset + 1
        if len(place.read) == 1 or life != place.read[-2]:
            assert self._a_history_has(place, partition), f"{record} does not follow what was read before"
        self.records += 1

    def _a_history_has(self, place: Place, number: int) -> bool:
        assert place.position is not None
        return any(
            [stored.life for stored in history[place.first : place.position]] == place.read
            for history in self.world.histories[str(place.topic_id), number]
        )

    def check_positions(self) -> None:
        """The consumer stands where its user thinks."""
        for tp, place in zip(TPS, self.places, strict=True):
            position = self.consumer._assignment.positions.get(tp)
            if position is not None and place.position is not None:
                assert self.call(lambda tp=tp: self.consumer.position(tp)) in {None, place.position}

    # --- what a reader does ------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Something."""
        weights = {
            self.poll: 60, self.iterate: 8, self.read_to_end: 4, self.seek_somewhere: 4, self.seek_to_an_end: 3,
            self.ask: 4, self.pause_or_resume: 5, self.look_up_a_time: 4, self.check_positions: 4,
        }  # fmt: skip
        (what,) = self.world.dice.choices(list(weights), list(weights.values()))
        what()

    def poll(self) -> None:
        """Once."""
        timeout = self.world.dice.choice([0, 0, 5, 50])
        most = self.world.dice.choice([None, 1, 3])
        buffered = {tp: p.buffered for tp, p in self.consumer._assignment.positions.items()}
        polled = self.call(lambda: self.consumer.poll(timeout, max_records=most), timeout)
        for tp, records in (polled or {}).items():
            if not buffered.get(tp):
                lowest = min(seen.start for seen in self.seen(tp.partition))
                assert records[0].offset >= lowest, f"{records[0]} was fetched from before the log's start, {lowest}"
            for record in records:
                self.took(record)

    def iterate(self) -> None:
        """A few records."""
        for _ in range(self.world.dice.randint(1, 8)):
            record = self.call(lambda: next(self.consumer, None), 20)
            if record is None:
                return
            self.took(record)

    def read_to_end(self) -> None:
        """To the end, or leave on the way. Paused partitions are left where they are."""
        reading = self.consumer.read_to_end()
        most = self.world.dice.choice([3, 100, 1 << 30])
        for _ in range(most):
            record = self.call(lambda: next(reading, None), 1000)
            if record is None:
                return
            self.took(record)

    def seek(self, number: int, offset: int) -> None:
        """Go there."""
        self.consumer.seek(TPS[number], offset)
        self.places[number].go(offset)

    def seek_somewhere(self) -> None:
        """Into the log, before it, behind it."""
        number = self.world.dice.randrange(PARTITIONS)
        if self.consumer._assignment.positions.get(TPS[number]) is not None:
            self.seek(number, self.world.dice.randint(0, len(self.world.history(number)) + 2))

    def seek_to_an_end(self) -> None:
        """Both partitions."""
        what = self.world.dice.choice(["start", "end"])
        go = self.consumer.seek_to_beginning if what == "start" else self.consumer.seek_to_end
        if self.call(lambda: go() or True):
            for number, position in enumerate(self._positions()):
                self._within(position.position, number, what)
                self.places[number].topic_id = position.topic_id
                self.places[number].go(position.position)

    def ask(self) -> None:
        """Where logs begin and end, of whatever log is there."""
        for what, question in ("start", self.consumer.beginning_offsets), ("end", self.consumer.end_offsets):
            for number, offset in enumerate((self.call(lambda ask=question: ask(TPS)) or {}).values()):
                seen = [getattr(r, what) for r in self.seen(number)]
                assert min(seen) <= offset <= max(seen), (what, offset, seen)

    def pause_or_resume(self) -> None:
        """One of them."""
        tp = self.world.dice.choice(TPS)
        if self.consumer._assignment.positions.get(tp) is not None:
            (self.consumer.resume if tp in self.consumer.paused() else self.consumer.pause)(tp)

    def look_up_a_time(self) -> None:
        """The first record at or after a time, by question or by seek."""
        number = self.world.dice.randrange(PARTITIONS)
        history = self.world.history(number)
        when = self.world.dice.choice(history).time if history else self.world.now()
        when += self.world.dice.randint(-20, 20)
        if self.world.dice.random() < 0.5:
            found = self.call(lambda: self.consumer.offsets_for_times({TPS[number]: when}))
            if found is not None:
                at = found[TPS[number]]
                self._first_at_time(number, when, None if at is None else at.offset)
        elif TPS[number] in self.consumer._assignment.positions and self.call(
            lambda: self.consumer.seek_to_time(when, TPS[number]) or True
        ):
            position = self.consumer._assignment.positions[TPS[number]]
            self.places[number].topic_id = position.topic_id
            self.places[number].go(position.position)
            if position.topic_id == self.world.topic_id:
                self._first_at_time(number, when, position.position)

    def _first_at_time(self, number: int, when: int, offset: int | None) -> None:
        seen = self.seen(number)
        if len({r.topic_id for r in seen}) > 1 or any(b.end < a.end for a, b in pairwise(seen)):
            return  # replaced or cut back meanwhile: which history it was is not known
        history: list[Stored] = self.world.history(number)
        before = offset if offset is not None else min(r.end for r in seen)
        for at in range(max(r.start for r in seen), min(before, len(history))):
            assert history[at].time < when, f"{number}: offset {at} is at or after {when}, {offset} was found"
        if offset is not None and offset < min(r.end for r in seen):
            assert offset >= min(r.start for r in seen)
            assert history[offset].time >= when

    def finish(self) -> None:
        """All is quiet: everything that is left is read, and soon."""
        self.consumer.resume()

        def at_the_ends() -> bool:
            self.poll()
            ends = [len(self.world.history(number)) for number in range(PARTITIONS)]
            return [place.position for place in self.places] == ends

        try:
            sync_wait_until(at_the_ends, "all is read", timeout=15)
        except AssertionError as late:
            late.add_note(f"{self.consumer!r} {self.consumer.health()} stands at {[p.position for p in self.places]}")
            late.add_note(f"the logs are {[self.world.seen[n][-1] for n in range(PARTITIONS)]}")
            late.add_note(f"{[vars(position) for position in self._positions()]}")
            late.add_note(f"the last calls: {self.trail[-3:]}")
            raise


@pytest.mark.parametrize("seed", range(examples(2)))
def test_each_record_once_or_the_truth(server: Server, seed: int) -> None:
    """Whatever is taken away: each reader gets the next record, or is told the gap with its number; nothing hangs."""
    with World(server, f"amid {seed}") as world:
        readers = [
            Reader(world, "earliest", max_poll_records=5),
            Reader(world, "none", max_partition_fetch_bytes=world.dice.choice([1000, 20_000, 1 << 20])),
            Reader(world, "latest", fetch_min_bytes=world.dice.choice([1, 20_000]), fetch_max_wait_ms=20),
            Reader(world, "none", max_poll_records=50, fetch_min_bytes=8000, fetch_max_wait_ms=5),
            Reader(world, "earliest", max_partition_fetch_bytes=4000),
        ]
        for _ in range(TURNS):
            for _ in range(world.dice.choice([0, 1, 5])):
                world.disturb()
            reader = world.dice.choice(readers)
            for _ in range(world.dice.choice([1, 3, 6])):
                reader.step()
        world.quiet()
        for reader in readers:
            reader.finish()
            reader.consumer.close()
        assert sum(reader.records for reader in readers) > 100, "they read next to nothing"
        assert sum(reader.gaps for reader in readers) > 5, "nothing came to be missed"
