"""One of the hot paths in a loop: microseconds a record each second, the server's share, and what py-spy sees.

Nothing is traced from inside, so that what is seen is what runs; py-spy or perf may attach to the pid printed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import streamlayer
import streamlayer.aio
from benchmarks.place import Place
from benchmarks.spy import spying
from benchmarks.writing import CALL


class Chunk(NamedTuple):
    """So many records in so many seconds, set-up left out."""

    records: int
    seconds: float


def send(place: Place) -> Iterator[Chunk]:
    """A chunk is a topic of its own: memory stays small."""
    while True:
        with place.topic() as topic, streamlayer.Producer(url=place.url) as producer:
            started = time.perf_counter()
            for key, value in zip(*place.records, strict=True):
                producer.send(topic, value, key)
            producer.flush()
            yield Chunk(len(place.records.values), time.perf_counter() - started)


def send_many(place: Place) -> Iterator[Chunk]:
    """Calls of 10,000."""
    keys, values = place.records
    while True:
        with place.topic() as topic, streamlayer.Producer(url=place.url) as producer:
            started = time.perf_counter()
            for start in range(0, len(values), CALL):
                producer.send_many(topic, values[start : start + CALL], keys[start : start + CALL])
            yield Chunk(len(values), time.perf_counter() - started)


def send_and_wait(place: Place) -> Iterator[Chunk]:
    """One at a time."""
    keys, values = place.records.first(place.scale.single)
    with place.topic() as topic, streamlayer.Producer(url=place.url) as producer:
        while True:
            started = time.perf_counter()
            for key, value in zip(keys, values, strict=True):
                producer.send_and_wait(topic, value, key)
            yield Chunk(len(values), time.perf_counter() - started)


def poll(place: Place) -> Iterator[Chunk]:
    """The same topic again and again."""
    keys, values = place.records
    with place.topic() as topic:
        with streamlayer.Producer(url=place.url) as producer:
            producer.send_many(topic, values, keys)
        with streamlayer.Consumer(topic, url=place.url) as consumer:
            while True:
                started, count = time.perf_counter(), 0
                while count < len(values):
                    count += sum(map(len, consumer.poll().values()))
                yield Chunk(count, time.perf_counter() - started)
                consumer.seek_to_beginning()


async def send_aio(place: Place) -> AsyncIterator[Chunk]:
    """As ``send``."""
    while True:
        with place.topic() as topic:
            async with streamlayer.aio.Producer(url=place.url) as producer:
                started = time.perf_counter()
                for key, value in zip(*place.records, strict=True):
                    await producer.send(topic, value, key)
                await producer.flush()
                yield Chunk(len(place.records.values), time.perf_counter() - started)


async def send_many_aio(place: Place) -> AsyncIterator[Chunk]:
    """As ``send_many``."""
    keys, values = place.records
    while True:
        with place.topic() as topic:
            async with streamlayer.aio.Producer(url=place.url) as producer:
                started = time.perf_counter()
                for start in range(0, len(values), CALL):
                    await producer.send_many(topic, values[start : start + CALL], keys[start : start + CALL])
                yield Chunk(len(values), time.perf_counter() - started)


async def send_and_wait_aio(place: Place) -> AsyncIterator[Chunk]:
    """As ``send_and_wait``."""
    keys, values = place.records.first(place.scale.single)
    with place.topic() as topic:
        async with streamlayer.aio.Producer(url=place.url) as producer:
            while True:
                started = time.perf_counter()
                for key, value in zip(keys, values, strict=True):
                    await producer.send_and_wait(topic, value, key)
                yield Chunk(len(values), time.perf_counter() - started)


async def poll_aio(place: Place) -> AsyncIterator[Chunk]:
    """As ``poll``."""
    keys, values = place.records
    with place.topic() as topic:
        with streamlayer.Producer(url=place.url) as producer:
            producer.send_many(topic, values, keys)
        async with streamlayer.aio.Consumer(topic, url=place.url) as consumer:
            while True:
                started, count = time.perf_counter(), 0
                while count < len(values):
                    count += sum(map(len, (await consumer.poll()).values()))
                yield Chunk(count, time.perf_counter() - started)
                await consumer.seek_to_beginning()


LOOPS: dict[str, tuple[Callable[[Place], Iterator[Chunk]], Callable[[Place], AsyncIterator[Chunk]]]] = {
    "send": (send, send_aio),
    "send_many": (send_many, send_many_aio),
    "send_and_wait": (send_and_wait, send_and_wait_aio),
    "poll": (poll, poll_aio),
}


class _Clock:
    """Prints what a record took, once a second, until the time is over."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._next = time.monotonic() + 1
        self._records, self._seconds = 0, 0.0

    def add(self, chunk: Chunk) -> bool:
        """Take a chunk in; tell whether to go on."""
        self._records += chunk.records
        self._seconds += chunk.seconds
        now = time.monotonic()
        if now >= self._next:
            rate = self._records / self._seconds
            print(f"  {1e6 / rate:8.2f} µs a record   {rate:11,.0f} records/s", flush=True)
            self._records, self._seconds, self._next = 0, 0.0, now + 1
        return now < self._until


def run(place: Place, what: str, *, aio: bool, seconds: float) -> int:
    """Run one loop for some seconds."""
    print(f"{what}{' (aio)' if aio else ''} in pid {os.getpid()}:", flush=True)
    blocking, asynchronous = LOOPS[what]
    with _server_share(place), spying(seconds):
        clock = _Clock(seconds)
        if aio:
            asyncio.run(_drive(asynchronous(place), clock))
        else:
            chunks = blocking(place)
            while clock.add(next(chunks)):
                pass
    return 0


async def _drive(chunks: AsyncIterator[Chunk], clock: _Clock) -> None:
    async for chunk in chunks:
        if not clock.add(chunk):
            return


@contextmanager
def _server_share(place: Place) -> Iterator[None]:
    """Print what the server itself spent in commands meanwhile."""
    place.plain.config_resetstat()
    yield
    stats = cast("dict[str, Any]", place.plain.info("commandstats"))
    print("\nthe server:")
    for name, stat in sorted(stats.items(), key=lambda item: -item[1]["usec"])[:8]:
        calls, each = stat["calls"], stat["usec_per_call"]
        print(
            f"  {name.removeprefix('cmdstat_'):14} {calls:9,} calls  {each:8.2f} µs each  {stat['usec'] / 1e6:6.2f} s"
        )
