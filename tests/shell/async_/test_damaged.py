"""A partition whose keys contradict each other: refused with the next step, beside others that go on, until mended."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from streamlayer import TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.embedded import Server
from streamlayer.errors import PartitionDamagedError, UnknownTopicOrPartitionError
from tests.shell.async_.members import GROUP, create, member, partitions, produce
from tests.shell.async_.reading import read, stored_values
from tests.waiting import aio_wait_until

TP = TopicPartition("t", 0)
COUNT = 3
STEP = r"t\[0\] is damaged: torn\..*redis-check-aof --fix.*`streamlayer topics repair t`"


def key_of(namespace: str) -> str:
    """Where the partition says that it is damaged."""
    return f"{namespace}:t:{{t:0}}:meta"


def damage(client: redis.Redis, namespace: str) -> None:
    """As `append` does when it finds a contradiction."""
    client.hset(key_of(namespace), "damaged", "torn")


async def polled(
    consumer: Consumer, seconds: float, count: int, *, told: bool = True
) -> tuple[list[bytes], list[PartitionDamagedError]]:
    """Poll until so many records have come and it was told, and then for a time: the values, sorted, and the errors."""
    values: list[bytes] = []
    errors: list[PartitionDamagedError] = []

    async def poll() -> bool:
        try:
            values.extend(record.value for records in (await consumer.poll(20)).values() for record in records)
        except PartitionDamagedError as error:
            errors.append(error)
        return len(values) >= count and bool(errors) == told

    await aio_wait_until(poll, f"{count} records come, and it is told")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await poll()
    return sorted(values), errors


@pytest.mark.parametrize("how", ["before", "after", "assigned", "member", "goes on"])
async def test_the_others_are_read_and_it_goes_on_when_it_is_mended(
    any_server: Server, any_client: redis.Redis, how: str
) -> None:
    """Whenever it was damaged, however it is read: told with the next step, not at each poll; later read to the end."""
    aio_args: dict[str, Any] = {"url": any_server.url}
    redis_client, namespace = any_client, "sl"
    await create(aio_args, COUNT)
    await produce(aio_args, range(3 * COUNT), count=COUNT)
    if how == "goes on":
        async with member(aio_args, "t") as first:
            await read(first, 3 * COUNT)
            await first.commit(dict.fromkeys(partitions(COUNT), 0))
            await first.close(autocommit=False)
    if how != "after":
        damage(redis_client, namespace)
    async with member(aio_args, "t") if how in {"member", "goes on"} else Consumer(**aio_args) as consumer:
        if how == "assigned":
            consumer.assign(partitions(COUNT))
        elif how in {"before", "after"}:
            consumer.subscribe(["t"])
        if how == "after":
            await consumer.seek_to_beginning()
            damage(redis_client, namespace)
        values, errors = await polled(consumer, 0.5, 6)
        assert values == [b"1", b"2", b"4", b"5", b"7", b"8"]
        assert 1 <= len(errors) <= 5  # of some thirty polls: at first, when its channel is heard, in its turn
        with pytest.raises(PartitionDamagedError, match=STEP):
            raise errors[0]
        redis_client.hdel(key_of(namespace), "damaged")
        assert sorted(record.value for record in await read(consumer, 3)) == [b"0", b"3", b"6"]


async def test_paused_it_is_not_told(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """Who wants to read the others in peace pauses it."""
    await create(aio_args, COUNT)
    await produce(aio_args, range(COUNT), count=COUNT)
    damage(redis_client, namespace)
    async with Consumer("t", **aio_args) as consumer:
        consumer.pause(TP)
        values, errors = await polled(consumer, 0.3, 2, told=False)
        assert (values, errors) == ([b"1", b"2"], [])


async def test_repaired_it_goes_on_without_its_records(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Refused, with the next step; then the producer goes on behind all offsets, and readers know what they missed."""
    await create(aio_args, COUNT)
    await produce(aio_args, range(3 * COUNT), count=COUNT)
    async with (
        Producer(**aio_args) as producer,
        Consumer("t", **aio_args, max_poll_records=1) as consumer,
        Admin(**aio_args) as admin,
    ):
        consumer.pause(*partitions(COUNT) - {TP})
        assert [record.offset for record in await read(consumer, 1)] == [0]
        consumer.seek(TP, 1)  # what was fetched before is dropped
        damage(redis_client, namespace)
        with pytest.raises(PartitionDamagedError, match=STEP):
            await producer.send_and_wait("t", b"refused", partition=0)
        assert (await producer.send_and_wait("t", b"taken", partition=1)).offset == 3
        assert list(await admin.check_topics()) == [TP]
        assert await admin.repair_partitions([TP, TopicPartition("t", 1)]) == {TP: 3}
        assert await admin.repair_partitions([TP]) == {}
        assert await admin.check_topics() == {}
        assert (await producer.send_and_wait("t", b"new", partition=0)).offset == 3
        assert [(record.offset, record.value) for record in await read(consumer, 1)] == [(3, b"new")]
        assert consumer.metrics().records_missed == 2
        with pytest.raises(UnknownTopicOrPartitionError):
            await admin.repair_partitions([TopicPartition("u", 0)])
    assert sorted(await stored_values(aio_args, "t")) == [b"1", b"2", b"4", b"5", b"7", b"8", b"new", b"taken"]


