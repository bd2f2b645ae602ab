"""Seeks and look-ups in a log of many segments: after the first few, one call each, wherever they go."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from streamlayer import NewTopic, TopicConfig, TopicPartition
from streamlayer._core.calls import Call
from streamlayer.aio import Admin, Consumer, Producer

TP = TopicPartition("t", 0)
NOW = 1_700_000_000_000
RECORDS = 400


class Counted:
    """The calls that a consumer makes, by their script."""

    def __init__(self, consumer: Consumer) -> None:
        self.scripts: list[str] = []
        client = consumer._client
        execute = client.execute

        async def counting(batch: Sequence[Call[Any]], *limit: float) -> list[Any]:
            self.scripts += [call.script.name for call in batch if call.script is not None]
            return await execute(batch, *limit)

        vars(client)["execute"] = counting


async def fill(args: dict[str, Any]) -> None:
    """A log of some 30 segments."""
    async with Admin(**args) as admin:
        config = TopicConfig(segment_bytes=16_384, retention_ms=-1)
        await admin.create_topics([NewTopic("t", 1, config=config)])
    async with Producer(**args) as producer:
        for i in range(RECORDS):
            await producer.send("t", bytes(1000), timestamp_ms=NOW + i)
            if i % 10 == 9:
                await producer.flush()


async def test_a_seek_costs_one_fetch(aio_args: dict[str, Any]) -> None:
    """The second one lists the segments; from then on each names the right one at once."""
    await fill(aio_args)
    dice = random.Random(1)
    async with Consumer("t", **aio_args, max_partition_fetch_bytes=1) as consumer:
        for _ in range(3):
            consumer.seek(TP, dice.randrange(RECORDS))
            assert await consumer.poll()
        counted = Counted(consumer)
        for _ in range(20):
            offset = dice.randrange(RECORDS)
            consumer.seek(TP, offset)
            assert (await consumer.poll())[TP][0].offset == offset
    assert counted.scripts == ["fetch"] * 20


async def test_a_look_up_costs_one_call(aio_args: dict[str, Any]) -> None:
    """The first one lists the segments, for all that come."""
    await fill(aio_args)
    dice = random.Random(2)
    async with Consumer("t", **aio_args) as consumer:
        await consumer.offsets_for_times({TP: NOW + 50})
        counted = Counted(consumer)
        for _ in range(20):
            i = dice.randrange(RECORDS)
            assert (await consumer.offsets_for_times({TP: NOW + i}))[TP] == (i, NOW + i)
    assert counted.scripts == ["list_offsets"] * 20


async def test_who_reads_through_lists_no_segments(aio_args: dict[str, Any]) -> None:
    """Reading on from segment to segment needs no list: only who seeks pays for one."""
    await fill(aio_args)
    async with Consumer("t", **aio_args, max_partition_fetch_bytes=20_000) as consumer:
        counted = Counted(consumer)
        assert len([record async for record in consumer.read_to_end()]) == RECORDS
    assert "list_segments" not in counted.scripts
