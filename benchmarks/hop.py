"""One way of a record from one process to another, and how long each took. A hop is two functions, one a process.

Linux's monotonic clock is the same for all processes: a value begins with the time it was sent at.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any, TypeAlias, cast

import redis
import redis.asyncio

import streamlayer
import streamlayer.aio
from benchmarks.place import STREAM, TOPIC
from benchmarks.records import VALUE_BYTES

INTERVAL_NS = 1_000_000
WARM_UP = 100
_TIME = struct.Struct(">q")
_PADDING = b"x" * (VALUE_BYTES - _TIME.size)

Out: TypeAlias = Callable[[str, int], None]
"""Sends so many records to a server, one a millisecond."""
In: TypeAlias = Callable[[str, int, Event, Connection], None]
"""Sets the event when it listens; then receives so many and hands the times they took (ns) to the pipe."""


def _now_value() -> bytes:
    return _TIME.pack(time.monotonic_ns()) + _PADDING


def _took(values: Iterable[bytes]) -> list[int]:
    now = time.monotonic_ns()
    return [now - _TIME.unpack_from(value)[0] for value in values]


def _pause(due: int) -> None:
    time.sleep(max(0, due - time.monotonic_ns()) / 1e9)  # noqa: TID251 - the pace is what is wanted


async def _pause_aio(due: int) -> None:
    await asyncio.sleep(max(0, due - time.monotonic_ns()) / 1e9)  # noqa: TID251 - the pace is what is wanted


# --- ours -------------------------------------------------------------------------------------------------------------


def produce(url: str, count: int) -> None:
    """Without lingering."""
    with streamlayer.Producer(url=url, linger_ms=0) as producer:
        due = time.monotonic_ns()
        for number in range(count):
            _pause(due)
            producer.send(TOPIC, _now_value(), b"customer-%07d" % number)
            due += INTERVAL_NS


def consume(url: str, count: int, listening: Event, pipe: Connection) -> None:
    """With ``poll``."""
    took: list[int] = []
    with streamlayer.Consumer(TOPIC, url=url) as consumer:
        consumer.poll(100)
        listening.set()
        while len(took) < count:
            for records in consumer.poll().values():
                took += _took(cast("list[bytes]", [record.value for record in records]))
    pipe.send(took)


def produce_aio(url: str, count: int) -> None:
    """With asyncio."""

    async def run() -> None:
        async with streamlayer.aio.Producer(url=url, linger_ms=0) as producer:
            due = time.monotonic_ns()
            for number in range(count):
                await _pause_aio(due)
                await producer.send(TOPIC, _now_value(), b"customer-%07d" % number)
                due += INTERVAL_NS

    asyncio.run(run())


def consume_aio(url: str, count: int, listening: Event, pipe: Connection) -> None:
    """With asyncio."""

    async def run() -> list[int]:
        took: list[int] = []
        async with streamlayer.aio.Consumer(TOPIC, url=url) as consumer:
            await consumer.poll(100)
            listening.set()
            while len(took) < count:
                for records in (await consumer.poll()).values():
                    took.extend(_took(cast("list[bytes]", [record.value for record in records])))
        return took

    pipe.send(asyncio.run(run()))


# --- a bare PUBLISH ---------------------------------------------------------------------------------------------------


def publish(url: str, count: int) -> None:
    """One command a message."""
    with redis.Redis.from_url(url) as client:
        client.ping()
        due = time.monotonic_ns()
        for _ in range(count):
            _pause(due)
            client.publish(STREAM, _now_value())
            due += INTERVAL_NS


def subscribe(url: str, count: int, listening: Event, pipe: Connection) -> None:
    """The leanest loop there is in redis-py."""
    took: list[int] = []
    with redis.Redis.from_url(url) as client, client.pubsub() as pubsub:
        pubsub.subscribe(STREAM)
        for message in cast("Iterable[dict[str, Any]]", pubsub.listen()):
            if message["type"] == "message":
                took += _took([message["data"]])
                if len(took) == count:
                    break
            else:
                listening.set()
    pipe.send(took)


def publish_aio(url: str, count: int) -> None:
    """With asyncio."""

    async def run() -> None:
        async with redis.asyncio.Redis.from_url(url) as client:
            await client.ping()
            due = time.monotonic_ns()
            for _ in range(count):
                await _pause_aio(due)
                await client.publish(STREAM, _now_value())
                due += INTERVAL_NS

    asyncio.run(run())


def subscribe_aio(url: str, count: int, listening: Event, pipe: Connection) -> None:
    """With asyncio."""

    async def run() -> list[int]:
        took: list[int] = []
        async with redis.asyncio.Redis.from_url(url) as client, client.pubsub() as pubsub:
            await pubsub.subscribe(STREAM)
            async for message in pubsub.listen():
                if message["type"] == "message":
                    took.extend(_took([message["data"]]))
                    if len(took) == count:
                        break
                else:
                    listening.set()
        return took

    pipe.send(asyncio.run(run()))
