"""Microseconds that a worker adds to a record: a handler that does nothing, less what ``poll`` alone takes."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import streamlayer
import streamlayer.aio
from benchmarks.measurement import Figures, Group, Row, Unit
from benchmarks.place import Place

ALLOWED_US = 15.0


def _filled(place: Place, topic: str) -> int:
    keys, values = place.records.first(place.scale.batched)
    with streamlayer.Producer(url=place.url) as producer:
        producer.send_many(topic, values, keys)
    return len(values)


async def _polled(place: Place, topic: str, count: int) -> float:
    """Seconds of a bare consumer of a group."""
    async with streamlayer.aio.Consumer(topic, url=place.url, group_id=f"bare-{topic}") as consumer:
        await consumer.wait_for_assignment()
        begun = time.perf_counter()
        read = 0
        while read < count:
            for records in (await consumer.poll()).values():
                read += len(records)
        return time.perf_counter() - begun


async def _handled(
    place: Place, topic: str, count: int, concurrency: int, ordering: Literal["partition", "key"]
) -> float:
    """Seconds of an app, from its first record to the last."""
    app = streamlayer.App(url=place.url)
    done = asyncio.Event()
    begun, handled = 0.0, 0

    @app.consumer(topic, group_id=f"{ordering}-{topic}", concurrency=concurrency, ordering=ordering)
    async def handle(_: bytes) -> None:
        nonlocal begun, handled
        begun = begun or time.perf_counter()
        handled += 1
        if handled == count:
            done.set()

    async with app:
        await done.wait()
        return time.perf_counter() - begun


def overhead(place: Place) -> Figures:
    """All three over the same topic, one after another."""
    with place.topic() as topic:
        count = _filled(place, topic)
        polled = asyncio.run(_polled(place, topic, count))
        alone = asyncio.run(_handled(place, topic, count, 1, "partition"))
        many = asyncio.run(_handled(place, topic, count, 64, "key"))
    return {
        "handler": (alone - polled) * 1e6 / count,
        "handlers by key": (many - polled) * 1e6 / count,
        "allowed": ALLOWED_US,
    }


GROUP = Group(
    (overhead,),
    (
        Row("a handler that does nothing, above poll", Unit.MICROSECONDS, "handler", "allowed", 1),
        Row("the same, 64 at a time by key", Unit.MICROSECONDS, "handlers by key", "allowed", 1),
    ),
)
