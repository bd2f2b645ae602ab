"""Records per second written: ``send`` and ``send_many`` against ``XADD`` in pipelines of 500, in both colours."""

from __future__ import annotations

import asyncio

import redis
import redis.asyncio

import streamlayer
import streamlayer.aio
from benchmarks.measurement import Figures, Group, Row, Unit
from benchmarks.place import Place
from benchmarks.stopwatch import stopwatch

PIPELINE = 500
CALL = 10_000
"""Records of one ``send_many``."""


def xadd(place: Place) -> Figures:
    """What users do today."""
    records = place.records.first(place.scale.streamed)
    with redis.Redis.from_url(place.url) as client, place.stream() as stream:
        client.ping()
        with stopwatch() as watch:
            fill_stream(client, stream, records.keys, records.values)
    return {"xadd": place.scale.streamed / watch.seconds}


def fill_stream(client: redis.Redis, stream: str, keys: list[bytes], values: list[bytes]) -> None:
    """Write records to a stream in pipelines of 500."""
    for start in range(0, len(values), PIPELINE):
        part = slice(start, start + PIPELINE)
        pipeline = client.pipeline(transaction=False)
        for key, value in zip(keys[part], values[part], strict=True):
            pipeline.xadd(stream, {"key": key, "value": value})
        pipeline.execute()


def xadd_aio(place: Place) -> Figures:
    """The same with redis-py's asyncio client."""

    async def run() -> float:
        keys, values = place.records.first(place.scale.streamed)
        async with redis.asyncio.Redis.from_url(place.url) as client:
            await client.ping()
            with stopwatch() as watch:
                for start in range(0, len(values), PIPELINE):
                    part = slice(start, start + PIPELINE)
                    pipeline = client.pipeline(transaction=False)
                    for key, value in zip(keys[part], values[part], strict=True):
                        pipeline.xadd(stream, {"key": key, "value": value})
                    await pipeline.execute()
        return watch.seconds

    with place.stream() as stream:
        return {"xadd aio": place.scale.streamed / asyncio.run(run())}


def send(place: Place) -> Figures:
    """One call a record, and a flush."""
    keys, values = place.records.first(place.scale.batched)
    with place.topic() as topic, streamlayer.Producer(url=place.url) as producer, stopwatch() as watch:
        for key, value in zip(keys, values, strict=True):
            producer.send(topic, value, key)
        producer.flush()
    return {"send": len(values) / watch.seconds}


def send_aio(place: Place) -> Figures:
    """The same with asyncio."""

    async def run() -> float:
        keys, values = place.records.first(place.scale.batched)
        async with streamlayer.aio.Producer(url=place.url) as producer:
            with stopwatch() as watch:
                for key, value in zip(keys, values, strict=True):
                    await producer.send(topic, value, key)
                await producer.flush()
        return watch.seconds

    with place.topic() as topic:
        return {"send aio": place.scale.batched / asyncio.run(run())}


def send_many(place: Place) -> Figures:
    """Calls of 10,000 records, then one call for all of them."""
    rates: dict[str, float] = {}
    for name, call in (("send_many", CALL), ("send_many big", place.scale.batched)):
        keys, values = place.records.first(place.scale.batched)
        with place.topic() as topic, streamlayer.Producer(url=place.url) as producer, stopwatch() as watch:
            for start in range(0, len(values), call):
                part = slice(start, start + call)
                producer.send_many(topic, values[part], keys[part])
        rates[name] = len(values) / watch.seconds
    return rates


def send_many_aio(place: Place) -> Figures:
    """The same with asyncio."""

    async def run(topic: str, call: int) -> float:
        keys, values = place.records.first(place.scale.batched)
        async with streamlayer.aio.Producer(url=place.url) as producer:
            with stopwatch() as watch:
                for start in range(0, len(values), call):
                    part = slice(start, start + call)
                    await producer.send_many(topic, values[part], keys[part])
        return watch.seconds

    rates: dict[str, float] = {}
    for name, call in (("send_many aio", CALL), ("send_many aio big", place.scale.batched)):
        with place.topic() as topic:
            rates[name] = place.scale.batched / asyncio.run(run(topic, call))
    return rates


GROUP = Group(
    (send, xadd, send_many, send_aio, xadd_aio, send_many_aio),
    (
        Row("send, flush", Unit.RATE, "send", "xadd", 3.5),
        Row("send, flush (aio)", Unit.RATE, "send aio", "xadd aio", 3.5),
        Row("send_many, 10,000 a call", Unit.RATE, "send_many", "xadd", 8),
        Row("send_many, one call", Unit.RATE, "send_many big", "xadd", 8),
        Row("send_many, 10,000 a call (aio)", Unit.RATE, "send_many aio", "xadd aio", 8),
        Row("send_many, one call (aio)", Unit.RATE, "send_many aio big", "xadd aio", 8),
    ),
)
