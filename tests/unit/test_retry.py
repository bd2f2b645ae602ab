"""Waits between attempts: doubling, jittered, never long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamlayer._core.retry import FIRST_MS, LONGEST_MS, backoff_ms


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_lies_between_half_of_its_step_and_the_step(attempt: int, jitter: float) -> None:
    """For any number of attempts: positive, at most the longest, and no overflow."""
    step = min(LONGEST_MS, FIRST_MS * 2 ** min(attempt, 20))
    assert step / 2 <= backoff_ms(attempt, jitter) <= step


def test_steps_double_until_the_longest() -> None:
    """The first waits are short: most troubles are over soon."""
    waits = [backoff_ms(attempt, 0) for attempt in range(8)]
    assert waits == [10, 20, 40, 80, 160, 320, 500, 500]
