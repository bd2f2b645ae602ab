"""What a log costs when it is long: the same calls at three lengths, and all of the longest one dropped at once."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median

import streamlayer
from benchmarks import dropping, expiring
from benchmarks.bulk import Filled, fill
from benchmarks.held import watching
from benchmarks.measurement import Figures, Group, Row, Unit
from benchmarks.place import Place
from benchmarks.records import VALUE_BYTES

TURNS = 6
"""How often each length has its turn."""
PAGE = 512 * 1024
"""``max_partition_fetch_bytes``: half the default, so that a page is full even in the shortest log."""
PAGES_FROM = 0.45
"""A page begins in this part of the log."""
LENGTHS = ("short", "middle", "long")
MOST_GROWTH = 1.3
MOST_TRIMMING = 2


class _Log:
    """One of the lengths, and those who use it."""

    def __init__(self, place: Place, filled: Filled) -> None:
        self._filled = filled
        self._dice = random.Random(1)
        self._producer = streamlayer.Producer(url=place.url, linger_ms=0)
        self._consumer = streamlayer.Consumer(url=place.url, max_partition_fetch_bytes=PAGE)
        self._consumer.assign([filled.tp])
        self._ways = {"append": self._append, "fetch": self._fetch, "seek": self._seek}

    def visit(self, times: int) -> dict[str, list[float]]:
        """Do each so often; how long it took, µs."""
        return {name: [_timed(act) for _ in range(times)] for name, act in self._ways.items()}

    def close(self) -> None:
        """Leave it."""
        self._producer.close()
        self._consumer.close()

    def _append(self) -> Callable[[], object]:
        value = b"x" * VALUE_BYTES
        return lambda: self._producer.send_and_wait(self._filled.tp.topic, value, partition=0)

    def _fetch(self) -> Callable[[], object]:
        self._consumer.seek(self._filled.tp, self._dice.randrange(int(self._filled.records * PAGES_FROM)))
        return self._consumer.poll

    def _seek(self) -> Callable[[], object]:
        when = {self._filled.tp: self._dice.randint(self._filled.first_ms, self._filled.last_ms)}
        return lambda: self._consumer.offsets_for_times(when)


def _timed(prepare: Callable[[], Callable[[], object]]) -> float:
    act = prepare()
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1e6


def lengths(place: Place) -> Figures:
    """Each length in turn, again and again; medians of all turns."""
    took: defaultdict[str, list[float]] = defaultdict(list)
    logs = {
        length: _Log(place, fill(place, f"grown-{length}", records, step_ms=1))
        for length, records in zip(LENGTHS, place.scale.grown, strict=True)
    }
    for log in logs.values():
        log.visit(place.scale.visits)  # warms up, and does not count
    with watching(place) as held:
        for turn in range(TURNS):
            for length, log in logs.items() if turn % 2 == 0 else reversed(logs.items()):
                for name, found in log.visit(place.scale.visits).items():
                    took[f"{name} {length}"] += found
    for log in logs.values():
        log.close()
    short, middle, long = place.scale.grown
    place.note(f"short, middle, long: {short:,}, {middle:,} and {long:,} records of {VALUE_BYTES} bytes; {held}")
    place.clear()
    return {**{name: median(found) for name, found in took.items()}, **held.figures("use")}


def _growth(title: str, name: str) -> tuple[Row, Row]:
    return (
        Row(f"{title}, middle / short log", Unit.MICROSECONDS, f"{name} middle", f"{name} short", MOST_GROWTH),
        Row(f"{title}, long / short log", Unit.MICROSECONDS, f"{name} long", f"{name} short", MOST_GROWTH),
    )


def _held(title: str, name: str, target: float | None = 1) -> Row:
    return Row(f"longest call or event: {title}", Unit.MICROSECONDS, f"{name} held", f"{name} limit", target)


GROUP = Group(
    (lengths, *dropping.PROBES, *expiring.PROBES),
    (
        *_growth("append, waited for", "append"),
        *_growth("fetch after seek", "fetch"),
        *_growth("look up by time", "seek"),
        _held("append, fetch, seek", "use", None),
        Row("append p99, trimming / not", Unit.MICROSECONDS, "p99 trimming", "p99 otherwise", MOST_TRIMMING),
        _held("trim, a tenth at a time", "tenths"),
        *(_held(name, name) for name in dropping.WAYS),
        *(_held(f"{name}, 1 MiB batches", f"{name}, 1 MiB batches") for name in ("retention_bytes", "delete_topics")),
        _held("expiry", "expiry"),
        _held("expiry, not lazy", "expiry, not lazy"),
        _held("expiry after a pause", "expiry after a pause"),
        _held("expiry after a pause, not lazy", "expiry after a pause, not lazy", None),
        Row("longest PING, expiring / not", Unit.MICROSECONDS, "expiry ping", "expiry quiet"),
        Row(
            "longest PING, expiring, not lazy / not",
            Unit.MICROSECONDS,
            "expiry, not lazy ping",
            "expiry, not lazy quiet",
        ),
    ),
    once=True,
)
