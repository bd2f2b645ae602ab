"""Iterating over a consumer, and ``read_to_end``: one record at a time, left and taken up again at any point."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any

import pytest

from streamlayer import TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import IllegalStateError, RecordDeserializationError, UnknownTopicOrPartitionError
from tests.beside import aio_beside
from tests.shell.async_.reading import read

TP = TopicPartition("t", 0)


async def fill(args: dict[str, Any], count: int, *, first: int = 0, partition: int | None = 0) -> None:
    """Append records whose values are their numbers."""
    async with Producer(**args) as producer:
        await producer.send_many("t", [b"%d" % (first + i) for i in range(count)], partition=partition)


def numbers(records: list[Any]) -> list[int]:
    """The values, as they were filled in."""
    return [int(record.value) for record in records]


# --- for record in consumer -----------------------------------------------------------------------------------------


async def test_it_ends_after_silence(aio_args: dict[str, Any]) -> None:
    """With consumer_timeout_ms the loop ends that long after the last record, and not before."""
    await fill(aio_args, 1200)
    took: list[float] = []
    for _ in range(3):
        async with Consumer("t", **aio_args, consumer_timeout_ms=200) as consumer:
            got = []
            async for record in consumer:
                got.append(record)
                begin = time.monotonic()
            took.append(time.monotonic() - begin)
            assert numbers(got) == list(range(1200))
    assert 0.15 < min(took) < 1  # of three: a busy machine may take its time once


async def test_a_new_loop_goes_on_where_the_last_was_left(aio_args: dict[str, Any]) -> None:
    """Left by break in the middle of what was fetched: nothing lost, nothing twice; records that came since too."""
    await fill(aio_args, 100)
    async with Consumer("t", **aio_args, consumer_timeout_ms=50) as consumer:
        got = []
        for stop in (10, 10, 25):
            async for record in consumer:
                got.append(record)
                if len(got) % stop == 0:
                    break
        await fill(aio_args, 5, first=100)
        got += [record async for record in consumer]
        assert numbers(got) == list(range(105))
        assert [record async for record in consumer] == []


async def test_position_during_a_loop_is_behind_the_record_in_hand(aio_args: dict[str, Any]) -> None:
    """However much was fetched ahead; for all partitions."""
    await fill(aio_args, 20)
    async with Producer(**aio_args) as producer:
        await producer.send_many("t", [b"x"] * 20, partition=1)
    other = TopicPartition("t", 1)
    async with Consumer("t", **aio_args, consumer_timeout_ms=50) as consumer:
        expected = {TP: 0, other: 0}
        async for record in consumer:
            expected[record.topic_partition] = record.offset + 1
            assert {tp: await consumer.position(tp) for tp in expected} == expected
        assert expected == {TP: 20, other: 20}


async def test_poll_between_two_loops_gets_what_was_not_handed_out(aio_args: dict[str, Any]) -> None:
    """Poll after a loop that was left gives the very next record."""
    await fill(aio_args, 30)
    async with Consumer("t", **aio_args, consumer_timeout_ms=50) as consumer:
        async for record in consumer:
            if record.offset == 4:
                break
        polled = (await consumer.poll(5000, max_records=5))[TP]
        assert numbers(polled) == [5, 6, 7, 8, 9]
        assert numbers([record async for record in consumer]) == list(range(10, 30))


@pytest.mark.parametrize("target", [0, 3, 50, 99])
async def test_a_seek_within_a_loop_moves_it(aio_args: dict[str, Any], target: int) -> None:
    """Back or forth: the next record is the one at the offset, whatever was fetched."""
    await fill(aio_args, 100)
    async with Consumer("t", **aio_args, consumer_timeout_ms=50) as consumer:
        got = []
        async for record in consumer:
            got.append(record.offset)
            if len(got) == 10:
                consumer.seek(TP, target)
        assert got == [*range(10), *range(target, 100)]


async def test_a_pause_within_a_loop_holds_the_partition(aio_args: dict[str, Any]) -> None:
    """Its records stop at once; after resume a new loop brings the rest, none twice."""
    await fill(aio_args, 50)
    async with Producer(**aio_args) as producer:
        await producer.send_many("t", [b"%d" % i for i in range(50)], partition=1)
    async with Consumer("t", **aio_args, consumer_timeout_ms=50) as consumer:
        got: list[Any] = []
        async for record in consumer:
            got.append(record)
            if len(got) == 5:
                held = record.topic_partition
                consumer.pause(held)
                at = len(got)
        assert {record.topic_partition for record in got[at:]} == {TopicPartition("t", 1 - held.partition)}
        consumer.resume()
        got += [record async for record in consumer]
        for partition in range(2):
            assert numbers([r for r in got if r.partition == partition]) == list(range(50))


async def test_wakeup_ends_a_loop_and_a_new_one_goes_on(aio_args: dict[str, Any]) -> None:
    """From within the loop it ends at once, in the middle of what was fetched; nothing is lost."""
    await fill(aio_args, 100)
    async with Consumer("t", **aio_args) as consumer:
        got = []
        async for record in consumer:
            got.append(record)
            if len(got) == 7:
                consumer.wakeup()
        assert len(got) == 7
        async for record in consumer:
            got.append(record)
            if len(got) == 100:
                consumer.wakeup()
        assert numbers(got) == list(range(100))


async def test_close_from_elsewhere_ends_a_waiting_loop(aio_args: dict[str, Any]) -> None:
    """Whoever waits in the loop comes out of it, without an error, soon."""
    await fill(aio_args, 3)
    consumer = Consumer("t", **aio_args)
    got: list[Any] = []

    async def follow() -> None:
        async for record in consumer:
            last = record
            got.append(last)

    await read(consumer, 3)
    following = aio_beside(follow)
    async with Producer(**aio_args) as producer:
        while not consumer._in_use.locked():
            await producer.send_and_wait("other", b"x")
    begin = time.monotonic()
    await consumer.close()
    await following.result()
    assert time.monotonic() - begin < 10
    assert got == []


async def test_close_within_a_loop_ends_it(aio_args: dict[str, Any]) -> None:
    """At once, though more was fetched."""
    await fill(aio_args, 30)
    consumer = Consumer("t", **aio_args)
    got = []
    async for record in consumer:
        got.append(record)
        if len(got) == 3:
            await consumer.close()
    assert len(got) == 3


async def test_an_error_in_a_loop_comes_after_the_records_before_it(aio_args: dict[str, Any]) -> None:
    """And a seek behind the record lets a new loop go on."""
    async with Producer(**aio_args) as producer:
        await producer.send_many("t", [b"0", b"1", b"x", b"3", b"4"], partition=0)
    consumer: Consumer[bytes, int]
    async with Consumer("t", **aio_args, value_deserializer=int, consumer_timeout_ms=50) as consumer:
        got: list[int] = []
        with pytest.raises(RecordDeserializationError) as raised:
            async for record in consumer:
                got.append(record.value)  # noqa: PERF401 - it raises on the way
        assert got == [0, 1]
        consumer.seek(TP, raised.value.next_offset)
        assert [record.value async for record in consumer] == [3, 4]


async def test_iterating_over_nothing(aio_args: dict[str, Any]) -> None:
    """A consumer that was told nothing to read says what comes first, in a loop too."""
    async with Consumer(**aio_args) as consumer:
        with pytest.raises(IllegalStateError, match="nothing to read"):
            async for _ in consumer:
                pass
        with pytest.raises(IllegalStateError, match="nothing to read"):
            async for _ in consumer.read_to_end():
                pass


# --- read_to_end ----------------------------------------------------------------------------------------------------


async def test_read_to_end_stops_at_the_ends_as_they_were(aio_args: dict[str, Any]) -> None:
    """What is appended while it reads is left for later; the positions are right behind the ends."""
    await fill(aio_args, 700)
    async with Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        got = []
        async for record in consumer.read_to_end():
            got.append(record)
            if len(got) in {1, 400, 700}:
                await producer.send_many("t", [b"later"] * 100, partition=len(got) % 2)
        assert numbers(got) == list(range(700))
        assert await consumer.position(TP) == 700
        assert [r.value async for r in consumer.read_to_end()] == [b"later"] * 300
        assert [r async for r in consumer.read_to_end()] == []


async def test_read_to_end_left_half_way_loses_nothing(aio_args: dict[str, Any]) -> None:
    """After break the next record is the one behind the last in hand, for poll, loop and another read_to_end."""
    await fill(aio_args, 100)
    async with Consumer("t", **aio_args, consumer_timeout_ms=50) as consumer:
        got = []
        for stop in (5, 15):
            async with aclosing(consumer.read_to_end()) as reading:
                async for record in reading:
                    got.append(record)
                    assert await consumer.position(TP) == record.offset + 1
                    if len(got) == stop:
                        break
        got += (await consumer.poll(5000, max_records=10))[TP]
        got += [record async for record in consumer]
        assert numbers(got) == list(range(100))


async def test_a_generator_that_is_dropped_half_way_loses_nothing(aio_args: dict[str, Any]) -> None:
    """Nobody closes it: the consumer is free all the same."""
    await fill(aio_args, 10)
    async with Consumer("t", **aio_args) as consumer:
        reading = consumer.read_to_end()
        first = await anext(reading)
        assert first.offset == 0
        assert numbers(await read(consumer, 9)) == list(range(1, 10))
        await reading.aclose()


async def test_seek_within_read_to_end(aio_args: dict[str, Any]) -> None:
    """Back: those records come again; the ends stay. Forth: the ones between are left out."""
    await fill(aio_args, 50)
    async with Consumer("t", **aio_args) as consumer:
        got = []
        async for record in consumer.read_to_end():
            got.append(record.offset)
            if len(got) == 10:
                consumer.seek(TP, 0)
            if len(got) == 20:
                consumer.seek(TP, 45)
        assert got == [*range(10), *range(10), *range(45, 50)]


async def test_read_to_end_of_nothing_and_of_a_missing_topic(aio_args: dict[str, Any]) -> None:
    """An empty topic and one that does not exist have nothing before their end."""
    async with Admin(**aio_args) as admin, Consumer("t", **aio_args) as consumer:
        assert [r async for r in consumer.read_to_end()] == []
        await admin.create_topics(["t"])
        assert [r async for r in consumer.read_to_end()] == []
        await fill(aio_args, 2)
        assert len([r async for r in consumer.read_to_end()]) == 2


async def test_read_to_end_leaves_paused_partitions_alone(aio_args: dict[str, Any]) -> None:
    """It does not wait for them; after resume their records come."""
    await fill(aio_args, 10)
    async with Producer(**aio_args) as producer:
        await producer.send_many("t", [b"1"] * 10, partition=1)
    async with Consumer("t", **aio_args) as consumer:
        consumer.pause(TP)
        assert {r.partition async for r in consumer.read_to_end()} == {1}
        consumer.resume(TP)
        assert numbers([r async for r in consumer.read_to_end()]) == list(range(10))


async def test_read_to_end_ends_by_wakeup(aio_args: dict[str, Any]) -> None:
    """Before a fetch it ends; a new one goes on."""
    await fill(aio_args, 20)
    async with Consumer("t", **aio_args, max_poll_records=5) as consumer:
        got = []
        async for record in consumer.read_to_end():
            got.append(record)
            if len(got) == 3:
                consumer.wakeup()
        assert len(got) in {3, 5}
        got += [record async for record in consumer.read_to_end()]
        assert numbers(got) == list(range(20))


async def test_two_readers_to_the_end_at_once(aio_args: dict[str, Any]) -> None:
    """Two generators of one consumer share its position: each record comes from one of them."""
    await fill(aio_args, 10)
    async with Consumer("t", **aio_args) as consumer:
        one, two = consumer.read_to_end(), consumer.read_to_end()
        got = []
        for _ in range(3):
            got += [await anext(one), await anext(two)]
        await one.aclose()
        got += [record async for record in two]
        assert numbers(got) == list(range(10))


async def test_a_topic_deleted_while_it_is_read(aio_args: dict[str, Any]) -> None:
    """read_to_end does not wait for records that will not come: it says that the topic is gone."""
    await fill(aio_args, 20)
    async with Admin(**aio_args) as admin, Consumer("t", **aio_args, max_poll_records=5) as consumer:
        got = []
        with pytest.raises(UnknownTopicOrPartitionError):
            async for record in consumer.read_to_end():
                got.append(record)
                if len(got) == 2:
                    await admin.delete_topics(["t"])
                    consumer.seek(TP, 3)
        assert len(got) == 2
