"""Positions: where they are, and every way to move them."""

from __future__ import annotations

from typing import Any

import pytest

from streamlayer import NewTopic, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import ConfigurationError, IllegalStateError, UnknownTopicOrPartitionError
from tests.shell.async_.reading import read

TP = TopicPartition("t", 0)
OTHER = TopicPartition("t", 1)


async def fill(args: dict[str, Any], *counts: int) -> None:
    """Append so many records to the partitions of t."""
    async with Producer(**args, num_partitions=len(counts)) as producer:
        for partition, count in enumerate(counts):
            await producer.send_many("t", [b"%d" % i for i in range(count)], partition=partition)


async def test_seek_goes_anywhere_in_the_log(aio_args: dict[str, Any]) -> None:
    """From the tail, from sealed fields, from older segments: the next record has that offset."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 1, config={"segment_bytes": 16_384})])
        for part in range(20):
            await producer.send_many("t", [b"%d" % (part * 10 + i) + b"." * 500 for i in range(10)])
        async with Consumer("t", **aio_args, max_poll_records=3) as consumer:
            for offset in (199, 0, 100, 35, 36, 198, 5, 150, 0):
                consumer.seek(TP, offset)
                assert await consumer.position(TP) == offset
                polled = (await consumer.poll(5000))[TP]
                assert [r.offset for r in polled] == list(range(offset, min(offset + 3, 200)))
                assert [int(r.value.rstrip(b".")) for r in polled] == [r.offset for r in polled]


async def test_a_seek_before_anything_was_looked_up_counts(aio_args: dict[str, Any]) -> None:
    """For assigned partitions and for topics subscribed to; the last one wins."""
    await fill(aio_args, 10)
    consumer = Consumer("t", **aio_args)
    consumer.seek(TP, 3)
    consumer.seek(TP, 7)
    assert [r.offset for r in await read(consumer, 3)] == [7, 8, 9]
    await consumer.close()
    async with Consumer(**aio_args, auto_offset_reset="latest") as consumer:
        consumer.assign([TP])
        consumer.seek(TP, 8)
        assert await consumer.position(TP) == 8
        assert [r.offset for r in await read(consumer, 2)] == [8, 9]


async def test_a_seek_to_a_topic_that_comes_later_counts(aio_args: dict[str, Any]) -> None:
    """The position waits for the topic."""
    async with Consumer("t", **aio_args) as consumer:
        consumer.seek(TP, 2)
        assert await consumer.poll(0) == {}
        await fill(aio_args, 5)
        assert [r.offset for r in await read(consumer, 3)] == [2, 3, 4]


async def test_seek_drops_what_was_fetched(aio_args: dict[str, Any]) -> None:
    """After a poll that fetched more than it handed out, back and forth."""
    await fill(aio_args, 1000)
    async with Consumer("t", **aio_args, max_poll_records=2) as consumer:
        await read(consumer, 2)
        consumer.seek(TP, 900)
        assert [r.offset for r in await read(consumer, 2)] == [900, 901]
        consumer.seek(TP, 0)
        assert [r.offset for r in await read(consumer, 2)] == [0, 1]
        consumer.seek(TP, 2)
        assert [r.offset for r in await read(consumer, 2)] == [2, 3]


@pytest.mark.parametrize("offset", [-1, -2, 1.0, "5", None, True])
async def test_a_bad_offset_is_told_and_nothing_moves(aio_args: dict[str, Any], offset: Any) -> None:
    """Negative numbers have no hidden meaning; the message names the calls that find the ends."""
    await fill(aio_args, 5)
    async with Consumer("t", **aio_args, max_poll_records=2) as consumer:
        await read(consumer, 2)
        with pytest.raises(ConfigurationError, match="an offset is an int from 0 on; seek_to_beginning"):
            consumer.seek(TP, offset)
        assert [r.offset for r in await read(consumer, 2)] == [2, 3]


async def test_seeking_where_nothing_is_assigned(aio_args: dict[str, Any]) -> None:
    """Another topic, or a partition that the topic has not: the message says what is assigned."""
    await fill(aio_args, 1)
    async with Consumer("t", **aio_args) as consumer:
        for call in (consumer.position, consumer.seek_to_end, consumer.seek_to_beginning):
            with pytest.raises(IllegalStateError, match=r"u\[0\] is not assigned to this consumer; assigned are"):
                await call(TopicPartition("u", 0))
        with pytest.raises(IllegalStateError, match="not assigned"):
            consumer.seek(TopicPartition("u", 0), 0)
        with pytest.raises(IllegalStateError, match="not assigned"):
            consumer.pause(TopicPartition("u", 0))
        assert len(await read(consumer, 1)) == 1


async def test_a_position_in_a_topic_that_is_not_there_yet(aio_args: dict[str, Any]) -> None:
    """It is assigned, and the message does not deny it."""
    async with Consumer(**aio_args) as consumer:
        consumer.assign([TP])
        with pytest.raises(IllegalStateError, match=r"t\[0\] is assigned, but the topic is not there yet"):
            await consumer.position(TP)


async def test_seek_to_the_ends(aio_args: dict[str, Any]) -> None:
    """At once: position says the offset before any poll. Named partitions, or all."""
    await fill(aio_args, 5, 7)
    async with Consumer("t", **aio_args) as consumer:
        await consumer.seek_to_end()
        assert (await consumer.position(TP), await consumer.position(OTHER)) == (5, 7)
        assert await consumer.poll(0) == {}
        await consumer.seek_to_beginning(OTHER)
        assert (await consumer.position(TP), await consumer.position(OTHER)) == (5, 0)
        assert {r.topic_partition for r in await read(consumer, 7)} == {OTHER}
        await consumer.seek_to_beginning()
        assert len(await read(consumer, 12)) == 12
        await consumer.seek_to_end(TP, OTHER)
        assert await consumer.poll(0) == {}


async def test_ends_can_be_asked_of_any_partition(aio_args: dict[str, Any]) -> None:
    """Assigned or not; by tuple too; an unknown one is told, and no argument moved."""
    await fill(aio_args, 5, 0)
    async with Consumer(**aio_args) as consumer:
        assert await consumer.beginning_offsets([TP, OTHER]) == {TP: 0, OTHER: 0}
        assert await consumer.end_offsets([TP, OTHER]) == {TP: 5, OTHER: 0}
        assert await consumer.end_offsets([("t", 0)]) == {TP: 5}  # type: ignore[list-item]
        assert await consumer.end_offsets([]) == {}
        with pytest.raises(UnknownTopicOrPartitionError, match="t has the partitions 0 to 1, not 2"):
            await consumer.end_offsets([TP, TopicPartition("t", 2)])
        with pytest.raises(UnknownTopicOrPartitionError, match="no topic 'u'"):
            await consumer.beginning_offsets([TopicPartition("u", 0)])
        with pytest.raises((UnknownTopicOrPartitionError, ConfigurationError), match="-1"):
            await consumer.end_offsets([TopicPartition("t", -1)])


async def test_a_position_moves_by_what_was_handed_out(aio_args: dict[str, Any]) -> None:
    """Not by what was fetched."""
    await fill(aio_args, 100)
    async with Consumer("t", **aio_args) as consumer:
        assert await consumer.position(TP) == 0
        for end in (10, 20, 100):
            await consumer.poll(5000, max_records=end - await consumer.position(TP))
            assert await consumer.position(TP) == end


async def test_an_end_is_where_the_next_record_goes(aio_args: dict[str, Any]) -> None:
    """Waiting at the end, a seek to exactly there is no error, and the next record comes."""
    await fill(aio_args, 3)
    async with Consumer("t", **aio_args, auto_offset_reset="none") as consumer, Producer(**aio_args) as producer:
        consumer.seek(TP, 3)
        assert await consumer.poll(0) == {}
        await producer.send_and_wait("t", b"3", partition=0)
        assert [r.offset for r in await read(consumer, 1)] == [3]
