"""One of the hot paths in a loop: microseconds a record each second, the server's share, and what py-spy sees.

Nothing is traced from inside, so that what is seen is what runs; py-spy or perf may attach to the pid printed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from operator import add
from typing import NamedTuple, TypeAlias

import streamlayer
import streamlayer.aio
from benchmarks.place import Place
from benchmarks.spy import spying
from benchmarks.writing import CALL


class Chunk(NamedTuple):
    """So many records in so many seconds, set-up left out; ``busy`` of them on a CPU, in all threads here."""

    records: int
    seconds: float
    busy: float


class _Lap:
    """Times a chunk."""

    def __init__(self) -> None:
        self._started, self._busy = time.perf_counter(), time.process_time()

    def chunk(self, records: int) -> Chunk:
        """It is over."""
        return Chunk(records, time.perf_counter() - self._started, time.process_time() - self._busy)


Loop: TypeAlias = Generator[Chunk, None, None]
AsyncLoop: TypeAlias = AsyncGenerator[Chunk, None]


def send(place: Place) -> Loop:
    """A chunk is a topic of its own: memory stays small."""
    while True:
        with place.topic() as topic, streamlayer.Producer(url=place.url) as producer:
            lap = _Lap()
            for key, value in zip(*place.records, strict=True):
                producer.send(topic, value, key)
            producer.flush()
            yield lap.chunk(len(place.records.values))


def send_many(place: Place) -> Loop:
    """Calls of 10,000."""
    keys, values = place.records
    while True:
        with place.topic() as topic, streamlayer.Producer(url=place.url) as producer:
            lap = _Lap()
            for start in range(0, len(values), CALL):
                producer.send_many(topic, values[start : start + CALL], keys[start : start + CALL])
            yield lap.chunk(len(values))


def send_and_wait(place: Place) -> Loop:
    """One at a time."""
    keys, values = place.records.first(place.scale.single)
    with place.topic() as topic, streamlayer.Producer(url=place.url) as producer:
        while True:
            lap = _Lap()
            for key, value in zip(keys, values, strict=True):
                producer.send_and_wait(topic, value, key)
            yield lap.chunk(len(values))


def poll(place: Place) -> Loop:
    """The same topic again and again."""
    keys, values = place.records
    with place.topic() as topic:
        with streamlayer.Producer(url=place.url) as producer:
            producer.send_many(topic, values, keys)
        with streamlayer.Consumer(topic, url=place.url) as consumer:
            while True:
                lap, count = _Lap(), 0
                while count < len(values):
                    count += sum(map(len, consumer.poll().values()))
                yield lap.chunk(count)
                consumer.seek_to_beginning()


async def send_aio(place: Place) -> AsyncLoop:
    """As ``send``."""
    while True:
        with place.topic() as topic:
            async with streamlayer.aio.Producer(url=place.url) as producer:
                lap = _Lap()
                for key, value in zip(*place.records, strict=True):
                    await producer.send(topic, value, key)
                await producer.flush()
                yield lap.chunk(len(place.records.values))


async def send_many_aio(place: Place) -> AsyncLoop:
    """As ``send_many``."""
    keys, values = place.records
    while True:
        with place.topic() as topic:
            async with streamlayer.aio.Producer(url=place.url) as producer:
                lap = _Lap()
                for start in range(0, len(values), CALL):
                    await producer.send_many(topic, values[start : start + CALL], keys[start : start + CALL])
                yield lap.chunk(len(values))


async def send_and_wait_aio(place: Place) -> AsyncLoop:
    """As ``send_and_wait``."""
    keys, values = place.records.first(place.scale.single)
    with place.topic() as topic:
        async with streamlayer.aio.Producer(url=place.url) as producer:
            while True:
                lap = _Lap()
                for key, value in zip(keys, values, strict=True):
                    await producer.send_and_wait(topic, value, key)
                yield lap.chunk(len(values))


async def poll_aio(place: Place) -> AsyncLoop:
    """As ``poll``."""
    keys, values = place.records
    with place.topic() as topic:
        with streamlayer.Producer(url=place.url) as producer:
            producer.send_many(topic, values, keys)
        async with streamlayer.aio.Consumer(topic, url=place.url) as consumer:
            while True:
                lap, count = _Lap(), 0
                while count < len(values):
                    count += sum(map(len, (await consumer.poll()).values()))
                yield lap.chunk(count)
                await consumer.seek_to_beginning()


LOOPS: dict[str, tuple[Callable[[Place], Loop], Callable[[Place], AsyncLoop]]] = {
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
        self._sum = Chunk(0, 0.0, 0.0)

    def add(self, chunk: Chunk) -> bool:
        """Take a chunk in; tell whether to go on."""
        self._sum = Chunk(*map(add, self._sum, chunk))
        now = time.monotonic()
        if now >= min(self._next, self._until):
            records, seconds, busy = self._sum
            each, mine = 1e6 * seconds / records, 1e6 * busy / records
            rate = f"{records / seconds:11,.0f} records/s"
            print(f"  {each:8.2f} µs a record, {mine:8.2f} µs of it CPU of this process; {rate}", flush=True)
            self._sum, self._next = Chunk(0, 0.0, 0.0), now + 1
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
            with closing(blocking(place)) as chunks:
                while clock.add(next(chunks)):
                    pass
    return 0


async def _drive(chunks: AsyncLoop, clock: _Clock) -> None:
    async with aclosing(chunks):
        async for chunk in chunks:
            if not clock.add(chunk):
                return


@contextmanager
def _server_share(place: Place) -> Iterator[None]:
    """Print what the server itself spent in commands meanwhile."""
    place.plain.config_resetstat()
    yield
    stats = place.plain.info("commandstats")
    print("\nthe server:")
    for name, stat in sorted(stats.items(), key=lambda item: -item[1]["usec"])[:8]:
        calls, each = stat["calls"], stat["usec_per_call"]
        print(
            f"  {name.removeprefix('cmdstat_'):14} {calls:9,} calls  {each:8.2f} µs each  {stat['usec'] / 1e6:6.2f} s"
        )
