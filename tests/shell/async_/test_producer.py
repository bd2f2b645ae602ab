"""``Producer.send`` and what follows: batches, lingering, futures, where records go, what comes back when read."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any
from zlib import crc32

import pytest
import redis

from streamlayer import NewTopic, RecordMetadata
from streamlayer.aio import Admin, Consumer, Producer, RecordFuture
from streamlayer.errors import (
    InvalidTimestampError,
    RequestTimedOutError,
    StreamlayerError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from streamlayer.serializers import from_json, from_string, json, string
from tests.shell.async_.reading import stored, stored_values
from tests.waiting import aio_wait_until

LONG_MS = 60_000
"""A linger that no test lives to see the end of: whatever is sent was sent because somebody waited."""
HOUR_MS = 3_600_000


def now_ms() -> int:
    """The wall clock in ms."""
    return int(time.time() * 1000)


# --- lingering ------------------------------------------------------------------------------------------------------


async def test_send_and_wait_ends_lingering(aio_args: dict[str, Any]) -> None:
    """It returns at once with the record's place; what lingered in the same batch goes along."""
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
        first = await producer.send("t", b"1", partition=2)
        before = now_ms()
        placed = await producer.send_and_wait("t", b"2", partition=2)
        assert placed == RecordMetadata("t", 2, 1, placed.timestamp)
        assert before <= placed.timestamp <= now_ms()
        assert first.done()
        assert first.result().offset == 0
        assert await stored_values(aio_args, "t") == [b"1", b"2"]


async def test_flush_ends_lingering(aio_args: dict[str, Any]) -> None:
    """Futures are not done before, and all done after; the records are in the log."""
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
        futures = [await producer.send("t", b"%d" % i, b"k%d" % i) for i in range(50)]
        assert not any(future.done() for future in futures)
        await producer.flush()
        assert all(future.done() for future in futures)
        assert all(future.exception() is None for future in futures)
        places = {(future.result().partition, future.result().offset) for future in futures}
        assert len(places) == 50
        await producer.flush()  # nothing to do
        assert len(await stored_values(aio_args, "t")) == 50


async def test_close_ends_lingering(aio_args: dict[str, Any]) -> None:
    """Closing, and leaving the block, send what is left and tell the futures."""
    producer = Producer(**aio_args, linger_ms=LONG_MS)
    one = await producer.send("t", b"1")
    await producer.close()
    assert one.result().offset == 0
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
        two = await producer.send("t", b"2")
    assert two.exception() is None
    assert sorted(await stored_values(aio_args, "t")) == [b"1", b"2"]


async def test_linger_ends_by_itself(aio_args: dict[str, Any]) -> None:
    """Without anybody waiting a batch goes after linger_ms; with 0 at once."""
    for linger_ms in (0, 20):
        async with Producer(**aio_args, linger_ms=linger_ms) as producer:
            future = await producer.send("t", b"x", b"k")
            await aio_wait_until(future.done, f"a record to be sent by itself with linger_ms={linger_ms}")


async def test_a_full_batch_does_not_linger(aio_args: dict[str, Any]) -> None:
    """What does not fit the open batch seals it, and it goes at once; the rest stays behind."""
    async with Producer(**aio_args, linger_ms=LONG_MS, batch_size=1000) as producer:
        futures = [await producer.send("t", b"x" * 100, b"k") for _ in range(20)]
        await aio_wait_until(futures[0].done, "the first batch to be sent because it was full")
        assert not futures[-1].done()


async def test_many_small_sends_become_few_batches(aio_args: dict[str, Any]) -> None:
    """1,000 records that linger together take far fewer bytes than 1,000 batches would."""
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer, Admin(**aio_args) as admin:
        for i in range(1000):
            await producer.send("t", b"%010d" % i, b"k", partition=0)
        await producer.flush()
        described = (await admin.describe_topics(["t"]))["t"].partitions[0]
        assert described.log_end == 1000
        assert described.bytes < 1000 * (10 + 1 + 6)


# --- futures --------------------------------------------------------------------------------------------------------


