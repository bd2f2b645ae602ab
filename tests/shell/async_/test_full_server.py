"""A server at its ``maxmemory``: senders wait and go on by themselves, readers never notice, time is bounded."""

from __future__ import annotations

import time

import pytest
import redis

from streamlayer import NewTopic, OffsetChange, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.embedded import Server
from streamlayer.errors import BufferFullError, RequestTimedOutError, ServerFullError
from tests.shell.async_.reading import read, stored_values
from tests.waiting import aio_wait_until


def fill(client: redis.Redis) -> None:
    """Leave the server no memory at all."""
    client.config_set("maxmemory", "1mb")


def make_room(client: redis.Redis) -> None:
    """Give it back."""
    client.config_set("maxmemory", "0")


async def test_it_goes_on_by_itself_when_there_is_room(own_server: Server, own_client: redis.Redis) -> None:
    """No error, nothing lost, nothing twice, in order; health says what is the matter meanwhile."""
    async with Producer(url=own_server.url) as producer:
        await producer.send_and_wait("t", b"0", partition=0)
        fill(own_client)
        futures = [await producer.send("t", b"%d" % i, partition=0) for i in range(1, 50)]
        await aio_wait_until(lambda: not producer.health().ok, "the producer to notice")
        assert producer.health().state == "retrying"
        assert "maxmemory" in producer.health().reason
        assert not any(future.done() for future in futures)
        with pytest.raises(RequestTimedOutError, match="goes on trying"):
            await producer.flush(timeout_ms=50)
        make_room(own_client)
        await producer.flush()
        assert [future.result().offset for future in futures] == list(range(1, 50))
        assert producer.health().ok
    assert await stored_values({"url": own_server.url}, "t") == [b"%d" % i for i in range(50)]


async def test_after_delivery_timeout_it_is_an_error(any_server: Server, any_client: redis.Redis) -> None:
    """ServerFullError says that nothing was written; the log shows it; the producer can be used again."""
    async with Producer(url=any_server.url, delivery_timeout_ms=300) as producer:
        await producer.send_and_wait("t", b"0", partition=0)
        fill(any_client)
        begin = time.monotonic()
        with pytest.raises(ServerFullError, match=r"t\[0\].*delivery_timeout_ms=300; it was not written.*maxmemory"):
            await producer.send_and_wait("t", b"lost", partition=0)
        assert 0.25 < time.monotonic() - begin < 10
        for i in range(3):
            await producer.send("t", b"lost too", partition=i)
        with pytest.raises(ServerFullError):
            await producer.flush()
        make_room(any_client)
        assert (await producer.send_and_wait("t", b"1", partition=0)).offset == 1
        await producer.flush()
    assert await stored_values({"url": any_server.url}, "t") == [b"0", b"1"]


async def test_a_full_buffer_is_an_error_after_max_block(any_server: Server, any_client: redis.Redis) -> None:
    """BufferFullError says that the record was not taken and why there is no room; those taken are sent later."""
    options = {"buffer_memory": 100_000, "max_request_size": 10_000, "max_block_ms": 200, "batch_size": 10_000}
    async with Producer(url=any_server.url, **options) as producer:
        await producer.partitions_for("t")
        fill(any_client)
        taken: list[bytes] = []
        begin = time.monotonic()
        with pytest.raises(BufferFullError, match=r"buffer_memory=100000 .*max_block_ms=200.*not taken.*maxmemory"):
            for i in range(1000):
                begin = time.monotonic()
                await producer.send("t", b"%d" % i + b"x" * 1000, partition=0)
                taken.append(b"%d" % i + b"x" * 1000)
        assert 0.15 < time.monotonic() - begin < 10
        assert 60 < len(taken) < 130
        with pytest.raises(BufferFullError):
            await producer.send_many("t", [b"y" * 1000] * 5, partition=0)
        make_room(any_client)
        await producer.flush()
    assert await stored_values({"url": any_server.url}, "t") == taken


async def test_a_blocked_send_goes_on_when_there_is_room(own_server: Server, own_client: redis.Redis) -> None:
    """It waits within max_block_ms, not a moment longer than it must."""
    options = {"buffer_memory": 70_000, "max_request_size": 10_000, "batch_size": 10_000}
    async with Producer(url=own_server.url, **options) as producer:
        await producer.send_and_wait("t", b"", partition=0)
        fill(own_client)
        while producer._accumulator.bytes < 60_000:
            await producer.send("t", b"x" * 1000, partition=0)
        make_room(own_client)
        for _ in range(200):
            await producer.send("t", b"x" * 1000, partition=0)


async def test_reading_goes_on(own_server: Server, own_client: redis.Redis) -> None:
    """A full server can be drained: poll, seek, look-ups and asking work, from a new connection too."""
    async with Producer(url=own_server.url) as producer:
        await producer.send_many("t", [b"%d" % i for i in range(100)], partition=0)
    fill(own_client)
    async with Consumer("t", url=own_server.url) as consumer, Admin(url=own_server.url) as admin:
        assert len(await read(consumer, 100)) == 100
        await consumer.seek_to_time(0)
        assert len(await read(consumer, 100)) == 100
        assert await consumer.poll(0) == {}
        assert (await admin.describe_topics(["t"]))["t"].partitions[0].log_end == 100
        await admin.delete_topics(["t"])
        assert await admin.list_topics() == []


async def test_a_groups_offsets_can_be_moved(own_server: Server, own_client: redis.Redis) -> None:
    """They need no room: what was stored is told as stored, though the list of groups cannot be written."""
    place = TopicPartition("t", 0)
    async with Producer(url=own_server.url, num_partitions=1) as producer:
        await producer.send_many("t", [b"x"] * 10, partition=0)
    async with Consumer("t", group_id="g", url=own_server.url) as consumer:
        await consumer.wait_for_assignment(timeout_ms=10_000)
    async with Admin(url=own_server.url) as admin:
        fill(own_client)
        assert await admin.reset_group_offsets("g", 7) == {place: OffsetChange(0, 7)}
        await admin.alter_group_offsets("g", {place: 4})
        assert (await admin.list_group_offsets("g"))[place].offset == 4
        await admin.delete_groups(["g"])
        assert await admin.list_groups() == []


async def test_creating_on_a_full_server_is_told(own_server: Server, own_client: redis.Redis) -> None:
    """Within the producer's max_block_ms; later the topic is made, whole."""
    fill(own_client)
    async with Producer(url=own_server.url, max_block_ms=200) as producer:
        begin = time.monotonic()
        with pytest.raises(ServerFullError, match="maxmemory"):
            await producer.send("t", b"x")
        assert time.monotonic() - begin < 10
        make_room(own_client)
        await producer.send_and_wait("t", b"y")
    async with Admin(url=own_server.url) as admin:
        await admin.create_topics([NewTopic("u", 1)])
        assert await admin.list_topics() == ["t", "u"]
    assert await stored_values({"url": own_server.url}, "t") == [b"y"]


async def test_closing_with_a_time_limit(any_server: Server, any_client: redis.Redis) -> None:
    """close(timeout_ms) gives up what is left, and each future says so."""
    producer = Producer(url=any_server.url)
    await producer.send_and_wait("t", b"0", partition=0)
    fill(any_client)
    future = await producer.send("t", b"lost", partition=0)
    begin = time.monotonic()
    with pytest.raises(RequestTimedOutError):
        await producer.close(timeout_ms=200)
    assert time.monotonic() - begin < 10
    assert future.done()
    assert isinstance(future.exception(), RequestTimedOutError)
    make_room(any_client)
    assert await stored_values({"url": any_server.url}, "t") == [b"0"]
