"""Looking records up by time: times going back and forth, across tail, fields and segments."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from streamlayer import NewTopic, OffsetAndTimestamp, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import InvalidTimestampError, UnknownTopicOrPartitionError
from tests.shell.async_.reading import read

TP = TopicPartition("t", 0)
NOW = int(time.time() * 1000)


def first_at(times: list[int], when: int) -> OffsetAndTimestamp | None:
    """What a look-up must say of a log with these times."""
    return next((OffsetAndTimestamp(i, at) for i, at in enumerate(times) if at >= when), None)


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
