"""Long polling: woken by publish, by ``wakeup``, and quiet when nothing happens."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import redis

from streamlayer import NewTopic, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.embedded import Server
from tests.beside import aio_beside
from tests.shell.async_.reading import read
from tests.waiting import aio_wait_until

TP = TopicPartition("t", 0)
NEVER = 1 << 60


def is_armed(client: redis.Redis, namespace: str, partition: int = 0) -> bool:
    """Whether somebody waits at the end of t's partition."""
    return client.hget(f"{namespace}:t:{{t:{partition}}}:meta", "armed") is not None


async def expect_wake_up(
    producer: Producer, consumer: Consumer, client: redis.Redis, namespace: str, partition: int = 0
) -> None:
    """An append wakes the poll that waits for it: it does not look by itself, as it would each second."""
    consumer._check_at = NEVER
    polling = aio_beside(lambda: consumer.poll(60_000))
    await aio_wait_until(lambda: is_armed(client, namespace, partition), "the consumer to wait at the log's end")
    await producer.send_and_wait("t", b"x", partition=partition)
    assert list(await polling.result()) == [TopicPartition("t", partition)]


async def test_an_append_wakes_a_waiting_poll(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Each time, and not because it looks by itself."""
    async with Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        await producer.partitions_for("t")
        await consumer.poll(20)
        for _ in range(5):
            await expect_wake_up(producer, consumer, redis_client, namespace)


async def test_an_append_wakes_it_after_another_assignment(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """It listens to the partitions that it reads now, not to as many others."""
    async with Producer(**aio_args) as producer, Consumer(**aio_args) as consumer:
        await producer.partitions_for("t")
        for partition in (0, 1, 2):
            consumer.assign([TopicPartition("t", partition)])
            await consumer.poll(20)
            for _ in range(3):
                await expect_wake_up(producer, consumer, redis_client, namespace, partition)


async def test_nobody_is_woken_for_nothing(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """An append publishes only where somebody waits, and once."""
    async with Producer(**aio_args) as producer, Consumer(**aio_args) as consumer:
        await producer.partitions_for("t")
        with redis_client.pubsub() as ear:
            ear.psubscribe(f"{namespace}:*")
            await producer.send_and_wait("t", b"1", partition=0)
            consumer.assign([TP])
            await read(consumer, 1)
            await consumer.poll(0)
            for n in range(3):
                await producer.send_and_wait("t", b"%d" % n, partition=0)
            heard: list[Any] = []

            def listen() -> bool:
                heard.extend(ear.get_message(timeout=0) for _ in range(3))
                return sum(message is not None and message["type"] == "pmessage" for message in heard) >= 1

            await aio_wait_until(listen, "the wake-up of the one who waits")
            listen()
            assert [m["channel"] for m in heard if m and m["type"] == "pmessage"] == [
                f"{namespace}:t:{{t:0}}:wake".encode()
            ]


async def test_wakeup_ends_a_waiting_poll(aio_args: dict[str, Any]) -> None:
    """From another thread, with an empty answer, long before the time; the next poll works as ever."""
    async with Admin(**aio_args) as admin, Consumer("t", **aio_args) as consumer, Producer(**aio_args) as producer:
        await admin.create_topics(["t"])
        await consumer.poll(20)
        begin = time.monotonic()
        waker = threading.Timer(0.1, consumer.wakeup)
        waker.start()
        assert await consumer.poll(20_000) == {}
        assert 0.05 < time.monotonic() - begin < 5
        waker.join()
        await producer.send_and_wait("t", b"x", partition=0)
        assert len(await read(consumer, 1)) == 1


async def test_wakeup_before_a_poll_ends_that_one_only(aio_args: dict[str, Any]) -> None:
    """However often it was called; records are not lost by it."""
    async with Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        await producer.send_and_wait("t", b"x")
        for _ in range(3):
            consumer.wakeup()
        assert await consumer.poll(20_000) == {}
        assert len(await read(consumer, 1)) == 1


async def test_wakeup_ends_a_waiting_loop(aio_args: dict[str, Any]) -> None:
    """From another thread; a new loop goes on."""
    async with Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        await producer.send_and_wait("t", b"1")
        got = []
        waker = threading.Timer(0.1, consumer.wakeup)
        waker.start()
        async for record in consumer:
            got.append(record.value)  # noqa: PERF401 - it waits on the way
        waker.join()
        await producer.send_and_wait("t", b"2")
        async for record in consumer:
            got.append(record.value)
            break
        assert got == [b"1", b"2"]


async def test_wakeup_from_many_threads_at_once(aio_args: dict[str, Any]) -> None:
    """A storm of them, while records flow: every record comes once."""
    stop = threading.Event()
    async with Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        await producer.partitions_for("t")

        def storm() -> None:
            while not stop.wait(0.001):
                consumer.wakeup()

        threads = [threading.Thread(target=storm) for _ in range(3)]
        for thread in threads:
            thread.start()
        got: list[bytes] = []
        for n in range(30):
            await producer.send_and_wait("t", b"%d" % n, partition=0)
            got += [r.value for part in (await consumer.poll(50)).values() for r in part]
        stop.set()
        for thread in threads:
            thread.join()
        while polled := await consumer.poll(20) or await consumer.poll(20):
            got += [r.value for part in polled.values() for r in part]
        assert got == [b"%d" % n for n in range(30)]


async def test_wakeup_of_a_consumer_that_does_nothing(aio_args: dict[str, Any]) -> None:
    """Before its first call and after close it is harmless."""
    consumer = Consumer("t", **aio_args)
    consumer.wakeup()
    assert await consumer.poll(20_000) == {}
    await consumer.close()
    consumer.wakeup()


async def test_an_idle_consumer_asks_little(any_server: Server, any_client: redis.Redis) -> None:
    """Whatever the number of partitions: at most three commands a second, pings included."""
    ours = ("evalsha", "ping", "subscribe", "hget", "hgetall", "info", "script|load")
    async with Admin(url=any_server.url) as admin, Consumer("t", url=any_server.url) as consumer:
        await admin.create_topics([NewTopic("t", 40)])
        await consumer.poll(100)
        any_client.config_resetstat()
        begin = time.monotonic()
        assert await consumer.poll(1500) == {}
        seconds = time.monotonic() - begin
        stats = any_client.info("commandstats")
        calls = {name: stats[f"cmdstat_{name}"]["calls"] for name in ours if f"cmdstat_{name}" in stats}
        assert sum(calls.values()) - 1 <= 3 * seconds + 1, calls  # one INFO was this test's


async def test_a_consumer_closes_at_once(aio_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that has listened for wake-ups: what runs beside ends when it is told to, and not at its next ping."""
    monkeypatch.setattr("streamlayer._async.subscriber.PING_MS", 60_000)
    async with Admin(**aio_args) as admin:
        await admin.create_topics(["t"])
    consumer = Consumer("t", **aio_args)
    await consumer.poll(50)
    begin = time.monotonic()
    await consumer.close()
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("timeout_ms", [30, 300])
async def test_a_lost_subscription_is_made_again(any_server: Server, any_client: redis.Redis, timeout_ms: int) -> None:
    """CLIENT KILL of everything: nothing is missed, and wake-ups come again."""
    async with Producer(url=any_server.url) as producer, Consumer("t", url=any_server.url) as consumer:
        await producer.partitions_for("t")
        await consumer.poll(timeout_ms)
        for _ in range(2):
            any_client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
            any_client.execute_command("CLIENT KILL TYPE pubsub")
            await producer.send_and_wait("t", b"x", partition=0)
            assert len(await read(consumer, 1)) == 1
        await consumer.poll(50)
        await aio_wait_until(lambda: any_client.pubsub_channels("sl:t:{t:0}*"), "the consumer to listen again")
        for _ in range(3):
            await expect_wake_up(producer, consumer, any_client, "sl")
