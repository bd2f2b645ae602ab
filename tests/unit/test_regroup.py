"""Records that wait while their topic grows: moved once, in order, with their futures; and then all of it at random."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any, NamedTuple
from zlib import crc32

import pytest

from streamlayer._core.accumulator import TopicQueue
from streamlayer._core.batch import Batch
from streamlayer._core.calls import Trimmed
from streamlayer._core.columns import runs
from streamlayer._core.filling import Filling
from streamlayer._core.futures import error_of_record, metadata_of, on_its_way, ranges_of, tell
from streamlayer._core.refusals import Refusal, error_from_reply
from streamlayer._core.regrouping import follow, regroup
from streamlayer._core.settlement import give_up_late, note_trims, settle
from streamlayer.errors import (
    AuthorizationError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    RequestTimedOutError,
    ServerFullError,
    ServerUnavailableError,
    StreamlayerError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from tests.profiles import examples
from tests.unit.batches import NOW, STAMP, Buffer, Silence, appended, layout, no

FULL = ServerFullError("full")
CUT = ServerUnavailableError("cut")
ERROR = RequestTimedOutError("over")
SILENCE = Silence(CUT)
AHEAD = STAMP - NOW
"""What the records' clock is ahead of the accumulator's."""


class Client:
    """A producer's buffer, filled the way `Producer` does, and the places of what it was given."""

    def __init__(self, partitions: int = 2, *, idempotent: bool = True, batch_size: int = 10_000) -> None:
        self.buffer = Buffer(partitions, idempotent=idempotent, batch_size=batch_size)
        self.accumulator = self.buffer.accumulator
        self.topic = self.buffer.topic
        self.filling = Filling(self.accumulator, 1 << 30)

    def add(
        self, key: bytes | None, value: bytes, partition: int | None = None, *, now: int = NOW, **given: Any
    ) -> tuple[Batch, int]:
        """Give a record; its batch and its index."""
        given = {"timestamp": now + AHEAD, "headers": None} | given
        batch, index, _ = self.filling.add(
            self.topic, key, value, partition, given["timestamp"], given["headers"], 20 + len(value), now
        )
        assert batch is not None
        return batch, index

    def known(self) -> None:
        """Let the server know this producer in each partition: from now on five batches go at once."""
        for number, partition in enumerate(self.topic.partitions):
            batch, _ = self.add(None, b"first", number)
            self.accumulator.seal(batch)
            assert batch in self.accumulator.drain(NOW)
            self.accumulator.succeed(batch, 0, 1, NOW)
            assert partition.sequence == 1

    def round(self, *outcomes: Any, now: int = NOW) -> tuple[list[Batch], Any]:
        """Drain a round and settle it with these outcomes."""
        batches = self.accumulator.drain(now)
        assert len(batches) == len(outcomes), batches
        result = settle(self.accumulator, batches, outcomes, now)
        for batch in result.done:
            tell(batch)
        return batches, result

    def follow(self, found: Any, now: int = NOW) -> Any:
        """Read the topic again, and find this."""
        result = follow(self.accumulator, self.topic, found, now, now + AHEAD)
        for batch in result.done:
            tell(batch)
        return result

    def waiting(self) -> list[list[bytes | None]]:
        """The values that wait, by partition."""
        return [
            [value for batch in partition.sealed for value in batch.values] + list(partition.open.values)
            for partition in self.topic.partitions
        ]


def key_for(partition: int, partitions: int, after: int | None = None, among: int = 0) -> bytes:
    """A key that its hash puts there; and there, among as many as there will be."""
    return next(
        key
        for key in (b"key%d" % i for i in count())
        if crc32(key) % partitions == partition and (after is None or crc32(key) % among == after)
    )


# --- the words of another layout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["GROWING", "STALE_GENERATION", "WRONG_PARTITION"])
def test_a_word_of_another_layout_fails_nothing_and_stops_the_topic(word: str) -> None:
    """The refused batch and all behind it wait, under the next producer epoch; nothing of the topic is sent."""
    client = Client()
    client.known()
    one, _ = client.add(key_for(0, 2), b"a")
    client.accumulator.seal(one)
    two, _ = client.add(key_for(0, 2), b"b")
    other, _ = client.add(None, b"c", 1)
    client.accumulator.seal(two)
    client.accumulator.seal(other)
    _, result = client.round(no(word, "3"), no("GAP", "1"), appended(1))
    assert result.done == [other]
    assert (result.again, result.trouble, result.losses) == (True, None, [])
    assert client.topic.stale
    assert client.topic.partitions[0].epoch == 1
    later, _ = client.add(None, b"d", 1)
    client.accumulator.seal(later)
    assert client.accumulator.drain(NOW) == []
    assert client.accumulator.stale_topics(NOW) == [client.topic]
    assert client.accumulator.next_ready(NOW) == 0


