"""``Admin.delete_records`` as KIP-107 has it: the log's start rises, and what is before it is gone for every reader."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis

from streamlayer import NewTopic, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import (
    ConfigurationError,
    InvalidTopicError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)
from tests.shell.async_.reading import read, stored
from tests.shell.async_.stepping import contents, keys_of

TP = TopicPartition("t", 0)
OTHER = TopicPartition("t", 1)


async def fill(args: dict[str, Any], count: int, size: int = 1000) -> None:
    """So many records in each of the two partitions of t; segments are small."""
    async with Admin(**args) as admin, Producer(**args) as producer:
        await admin.create_topics([NewTopic("t", 2, config={"segment_bytes": 16_384})], exist_ok=True)
        for partition in range(2):
            for start in range(0, count, 50):
                await producer.send_many("t", [b"x" * size] * min(50, count - start), partition=partition)


async def offsets(args: dict[str, Any]) -> list[int]:
    """The offsets that partition 0 still holds."""
    return [record.offset for record in await stored(args, "t") if record.partition == 0]


@pytest.mark.parametrize("before", [1, 49, 50, 51, 120, 199])
async def test_records_before_an_offset_are_gone(aio_args: dict[str, Any], before: int) -> None:
    """At the edge of a batch and in the middle of one: the answer is the new start, and readers begin exactly there."""
    await fill(aio_args, 200)
    async with Admin(**aio_args) as admin, Consumer(**aio_args) as consumer:
        assert await admin.delete_records({TP: before}) == {TP: before}
        assert await offsets(aio_args) == list(range(before, 200))
        first, second = (await admin.describe_topics(["t"]))["t"].partitions
        assert (first.log_start, first.log_end) == (before, 200)
        assert (second.log_start, second.log_end) == (0, 200)
        assert await consumer.beginning_offsets([TP]) == {TP: before}
        assert await consumer.end_offsets([TP]) == {TP: 200}
        assert await admin.check_topics() == {}


async def test_several_partitions_in_one_call(aio_args: dict[str, Any]) -> None:
    """Each by its own offset; plain tuples are taken too."""
    await fill(aio_args, 100)
    async with Admin(**aio_args) as admin:
        assert await admin.delete_records({TP: 10, OTHER: -1}) == {TP: 10, OTHER: 100}
        assert await admin.delete_records({("t", 0): 20}) == {TP: 20}
        assert await admin.delete_records({}) == {}


async def test_minus_one_deletes_all(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """Nothing is left to read, memory is free, and the next record gets the next offset; twice is the same as once."""
    await fill(aio_args, 500)
    keys = len(keys_of(redis_client, namespace, "t"))
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        for _ in range(2):
            assert await admin.delete_records({TP: -1, OTHER: -1}) == {TP: 500, OTHER: 500}
            assert await stored(aio_args, "t") == []
        described = (await admin.describe_topics(["t"]))["t"].partitions
        assert [(p.log_start, p.log_end, p.bytes) for p in described] == [(500, 500, 0)] * 2
        assert len(keys_of(redis_client, namespace, "t")) < min(20, keys)
        assert (await producer.send_and_wait("t", b"y", partition=0)).offset == 500
        assert await offsets(aio_args) == [500]
        assert await admin.check_topics() == {}


async def test_all_of_a_partition_that_never_had_a_record(aio_args: dict[str, Any]) -> None:
    """It begins and ends at 0, as before."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 1)])
        assert await admin.delete_records({TP: -1}) == {TP: 0}
        assert await admin.delete_records({TP: 0}) == {TP: 0}


