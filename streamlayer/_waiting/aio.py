"""Waiting with asyncio: the async half of the pair. Same names and meanings as ``threads``."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import redis
import redis.asyncio
from redis.asyncio import Redis as Redis
from redis.asyncio.connection import ConnectionPool as ConnectionPool

from streamlayer._core.batch import Batch
from streamlayer._core.futures import error_of_record, metadata_of, run_callbacks
from streamlayer._core.resp import pack
from streamlayer._types import RecordMetadata
from streamlayer.errors import IllegalStateError, StreamlayerError

T = TypeVar("T")

REPLY_TIMEOUT_MS = 5000
"""How long an answer may take before the connection is given up; what it carried is unknown then."""
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
logger = logging.getLogger("streamlayer")

Lock = asyncio.Lock
"""Held across waiting: one caller at a time on a connection."""

OTHER_COLOUR = "this is a blocking client: pass a redis.asyncio.Redis, or use streamlayer without .aio"


def same_colour(client: object) -> bool:
    """Whether a redis-py client belongs to this colour."""
    return isinstance(client, redis.asyncio.Redis)


def monotonic_ms() -> int:
    """A clock that only goes forward, in ms."""
    return time.monotonic_ns() // 1_000_000


def boottime_ms() -> int:
    """The same, and it counts the time for which the machine slept, where the system tells (Linux)."""
    return time.clock_gettime_ns(_BOOTTIME) // 1_000_000


async def sleep_ms(milliseconds: float) -> None:
    """Wait for a time, where there is nothing else to wait for (back-off)."""
    await asyncio.sleep(milliseconds / 1000)


async def give_turn() -> None:
    """Let the loop's other tasks run."""
    await asyncio.sleep(0)


class _Waiter:
    """One future of the running loop, set from anywhere."""

    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    async def wait(self, timeout_ms: float | None) -> None:
        if timeout_ms is None or timeout_ms == math.inf:
            await self.future
            return
        timer = self.loop.call_later(max(0, timeout_ms) / 1000, self.wake)
        try:
            await self.future
        finally:
            timer.cancel()


class Signal:
    """A flag that one waiter sleeps on. ``wait`` clears it first thing after waking, before anything else is read."""

    def __init__(self) -> None:
        self._set = False
        self._waiter: _Waiter | None = None

    def set(self) -> None:
        """Wake the waiter, now or at its next wait."""
        self._set = True
        if self._waiter is not None:
            self._waiter.wake()

    async def wait(self, timeout_ms: float | None) -> bool:
        """Sleep until it is set or the time is over; tell which."""
        if not self._set:
            self._waiter = _Waiter()
            try:
                await self._waiter.wait(timeout_ms)
            finally:
                self._waiter = None
        woken, self._set = self._set, False
        return woken


class Latch:
    """Set once, waited for by any number."""

    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: list[_Waiter] | None = None

    def set(self) -> None:
        """Let all who wait go on."""
        self._set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            waiter.wake()

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._set

    async def wait(self, timeout_ms: float | None = None) -> bool:
        """Sleep until it is set or the time is over; tell which."""
        if not self._set:
            waiter = _Waiter()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter.wait(timeout_ms)
        return self._set


class Inbox(Generic[T]):
    """Messages to one waiter, put by any thread or signal handler."""

    def __init__(self) -> None:
        self._messages: deque[T] = deque()
        self._waiter: _Waiter | None = None

    def put(self, message: T) -> None:
        """Leave a message. Safe in a signal handler."""
        self._messages.append(message)
        waiter = self._waiter
        if waiter is not None:
            waiter.loop.call_soon_threadsafe(waiter.wake)

    def put_here(self, message: T) -> None:
        """Leave a message from the waiter's own loop, at half the price."""
        self._messages.append(message)
        if self._waiter is not None:
            self._waiter.wake()

    async def get(self, timeout_ms: float) -> T | None:
        """The next message; ``None`` after ``timeout_ms`` without one."""
        if not self._messages and timeout_ms > 0:
            self._waiter = waiter = _Waiter()
            try:
                if not self._messages:
                    await waiter.wait(timeout_ms)
            finally:
                self._waiter = None
        return self.get_nowait()

    def get_nowait(self) -> T | None:
        """The next message that is there; ``None`` if there is none."""
        return self._messages.popleft() if self._messages else None