def test_an_answer_of_a_higher_generation_stops_the_topic() -> None:
    """A producer of records without key hears of new partitions with its next append."""
    client = Client()
    batch, _ = client.add(None, b"a")
    client.accumulator.seal(batch)
    client.round(appended(0, generation=2))
    assert client.accumulator.stale
    client.follow(layout(3))
    assert not client.accumulator.stale
    assert (client.topic.count, client.topic.generation, len(client.topic.opens)) == (3, 2, 3)


def test_an_answer_of_the_same_generation_stops_nothing() -> None:
    """Nor does a lower one, of a batch that was appended before."""
    client = Client()
    client.topic.generation = 2
    batch, _ = client.add(None, b"a")
    client.accumulator.seal(batch)
    client.round(appended(0, generation=2))
    assert not client.accumulator.stale


def test_what_may_be_in_the_log_is_decided_first() -> None:
    """A stale topic sends its frozen batches, byte for byte, and nothing behind them; only then it is read again."""
    client = Client()
    client.known()
    key = key_for(0, 2)
    batches = []
    for value in (b"a", b"b", b"c"):
        batch, _ = client.add(key, value)
        client.accumulator.seal(batch)
        batches.append(batch)
    client.round(SILENCE, SILENCE, SILENCE)
    later, _ = client.add(key, b"d")
    client.accumulator.seal(later)
    _, result = client.round(appended(1), SILENCE, no("GROWING", "3"), no("GAP", "4"))
    assert result.trouble is CUT
    assert client.topic.stale
    assert client.accumulator.stale_topics(NOW) == []
    assert client.accumulator.next_ready(NOW) == 0
    sent = [(batch.epoch, batch.sequence) for batch in batches[1:]]
    again, _ = client.round(appended(2, generation=2), no("STALE_GENERATION", "2"))
    assert again == batches[1:]
    assert [(batch.epoch, batch.sequence) for batch in again] == sent
    assert not client.topic.undecided
    assert client.accumulator.stale_topics(NOW) == [client.topic]


def test_a_frozen_batch_behind_a_refused_one_is_not_asked_for() -> None:
    """Asked for alone it would meet a gap, which means loss; it is certainly not there, and its copies are fenced."""
    client = Client()
    client.known()
    one, _ = client.add(None, b"a", 0)
    client.accumulator.seal(one)
    two, _ = client.add(None, b"b", 0)
    client.accumulator.seal(two)
    client.round(FULL, SILENCE)
    assert two.frozen
    client.topic.stale = True
    assert client.accumulator.drain(NOW) == []
    assert not two.frozen
    assert client.topic.partitions[0].epoch == 1
    assert client.accumulator.stale_topics(NOW) == [client.topic]


# --- what the registry says ------------------------------------------------------------------------------------------


def test_a_growth_that_is_under_way_is_asked_for_again_soon_and_then_less_often() -> None:
    """2 ms, 4, 8 … 64: then what was refused goes again, and the topic is read again. No trouble is told."""
    client = Client()
    batch, _ = client.add(key_for(0, 2), b"a")
    client.accumulator.seal(batch)
    now, waits = NOW, []
    for _ in range(8):
        (sent,), result = client.round(no("GROWING", "3"), now=now)
        assert sent is batch
        assert client.accumulator.stale_topics(now) == [client.topic]
        result = client.follow(layout(2, 1), now)
        assert (result.trouble, result.done) == (None, [])
        assert client.accumulator.stale_topics(now) == []
        assert client.accumulator.drain(now) == []
        wait = client.accumulator.next_ready(now)
        assert wait is not None
        waits.append(wait)
        now += wait
        batch.deadline = now + 1000
    assert waits == [2, 4, 8, 16, 32, 64, 64, 64]
    client.round(no("GROWING", "3"), now=now)
    client.follow(layout(3), now)
    assert client.accumulator.next_ready(now) == 0
    assert client.topic.asked == 0
    now += 60_000
    client.topic.stale = True
    client.follow(layout(3), now)
    assert client.accumulator.next_ready(now) == 2


def test_a_partition_that_was_set_back_is_waited_for() -> None:
    """A restored server has an older layout in one partition than this producer; once it is mended, all goes on."""
    client = Client()
    batch, _ = client.add(key_for(0, 2), b"a")
    client.accumulator.seal(batch)
    client.round(no("STALE_GENERATION", "0"))
    assert client.topic.stale
    client.follow(layout(2, 1))
    assert not client.topic.stale
    _, result = client.round(appended(0), now=NOW + 2)
    assert result.done == [batch]
    assert batch.moved is None


