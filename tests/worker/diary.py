"""What a worker's tests look at: records that were stored, and how far a group is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from streamlayer import App, ConsumerRecord, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from tests.waiting import aio_wait_until


async def produce(
    args: dict[str, Any], topic: str, values: Iterable[bytes], *, keys: int | None = None, partitions: int = 1
) -> None:
    """Append values; value number i has the key `k{i % keys}`."""
    values = list(values)
    async with Producer(**args, num_partitions=partitions) as producer:
        await producer.partitions_for(topic)
        await producer.send_many(
            topic, values, None if keys is None else [b"k%d" % (i % keys) for i in range(len(values))]
        )


async def stored(args: dict[str, Any], topic: str) -> list[ConsumerRecord]:
    """All records of a topic."""
    async with Consumer(topic, **args) as consumer:
        return [record async for record in consumer.read_to_end()]


async def committed(args: dict[str, Any], group_id: str) -> dict[TopicPartition, tuple[int, str]]:
    """What a group has stored."""
    async with Admin(**args) as admin:
        return {tp: (at.offset, at.metadata) for tp, at in (await admin.list_group_offsets(group_id)).items()}


async def lag(args: dict[str, Any], group_id: str) -> int:
    """How many records a group has not committed, in all that its members read."""
    async with Admin(**args) as admin:
        group = (await admin.describe_groups([group_id]))[group_id]
        topics = {topic for member in group.members for topic in member.subscription} & {*await admin.list_topics()}
        stored = {
            TopicPartition(topic, each.partition): each.log_end - each.log_start
            for topic, described in (await admin.describe_topics(topics)).items()
            for each in described.partitions
        }
        return sum((stored | group.lag).values())


async def until_done(args: dict[str, Any], group_id: str, app: App) -> None:
    """Wait until a running app has committed everything."""

    async def over() -> bool:
        return bool(app.members()) and await lag(args, group_id) == 0

    await aio_wait_until(over, f"{group_id} has committed everything", timeout=30)


async def work(milliseconds: float) -> None:
    """What a handler takes its time for."""
    done = asyncio.get_running_loop().create_future()
    timer = asyncio.get_running_loop().call_later(milliseconds / 1000, done.set_result, None)
    try:
        await done
    finally:
        timer.cancel()
