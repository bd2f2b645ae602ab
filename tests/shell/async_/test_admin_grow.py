"""``Admin.create_partitions``: more partitions, noticed at once; never fewer."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from streamlayer import NewTopic, TopicConfig, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import ConfigurationError, InvalidTopicError, UnknownTopicOrPartitionError
from tests.beside import aio_beside
from tests.shell.async_.reading import read, stored_values
from tests.shell.async_.stepping import contents, settled
from tests.waiting import aio_wait_until


async def partitions_of(admin: Admin, topic: str = "t") -> int:
    """How many there are."""
    return len((await admin.describe_topics([topic]))[topic].partitions)


async def test_partitions_are_added_and_all_else_stays(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Id, settings and records stay; the new ones are empty, and have the topic's settings."""
    config = {"retention_ms": 60_000, "segment_bytes": 20_000}
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 1, config=config), NewTopic("other", 1)])
        async with Producer(**aio_args) as producer:
            await producer.send_and_wait("t", b"kept")
        before = (await admin.describe_topics(["t"]))["t"]
        for generation, total in enumerate((2, 3, 20), start=2):
            await admin.create_partitions({"t": total})
            entry = settled(redis_client, namespace, "t")
            assert entry is not None
            assert (entry.partitions, entry.generation) == (total, generation)
        after = (await admin.describe_topics(["t"]))["t"]
        assert (after.topic_id, after.config) == (before.topic_id, TopicConfig(**config))
        assert [p.log_end for p in after.partitions] == [1] + [0] * 19
        assert await partitions_of(admin, "other") == 1
        assert await stored_values(aio_args, "t") == [b"kept"]
        assert await admin.check_topics() == {}


