"""``Admin``: topics made, listed, described, checked and deleted, and what it says when that cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from streamlayer import NewTopic, TopicConfig, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import (
    ConfigurationError,
    IllegalStateError,
    InvalidTopicError,
    TopicAlreadyExistsError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from tests.beside import aio_beside
from tests.shell.async_.reading import read, stored_values
from tests.waiting import aio_wait_until


def keys_of(client: redis.Redis, namespace: str) -> set[str]:
    """All keys of a namespace."""
    return {key.decode() for key in client.scan_iter(match=f"{namespace}:*", count=10_000)}


async def test_topics_are_made_listed_described_and_deleted(aio_args: dict[str, Any]) -> None:
    """The whole life of a topic, by name and by NewTopic."""
    async with Admin(**aio_args) as admin:
        assert await admin.list_topics() == []
        assert await admin.describe_topics() == {}
        await admin.create_topics(["b", NewTopic("a", 2)])
        assert await admin.list_topics() == ["a", "b"]
        described = await admin.describe_topics()
        assert {name: len(topic.partitions) for name, topic in described.items()} == {"a": 2, "b": 4}
        assert described["a"].name == "a"
        assert len(described["a"].topic_id) == 32
        assert [p.partition for p in described["b"].partitions] == [0, 1, 2, 3]
        await admin.delete_topics(["a"])
        assert await admin.list_topics() == ["b"]


async def test_a_description_counts_what_is_there(aio_args: dict[str, Any]) -> None:
    """Log start, log end, bytes and segments are those of the partition."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 2, config={"segment_bytes": 16_384})])
        empty = (await admin.describe_topics(["t"]))["t"].partitions[1]
        assert (empty.log_start, empty.log_end, empty.bytes) == (0, 0, 0)
        await producer.send_many("t", [b"x" * 1000] * 100, partition=1)
        await producer.send_and_wait("t", b"y", partition=1)
        first, second = (await admin.describe_topics(["t"]))["t"].partitions
        assert (first.log_start, first.log_end, first.bytes) == (0, 0, 0)
        assert (second.log_start, second.log_end) == (0, 101)
        assert 100_000 < second.bytes < 110_000
        assert second.segments > 1


async def test_settings_come_back_whatever_way_they_were_given(aio_args: dict[str, Any]) -> None:
    """Kafka's dotted names, our names and a TopicConfig say the same; what was not given has its default."""
    dotted = NewTopic("dotted", 1, config={"retention.ms": 60_000, "max.message.bytes": 2048})
    plain = NewTopic("plain", 1, config={"retention_ms": 60_000, "max_message_bytes": 2048})
    whole = NewTopic("whole", 1, config=TopicConfig(retention_ms=60_000, max_message_bytes=2048))
    async with Admin(**aio_args) as admin:
        await admin.create_topics([dotted, plain, whole, "default"])
        configs = {name: topic.config for name, topic in (await admin.describe_topics()).items()}
    assert (
        configs["dotted"]
        == configs["plain"]
        == configs["whole"]
        == TopicConfig(retention_ms=60_000, max_message_bytes=2048)
    )
    assert configs["default"] == TopicConfig()


