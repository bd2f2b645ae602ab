"""What a record costs when Kafka's murmur2 places its key, against crc32: different keys, and keys that come again.

The two take turns with a part of the keys each, in one producer: what else the machine does falls on both. Each probe
has a process of its own, whose heap is whole and where no hash is remembered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Final, Literal, TypeAlias

import streamlayer
import streamlayer.aio
from benchmarks.measurement import Figures, Group, Probe, Row, Unit
from benchmarks.place import Place
from benchmarks.stopwatch import stopwatch
from streamlayer import Admin, NewTopic, TopicConfig

Partitioner: TypeAlias = Literal["crc32", "murmur2"]
Turn: TypeAlias = tuple[Partitioner, list[bytes]]
Seconds: TypeAlias = dict[Partitioner, float]
Keys: TypeAlias = Callable[[int, int], list[bytes]]
Run: TypeAlias = Callable[[str, int, Keys], Seconds]
"""Sends so many records with such keys to a server's topics ``crc32`` and ``murmur2``; how long each took."""

BOTH: Final[tuple[Partitioner, Partitioner]] = ("crc32", "murmur2")
PART = 50_000
"""Records of one turn."""
CALL = 10_000
"""Records of one ``send_many``."""
REPEATED = 5_000
"""How many keys there are where they come again."""
_VALUE = b"x" * 100


def different(start: int, count: int) -> list[bytes]:
    """Keys of 16 bytes that never come again."""
    return [b"customer-%07d" % number for number in range(start, start + count)]


def repeated(start: int, count: int) -> list[bytes]:
    """Keys of 16 bytes, 5,000 different ones, each its own object, as a serializer makes them."""
    return [b"customer-%07d" % number for number in random.Random(start).choices(range(REPEATED), k=count)]


def turns(total: int, keys_of: Keys) -> Iterator[Turn]:
    """The same keys for both, a part at a time; who begins changes."""
    for number, start in enumerate(range(0, total, PART)):
        for partitioner in BOTH if number % 2 == 0 else BOTH[::-1]:
            yield partitioner, keys_of(start, min(PART, total - start))


def send(url: str, total: int, keys_of: Keys) -> Seconds:
    """One call a record, and a flush."""
    seconds: Seconds = dict.fromkeys(BOTH, 0.0)
    with streamlayer.Producer(url=url) as producer:
        for topic, keys in turns(total, keys_of):
            with stopwatch() as watch:
                for key in keys:
                    producer.send(topic, _VALUE, key)
                producer.flush()
            seconds[topic] += watch.seconds
    return seconds


def send_aio(url: str, total: int, keys_of: Keys) -> Seconds:
    """The same with asyncio."""

    async def run() -> Seconds:
        seconds: Seconds = dict.fromkeys(BOTH, 0.0)
        async with streamlayer.aio.Producer(url=url) as producer:
            for topic, keys in turns(total, keys_of):
                with stopwatch() as watch:
                    for key in keys:
                        await producer.send(topic, _VALUE, key)
                    await producer.flush()
                seconds[topic] += watch.seconds
        return seconds

    return asyncio.run(run())


def send_many(url: str, total: int, keys_of: Keys) -> Seconds:
    """Calls of 10,000 records."""
    seconds: Seconds = dict.fromkeys(BOTH, 0.0)
    with streamlayer.Producer(url=url) as producer:
        for topic, keys in turns(total, keys_of):
            with stopwatch() as watch:
                for start in range(0, len(keys), CALL):
                    part = keys[start : start + CALL]
                    producer.send_many(topic, [_VALUE] * len(part), part)
            seconds[topic] += watch.seconds
    return seconds


def probe(run: Run, keys_of: Keys) -> Probe:
    """Measure one way of sending, with one kind of keys, under both hashes."""

    def measure(place: Place) -> Figures:
        total = place.scale.hashed
        with Admin(url=place.url) as admin:
            admin.create_topics([NewTopic(name, config=TopicConfig(partitioner=name)) for name in BOTH])
            try:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                    seconds = alone.submit(run, place.url, total, keys_of).result()
            finally:
                admin.delete_topics(BOTH)
                place.freed()
        return {figure(run, keys_of, name): took / total * 1e9 for name, took in seconds.items()}

    measure.__name__ = f"{run.__name__}, {keys_of.__name__} keys"
    return measure


def figure(run: Run, keys_of: Keys, partitioner: Partitioner) -> str:
    """The name of what such a probe finds."""
    return f"{run.__name__} {keys_of.__name__} {partitioner}"


def row(title: str, run: Run, keys_of: Keys, target: float | None = None) -> Row:
    """murmur2 over crc32."""
    return Row(title, Unit.NANOSECONDS, figure(run, keys_of, "murmur2"), figure(run, keys_of, "crc32"), target)


GROUP = Group(
    tuple(probe(run, keys_of) for run in (send, send_aio, send_many) for keys_of in (different, repeated)),
    (
        row("murmur2 for crc32 in send, different keys", send, different, 3),
        row("murmur2 for crc32 in send, different keys (aio)", send_aio, different, 3),
        row("murmur2 for crc32 in send, repeated keys", send, repeated, 1.2),
        row("murmur2 for crc32 in send, repeated keys (aio)", send_aio, repeated, 1.2),
        row("murmur2 for crc32 in send_many, different keys", send_many, different),
        row("murmur2 for crc32 in send_many, repeated keys", send_many, repeated),
    ),
)