def test_the_time_of_delivery_ends_while_partitions_are_being_added() -> None:
    """What was not written says so, and why."""
    client = Client()
    batch, index = client.add(key_for(0, 2), b"a")
    client.accumulator.seal(batch)
    client.round(no("GROWING", "3"))
    result = client.follow(layout(2, 1), NOW + 1000)
    assert result.done == [batch]
    error = error_of_record(batch, index)
    assert isinstance(error, RequestTimedOutError)
    assert "it was not written" in str(error)
    assert "partitions are being added" in str(error)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (None, UnknownTopicOrPartitionError),
        (UnknownTopicOrPartitionError("gone"), UnknownTopicOrPartitionError),
        (layout(3, topic_id="another"), UnknownTopicIdError),
        (layout(1, 3), UnknownTopicIdError),
        (layout(2, 0), UnknownTopicIdError),
    ],
)
def test_a_topic_that_is_gone_fails_as_a_whole(found: Any, kind: type[StreamlayerError]) -> None:
    """As when an append says so: each record fails, and the next send opens the topic anew."""
    client = Client()
    sealed, _ = client.add(key_for(0, 2), b"a")
    client.accumulator.seal(sealed)
    opened, _ = client.add(None, b"b", 1)
    client.topic.stale = True
    result = client.follow(found)
    assert result.done == [sealed, opened]
    assert {type(batch.error) for batch in result.done} == {kind}
    assert result.gone == {"orders"}
    assert client.accumulator.empty
    assert not client.accumulator.stale


def test_trouble_with_reading_the_topic_is_trouble_with_the_round() -> None:
    """It is told and tried again; what will not pass fails the topic's records, and later ones are tried anew."""
    client = Client()
    batch, _ = client.add(key_for(0, 2), b"a")
    client.accumulator.seal(batch)
    client.topic.stale = True
    result = client.follow(CUT)
    assert result.trouble is CUT
    assert result.done == []
    assert client.accumulator.next_ready(NOW) == 2
    late = client.follow(CUT, NOW + 1000)
    assert late.done == [batch]
    assert isinstance(batch.error, ServerUnavailableError)
    other, _ = client.add(key_for(0, 2), b"b")
    result = client.follow(AuthorizationError("no"))
    assert result.done == [other]
    assert isinstance(other.error, AuthorizationError)
    assert client.topic.stale
    assert result.gone == set()


def test_nothing_is_moved_while_something_is_undecided() -> None:
    """A batch was frozen while the topic was read: it goes first."""
    client = Client()
    client.known()
    batch, _ = client.add(key_for(0, 2), b"a")
    client.accumulator.seal(batch)
    client.round(SILENCE)
    client.topic.stale = True
    client.follow(layout(3))
    assert client.topic.stale
    assert batch.moved is None


# --- who goes where --------------------------------------------------------------------------------------------------


def test_records_with_keys_move_and_all_others_stay() -> None:
    """By key: to hash % new count. Without key, or with a partition of the sender's choice: where they were."""
    client = Client()
    values = defaultdict(list)
    for i in range(40):
        key = b"key%d" % i
        client.add(key, b"h%d" % i)
        values[crc32(key) % 3].append(b"h%d" % i)
        client.add(key, b"p%d" % i, i % 2)
        values[i % 2].append(b"p%d" % i)
        client.add(None, b"n%d" % i, i % 2)
        values[i % 2].append(b"n%d" % i)
    for run in runs([b"r"] * 3, [b"key%d" % i for i in range(3)], STAMP, 1, 2, crc32, 20):
        client.filling.add_run(client.topic, run, 0, None, NOW)
    values[1] += [b"r"] * 3
    for run in runs([b"s%d" % i for i in range(9)], [b"key%d" % i for i in range(9)], STAMP, None, 2, crc32, 20):
        client.filling.add_run(client.topic, run, 0, None, NOW)
    for i in range(9):
        values[crc32(b"key%d" % i) % 3].append(b"s%d" % i)
    regroup(client.accumulator, client.topic, layout(3), NOW, STAMP)
    for number, found in enumerate(client.waiting()):
        assert sorted(found) == sorted(values[number])  # type: ignore[type-var]
    for partition in client.topic.partitions:
        for batch in partition.sealed:
            hashed = [key for i, key in enumerate(batch.keys) if key and i not in (batch.pinned or ())]
            assert {crc32(key) % 3 for key in hashed} <= {partition.number}
            assert (batch.key_hash in {crc32(key) for key in hashed}) if hashed else batch.key_hash is None
            assert batch.partition is partition


def test_what_no_key_placed_stays_as_it_is() -> None:
    """Batches without such a record keep their bytes and their futures, in their place among those that were moved."""
    client = Client()
    client.known()
    key = key_for(0, 2, after=0, among=3)
    one, _ = client.add(None, b"a", 0)
    client.accumulator.seal(one)
    two, _ = client.add(key, b"b")
    client.accumulator.seal(two)
    three, _ = client.add(b"pinned", b"c", 0)
    client.accumulator.seal(three)
    frames = one.frame(0), three.frame(0)
    regroup(client.accumulator, client.topic, layout(3), NOW, STAMP)
    (first, second, third) = client.topic.partitions[0].sealed
    assert (first, third) == (one, three)
    assert (one.frame(0), three.frame(0)) == frames
    assert one.moved is three.moved is None
    assert second.values == [b"b"]
    assert [batch.sequence for batch in client.accumulator.drain(NOW)] == [1, 2, 3]


