"""Microseconds from producer to consumer at 1,000 records a second, against a bare ``PUBLISH`` to a subscriber."""

from __future__ import annotations

import multiprocessing
from statistics import quantiles

from benchmarks import hop
from benchmarks.measurement import Figures, Group, Row, Unit
from benchmarks.place import Place

_PATIENCE_S = 30


def _measure(place: Place, name: str, send: hop.Out, receive: hop.In) -> Figures:
    """Two fresh processes, neither of them this one; what comes first warms up and does not count."""
    context = multiprocessing.get_context("spawn")
    listening = context.Event()
    inlet, outlet = context.Pipe(duplex=False)
    count = hop.WARM_UP + place.scale.paced
    receiver = context.Process(target=receive, args=(place.url, count, listening, outlet), daemon=True)
    sender = context.Process(target=send, args=(place.url, count), daemon=True)
    try:
        receiver.start()
        if not listening.wait(_PATIENCE_S):
            msg = f"{name}: the receiver does not listen"
            raise RuntimeError(msg)
        sender.start()
        if not inlet.poll(_PATIENCE_S):
            msg = f"{name}: not all of {count} records came"
            raise RuntimeError(msg)
        took: list[int] = inlet.recv()[hop.WARM_UP :]
        sender.join(_PATIENCE_S)
        receiver.join(_PATIENCE_S)
    finally:
        for process in (sender, receiver):
            if process.is_alive():
                process.kill()
    cuts = quantiles(took, n=100)
    return {f"{name} p50": cuts[49] / 1000, f"{name} p99": cuts[98] / 1000}


def ours(place: Place) -> Figures:
    """``send`` to ``poll``."""
    with place.topic():
        return _measure(place, "hop", hop.produce, hop.consume)


def publish(place: Place) -> Figures:
    """``PUBLISH`` to ``SUBSCRIBE``."""
    return _measure(place, "publish", hop.publish, hop.subscribe)


def ours_aio(place: Place) -> Figures:
    """``send`` to ``poll`` with asyncio."""
    with place.topic():
        return _measure(place, "hop aio", hop.produce_aio, hop.consume_aio)


def publish_aio(place: Place) -> Figures:
    """``PUBLISH`` to ``SUBSCRIBE`` with asyncio."""
    return _measure(place, "publish aio", hop.publish_aio, hop.subscribe_aio)


GROUP = Group(
    (ours, publish, ours_aio, publish_aio),
    (
        Row("send to poll at 1,000/s, p50", Unit.MICROSECONDS, "hop p50", "publish p50", 5),
        Row("send to poll at 1,000/s, p99", Unit.MICROSECONDS, "hop p99", "publish p99"),
        Row("send to poll at 1,000/s, p50 (aio)", Unit.MICROSECONDS, "hop aio p50", "publish aio p50", 5),
        Row("send to poll at 1,000/s, p99 (aio)", Unit.MICROSECONDS, "hop aio p99", "publish aio p99"),
    ),
)
