"""``Consumer.poll``: what it hands out, in which order, where it begins, and what stands in its way."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from streamlayer import NewTopic, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import (
    ConfigurationError,
    CorruptRecordError,
    IllegalStateError,
    OffsetOutOfRangeError,
    RecordDeserializationError,
)
from tests.beside import aio_beside
from tests.shell.async_.reading import read, stored_values

TP = TopicPartition("t", 0)


async def fill(args: dict[str, Any], count: int, *, partition: int | None = 0, size: int = 0) -> None:
    """Append records whose values are their numbers."""
    async with Producer(**args) as producer:
        await producer.send_many("t", [b"%d" % i + b"." * size for i in range(count)], partition=partition)


# --- handing out ----------------------------------------------------------------------------------------------------


async def test_records_come_by_partition_and_in_order(aio_args: dict[str, Any]) -> None:
    """Each record once, offsets dense, the position behind the last; then nothing."""
    await fill(aio_args, 1000, partition=None)
    async with Consumer("t", **aio_args) as consumer:
        records = await read(consumer, 1000)
        for tp in consumer.assignment():
            offsets = [r.offset for r in records if r.topic_partition == tp]
            assert offsets == list(range(len(offsets)))
            assert await consumer.position(tp) == len(offsets)
        assert sorted(int(r.value) for r in records) == list(range(1000))
        assert await consumer.poll(0) == {}


@pytest.mark.parametrize("most", [1, 7, 100, 10_000])
async def test_max_records_bounds_a_poll(aio_args: dict[str, Any], most: int) -> None:
    """Never more than asked for, by the option or the argument, and nothing lost in between."""
    await fill(aio_args, 100, partition=None)
    async with Consumer("t", **aio_args, max_poll_records=most) as consumer:
        seen = 0
        while polled := await consumer.poll(0 if seen == 100 else 5000):
            count = sum(len(part) for part in polled.values())
            assert count <= most
            seen += count
        assert seen == 100
    async with Consumer("t", **aio_args) as consumer:
        polls = [await consumer.poll(5000, max_records=60) for _ in range(2)]
        assert [sum(len(part) for part in polled.values()) for polled in polls] == [60, 40]


async def test_all_partitions_get_their_turn(aio_args: dict[str, Any]) -> None:
    """A long partition does not keep the others waiting: after a few polls each was heard."""
    async with Producer(**aio_args) as producer:
        for partition in range(4):
            await producer.send_many("t", [b"x"] * 2000, partition=partition)
    async with Consumer("t", **aio_args, max_poll_records=100) as consumer:
        heard = {tp.partition for _ in range(8) for tp in await consumer.poll(5000)}
    assert heard == {0, 1, 2, 3}


async def test_an_empty_poll_takes_its_time_and_no_more(aio_args: dict[str, Any]) -> None:
    """timeout_ms=0 returns at once, 300 after about 300; a topic without records is no error."""
    async with Admin(**aio_args) as admin, Consumer("t", **aio_args) as consumer:
        await admin.create_topics(["t"])
        await consumer.poll(0)
        for timeout_ms in (0, 300):
            took: list[float] = []
            for _ in range(3):
                begin = time.monotonic()
                assert await consumer.poll(timeout_ms) == {}
                took.append((time.monotonic() - begin) * 1000)
            assert timeout_ms * 0.9 <= min(took) < timeout_ms + 250  # of three: a busy machine may take its time once


async def test_what_is_there_comes_without_waiting(aio_args: dict[str, Any]) -> None:
    """The very first poll(0) of a new consumer brings records, and so does each after it."""
    await fill(aio_args, 10)
    async with Consumer("t", **aio_args, max_poll_records=4) as consumer:
        assert [len((await consumer.poll(0))[TP]) for _ in range(3)] == [4, 4, 2]
    consumer = Consumer("t", **aio_args)
    assert len((await consumer.poll(0))[TP]) == 10
    await consumer.close()


async def test_bad_arguments_of_poll(aio_args: dict[str, Any]) -> None:
    """A negative time or no records at all cannot be meant; the next poll is as it should be."""
    await fill(aio_args, 1)
    async with Consumer("t", **aio_args) as consumer:
        with pytest.raises(ConfigurationError, match="timeout_ms=-1 must not be negative"):
            await consumer.poll(-1)
        with pytest.raises(ConfigurationError, match="max_records=0 must be 1 or more"):
            await consumer.poll(max_records=0)
        assert len(await read(consumer, 1)) == 1


# --- where it begins ------------------------------------------------------------------------------------------------


async def test_earliest_begins_at_the_first_record(aio_args: dict[str, Any]) -> None:
    """The default: what was sent before the consumer came is read."""
    await fill(aio_args, 3)
    async with Consumer("t", **aio_args) as consumer:
        assert [r.value for r in await read(consumer, 3)] == [b"0", b"1", b"2"]


async def test_latest_begins_behind_the_last_record(aio_args: dict[str, Any]) -> None:
    """Only what is sent after the consumer entered is read."""
    await fill(aio_args, 3)
    async with Consumer("t", **aio_args, auto_offset_reset="latest") as consumer:
        assert await consumer.poll(0) == {}
        await fill(aio_args, 2)
        assert [r.offset for r in await read(consumer, 2)] == [3, 4]


@pytest.mark.parametrize("reset", ["earliest", "latest"])
async def test_a_seek_too_far_follows_the_reset(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture, reset: str
) -> None:
    """A warning names offset and place, and it goes on at the log's start or end."""
    await fill(aio_args, 5)
    async with Consumer("t", **aio_args, auto_offset_reset=reset) as consumer:
        await consumer.poll(0)
        consumer.seek(TP, 1000)
        polled = await consumer.poll(100)
        assert [r.offset for r in polled.get(TP, [])] == ([0, 1, 2, 3, 4] if reset == "earliest" else [])
        assert await consumer.position(TP) == 5
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "t[0]: offset 1000 is not in the log; going on at" in warnings[0]


