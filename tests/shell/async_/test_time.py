"""Times: looking records up by them, whatever their order; whose clock they are from; which are refused."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import redis

from streamlayer import NewTopic, OffsetAndTimestamp, TopicConfig, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import InvalidTimestampError, UnknownTopicOrPartitionError
from tests.profiles import SCALE
from tests.shell.async_.reading import read, stored

TP = TopicPartition("t", 0)
NOW = int(time.time() * 1000)
HOUR_MS = 3_600_000
SERVERS_TIME = TopicConfig(message_timestamp_type="LogAppendTime", segment_bytes=16_384)


def first_at(times: list[int], when: int, start: int = 0) -> OffsetAndTimestamp | None:
    """What a look-up must say of a log with these times, where offsets from ``start`` on are left."""
    return next((OffsetAndTimestamp(i, times[i]) for i in range(start, len(times)) if times[i] >= when), None)


def server_ms(client: redis.Redis) -> int:
    """The server's time, ms since the epoch."""
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def check_all_times(consumer: Consumer, times: list[int], start: int, dice: random.Random) -> None:
    """Ask for all times there are, those right before and behind them, and the ends; the answers must be exact.

    Where a look-up points, a seek goes: the next record read is that one; the log's end where there is none.
    """
    near = {at + step for at in times for step in (-1, 0, 1)}
    for when in sorted({0, NOW - 20 * HOUR_MS, NOW + 20 * HOUR_MS, *near}):
        expected = first_at(times, when, start)
        assert await consumer.offsets_for_times({TP: when}) == {TP: expected}, (when, start)
        if dice.random() < 0.1:
            await consumer.seek_to_time(when)
            if expected is None:
                assert await consumer.position(TP) == len(times)
            else:
                first = (await read(consumer, 1))[0]
                assert (first.offset, first.timestamp) == expected, (when, start)


@pytest.mark.parametrize("size", [10, 700], ids=["tail", "segments"])
async def test_the_first_record_at_or_after_a_time(aio_args: dict[str, Any], size: int) -> None:
    """Whatever the order of the times, each look-up finds the first record in the log that reaches it."""
    dice = random.Random(size)
    times = [NOW - 100_000 + i * 100 + dice.choice([0, 0, 0, -50_000, 30_000]) for i in range(200)]
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer, Consumer(**aio_args) as consumer:
        await admin.create_topics([NewTopic("t", 1, config={"segment_bytes": 16_384})])
        for start in range(0, 200, 10):
            await producer.send_many("t", [b"x" * size] * 10, timestamps_ms=times[start : start + 10])
        asked = {NOW - 200_000, 0, NOW + 3_600_000, *times[::7], *(at + 1 for at in times[::9])}
        for when in asked:
            assert await consumer.offsets_for_times({TP: when}) == {TP: first_at(times, when)}


@pytest.mark.parametrize("seed", range(3 * SCALE))
async def test_look_ups_are_exact_whatever_the_times(aio_args: dict[str, Any], seed: int) -> None:
    """Random times, batches and sizes, over segments, fields and tail; and again when the log begins later."""
    dice = random.Random(seed)
    times: list[int] = []
    batches = 50
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer, Consumer(**aio_args) as consumer:
        await admin.create_topics([NewTopic("t", 1, config={"segment_bytes": 16_384})])
        consumer.assign([TP])
        clock = NOW - 5 * HOUR_MS
        for batch in range(batches):
            clock += dice.choice([0, 10, 1000, 60_000, -45_000])
            stamps = [
                clock + dice.choice([0, 0, 1, -1, dice.randint(-90_000, 90_000)]) for _ in range(dice.randint(1, 12))
            ]
            value = b"x" * dice.choice([1, 30, 300, 900])
            if dice.random() < 0.5:  # one by one: they gather in the tail
                for at in stamps[:4]:
                    await producer.send_and_wait("t", value, timestamp_ms=at)
                    times.append(at)
            else:
                await producer.send_many("t", [value] * len(stamps), timestamps_ms=stamps)
                times += stamps
            if batch == batches // 2:
                await check_all_times(consumer, times, 0, dice)
        assert (await admin.describe_topics(["t"]))["t"].partitions[0].segments > 1
        await check_all_times(consumer, times, 0, dice)
        for start in sorted(dice.sample(range(1, len(times)), 2)):
            await admin.delete_records({TP: start})
            await check_all_times(consumer, times, start, dice)
        await admin.delete_records({TP: -1})
        assert await consumer.offsets_for_times({TP: 0}) == {TP: None}


