"""Something that goes on beside a test, a task or a thread. What it returns or raises comes out of ``result``.

The two names differ by colour, so that `tools/unasync.py` can turn one into the other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Beside(Generic[T]):
    """One call in a daemon thread."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._outcome: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._work())
        except BaseException as error:  # noqa: BLE001 - it comes out of result()
            self._error = error

    def done(self) -> bool:
        """Whether it ended."""
        return not self._thread.is_alive()

    def result(self, timeout: float = 20.0) -> T:
        """Wait for its end."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"what runs beside the test did not end within {timeout} s"
        if self._error is not None:
            raise self._error
        return self._outcome[0]


def sync_beside(work: Callable[[], T]) -> _Beside[T]:
    """Begin to run `work` in a thread."""
    return _Beside(work)


class _AioBeside(Generic[T]):
    """One coroutine in a task."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        async def run() -> T:
            return await work()

        self._task = asyncio.create_task(run())

    def done(self) -> bool:
        """Whether it ended."""
        return self._task.done()

    async def result(self, timeout: float = 20.0) -> T:  # noqa: ASYNC109 - it fails the test, it is no option
        """Wait for its end."""
        async with asyncio.timeout(timeout):
            return await self._task


def aio_beside(work: Callable[[], Awaitable[T]]) -> _AioBeside[T]:
    """Begin to run what `work` returns in a task."""
    return _AioBeside(work)
