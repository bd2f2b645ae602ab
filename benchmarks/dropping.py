"""Many records dropped at once, in each way there is: how long one call holds the server, and what others feel."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from benchmarks import steady
from benchmarks.bulk import BATCH, LARGE_BATCH, Filled, fill
from benchmarks.held import costing, watching
from benchmarks.measurement import Figures, Probe
from benchmarks.place import TOPIC, Place
from benchmarks.steady import Window, beside
from streamlayer import Admin

NEIGHBOUR = "neighbour"
DAY_MS = 86_400_000
SMALLEST_BYTES = 1

Drop: TypeAlias = Callable[[Admin, Filled], object]


def pause(until_ns: int) -> None:
    """Until a time of the monotonic clock."""
    time.sleep(max(0, until_ns - time.monotonic_ns()) / 1e9)  # noqa: TID251 - a length of time is what is wanted


def in_tenths(place: Place) -> Figures:
    """Now and then a tenth is deleted, while records are appended to the same partition, and while not."""
    filled = fill(place, TOPIC, place.scale.grown[-1])
    length = place.scale.window_ms * 1_000_000
    windows: list[Window] = []
    with Admin(url=place.url) as admin, beside(place, steady.append, TOPIC) as producer:
        with watching(place) as quiet:
            pause(time.monotonic_ns() + 10 * length)
        with watching(place) as held:
            for tenth in range(1, 11):
                start = time.monotonic_ns()
                admin.delete_records({filled.tp: filled.records * tenth // 10})
                pause(start + length)
                windows.append(Window(start, time.monotonic_ns()))
                pause(time.monotonic_ns() + length)
    within, without = producer.took_us(windows)
    place.note(
        f"trim, a tenth at a time: {held}; before it: {quiet.longest}; {len(within)} appends meanwhile: "
        f"{max(within) / 1000:.1f} ms at most; {len(without)} others: {max(without) / 1000:.1f}"
    )
    place.clear()
    return {"p99 trimming": steady.p99(within), "p99 otherwise": steady.p99(without), **held.figures("tenths")}


def _probe(name: str, drop: Drop, batch: int = BATCH) -> Probe:
    """Drop all of a large topic while somebody appends to another one."""

    def measure(place: Place) -> Figures:
        filled = fill(place, TOPIC, place.scale.grown[-1], batch=batch)
        length = place.scale.window_ms * 1_000_000
        with Admin(url=place.url) as admin, beside(place, steady.append, NEIGHBOUR) as neighbour:
            with watching(place) as quiet:
                pause(time.monotonic_ns() + 2 * length)
            with watching(place) as held, costing(place, admin) as costs:
                start = time.monotonic_ns()
                drop(admin, filled)
                dropped = time.monotonic_ns()
            end = time.monotonic_ns()
        within, without = neighbour.took_us([Window(start, end)])
        place.note(
            f"{name}: {(dropped - start) / 1e6:.0f} ms, freed after {(end - start) / 1e6:.0f}; of "
            f"{len(costs)} exchanges the longest took {max(costs):.1f} ms of the server's time; {held}; "
            f"before it: {quiet.longest}; a neighbour's appends meanwhile: {max(within) / 1000:.1f} ms at most, "
            f"before: {max(without) / 1000:.1f}"
        )
        place.clear()
        return held.figures(name)

    measure.__name__ = name.replace(" ", "_").replace(",", "")
    return measure


def _records(admin: Admin, filled: Filled) -> None:
    admin.delete_records({filled.tp: -1})


def _by_size(admin: Admin, filled: Filled) -> None:
    admin.alter_configs({filled.tp.topic: {"retention_bytes": SMALLEST_BYTES}})


def _by_time(admin: Admin, filled: Filled) -> None:
    """A limit that holds for all, so that each key gets an expiry; then one that everything is past."""
    admin.alter_configs({filled.tp.topic: {"retention_ms": DAY_MS}})
    admin.alter_configs({filled.tp.topic: {"retention_ms": 1}})


def _topic(admin: Admin, filled: Filled) -> None:
    admin.delete_topics([filled.tp.topic])


WAYS: dict[str, Drop] = {
    "delete_records": _records,
    "retention_bytes": _by_size,
    "retention_ms": _by_time,
    "delete_topics": _topic,
}
PROBES = (
    in_tenths,
    *(_probe(name, drop) for name, drop in WAYS.items()),
    *(_probe(f"{name}, 1 MiB batches", WAYS[name], LARGE_BATCH) for name in ("retention_bytes", "delete_topics")),
)
