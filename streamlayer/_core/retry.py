"""How long to wait before trying again: doubling, with jitter, never long."""

from __future__ import annotations

FIRST_MS = 20
LONGEST_MS = 1000


def backoff_ms(attempt: int, jitter: float) -> float:
    """The wait before an attempt.

    :param attempt: how many attempts have failed in a row, from 0.
    :param jitter: a random number in [0, 1).
    :returns: ms, between half of the step and the step.
    """
    step = min(LONGEST_MS, FIRST_MS << min(attempt, 10))
    return step * (0.5 + jitter / 2)
