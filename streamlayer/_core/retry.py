"""How long to wait before trying again: doubling, with jitter, up to a limit."""

from __future__ import annotations

FIRST_MS = 20
LONGEST_MS = 1000


def backoff_ms(attempt: int, jitter: float, first_ms: int = FIRST_MS, longest_ms: int = LONGEST_MS) -> float:
    """The wait before an attempt.

    :param attempt: how many attempts have failed in a row, from 0.
    :param jitter: a random number in [0, 1).
    :param first_ms: the first step; each further one is twice as long.
    :param longest_ms: the longest.
    :returns: ms, between half of the step and the step.
    """
    step = min(longest_ms, first_ms << min(attempt, 60))
    return step * (0.5 + jitter / 2)
