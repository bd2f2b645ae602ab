"""Microseconds for one record that is waited for: ``send_and_wait`` against ``XADD``, one at a time."""

from __future__ import annotations

import asyncio

import redis
import redis.asyncio

import streamlayer
import streamlayer.aio
from benchmarks.measurement import Figures, Group, Row, Unit
from benchmarks.place import Place
from benchmarks.stopwatch import stopwatch

WARM_UP = 50


def send_and_wait(place: Place) -> Figures:
    """Ours."""
    keys, values = place.records.first(place.scale.single)
    with place.topic() as topic, streamlayer.Producer(url=place.url) as producer:
        for value in values[:WARM_UP]:
            producer.send_and_wait(topic, value)
        with stopwatch() as watch:
            for key, value in zip(keys, values, strict=True):
                producer.send_and_wait(topic, value, key)
    return {"send_and_wait": watch.seconds * 1e6 / len(values)}


def xadd(place: Place) -> Figures:
    """What users do today."""
    keys, values = place.records.first(place.scale.single)
    with redis.Redis.from_url(place.url) as client, place.stream() as stream:
        for value in values[:WARM_UP]:
            client.xadd(stream, {"value": value})
        with stopwatch() as watch:
            for key, value in zip(keys, values, strict=True):
                client.xadd(stream, {"key": key, "value": value})
    return {"xadd one": watch.seconds * 1e6 / len(values)}


def send_and_wait_aio(place: Place) -> Figures:
    """Ours with asyncio."""

    async def run(topic: str) -> float:
        keys, values = place.records.first(place.scale.single)
        async with streamlayer.aio.Producer(url=place.url) as producer:
            for value in values[:WARM_UP]:
                await producer.send_and_wait(topic, value)
            with stopwatch() as watch:
                for key, value in zip(keys, values, strict=True):
                    await producer.send_and_wait(topic, value, key)
        return watch.seconds

    with place.topic() as topic:
        return {"send_and_wait aio": asyncio.run(run(topic)) * 1e6 / place.scale.single}


def xadd_aio(place: Place) -> Figures:
    """The same with redis-py's asyncio client."""

    async def run(stream: str) -> float:
        keys, values = place.records.first(place.scale.single)
        async with redis.asyncio.Redis.from_url(place.url) as client:
            for value in values[:WARM_UP]:
                await client.xadd(stream, {"value": value})
            with stopwatch() as watch:
                for key, value in zip(keys, values, strict=True):
                    await client.xadd(stream, {"key": key, "value": value})
        return watch.seconds

    with place.stream() as stream:
        return {"xadd one aio": asyncio.run(run(stream)) * 1e6 / place.scale.single}


GROUP = Group(
    (send_and_wait, xadd, send_and_wait_aio, xadd_aio),
    (
        Row("send_and_wait, one at a time", Unit.MICROSECONDS, "send_and_wait", "xadd one", 2),
        Row("send_and_wait, one at a time (aio)", Unit.MICROSECONDS, "send_and_wait aio", "xadd one aio", 2),
    ),
)
