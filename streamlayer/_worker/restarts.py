"""When a child that died starts again: at once, unless it dies again and again soon after it has started."""

from __future__ import annotations

from streamlayer._core.retry import backoff_ms

FIRST_MS = 500
LONGEST_MS = 30_000
SETTLED_MS = 10_000
"""A child that lived for longer had a good start: what ended it came later."""


class Restarts:
    """The deaths of one worker's children."""

    def __init__(self) -> None:
        self._short_lives = 0

    def died(self, lived_ms: float, jitter: float) -> float:
        """One more died.

        :param lived_ms: how long after its start.
        :param jitter: a random number in [0, 1).
        :returns: in how many ms the next one is to start: 0 the first time, then between half of a step and the step.
        """
        self._short_lives = 0 if lived_ms > SETTLED_MS else self._short_lives + 1
        if self._short_lives <= 1:
            return 0
        return backoff_ms(self._short_lives - 2, jitter, FIRST_MS, LONGEST_MS)
