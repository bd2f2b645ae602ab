"""A server at its ``maxmemory``: members join, read, commit and leave; deleting makes room, and sending goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from streamlayer import NewTopic, TopicConfig, TopicPartition
from streamlayer.aio import Admin, Producer
from streamlayer.embedded import Server
from streamlayer.errors import ServerFullError
from tests.shell.async_.members import GROUP, Told, create, drain, member, numbers, partitions, settle
from tests.waiting import aio_wait_until

COUNT = 4
OURS = TopicPartition("ours", 0)
QUICK = {"heartbeat_interval_ms": 100, "session_timeout_ms": 1000}


async def fill_with_ours(url: str, client: redis.Redis) -> None:
    """Send until the server refuses."""
    limit_memory(client)
    async with Producer(url=url, num_partitions=1, linger_ms=0, delivery_timeout_ms=1000) as producer:
        with pytest.raises(ServerFullError):
            for _ in range(10_000):
                await producer.send_and_wait(OURS.topic, b"x" * 60_000)
    limit_memory(client, -1_000_000)


async def fill_with_theirs(_url: str, client: redis.Redis) -> None:
    """A stranger's keys, until the server refuses."""
    limit_memory(client)
    with pytest.raises(redis.OutOfMemoryError):
        for i in range(10_000):
            client.set(f"stranger:{i}", b"x" * 60_000)
    limit_memory(client, -1_000_000)


def limit_memory(client: redis.Redis, more: int = 4_000_000) -> None:
    """So many bytes more than are in use now; below 0: a little less, so that no chance makes room."""
    client.config_set("maxmemory", used(client) + more)


async def free_ours(url: str, client: redis.Redis) -> None:
    """Delete records."""
    async with Admin(url=url) as admin:
        before = used(client)
        end = (await admin.describe_topics([OURS.topic]))[OURS.topic].partitions[0].log_end
        assert await admin.delete_records({OURS: end}) == {OURS: end}
        await aio_wait_until(lambda: used(client) < before - 2_000_000, "memory is freed")


async def free_theirs(_url: str, client: redis.Redis) -> None:
    """The stranger goes."""
    for key in client.scan_iter("stranger:*", count=1000):
        client.unlink(key)


def used(client: redis.Redis) -> int:
    """Bytes that the server has in use."""
    info: Any = client.info("memory")
    return int(info["used_memory"])


@pytest.mark.parametrize(
    ("fill", "free"), [(fill_with_ours, free_ours), (fill_with_theirs, free_theirs)], ids=["ours", "theirs"]
)
async def test_a_group_lives_on(
    own_server: Server, own_client: redis.Redis, fill: Callable[..., Any], free: Callable[..., Any]
) -> None:
    """Members read, commit, come and go; producers are refused, say why, and go on as soon as there is room."""
    url = own_server.url
    await create({"url": url}, COUNT)
    async with Admin(url=url) as admin:
        await admin.create_topics([OURS.topic] if fill is fill_with_theirs else [], exist_ok=True)
    async with Producer(url=url) as producer:
        for i in range(40):
            await producer.send("t", b"%d" % i, partition=i % COUNT)
    told = Told()
    async with (
        member({"url": url}, "t", listener=told, max_poll_records=5, **QUICK) as first,
        Producer(url=url, client_id="patient") as producer,
    ):
        await first.wait_for_assignment(timeout_ms=10_000)
        await producer.partitions_for("t")
        await fill(url, own_client)
        future = await producer.send("t", b"patient", partition=0)
        await aio_wait_until(lambda: "maxmemory" in producer.health().reason, "the producer is refused")
        seen = await drain(first, until=15)
        await first.commit()
        async with member({"url": url}, "t", **QUICK) as second:
            began = time.monotonic()
            while time.monotonic() - began < 1.5:  # longer than a session: heartbeats are heard
                seen += await settle(first, second, total=COUNT)
            await first.commit()
            await second.commit()
            assert first.health().state == second.health().state == "ok"
        seen += await settle(first, total=COUNT)
        seen += await drain(first, until=40 - len(seen))
        await first.commit()
        assert numbers(seen) == list(range(40))
        assert ("lost", COUNT) not in told.words
        assert not future.done()
        await free(url, own_client)
        await producer.send_and_wait("t", b"there is room")
        assert future.done()
        assert future.exception() is None
        assert {record.value for record in await drain(first, until=2)} == {b"patient", b"there is room"}
        await first.commit()
        assert first.health().ok
    async with Admin(url=url) as admin:
        stored = await admin.list_group_offsets(GROUP)
        assert sum(each.offset for each in stored.values()) == 42
        assert set(stored) == partitions(COUNT)


async def test_retention_makes_room(own_server: Server, own_client: redis.Redis) -> None:
    """What is older than `retention_ms` goes, and whoever waited for room goes on: nobody has to help."""
    url = own_server.url
    async with Admin(url=url) as admin:
        await admin.create_topics(
            [NewTopic(OURS.topic, 1, config=TopicConfig(retention_ms=3000)), NewTopic("other", 1)]
        )
    async with Producer(url=url) as producer:
        await producer.partitions_for("other")
        await fill_with_ours(url, own_client)
        future = await producer.send("other", b"x" * 50_000)
        await aio_wait_until(lambda: "maxmemory" in producer.health().reason, "it is refused")
        assert not future.done()
        await aio_wait_until(future.done, "it is stored")
        assert future.exception() is None
        assert producer.health().ok
