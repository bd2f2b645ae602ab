"""Bytes that a record takes in the server: in batches against its own bytes, one by one against a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import streamlayer
from benchmarks.measurement import Figures, Group, Row, Unit
from benchmarks.place import Place
from benchmarks.records import Records
from benchmarks.writing import fill_stream

_BUFFERS = ("mem_clients_normal", "mem_aof_buffer")


def _growth(place: Place) -> int:
    """What the server has in use, without the buffers of connections and of the append-only file."""
    info = place.plain.info("memory")
    return int(info["used_memory"]) - sum(int(info.get(name, 0)) for name in _BUFFERS)


def _stored(place: Place, pattern: str) -> int:
    """Bytes of all keys that match, counted element by element."""
    names = list(place.plain.scan_iter(pattern, count=1000))
    return sum(cast("list[int]", [place.plain.memory_usage(name, samples=0) for name in names]))


def _measure(place: Place, name: str, records: Records, write: Callable[[str], None]) -> Figures:
    """Write to a topic, and see what there is then that was not there before."""
    before = _growth(place)
    with place.topic() as topic:
        write(topic)
        count = len(records.values)
        return {
            name: _stored(place, f"sl:t:{{{topic}:*") / count,
            f"{name} growth": (_growth(place) - before) / count,
            f"{name} payload": records.bytes / count,
        }


def send(place: Place) -> Figures:
    """As many in a batch as linger_ms and batch_size make it."""
    records = place.records.first(place.scale.batched)

    def write(topic: str) -> None:
        with streamlayer.Producer(url=place.url) as producer:
            for key, value in zip(*records, strict=True):
                producer.send(topic, value, key)

    return _measure(place, "stored send", records, write)


def send_many(place: Place) -> Figures:
    """Full batches."""
    records = place.records.first(place.scale.batched)

    def write(topic: str) -> None:
        with streamlayer.Producer(url=place.url) as producer:
            producer.send_many(topic, records.values, records.keys)

    return _measure(place, "stored send_many", records, write)


def one_by_one(place: Place) -> Figures:
    """A batch a record."""
    records = place.records.first(place.scale.stored)

    def write(topic: str) -> None:
        with streamlayer.Producer(url=place.url) as producer:
            for key, value in zip(*records, strict=True):
                producer.send_and_wait(topic, value, key)

    return _measure(place, "one by one", records, write)


def stream(place: Place) -> Figures:
    """The same records in a stream."""
    records = place.records.first(place.scale.stored)
    before = _growth(place)
    with place.stream() as name:
        fill_stream(place.plain, name, *records)
        count = len(records.values)
        return {
            "stream": _stored(place, name) / count,
            "stream growth": (_growth(place) - before) / count,
            "stream payload": records.bytes / count,
        }


GROUP = Group(
    (send, send_many, one_by_one, stream),
    (
        Row("memory, send / key+value", Unit.BYTES, "stored send", "stored send payload", 1.15),
        Row("memory, send_many / key+value", Unit.BYTES, "stored send_many", "stored send_many payload", 1.15),
        Row(
            "… the server's growth / key+value", Unit.BYTES, "stored send_many growth", "stored send_many payload", 1.15
        ),
        Row("memory, one by one / stream", Unit.BYTES, "one by one", "stream", 1.35),
        Row("… the server's growth / stream's", Unit.BYTES, "one by one growth", "stream growth", 1.35),
        Row("a stream / key+value", Unit.BYTES, "stream", "stream payload"),
    ),
    once=True,
)