async def test_none_raises_when_the_position_is_not_in_the_log(aio_args: dict[str, Any]) -> None:
    """OffsetOutOfRangeError tells the log's start and how to go on; it comes until a seek mends it."""
    await fill(aio_args, 5)
    async with Consumer("t", **aio_args, auto_offset_reset="none") as consumer:
        assert len(await read(consumer, 5)) == 5
        consumer.seek(TP, 6)
        for _ in range(2):
            with pytest.raises(
                OffsetOutOfRangeError, match=r"t\[0\] holds the offsets from 0 to before 5.*Seek"
            ) as raised:
                await consumer.poll(1000)
            assert (raised.value.log_start, raised.value.missed) == (0, 0)
        consumer.seek(TP, 4)
        assert [r.value for r in await read(consumer, 1)] == [b"4"]


# --- prefetch -------------------------------------------------------------------------------------------------------


async def test_a_pause_holds_a_partition_back(aio_args: dict[str, Any]) -> None:
    """Nothing of it comes, not even what was fetched before; after resume nothing is missing or twice."""
    async with Producer(**aio_args, num_partitions=2) as producer:
        for partition in range(2):
            await producer.send_many("t", [b"%d" % i for i in range(100)], partition=partition)
        async with Consumer("t", **aio_args, max_poll_records=10) as consumer:
            got = [r for part in (await consumer.poll(5000)).values() for r in part]
            consumer.pause(TP)
            assert consumer.paused() == {TP}
            while polled := await consumer.poll(50):
                assert TP not in polled
                got += [r for part in polled.values() for r in part]
            assert sum(r.partition == 1 for r in got) == 100
            await producer.send_and_wait("t", b"100", partition=0)
            assert await consumer.poll(100) == {}
            consumer.resume(TP)
            assert consumer.paused() == set()
            got += await read(consumer, 101 - sum(r.partition == 0 for r in got))
            assert [int(r.value) for r in got if r.partition == 0] == list(range(101))


async def test_a_pause_keeps_what_was_fetched(aio_args: dict[str, Any]) -> None:
    """It comes after resume, though its records are no longer in the log."""
    await fill(aio_args, 3)
    async with Consumer(**aio_args, max_poll_records=1) as consumer, Admin(**aio_args) as admin:
        consumer.assign([TP])
        got = await read(consumer, 1)
        consumer.pause(TP)
        await admin.delete_records({TP: -1})
        assert await consumer.poll(100) == {}
        consumer.resume(TP)
        got += await read(consumer, 2)
    assert [record.offset for record in got] == [0, 1, 2]


