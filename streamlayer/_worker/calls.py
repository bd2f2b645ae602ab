"""One call of a handler: in a context of its own, to its end, with what it sends by itself.

The rule: whatever a handler raises, also what is no ``Exception``, is its record's failure. Only Ctrl-C, and the
worker's own cancelling, go through.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextvars import Context, copy_context
from typing import Any

from streamlayer._waiting.aio import RecordFuture
from streamlayer._worker.handler import Handler
from streamlayer._worker.own import Sends, gathering
from streamlayer._worker.threads import Threads


class Calls:
    """How one handler is called.

    :param handler: the handler.
    :param concurrency: calls at a time, at most.
    :param timeout_ms: how long one may take; ``None``: for ever.
    """

    def __init__(self, handler: Handler, concurrency: int, timeout_ms: int | None) -> None:
        self._handler = handler
        self._timeout_s = None if timeout_ms is None else timeout_ms / 1000
        self._threads = None if handler.is_async else Threads(concurrency, f"handler-{handler.name}")
        self._plain = handler.is_async and timeout_ms is None
        self._context = copy_context()
        self._closing = False

    def closing(self) -> None:
        """From now on who is cancelled is cancelled from outside."""
        self._closing = True

    def close(self) -> None:
        """Let threads end when they have nothing to do."""
        if self._threads is not None:
            self._threads.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task in the context in which handlers begin, whoever asks for it."""
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())

    async def call(self, arguments: list[Any]) -> tuple[Any, list[RecordFuture]]:
        """Call the handler.

        :returns: what it returned; and what it sent by ``app.producer`` and did not wait for.
        :raises Exception: it failed.
        """
        sends = Sends()
        context = self._context.copy()
        run = context.run
        run(gathering.set, sends)
        try:
            if self._plain:
                work = self._handler.call(*arguments)
                try:
                    waited = run(work.send, None)
                except StopIteration as end:  # it need not wait: the common way is short
                    result = end.value
                else:
                    result = await _Within(context, work, waited)
            else:
                result = await self._at_length(context, arguments)
            if result is not None:
                result = await _plain(context, result)
        except asyncio.CancelledError as error:
            if self._closing:
                raise
            _forget_cancelling()
            msg = f"the handler was cancelled from within: {error!r}"
            raise RuntimeError(msg) from error
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit, a panic of Rust: not the worker's end
            msg = f"the handler raised {error!r}"
            raise RuntimeError(msg) from error
        finally:
            left = sends.close()
        return result, left

    async def _at_length(self, context: Context, arguments: list[Any]) -> Any:
        """In a thread, or with a timeout."""
        call = self._handler.call
        if self._threads is not None:
            return await self._threads.call(context, call, arguments)
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                return await _within(context, call(*arguments))
        except TimeoutError as error:
            if limit.expired():
                msg = f"it took longer than timeout_ms={(self._timeout_s or 0) * 1000:.0f}"
                raise TimeoutError(msg) from error
            raise


async def _plain(context: Context, result: object) -> object:
    """What a handler has returned, if it is one of the things that hide what was meant."""
    if inspect.isawaitable(result):  # of a decorator that hides the `async def`
        result = await _within(context, _awaited(result))
    kind = type(result)
    if issubclass(kind, (Iterator, AsyncIterator)):  # generators, `map`, …
        msg = f"the handler returned a {kind.__name__}, which nobody runs: return a list"
        raise TypeError(msg)
    return result


def _forget_cancelling() -> None:
    """A handler has cancelled its own task, and nobody else did."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


async def _within(context: Context, work: Coroutine[Any, Any, Any]) -> Any:
    try:
        waited = context.run(work.send, None)
    except StopIteration as end:
        return end.value
    return await _Within(context, work, waited)


class _Within:
    """A coroutine, awaited in a context of its own: what it sets there, the next record's call does not see.

    :param context: its context.
    :param work: it was begun.
    :param waited: what it waits for.
    """

    __slots__ = ("_run", "_waited", "_work")

    def __init__(self, context: Context, work: Coroutine[Any, Any, Any], waited: Any) -> None:
        self._run: Callable[..., Any] = context.run
        self._work, self._waited = work, waited

    def __await__(self) -> Generator[Any, Any, Any]:
        run, work, waited = self._run, self._work, self._waited
        while True:
            raised: BaseException | None = None
            try:
                yield waited
            except GeneratorExit:
                run(work.close)
                raise
            except BaseException as error:  # noqa: BLE001 - it is raised where the coroutine waits
                raised = error
            try:
                waited = run(work.send, None) if raised is None else run(work.throw, raised)
            except StopIteration as end:
                return end.value