class Task:
    """Something that runs beside its owner."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._task = asyncio.create_task(self._guard(run, name), name=name)

    async def _guard(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        try:
            await run()
        except Exception:  # nobody awaits it: its death is told here or nowhere
            logger.exception("%s died", name)

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return not self._task.done()

    async def join(self, timeout_ms: float | None = None) -> bool:
        """Wait for its end; tell whether it came. What does not end in time is cancelled."""
        if self._task is asyncio.current_task():
            return False
        await asyncio.wait([self._task], timeout=None if timeout_ms is None else max(0, timeout_ms) / 1000)
        if self._task.done():
            return True
        self._task.cancel()
        await asyncio.wait([self._task], timeout=1)
        return False


def spawn(run: Callable[[], Coroutine[Any, Any, None]], name: str) -> Task:
    """Start something beside the caller."""
    return Task(run, name)


class Home:
    """Where an object lives: a process and an event loop. ``trouble`` tells a call from elsewhere."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()

    def trouble(self) -> str | None:
        """Why this caller may not use the object; ``None`` if it may."""
        if os.getpid() != self._pid:
            return "it was made before a fork: make a new one in the child"
        if asyncio.get_running_loop() is not self._loop:
            return "it belongs to another event loop: make one inside the loop that uses it"
        return None


class Connection(Protocol):
    """What is used of a redis-py connection."""

    is_connected: bool
    socket_timeout: float | None

    async def connect(self) -> None: ...

    async def disconnect(self) -> None: ...

    async def can_read(self) -> bool: ...

    async def send_packed_command(self, command: list[bytes], *, check_health: bool = ...) -> None: ...

    async def read_response(self, *, disable_decoding: bool = ..., timeout: float = ...) -> Any: ...  # noqa: ASYNC109 - redis-py's name


async def connect(connection: Connection, limit_ms: float = REPLY_TIMEOUT_MS) -> None:
    """Open a connection. See ``exchange`` about its timer.

    :param limit_ms: how long that may take.
    :raises redis.RedisError: there is none.
    """
    own, connection.socket_timeout = connection.socket_timeout, None
    try:
        async with asyncio.timeout(_limit_s(own, limit_ms)):
            await connection.connect()
    except TimeoutError as error:
        raise redis.TimeoutError(f"no answer within {_limit_s(own, limit_ms)} s") from error
    finally:
        connection.socket_timeout = own


def _limit_s(own: float | None, limit_ms: float) -> float:
    """How long an exchange may take, on a connection with this ``socket_timeout`` of its user's."""
    return min(own or limit_ms / 1000, limit_ms / 1000)


async def exchange(
    connection: Connection, request: list[bytes], replies: list[Any], count: int, limit_ms: float = REPLY_TIMEOUT_MS
) -> None:
    """Send a packed request and read ``count`` replies into ``replies``; error replies stand among them.

    One timer covers the exchange, and redis-py's own are off: it would start one, and a task, for each read and write.
    Its ``wait_for`` round a write also swallows a cancellation now and then (Python 3.11): Ctrl-C would go unheard.

    :param limit_ms: how long the server may be silent; if that is less than usual, the caller's time is short, and all
        of it may take no longer.
    :raises redis.ConnectionError: the connection was lost; ``replies`` holds what came before.
    :raises redis.TimeoutError: no answer in time.
    """
    own, connection.socket_timeout = connection.socket_timeout, None
    limit_s, loop = _limit_s(own, limit_ms), asyncio.get_running_loop()
    renew_at = loop.time() + limit_s / 2 if limit_ms >= REPLY_TIMEOUT_MS else math.inf
    try:
        async with asyncio.timeout(limit_s) as limit:
            await connection.send_packed_command(request, check_health=False)
            while len(replies) < count:
                if (now := loop.time()) > renew_at:
                    limit.reschedule(now + limit_s)
                    renew_at = now + limit_s / 2
                try:
                    replies.append(await connection.read_response(disable_decoding=True))
                except redis.ResponseError as error:
                    replies.append(error)
    except TimeoutError as error:
        await connection.disconnect()
        raise redis.TimeoutError(f"no answer within {limit_s} s") from error
    except BaseException:
        await connection.disconnect()
        raise
    finally:
        connection.socket_timeout = own


