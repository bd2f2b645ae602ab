"""Records per second read: ``poll`` with its defaults against ``XREAD COUNT 500``, in both colours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any, cast

import redis
import redis.asyncio

import streamlayer
import streamlayer.aio
from benchmarks.measurement import Figures, Group, Row, Unit
from benchmarks.place import Place
from benchmarks.stopwatch import stopwatch
from benchmarks.writing import fill_stream

COUNT = 500
PASSES = 4
"""One pass would be over before it can be timed well."""


def _fill(place: Place, topic: str) -> int:
    keys, values = place.records.first(place.scale.batched)
    with streamlayer.Producer(url=place.url) as producer:
        producer.send_many(topic, values, keys)
    return len(values)


def _rate(name: str, count: int, expected: int, seconds: float) -> float:
    if count != expected:
        msg = f"{name}: {count} records came back, {expected} were expected"
        raise AssertionError(msg)
    return count / seconds


def _poll(consumer: streamlayer.Consumer, total: int) -> int:
    count = 0
    while count < total:
        for records in consumer.poll().values():
            count += len(records)
    return count


def _iterate(consumer: streamlayer.Consumer, total: int) -> int:
    return sum(1 for _ in islice(consumer, total))


def _read_to_end(consumer: streamlayer.Consumer, _total: int) -> int:
    return sum(1 for _ in consumer.read_to_end())


def ours(place: Place) -> Figures:
    """One topic read in three ways, each by a consumer of its own."""
    ways: dict[str, Callable[[streamlayer.Consumer, int], int]] = {
        "poll": _poll,
        "iteration": _iterate,
        "read_to_end": _read_to_end,
    }
    rates: dict[str, float] = {}
    with place.topic() as topic:
        total = _fill(place, topic)
        for name, read in ways.items():
            count = 0
            with streamlayer.Consumer(topic, url=place.url) as consumer, stopwatch() as watch:
                for _ in range(PASSES):
                    count += read(consumer, total)
                    consumer.seek_to_beginning()
            rates[name] = _rate(name, count, PASSES * total, watch.seconds)
    return rates


async def _poll_aio(consumer: streamlayer.aio.Consumer, total: int) -> int:
    count = 0
    while count < total:
        for records in (await consumer.poll()).values():
            count += len(records)
    return count


async def _iterate_aio(consumer: streamlayer.aio.Consumer, total: int) -> int:
    count = 0
    async for _ in consumer:
        count += 1
        if count == total:
            break
    return count


def ours_aio(place: Place) -> Figures:
    """The same with asyncio."""

    async def run(topic: str, total: int) -> dict[str, float]:
        rates: dict[str, float] = {}
        for name, read in (("poll aio", _poll_aio), ("iteration aio", _iterate_aio)):
            count = 0
            async with streamlayer.aio.Consumer(topic, url=place.url) as consumer:
                with stopwatch() as watch:
                    for _ in range(PASSES):
                        count += await read(consumer, total)
                        await consumer.seek_to_beginning()
            rates[name] = _rate(name, count, PASSES * total, watch.seconds)
        return rates

    with place.topic() as topic:
        return asyncio.run(run(topic, _fill(place, topic)))


def xread(place: Place) -> Figures:
    """What users do today."""
    total, count = PASSES * place.scale.streamed, 0
    with redis.Redis.from_url(place.url) as client, place.stream() as stream:
        fill_stream(client, stream, *place.records.first(place.scale.streamed))
        with stopwatch() as watch:
            for _ in range(PASSES):
                last = b"0"
                while answer := cast("Any", client.xread({stream: last}, count=COUNT)):
                    ((_, entries),) = answer
                    count += len(entries)
                    last = entries[-1][0]
    return {"xread": _rate("xread", count, total, watch.seconds)}


def xread_aio(place: Place) -> Figures:
    """The same with redis-py's asyncio client."""

    async def run(stream: str) -> float:
        total, count = PASSES * place.scale.streamed, 0
        async with redis.asyncio.Redis.from_url(place.url) as client:
            await client.ping()
            with stopwatch() as watch:
                for _ in range(PASSES):
                    last = b"0"
                    while answer := await cast("Any", client.xread({stream: last}, count=COUNT)):
                        ((_, entries),) = answer
                        count += len(entries)
                        last = entries[-1][0]
        return _rate("xread", count, total, watch.seconds)

    with place.stream() as stream:
        fill_stream(place.plain, stream, *place.records.first(place.scale.streamed))
        return {"xread aio": asyncio.run(run(stream))}


GROUP = Group(
    (ours, xread, ours_aio, xread_aio),
    (
        Row("poll", Unit.RATE, "poll", "xread", 3),
        Row("poll (aio)", Unit.RATE, "poll aio", "xread aio", 3),
        Row("iteration", Unit.RATE, "iteration", "xread"),
        Row("iteration (aio)", Unit.RATE, "iteration aio", "xread aio"),
        Row("read_to_end", Unit.RATE, "read_to_end", "xread"),
    ),
)
