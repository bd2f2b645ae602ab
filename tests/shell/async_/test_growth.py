"""Partitions are added to a topic that producers have open: they follow, and no record is lost, doubled, misplaced."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from typing import Any
from zlib import crc32

import pytest
import redis

from streamlayer import NewTopic, RecordMetadata, TopicConfig
from streamlayer._core import calls, registry_calls
from streamlayer._core.keys import partition_keys
from streamlayer.aio import Admin, Producer, RecordFuture
from streamlayer.embedded import Server
from streamlayer.errors import (
    AuthorizationError,
    RequestTimedOutError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from tests.beside import aio_beside
from tests.shell.async_.reading import stored, stored_values
from tests.waiting import aio_wait_until

KEYS = [b"key%d" % i for i in range(20)]


async def freeze(admin: Admin, *partitions: int, target: int = 5, topic: str = "t") -> None:
    """Do a growth's first step to some partitions, and leave it at that; the registry does not know of it."""
    entry = await admin._client.topic(topic)
    assert entry is not None
    for number in partitions:
        keys = partition_keys(admin._client.namespace, topic, number)
        call = calls.freeze_partition(keys, topic_id=entry.id, generation=entry.generation + 1, partitions=target)
        await admin._client.call(call)


async def check_keys(args: dict[str, Any], counts: list[int]) -> int:
    """Each key's records are in order, and in the partition of each layout it went through; how many there are.

    :param counts: of partitions, one layout after the other.
    """
    places = defaultdict(list)
    for record in await stored(args, "t"):
        assert record.key is not None
        places[record.key].append((int(record.value), record.partition))
    for key, found in places.items():
        numbers = [number for number, _ in found]
        assert len(set(numbers)) == len(numbers), f"{key!r} has records twice: {sorted(numbers)}"
        partitions = [partition for _, partition in sorted(found)]
        layouts = iter([crc32(key) % count for count in counts])
        visited = [partition for partition, _ in groupby(partitions)]
        assert all(partition in layouts for partition in visited), f"{key!r} was in {visited}, with {counts} partitions"
        for partition in visited:
            mine = [number for number, at in found if at == partition]
            assert mine == sorted(mine), f"{key!r} in partition {partition}: {mine}"
    return sum(map(len, places.values()))


async def test_a_producer_follows_while_it_sends(aio_args: dict[str, Any]) -> None:
    """Growth between any two sends: every future finds its record, every key its partition, in order."""
    counts = [2, 3, 7, 12]
    futures: list[RecordFuture] = []
    async with Admin(**aio_args) as admin, Producer(**aio_args, linger_ms=1, batch_size=300) as producer:
        await admin.create_topics([NewTopic("t", 2)])
        for count in counts:
            await admin.create_partitions({"t": count})
            for i in range(200):
                number = len(futures)
                futures.append(await producer.send("t", b"%d" % number, KEYS[i % len(KEYS)]))
        await producer.flush()
        await aio_wait_until(lambda: producer.health().ok, "calm")
        assert await producer.partitions_for("t") == set(range(12))
    assert await check_keys(aio_args, counts) == len(futures)
    there = {(record.partition, record.offset): record.value for record in await stored(aio_args, "t")}
    for number, future in enumerate(futures):
        metadata = future.result()
        assert there[metadata.partition, metadata.offset] == b"%d" % number


