"""Something done once a millisecond by another process, and how long it took each time: what a neighbour feels."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from statistics import quantiles
from typing import NamedTuple, TypeAlias

import redis

import streamlayer
from benchmarks.place import Place
from benchmarks.records import VALUE_BYTES

INTERVAL_NS = 1_000_000
WARM_UP = 100
_PATIENCE_S = 30


class Sample(NamedTuple):
    """One time; ns of the monotonic clock, which is the same for all processes.

    :ivar began: when it was due if the one before ended too late, else when it was done.
    :ivar took: until it was over.
    """

    began: int
    took: int


class Window(NamedTuple):
    """A span of the same clock."""

    start: int
    end: int


Work: TypeAlias = Callable[[str, str, Event, Event, Connection], None]
"""Gets a server and a topic; sets the first event when it has begun, ends after the second, pipes its samples back."""


class Beside:
    """The other process, while it works.

    :ivar samples: valid after the block.
    """

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def took_us(self, windows: Sequence[Window]) -> tuple[list[float], list[float]]:
        """How long each took that was under way in one of these windows, and how long the others took."""
        within: list[float] = []
        others: list[float] = []
        for began, took in self.samples:
            touches = any(start < began + took and began < end for start, end in windows)
            (within if touches else others).append(took / 1000)
        return within, others


def p99(took: list[float]) -> float:
    """Of 100 or more; of fewer the longest."""
    return quantiles(took, n=100)[98] if len(took) >= 100 else max(took)


@contextmanager
def beside(place: Place, work: Work, topic: str = "") -> Iterator[Beside]:
    """Have it done while a block runs."""
    context = multiprocessing.get_context("spawn")
    begun, stop = context.Event(), context.Event()
    inlet, outlet = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(place.url, topic, begun, stop, outlet), daemon=True)
    process.start()
    outlet.close()
    seen = Beside()
    try:
        if not begun.wait(_PATIENCE_S):
            raise RuntimeError(f"{work.__name__} beside us did not begin")
        yield seen
        stop.set()
        if not inlet.poll(_PATIENCE_S):
            raise RuntimeError(f"{work.__name__} beside us did not end")
        seen.samples = [Sample(*sample) for sample in inlet.recv()]
        process.join(_PATIENCE_S)
    finally:
        if process.is_alive():
            process.kill()


def append(url: str, topic: str, begun: Event, stop: Event, outlet: Connection) -> None:
    """Append one record and wait for it."""
    value = b"x" * VALUE_BYTES
    with streamlayer.Producer(url=url, linger_ms=0) as producer:
        outlet.send(_paced(lambda: producer.send_and_wait(topic, value, partition=0), begun, stop))


def ping(url: str, _topic: str, begun: Event, stop: Event, outlet: Connection) -> None:
    """``PING``."""
    with redis.Redis.from_url(url) as client:
        outlet.send(_paced(client.ping, begun, stop))


def _paced(act: Callable[[], object], begun: Event, stop: Event) -> list[tuple[int, int]]:
    for _ in range(WARM_UP):
        act()
    samples: list[tuple[int, int]] = []
    gc.disable()
    begun.set()
    due = time.monotonic_ns()
    while not stop.is_set():
        early = due - time.monotonic_ns()
        if early > 0:
            time.sleep(early / 1e9)  # noqa: TID251 - the pace is what is wanted
        began = time.monotonic_ns() if early > 0 else due
        act()
        samples.append((began, time.monotonic_ns() - began))
        due += INTERVAL_NS
    return samples
