"""Somebody else's data under one of our keys: told by name, never overwritten, and other partitions go on."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from streamlayer import TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import ForeignDataError, StreamlayerError, UnknownTopicOrPartitionError, UnsupportedVersionError
from tests.shell.async_.reading import read, stored_values

TP = TopicPartition("t", 0)


def key_of(namespace: str, part: str) -> str:
    """One of the keys of t's first partition."""
    return f"{namespace}:t:{{t:0}}:{part}"


def put_foreign(client: redis.Redis, key: str) -> None:
    """Put a list, which none of our keys is, in the key's place."""
    client.delete(key)
    client.rpush(key, "somebody else's")


def is_untouched(client: redis.Redis, key: str) -> bool:
    """Whether it still holds just that."""
    return client.type(key) == b"list" and client.lrange(key, 0, -1) == [b"somebody else's"]


@pytest.mark.parametrize("part", ["meta", "tail", "segs", "producers", "log:0", "index:0", "times:0"])
async def test_sending_to_a_foreign_key(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, part: str
) -> None:
    """The error names the key and what to do; meta is not changed; the other partitions take records as before."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics(["t"])
    key = key_of(namespace, part)
    put_foreign(redis_client, key)
    before = None if part == "meta" else redis_client.hgetall(key_of(namespace, "meta"))
    async with Producer(**aio_args) as producer:
        with pytest.raises(
            ForeignDataError, match=r"(?s)t\[0\].*Remove that key, or give streamlayer a namespace"
        ) as raised:
            await producer.send_and_wait("t", b"x" * 5000, partition=0, timeout_ms=5000)
        assert raised.value.key == key
        assert key in str(raised.value)
        assert (await producer.send_and_wait("t", b"y", partition=1)).offset == 0
    assert is_untouched(redis_client, key)
    if before is not None:
        assert redis_client.hgetall(key_of(namespace, "meta")) == before


@pytest.mark.parametrize("part", ["meta", "tail", "segs"])
async def test_reading_from_a_foreign_key(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, part: str
) -> None:
    """The partition says so at each poll; the records of the others come all the same."""
    async with Producer(**aio_args) as producer:
        for partition in range(4):
            await producer.send_and_wait("t", b"%d" % partition, partition=partition)
    async with Consumer("t", **aio_args) as consumer:
        put_foreign(redis_client, key_of(namespace, part))
        values: list[bytes] = []
        errors: list[ForeignDataError] = []
        for _ in range(6):
            try:
                values += [r.value for polled in (await consumer.poll(0)).values() for r in polled]
            except ForeignDataError as error:
                errors.append(error)
        assert sorted(values) == [b"1", b"2", b"3"]
        assert {error.key for error in errors} == {key_of(namespace, part)}
    assert is_untouched(redis_client, key_of(namespace, part))


@pytest.mark.parametrize("part", ["log:0", "index:0"])
async def test_reading_from_a_foreign_segment(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, part: str
) -> None:
    """The same for the keys of sealed fields."""
    async with Producer(**aio_args) as producer:
        await producer.send_and_wait("t", b"x" * 5000, partition=0)
    put_foreign(redis_client, key_of(namespace, part))
    async with Consumer("t", **aio_args) as consumer:
        with pytest.raises(ForeignDataError) as raised:
            await read(consumer, 1)
        assert raised.value.key == key_of(namespace, part)


async def test_creating_over_foreign_data(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """Nothing of somebody else's is overwritten; once it is gone the topic can be created."""
    for part in ("meta", "tail", "log:0"):
        put_foreign(redis_client, key_of(namespace, part))
        async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
            with pytest.raises(ForeignDataError) as raised:
                await admin.create_topics(["t"])
            assert raised.value.key == key_of(namespace, part)
            with pytest.raises(ForeignDataError):
                await producer.send("t", b"x")
            assert is_untouched(redis_client, key_of(namespace, part))
            redis_client.delete(key_of(namespace, part))
            await producer.send_and_wait("t", b"good")
            assert await stored_values(aio_args, "t") == [b"good"]
            await admin.delete_topics(["t"])


async def test_a_foreign_registry(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """Every call names the registry's key, and what to do."""
    key = f"{namespace}:topics"
    put_foreign(redis_client, key)
    async with Producer(**aio_args) as producer, Admin(**aio_args) as admin:
        consumer = Consumer("t", **aio_args)
        for call in (
            lambda: producer.send("t", b"x"),
            lambda: consumer.poll(0),
            lambda: admin.create_topics(["t"]),
            admin.list_topics,
            lambda: admin.delete_topics(["t"]),
        ):
            with pytest.raises(ForeignDataError, match="Remove that key, or give streamlayer a namespace") as raised:
                await call()
            assert raised.value.key == key
        assert is_untouched(redis_client, key)
        redis_client.delete(key)
        await producer.send_and_wait("t", b"x")
        assert len(await read(consumer, 1)) == 1
        await consumer.close()


@pytest.mark.parametrize("entry", [b"no JSON", b"{}", b'{"id":"x","state":"ready","partitions":1,"v":99}', b"\xff"])
async def test_a_registry_entry_that_cannot_be_read(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, entry: bytes
) -> None:
    """A later release's or somebody else's: UnsupportedVersionError names the topic."""
    redis_client.hset(f"{namespace}:topics", "t", entry)
    async with Producer(**aio_args) as producer, Admin(**aio_args) as admin:
        for call in (lambda: producer.send("t", b"x"), lambda: admin.describe_topics(["t"])):
            with pytest.raises(UnsupportedVersionError, match="'t'"):
                await call()
        assert redis_client.hget(f"{namespace}:topics", "t") == entry


async def test_a_layout_of_a_later_release(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """min_v above ours: told with the version, by reader and writer; nothing is written."""
    async with Producer(**aio_args) as producer:
        await producer.send_and_wait("t", b"x", partition=0)
        redis_client.hset(key_of(namespace, "meta"), "min_v", "2")
        with pytest.raises(UnsupportedVersionError, match=r"t\[0\] has layout version 2; this release knows version 1"):
            await producer.send_and_wait("t", b"y", partition=0, timeout_ms=5000)
        async with Consumer(**aio_args) as consumer:
            consumer.assign([TP])
            with pytest.raises(UnsupportedVersionError, match="layout version 2"):
                await consumer.poll(1000)
        redis_client.hset(key_of(namespace, "meta"), "min_v", "1")
        await producer.send_and_wait("t", b"z", partition=0)
    assert await stored_values(aio_args, "t") == [b"x", b"z"]


async def test_flushed_data_is_told(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """All keys deleted under our feet: nobody makes up an empty log of the same name silently."""
    async with Producer(**aio_args, allow_auto_create_topics=False) as producer, Consumer("t", **aio_args) as consumer:
        async with Admin(**aio_args) as admin:
            await admin.create_topics(["t"])
        await producer.send_and_wait("t", b"x", partition=0)
        assert len(await read(consumer, 1)) == 1
        redis_client.delete(*redis_client.scan_iter(match=f"{namespace}:*"))
        with pytest.raises(UnknownTopicOrPartitionError, match="does not exist on the server"):
            await producer.send_and_wait("t", b"y", partition=0, timeout_ms=5000)
        with pytest.raises(UnknownTopicOrPartitionError, match="does not exist on the server"):
            await consumer.poll(5000)
        with pytest.raises(StreamlayerError):
            await producer.send("t", b"z")