async def transmit(connection: Connection, *command: str) -> None:
    """Send a command without reading its answer."""
    own, connection.socket_timeout = connection.socket_timeout, None  # see exchange; a write does not wait for a peer
    try:
        await connection.send_packed_command([pack(command)], check_health=False)
    finally:
        connection.socket_timeout = own


async def hung_up(connection: Connection) -> bool:
    """Whether a connection on which nothing is under way was ended by the other side; or says what nobody asked."""
    for _ in range(2):  # the loop hears of an end in one turn, its stream in the next: `can_read` waits for neither
        await give_turn()
    try:
        return await connection.can_read()
    except (redis.RedisError, OSError):
        return True


async def hang_up(connection: Connection) -> None:
    """Let the task that waits for something on a subscribed connection go on: the answer to a PING wakes it."""
    await transmit(connection, "PING")


async def receive(connection: Connection, timeout_ms: float) -> Any:
    """The next pushed message of a subscribed connection; ``None`` after ``timeout_ms`` without one."""
    return await connection.read_response(disable_decoding=True, timeout=timeout_ms / 1000)


class RecordFuture(msgspec.Struct, gc=False, eq=False):
    """What becomes of one record. Costs next to nothing until it is asked.

    Awaiting it waits for the outcome; waiting ends lingering. ``result`` and ``exception`` do not wait.
    """

    batch: Batch
    index: int
    hurry: Callable[[Batch], None]

    def done(self) -> bool:
        """Whether it is decided."""
        decided: bool = self.batch.done.is_set()
        return decided

    def add_done_callback(self, fn: Callable[[RecordFuture], object]) -> None:
        """Call ``fn`` with this future when it is decided; at once if it is. It must not block."""
        batch = self.batch
        if batch.callbacks is None:
            batch.callbacks = []
        batch.callbacks.append(partial(fn, self))
        if batch.done.is_set():
            run_callbacks(batch)

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        if not self.batch.done.is_set():
            self.hurry(self.batch)
            yield from self.batch.done.wait().__await__()
        return metadata_of(self.batch, self.index)

    def _decided(self) -> None:
        if not self.batch.done.is_set():
            msg = "the record is still on its way: await the future"
            raise IllegalStateError(msg)

    def result(self) -> RecordMetadata:
        """Where the record is in the log, without waiting.

        :raises IllegalStateError: not decided yet.
        :raises StreamlayerError: it is not, or may not be, in the log.
        """
        self._decided()
        return metadata_of(self.batch, self.index)

    def exception(self) -> StreamlayerError | None:
        """The outcome, without waiting: ``None`` if the record is in the log, else the error."""
        self._decided()
        return error_of_record(self.batch, self.index)


class Forked(Protocol):
    """What can be told that this process is a fork's child."""

    def after_fork(self) -> None: ...


_open: weakref.WeakSet[Any] = weakref.WeakSet()


def remember(producer: Forked) -> None:
    """Start it clean in a fork's child."""
    _open.add(producer)


def finish_at_exit(_: object) -> None:
    """Nothing: when the interpreter ends there is no loop to send in. Close the producer."""


def forget(producer: Forked, _: object) -> None:
    """It was closed."""
    _open.discard(producer)


def _fork() -> None:
    for producer in list(_open):
        producer.after_fork()


os.register_at_fork(after_in_child=_fork)
