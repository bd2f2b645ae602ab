"""Core and scripts against a list: any history of appends, repeats, fetches and crashes, shrunk when it fails.

The list is the model: what a partition holds is the records appended to it, in order; a crash cuts it back to what was
on the disk. A reader that carries its epochs gets the records behind its position, or is told where they parted.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from streamlayer._core import calls
from streamlayer._core.codec import decode_frames
from tests.lua.run import TOPIC_ID, Log, Runner, Snapshot, Stored, all_keys, new_log, values_from, word_of
from tests.profiles import THOROUGH, examples

Record = tuple[bytes, int]

PRODUCERS = ("one", "two")
SIZES = st.sampled_from([0, 0, 5, 60, 300, 1500, 4000, 4100, 9000])


@dataclass
class ProducerState:
    """What a producer sent, and what the server must remember of it.

    :ivar batches: those of its epoch, with their offsets.
    """

    epoch: int = 0
    next: int = 0
    known: bool = False
    batches: list[tuple[Stored, int]] = field(default_factory=list)


@dataclass
class Model:
    """A partition as a list."""

    records: list[Record] = field(default_factory=list)
    producers: dict[str, ProducerState] = field(default_factory=lambda: {name: ProducerState() for name in PRODUCERS})

    def copy(self) -> Model:
        """As it is now."""
        return Model(
            list(self.records),
            {name: replace(state, batches=list(state.batches)) for name, state in self.producers.items()},
        )


@dataclass
class Reader:
    """Somebody who reads on from where he is, with the epochs he crossed and the tail he has.

    :ivar seen: every record before his position, as he believes.
    """

    seen: list[Record] = field(default_factory=list)
    pairs: str = ""
    tail: tuple[int, int] = (-1, 0)


class LogMachine(RuleBasedStateMachine):
    """Drives one partition and its model."""

    client: redis.Redis
    namespace: str
    tells_lives: bool
    runs = itertools.count()

    @initialize(segment_bytes=st.sampled_from([200, 5000, 30_000, 1 << 20]))
    def create(self, segment_bytes: int) -> None:
        """An empty partition, a reader, nothing on the disk."""
        self.log: Log = new_log(self.client, f"{self.namespace}:{next(self.runs)}", segment_bytes=segment_bytes)
        self.model = Model()
        self.disk: list[tuple[Snapshot, Model]] = []
        self.readers = [Reader(), Reader()]
        self.names = itertools.count()

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "log"):
            for key in all_keys(self.client, self.log.keys.prefix):
                self.client.delete(key)

    # --- producing ---------------------------------------------------------------------------------------------------

    def _batch(self, sizes: list[int], back: int, state: ProducerState) -> tuple[Stored, list[Record]]:
        records = [
            (b"%d:" % next(self.names) + bytes(size), self.log.stamp - (back * (i + 1)) % 50)
            for i, size in enumerate(sizes)
        ]
        values, times = [value for value, _ in records], [time for _, time in records]
        return self.log.batch(values, times, sequence=state.next, epoch=state.epoch), records

    def _appended(self, state: ProducerState, batch: Stored, records: list[Record], answer: Any) -> None:
        assert word_of(answer) == "OK", answer
        assert answer.base_offset == len(self.model.records)
        self.model.records += records
        state.batches.append((batch, answer.base_offset))
        state.next = batch.sequence + batch.count
        state.known = True

    @rule(
        name=st.sampled_from(PRODUCERS),
        batches=st.lists(st.lists(SIZES, min_size=1, max_size=4), min_size=1, max_size=4),
        back=st.integers(0, 60),
    )
    def append(self, name: str, batches: list[list[int]], back: int) -> None:
        """The next batches of a producer land behind all there is."""
        state = self.model.producers[name]
        for sizes in batches:
            batch, records = self._batch(sizes, back, state)
            self._appended(state, batch, records, self.log.send(batch, name))
            back = back * 7 % 61

    @rule(sizes=st.lists(SIZES, min_size=1, max_size=3))
    def append_without_producer(self, sizes: list[int]) -> None:
        """So does a batch of nobody's."""
        state = ProducerState()
        batch, records = self._batch(sizes, 7, state)
        self._appended(state, batch, records, self.log.send(batch))

    @rule(name=st.sampled_from(PRODUCERS))
    def resend(self, name: str) -> None:
        """Each of the last five is answered as before, an older one is too old; none is stored again."""
        state = self.model.producers[name]
        if not state.known:
            return
        for age, (batch, offset) in enumerate(reversed(state.batches[-8:])):
            answer = self.log.send(batch, name)
            if age < 5:
                assert word_of(answer) == "OK", answer
                assert answer.base_offset == offset
            else:
                assert answer == ("STALE", str(state.next))

    @rule(name=st.sampled_from(PRODUCERS), skip=st.integers(1, 9))
    def leave_a_gap(self, name: str, skip: int) -> None:
        """A batch whose predecessor never came is refused."""
        state = self.model.producers[name]
        batch, _ = self._batch([5], 0, state)
        batch.sequence += skip
        assert self.log.send(batch, name) == ("GAP", str(state.next if state.known else 0))

    @rule(name=st.sampled_from(PRODUCERS), age=st.integers(0, 6))
    def reuse_a_sequence(self, name: str, age: int) -> None:
        """Other data under a number that was used is never taken for the old."""
        state = self.model.producers[name]
        if not state.known or len(state.batches) <= age:
            return
        other, _ = self._batch([3, 3], 0, state)
        other.sequence = state.batches[-1 - age][0].sequence
        assert word_of(self.log.send(other, name)) == ("SEQUENCE_REUSED" if age < 5 else "STALE")

    @rule(name=st.sampled_from(PRODUCERS), sizes=st.lists(SIZES, min_size=1, max_size=2))
    def begin_an_epoch(self, name: str, sizes: list[int]) -> None:
        """A new epoch begins at 0, and whatever was sent before is fenced."""
        state = self.model.producers[name]
        before = [batch for batch, _ in state.batches]
        known = state.known
        state.epoch, state.next, state.batches = state.epoch + 1, 0, []
        batch, records = self._batch(sizes, 3, state)
        self._appended(state, batch, records, self.log.send(batch, name))
        if before and known:
            assert self.log.send(before[-1], name) == ("FENCED_PRODUCER", str(state.epoch))

    @rule()
    def age(self) -> None:
        """The open segment becomes old: the next append closes it."""
        if self.log.meta("segment_at") != [0]:
            self.log.set_meta(segment_at=1)

    # --- reading -----------------------------------------------------------------------------------------------------

    @rule(position=st.integers(0, 400), max_bytes=st.sampled_from([0, 1, 500, 5000, 1 << 20]))
    def fetch(self, position: int, max_bytes: int) -> None:
        """From any position: records from there on, at least one; at the end none; behind it an error."""
        end = len(self.model.records)
        position %= end + 2
        answer = self.log.fetch(position, max_bytes)
        if position > end:
            assert answer == ("OUT_OF_RANGE", f"0 {end}")
            return
        assert answer.next == end
        values = values_from(answer.fields, position)
        assert values == [value for value, _ in self.model.records[position : position + len(values)]]
        assert bool(values) == (position < end)

    @rule(who=st.integers(0, 1), max_bytes=st.sampled_from([1, 3000, 1 << 20]), hint=st.booleans())
    def read_on(self, who: int, max_bytes: int, hint: bool) -> None:
        """A reader goes on: the very records of the log, or the offset from which on his are not in it any more."""
        reader = self.readers[who]
        position = len(reader.seen)
        answer = self.log.fetch(position, max_bytes, pairs=reader.pairs, tail=reader.tail if hint else (-1, 0))
        common = sum(
            1
            for _ in itertools.takewhile(
                lambda two: two[0] == two[1], zip(reader.seen, self.model.records, strict=False)
            )
        )
        if word_of(answer) == "OK":
            assert common == position, f"a reader at {position} was not told that his log parted at {common}"
            values = values_from(answer.fields, position)
            records = self.model.records[position : position + len(values)]
            assert values == [value for value, _ in records]
            reader.seen += records
            reader.pairs = ",".join([entry.rpartition(":")[0] for entry in answer.epochs.split(",")][-4:])
            self._remember_tail(reader, answer)
            return
        assert answer[0] == "TRUNCATED", answer
        diverged = int(answer[1].split()[0])
        assert diverged in {common, -1}, f"told {diverged}, parted at {common}"
        assert diverged >= 0 or len(answer[1]) > 0
        reader.seen, reader.pairs, reader.tail = reader.seen[:common], "", (-1, 0)

    def _remember_tail(self, reader: Reader, answer: Any) -> None:
        if answer.fields:
            last = answer.fields[-1]
            if last.base == answer.tail_base:
                reader.tail = (last.base, len(last.frames))
            elif reader.tail[0] == answer.tail_base:
                reader.tail = (reader.tail[0], reader.tail[1] + len(last.frames))
            else:
                reader.tail = (-1, 0)

    @rule(start=st.integers(-3, 4))
    def look_up_times(self, start: int) -> None:
        """The field that is named holds the first record at or after the time, and there is one if there is one."""
        for back in range(start, 55, 5):
            timestamp = self.log.stamp - back
            expected = next((i for i, (_, time) in enumerate(self.model.records) if time >= timestamp), None)
            answer = self.log.at_time(timestamp)
            assert (answer.log_start, answer.next) == (0, len(self.model.records))
            if expected is None:
                assert answer.field is None
                continue
            times = [time for frame in decode_frames(answer.field.frames) for time in frame.timestamps]
            assert next(answer.field.base + i for i, time in enumerate(times) if time >= timestamp) == expected

    # --- crashes -----------------------------------------------------------------------------------------------------

    @rule()
    def write_to_disk(self) -> None:
        """From here on a crash may come back to this."""
        self.disk = [*self.disk[-3:], (self.log.freeze(), self.model.copy())]

    @precondition(lambda self: self.tells_lives and self.disk)
    @rule(age=st.integers(0, 3))
    def crash(self, age: int) -> None:
        """The server comes back as it was once, in another life: all later is gone, producers' numbers too."""
        del self.disk[max(1, len(self.disk) - age) :]
        snapshot, model = self.disk[-1]
        self.log.crash(snapshot)
        self.model = model.copy()

    @precondition(lambda self: self.tells_lives)
    @rule()
    def restart(self) -> None:
        """Another life with the whole history disturbs nobody."""
        self.log.crash(self.log.freeze())

    # --- always ------------------------------------------------------------------------------------------------------

    @invariant()
    def the_log_says_how_long_it_is(self) -> None:
        """Meta's end is the list's length, and what is described adds up."""
        if not hasattr(self, "log"):
            return
        found = self.log.run(calls.describe_partition(self.log.keys, topic_id=TOPIC_ID))
        assert (found.log_start, found.next) == (0, len(self.model.records))