async def test_done_callbacks_are_called_once_before_and_after(aio_args: dict[str, Any]) -> None:
    """Added before or after the outcome, each is called once, with its own future."""
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
        called: list[RecordFuture] = []
        futures = [await producer.send("t", b"%d" % i, b"k") for i in range(3)]
        for future in futures:
            future.add_done_callback(called.append)
            future.add_done_callback(called.append)
        assert called == []
        await producer.flush()
        await aio_wait_until(lambda: len(called) == 6, "six calls back")
        assert Counter(f.result().offset for f in called) == {0: 2, 1: 2, 2: 2}
        futures[1].add_done_callback(called.append)
        assert len(called) == 7
        assert called[-1] is futures[1]


async def test_a_callback_that_raises_harms_nobody(aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; other callbacks, other records and the producer go on."""

    def burst(future: RecordFuture) -> None:
        raise ValueError("callback gone wrong")

    async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
        called: list[int] = []
        one = await producer.send("t", b"1", b"k")
        two = await producer.send("t", b"2", b"k")
        one.add_done_callback(burst)
        two.add_done_callback(lambda future: called.append(future.result().offset))
        await producer.flush()
        await aio_wait_until(lambda: called == [1], "the second callback")
        one.add_done_callback(burst)
        assert (await producer.send_and_wait("t", b"3", b"k")).offset == 2
    assert "callback gone wrong" in caplog.text


async def test_callbacks_see_failures(aio_args: dict[str, Any]) -> None:
    """A record that was refused calls back too, and its future tells the error."""
    async with Producer(**aio_args) as producer:
        seen: list[StreamlayerError | None] = []
        future = await producer.send("t", b"x", timestamp_ms=now_ms() + 2 * HOUR_MS)
        future.add_done_callback(lambda f: seen.append(f.exception()))
        await aio_wait_until(lambda: len(seen) == 1, "the call back of a failed record")
        assert isinstance(seen[0], InvalidTimestampError)


# --- failures -------------------------------------------------------------------------------------------------------


async def test_flush_raises_the_first_failure_and_counts_the_others(aio_args: dict[str, Any]) -> None:
    """Once: the next flush has nothing to say, and records that were fine are in the log."""
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
        for partition in range(3):
            await producer.send("t", b"late", partition=partition, timestamp_ms=now_ms() + 2 * HOUR_MS)
        await producer.send("t", b"good", partition=3)
        with pytest.raises(InvalidTimestampError, match=r"t\[\d\]: timestamp_ms=\d+.*milliseconds") as raised:
            await producer.flush()
        assert raised.value.__notes__ == ["2 more batches or records failed since the last flush"]
        await producer.flush()
        assert await stored_values(aio_args, "t") == [b"good"]


async def test_one_bad_record_does_not_take_its_batch_along(aio_args: dict[str, Any]) -> None:
    """The server refuses a batch for one timestamp: the others are stored, in order, with right offsets."""
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
        futures = []
        for i in range(5):
            timestamp = now_ms() + 2 * HOUR_MS if i in {1, 3} else None
            futures.append(await producer.send("t", b"%d" % i, b"k", timestamp_ms=timestamp, headers={"i": b"%d" % i}))
        with pytest.raises(InvalidTimestampError):
            await producer.flush()
        assert [future.exception() is None for future in futures] == [True, False, True, False, True]
        assert [futures[i].result().offset for i in (0, 2, 4)] == [0, 1, 2]
        records = await stored(aio_args, "t")
        assert [(r.value, r.offset, r.headers) for r in records] == [
            (b"%d" % i, n, (("i", b"%d" % i),)) for n, i in enumerate((0, 2, 4))
        ]


async def test_who_was_told_is_not_told_again(aio_args: dict[str, Any]) -> None:
    """A failure that was asked of the future does not come out of flush or close a second time."""
    async with Producer(**aio_args) as producer:
        with pytest.raises(InvalidTimestampError):
            await producer.send_and_wait("t", b"x", timestamp_ms=now_ms() + 2 * HOUR_MS)
        await producer.flush()


async def test_who_was_told_of_one_record_of_many_is_not_told_again(aio_args: dict[str, Any]) -> None:
    """The same where the rest of the record's batch was stored."""
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
        await producer.send("t", b"good", b"k")
        with pytest.raises(InvalidTimestampError):
            await producer.send_and_wait("t", b"bad", b"k", timestamp_ms=now_ms() + 2 * HOUR_MS)
        await producer.flush()
    assert await stored_values(aio_args, "t") == [b"good"]


async def test_leaving_the_block_raises_what_failed(aio_args: dict[str, Any]) -> None:
    """Nobody asked: the block's end tells. If the block raised itself, that comes out, with a note."""
    with pytest.raises(InvalidTimestampError):
        async with Producer(**aio_args) as producer:
            await producer.send("t", b"x", timestamp_ms=now_ms() + 2 * HOUR_MS)
    with pytest.raises(KeyError) as raised:
        async with Producer(**aio_args) as producer:
            await producer.send("t", b"x", timestamp_ms=now_ms() + 2 * HOUR_MS)
            raise KeyError("the block's own")
    assert "on closing the producer: InvalidTimestampError" in raised.value.__notes__[0]


async def test_a_block_that_raises_still_sends(aio_args: dict[str, Any]) -> None:
    """What was given before the exception is in the log."""
    with pytest.raises(ZeroDivisionError):
        async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
            await producer.send("t", b"x")
            raise ZeroDivisionError
    assert await stored_values(aio_args, "t") == [b"x"]


# --- acks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acks", [0, 1, "all", -1])
async def test_every_acks_stores_every_record_once(aio_args: dict[str, Any], acks: int | str) -> None:
    """All of them store; only acks=0 does not learn the offset."""
    async with Producer(**aio_args, acks=acks) as producer:
        futures = [await producer.send("t", b"%d" % i, b"k") for i in range(10)]
        placed = await producer.send_and_wait("t", b"10", b"k")
        assert placed.offset == (-1 if acks == 0 else 10)
        await producer.flush()
        offsets = [future.result().offset for future in futures]
        assert offsets == ([-1] * 10 if acks == 0 else list(range(10)))
        async with Consumer("t", **aio_args) as consumer:
            await aio_wait_until(lambda: end_is(consumer, 11), "all records")
    assert await stored_values(aio_args, "t") == [b"%d" % i for i in range(11)]


async def end_is(consumer: Consumer, count: int) -> bool:
    """Whether the assigned partitions hold so many records."""
    return sum((await consumer.end_offsets(consumer.assignment())).values()) == count


async def test_acks_0_follows_the_log_into_its_next_segments(aio_args: dict[str, Any]) -> None:
    """Nobody waits for the answer, but that a new segment began is heard: later batches are not lost."""
    async with Admin(**aio_args) as admin, Consumer(**aio_args) as consumer, Producer(**aio_args, acks=0) as producer:
        await admin.create_topics([NewTopic("t", 1, config={"segment_bytes": 16_384})])
        consumer.subscribe(["t"])
        await consumer.poll(0)
        for i in range(60):
            await producer.send("t", b"%03d" % i + b"x" * 1000)
            await producer.flush()
        await aio_wait_until(lambda: end_is(consumer, 60), "all records of four segments")


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_full_log_takes_batches_of_all_sizes_in_order(aio_args: dict[str, Any], idempotent: bool) -> None:
    """Batches of very different sizes go together, into a log that has to make room for each: none overtakes another.

    What is held is never more than ``retention_bytes``, a segment and the batch that passed its limit (without
    idempotence one batch more).
    """
    limit, segment, largest, held = 40_000, 16_384, 20_100, 0
    config = {"retention_bytes": limit, "segment_bytes": segment}
    sizes = [20_000, 10, 9000, 10, 20_000, 3000, 17_000, 10, 10, 20_000] * 4
    async with (
        Admin(**aio_args) as admin,
        Producer(**aio_args, enable_idempotence=idempotent, batch_size=1, delivery_timeout_ms=10_000) as producer,
    ):
        await admin.create_topics([NewTopic("t", 1, config=config)])
        for turn in range(5):
            ranges = await producer.send_many("t", [bytes(size) for size in sizes])
            assert [(r.base_offset, r.count) for r in ranges] == [(turn * len(sizes), len(sizes))]
            held = (await admin.describe_topics(["t"]))["t"].partitions[0].bytes
            assert held < limit + segment + largest * (1 if idempotent else 2)
    assert held >= limit


async def test_without_idempotence_records_are_stored_too(aio_args: dict[str, Any]) -> None:
    """enable_idempotence=False sends no producer id and works the same on a good day."""
    async with Producer(**aio_args, enable_idempotence=False) as producer:
        assert (await producer.send_and_wait("t", b"1", b"k")).offset == 0
        assert (await producer.send_and_wait("t", b"2", b"k")).offset == 1
    assert await stored_values(aio_args, "t") == [b"1", b"2"]


# --- what a record is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_a_record_comes_back_as_it_was_given(aio_args: dict[str, Any], compression: str | None) -> None:
    """Keys, values, nulls, empty ones, headers in order and twice, times, large and small, mixed in one batch."""
    given: list[tuple[bytes | None, bytes | None, Any]] = [
        (b"k", b"v", None),
        (None, b"v", {"a": b"1", "b": b""}),
        (b"", b"", [("same", b"1"), ("same", b"2"), ("", b"\x00")]),
        (b"k", None, ()),
        (None, None, {}),
        (b"\x00\xff" * 200, b"x" * 100_000, (("ü" * 50, b"y" * 1000),)),
        (b"k", b"last", None),
    ]
    base = now_ms()
    async with Producer(**aio_args, linger_ms=LONG_MS, compression_type=compression) as producer:
        for i, (key, value, headers) in enumerate(given):
            time_of = base - i * 1000 if i % 2 else base + i
            await producer.send("t", value, key, partition=1, headers=headers, timestamp_ms=time_of)
    records = await stored(aio_args, "t")
    assert [(r.key, r.value) for r in records] == [(key, value) for key, value, _ in given]
    assert [r.headers for r in records] == [
        tuple(h.items()) if isinstance(h, dict) else tuple(h or ()) for _, _, h in given
    ]
    assert [r.timestamp for r in records] == [base - i * 1000 if i % 2 else base + i for i in range(7)]
    assert [r.offset for r in records] == list(range(7))
    assert {(r.topic, r.partition, r.timestamp_type, r.topic_partition) for r in records} == {("t", 1, 0, ("t", 1))}


async def test_gzip_stores_fewer_bytes(aio_args: dict[str, Any]) -> None:
    """Text that repeats itself takes less than a quarter."""
    async with Admin(**aio_args) as admin:
        sizes = {}
        for name, compression in (("plain", None), ("small", "gzip")):
            async with Producer(**aio_args, compression_type=compression) as producer:
                await admin.create_topics([NewTopic(name, 1)])
                await producer.send_many(name, [b"the same old story, number %d" % i for i in range(500)])
                sizes[name] = (await admin.describe_topics([name]))[name].partitions[0].bytes
        assert sizes["small"] * 4 < sizes["plain"]
        assert await stored_values(aio_args, "small") == await stored_values(aio_args, "plain")


async def test_a_bytearray_is_copied(aio_args: dict[str, Any]) -> None:
    """Changing it after it was given changes nothing."""
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
        value = bytearray(b"given")
        await producer.send("t", value, bytearray(b"key"))
        value[:] = b"other"
    (record,) = await stored(aio_args, "t")
    assert (record.key, record.value) == (b"key", b"given")


async def test_serializers_both_ways(aio_args: dict[str, Any]) -> None:
    """Text keys and JSON values go in and come out; nulls see no serializer."""
    async with Producer(**aio_args, key_serializer=string, value_serializer=json) as producer:
        await producer.send("t", {"amount": 5}, "käse", partition=0)
        await producer.send("t", [1, 2.5, None], None, partition=0)
        await producer.send("t", None, "null", partition=0)
        await producer.send_many("t", ["text", None], ["a", None], partition=0)
    consumer: Consumer[str, Any]
    async with Consumer("t", **aio_args, key_deserializer=from_string, value_deserializer=from_json) as consumer:
        records = [(record.key, record.value) async for record in consumer.read_to_end()]
    assert records == [("käse", {"amount": 5}), (None, [1, 2.5, None]), ("null", None), ("a", "text"), (None, None)]
    assert next(r.value for r in await stored(aio_args, "t")) == b'{"amount":5}'


# --- where it goes --------------------------------------------------------------------------------------------------


async def test_a_key_decides_the_partition_and_keeps_its_order(aio_args: dict[str, Any]) -> None:
    """Partition = crc32(key) % n, for send, send_and_wait and send_many alike; within a key the order is as sent."""
    keys = [b"key-%d" % i for i in range(40)]
    async with Admin(**aio_args) as admin, Producer(**aio_args, batch_size=500) as producer:
        await admin.create_topics([NewTopic("t", 7)])
        for n in range(5):
            for key in keys:
                await producer.send("t", b"%d" % n, key)
        await producer.send_many("t", [b"5"] * len(keys), keys)
        assert (await producer.send_and_wait("t", b"6", keys[0])).partition == crc32(keys[0]) % 7
    records = await stored(aio_args, "t")
    assert all(r.partition == crc32(r.key or b"") % 7 for r in records)
    for key in keys[1:]:
        assert [r.value for r in records if r.key == key] == [b"%d" % n for n in range(6)]


async def test_an_explicit_partition_is_used_whatever_the_key(aio_args: dict[str, Any]) -> None:
    """And offsets in each partition are dense from 0."""
    async with Producer(**aio_args) as producer:
        places = [await producer.send_and_wait("t", b"v", b"same key", partition=i % 4) for i in range(12)]
    assert [(place.partition, place.offset) for place in places] == [(i % 4, i // 4) for i in range(12)]


async def test_records_without_key_stick_to_a_partition_for_a_batch(aio_args: dict[str, Any]) -> None:
    """One batch, one partition; the next batch takes another; over many all partitions get their share."""
    async with Producer(**aio_args, linger_ms=LONG_MS, num_partitions=3) as producer:
        for n in range(6):
            for _ in range(10):
                await producer.send("t", b"%d" % n)
            await producer.flush()
    records = await stored(aio_args, "t")
    by_batch = {n: {r.partition for r in records if r.value == b"%d" % n} for n in range(6)}
    assert all(len(partitions) == 1 for partitions in by_batch.values())
    assert Counter(r.partition for r in records) == {0: 20, 1: 20, 2: 20}


async def test_partitions_for_tells_them(aio_args: dict[str, Any]) -> None:
    """The numbers of the partitions, created on first use like by send."""
    async with Producer(**aio_args, num_partitions=2) as producer:
        assert await producer.partitions_for("t") == {0, 1}
    async with Producer(**aio_args, allow_auto_create_topics=False) as producer:
        assert await producer.partitions_for("t") == {0, 1}
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.partitions_for("u")


# --- topics that come and go ----------------------------------------------------------------------------------------


async def test_topics_are_made_on_first_use(aio_args: dict[str, Any]) -> None:
    """With as many partitions as the producer says; one that exists keeps its own number."""
    async with Producer(**aio_args, num_partitions=3) as producer, Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("there", 2)])
        await producer.send("new", b"x")
        await producer.send("there", b"x")
        await producer.flush()
        counts = {name: len(topic.partitions) for name, topic in (await admin.describe_topics()).items()}
        assert counts == {"new": 3, "there": 2}


async def test_an_unknown_topic_is_an_error_where_none_may_be_made(aio_args: dict[str, Any]) -> None:
    """The message says what to do; nothing was created, and known topics go on."""
    async with Producer(**aio_args, allow_auto_create_topics=False) as producer, Admin(**aio_args) as admin:
        with pytest.raises(UnknownTopicOrPartitionError, match=r"no topic 't'.*create it with Admin"):
            await producer.send("t", b"x")
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send_many("t", [b"x"])
        assert await admin.list_topics() == []
        await admin.create_topics(["t"])
        await producer.send_and_wait("t", b"y")
    assert await stored_values(aio_args, "t") == [b"y"]


async def test_a_deleted_topic_is_told_and_then_made_anew(aio_args: dict[str, Any]) -> None:
    """The record that met the hole fails; the next one finds the topic created again."""
    async with Producer(**aio_args) as producer, Admin(**aio_args) as admin:
        await producer.send_and_wait("t", b"old")
        await admin.delete_topics(["t"])
        with pytest.raises(UnknownTopicOrPartitionError, match="does not exist on the server"):
            await producer.send_and_wait("t", b"lost")
        assert (await producer.send_and_wait("t", b"new")).offset == 0
    assert await stored_values(aio_args, "t") == [b"new"]


async def test_a_topic_made_anew_is_another_log(aio_args: dict[str, Any]) -> None:
    """The producer is told once that the log it wrote to is gone, and goes on in the new one."""
    async with Producer(**aio_args) as producer, Admin(**aio_args) as admin:
        await producer.send_and_wait("t", b"old", b"k")
        await admin.delete_topics(["t"])
        await admin.create_topics([NewTopic("t", 2)])
        with pytest.raises(UnknownTopicIdError, match="deleted and created again"):
            await producer.send_and_wait("t", b"lost", b"k")
        place = await producer.send_and_wait("t", b"new", b"k")
        assert (place.partition, place.offset) == (crc32(b"k") % 2, 0)
        assert await producer.partitions_for("t") == {0, 1}
    assert await stored_values(aio_args, "t") == [b"new"]


async def test_what_lingers_for_a_topic_that_is_replaced_is_decided(aio_args: dict[str, Any]) -> None:
    """No future stays open for ever: what waited for another partition of the old log fails too, by flush at last."""
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer, Admin(**aio_args) as admin:
        await producer.send_and_wait("t", b"old", partition=0)
        waiting = await producer.send("t", b"waits", partition=1)
        await admin.delete_topics(["t"])
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send_and_wait("t", b"lost", partition=0)
        await producer.send_and_wait("t", b"new", partition=0)
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.flush(timeout_ms=3000)
        assert waiting.done()


async def test_a_topic_that_was_away_is_gone_on_with(
    aio_args: dict[str, Any], redis_client: redis.Redis, namespace: str
) -> None:
    """Another server answered for a while, or a backup came back: it is the same log, and it knows this producer."""
    time_ms = now_ms()
    async with Producer(**aio_args, num_partitions=1) as producer:
        for value in (b"0", b"1"):
            await producer.send_and_wait("t", value, timestamp_ms=time_ms)
        keys = [key.decode() for key in redis_client.keys(f"{namespace}:*")]
        for key in keys:
            redis_client.rename(key, f"away-{key}")
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send_and_wait("t", b"lost", timestamp_ms=time_ms)
        for key in keys:
            redis_client.rename(f"away-{key}", key)
        for value in (b"0", b"2"):  # what is like the first that was sent is another record, too
            await producer.send_and_wait("t", value, timestamp_ms=time_ms)
    assert await stored_values(aio_args, "t") == [b"0", b"1", b"0", b"2"]


# --- the object -----------------------------------------------------------------------------------------------------


async def test_it_works_without_a_block(aio_args: dict[str, Any], namespace: str) -> None:
    """It connects at the first call; state and place can be seen; close may be called twice."""
    producer = Producer(**aio_args)
    assert (producer.health().state, producer.health().ok) == ("new", True)
    await producer.send_and_wait("t", b"x")
    assert (producer.health().state, producer.health().reason) == ("ok", "")
    assert f"namespace={namespace} ok" in repr(producer)
    await producer.close()
    await producer.close()
    assert producer.health().state == "closed"
    assert not producer.health().ok
    assert "closed" in repr(producer)


async def test_closing_one_that_was_never_used(aio_args: dict[str, Any]) -> None:
    """Nothing to send, nothing to fail."""
    await Producer(**aio_args).close()
    async with Producer(**aio_args):
        pass
    producer = Producer(**aio_args)
    await producer.flush()
    await producer.close()


async def test_send_and_wait_in_turn_keeps_the_order(aio_args: dict[str, Any]) -> None:
    """Offsets rise by one, also when unanswered sends lie between."""
    async with Producer(**aio_args, num_partitions=1) as producer:
        for i in range(20):
            await producer.send("t", b"%d" % (2 * i))
            assert (await producer.send_and_wait("t", b"%d" % (2 * i + 1))).offset == 2 * i + 1
    assert await stored_values(aio_args, "t") == [b"%d" % i for i in range(40)]


async def test_a_flush_that_is_given_no_time(aio_args: dict[str, Any]) -> None:
    """It either is done or says that it goes on trying; afterwards a flush without limit ends well."""
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
        await producer.send("t", b"x")
        try:
            await producer.flush(timeout_ms=0)
        except RequestTimedOutError as error:
            assert "goes on trying" in str(error)  # noqa: PT017 - it may also be quick
        await producer.flush()
    assert await stored_values(aio_args, "t") == [b"x"]


async def test_a_record_that_others_took_along(aio_args: dict[str, Any]) -> None:
    """A caller comes to send its batch, and another's round has done so, and left nothing to be sent: no error."""
    async with Producer(**aio_args, linger_ms=LONG_MS) as producer:
        future = await producer.send("t", b"1", partition=0)
        await producer.send_and_wait("t", b"2", partition=0)
        await producer._sender.deliver(future.batch, None)
        assert future.result().offset == 0
