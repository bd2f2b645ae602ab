"""A day of idling, in a minute: nothing grows, in clients or server, however long nothing happens.

What an idle client does is counted in beats: a heartbeat each 3 s makes 28,800 a day, a look at a waiting partition and
a ping of the subscription each second 86,400. Here they come every few milliseconds, over the same code; what hours
would do (ids of former members, idle producers, offsets without members) is played with a clock in ``tests/lua``.

Samples are taken as the beats go by. What grows shows as a line through the second half of them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from streamlayer import Admin, Consumer, NewTopic, Producer, TopicPartition, aio
from streamlayer.embedded import Server
from tests import servers
from tests.profiles import THOROUGH

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

DAY_OF_HEARTBEATS = 28_800
BEATS = DAY_OF_HEARTBEATS if THOROUGH else 2400
MEMBERS = 8
SAMPLES = 40
ROUNDS = SAMPLES * (10 if THOROUGH else 2)
INTERVAL_MS = 10
GROWTH = {"memory": 0.03, "objects": 0.03, "server memory": 0.03, "held by keys": 0.02}  # numbers get longer
"""What counts as noise, as a share of the middle; where nothing is said, nothing may grow at all."""
FEW_OBJECTS = 500
"""And of objects so many: the samples themselves, and what is under way just then."""


class Sample(NamedTuple):
    """What there is at a moment."""

    beats: int
    what: dict[str, float]


def sample(client: redis.Redis, beats: int, tasks: int = 0) -> Sample:
    """Client and server, counted; of the server without its buffers, which come and go with what is under way."""
    gc.collect()
    info: Any = client.info()
    keys = client.keys("*")
    held = sum(client.memory_usage(key) or 0 for key in keys)
    return Sample(
        beats,
        {
            "memory": float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            "objects": float(len(gc.get_objects())),
            "threads": float(threading.active_count()),
            "tasks": float(tasks),
            "files": float(sum(1 for _ in Path("/proc/self/fd").iterdir())),
            "connections": float(info["connected_clients"]),
            "keys": float(len(keys)),
            "held by keys": float(held),
            "server memory": float(info["used_memory"] - info["mem_clients_normal"] - info["mem_aof_buffer"]),
        },
    )


def grown(samples: list[Sample], allowed: dict[str, float]) -> dict[str, tuple[float, float]]:
    """What is more at the end of the second half than at its beginning, by more than is allowed: from, to.

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
        share = allowed.get(name, 0.0)
        steady = not share or (between > before and after > between)
        few = FEW_OBJECTS if name == "objects" else 0
        if after > before * (1 + share) + few and steady:
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


def test_a_day_of_a_member_a_reader_and_a_producer(server: Server, client: redis.Redis) -> None:
    """Sync: as many heartbeats as a day has; nothing grows."""
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
    assert grown(samples, GROWTH) == {}


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
    assert grown(samples, GROWTH) == {}


def test_coming_and_going(server: Server, client: redis.Redis) -> None:
    """Clients that are made and closed, again and again, leave nothing: no connection, thread or file, no new key.

    But what is kept for a time: a former member's id for an hour, a producer's for a day. These are taken away here.
    """
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
    assert grown(samples, GROWTH) == {}


def _producers(client: redis.Redis, partition: int) -> list[bytes]:
    return [name for name in client.hkeys(f"sl:t:{{t:{partition}}}:producers") if name != b"-"]


@pytest.mark.parametrize("leak", ["connection", "key", "thread", "memory"])
def test_the_judge_finds_a_leak(server: Server, client: redis.Redis, leak: str) -> None:
    """One more with each sample is found, whatever it is; without one, nothing is."""
    assert grown([sample(client, number) for number in range(20)], GROWTH) == {}
    kept: list[Any] = []
    stop = threading.Event()
    samples: list[Sample] = []
    for number in range(20):
        if leak == "connection":
            kept.append(redis.Redis.from_url(server.url))
            kept[-1].ping()
        elif leak == "key":
            client.set(f"leak:{number}", b"x")
        elif leak == "thread":
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
    name = {"connection": "connections", "key": "keys", "thread": "threads", "memory": "memory"}[leak]
    assert name in grown(samples, GROWTH)