async def test_pausing_all_and_resuming_all(aio_args: dict[str, Any]) -> None:
    """Without arguments they mean every assigned partition; a paused consumer still waits its time."""
    await fill(aio_args, 10, partition=None)
    async with Consumer("t", **aio_args) as consumer:
        consumer.pause()
        assert consumer.paused() == consumer.assignment()
        begin = time.monotonic()
        assert await consumer.poll(200) == {}
        assert time.monotonic() - begin > 0.15
        consumer.resume()
        assert len(await read(consumer, 10)) == 10


async def test_assigned_partitions_can_be_paused_before_the_first_poll(aio_args: dict[str, Any]) -> None:
    """assign, pause, seek: none of them waits for the partitions to be looked up."""
    await fill(aio_args, 3)
    async with Consumer(**aio_args) as consumer:
        consumer.assign([TP])
        consumer.pause(TP)
        assert consumer.paused() == {TP}
        assert await consumer.poll(50) == {}
        consumer.resume(TP)
        assert len(await read(consumer, 3)) == 3


async def test_unsubscribe_drops_what_was_fetched(aio_args: dict[str, Any]) -> None:
    """Subscribing again begins anew, at the beginning."""
    await fill(aio_args, 100)
    async with Consumer("t", **aio_args, max_poll_records=10) as consumer:
        assert len(await read(consumer, 10)) == 10
        consumer.unsubscribe()
        assert consumer.subscription() == consumer.assignment() == set()
        with pytest.raises(IllegalStateError, match="nothing to read"):
            await consumer.poll(0)
        consumer.subscribe(["t"])
        assert [r.offset for r in await read(consumer, 10)] == list(range(10))


async def test_highwater_is_the_end_as_the_last_fetch_saw_it(aio_args: dict[str, Any]) -> None:
    """None before the first fetch and for what is not assigned; it does not follow by itself."""
    async with Producer(**aio_args) as producer, Consumer(**aio_args) as consumer:
        await producer.send_many("t", [b"x"] * 10, partition=0)
        consumer.assign([TP])
        assert consumer.highwater(TP) is None
        await consumer.poll(5000, max_records=1)
        assert consumer.highwater(TP) == 10
        await producer.send_many("t", [b"x"] * 5, partition=0)
        assert consumer.highwater(TP) == 10
        await read(consumer, 14)
        assert consumer.highwater(TP) == 15
        assert consumer.highwater(TopicPartition("t", 1)) is None


# --- what stands in the way -----------------------------------------------------------------------------------------


async def test_a_deserializer_that_raises(aio_args: dict[str, Any]) -> None:
    """The records before come first; then the error with the offset, until a seek behind it; nothing is skipped."""
    async with Producer(**aio_args) as producer:
        values = [b"not a number" if i in {5, 6} else b"%d" % i for i in range(10)]
        await producer.send_many("t", values, partition=0)
    consumer: Consumer[bytes, int]
    async with Consumer("t", **aio_args, value_deserializer=int) as consumer:
        assert [r.value for r in await read(consumer, 5)] == [0, 1, 2, 3, 4]
        for bad in (5, 6):
            for _ in range(2):
                with pytest.raises(RecordDeserializationError, match=rf"t\[0\]: the value at offset {bad}") as raised:
                    await consumer.poll(1000)
                assert isinstance(raised.value.__cause__, ValueError)
            assert (raised.value.topic, raised.value.partition, raised.value.offset) == ("t", 0, bad)
            assert await consumer.position(TP) == bad
            consumer.seek(TP, raised.value.next_offset)
        assert [r.value for r in await read(consumer, 3)] == [7, 8, 9]


async def test_a_key_that_does_not_deserialize(aio_args: dict[str, Any]) -> None:
    """The message says that it was the key; the earlier of two bad fields of a batch counts."""
    async with Producer(**aio_args) as producer:
        await producer.send_many("t", [b"0", b"1", b"x", b"3"], [b"0", b"x", b"2", b"x"], partition=0)
    consumer: Consumer[int, int]
    async with Consumer("t", **aio_args, value_deserializer=int, key_deserializer=int) as consumer:
        offsets = []
        for what in ("key", "value", "key"):
            with pytest.raises(RecordDeserializationError, match=f"the {what} at offset") as raised:
                while True:
                    offsets += [r.offset for part in (await consumer.poll(1000)).values() for r in part]
            consumer.seek(TP, raised.value.next_offset)
        assert offsets == [0]
        assert await consumer.poll(0) == {}


