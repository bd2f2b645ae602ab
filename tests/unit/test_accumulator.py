"""Batches on their way: sealed, numbered, drained, given up; and the memory that they take given back."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlayer._core.accumulator import (
    BATCHES_IN_FLIGHT,
    FRAME_LIMIT,
    FRAME_OVERHEAD,
    IDLE_MS,
    MOST_FAILED,
    TopicQueue,
)
from streamlayer._core.codec import decode_frames
from streamlayer._core.futures import metadata_of, ranges_of
from streamlayer._core.keys import partition_keys
from streamlayer.errors import InvalidTimestampError, RequestTimedOutError, StreamlayerError
from tests.profiles import examples
from tests.unit.batches import NOW, Buffer, Flag

ERROR = RequestTimedOutError("over")


def test_a_batch_lingers_and_then_is_ready() -> None:
    """`next_ready` counts down from the first record on; `drain` seals what has lingered."""
    buffer = Buffer(linger_ms=5)
    accumulator = buffer.accumulator
    assert accumulator.next_ready(NOW) is None
    buffer.add(b"a", now=NOW)
    buffer.add(b"b", now=NOW + 3)
    assert accumulator.next_ready(NOW) == 5
    assert accumulator.next_ready(NOW + 3) == 2
    assert accumulator.drain(NOW + 4) == []
    (batch,) = accumulator.drain(NOW + 5)
    assert batch.values == [b"a", b"b"]
    assert accumulator.next_ready(NOW + 5) == 0
    assert accumulator.next_ready(NOW + 50) == 0


def test_the_soonest_of_all_partitions_counts() -> None:
    """Of several open batches the oldest decides."""
    buffer = Buffer(3, linger_ms=10)
    buffer.add(b"a", 2, now=NOW + 4)
    buffer.add(b"b", 1, now=NOW)
    assert buffer.accumulator.next_ready(NOW + 6) == 4


def test_sealing_ends_lingering() -> None:
    """Who waits for a record does not wait for the clock; sealing twice or an empty batch does nothing."""
    buffer = Buffer(linger_ms=1000)
    batch, _ = buffer.add(b"a")
    buffer.accumulator.seal(batch)
    buffer.accumulator.seal(batch)
    buffer.accumulator.seal(buffer.partition.open)
    assert list(buffer.partition.sealed) == [batch]
    assert buffer.accumulator.next_ready(NOW) == 0
    assert buffer.topic.opens[0] is buffer.partition.open is not batch


def test_the_first_batch_goes_alone_then_five() -> None:
    """Until the server has answered once, nothing may overtake the first batch; after it five go at a time."""
    buffer = Buffer()
    batches = [buffer.batch(b"%d" % i) for i in range(9)]
    assert buffer.accumulator.drain(NOW) == batches[:1]
    buffer.accumulator.succeed(batches[0], 0, 1, NOW)
    assert buffer.accumulator.drain(NOW) == batches[1 : 1 + BATCHES_IN_FLIGHT]


def test_sequence_numbers_are_dense_in_send_order() -> None:
    """Each batch begins where the one before it ends."""
    buffer = Buffer()
    buffer.known()
    batches = [buffer.batch(*[b"v"] * n) for n in (3, 1, 2)]
    assert buffer.accumulator.drain(NOW) == batches
    assert [(batch.epoch, batch.sequence) for batch in batches] == [(0, 1), (0, 4), (0, 5)]


def test_a_refused_batch_keeps_its_number_and_a_split_one_moves_the_rest() -> None:
    """Numbers are given when a batch is sent; what is not frozen may get another."""
    buffer = Buffer()
    buffer.known()
    one, two = buffer.batch(b"a", b"b", b"c"), buffer.batch(b"d")
    buffer.accumulator.drain(NOW)
    one.refuse({1: InvalidTimestampError("bad")})
    assert buffer.accumulator.drain(NOW) == [one, two]
    assert (one.sequence, two.sequence) == (1, 3)


def test_a_frozen_batch_is_never_numbered_or_encoded_again() -> None:
    """Sent with an unknown result: the same bytes under the same number, and the next one behind it."""
    buffer = Buffer()
    buffer.known()
    one, two = buffer.batch(b"a", b"b"), buffer.batch(b"c")
    buffer.accumulator.drain(NOW)
    sent = (one.sequence, one.epoch, one.frame(0))
    one.frozen = True
    buffer.partition.sequence = 77  # whatever else may come: it must not matter
    buffer.accumulator.drain(NOW)
    assert (one.sequence, one.epoch, one.frame(0)) == sent
    assert one.frame(0)[0] is sent[2][0]
    assert two.sequence >= one.sequence + 2


def test_a_later_answer_does_not_set_the_sequence_back() -> None:
    """Batches may be found appended in another order than they were answered: numbers are not given twice."""
    buffer = Buffer()
    buffer.known()
    one, two, three = (buffer.batch(b"%d" % i) for i in range(3))
    buffer.accumulator.drain(NOW)
    one.frozen = two.frozen = True
    buffer.accumulator.succeed(two, 2, 1, NOW)
    buffer.accumulator.succeed(one, 1, 1, NOW)
    buffer.accumulator.drain(NOW)
    assert three.sequence == 3


def test_after_an_hour_of_silence_numbers_begin_anew() -> None:
    """A server may have forgotten a producer that long idle, and then takes nothing but sequence 0, alone."""
    buffer = Buffer()
    buffer.known()
    batches = [buffer.batch(b"a"), buffer.batch(b"b")]
    assert buffer.accumulator.drain(NOW + IDLE_MS) == batches[:1]
    assert (batches[0].epoch, batches[0].sequence) == (1, 0)
    buffer.accumulator.drain(NOW + IDLE_MS)
    assert (batches[0].epoch, batches[0].sequence) == (1, 0)


def test_a_frozen_batch_survives_an_hour_of_silence() -> None:
    """What may be in the log keeps its number however long it takes."""
    buffer = Buffer()
    buffer.known()
    batch = buffer.batch(b"a")
    buffer.accumulator.drain(NOW)
    batch.frozen = True
    assert buffer.accumulator.drain(NOW + 2 * IDLE_MS) == [batch]
    assert (batch.epoch, batch.sequence) == (0, 1)


def test_giving_up_a_frozen_batch_takes_the_frozen_ones_along() -> None:
    """Their places in the sequence are lost with its own; what is behind them starts over in a new epoch."""
    buffer = Buffer()
    buffer.known()
    one, two, three = (buffer.batch(b"%d" % i) for i in range(3))
    buffer.accumulator.drain(NOW)
    one.frozen = two.frozen = True
    assert buffer.accumulator.fail(one, ERROR) == [one, two]
    assert one.error is two.error is ERROR
    assert buffer.accumulator.drain(NOW) == [three]
    assert (three.epoch, three.sequence) == (1, 0)


def test_giving_up_one_that_was_refused_leaves_the_others_their_epoch() -> None:
    """A certain no costs nothing but the batch itself."""
    buffer = Buffer()
    buffer.known()
    one, two = buffer.batch(b"a"), buffer.batch(b"b")
    buffer.accumulator.drain(NOW)
    assert buffer.accumulator.fail(one, ERROR) == [one]
    assert buffer.accumulator.drain(NOW) == [two]
    assert (two.epoch, two.sequence) == (0, 1)


def test_giving_up_one_before_frozen_ones_fences_their_copies() -> None:
    """What is behind a batch that is certainly not there is not there either, but copies may still be on the way."""
    buffer = Buffer()
    buffer.known()
    one, two = buffer.batch(b"a"), buffer.batch(b"b")
    buffer.accumulator.drain(NOW)
    two.frozen = True
    assert buffer.accumulator.fail(one, ERROR) == [one]
    assert not two.frozen
    assert buffer.accumulator.drain(NOW) == [two]
    assert (two.epoch, two.sequence) == (1, 0)


def test_giving_up_all_takes_the_open_batch_too() -> None:
    """After a fatal error nothing of the partition waits, and a new epoch begins."""
    buffer = Buffer(2)
    sealed, (opened, _) = buffer.batch(b"a"), buffer.add(b"b")
    other = buffer.batch(b"c", partition=1)
    assert buffer.accumulator.fail_all(buffer.partition, ERROR) == [sealed, opened]
    assert buffer.partition.epoch == 1
    assert other.error is None
    assert not buffer.accumulator.empty


def test_only_the_head_of_a_queue_expires() -> None:
    """Order holds for failures too: a batch is not given up before the one in front of it."""
    buffer = Buffer(2)
    one = buffer.batch(b"a", now=NOW)
    buffer.batch(b"b", now=NOW - 500)
    other = buffer.batch(b"c", partition=1, now=NOW)
    assert buffer.accumulator.expired(NOW + 999) == []
    assert buffer.accumulator.expired(NOW + 1000) == [one, other]


def test_failures_are_told_once_and_not_twice() -> None:
    """`flush` raises what nobody was told of; what a future told is left out."""
    buffer = Buffer()
    one, two = buffer.batch(b"a"), buffer.batch(b"b")
    buffer.accumulator.fail(one, ERROR)
    buffer.accumulator.fail(two, ERROR)
    with pytest.raises(RequestTimedOutError):
        metadata_of(one, 0)
    assert buffer.accumulator.take_failures() == [ERROR]
    assert buffer.accumulator.take_failures() == []


def test_failures_that_somebody_was_told_of_are_not_kept() -> None:
    """Who asks each future and never flushes may go on for years: memory does not grow with what failed."""
    buffer = Buffer()
    accumulator = buffer.accumulator
    unheard = buffer.batch(b"unheard")
    accumulator.fail(unheard, ERROR)
    for _ in range(5 * MOST_FAILED):
        batch = buffer.batch(b"v")
        accumulator.fail(batch, RequestTimedOutError("told"))
        with pytest.raises(RequestTimedOutError):
            metadata_of(batch, 0)
    assert len(accumulator.failed) <= 2 * MOST_FAILED
    assert accumulator.take_failures() == [ERROR]


def test_failures_that_nobody_asks_for_are_counted() -> None:
    """The first are kept, for the next flush; how many came behind them is known, and they are told of once."""
    buffer = Buffer()
    accumulator = buffer.accumulator
    errors = [RequestTimedOutError(str(number)) for number in range(5 * MOST_FAILED)]
    for error in errors:
        accumulator.fail(buffer.batch(b"v"), error)
    assert len(accumulator.failed) <= 2 * MOST_FAILED
    unnamed = accumulator.unnamed
    failures = accumulator.take_failures()
    assert failures[:MOST_FAILED] == errors[:MOST_FAILED]
    assert len(failures) + unnamed == len(errors)
    assert (accumulator.take_failures(), accumulator.unnamed) == ([], 0)


def test_the_sticky_partition_changes_with_each_of_its_batches() -> None:
    """Records without key fill one batch, then the next partition's (KIP-480); others' batches do not move it."""
    buffer = Buffer(3)
    assert buffer.topic.sticky == 0
    buffer.batch(b"a", partition=1)
    assert buffer.topic.sticky == 0
    for expected in (1, 2, 0):
        buffer.batch(b"a", partition=buffer.topic.sticky)
        assert buffer.topic.sticky == expected


@pytest.mark.parametrize(
    ("batch_size", "room"),
    [(65_536, FRAME_LIMIT), (65_000, 65_000), (1 << 20, 1 << 20), (100, 100)],
)
def test_a_batch_is_a_little_smaller_than_an_allocation(batch_size: int, room: int) -> None:
    """64 KiB are rounded down to what fits one allocation with the frame's header; larger sizes are taken as said."""
    topic = TopicQueue("t", "i", 1, [partition_keys("sl", "t", 0)], zlib.crc32, batch_size, Flag)
    assert topic.room == room - FRAME_OVERHEAD


