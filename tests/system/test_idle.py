"""A day of idling, in a minute: nothing grows, in clients or server, however long nothing happens.

What an idle client does is counted in beats: a heartbeat each 3 s makes 28,800 a day, a look at a waiting partition and
a ping of the subscription each second 86,400. Here they come every few milliseconds, over the same code; what hours
would do (ids of former members, idle producers, offsets without members) is played with a clock in ``tests/lua``.

Samples are taken as the beats go by. What grows shows as a line through the second half of them.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import logging
import math
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from streamlayer import Admin, Consumer, NewTopic, Producer, TopicPartition, aio
from streamlayer._core.membership import Membership
from streamlayer._sync.link import Link
from streamlayer.embedded import Server
from tests import servers
from tests.profiles import THOROUGH
from tests.waiting import sync_wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

DAY_OF_HEARTBEATS = 28_800
BEATS = DAY_OF_HEARTBEATS if THOROUGH else 3600
MEMBERS = 8
SAMPLES = 40
ROUNDS = SAMPLES * (10 if THOROUGH else 4)
INTERVAL_MS = 10
KIB = 1024
NOISE = {
    "objects": 100.0,
    "blocks": 800.0,
    "memory": 1024.0 * KIB,
    "held by keys": 128.0,  # numbers get longer
    "server memory": 128.0 * KIB,
    "client buffers": 256.0 * KIB,
    "unread": 64.0 * KIB,
    "AOF buffer": 64.0 * KIB,
}
"""How much more is no leak: more than a busy machine shows, and less than one more with each heartbeat would make.
Where nothing is said, nothing may grow at all."""
COMING_AND_GOING = NOISE | {"objects": 40.0, "blocks": math.inf}
"""Here objects are exact; blocks grow while caches fill, with redis-py's connections alone as well."""
RECONNECTING = COMING_AND_GOING | {"connections": 8.0, "files": 8.0, "subscriptions": 8.0}
"""A moment after they were killed not all have come back."""


class Sample(NamedTuple):
    """What there is at a moment."""

    beats: int
    what: dict[str, float]


def sample(client: redis.Redis, beats: int, tasks: int = 0) -> Sample:
    """Client and server, counted. What the server holds for its clients is apart from what it holds itself."""
    gc.collect()
    info: Any = client.info()
    clients: list[dict[str, str]] = client.client_list()
    keys = client.keys("*")
    buffers = sum(int(each["tot-mem"]) for each in clients)
    return Sample(
        beats,
        {
            "memory": float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            "objects": float(len(gc.get_objects())),
            "blocks": float(sys.getallocatedblocks()),  # bytes, texts and numbers too, which no collector knows
            "threads": float(threading.active_count()),
            "tasks": float(tasks),
            "files": float(sum(1 for _ in Path("/proc/self/fd").iterdir())),
            "connections": float(len(clients)),
            "subscriptions": float(sum(int(each["sub"]) for each in clients)),
            "keys": float(len(keys)),
            "entries": float(sum(entries(client, key) for key in keys)),
            "held by keys": float(sum(client.memory_usage(key) or 0 for key in keys)),
            "server memory": float(info["used_memory"] - buffers - info["mem_aof_buffer"]),
            "client buffers": float(buffers),
            "unread": float(sum(int(each["omem"]) for each in clients)),
            "AOF buffer": float(info["mem_aof_buffer"]),
        },
    )


def entries(client: redis.Redis, key: bytes) -> int:
    """How many fields or members a key has."""
    count = {b"hash": client.hlen, b"zset": client.zcard}.get(client.type(key))
    return 1 if count is None else count(key)


