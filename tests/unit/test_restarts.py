"""When a worker's dead child starts again."""

from __future__ import annotations

from streamlayer._worker.restarts import LONGEST_MS, SETTLED_MS, Restarts


def test_at_once_and_then_doubled() -> None:
    """The first death costs nothing; one after the other soon after each start, up to half a minute each."""
    restarts = Restarts()
    waits = [restarts.died(100, 0.999999) for _ in range(10)]
    assert [round(wait) for wait in waits[:4]] == [0, 500, 1000, 2000]
    assert round(waits[-1]) == LONGEST_MS
    assert waits == sorted(waits)
    assert max(restarts.died(100, 0.999999) for _ in range(100)) <= LONGEST_MS


def test_jitter() -> None:
    """Children that die together do not start together: between half of a step and the step."""
    waits: list[float] = []
    for jitter in (0.0, 0.5):
        restarts = Restarts()
        restarts.died(100, jitter)
        waits.append(restarts.died(100, jitter))
    assert waits == [250, 375]


def test_who_lived_for_long_starts_at_once() -> None:
    """A child that had settled begins anew, whatever those before it did."""
    restarts = Restarts()
    for _ in range(5):
        restarts.died(100, 0)
    assert restarts.died(SETTLED_MS + 1, 0) == 0
    assert restarts.died(100, 0) == 0
    assert restarts.died(100, 0) > 0