async def test_a_topic_that_exists_is_left_as_it_is(aio_args: dict[str, Any]) -> None:
    """Creating it again is an error that says how to go on; with exist_ok nothing of it changes."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 3)])
        await producer.send_and_wait("t", b"kept")
        before = (await admin.describe_topics(["t"]))["t"]
        with pytest.raises(TopicAlreadyExistsError, match=r"'t' exists already.*exist_ok=True"):
            await admin.create_topics(["first", "t", "last"])
        assert await admin.list_topics() == ["first", "t"]
        await admin.create_topics([NewTopic("t", 9, config={"retention_ms": 5})], exist_ok=True)
        assert (await admin.describe_topics(["t"]))["t"] == before
    assert await stored_values(aio_args, "t") == [b"kept"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "cannot be empty"),
        (".", "cannot be named '.'"),
        ("..", r"cannot be named '\.\.'"),
        ("x" * 250, "at most 249 characters, this one has 250"),
        ("a b/c", r"not allowed: ' /'.*Allowed: a-z"),
        ("tüpfel", "not allowed: 'ü'"),
        ("new\nline", "not allowed"),
        ("{slot}", "not allowed"),
        ("redis://localhost:6379", "is a URL, not a topic name: pass it as url="),
        (None, "is a str, not NoneType"),
        (("t", 3), "is a str, not tuple"),
    ],
)
async def test_bad_names_are_told_and_nothing_is_made(aio_args: dict[str, Any], name: Any, why: str) -> None:
    """Each bad name is refused with its reason before anything was created, deleted or asked."""
    async with Admin(**aio_args) as admin:
        with pytest.raises(InvalidTopicError, match=why):
            await admin.create_topics(["good", name])
        with pytest.raises(InvalidTopicError, match=why):
            await admin.delete_topics([name])
        with pytest.raises(InvalidTopicError, match=why):
            await admin.describe_topics([name])
        assert await admin.list_topics() == []


async def test_the_longest_and_oddest_good_names_work(aio_args: dict[str, Any]) -> None:
    """249 characters, dots, dashes and what looks like one of our own keys' parts."""
    names = ["x" * 249, "...", "-", "_", "a.b-c_D9", "t", "topics", "meta"]
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic(name, 1) for name in names])
        assert await admin.list_topics() == sorted(names)
        for name in names:
            await producer.send_and_wait(name, name.encode())
        for name in names:
            assert await stored_values(aio_args, name) == [name.encode()]


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        (NewTopic("t", 0), "num_partitions=0 must be from 1 to 10000"),
        (NewTopic("t", 10_001), "num_partitions=10001 must be"),
        (NewTopic("t", "4"), "num_partitions='4' must be"),  # type: ignore[arg-type]
        (NewTopic("t", config={"retention_sm": 1}), "no setting 'retention_sm': did you mean 'retention_ms'"),
        (NewTopic("t", config={"cleanup.policy": "compact"}), "no setting 'cleanup_policy'"),
        (NewTopic("t", config={"segment_bytes": 5}), "segment_bytes=5 .*greater than or equal to 16384"),
        (NewTopic("t", config={"retention_ms": -2}), "retention_ms=-2"),
        (NewTopic("t", config={"retention_ms": "60000"}), "retention_ms='60000'.*integer"),
        (NewTopic("t", config={"partitioner": "random"}), "partitioner='random'"),
    ],
)
async def test_bad_settings_are_told_and_nothing_is_made(aio_args: dict[str, Any], topic: NewTopic, why: str) -> None:
    """The message names the setting and what would do; even the good topic before it was not created."""
    async with Admin(**aio_args) as admin:
        with pytest.raises(ConfigurationError, match=why):
            await admin.create_topics(["good", topic])
        assert await admin.list_topics() == []


async def test_a_bare_name_instead_of_a_list_is_told(aio_args: dict[str, Any]) -> None:
    """A str would be taken for its letters: the error shows the list that was meant."""
    async with Admin(**aio_args) as admin:
        for call in (admin.create_topics, admin.delete_topics, admin.describe_topics, admin.check_topics):
            with pytest.raises(TypeError, match=r"\(\['orders'\]\)"):
                await call("orders")
        assert await admin.list_topics() == []


async def test_what_does_not_exist_is_told(aio_args: dict[str, Any], namespace: str) -> None:
    """Deleting or describing it names the namespace and the topics that are there."""
    async with Admin(**aio_args) as admin:
        with pytest.raises(UnknownTopicOrPartitionError, match=r"no topic 'nope'.*there are none"):
            await admin.delete_topics(["nope"])
        await admin.create_topics(["orders"])
        with pytest.raises(UnknownTopicOrPartitionError, match=rf"'nope' in namespace '{namespace}'.*\['orders'\]"):
            await admin.describe_topics(["orders", "nope"])
        await admin.delete_topics(["nope", "orders"], missing_ok=True)
        assert await admin.list_topics() == []