def test_records_taken_out_do_not_move_the_others_futures() -> None:
    """A refused record's future fails; the ones beside it find their own offsets, after a second refusal too."""
    buffer = Buffer()
    batch = buffer.batch(*[b"%d" % i for i in range(6)])
    first, second = InvalidTimestampError("first"), InvalidTimestampError("second")
    batch.refuse({0: first, 3: first})
    assert batch.values == [b"1", b"2", b"4", b"5"]
    batch.refuse({1: second})  # by its index among those that are left
    assert batch.values == [b"1", b"4", b"5"]
    (frame,) = decode_frames(batch.frame(0)[0])
    assert frame.values == [b"1", b"4", b"5"]
    buffer.accumulator.succeed(batch, 100, 1, NOW)
    told: list[int | str] = []
    for index in range(6):
        try:
            told.append(metadata_of(batch, index).offset)
        except InvalidTimestampError as error:
            told.append(str(error))
    assert told == ["first", 100, "second", "first", 101, 102]


def test_a_send_many_beside_a_refused_record_finds_its_range() -> None:
    """Another call's bad record in the same batch neither hides nor moves the ranges of this one."""
    buffer = Buffer()
    batch = buffer.batch(*[b"%d" % i for i in range(6)])
    batch.refuse({1: InvalidTimestampError("bad")})
    buffer.accumulator.succeed(batch, 100, 1, NOW)
    (found,) = ranges_of([(batch, 3, 3)])
    assert (found.base_offset, found.count) == (102, 3)
    with pytest.raises(InvalidTimestampError):
        ranges_of([(batch, 0, 2), (batch, 3, 3)])