async def test_records_wait_while_partitions_are_frozen(aio_args: dict[str, Any]) -> None:
    """Nothing fails, nothing is in the log, nobody is told of trouble; then all of it is where it belongs."""
    async with Admin(**aio_args) as admin, Producer(**aio_args, linger_ms=0) as producer:
        await admin.create_topics([NewTopic("t", 2)])
        for i in range(40):
            await producer.send("t", b"%d" % i, KEYS[i % 20])
        await producer.flush()
        await freeze(admin, 0, 1)
        called: list[RecordMetadata] = []
        futures = [await producer.send("t", b"%d" % i, KEYS[i % 20]) for i in range(40, 80)]
        for future in futures:
            future.add_done_callback(lambda done: called.append(done.result()))
        queue = producer._queues["t"]
        await aio_wait_until(lambda: queue.asked > 4, "the producer to look for the new layout")
        futures += [await producer.send("t", b"%d" % i, KEYS[i % 20]) for i in range(80, 120)]
        assert not any(future.done() for future in futures)
        assert producer.health().ok
        assert len(await stored_values(aio_args, "t")) == 40
        await admin.create_partitions({"t": 5})
        await producer.flush()
        assert [future.exception() for future in futures] == [None] * 80
        assert sorted(called) == sorted(future.result() for future in futures[:40])
        for i, future in enumerate(futures):
            assert future.result().partition == crc32(KEYS[i % 20]) % 5
    assert await check_keys(aio_args, [2, 5]) == 120


async def test_a_growth_left_half_done_is_finished_by_a_producer(aio_args: dict[str, Any]) -> None:
    """Its admin died with one partition frozen: the first keyed record that is refused has the rest done."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 3)])
        await producer.send_and_wait("t", b"0", KEYS[0])
        entry = await admin._client.topic("t")
        assert entry is not None
        growing = entry.growing_to(5)
        await admin._client.call(
            registry_calls.registry(admin._client.namespace, "t", entry.to_bytes(), growing.to_bytes())
        )
        await freeze(admin, 0, 1, 2)
        for i in range(1, 60):
            await producer.send("t", b"%d" % i, KEYS[i % 20])
        await producer.flush()
        assert await producer.partitions_for("t") == set(range(5))
        (described,) = (await admin.describe_topics(["t"])).values()
        assert len(described.partitions) == 5
    assert await check_keys(aio_args, [3, 5]) == 60


async def test_a_producer_of_records_without_key_notices_at_once(aio_args: dict[str, Any]) -> None:
    """Nothing of it is ever refused: the answer to its next append says that there is another layout."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 1)])
        await producer.send_and_wait("t", b"0")
        await admin.create_partitions({"t": 4})
        await producer.send_and_wait("t", b"1")
        await aio_wait_until(lambda: producer._queues["t"].count == 4, "the producer to know of four partitions")
        assert await producer.partitions_for("t") == {0, 1, 2, 3}
        used = {(await producer.send_and_wait("t", b"x")).partition for _ in range(8)}
        assert used == {0, 1, 2, 3}
        assert producer.health().ok


