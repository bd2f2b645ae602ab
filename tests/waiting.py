"""Waiting in tests: on the thing itself, with a limit and a sentence that says what was waited for.

The only file of the tests that sleeps. The two names differ by colour, so that `tools/unasync.py` can turn one into the
other.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE_S = 0.005


def sync_wait_until(predicate: Callable[[], T], description: str, *, timeout: float = 30.0) -> T:
    """Call `predicate` until its answer is true, and return that; fail after `timeout` seconds, saying what for."""
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        _check(deadline, timeout, description, answer)
        time.sleep(_PAUSE_S)  # noqa: TID251
    return answer


async def aio_wait_until(
    predicate: Callable[[], T | Awaitable[T]],
    description: str,
    *,
    timeout: float = 30.0,  # noqa: ASYNC109 - it bounds the wait, it does not cancel
) -> T:
    """Do the same in asyncio; `predicate` may be a plain function or a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        given = predicate()
        answer: T = await given if inspect.isawaitable(given) else given
        if answer:
            return answer
        _check(deadline, timeout, description, answer)
        await asyncio.sleep(_PAUSE_S)  # noqa: TID251


def _check(deadline: float, timeout: float, description: str, answer: object) -> None:
    if time.monotonic() > deadline:
        raise AssertionError(f"waited {timeout} s in vain: {description} (last answer: {answer!r})")