def test_a_batch_whose_keyed_record_was_refused_is_no_longer_checked_for_it() -> None:
    """Its hash would keep the others out of their own partition under the new layout."""
    client = Client()
    batch, _ = client.add(key_for(0, 2, after=2, among=3), b"a")
    client.add(None, b"b", 0)
    client.accumulator.seal(batch)
    batch.refuse({0: InvalidTimestampError("bad")})
    regroup(client.accumulator, client.topic, layout(3), NOW, STAMP)
    assert list(client.topic.partitions[0].sealed) == [batch]
    assert batch.key_hash is None


def test_partitions_meet_in_the_order_of_sending() -> None:
    """Records of two old partitions that go to one new one are merged by the time at which they were given."""
    client = Client()
    keys = key_for(0, 2, after=2, among=3), key_for(1, 2, after=2, among=3)
    for i in range(20):
        batch, _ = client.add(keys[i % 3 % 2], b"%d" % i, now=NOW + 10 * i)
        if i % 7 == 0:
            client.accumulator.seal(batch)
    regroup(client.accumulator, client.topic, layout(3), NOW + 999, NOW + 999 + AHEAD)
    assert client.waiting() == [[], [], [b"%d" % i for i in range(20)]]


def test_times_of_the_senders_choice_do_not_break_the_order_of_a_partition() -> None:
    """Times may go back, and lie anywhere: a partition's records keep their order, whatever is merged with them."""
    client = Client()
    keys = key_for(0, 2, after=2, among=3), key_for(1, 2, after=2, among=3)
    dice = random.Random(7)
    for i in range(200):
        batch, _ = client.add(keys[i % 2], b"%d" % i, now=NOW + i, timestamp=STAMP + dice.randint(-(10**9), 10**9))
        if dice.random() < 0.1:
            client.accumulator.seal(batch)
    regroup(client.accumulator, client.topic, layout(3), NOW + 300, STAMP + 300)
    found = [int(value or b"") for value in client.waiting()[2]]
    assert sorted(found) == list(range(200))
    for remainder in (0, 1):
        mine = [i for i in found if i % 2 == remainder]
        assert mine == sorted(mine)


def test_all_of_a_record_is_moved() -> None:
    """Key, value, time, headers: none of them changes, and nobody gets another's."""
    client = Client()
    for i in range(6):
        headers = (("n", b"%d" % i),) if i % 3 == 0 else None
        client.add(b"key%d" % i, b"v%d" % i, timestamp=STAMP + i, headers=headers)
    regroup(client.accumulator, client.topic, layout(5), NOW, STAMP)
    found = {}
    for partition in client.topic.partitions:
        for batch in partition.sealed:
            batch.frame(0)
            headers = batch.headers or [None] * len(batch.values)
            for key, value, timestamp, header in zip(batch.keys, batch.values, batch.timestamps, headers, strict=True):
                found[value] = key, timestamp, header
    assert found == {
        b"v%d" % i: (b"key%d" % i, STAMP + i, (("n", b"%d" % i),) if i % 3 == 0 else None) for i in range(6)
    }


def test_batches_are_as_large_as_they_may_be_and_memory_is_counted() -> None:
    """Small batches become few; none is larger than the room, which may have changed; a huge record goes alone."""
    client = Client(batch_size=400)
    for i in range(60):
        batch, _ = client.add(b"key%d" % (i % 7), b"v" * 50)
        if i % 2:
            client.accumulator.seal(batch)
    client.add(b"key1", b"h" * 500)
    regroup(client.accumulator, client.topic, layout(3, batch_size=300), NOW, STAMP)
    sealed = [batch for partition in client.topic.partitions for batch in partition.sealed]
    assert sum(len(batch.values) for batch in sealed) == 61
    assert client.accumulator.bytes == sum(batch.size for batch in sealed)
    for batch in sealed:
        assert batch.size <= client.topic.room == 260 or len(batch.values) == 1
    assert max(len(batch.values) for batch in sealed) == 3
    while batches := client.accumulator.drain(NOW):
        for batch in batches:
            client.accumulator.succeed(batch, 0, 1, NOW)
    assert client.accumulator.bytes == 0


def test_a_moved_record_keeps_its_deadline_or_an_earlier_one() -> None:
    """Moving gives nobody more time: a new batch ends when the first of its records would have ended."""
    client = Client()
    one, _ = client.add(key_for(1, 2, after=1, among=3), b"a", now=NOW)
    two, _ = client.add(key_for(0, 2, after=2, among=3), b"b", now=NOW + 50)
    client.add(key_for(1, 2, after=2, among=3), b"c", now=NOW + 60)
    regroup(client.accumulator, client.topic, layout(3), NOW + 70, STAMP + 70)
    heir = client.topic.partitions[2].sealed[0]
    assert heir.values == [b"b", b"c"]
    assert heir.deadline == one.deadline < two.deadline
    client.accumulator.fail(client.topic.partitions[1].sealed[0], ERROR)
    assert client.accumulator.expired(NOW + 1000) == [heir]


