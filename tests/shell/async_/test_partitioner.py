"""The hash a topic was created with places its keys, whichever way they are sent, and in a grown topic too."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import pytest

from streamlayer import NewTopic, TopicConfig
from streamlayer._core.hashing import murmur2
from streamlayer.aio import Admin, Producer
from tests.shell.async_.reading import stored

KEYS = [b"customer-%d" % number for number in range(60)] + [b"", b"\x00", b"foobar", b"21", b"k" * 64, b"k" * 300]
HASHES = {"crc32": crc32, "murmur2": murmur2}


async def sent_every_way(producer: Producer, topic: str) -> None:
    """Each key three times: by ``send`` (twice, so that batches are open), and by ``send_many``."""
    for _ in range(2):
        for key in KEYS:
            await producer.send(topic, b"v", key)
    await producer.flush()
    await producer.send_many(topic, [b"v"] * len(KEYS), KEYS)


@pytest.mark.parametrize("partitions", [1, 7])
@pytest.mark.parametrize("partitioner", sorted(HASHES))
async def test_a_key_lies_where_its_topics_hash_says(
    aio_args: dict[str, Any], partitioner: Any, partitions: int
) -> None:
    """The published hash, modulo the partitions: where another client of Kafka's would look for the key."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", partitions, config=TopicConfig(partitioner=partitioner))])
        await sent_every_way(producer, "t")
        for key in KEYS[::9]:
            metadata = await producer.send_and_wait("t", b"v", key)
            assert metadata.partition == HASHES[partitioner](key) % partitions
    records = await stored(aio_args, "t")
    assert len(records) == 3 * len(KEYS) + len(KEYS[::9])
    for record in records:
        assert record.key is not None
        assert record.partition == HASHES[partitioner](record.key) % partitions


async def test_two_topics_of_one_producer_keep_their_hashes_apart(aio_args: dict[str, Any]) -> None:
    """The hash is the topic's and not the producer's."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic(name, 5, config={"partitioner": name}) for name in HASHES])
        for topic in HASHES:
            await sent_every_way(producer, topic)
    for record in await stored(aio_args, *HASHES):
        assert record.key is not None
        assert record.partition == HASHES[record.topic](record.key) % 5


@pytest.mark.parametrize("partitioner", sorted(HASHES))
async def test_a_grown_topic_goes_on_with_its_hash(aio_args: dict[str, Any], partitioner: Any) -> None:
    """What is sent after partitions were added lies where the same hash says, by the new count."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 2, config=TopicConfig(partitioner=partitioner))])
        await sent_every_way(producer, "t")
        ends = {part.partition: part.log_end for part in (await admin.describe_topics(["t"]))["t"].partitions}
        await admin.create_partitions({"t": 5})
        await sent_every_way(producer, "t")
    records = await stored(aio_args, "t")
    assert len(records) == 6 * len(KEYS)
    for record in records:
        assert record.key is not None
        count = 2 if record.offset < ends.get(record.partition, 0) else 5
        assert record.partition == HASHES[partitioner](record.key) % count