@pytest.mark.parametrize("seed", range(SCALE))
async def test_look_ups_are_exact_in_what_retention_left(aio_args: dict[str, Any], seed: int) -> None:
    """A high time in a segment that was dropped hides nothing in those behind it."""
    dice = random.Random(seed)
    times: list[int] = []
    config = TopicConfig(segment_bytes=16_384, retention_bytes=65_536)
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer, Consumer(**aio_args) as consumer:
        await admin.create_topics([NewTopic("t", 1, config=config)])
        consumer.assign([TP])
        for batch in range(60):
            falling = NOW - HOUR_MS - batch * 1000
            stamps = [falling + dice.randint(-5000, 5000) for _ in range(5)]
            await producer.send_many("t", [b"x" * 700] * 5, timestamps_ms=stamps)
            times += stamps
        start = (await consumer.beginning_offsets([TP]))[TP]
        assert start > 50
        await check_all_times(consumer, times, start, dice)


async def test_an_empty_log_has_no_record_at_any_time(aio_args: dict[str, Any]) -> None:
    """None for each partition, and seeking there means its end."""
    async with Admin(**aio_args) as admin, Consumer("t", **aio_args) as consumer:
        await admin.create_topics([NewTopic("t", 2)])
        tps = [TopicPartition("t", 0), TopicPartition("t", 1)]
        assert await consumer.offsets_for_times(dict.fromkeys(tps, NOW)) == dict.fromkeys(tps)
        await consumer.seek_to_time(NOW)
        assert [await consumer.position(tp) for tp in tps] == [0, 0]


async def test_seek_to_time_goes_there_at_once(aio_args: dict[str, Any]) -> None:
    """All partitions or named ones; where there is no such record, to the end."""
    other = TopicPartition("t", 1)
    async with Producer(**aio_args, num_partitions=2) as producer, Consumer("t", **aio_args) as consumer:
        await producer.send_many("t", [b"0"] * 10, partition=0, timestamps_ms=[NOW + i for i in range(10)])
        await producer.send_many("t", [b"1"] * 10, partition=1, timestamps_ms=[NOW - 100 + i for i in range(10)])
        await consumer.seek_to_time(NOW + 5)
        assert [await consumer.position(tp) for tp in (TP, other)] == [5, 10]
        assert [r.timestamp for r in await read(consumer, 5)] == [NOW + i for i in range(5, 10)]
        await consumer.seek_to_time(NOW - 95, other)
        assert [await consumer.position(tp) for tp in (TP, other)] == [10, 5]
        await consumer.seek_to_time(0)
        assert [await consumer.position(tp) for tp in (TP, other)] == [0, 0]


async def test_aware_datetimes_are_exact(aio_args: dict[str, Any]) -> None:
    """A datetime of a millisecond is that millisecond, in any time zone; before the epoch is the beginning."""
    base = NOW - 50_000
    async with Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        await producer.send_many("t", [b"x"] * 1000, partition=0, timestamps_ms=range(base, base + 1000))
        for i in range(0, 1000, 83):
            exact = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=base + i)
            for when in (exact, exact.astimezone(timezone(timedelta(hours=5, minutes=30)))):
                assert await consumer.offsets_for_times({TP: when}) == {TP: (i, base + i)}
        for early in (
            datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
            datetime(1, 1, 2, tzinfo=UTC),
        ):
            assert await consumer.offsets_for_times({TP: early}) == {TP: (0, base)}
            await consumer.seek_to_time(early)
            assert await consumer.position(TP) == 0