async def test_settings_altered_before_hold_in_new_partitions(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Alter, grow, alter, grow: every partition knows the same settings."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 1)])
        for number in range(2, 5):
            await admin.alter_configs({"t": {"retention_ms": 10_000 * number}})
            await admin.create_partitions({"t": number})
            entry = settled(redis_client, namespace, "t")
            assert entry is not None
            assert entry.topic_config().retention_ms == 10_000 * number


async def test_as_many_as_there_are_changes_nothing(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """It is no error, and no key is touched."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 3)])
        before = contents(redis_client, namespace)
        await admin.create_partitions({"t": 3})
        await admin.create_partitions({})
        assert contents(redis_client, namespace) == before


@pytest.mark.parametrize(
    ("total", "why"),
    [
        (2, "'t' has 3 partitions; it cannot have fewer"),
        (0, "num_partitions=0 must be from 1 to 10000"),
        (-1, "num_partitions=-1 must be"),
        (10_001, "num_partitions=10001 must be"),
        ("4", "num_partitions='4' must be"),
        (4.0, r"num_partitions=4\.0 must be"),
        (True, "num_partitions=True must be"),
        (None, "num_partitions=None must be"),
    ],
)
async def test_what_cannot_be_is_told_and_nothing_is_changed(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, total: Any, why: str
) -> None:
    """The message names the topic and the number; no key has changed."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 3)])
        before = contents(redis_client, namespace)
        with pytest.raises(ConfigurationError, match=why):
            await admin.create_partitions({"t": total})
        assert contents(redis_client, namespace) == before


async def test_wrong_words(aio_args: dict[str, Any]) -> None:
    """A list, a missing topic, a bad name: what comes before a missing one was done, a bad one stops all."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("a", 1), NewTopic("b", 1)])
        for wrong in (["a"], "a", [("a", 2)], None):
            with pytest.raises(TypeError, match=r"create_partitions\(\{'orders': 8\}\)"):
                await admin.create_partitions(wrong)
        with pytest.raises(UnknownTopicOrPartitionError, match=r"no topic 'nope'.*\['a', 'b'\]"):
            await admin.create_partitions({"a": 2, "nope": 2, "b": 2})
        assert (await partitions_of(admin, "a"), await partitions_of(admin, "b")) == (2, 1)
        with pytest.raises(InvalidTopicError, match="'a/b'"):
            await admin.create_partitions({"b": 2, "a/b": 2})
        with pytest.raises(ConfigurationError, match="'b': num_partitions=0"):
            await admin.create_partitions({"a": 5, "b": 0})
        assert (await partitions_of(admin, "a"), await partitions_of(admin, "b")) == (2, 1)


@pytest.mark.parametrize("reset", ["earliest", "latest"])
async def test_a_consumer_reads_new_partitions_at_once_from_their_first_record(
    aio_args: dict[str, Any], reset: Any
) -> None:
    """It hears of the growth, and its first record is there, with `latest` too: none is passed over."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 1)])
        async with Producer(**aio_args) as producer:
            await producer.send_and_wait("t", b"old")
        async with Consumer("t", auto_offset_reset=reset, **aio_args) as consumer:
            if reset == "earliest":
                assert [record.value for record in await read(consumer, 1)] == [b"old"]
            else:
                assert await consumer.poll(0) == {}
            consumer._check_at = 1 << 60  # it does not look by itself each second
            polling = aio_beside(lambda: consumer.poll(60_000))
            await aio_wait_until(lambda: consumer.health().state == "ok", "the consumer to wait")
            await admin.create_partitions({"t": 3})
            async with Producer(**aio_args) as producer:
                for number in (1, 2):
                    await producer.send_and_wait("t", b"%d" % number, partition=number)
            values = [r.value for part in (await polling.result()).values() for r in part]
            while len(values) < 2:
                values += [r.value for part in (await consumer.poll(5000)).values() for r in part]
            assert sorted(values) == [b"1", b"2"]
            assert consumer.assignment() == {TopicPartition("t", number) for number in range(3)}


async def test_what_was_sent_before_the_consumer_noticed_is_read_too(aio_args: dict[str, Any]) -> None:
    """A consumer with `latest` that polls only after records are in the new partitions gets all of them."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 1)])
        async with Consumer("t", auto_offset_reset="latest", **aio_args) as consumer:
            await consumer.poll(0)
            await admin.create_partitions({"t": 2})
            async with Producer(**aio_args) as producer:
                for number in range(10):
                    await producer.send_and_wait("t", b"%d" % number, partition=1)
            assert [r.value for r in await read(consumer, 10)] == [b"%d" % number for number in range(10)]


async def test_a_pattern_sees_new_partitions(aio_args: dict[str, Any]) -> None:
    """Subscribed by a pattern it is the same."""
    async with Admin(**aio_args) as admin, Consumer(**aio_args) as consumer:
        await admin.create_topics([NewTopic("t1", 1)])
        consumer.subscribe(pattern="t.")
        await consumer.poll(0)
        await admin.create_partitions({"t1": 2})
        async with Producer(**aio_args) as producer:
            await producer.send_and_wait("t1", b"x", partition=1)
        assert [r.value for r in await read(consumer, 1)] == [b"x"]


async def test_partitions_assigned_by_hand_stay_as_they_are(aio_args: dict[str, Any]) -> None:
    """Who chose partitions gets no others; a new one can be assigned."""
    async with Admin(**aio_args) as admin, Consumer(**aio_args) as consumer:
        await admin.create_topics([NewTopic("t", 1)])
        first, second = TopicPartition("t", 0), TopicPartition("t", 1)
        consumer.assign([first])
        await consumer.poll(0)
        await admin.create_partitions({"t": 2})
        async with Producer(**aio_args) as producer:
            await producer.send_and_wait("t", b"1", partition=1)
            await producer.send_and_wait("t", b"0", partition=0)
        assert [r.value for r in await read(consumer, 1)] == [b"0"]
        assert consumer.assignment() == {first}
        consumer.assign([first, second])
        assert [r.value for r in await read(consumer, 1)] == [b"1"]
        assert await consumer.partitions_for_topic("t") == {0, 1}


async def test_many_who_grow_at_once(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """Each wants another number: it ends with the highest, and who wanted fewer is told so, or was first."""

    async def grow(total: int) -> str:
        async with Admin(**aio_args) as admin:
            try:
                await admin.create_partitions({"t": total})
            except ConfigurationError as error:
                return str(error)
            return "grown"

    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 1)])
    running = [aio_beside(lambda total=total: grow(total)) for total in range(2, 8)]
    said = [await one.result() for one in running]
    assert said[-1] == "grown"
    assert all(word == "grown" or "cannot have fewer" in word for word in said)
    entry = settled(redis_client, namespace, "t")
    assert entry is not None
    assert entry.partitions == 7


async def test_growing_and_altering_at_once(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """One admin grows a topic ten times, another alters it, somebody reads: it ends as both wanted."""

    async def grow() -> None:
        async with Admin(**aio_args) as admin:
            for total in range(2, 12):
                await admin.create_partitions({"t": total})

    async def alter() -> None:
        async with Admin(**aio_args) as admin:
            for number in range(10):
                await admin.alter_configs({"t": {"retention_ms": 10_000 + number}})

    async def read_it() -> None:
        async with Admin(**aio_args) as admin, Consumer("t", **aio_args) as consumer:
            while await partitions_of(admin) < 11:
                await consumer.poll(1)

    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 1)])
    for one in [aio_beside(grow), aio_beside(alter), aio_beside(read_it)]:
        await one.result()
    entry = settled(redis_client, namespace, "t")
    assert entry is not None
    assert (entry.partitions, entry.topic_config().retention_ms) == (11, 10_009)


async def test_a_topic_with_many_partitions(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """From 3 to 450: more than go in one round trip."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 3)])
        await admin.create_partitions({"t": 450})
        entry = settled(redis_client, namespace, "t")
        assert entry is not None
        assert entry.partitions == 450
        await admin.delete_topics(["t"])
    assert settled(redis_client, namespace, "t") is None