def test_partitions_go_on_in_their_sequence_and_new_ones_begin() -> None:
    """What the server knows of this producer is still so: next number, epoch, segment, what is to be dropped."""
    client = Client()
    client.known()
    old = client.topic.partitions[1]
    old.epoch, old.segment, old.trim = 3, 4, (1, 2)
    regroup(client.accumulator, client.topic, layout(3), NOW, STAMP)
    queue, new = client.topic.partitions[1:]
    assert (queue.sequence, queue.epoch, queue.segment, queue.trim) == (1, 3, 4, (1, 2))
    assert (new.sequence, new.epoch, new.segment, new.trim) == (0, 0, 0, None)
    assert queue.last_append == NOW


# --- futures ---------------------------------------------------------------------------------------------------------


def scattered(records: int = 12) -> tuple[Client, Batch]:
    """A batch whose records were moved to three partitions."""
    client = Client(1)
    for i in range(records):
        batch, _ = client.add(b"key%d" % i, b"v%d" % i, timestamp=STAMP + i)
    regroup(client.accumulator, client.topic, layout(3), NOW, STAMP)
    assert len(client.topic.partitions[0].sealed) == 1
    return client, batch


def heirs_of(client: Client) -> list[Batch]:
    """The only batch of each partition."""
    return [partition.sealed[0] for partition in client.topic.partitions]


def test_a_moved_batch_is_decided_when_all_of_its_records_are() -> None:
    """Its latch and its callbacks wait for the last one; then each record says where it is."""
    client, origin = scattered()
    heirs = heirs_of(client)
    called: list[int] = []
    origin.callbacks = [lambda: called.append(1)]
    for number, heir in enumerate(heirs):
        assert not origin.done.is_set()
        assert not called
        assert on_its_way(origin)
        client.accumulator.succeed(heir, 100 * number, 1, NOW)
        tell(heir)
    assert origin.done.is_set()
    assert called == [1]
    assert not on_its_way(origin)
    places = Counter[int]()
    for i in range(12):
        number = crc32(b"key%d" % i) % 3
        metadata = metadata_of(origin, i)
        assert (metadata.partition, metadata.offset) == (number, 100 * number + places[number])
        assert metadata.timestamp == STAMP + i
        places[number] += 1


def test_a_batch_that_was_moved_twice_is_decided_too() -> None:
    """Heirs become origins; a future follows through both."""
    client, origin = scattered()
    first = heirs_of(client)
    regroup(client.accumulator, client.topic, layout(7, 3), NOW, STAMP)
    for number, partition in enumerate(client.topic.partitions):
        for heir in list(partition.sealed):
            client.accumulator.succeed(heir, 100 * number, 1, NOW)
    sealed = {batch for heir in first if heir.moved for batch in heir.moved.heirs}
    for heir in sealed:
        assert not origin.done.is_set()
        tell(heir)
    assert origin.done.is_set()
    assert all(batch.done.is_set() for batch in first)
    for i in range(12):
        assert metadata_of(origin, i).partition == crc32(b"key%d" % i) % 7


def test_a_failed_heir_fails_its_records_only() -> None:
    """And what a future told is not told again by `flush`."""
    client, origin = scattered()
    zero, one, two = heirs_of(client)
    error = MessageSizeTooLargeError("large")
    client.accumulator.fail(one, error)
    for heir in (zero, two):
        client.accumulator.succeed(heir, 0, 1, NOW)
    for i in range(12):
        number = crc32(b"key%d" % i) % 3
        assert error_of_record(origin, i) is (error if number == 1 else None)
    assert client.accumulator.take_failures() == []


def test_records_refused_before_and_after_the_move() -> None:
    """A bad time found under the old layout, then another under the new one: each fails alone, the others are found."""
    client = Client(1)
    for i in range(12):
        batch, _ = client.add(b"key%d" % i, b"v%d" % i)
    client.accumulator.seal(batch)
    before, after = InvalidTimestampError("before"), InvalidTimestampError("after")
    batch.refuse({0: before, 5: before})
    regroup(client.accumulator, client.topic, layout(3), NOW, STAMP)
    lost = []
    for heir in heirs_of(client):
        lost.append(heir.values[1])
        heir.refuse({1: after})
        heir.refuse({0: after} if heir.partition.number == 2 else {})
        client.accumulator.succeed(heir, 0, 1, NOW)
    logs = [
        [b"v%d" % i for i in range(12) if crc32(b"key%d" % i) % 3 == number and i not in {0, 5}] for number in range(3)
    ]
    lost.append(logs[2][0])
    logs = [[value for value in log if value not in lost] for log in logs]
    for i in range(12):
        value = b"v%d" % i
        error = error_of_record(batch, i)
        if i in {0, 5}:
            assert error is before
        elif value in lost:
            assert error is after
        else:
            metadata = metadata_of(batch, i)
            assert logs[metadata.partition][metadata.offset] == value