def test_headers_stand_beside_their_records() -> None:
    """Records without headers before, between and behind keep theirs empty, and a refusal takes the right ones out."""
    buffer = Buffer()
    for i in range(5):
        batch, _ = buffer.add(b"%d" % i, headers=(("n", b"%d" % i),) if i in {1, 3} else None)
    buffer.accumulator.seal(batch)
    (frame,) = decode_frames(batch.frame(0)[0])
    assert frame.headers == [None, (("n", b"1"),), None, (("n", b"3"),), None]
    batch.refuse({0: StreamlayerError("x")})
    (frame,) = decode_frames(batch.frame(0)[0])
    assert frame.headers == [(("n", b"1"),), None, (("n", b"3"),), None]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400), st.sampled_from("asfFe")), max_size=40))
@settings(max_examples=examples(100))
def test_memory_is_counted_from_sealing_to_the_end(moves: list[tuple[int, int, str]]) -> None:
    """Whatever becomes of batches, `bytes` is what sealed ones take, and 0 when all are done."""
    buffer = Buffer(3)
    accumulator = buffer.accumulator
    for partition, size, move in moves:
        queue = buffer.topic.partitions[partition]
        if move == "a":
            buffer.add(b"x" * size, partition)
        elif move == "s":
            buffer.batch(b"x" * size, partition=partition)
        elif move == "F":
            accumulator.fail_all(queue, ERROR)
        elif queue.sealed and move == "f":
            queue.sealed[0].frozen = size % 2 == 0
            accumulator.fail(queue.sealed[0], ERROR)
        elif queue.sealed:
            accumulator.succeed(queue.sealed[0], 0, 0, NOW)
        waiting = [batch for queue in buffer.topic.partitions for batch in queue.sealed]
        assert accumulator.bytes == sum(batch.size for batch in waiting)
        assert accumulator.bytes >= sum(len(value or b"") for batch in waiting for value in batch.values)
    for batch in accumulator.seal_all():
        accumulator.fail(batch, ERROR)
    assert accumulator.bytes == 0
    assert accumulator.empty