async def test_one_bad_partition_does_not_silence_the_others(aio_args: dict[str, Any]) -> None:
    """Who catches the error and polls on gets all records of the other partitions; a pause silences the error."""
    async with Producer(**aio_args) as producer:
        await producer.send_and_wait("t", b"not a number", partition=0)
        for partition in (1, 2, 3):
            await producer.send_many("t", [b"%d" % i for i in range(20)], partition=partition)
    consumer: Consumer[bytes, int]
    async with Consumer("t", **aio_args, value_deserializer=int, max_poll_records=7) as consumer:
        values: list[int] = []
        errors = 0
        for _ in range(40):
            try:
                values += [r.value for part in (await consumer.poll(0)).values() for r in part]
            except RecordDeserializationError:
                errors += 1
        assert sorted(values) == sorted(list(range(20)) * 3)
        assert errors
        consumer.pause(TP)
        assert await consumer.poll(0) == {}
        consumer.resume(TP)
        with pytest.raises(RecordDeserializationError):
            await consumer.poll(1000)


async def test_a_deserializer_may_not_use_its_consumer(aio_args: dict[str, Any]) -> None:
    """A call from inside is refused, not half done; the records are still there afterwards."""
    await fill(aio_args, 3)
    inside: list[Any] = []

    def meddle(stored: bytes) -> bytes:
        if inside:
            inside.pop()()
        return stored

    async with Consumer("t", **aio_args, value_deserializer=meddle) as consumer:
        for call in (lambda: consumer.seek(TP, 2), consumer.unsubscribe, lambda: consumer.pause(TP)):
            inside.append(call)
            with pytest.raises(RecordDeserializationError, match="in use") as raised:
                await consumer.poll(1000)
            assert isinstance(raised.value.__cause__, IllegalStateError)
            consumer.seek(TP, 0)
        assert [r.value for r in await read(consumer, 3)] == [b"0", b"1", b"2"]


def flip(client: redis.Redis, key: str, position: int) -> None:
    """Change one byte of a string."""
    byte = client.getrange(key, position, position)
    client.setrange(key, position, bytes([byte[0] ^ 0x40]))