async def test_deleting_frees_every_key(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """After many closed segments too, nothing is left but the registry; and another topic is not touched."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 2, config={"segment_bytes": 16_384}), NewTopic("t2", 1)])
        for _ in range(4):
            await producer.send_many("t", [b"x" * 1000] * 50, partition=0)
        await producer.send_and_wait("t2", b"kept")
        assert len(keys_of(redis_client, namespace)) > 20
        await admin.delete_topics(["t"])
        assert not [key for key in keys_of(redis_client, namespace) if "{t:" in key]
        assert await admin.list_topics() == ["t2"]
    assert await stored_values(aio_args, "t2") == [b"kept"]


@pytest.mark.parametrize("made", [0, 1, 3])
async def test_a_topic_half_made_is_finished_by_whoever_meets_it(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, made: int
) -> None:
    """A creator that died after the intent, or after some partitions: describe, send and poll just work."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 3)])
        entry = json.loads(redis_client.hget(f"{namespace}:topics", "t") or b"")
        entry["state"] = "creating"
        redis_client.hset(f"{namespace}:topics", "t", json.dumps(entry))
        for number in range(made, 3):
            gone = [key for key in keys_of(redis_client, namespace) if f"{{t:{number}}}" in key]
            redis_client.delete(*gone)
    async with Producer(**aio_args) as producer:
        for number in range(3):
            await producer.send_and_wait("t", b"%d" % number, partition=number)
    async with Admin(**aio_args) as admin:
        described = (await admin.describe_topics(["t"]))["t"]
        assert [p.log_end for p in described.partitions] == [1, 1, 1]
    assert sorted(await stored_values(aio_args, "t")) == [b"0", b"1", b"2"]


async def test_a_topic_half_deleted_is_finished_by_whoever_meets_it(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """A deleter that died after the intent: the topic counts as gone, and creating it again gives an empty log."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await producer.send_and_wait("t", b"old")
        entry = json.loads(redis_client.hget(f"{namespace}:topics", "t") or b"")
        redis_client.hset(f"{namespace}:topics", "t", json.dumps(entry | {"state": "deleting"}))
        assert await admin.list_topics() == []
        await admin.create_topics(["t"])
        assert await stored_values(aio_args, "t") == []
        assert (await admin.describe_topics(["t"]))["t"].topic_id != entry["id"]


async def test_many_who_create_one_topic_end_with_one_log(aio_args: dict[str, Any]) -> None:
    """Six admins at once: one topic, one id, and each either made it, finished it or was told that it exists."""

    async def create() -> str:
        async with Admin(**aio_args) as admin:
            try:
                await admin.create_topics([NewTopic("t", 2)])
            except TopicAlreadyExistsError:
                return "exists"
            return "made"

    running = [aio_beside(create) for _ in range(6)]
    said = [await one.result() for one in running]
    assert "made" in said
    async with Admin(**aio_args) as admin:
        assert await admin.list_topics() == ["t"]
        assert len((await admin.describe_topics(["t"]))["t"].partitions) == 2
    async with Producer(**aio_args) as producer:
        for number in range(2):
            await producer.send_and_wait("t", b"%d" % number, partition=number)
    assert sorted(await stored_values(aio_args, "t")) == [b"0", b"1"]


async def test_namespaces_do_not_see_each_other(aio_args: dict[str, Any], namespace: str) -> None:
    """The same topic name in two namespaces is two logs."""
    other = aio_args | {"namespace": f"{namespace}-2"}
    async with Admin(**aio_args) as one, Admin(**other) as two, Producer(**aio_args) as producer:
        await producer.send_and_wait("t", b"one")
        assert await one.list_topics() == ["t"]
        assert await two.list_topics() == []
        await two.create_topics(["t"])
        assert await stored_values(other, "t") == []
        await two.delete_topics(["t"])
    assert await stored_values(aio_args, "t") == [b"one"]


async def test_it_works_without_a_block_and_not_after_close(aio_args: dict[str, Any], namespace: str) -> None:
    """It connects at the first call; after close, which may be called twice, it says that it is closed."""
    admin = Admin(**aio_args)
    await admin.create_topics(["t"])
    assert namespace in repr(admin)
    assert repr(admin).endswith("open>")
    await admin.close()
    await admin.close()
    assert repr(admin).endswith("closed>")
    for call in (admin.list_topics, admin.describe_topics):
        with pytest.raises(IllegalStateError, match="closed"):
            await call()
    with pytest.raises(IllegalStateError, match="closed"):
        async with admin:
            pass


async def test_a_consumer_sees_what_the_admin_made(aio_args: dict[str, Any]) -> None:
    """``topics`` and ``partitions_for_topic`` tell the same as the admin."""
    async with Admin(**aio_args) as admin, Consumer(**aio_args) as consumer:
        assert await consumer.topics() == set()
        await admin.create_topics([NewTopic("a", 2), "b"])
        assert await consumer.topics() == {"a", "b"}
        assert await consumer.partitions_for_topic("a") == {0, 1}
        with pytest.raises(UnknownTopicOrPartitionError, match="no topic 'c'"):
            await consumer.partitions_for_topic("c")


async def test_a_topic_made_again_is_another_log(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Who held the old one is told, once; then producer and consumer go on with the new one, from its first record."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        await admin.create_topics([NewTopic("t", 1, config={"retention_ms": 60_000})])
        for number in range(3):
            await producer.send_and_wait("t", b"old %d" % number)
        assert len(await read(consumer, 3)) == 3
        before = (await admin.describe_topics(["t"]))["t"]
        await admin.delete_topics(["t"])
        assert not [key for key in keys_of(redis_client, namespace) if "{t:" in key]
        await admin.create_topics([NewTopic("t", 2)])
        after = (await admin.describe_topics(["t"]))["t"]
        assert after.topic_id != before.topic_id
        assert after.config == TopicConfig()
        assert [(p.log_start, p.log_end) for p in after.partitions] == [(0, 0), (0, 0)]
        with pytest.raises(UnknownTopicIdError, match="deleted and created again"):
            await producer.send_and_wait("t", b"lost", partition=0)
        assert (await producer.send_and_wait("t", b"new", partition=0)).offset == 0
        with pytest.raises(UnknownTopicIdError, match="deleted and created again"):
            await read(consumer, 1)
        assert [(r.offset, r.value) for r in await read(consumer, 1)] == [(0, b"new")]
        assert consumer.assignment() == {TopicPartition("t", 0), TopicPartition("t", 1)}


async def test_all_that_is_there_can_be_asked_while_topics_come_and_go(aio_args: dict[str, Any]) -> None:
    """Describing and checking all topics is never disturbed by one that is deleted, or made anew, meanwhile."""

    async def come_and_go() -> None:
        async with Admin(**aio_args) as admin:
            for number in range(30):
                await admin.create_topics([NewTopic("t", 1 + number % 3)])
                await admin.delete_topics(["t"])

    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("stays", 1)])
        coming = aio_beside(come_and_go)

        async def looked_on_to_the_end() -> bool:
            assert "stays" in await admin.describe_topics()
            assert await admin.check_topics() == {}
            return coming.done()

        await aio_wait_until(looked_on_to_the_end, "the other admin to be done")
        await coming.result()
        assert await admin.list_topics() == ["stays"]


async def fill(args: dict[str, Any]) -> None:
    """Two topics, the first with closed segments and a tail."""
    async with Admin(**args) as admin, Producer(**args) as producer:
        await admin.create_topics([NewTopic("t", 2, config={"segment_bytes": 16_384}), NewTopic("u", 1)])
        for _ in range(4):
            await producer.send_many("t", [b"x" * 1000] * 50, partition=0)
        for _ in range(20):
            await producer.send_and_wait("t", b"y", partition=0)
        await producer.send_and_wait("u", b"z")


async def test_a_check_of_what_is_well_finds_nothing(aio_args: dict[str, Any]) -> None:
    """All topics, some, or none; one that does not exist is told."""
    async with Admin(**aio_args) as admin:
        assert await admin.check_topics() == {}
        await fill(aio_args)
        assert await admin.check_topics() == await admin.check_topics(["t"]) == await admin.check_topics([]) == {}
        with pytest.raises(UnknownTopicOrPartitionError, match=r"no topic 'nope'.*\['t', 'u'\]"):
            await admin.check_topics(["t", "nope"])
        with pytest.raises(InvalidTopicError):
            await admin.check_topics(["a b"])


async def test_a_check_names_what_contradicts(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """A field or a partition is missing, is somebody else's, knows another layout: told by partition."""
    await fill(aio_args)
    prefix = f"{namespace}:t:{{t:0}}:"
    redis_client.delete(*[key for key in keys_of(redis_client, namespace) if "{t:1}" in key])
    redis_client.hset(f"{namespace}:t:{{u:0}}:meta", "partitions", 7)
    async with Admin(**aio_args) as admin:
        found = await admin.check_topics()
        assert set(found) == {TopicPartition("t", 1), TopicPartition("u", 0)}
        assert "t[1] does not exist on the server" in found[TopicPartition("t", 1)]
        assert "it knows 7 partitions (generation 1), the registry 1" in found[TopicPartition("u", 0)]
        (field,) = [name for name in redis_client.hkeys(prefix + "log:0") if name != b"-"][:1]
        redis_client.hdel(prefix + "log:0", field)
        assert "segment 0: " in (await admin.check_topics(["t"]))[TopicPartition("t", 0)]
        redis_client.set(prefix + "segs", "somebody else's")
        assert (
            f"the key '{prefix}segs' holds data that streamlayer did not write"
            in (await admin.check_topics(["t"]))[TopicPartition("t", 0)]
        )


async def test_a_topic_whose_partitions_are_gone_can_be_deleted(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Keys of a half-grown topic were removed by hand: no call hangs, and deleting frees what is left."""
    await fill(aio_args)
    stored = json.loads(redis_client.hget(f"{namespace}:topics", "t") or b"")
    redis_client.hset(f"{namespace}:topics", "t", json.dumps(stored | {"state": "growing", "target": 4}))
    redis_client.delete(*[key for key in keys_of(redis_client, namespace) if "{t:0}" in key])
    async with Admin(**aio_args) as admin:
        with pytest.raises(UnknownTopicOrPartitionError, match=r"t\[0\] does not exist"):
            await admin.describe_topics(["t"])
        with pytest.raises(UnknownTopicOrPartitionError, match=r"t\[0\] does not exist"):
            await admin.alter_configs({"t": {"retention_ms": 5000}})
        await admin.delete_topics(["t"])
        assert not [key for key in keys_of(redis_client, namespace) if "{t:" in key]
        await admin.create_topics(["t"])
        assert await admin.check_topics() == {}