def test_the_ranges_of_a_send_many_that_was_moved() -> None:
    """They are joined where they touch, whoever else's records are between them."""
    client = Client(1)
    mine = [client.add(b"key%d" % i, b"m%d" % i) for i in range(6)]
    client.add(key_for(0, 2), b"theirs")
    mine += [client.add(b"key%d" % i, b"m%d" % i) for i in range(6, 12)]
    batch = mine[0][0]
    regroup(client.accumulator, client.topic, layout(2), NOW, STAMP)
    logs = []
    for heir in heirs_of(client):
        logs.append(list(heir.values))
        client.accumulator.succeed(heir, 10, 1, NOW)
    found = ranges_of([(batch, 0, 6), (batch, 7, 6)])
    values = {
        logs[part.partition][offset - 10]
        for part in found
        for offset in range(part.base_offset, part.base_offset + part.count)
    }
    assert values == {b"m%d" % i for i in range(12)}
    assert sum(part.count for part in found) == 12
    assert [part.partition for part in found] == [0, 0, 1]
    for one, two in pairwise(found):
        assert one.partition < two.partition or one.base_offset + one.count < two.base_offset


def test_the_ranges_of_a_send_many_that_failed_in_part() -> None:
    """The first error comes out, and counts as told."""
    client, origin = scattered()
    zero, one, two = heirs_of(client)
    client.accumulator.fail(two, MessageSizeTooLargeError("large"))
    for heir in (zero, one):
        client.accumulator.succeed(heir, 0, 1, NOW)
    with pytest.raises(MessageSizeTooLargeError):
        ranges_of([(origin, 0, 12)])
    assert client.accumulator.take_failures() == []


# --- all of it at random ---------------------------------------------------------------------------------------------


class Request(NamedTuple):
    """An append as it travels."""

    partition: int
    generation: int
    key_hash: int | None
    segment: int
    epoch: int
    sequence: int
    crc: int
    values: tuple[bytes, ...]
    bad: bool


class Told(NamedTuple):
    """A record as its sender meant it."""

    value: bytes
    batch: Batch
    index: int


@dataclass
class Partition:
    """One partition of the server."""

    number: int
    generation: int
    count: int
    growing: bool = False
    segment: int = 0
    full_of_old: bool = False
    log: list[bytes] = field(default_factory=list)
    known: tuple[int, int] | None = None
    batches: deque[tuple[int, int, int, int]] = field(default_factory=lambda: deque(maxlen=5))


class Server:
    """append.lua's rules, the three steps of growing, and the registry; it looks at each record that comes in."""

    def __init__(self, dice: random.Random, partitions: int) -> None:
        self.dice = dice
        self.partitions = [Partition(number, 1, partitions) for number in range(partitions)]
        self.count, self.generation, self.target = partitions, 1, 0
        self.steps: list[tuple[str, int]] = []
        self.journal: list[tuple[int, bytes]] = []

    # --- growing

    def begin(self, target: int) -> None:
        """The registry says growing."""
        self.target = target
        numbers = list(range(self.count))
        for what in ("freeze", "grow"):
            self.dice.shuffle(numbers)
            self.steps += [(what, number) for number in numbers]
        self.steps.append(("ready", 0))
        generation = self.generation + 1
        self.partitions += [Partition(number, generation, target) for number in range(self.count, target)]

    def step(self) -> None:
        """The next thing that happens to the layout."""
        what, number = self.steps.pop(0)
        partition = self.partitions[number]
        if what == "freeze":
            partition.growing = True
        elif what == "grow":
            partition.growing, partition.generation, partition.count = False, self.generation + 1, self.target
        else:
            self.count, self.generation = self.target, self.generation + 1

    # --- appending

    def execute(self, request: Request) -> Any:
        """What append.lua does."""
        partition = self.partitions[request.partition]
        verdict = self._judge(partition, request)
        if verdict is not None:
            return verdict
        if request.key_hash is not None:
            if partition.growing:
                return Refusal("GROWING", str(self.target))
            if request.generation != partition.generation:
                return Refusal("STALE_GENERATION", str(partition.generation))
            if request.key_hash % partition.count != partition.number:
                return Refusal("WRONG_PARTITION", str(partition.count))
        if any(value.startswith(b"L") for value in request.values):
            return Refusal("TOO_LARGE", "10")
        if request.bad:
            return Refusal("BAD_TIMESTAMP", f"{STAMP - 10**6} {STAMP + 10**6}")
        if request.segment != partition.segment:
            return Refusal("SEGMENT", str(partition.segment))
        if partition.full_of_old:
            return Refusal("TRIM", "0 3")
        return self._append(partition, request)

    def _judge(self, partition: Partition, request: Request) -> Any:
        epoch, sequence = request.epoch, request.sequence
        held, following = partition.known or (epoch, 0)
        if sequence < 0:
            return None  # without idempotence
        if epoch < held:
            return error_from_reply(f"FENCED_PRODUCER {held}", "orders", 0)
        if epoch > held:
            following = 0
        if sequence > following:
            return Refusal("GAP", str(following))
        if sequence == following:
            return None
        for first, records, crc, base in partition.batches:
            if first == sequence and (records, crc) == (len(request.values), request.crc):
                return appended(base, partition.segment, partition.generation)
            if first == sequence:
                return error_from_reply(f"SEQUENCE_REUSED {sequence}", "orders", 0)
        return Refusal("STALE", str(following))

    def _append(self, partition: Partition, request: Request) -> Any:
        for value in request.values:
            if value.startswith(b"h"):
                key = value.split(b":")[1]
                assert not partition.growing, "a key's record in a frozen partition"
                assert crc32(key) % partition.count == partition.number, "a key's record in another's partition"
        base = len(partition.log)
        partition.log += request.values
        self.journal += [(partition.number, value) for value in request.values]
        if request.sequence >= 0:
            if partition.known is None or partition.known[0] != request.epoch:
                partition.batches.clear()
            partition.batches.append((request.sequence, len(request.values), request.crc, base))
            partition.known = request.epoch, request.sequence + len(request.values)
        return appended(base, partition.segment, partition.generation)


