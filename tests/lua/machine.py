"""The machine that makes histories: producers append, readers read, time passes, the server crashes.

``upkeep.py`` adds trimming, deletion, settings and layouts. After every step all that can be said of a partition is
held against the model. A rule's precondition never depends on a real server's clock: a history could not be repeated.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.lua.clock import Clock
from tests.lua.model import PRODUCERS, Model, ProducerState, Reader, Record
from tests.lua.run import Log, Snapshot, Stored, all_keys, key_end, new_log, values_from, word_of

SIZES = st.sampled_from([0, 0, 5, 60, 300, 1500, 4000, 4100, 9000])
SEGMENT_BYTES = st.sampled_from([200, 5000, 30_000, 1 << 20])
RETENTION_BYTES = st.sampled_from([-1, -1, 0, 2000, 20_000, 100_000])
MAX_MESSAGE_BYTES = 1 << 20
AHEAD_MS = 1_800_000  # of records' times: however slow the machine is, none is older than a short retention
CHECKED_EACH_STEP = 5  # segments; more are looked at by a rule, for each costs a call
STEPS: Counter[str] = Counter()


def number_of(epochs: str) -> int:
    """Of the first of them."""
    return int(epochs.partition(":")[0])


class Machine(RuleBasedStateMachine):
    """Drives one partition and its model.

    :ivar retentions: those that are tried; a rule picks one of them.
    :ivar pauses: how long time passes at once.
    """

    client: redis.Redis
    clock: Clock
    namespace: str
    kind: str
    retentions: tuple[int, ...]
    pauses: tuple[int, ...]
    runs = itertools.count()

    @initialize(retention=st.integers(0, 2), retention_bytes=RETENTION_BYTES, segment_bytes=SEGMENT_BYTES)
    def create(self, retention: int, retention_bytes: int, segment_bytes: int) -> None:
        """An empty partition, two readers, nothing on the disk."""
        self.lives = itertools.count()
        self.names = itertools.count()
        self.versions = itertools.count(2)
        self.begin(
            {
                "retention_ms": self.retentions[retention],
                "retention_bytes": retention_bytes,
                "segment_bytes": segment_bytes,
                "max_message_bytes": MAX_MESSAGE_BYTES,
            }
        )

    def begin(self, settings: dict[str, int]) -> None:
        """Make the partition, where there is none."""
        if not hasattr(self, "log"):
            self.log: Log = new_log(self.client, f"{self.namespace}:{next(self.runs)}", **settings)
        else:
            self.log.topic_id = f"{next(self.lives):032x}"
            self.log.segment = 0
            assert word_of(self.log.create(**settings)) == "OK"
        self.log.stamp = self.clock.now() + AHEAD_MS
        self.model = Model(settings)
        self.disk: list[tuple[Snapshot, Model]] = []
        self.readers = [Reader(), Reader()]

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "log"):
            for key in all_keys(self.client, self.log.keys.prefix):
                self.client.delete(key)

    # --- producing ---------------------------------------------------------------------------------------------------

    def batch(self, sizes: list[int], ahead: int, state: ProducerState) -> tuple[Stored, list[Record]]:
        """The next batch of a producer; its times go forth and back."""
        self.log.stamp = max(self.log.stamp, self.clock.now() + AHEAD_MS)
        records = [
            (b"%d:" % next(self.names) + bytes(size), self.log.stamp + (ahead * (i + 1)) % 50)
            for i, size in enumerate(sizes)
        ]
        values, times = [value for value, _ in records], [time for _, time in records]
        return self.log.batch(values, times, sequence=state.next, epoch=state.epoch), records

    def appended(
        self, state: ProducerState, batch: Stored, records: list[Record], answer: Any, *, named: bool = True
    ) -> None:
        """A batch is in the log, behind all there was; the log is not larger than it may be."""
        assert word_of(answer) == "OK", answer
        assert answer.base_offset == len(self.model.records)
        assert answer.generation == self.model.generation
        self.model.append(records, len(batch.frame), answer.append_time)
        state.batches.append((batch, answer.base_offset))
        state.next = batch.sequence + batch.count
        state.known = True
        most = self.model.most_bytes(counts_itself=named)
        assert most is None or self.log.describe().bytes <= most

    @rule(
        name=st.sampled_from(PRODUCERS),
        batches=st.lists(st.lists(SIZES, min_size=1, max_size=4), min_size=1, max_size=4),
        ahead=st.integers(0, 60),
    )
    def append(self, name: str, batches: list[list[int]], ahead: int) -> None:
        """The next batches of a producer land behind all there is."""
        state = self.model.producers[name]
        for sizes in batches:
            batch, records = self.batch(sizes, ahead, state)
            self.appended(state, batch, records, self.log.send(batch, name))
            ahead = ahead * 7 % 61

    @rule(sizes=st.lists(SIZES, min_size=1, max_size=3), key_hash=st.integers(0, 6), behind=st.sampled_from([0, 0, 1]))
    def append_keyed(self, sizes: list[int], key_hash: int, behind: int) -> None:
        """A batch of nobody's, placed by its key: taken if it belongs here in the layout that holds."""
        state = ProducerState()
        batch, records = self.batch(sizes, 7, state)
        generation = self.model.generation - behind
        answer = self.log.send(batch, key_hash=key_hash, generation=generation)
        if self.model.growing:
            assert word_of(answer) == "GROWING"
        elif behind:
            assert answer == ("STALE_GENERATION", str(self.model.generation))
        elif key_hash % self.model.partitions:
            assert answer == ("WRONG_PARTITION", str(self.model.partitions))
        else:
            self.appended(state, batch, records, answer, named=False)

    @rule(name=st.sampled_from(PRODUCERS))
    def resend(self, name: str) -> None:
        """Each of the last five is answered as before, wherever it is by now, an older one is too old."""
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
        batch, _ = self.batch([5], 0, state)
        batch.sequence += skip
        assert self.log.send(batch, name) == ("GAP", str(state.next if state.known else 0))

    @rule(name=st.sampled_from(PRODUCERS), age=st.integers(0, 6))
    def reuse_a_sequence(self, name: str, age: int) -> None:
        """Other data under a number that was used is never taken for the old."""
        state = self.model.producers[name]
        if not state.known or len(state.batches) <= age:
            return
        other, _ = self.batch([3, 3], 0, state)
        other.sequence = state.batches[-1 - age][0].sequence
        assert word_of(self.log.send(other, name)) == ("SEQUENCE_REUSED" if age < 5 else "STALE")

    @rule(name=st.sampled_from(PRODUCERS), sizes=st.lists(SIZES, min_size=1, max_size=2))
    def begin_an_epoch(self, name: str, sizes: list[int]) -> None:
        """A new epoch begins at 0, and whatever was sent before is fenced."""
        state = self.model.producers[name]
        before = [batch for batch, _ in state.batches]
        known = state.known
        state.epoch, state.next, state.batches = state.epoch + 1, 0, []
        batch, records = self.batch(sizes, 3, state)
        self.appended(state, batch, records, self.log.send(batch, name))
        if before and known:
            assert self.log.send(before[-1], name) == ("FENCED_PRODUCER", str(state.epoch))

    # --- time --------------------------------------------------------------------------------------------------------

    @rule(pause=st.integers(0, 4))
    def wait(self, pause: int) -> None:
        """Time passes."""
        self.clock.pass_by(self.pauses[pause])

    # --- reading -----------------------------------------------------------------------------------------------------

    def rule_at(self, now: int, listed: tuple[int, ...]) -> int:
        """The log start by the rule, from what ``meta`` and ``segs`` say."""
        deadline, end, start, base, retention_ms = listed
        if 0 < deadline <= now:
            return end
        kept = [base for _, base, _, _, closed in self.members if retention_ms < 0 or closed + retention_ms > now]
        return max(start, kept[0] if kept else base)

    def start_between(self, ask: Any) -> tuple[int, int, Any]:
        """The lowest and highest log start there may be while something is asked, and its answer."""
        self.members = self.log.members()
        listed = tuple(self.log.meta("deadline", "next", "start", "segment_base", "retention_ms"))
        before = self.clock.now()
        answer = ask()
        after = self.clock.now()
        low, high = self.rule_at(before, listed), self.rule_at(after, listed)
        assert self.model.must_go(before) <= high, "served too long"
        assert low <= self.model.may_go(after), "gone too early"
        return low, high, answer

    @rule(position=st.integers(0, 400), max_bytes=st.sampled_from([0, 1, 500, 5000, 1 << 20]))
    def fetch(self, position: int, max_bytes: int) -> None:
        """From any position: records from there on, at least one; at the end none; before or behind an error."""
        end = len(self.model.records)
        position %= end + 2
        low, high, answer = self.start_between(lambda: self.log.fetch(position, max_bytes))
        if word_of(answer) == "OUT_OF_RANGE":
            start, told_end = map(int, answer[1].split())
            assert low <= start <= high
            assert told_end == end
            assert position < start or position > end
            return
        assert word_of(answer) == "OK", answer
        assert low <= answer.log_start <= min(high, position)
        assert answer.next == end
        values = values_from(answer.fields, position)
        assert values == [value for value, _ in self.model.records[position : position + len(values)]]
        assert bool(values) == (position < end)

    @rule(max_bytes=st.sampled_from([1, 5000, 1 << 20]))
    def read_everything(self, max_bytes: int) -> None:
        """From the start to the end all is there."""
        position, end = self.log.describe().log_start, len(self.model.records)
        while position < end:
            answer = self.log.fetch(position, max_bytes)
            if word_of(answer) == "OUT_OF_RANGE" and not self.clock.moves:
                position = int(answer[1].split()[0])
                continue
            assert word_of(answer) == "OK", answer
            values = values_from(answer.fields, position)
            assert values == [value for value, _ in self.model.records[position : position + len(values)]]
            assert values
            position += len(values)

    @rule()
    def check(self) -> None:
        """Nothing contradicts, however large the log is."""
        assert self.log.contradiction() == ""

    @rule(who=st.integers(0, 1), max_bytes=st.sampled_from([1, 3000, 1 << 20]), hint=st.booleans())
    def read_on(self, who: int, max_bytes: int, hint: bool) -> None:
        """A reader goes on: the very records of the log, or where his parted from it, or that he was overtaken."""
        reader = self.readers[who]
        position = len(reader.seen)
        epochs = str(self.client.hget(self.log.keys.meta, "epochs"), "ascii")
        if not reader.crossed or number_of(reader.crossed.split(",")[-1]) < number_of(epochs):
            # A bare position, or one whose epochs are all forgotten: nothing can be said of what lies before it.
            reader.seen[: len(self.model.records)] = self.model.records[:position]
            reader.tail = (-1, 0)
        answer = self.log.fetch(position, max_bytes, crossed=reader.crossed, tail=reader.tail if hint else (-1, 0))
        alike = (two[0] == two[1] for two in zip(reader.seen, self.model.records, strict=False))
        common = sum(1 for _ in itertools.takewhile(bool, alike))
        if word_of(answer) == "OUT_OF_RANGE":
            start, end = map(int, answer[1].split())
            assert position < start or (not reader.crossed and position > end)
            reader.seen, reader.crossed, reader.tail = self.model.records[:start], "", (-1, 0)
        elif word_of(answer) == "OK":
            assert common == position, f"a reader at {position} was not told that his log parted at {common}"
            values = values_from(answer.fields, position)
            records = self.model.records[position : position + len(values)]
            assert values == [value for value, _ in records]
            reader.seen = self.model.records[: position + len(values)]
            reader.took(answer)
        else:
            assert answer[0] == "TRUNCATED", answer
            diverged = int(answer[1].split()[0])
            assert diverged in {common, -1}, f"told {diverged}, parted at {common}"
            reader.seen, reader.tail = reader.seen[:common], (-1, 0)
            reader.crossed = reader.crossed if diverged >= 0 else ""

    @rule(start=st.integers(-1, 4))
    def look_up_times(self, start: int) -> None:
        """The first record at or after a time is found, if one is still there."""
        for ahead in range(start, 55, 9):
            timestamp = self.log.stamp + ahead - 10
            low, high, found = self.start_between(lambda at=timestamp: self.log.offset_at(at))
            earliest, latest = self.model.first_at(timestamp, low), self.model.first_at(timestamp, high)
            if found is None:
                assert latest is None
            else:
                assert earliest is not None
                assert earliest <= found
                assert latest is None or found <= latest
                assert self.model.records[found][1] >= timestamp

    # --- crashes -----------------------------------------------------------------------------------------------------

    @rule()
    def write_to_disk(self) -> None:
        """From here on a crash may come back to this."""
        self.disk = [*self.disk[-3:], (self.log.freeze(), self.model.copy())]

    def connections_end(self) -> None:
        """The server is another one from here on."""

    @precondition(lambda self: not self.clock.moves and self.disk)
    @rule(age=st.integers(0, 3))
    def crash(self, age: int) -> None:
        """The server comes back as it was once, in another life: all later is gone, producers' numbers too."""
        del self.disk[max(1, len(self.disk) - age) :]
        snapshot, model = self.disk[-1]
        self.connections_end()
        self.log.crash(snapshot)
        self.model = model.copy()

    @precondition(lambda self: not self.clock.moves and self.disk)
    @rule(which=st.integers(0, 3))
    def another_primary(self, which: int) -> None:
        """Clients are led to a server that had this log once and went on for itself; this one may come back."""
        here = self.log.freeze(), self.model.copy()
        which %= len(self.disk)
        snapshot, model = self.disk[which]
        self.disk[which] = here
        self.connections_end()
        self.log.crash(snapshot)
        self.model = model.copy()

    @precondition(lambda self: not self.clock.moves)
    @rule()
    def restart(self) -> None:
        """Another life with the whole history disturbs nobody."""
        self.log.crash(self.log.freeze())

    # --- always ------------------------------------------------------------------------------------------------------

    @invariant()
    def all_that_can_be_said_holds(self) -> None:
        """Ends, bytes, keys, their expiry, and what ``check`` finds."""
        if not hasattr(self, "log"):
            return
        STEPS[self.kind] += 1
        low, high, found = self.start_between(self.log.describe)
        assert low <= found.log_start <= high
        assert found.log_start >= self.model.start, "the log start fell"
        self.model.start = found.log_start
        assert (found.next, found.generation) == (len(self.model.records), self.model.generation)
        if found.segments <= CHECKED_EACH_STEP:
            assert self.log.contradiction() == ""
        self._keys_are_as_they_should_be(found)

    def _keys_are_as_they_should_be(self, found: Any) -> None:
        segment, tail_len, deadline, opened = self.log.meta("segment", "tail_len", "deadline", "segment_at")
        listed = {number: closed for number, _, _, _, closed in self.members}
        assert self.log.segments_with_keys() <= {*listed, segment}, "nobody names a key any more"
        retention_ms = self.model.settings["retention_ms"]
        served = [number for number in [*listed, segment] if number > segment - found.segments]
        held = tail_len if found.log_start < found.next else 0
        for number in served:
            names = self.log.keys.segment(number)
            ends = [self.client.pexpiretime(name) for name in names]
            expected = deadline if number == segment else key_end(listed[number], retention_ms)
            if number == segment:
                ends.append(self.client.pexpiretime(self.log.keys.tail))
            if found.log_start < found.next:
                held += sum(len(value) for value in self.client.hvals(names[0]))
            if not opened and number == segment:
                continue
            if self.clock.now() >= expected >= retention_ms >= 0 or found.log_start == found.next:
                return  # meanwhile its time has come
            if self.model.altering is None:
                assert set(ends) == {-1 if retention_ms < 0 else expected}, (number, ends, expected)
            else:
                assert all(end == -1 or end >= expected >= retention_ms >= 0 for end in ends), (number, ends, expected)
        assert found.bytes == held