def grown(samples: list[Sample], noise: dict[str, float]) -> dict[str, tuple[float, float]]:
    """What is more at the end of the second half than at its beginning, by more than is noise: from, to.

    Each end is the lowest of five samples: a collector, or an allocator, may be in the middle of its work. What may
    be noise has to grow from the beginning to the middle, and from there to the end: a buffer that was enlarged once
    is not a leak.
    """
    half = samples[len(samples) // 2 :]
    middle = len(half) // 2
    found: dict[str, tuple[float, float]] = {}
    for name in half[0].what:
        before = min(each.what[name] for each in half[:5])
        between = min(each.what[name] for each in half[middle - 2 : middle + 3])
        after = min(each.what[name] for each in half[-5:])
        little = noise.get(name, 0.0)
        steady = not little or (between > before and after > between)
        if after > before + little and steady:
            found[name] = before, after
    return found


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own."""
    with Server(binary=servers.binary(request.param)) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    """Who counts."""
    with redis.Redis.from_url(server.url) as client:
        yield client


MEMBER: dict[str, Any] = {
    "group_id": "g",
    "session_timeout_ms": 2000,
    "heartbeat_interval_ms": INTERVAL_MS,
    "auto_commit_interval_ms": INTERVAL_MS,
}


def heartbeats(client: redis.Redis) -> int:
    """How often the group was heard from: a member's head counts its calls."""
    heads = client.hgetall("sl:g:{g}:members").values()
    return sum(int(head.split()[1]) for head in heads if head.count(b" ") > 4)


@pytest.fixture(autouse=True)
def _what_was_there_before_does_not_count() -> Iterator[None]:
    """Objects of other tests are neither counted nor gone through by each collection; pytest keeps no lines of log."""
    gc.collect()
    gc.freeze()
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _pings_come_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription is pinged each second; here as often as hearts beat."""
    for colour in ("_sync", "_async"):
        monkeypatch.setattr(f"streamlayer.{colour}.subscriber.PING_MS", INTERVAL_MS)


def prepare(url: str) -> None:
    """A topic with a record, and one that nobody writes to."""
    with Admin(url=url) as admin, Producer(url=url) as producer:
        admin.create_topics([NewTopic("t", 4), NewTopic("empty", 1)])
        producer.send_and_wait("t", b"a", b"key")


def a_day(server: Server, client: redis.Redis) -> list[Sample]:
    """Members, a reader, a producer and an administrator, with as many heartbeats as a day has."""
    prepare(server.url)
    samples: list[Sample] = []
    with (
        ExitStack() as stack,
        Consumer("t", url=server.url) as reader,
        Producer(url=server.url) as producer,
        Admin(url=server.url) as admin,
    ):
        members = [stack.enter_context(Consumer("t", "empty", url=server.url, **MEMBER)) for _ in range(MEMBERS)]
        producer.send_and_wait("t", b"b", b"key")
        for number in range(SAMPLES):
            while heartbeats(client) < (number + 1) * BEATS // SAMPLES:
                for each in (*members, reader):
                    each.poll(1)
            admin.describe_groups()
            samples.append(sample(client, heartbeats(client)))
        assert producer.health().ok
        assert all(member.health().ok for member in members)
    assert samples[-1].beats >= BEATS
    return samples


def test_a_day_of_a_member_a_reader_and_a_producer(server: Server, client: redis.Redis) -> None:
    """Sync: as many heartbeats as a day has; nothing grows."""
    assert grown(a_day(server, client), NOISE) == {}


async def test_a_day_with_asyncio(server: Server, client: redis.Redis) -> None:
    """The same with tasks."""
    await asyncio.to_thread(prepare, server.url)
    samples: list[Sample] = []
    async with (
        AsyncExitStack() as stack,
        aio.Consumer("t", url=server.url) as reader,
        aio.Producer(url=server.url) as producer,
        aio.Admin(url=server.url) as admin,
    ):
        members = [
            await stack.enter_async_context(aio.Consumer("t", "empty", url=server.url, **MEMBER))
            for _ in range(MEMBERS)
        ]
        await producer.send_and_wait("t", b"b", b"key")
        for number in range(SAMPLES):
            while heartbeats(client) < (number + 1) * BEATS // SAMPLES:
                for each in (*members, reader):
                    await each.poll(1)
            await admin.describe_groups()
            samples.append(sample(client, heartbeats(client), len(asyncio.all_tasks())))
    assert samples[-1].beats >= BEATS
    assert grown(samples, NOISE) == {}


def coming_and_going(server: Server, client: redis.Redis) -> list[Sample]:
    """Clients that are made, used and closed; what is kept of them for a time is taken away."""
    prepare(server.url)
    samples: list[Sample] = []
    for number in range(ROUNDS):
        with (
            Consumer("t", url=server.url, **MEMBER) as member,
            Producer(url=server.url) as producer,
            Admin(url=server.url) as admin,
        ):
            member.poll(20)
            producer.send_and_wait("t", b"x", b"key")
            admin.list_topics()
            admin.delete_records({TopicPartition("t", partition): -1 for partition in range(4)})
        client.zremrangebyrank("sl:g:{g}:gone", 1, -1)
        for partition in range(4):
            client.hdel(f"sl:t:{{t:{partition}}}:producers", *_producers(client, partition), "nobody")
        if number % (ROUNDS // SAMPLES) == 0:
            samples.append(sample(client, number))
    return samples


def _producers(client: redis.Redis, partition: int) -> list[bytes]:
    return [name for name in client.hkeys(f"sl:t:{{t:{partition}}}:producers") if name != b"-"]


def test_coming_and_going(server: Server, client: redis.Redis) -> None:
    """Clients that are made and closed, again and again, leave nothing: no connection, thread or file, no new key.

    But what is kept for a time: a former member's id for an hour, a producer's for a day. These are taken away here.
    """
    assert grown(coming_and_going(server, client), COMING_AND_GOING) == {}


def reconnecting(server: Server, client: redis.Redis) -> list[Sample]:
    """A member, a reader and a producer whose connections the server kills, again and again."""
    prepare(server.url)
    samples: list[Sample] = []
    with (
        Consumer("t", url=server.url, **MEMBER) as member,
        Consumer("t", url=server.url) as reader,
        Producer(url=server.url) as producer,
        Admin(url=server.url) as admin,
    ):
        for number in range(ROUNDS // 2):
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub", skipme=True)
            producer.send_and_wait("t", b"x", b"key")
            sync_wait_until(functools.partial(_reads, member), "the member reads")
            sync_wait_until(functools.partial(_reads, reader), "the reader reads")
            admin.delete_records({TopicPartition("t", partition): -1 for partition in range(4)})
            if number % (ROUNDS // 2 // SAMPLES) == 0:
                samples.append(sample(client, number))
    return samples


def _reads(consumer: Consumer) -> bool:
    return bool(consumer.poll(5))


def test_connections_that_are_killed(server: Server, client: redis.Redis) -> None:
    """Clients that connect again and again keep nothing of the connections that they had."""
    assert grown(reconnecting(server, client), RECONNECTING) == {}


def every_time(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, leak: Callable[[], object]) -> None:
    """Have something leak whenever a method is called."""
    method = getattr(owner, name)

    def leaking(self: Any, *args: Any, **options: Any) -> Any:
        leak()
        return method(self, *args, **options)

    monkeypatch.setattr(owner, name, leaking)


@pytest.mark.parametrize("server", ["redis"], indirect=True)
@pytest.mark.parametrize("leak", ["objects", "blocks", "entries", "keys", "subscriptions"])
def test_the_judge_finds_one_more_with_each_heartbeat(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, leak: str
) -> None:
    """The smallest thing there is, kept once a heartbeat (a key: once in twenty) in the story above, is found."""
    kept: list[Any] = []
    numbers = itertools.count()
    with redis.Redis.from_url(server.url) as other, other.pubsub() as subscribed:
        plants: dict[str, Callable[[], object]] = {
            "objects": lambda: kept.append([]),
            "blocks": lambda: kept.append(bytes(100)),
            "entries": lambda: other.hset("sl:leak", f"{next(numbers)}", b"x"),
            "keys": lambda: other.set(f"sl:leak:{next(numbers) // 20}", b"x"),
            "subscriptions": lambda: subscribed.subscribe(f"sl:leak:{next(numbers)}"),
        }
        every_time(monkeypatch, Membership, "answered", plants[leak])
        assert leak in grown(a_day(server, client), NOISE)


@pytest.mark.parametrize("server", ["redis"], indirect=True)
@pytest.mark.parametrize("story", ["clients", "connections"])
def test_the_judge_finds_an_object_kept_each_time(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, story: str
) -> None:
    """One object of each client that was closed, or of each connection that was lost, is found."""
    kept: list[Any] = []
    if story == "clients":
        every_time(monkeypatch, Consumer, "close", lambda: kept.append([]))
        assert "objects" in grown(coming_and_going(server, client), COMING_AND_GOING)
    else:
        every_time(monkeypatch, Link, "_prepare", lambda: kept.append([]))
        assert "objects" in grown(reconnecting(server, client), RECONNECTING)


@pytest.mark.parametrize("name", NOISE)
def test_the_judge_tells_noise_from_a_leak(name: str) -> None:
    """A line that rises by twice the noise is found; one by half of it, a single step, and a saw are not."""
    much = NOISE[name]

    def judged(value: Callable[[int], float]) -> bool:
        return name in grown([Sample(at, {name: 1e6 + value(at)}) for at in range(SAMPLES)], NOISE)

    assert judged(lambda at: 2 * much * at / (SAMPLES // 2))
    assert not judged(lambda at: much / 2 * at / (SAMPLES // 2))
    assert not judged(lambda at: 10 * much * (at > 0.8 * SAMPLES))
    assert not judged(lambda at: 10 * much * (at % 3))


@pytest.mark.parametrize("leak", ["connections", "threads", "memory", "unread", "client buffers"])
def test_the_judge_finds_a_leak(server: Server, client: redis.Redis, leak: str) -> None:
    """One more with each sample is found, whatever it is; without one, nothing is."""
    assert grown([sample(client, number) for number in range(20)], NOISE) == {}
    kept: list[Any] = []
    stop = threading.Event()
    samples: list[Sample] = []
    for number in range(20):
        if leak == "connections":
            kept.append(redis.Redis.from_url(server.url))
            kept[-1].ping()
        elif leak in {"unread", "client buffers"}:  # somebody subscribes and never reads
            if not kept:
                kept.append(redis.Redis.from_url(server.url))
                kept.append(kept[0].connection_pool.get_connection())
                kept[1].send_command("SUBSCRIBE", "leak")
                sync_wait_until(lambda: client.pubsub_numsub("leak")[0][1] == 1, "it is subscribed")
            client.publish("leak", bytes(1 << 20))
        elif leak == "threads":
            kept.append(threading.Thread(target=stop.wait, daemon=True))
            kept[-1].start()
        else:
            kept.append(mmap.mmap(-1, 8 << 20))  # not from what this process has freed before
            kept[-1].write(os.urandom(1 << 20) * 8)
        samples.append(sample(client, number))
    stop.set()
    for each in kept:
        if isinstance(each, redis.Redis):
            each.close()
    found = grown(samples, NOISE)
    # Valkey 9 keeps what it publishes once for all who hear it, and counts it for none of them.
    assert leak in found or (leak in {"unread", "client buffers"} and "server memory" in found)