class History:
    """One producer's buffer, one server, and all that can come between them."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self.idempotent = dice.random() < 0.8
        self.told_early = not self.idempotent and dice.random() < 0.5  # acks=0
        self.calm = False
        self.faults = dice.choice([0.02, 0.1, 0.3])
        partitions = dice.randint(1, 3)
        self.server = Server(dice, partitions)
        self.client = Client(partitions, idempotent=self.idempotent, batch_size=dice.choice([100, 300, 2000]))
        self.accumulator, self.topic = self.client.accumulator, self.client.topic
        self.records: list[Told] = []
        self.late: list[Request] = []
        self.sent: dict[Batch, Request] = {}
        self.undecided: list[Told] = []
        self.decided: dict[bytes, Any] = {}
        self.now = NOW
        self.moves = 0

    def chance(self, share: float) -> bool:
        """Whether it happens, this time."""
        return not self.calm and self.dice.random() < share

    # --- what the producer is given

    def give(self) -> None:
        """One record, of one of the kinds."""
        dice, number = self.dice, len(self.records)
        kind = dice.choice("hhhhkp")
        flaw = dice.choice(["L", "T"]) if self.chance(0.01) else ""
        key: bytes | None = b"key%d" % dice.randrange(9)
        timestamp = 5 if flaw == "T" else self.now + AHEAD + dice.choice([0, 0, 0, dice.randint(-9999, 9999)])
        place = None
        if kind == "p":
            place = dice.randrange(self.topic.count)
        elif kind == "k":
            key, place = None, dice.choice([None, dice.randrange(self.topic.count)])
        name = key if kind == "h" else b"%d" % (-1 if place is None else place)
        assert name is not None
        value = b":".join([b"L" if flaw == "L" else kind.encode(), name, b"%d" % number])
        batch, index = self.client.add(key, value, place, now=self.now, timestamp=timestamp)
        self.records.append(Told(value, batch, index))
        self.undecided.append(self.records[-1])
        if self.chance(0.1):
            self.accumulator.seal(batch)

    # --- rounds

    def request(self, batch: Batch) -> Request:
        """A batch as it is sent."""
        request = Request(
            batch.partition.number,
            self.topic.generation,
            batch.key_hash,
            batch.partition.segment,
            batch.epoch,
            batch.sequence if self.idempotent else -1,
            batch.frame(0)[1],
            tuple(value or b"" for value in batch.values),
            5 in batch.timestamps,
        )
        if batch.frozen:
            assert request._replace(segment=0) == self.sent[batch]._replace(segment=0), "a frozen batch was changed"
        assert not self.topic.stale or batch.frozen, "something new of a stale topic"
        self.sent[batch] = request
        return request

    def round(self) -> None:
        """Send what is ready; some of it arrives, some of that is answered."""
        batches = self.accumulator.drain(self.now)
        if not batches:
            return
        requests = [self.request(batch) for batch in batches]
        if self.told_early:
            for batch in batches:
                tell(batch)
        places = dict.fromkeys(batch.partition for batch in batches)
        trims = [partition for partition in places if partition.trim is not None]
        dropped = [self.trim(partition.number) for partition in trims]
        answered = executed = len(requests)
        if self.chance(self.faults):
            answered = self.dice.randint(0, len(requests))
            executed = self.dice.randint(answered, len(requests))
        outcomes = [self.travel(request) for request in requests[:executed]]
        outcomes[answered:] = [SILENCE] * (len(requests) - answered)
        self.late += [request for request in requests[executed:] if self.chance(0.6)]
        note_trims(trims, dropped)
        settled = settle(self.accumulator, batches, outcomes, self.now)
        assert settled.fatal is None, settled.fatal
        assert settled.losses == [], "the server lost nothing"
        if self.told_early:
            for batch in settled.done:
                batch.base_offset = -1
        if settled.trouble or settled.again:
            settled.done += give_up_late(self.accumulator, settled.trouble, self.now)
        self.tell(settled.done)

    def travel(self, request: Request) -> Any:
        """One request on its way to the server and back."""
        if self.chance(self.faults / 2):
            return FULL
        outcome = self.server.execute(request)
        self.happen()
        return outcome

    def trim(self, number: int) -> Any:
        """Drop old segments, or fail to."""
        if self.chance(self.faults):
            return self.dice.choice([SILENCE, FULL, no("NOSCRIPT")])
        self.server.partitions[number].full_of_old = self.chance(0.2)
        return Trimmed(0, 0, 3) if self.server.partitions[number].full_of_old else Trimmed(0, -1, -1)

    def happen(self) -> None:
        """What others do between two requests."""
        server, dice = self.server, self.dice
        if server.steps and self.chance(0.3):
            server.step()
        elif not server.steps and self.chance(0.04) and server.count < 12:
            server.begin(server.count + dice.randint(1, 4))
        if self.chance(0.03):
            dice.choice(server.partitions).segment += 1
        if self.chance(0.03):
            dice.choice(server.partitions).full_of_old = True
        while self.late and self.chance(0.3):
            server.execute(self.late.pop(dice.randrange(len(self.late))))

    def read_again(self) -> None:
        """Follow the topic, as the sender does."""
        for topic in self.accumulator.stale_topics(self.now):
            found: TopicQueue | StreamlayerError
            if self.chance(self.faults):
                found = CUT
            elif self.chance(0.2):
                found = layout(self.server.count, self.server.generation)
            else:
                while self.server.steps:
                    self.server.step()
                found = layout(self.server.count, self.server.generation, batch_size=self.dice.choice([100, 600]))
            generation = topic.generation
            result = follow(self.accumulator, topic, found, self.now, self.now + AHEAD)
            self.moves += topic.generation > generation
            assert result.gone == set()
            self.tell(result.done)

    def tell(self, done: list[Batch]) -> None:
        """Let the futures know, and remember what they said."""
        for batch in done:
            assert self.told_early or not batch.done.is_set(), "decided twice"
            tell(batch)

    # --- the whole of it

    def run(self) -> None:
        """A history, then calm until all is decided; then the judgement."""
        for _ in range(self.dice.choice([10, 40, 80])):
            for _ in range(self.dice.choice([0, 1, 3, 8])):
                self.give()
            self.happen()
            self.round()
            self.read_again()
            self.now += self.dice.choice([0, 1, 5, 20, 700 if self.chance(self.faults) else 5])
            self.check()
        self.calm = True
        for _ in range(400):
            if self.accumulator.empty:
                break
            self.round()
            self.read_again()
            self.now += 1
            self.check()
        assert self.accumulator.empty
        for request in self.late:
            self.server.execute(request)
        self.check()
        self.judge()

    def check(self) -> None:
        """What holds at any time."""
        sealed = [batch for queue in self.topic.partitions for batch in queue.sealed]
        assert self.accumulator.bytes == sum(batch.size for batch in sealed)
        assert all(batch.values and batch.moved is None for batch in sealed)
        undecided = []
        for told in self.undecided:
            if told.batch.done.is_set():
                self.decided[told.value] = self.outcome(told)
            else:
                undecided.append(told)
        self.undecided = undecided

    def outcome(self, told: Told) -> Any:
        """What a future says."""
        return error_of_record(told.batch, told.index) or metadata_of(told.batch, told.index)

    def judge(self) -> None:
        """Each record once or not at all, in its partition, in order, and where its future says."""
        times = Counter(value for _, value in self.server.journal)
        for told in self.records:
            assert told.batch.done.is_set()
            assert not on_its_way(told.batch)
            assert self.told_early or self.outcome(told) == self.decided[told.value], "an outcome changed"
            assert times[told.value] <= 1, f"{told.value!r} is there {times[told.value]} times"
            error = error_of_record(told.batch, told.index)
            if error is None and not self.told_early:
                metadata = metadata_of(told.batch, told.index)
                assert self.server.partitions[metadata.partition].log[metadata.offset] == told.value
            elif error is None:
                assert metadata_of(told.batch, told.index).offset == -1
            elif "may be" not in str(error):
                assert not times[told.value], f"{told.value!r} is there, but: {error}"
        last: dict[Any, int] = defaultdict(lambda: -1)
        for partition, value in self.server.journal:
            kind, name, number = value.split(b":")
            if kind == b"p":
                assert partition == int(name)
            order = name if kind == b"h" else partition, kind
            if self.idempotent:
                assert int(number) > last[order], f"{value!r} stands behind {last[order]}"
            last[order] = max(last[order], int(number))


BLOCKS = 4


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_key_is_in_one_partition_at_any_moment_and_nothing_is_lost_or_twice(block: int) -> None:
    """Growth at any moment between two requests, lost answers, late copies, refusals of every kind, deadlines."""
    moves = 0
    for seed in range(block, examples(500) * BLOCKS, BLOCKS):
        history = History(seed)
        try:
            history.run()
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
        moves += history.moves
    assert moves > 300