async def test_the_start_never_falls(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """Before what was deleted, the same once more, and 0: the answer is where the log begins; nothing is written."""
    await fill(aio_args, 100)
    async with Admin(**aio_args) as admin:
        assert await admin.delete_records({TP: 70}) == {TP: 70}
        before = contents(redis_client, namespace)
        for offset in (70, 20, 0):
            assert await admin.delete_records({TP: offset}) == {TP: 70}
        assert contents(redis_client, namespace) == before
        assert await offsets(aio_args) == list(range(70, 100))


async def test_the_end_is_the_last_that_can_be_named(aio_args: dict[str, Any]) -> None:
    """At the end all goes; beyond it is an error that names both ends, and nothing changes."""
    await fill(aio_args, 100)
    async with Admin(**aio_args) as admin:
        with pytest.raises(OffsetOutOfRangeError, match=r"t\[0\] holds the offsets from 0 to before 100"):
            await admin.delete_records({TP: 101})
        assert await offsets(aio_args) == list(range(100))
        assert await admin.delete_records({TP: 100}) == {TP: 100}
        assert await offsets(aio_args) == []
        with pytest.raises(OffsetOutOfRangeError, match="from 100 to before 100"):
            await admin.delete_records({TP: 101})


async def test_whole_segments_are_freed(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """Of 30 segments those before the offset go before the call returns, more than one call can name."""
    await fill(aio_args, 4000)
    async with Admin(**aio_args) as admin:
        (before, _) = (await admin.describe_topics(["t"]))["t"].partitions
        keys = len(keys_of(redis_client, namespace, "t"))
        assert before.segments > 70
        assert await admin.delete_records({TP: 3900}) == {TP: 3900}
        (after, _) = (await admin.describe_topics(["t"]))["t"].partitions
        assert after.segments < 5
        assert len(keys_of(redis_client, namespace, "t")) <= keys - 3 * (before.segments - after.segments)
        assert await offsets(aio_args) == list(range(3900, 4000))
        assert await admin.check_topics() == {}


@pytest.mark.parametrize("offset", [-2, True, 1.0, "5", None, [5]])
async def test_offsets_that_are_none(aio_args: dict[str, Any], offset: Any) -> None:
    """The error shows what was passed, and what -1 means; a good one before it was not done either."""
    await fill(aio_args, 50)
    async with Admin(**aio_args) as admin:
        with pytest.raises(ConfigurationError, match="the first offset to keep, from 0 on, or -1 to delete all"):
            await admin.delete_records({OTHER: 10, TP: offset})
        assert [p.log_start for p in (await admin.describe_topics(["t"]))["t"].partitions] == [0, 0]


async def test_partitions_that_are_not_there(aio_args: dict[str, Any]) -> None:
    """A missing topic, a missing partition, and what is no partition at all; those before it were done."""
    await fill(aio_args, 50)
    async with Admin(**aio_args) as admin:
        with pytest.raises(UnknownTopicOrPartitionError, match=r"no topic 'nope'.*\['t'\]"):
            await admin.delete_records({TP: 10, TopicPartition("nope", 0): 10})
        for number in (2, -1, True, "0", None):
            with pytest.raises(UnknownTopicOrPartitionError, match=f"t has the partitions 0 to 1, not {number!r}"):
                await admin.delete_records({TopicPartition("t", number): 10})
        for wrong in ("t", "t0", ("t",), ("t", 0, 10)):
            with pytest.raises(TypeError, match=r"named by TopicPartition\(topic, number\), not"):
                await admin.delete_records({wrong: 10})
        for wrong in ([TP], TP, None, "t"):
            with pytest.raises(TypeError, match=r"delete_records\(\{TopicPartition\('orders', 0\): 100\}\)"):
                await admin.delete_records(wrong)
        with pytest.raises(InvalidTopicError):
            await admin.delete_records({("a b", 0): 1})
        assert [p.log_start for p in (await admin.describe_topics(["t"]))["t"].partitions] == [10, 0]


async def test_a_reader_that_was_overtaken_goes_on_and_is_told_how_many_it_missed(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """With `earliest` at the new start, with `latest` at the end: one warning with the number of those passed over."""
    await fill(aio_args, 50)
    for reset, first, missed in (("earliest", 30, 20), ("latest", 50, 40)):
        caplog.clear()
        async with Admin(**aio_args) as admin, Consumer(auto_offset_reset=reset, **aio_args) as consumer:
            consumer.assign([TP])
            consumer.seek(TP, 10)
            assert await admin.delete_records({TP: 30}) == {TP: 30}
            with caplog.at_level(logging.WARNING, logger="streamlayer"):
                polled = await consumer.poll(200)
                assert [r.offset for part in polled.values() for r in part] == list(range(first, 50))
            said = [record.getMessage() for record in caplog.records]
            assert said == [f"t[0]: offset 10 is not in the log; going on at {first}, {missed} records were missed"]


async def test_a_reader_that_wants_no_reset_is_told_by_an_error(aio_args: dict[str, Any]) -> None:
    """With `none` the error has the new start and the number of missed records; after a seek it goes on."""
    await fill(aio_args, 50)
    async with Admin(**aio_args) as admin, Consumer(auto_offset_reset="none", **aio_args) as consumer:
        consumer.assign([TP])
        consumer.seek(TP, 10)
        await admin.delete_records({TP: 30})
        with pytest.raises(OffsetOutOfRangeError, match="20 records were missed") as raised:
            await consumer.poll(1000)
        assert (raised.value.log_start, raised.value.missed) == (30, 20)
        consumer.seek(TP, raised.value.log_start)
        assert (await read(consumer, 1))[0].offset == 30


async def test_a_reader_at_the_end_notices_nothing(aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """All is deleted behind it: it misses nothing, and gets what comes next."""
    await fill(aio_args, 50)
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        assert len(await read(consumer, 100)) == 100
        with caplog.at_level(logging.WARNING, logger="streamlayer"):
            await admin.delete_records({TP: -1, OTHER: -1})
            await producer.send_and_wait("t", b"next", partition=0)
            assert [(r.offset, r.value) for r in await read(consumer, 1)] == [(50, b"next")]
        assert not caplog.records


async def test_a_look_up_by_time_finds_only_what_is_left(aio_args: dict[str, Any]) -> None:
    """The first record at or after a time is not one that was deleted."""
    await fill(aio_args, 100)
    async with Admin(**aio_args) as admin, Consumer(**aio_args) as consumer:
        (first,) = [r for r in await stored(aio_args, "t") if r.topic_partition == TP and r.offset == 0]
        await admin.delete_records({TP: 30})
        found = (await consumer.offsets_for_times({TP: first.timestamp}))[TP]
        assert found is not None
        assert found.offset == 30
        await admin.delete_records({TP: -1})
        assert await consumer.offsets_for_times({TP: first.timestamp}) == {TP: None}
