"""Many records that expire by themselves, with nobody there: how long the server is busy with it at a time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from benchmarks import steady
from benchmarks.bulk import fill
from benchmarks.dropping import pause
from benchmarks.held import process_id, watching
from benchmarks.measurement import Figures, Probe
from benchmarks.place import TOPIC, Place
from benchmarks.steady import Window, beside

_LOOK_NS = 20_000_000
_EARLY_NS = 100_000_000
"""Look from this long before the first key expires."""


def _by_itself(place: Place, name: str) -> Figures:
    """One segment after the other, as each was closed; another process pings all the time."""
    earlier = _expired(place)
    with beside(place, steady.ping) as pings:
        fill(place, TOPIC, place.scale.grown[-1], retention_ms=place.scale.expiry_ms)
        filled, gone = time.monotonic_ns(), _expired(place)
        with watching(place) as quiet:
            _wait(lambda: _expired(place) > gone or _soonest(place) < _EARLY_NS)
        with watching(place) as held:
            began = time.monotonic_ns()
            _wait(lambda: not _expiring(place))
        end = time.monotonic_ns()
    within, _ = pings.took_us([Window(began, end)])
    before, _ = pings.took_us([Window(filled, began)])
    place.note(
        f"{name}: {_expired(place) - gone} keys in {(end - began) / 1e9:.1f} s ({gone - earlier} were gone before); "
        f"{held}; before it: {quiet.longest}; the longest PING meanwhile: {max(within) / 1000:.1f} ms, in "
        f"{(began - filled) / 1e9:.1f} s before it: {max(before, default=0) / 1000:.1f}"
    )
    return {**held.figures(name), f"{name} ping": max(within), f"{name} quiet": max(before, default=max(within))}


def _after_a_pause(place: Place, name: str) -> Figures:
    """The server stands still until everything is overdue: a host that slept, a container that was frozen."""
    fill(place, TOPIC, place.scale.grown[-1], retention_ms=place.scale.expiry_ms)
    gone = _expired(place)
    pid = process_id(place)
    with watching(place) as held:
        os.kill(pid, signal.SIGSTOP)
        try:
            pause(time.monotonic_ns() + place.scale.expiry_ms * 1_050_000)
        finally:
            os.kill(pid, signal.SIGCONT)
        _wait(lambda: not _expiring(place))
    place.note(f"{name}: {_expired(place) - gone} keys; {held}")
    return held.figures(name)


def _probe(measure: Callable[[Place, str], Figures], name: str, *, lazy: bool) -> Probe:
    """With a server that frees what expires in a thread beside it, or with one that does it at once.

    Valkey 8 does the first unless told otherwise, Redis the second.
    """

    def measured(place: Place) -> Figures:
        place.plain.config_set("lazyfree-lazy-expire", "yes" if lazy else "no")
        try:
            return measure(place, name)
        finally:
            place.plain.config_set("lazyfree-lazy-expire", "yes")
            place.clear()

    measured.__name__ = name.replace(" ", "_").replace(",", "")
    return measured


def _wait(until: Callable[[], bool]) -> None:
    while not until():
        pause(time.monotonic_ns() + _LOOK_NS)


def _expired(place: Place) -> int:
    """Keys so far."""
    return int(place.plain.info("stats")["expired_keys"])


def _expiring(place: Place) -> int:
    """Keys that are there and will expire."""
    return int(place.plain.info("keyspace").get("db0", {}).get("expires", 0))


def _soonest(place: Place) -> int:
    """How long the first segment has still to live, ns."""
    return 1_000_000 * int(place.plain.pttl(f"sl:t:{{{TOPIC}:0}}:log:0"))


PROBES = tuple(
    _probe(measure, f"{name}{'' if lazy else ', not lazy'}", lazy=lazy)
    for measure, name in ((_by_itself, "expiry"), (_after_a_pause, "expiry after a pause"))
    for lazy in (True, False)
)