async def test_what_only_readers_have_met_is_repaired_too(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """A field in the middle is gone: nobody has marked it, and appends go on. What is sound is left as it is."""
    await create(aio_args, COUNT)
    async with Producer(**aio_args) as producer, Admin(**aio_args) as admin:
        for i in range(3):
            for partition in range(2):
                await producer.send_and_wait("t", b"%d" % i + bytes(5000), partition=partition)
        redis_client.hdel(f"{namespace}:t:{{t:0}}:log:0", f"{1:016d}")
        async with Consumer("t", **aio_args) as consumer:
            values, errors = await polled(consumer, 0.3, 4)
        assert [value[:1] for value in values] == [b"0", b"0", b"1", b"2"]
        with pytest.raises(PartitionDamagedError, match=r"field 0000000000000001 is gone.*streamlayer topics repair t"):
            raise errors[0]
        assert await admin.repair_partitions(sorted(partitions(COUNT))) == {TP: 3}
        assert (await producer.send_and_wait("t", b"3", partition=0)).offset == 3
        assert await admin.check_topics() == {}
    assert [value[:1] for value in sorted(await stored_values(aio_args, "t"))] == [b"0", b"1", b"2", b"3"]


async def test_what_only_a_reader_has_met_can_be_repaired(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Nobody writes to the topic: the step that the reader's error names works all the same, at once."""
    await create(aio_args, 1)
    await produce(aio_args, range(3), count=1)
    redis_client.append(f"{namespace}:t:{{t:0}}:tail", "half a record")
    async with Consumer("t", **aio_args) as consumer, Admin(**aio_args) as admin:
        with pytest.raises(PartitionDamagedError, match=r"the tail is not.*`streamlayer topics repair t`"):
            await read(consumer, 1)
        assert list(await admin.check_topics()) == [TP]
        assert await admin.repair_partitions([TP]) == {TP: 3}
        await produce(aio_args, range(3, 4), count=1)
        assert [(record.offset, record.value) for record in await read(consumer, 1)] == [(3, b"3")]


async def test_a_damaged_topic_can_be_deleted(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """With its groups' readers none the worse: the next of that name is another log."""
    await create(aio_args, COUNT)
    damage(redis_client, namespace)
    async with Admin(**aio_args) as admin:
        await admin.delete_topics(["t"])
        assert await admin.list_topics() == []
    await produce(aio_args, range(4))
    assert sorted(await stored_values(aio_args, "t")) == [b"0", b"1", b"2", b"3"]


async def test_a_group_commits_what_it_reads_beside_it(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """The damaged partition's offset stays where it was."""
    await create(aio_args, COUNT)
    await produce(aio_args, range(3 * COUNT), count=COUNT)
    damage(redis_client, namespace)
    async with member(aio_args, "t") as consumer:
        values, errors = await polled(consumer, 0.4, 6)
        assert len(values) == 6
        assert errors
        await consumer.commit()
    async with Admin(**aio_args) as admin:
        stored = await admin.list_group_offsets(GROUP)
        assert {tp: each.offset for tp, each in stored.items()} == dict(
            zip(sorted(partitions(3)), (0, 3, 3), strict=True)
        )