async def test_a_corrupt_frame_in_the_tail(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """The records before it are delivered, then CorruptRecordError says where it is and how to go on."""
    async with Producer(**aio_args) as producer:
        for i in range(4):
            await producer.send_and_wait("t", b"%d" % i, partition=0)
        tail = f"{namespace}:t:{{t:0}}:tail"
        flip(redis_client, tail, int(redis_client.strlen(tail)) * 5 // 8)  # in the third of four frames of one size
        async with Consumer("t", **aio_args) as consumer:
            assert [r.value for r in await read(consumer, 2)] == [b"0", b"1"]
            for _ in range(2):
                with pytest.raises(CorruptRecordError, match=r"t\[0\]: the records from offset 2.*seek") as raised:
                    await consumer.poll(1000)
            assert (raised.value.topic, raised.value.partition) == ("t", 0)
            assert (raised.value.offset, raised.value.next_offset) == (2, 3)
            await producer.send_and_wait("t", b"behind", partition=0)
            consumer.seek(TP, raised.value.next_offset)
            assert [r.value for r in await read(consumer, 2)] == [b"3", b"behind"]


async def test_a_frame_whose_length_is_wrong(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Nothing behind it in its field can be found: the error says so, and the next field is read again."""
    async with Producer(**aio_args) as producer:
        for i in range(4):
            await producer.send_and_wait("t", b"%d" % i, partition=0)
        flip(redis_client, f"{namespace}:t:{{t:0}}:tail", 6)  # the first byte of the first frame's length
        async with Consumer("t", **aio_args) as consumer:
            with pytest.raises(CorruptRecordError, match="the records from offset 0 to 3") as raised:
                await consumer.poll(1000)
            assert (raised.value.offset, raised.value.next_offset) == (0, 4)
            await producer.send_and_wait("t", b"x" * 5000, partition=0)  # too large for the tail: a field of its own
            consumer.seek(TP, raised.value.next_offset)
            assert [r.offset for r in await read(consumer, 1)] == [4]


async def test_a_corrupt_field_of_a_segment(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Seeking to next_offset skips exactly the records that cannot be read."""
    async with Producer(**aio_args) as producer:
        for i in range(6):
            await producer.send_many("t", [b"%d" % i + b"x" * 5000], partition=0)
        log = f"{namespace}:t:{{t:0}}:log:0"
        redis_client.hset(log, f"{3:016d}", (redis_client.hget(log, f"{3:016d}") or b"")[:-1])
        async with Consumer("t", **aio_args) as consumer:
            assert [r.offset for r in await read(consumer, 3)] == [0, 1, 2]
            with pytest.raises(CorruptRecordError) as raised:
                await consumer.poll(1000)
            assert (raised.value.offset, raised.value.next_offset) == (3, 4)
            assert await consumer.position(TP) == 3
            consumer.seek(TP, raised.value.next_offset)
            assert [r.offset for r in await read(consumer, 2)] == [4, 5]


async def test_polling_while_another_call_is_under_way(aio_args: dict[str, Any]) -> None:
    """The second one is refused at once; the first is not disturbed and gets its records."""
    async with Consumer("t", **aio_args) as consumer, Producer(**aio_args) as producer:
        await producer.partitions_for("t")
        await consumer.poll(0)
        polling = aio_beside(lambda: consumer.poll(10_000))
        await producer.partitions_for("other")  # something to wait for, while the poll begins
        for _ in range(1000):
            if consumer._in_use.locked():
                break
            await producer.send_and_wait("other", b"x")
        with pytest.raises(IllegalStateError, match=r"in use elsewhere.*wakeup"):
            await consumer.poll(0)
        for call in (lambda: consumer.seek(TP, 0), lambda: consumer.pause(TP), consumer.unsubscribe):
            with pytest.raises(IllegalStateError, match="in use"):
                call()
        await producer.send_and_wait("t", b"x", partition=0)
        assert [r.value for r in (await polling.result())[TP]] == [b"x"]


async def test_a_consumer_that_is_closed_says_so(aio_args: dict[str, Any]) -> None:
    """Every call but close and the ones that look at memory."""
    await fill(aio_args, 3)
    consumer = Consumer("t", **aio_args)
    await read(consumer, 3)
    assert consumer.health().ok
    assert "<Consumer t at" in repr(consumer)
    await consumer.close()
    await consumer.close()
    assert (consumer.health().ok, consumer.health().state) == (False, "closed")
    assert "closed" in repr(consumer)
    calls = (consumer.poll, consumer.topics, consumer.seek_to_end, lambda: consumer.position(TP))
    for call in calls:
        with pytest.raises(IllegalStateError, match="closed"):
            await call()
    for plain in (lambda: consumer.subscribe(["t"]), lambda: consumer.assign([TP]), lambda: consumer.seek(TP, 0)):
        with pytest.raises(IllegalStateError, match="closed"):
            plain()
    assert [record async for record in consumer] == []
    consumer.wakeup()


async def test_reading_does_not_change_the_log(aio_args: dict[str, Any]) -> None:
    """Two consumers read the same, as often as they like."""
    await fill(aio_args, 50, partition=None)
    first = await stored_values(aio_args, "t")
    assert len(first) == 50
    assert await stored_values(aio_args, "t") == first


async def test_consumers_of_several_topics(aio_args: dict[str, Any]) -> None:
    """All topics given are read; the partition tells which."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("a", 1), NewTopic("b", 2)])
        await producer.send_and_wait("a", b"1")
        await producer.send_and_wait("b", b"2", partition=1)
        async with Consumer("a", "b", **aio_args) as consumer:
            assert consumer.subscription() == {"a", "b"}
            assert consumer.assignment() == {("a", 0), ("b", 0), ("b", 1)}
            records = await read(consumer, 2)
    assert sorted((r.topic, r.partition, r.value) for r in records) == [("a", 0, b"1"), ("b", 1, b"2")]
