"""Consumers of one group in one test: polled in turn, until each has what the group wants it to have."""

from __future__ import annotations

import time
from collections.abc import Set as AbstractSet
from typing import Any

from streamlayer import ConsumerRecord, NewTopic, TopicPartition
from streamlayer.aio import Admin, Consumer, ConsumerRebalanceListener, Producer

GROUP = "billing"
PATIENCE_S = 20


def partitions(count: int, topic: str = "t") -> set[TopicPartition]:
    """The first partitions of a topic."""
    return {TopicPartition(topic, number) for number in range(count)}


class Told(ConsumerRebalanceListener):
    """Remembers what it is told: ``("assigned" | "revoked" | "lost", how many)``."""

    def __init__(self) -> None:
        self.words: list[tuple[str, int]] = []

    async def on_partitions_assigned(self, assigned: AbstractSet[TopicPartition]) -> None:
        """Theirs now."""
        self.words.append(("assigned", len(assigned)))

    async def on_partitions_revoked(self, revoked: AbstractSet[TopicPartition]) -> None:
        """To be given up."""
        self.words.append(("revoked", len(revoked)))

    async def on_partitions_lost(self, lost: AbstractSet[TopicPartition]) -> None:
        """No longer theirs."""
        self.words.append(("lost", len(lost)))


def member(args: dict[str, Any], *topics: str, **options: Any) -> Consumer:
    """A consumer of the group, with sessions that no slow machine breaks."""
    return Consumer(*topics, **args, **({"group_id": GROUP, "session_timeout_ms": 30_000} | options))


async def create(args: dict[str, Any], count: int, topic: str = "t") -> None:
    """A topic with so many partitions."""
    async with Admin(**args) as admin:
        await admin.create_topics([NewTopic(topic, count)])


async def produce(args: dict[str, Any], values: range, topic: str = "t", *, count: int = 4) -> None:
    """Numbers, round the partitions."""
    async with Producer(**args) as producer:
        for i in values:
            await producer.send(topic, b"%d" % i, partition=i % count)


async def settle(*consumers: Consumer, total: int) -> list[ConsumerRecord]:
    """Poll them in turn until they own so many partitions together, each its part; what they were handed meanwhile."""
    records: list[ConsumerRecord] = []
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for consumer in consumers:
            for taken in (await consumer.poll(10)).values():
                records += taken
        owned = [tp for consumer in consumers for tp in consumer.assignment()]
        sizes = [len(consumer.assignment()) for consumer in consumers]
        if len(owned) == len(set(owned)) == total and max(sizes) - min(sizes) <= 1:
            return records
        assert time.monotonic() < deadline, f"not settled: {sizes} of {total}"


async def drain(*consumers: Consumer, until: int) -> list[ConsumerRecord]:
    """Poll them in turn until they were handed so many records."""
    records: list[ConsumerRecord] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(records) < until:
        for consumer in consumers:
            for taken in (await consumer.poll(10)).values():
                records += taken
        assert time.monotonic() < deadline, f"{len(records)} records of {until}"
    return records


def numbers(records: list[ConsumerRecord]) -> list[int]:
    """What ``produce`` sent, sorted."""
    return sorted(int(record.value) for record in records)