async def test_a_partition_that_was_added_can_be_asked_for(aio_args: dict[str, Any]) -> None:
    """Whether or not this producer has heard of it; one that is not there is refused as ever."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 1)])
        await producer.send_and_wait("t", b"0", KEYS[0])
        await admin.create_partitions({"t": 2})
        assert (await producer.send_and_wait("t", b"1", KEYS[0], partition=1)).partition == 1
        await admin.create_partitions({"t": 4})
        (found,) = await producer.send_many("t", [b"2", b"3"], partition=3)
        assert (found.partition, found.count) == (3, 2)
        with pytest.raises(UnknownTopicOrPartitionError, match="has the partitions 0 to 3, not 4"):
            await producer.send("t", b"4", partition=4)
        with pytest.raises(UnknownTopicOrPartitionError, match="has the partitions 0 to 3, not 4"):
            await producer.send_many("t", [b"4"], partition=4)


async def test_a_record_stays_where_its_sender_wanted_it(aio_args: dict[str, Any]) -> None:
    """A key and a partition: the partition counts, though the record waits among others that are placed anew."""
    async with Admin(**aio_args) as admin, Producer(**aio_args, linger_ms=0) as producer:
        await admin.create_topics([NewTopic("t", 2)])
        await producer.send_and_wait("t", b"", partition=0)
        await freeze(admin, 0, 1)
        futures = {}
        for i, key in enumerate(KEYS):
            await producer.send("t", b"by key", key)
            futures[i] = await producer.send("t", b"chosen", key, partition=i % 2)
        await admin.create_partitions({"t": 5})
        await producer.flush()
        assert {i: future.result().partition for i, future in futures.items()} == {i: i % 2 for i in range(20)}


async def test_send_many_goes_on_through_a_growth(aio_args: dict[str, Any]) -> None:
    """Parted by the old layout, refused, parted anew: the ranges say where the records are."""
    values = [b"%d" % i for i in range(9000)]
    keys = [KEYS[i % 20] for i in range(9000)]
    small = {"buffer_memory": 70_000, "max_request_size": 10_000, "batch_size": 4000}
    async with Admin(**aio_args) as admin, Producer(**aio_args, **small) as producer:
        await admin.create_topics([NewTopic("t", 2)])
        await producer.send_and_wait("t", b"-1", KEYS[0])
        await freeze(admin, 0, 1)
        sending = aio_beside(lambda: producer.send_many("t", values, keys))
        await aio_wait_until(lambda: producer._queues["t"].asked > 2, "the producer to look for the new layout")
        await admin.create_partitions({"t": 5})
        ranges = await sending.result()
        records = {(record.partition, record.offset): record.value for record in await stored(aio_args, "t")}
    found = [
        records[part.partition, offset]
        for part in ranges
        for offset in range(part.base_offset, part.base_offset + part.count)
    ]
    assert sorted(found) == sorted(values)
    assert await check_keys(aio_args, [2, 5]) == 9001


async def test_the_time_of_delivery_ends_while_partitions_are_frozen(aio_args: dict[str, Any]) -> None:
    """The error says that nothing was written, and why; the log shows it; then the producer goes on."""
    async with Admin(**aio_args) as admin, Producer(**aio_args, delivery_timeout_ms=200) as producer:
        await admin.create_topics([NewTopic("t", 2)])
        await producer.send_and_wait("t", b"0", KEYS[0])
        await freeze(admin, 0, 1)
        with pytest.raises(RequestTimedOutError, match=r"t\[.\].*it was not written.*partitions are being added"):
            await producer.send_and_wait("t", b"lost", KEYS[0])
        assert await stored_values(aio_args, "t") == [b"0"]
        await admin.create_partitions({"t": 5})
        await producer.send_and_wait("t", b"1", KEYS[0])
    assert await check_keys(aio_args, [2, 5]) == 2


async def test_closing_while_partitions_are_frozen(aio_args: dict[str, Any]) -> None:
    """It waits as long as it is told to, and says what was not delivered."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 2)])
        producer = Producer(**aio_args)
        await producer.send_and_wait("t", b"0", KEYS[0])
        await freeze(admin, 0, 1)
        future = await producer.send("t", b"1", KEYS[0])
        with pytest.raises(RequestTimedOutError, match="timeout_ms=100"):
            await producer.close(timeout_ms=100)
        assert isinstance(future.exception(), RequestTimedOutError)
    assert await stored_values(aio_args, "t") == [b"0"]


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made anew"])
async def test_the_topic_is_deleted_while_its_partitions_are_frozen(aio_args: dict[str, Any], again: bool) -> None:
    """What waits fails, and is not put into a topic that was made since; the next send is for that one."""
    kind = UnknownTopicIdError if again else UnknownTopicOrPartitionError
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 2)])
        await producer.send_and_wait("t", b"0", KEYS[0])
        await freeze(admin, 0, 1)
        futures = [await producer.send("t", b"1", key) for key in KEYS]
        await aio_wait_until(lambda: producer._queues["t"].asked > 2, "the producer to look for the new layout")
        await admin.delete_topics(["t"])
        if again:
            await admin.create_topics([NewTopic("t", 3)])
        with pytest.raises((UnknownTopicOrPartitionError, UnknownTopicIdError)) as raised:
            await producer.flush()
        # Between deletion and creation the producer may have found that there is none.
        assert again or isinstance(raised.value, kind)
        assert all(future.exception() is not None for future in futures)
        await producer.send_and_wait("t", b"2", KEYS[0])
    assert await stored_values(aio_args, "t") == [b"2"]