@pytest.mark.parametrize(
    ("when", "why"),
    [
        (NOW // 1000, "looks like seconds: multiply by 1000"),
        (datetime(2024, 5, 1), "has no time zone: use"),  # noqa: DTZ001 - that is the mistake
        (-1, "out of range"),
        (NOW * 1000, "out of range"),
        (time.time(), "an int of ms"),
        ("2024-05-01", "an int of ms"),
        (True, "an int of ms"),
        (None, "an int of ms"),
    ],
    ids=["seconds", "no zone", "negative", "microseconds", "float", "text", "bool", "none"],  # no clock in a name
)
async def test_bad_times_are_told_and_nothing_moves(aio_args: dict[str, Any], when: Any, why: str) -> None:
    """Seconds, naive datetimes, floats: the message says what to pass."""
    async with Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        await producer.send_many("t", [b"x"] * 5, partition=0)
        await consumer.poll(5000, max_records=2)
        with pytest.raises(InvalidTimestampError, match=why):
            await consumer.seek_to_time(when)
        with pytest.raises(InvalidTimestampError, match=why):
            await consumer.offsets_for_times({TP: when})
        assert await consumer.position(TP) == 2


@pytest.mark.parametrize(
    ("timestamp", "why"),
    [
        (NOW // 1000, "looks like seconds: multiply by 1000"),
        (-5, "out of range"),
        (1 << 48, "out of range"),
        (1.5, "is an int of ms"),
        (True, "is an int of ms"),
        (datetime(2024, 5, 1, tzinfo=UTC), "is an int of ms"),
    ],
    ids=["seconds", "negative", "too late", "float", "bool", "datetime"],
)
async def test_bad_times_of_records_are_told_and_nothing_is_sent(
    aio_args: dict[str, Any], timestamp: Any, why: str
) -> None:
    """Before anything is sent; the next record is as it should be."""
    async with Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        with pytest.raises(InvalidTimestampError, match=why):
            await producer.send("t", b"x", timestamp_ms=timestamp)
        with pytest.raises(InvalidTimestampError, match=why):
            await producer.send_many("t", [b"x"], timestamps_ms=[timestamp])
        await producer.send_and_wait("t", b"good", timestamp_ms=NOW)
        assert [(r.value, r.timestamp) for r in await read(consumer, 1)] == [(b"good", NOW)]


async def test_times_of_unknown_partitions_are_told(aio_args: dict[str, Any]) -> None:
    """Like the ends of unknown partitions."""
    async with Consumer(**aio_args) as consumer:
        with pytest.raises(UnknownTopicOrPartitionError, match="no topic 't'"):
            await consumer.offsets_for_times({TP: NOW})


# --- the server's time ------------------------------------------------------------------------------------------------


async def test_a_topic_says_whose_times_its_records_carry(aio_args: dict[str, Any]) -> None:
    """Kafka's name and values; the producer's unless it is said otherwise; it comes back as it was given."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics(
            ["plain", NewTopic("t", config={"message.timestamp.type": "LogAppendTime"})],
        )
        described = await admin.describe_topics()
        kinds = {name: topic.config.message_timestamp_type for name, topic in described.items()}
        assert kinds == {"plain": "CreateTime", "t": "LogAppendTime"}
    async with Producer(**aio_args) as producer:
        for topic in kinds:
            await producer.send_and_wait(topic, b"x", timestamp_ms=NOW - 1000)
        types = {record.topic: record.timestamp_type for record in await stored(aio_args, "plain", "t")}
        assert types == {"plain": 0, "t": 1}


@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_the_servers_time_is_the_one_that_counts(
    aio_args: dict[str, Any], redis_client: redis.Redis, compression: Any
) -> None:
    """Whatever time a producer gives: its future and each reader are told when the server appended the batch."""
    quiet: dict[str, Any] = {"linger_ms": 60_000, "compression_type": compression}
    async with Admin(**aio_args) as admin, Producer(**aio_args, **quiet) as producer:
        await admin.create_topics([NewTopic("t", 1, config=SERVERS_TIME)])
        begin = server_ms(redis_client)
        told = [
            await producer.send_and_wait("t", b"now"),
            await producer.send_and_wait("t", b"long ago", timestamp_ms=NOW - 10_000 * HOUR_MS),
            await producer.send_and_wait("t", b"far ahead", timestamp_ms=NOW + 10_000 * HOUR_MS),
            await producer.send_and_wait("t", random.Random(1).randbytes(20_000), timestamp_ms=NOW),
        ]
        futures = [await producer.send("t", b"together", b"key", timestamp_ms=NOW - i) for i in range(3)]
        await producer.flush()
        told += [future.result() for future in futures]
        (part,) = await producer.send_many("t", [b"many"] * 5, timestamps_ms=[NOW - i for i in range(5)])
        end = server_ms(redis_client)
    records = await stored(aio_args, "t")
    assert [(record.offset, record.timestamp) for record in records[:7]] == [(m.offset, m.timestamp) for m in told]
    assert part.last_offset == 11
    assert {record.timestamp_type for record in records} == {1}
    times = [record.timestamp for record in records]
    assert begin <= times[0] <= times[-1] <= end
    assert times == sorted(times)
    assert len(set(times[4:7])) == len(set(times[7:])) == 1


@pytest.mark.parametrize(
    "timestamp",
    [0, -5, NOW // 1000, 1 << 48, NOW * 1_000_000],
    ids=["zero", "negative", "seconds", "too late", "nanoseconds"],
)
async def test_a_time_that_is_ignored_may_be_any_int(aio_args: dict[str, Any], timestamp: int) -> None:
    """What would be a mistake elsewhere is taken where the server's time counts; only other types are refused."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 1, config=SERVERS_TIME)])
        await producer.send_and_wait("t", b"one", timestamp_ms=timestamp)
        await producer.send_many("t", [b"two", b"three"], timestamps_ms=[timestamp, NOW])
        mistakes: list[Any] = [float(timestamp), str(timestamp), True, datetime.now(UTC)]
        for wrong in mistakes:
            with pytest.raises(InvalidTimestampError, match="an int of ms"):
                await producer.send("t", b"x", timestamp_ms=wrong)
            with pytest.raises(InvalidTimestampError, match="an int of ms"):
                await producer.send_many("t", [b"x"], timestamps_ms=[wrong])
        with pytest.raises(ValueError, match="1 values, but 2 timestamps_ms"):
            await producer.send_many("t", [b"x"], timestamps_ms=[timestamp] * 2)
    assert [record.value for record in await stored(aio_args, "t")] == [b"one", b"two", b"three"]


async def test_look_ups_follow_the_servers_time(aio_args: dict[str, Any]) -> None:
    """Offsets for times and seeks go by when records were appended, not by what their producers said."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer, Consumer(**aio_args) as consumer:
        await admin.create_topics([NewTopic("t", 1, config=SERVERS_TIME)])
        for i in range(60):
            await producer.send_and_wait("t", b"x" * 300, timestamp_ms=NOW - HOUR_MS * i)
            await producer.send_many("t", [b"x" * 900] * 5, timestamps_ms=[NOW + HOUR_MS * i] * 5)
        times = [record.timestamp for record in await stored(aio_args, "t")]
        assert len(times) == 360
        consumer.assign([TP])
        await check_all_times(consumer, times, 0, random.Random(1))
        await admin.delete_records({TP: 200})
        await check_all_times(consumer, times, 200, random.Random(2))


async def test_nobody_learns_the_servers_time_without_waiting_for_it(aio_args: dict[str, Any]) -> None:
    """acks=0: -1, as for the offset."""
    async with Admin(**aio_args) as admin, Producer(**aio_args, acks=0) as producer:
        await admin.create_topics([NewTopic("t", 1, config=SERVERS_TIME)])
        metadata = await producer.send_and_wait("t", b"x")
        await producer.flush()
        assert (metadata.offset, metadata.timestamp) == (-1, -1)
        assert [record.timestamp_type for record in await stored(aio_args, "t")] == [1]


# --- times that the server refuses ------------------------------------------------------------------------------------


def limits_in(error: InvalidTimestampError) -> tuple[int, int]:
    """The limits that the message of a refusal names."""
    found = re.search(r"not within what the server takes now, (\d+) to (\d+)", str(error))
    assert found is not None, error
    return int(found[1]), int(found[2])


def around(times: Iterable[int], oldest: int, newest: int) -> list[bool]:
    """Which times are within limits."""
    return [oldest <= at <= newest for at in times]


@pytest.mark.parametrize("batch_size", [65_536, 1], ids=["one batch", "one each"])
async def test_times_outside_the_limits_are_refused_and_the_others_taken(
    aio_args: dict[str, Any], redis_client: redis.Redis, batch_size: int
) -> None:
    """Older than the retention, or over an hour ahead of the server: that record fails, the rest of its batch is in."""
    retention_ms = 600_000
    now = server_ms(redis_client)
    steps = [0, HOUR_MS - 60_000, HOUR_MS + 60_000, 1, 60_000 - retention_ms, -retention_ms - 1000, 2, 9 * HOUR_MS, 3]
    good = around(steps, -retention_ms, HOUR_MS)
    async with Admin(**aio_args) as admin, Producer(**aio_args, linger_ms=60_000, batch_size=batch_size) as producer:
        await admin.create_topics([NewTopic("t", 1, config={"retention_ms": retention_ms})])
        futures = [await producer.send("t", b"%d" % i, timestamp_ms=now + step) for i, step in enumerate(steps)]
        with pytest.raises(InvalidTimestampError):
            await producer.flush()
        offset = 0
        for step, fine, future in zip(steps, good, futures, strict=True):
            if fine:
                metadata = future.result()
                assert (metadata.offset, metadata.timestamp) == (offset, now + step)
                offset += 1
                continue
            with pytest.raises(InvalidTimestampError, match=rf"t\[0\]: timestamp_ms={now + step} ") as raised:
                future.result()
            oldest, newest = limits_in(raised.value)
            assert newest - oldest == retention_ms + HOUR_MS
            assert 0 <= oldest - (now - retention_ms) < 30_000
            assert "milliseconds" in str(raised.value)
    values = [record.value for record in await stored(aio_args, "t")]
    assert values == [b"%d" % i for i, fine in enumerate(good) if fine]


async def test_send_many_tells_the_limits_and_stores_the_others(aio_args: dict[str, Any]) -> None:
    """The first refusal comes out with the limits, the others are counted, and what is fine is in the log."""
    times = [NOW - 8 * 24 * HOUR_MS if i % 3 == 1 else NOW - i for i in range(12)]
    async with Producer(**aio_args) as producer:
        with pytest.raises(InvalidTimestampError) as raised:
            await producer.send_many("t", [b"%d" % i for i in range(12)], partition=0, timestamps_ms=times)
        assert limits_in(raised.value)[0] > NOW - 8 * 24 * HOUR_MS
        assert raised.value.__notes__ == ["3 more batches or records of this call failed"]
    assert [record.value for record in await stored(aio_args, "t")] == [b"%d" % i for i in range(12) if i % 3 != 1]


async def test_without_retention_no_time_is_too_old(aio_args: dict[str, Any]) -> None:
    """-1 keeps everything, so everything may come; an hour ahead is still the limit."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 1, config={"retention_ms": -1})])
        await producer.send_and_wait("t", b"1974", timestamp_ms=130_000_000_000)
        with pytest.raises(InvalidTimestampError) as raised:
            await producer.send_and_wait("t", b"x", timestamp_ms=NOW + 2 * HOUR_MS)
        assert limits_in(raised.value)[0] == 0
    assert [record.value for record in await stored(aio_args, "t")] == [b"1974"]