def test_any_history_is_a_lists(redis_client: redis.Redis, namespace: str) -> None:
    """No history that hypothesis finds makes scripts and list differ."""
    machine_is_fake = Runner(redis_client).fake

    class Machine(LogMachine):
        client = redis_client
        tells_lives = not machine_is_fake

    Machine.namespace = namespace
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples(20 if machine_is_fake else 80),
            stateful_step_count=60 if THOROUGH else 40,
            deadline=None,
        ),
    )


@pytest.mark.parametrize("seed", range(2))
def test_a_reader_at_the_end_of_a_lost_tail_is_told(redis_client: redis.Redis, namespace: str, seed: int) -> None:
    """The history that once went wrong: lost to 1, and appended to again, but not as far as the reader had come."""
    if Runner(redis_client).fake:
        pytest.skip("fakeredis has no INFO in scripts: loss is not told there")
    machine = LogMachine()
    machine.client, machine.namespace, machine.tells_lives = redis_client, namespace, True
    machine.create(segment_bytes=[200, 1 << 20][seed])
    machine.append("one", [[5]], 0)
    machine.write_to_disk()
    machine.append("one", [[5], [5], [5]], 0)
    machine.read_on(0, 1 << 20, hint=True)
    machine.read_on(0, 1 << 20, hint=True)
    machine.read_on(0, 1 << 20, hint=True)
    assert len(machine.readers[0].seen) == 4
    machine.crash(0)
    machine.begin_an_epoch("one", [5])
    machine.read_on(0, 1 << 20, hint=True)
    assert len(machine.readers[0].seen) == 1
    machine.teardown()
