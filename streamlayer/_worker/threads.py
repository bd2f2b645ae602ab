"""Threads for handlers that are plain functions.

They are daemons: a handler that hangs keeps nobody from ending the process, as ``concurrent.futures`` would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from threading import Thread
from typing import Any

_Task = tuple[Callable[[], Any], asyncio.Future[Any]]


class Threads:
    """At most so many threads, each started when it is first needed.

    :param most: how many.
    :param name: what they are called.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._started = self._busy = 0

    async def call(self, context: Context, function: Callable[..., Any], arguments: list[Any]) -> Any:
        """Call a function in a thread, in a context; its outcome is the answer's.

        Whoever is cancelled here waits no more; the function runs on.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Any] = loop.create_future()
        self._busy += 1
        outcome.add_done_callback(self._freed)
        if self._started < min(self._most, self._busy):
            self._started += 1
            Thread(target=self._run, name=f"{self._name}-{self._started}", daemon=True).start()
        self._tasks.put((lambda: context.run(function, *arguments), outcome))
        return await outcome

    def close(self) -> None:
        """Let the threads end when they have nothing to do."""
        for _ in range(self._started):
            self._tasks.put(None)

    def _freed(self, _: object) -> None:
        self._busy -= 1

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            run, outcome = task
            try:
                result, error = run(), None
            except BaseException as raised:  # noqa: BLE001 - it is raised where the call is awaited
                result, error = None, raised
            try:
                outcome.get_loop().call_soon_threadsafe(_settle, outcome, result, error)
            except RuntimeError:
                return  # the loop was closed: nobody waits any more


def _settle(outcome: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(result)
    elif isinstance(error, StopIteration):  # which no future takes
        outcome.set_exception(RuntimeError(f"the handler raised {error!r}"))
    else:
        outcome.set_exception(error)