@pytest.mark.parametrize(
    "options",
    [{"acks": 0}, {"enable_idempotence": False}, {"acks": 0, "compression_type": "gzip"}],
    ids=["acks=0", "not idempotent", "acks=0, gzip"],
)
async def test_other_promises_hold_through_a_growth(aio_args: dict[str, Any], options: dict[str, Any]) -> None:
    """Without idempotence, and where nobody waits for answers: what was refused is moved, and is there once."""
    async with Admin(**aio_args) as admin, Producer(**aio_args, **options, linger_ms=0) as producer:
        await admin.create_topics([NewTopic("t", 2)])
        futures = [await producer.send("t", b"%d" % i, KEYS[i % 20]) for i in range(40)]
        await producer.flush()
        await freeze(admin, 0, 1)
        futures += [await producer.send("t", b"%d" % i, KEYS[i % 20]) for i in range(40, 80)]
        await aio_wait_until(lambda: producer._queues["t"].asked > 2, "the producer to look for the new layout")
        if "acks" in options:
            with pytest.raises(RequestTimedOutError):
                await producer.flush(timeout_ms=50)
        await admin.create_partitions({"t": 5})
        await producer.flush()
        assert all(future.exception() is None for future in futures)
        if "acks" in options:
            assert {future.result().offset for future in futures[40:]} == {-1}
        assert len(await stored_values(aio_args, "t")) == 80
    assert await check_keys(aio_args, [2, 5]) == 80


async def test_old_segments_go_before_more_comes(aio_args: dict[str, Any]) -> None:
    """The server asks the producer to name what is to be dropped; sends go on, and the log is no larger than it may."""
    config = TopicConfig(retention_bytes=64 * 1024, segment_bytes=16 * 1024)
    async with Admin(**aio_args) as admin, Producer(**aio_args, linger_ms=0, batch_size=4000) as producer:
        await admin.create_topics([NewTopic("t", 1, config=config)])
        for i in range(400):
            await producer.send("t", b"%d" % i + b"." * 1000)
        await producer.flush()
        values = [int(value.rstrip(b".")) for value in await stored_values(aio_args, "t")]
        assert values == list(range(values[0], 400))
        assert 64 <= len(values) <= 100
        (described,) = (await admin.describe_topics(["t"])).values()
        assert described.partitions[0].log_start == values[0]


async def test_dropping_that_is_not_allowed_fails_at_once(any_server: Server, any_client: redis.Redis) -> None:
    """What needs room fails with the right that is missing, and is not tried for minutes; once given, all goes on."""
    config = TopicConfig(retention_bytes=64 * 1024, segment_bytes=16 * 1024)
    args: dict[str, Any] = {"url": any_server.url}

    def scripts_run() -> int:
        return int(any_client.info("commandstats")["cmdstat_evalsha"]["calls"])

    async with Admin(**args) as admin, Producer(**args, linger_ms=0, batch_size=4000) as producer:
        await admin.create_topics([NewTopic("t", 1, config=config)])
        await producer.send_and_wait("t", b"0")
        any_client.execute_command("ACL", "SETUSER", "default", "-unlink")
        before = scripts_run()
        futures = [await producer.send("t", b"%d" % i + b"." * 1000) for i in range(1, 200)]
        with pytest.raises(AuthorizationError, match="ACL"):
            await producer.flush()
        assert scripts_run() - before < 300
        any_client.execute_command("ACL", "SETUSER", "default", "+unlink")
        kept = [future for future in futures if future.exception() is None]
        assert (await producer.send_and_wait("t", b"more")).offset == len(kept) + 1
        assert [future.result().offset for future in kept] == list(range(1, len(kept) + 1))
        assert producer.health().ok
