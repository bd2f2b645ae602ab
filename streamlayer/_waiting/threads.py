"""Waiting with threads: the sync half of the pair. Same names and meanings as ``aio``."""

from __future__ import annotations

import atexit
import logging
import math
import os
import queue
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import redis
from redis.client import Redis as Redis
from redis.connection import ConnectionPool as ConnectionPool

from streamlayer._core.batch import Batch
from streamlayer._core.futures import error_of_record, metadata_of, run_callbacks
from streamlayer._core.resp import pack
from streamlayer._types import RecordMetadata
from streamlayer.errors import RequestTimedOutError, StreamlayerError

T = TypeVar("T")

REPLY_TIMEOUT_MS = 5000
"""How long an answer may take before the connection is given up; what it carried is unknown then."""
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
logger = logging.getLogger("streamlayer")

Lock = threading.Lock
"""Held across waiting: one caller at a time on a connection."""

OTHER_COLOUR = "this is an asyncio client: pass a redis.Redis, or use streamlayer.aio"


def same_colour(client: object) -> bool:
    """Whether a redis-py client belongs to this colour."""
    return isinstance(client, redis.Redis)


def monotonic_ms() -> int:
    """A clock that only goes forward, in ms."""
    return time.monotonic_ns() // 1_000_000


def boottime_ms() -> int:
    """The same, and it counts the time for which the machine slept, where the system tells (Linux)."""
    return time.clock_gettime_ns(_BOOTTIME) // 1_000_000


def sleep_ms(milliseconds: float) -> None:
    """Wait for a time, where there is nothing else to wait for (back-off)."""
    time.sleep(milliseconds / 1000)


def give_turn() -> None:
    """Let others run: threads do so by themselves."""


class Signal:
    """A flag that one waiter sleeps on. ``wait`` clears it first thing after waking, before anything else is read."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Wake the waiter, now or at its next wait."""
        if not self._event.is_set():
            self._event.set()

    def wait(self, timeout_ms: float | None) -> bool:
        """Sleep until it is set or the time is over; tell which."""
        woken = self._event.wait(None if timeout_ms is None else timeout_ms / 1000)
        self._event.clear()
        return woken


_waking = threading.Lock()


class Latch:
    """Set once, waited for by any number. An event is made only if somebody really waits."""

    __slots__ = ("_event", "_set")

    def __init__(self) -> None:
        self._set = False
        self._event: threading.Event | None = None

    def set(self) -> None:
        """Let all who wait go on."""
        self._set = True
        event = self._event
        if event is not None:
            event.set()

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._set

    def wait(self, timeout_ms: float | None = None) -> bool:
        """Sleep until it is set or the time is over; tell which."""
        if self._set:
            return True
        with _waking:
            if self._event is None:
                self._event = threading.Event()
            event = self._event
        if self.is_set():  # before the event was there to be seen
            return True
        return event.wait(None if timeout_ms is None else max(0, timeout_ms) / 1000)


class Inbox(Generic[T]):
    """Messages to one waiter, put by any thread or signal handler."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()

    def put(self, message: T) -> None:
        """Leave a message. Safe in a signal handler."""
        self._queue.put(message)

    def put_here(self, message: T) -> None:
        """The same: a thread has no loop of its own."""
        self._queue.put(message)

    def get(self, timeout_ms: float) -> T | None:
        """The next message; ``None`` after ``timeout_ms`` without one."""
        try:
            return self._queue.get(timeout=max(0, timeout_ms) / 1000)
        except queue.Empty:
            return None

    def get_nowait(self) -> T | None:
        """The next message that is there; ``None`` if there is none."""
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return None


class Task:
    """Something that runs beside its owner."""

    def __init__(self, run: Callable[[], None], name: str) -> None:
        self._thread = threading.Thread(target=self._guard, args=(run,), name=name, daemon=True)
        self._thread.start()

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except Exception:  # nobody joins it for a result: its death is told here or nowhere
            logger.exception("%s died", self._thread.name)

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def join(self, timeout_ms: float | None = None) -> bool:
        """Wait for its end; tell whether it came."""
        if self._thread is threading.current_thread():
            return False
        self._thread.join(None if timeout_ms is None else max(0, timeout_ms) / 1000)
        return not self._thread.is_alive()


def spawn(run: Callable[[], None], name: str) -> Task:
    """Start something beside the caller."""
    return Task(run, name)


class Home:
    """Where an object lives: a process. ``trouble`` tells a call from elsewhere."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def trouble(self) -> str | None:
        """Why this caller may not use the object; ``None`` if it may."""
        if os.getpid() != self._pid:
            return "it was made before a fork: make a new one in the child"
        return None


class Connection(Protocol):
    """What is used of a redis-py connection."""

    is_connected: bool
    socket_timeout: float | None
    socket_connect_timeout: float | None

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def send_packed_command(self, command: list[bytes], *, check_health: bool = ...) -> None: ...

    def can_read(self, timeout: float = ...) -> bool: ...

    def read_response(self, *, disable_decoding: bool = ...) -> Any: ...


@contextmanager
def _within(connection: Connection, limit_ms: float) -> Generator[None]:
    """Wait no longer than this for anything the connection reads or writes; its own limits come back behind it."""
    own = connection.socket_timeout
    tighter = own is None or limit_ms < own * 1000
    sock = getattr(connection, "_sock", None)  # redis-py has no public way to change a limit later
    if tighter and isinstance(sock, socket.socket):
        sock.settimeout(limit_ms / 1000)
    elif tighter:
        connection.socket_timeout = connection.socket_connect_timeout = limit_ms / 1000
    try:
        yield
    finally:
        sock = getattr(connection, "_sock", None)
        connection.socket_timeout = own
        if tighter and isinstance(sock, socket.socket):
            sock.settimeout(own)


def connect(connection: Connection, limit_ms: float = REPLY_TIMEOUT_MS) -> None:
    """Open a connection.

    :param limit_ms: how long each step of it may take.
    :raises redis.RedisError: there is none.
    """
    with _within(connection, limit_ms):
        connection.connect()


def exchange(
    connection: Connection, request: list[bytes], replies: list[Any], count: int, limit_ms: float = REPLY_TIMEOUT_MS
) -> None:
    """Send a packed request and read ``count`` replies into ``replies``; error replies stand among them.

    :param limit_ms: how long to wait for each reply; if that is less than usual, the caller's time is short, and no
        further one is waited for when all together took so long.
    :raises redis.ConnectionError: the connection was lost; ``replies`` holds what came before.
    :raises redis.TimeoutError: no answer in time.
    """
    deadline = monotonic_ms() + limit_ms if limit_ms < REPLY_TIMEOUT_MS else math.inf
    if connection.socket_timeout is None or limit_ms < connection.socket_timeout * 1000:
        with _within(connection, limit_ms):
            _exchange(connection, request, replies, count, deadline)
    else:
        _exchange(connection, request, replies, count, deadline)


def _exchange(connection: Connection, request: list[bytes], replies: list[Any], count: int, deadline: float) -> None:
    try:
        connection.send_packed_command(request, check_health=False)
        while len(replies) < count:
            if monotonic_ms() > deadline:
                msg = f"{len(replies)} of {count} answers came in time"
                raise redis.TimeoutError(msg)
            try:
                replies.append(connection.read_response(disable_decoding=True))
            except redis.ResponseError as error:
                replies.append(error)
    except BaseException:  # Ctrl-C between two replies: the rest would be taken for answers to what is asked next
        connection.disconnect()
        raise


_one_sender = threading.Lock()
"""For fakeredis: two threads that send on one of its connections at once raise ``ValueError``, and close it."""


def transmit(connection: Connection, *command: str) -> None:
    """Send a command without reading its answer; another thread may be sending too."""
    real = isinstance(getattr(connection, "_sock", None), socket.socket)
    with nullcontext() if real else _one_sender:
        connection.send_packed_command([pack(command)], check_health=False)


def hung_up(connection: Connection) -> bool:
    """Whether a connection on which nothing is under way was ended by the other side; or says what nobody asked."""
    try:
        return connection.can_read()
    except (redis.RedisError, OSError):
        return True


def hang_up(connection: Connection) -> None:
    """Let the thread that waits for something on a subscribed connection go on: its read ends at once."""
    sock = getattr(connection, "_sock", None)  # redis-py has no public way to end another thread's read
    if isinstance(sock, socket.socket):
        sock.shutdown(socket.SHUT_RDWR)
    else:  # fakeredis: the answer to a PING wakes it
        transmit(connection, "PING")


def receive(connection: Connection, timeout_ms: float) -> Any:
    """The next pushed message of a subscribed connection; ``None`` after ``timeout_ms`` without one."""
    if not connection.can_read(timeout_ms / 1000):
        return None
    return connection.read_response(disable_decoding=True)


class RecordFuture(msgspec.Struct, gc=False, eq=False):
    """What becomes of one record. Costs next to nothing until it is asked.

    ``result`` waits for it; waiting ends lingering.
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

    def _wait(self, timeout_ms: float | None) -> None:
        if not self.batch.done.is_set():
            self.hurry(self.batch)
            if not self.batch.done.wait(timeout_ms):
                msg = f"no answer within timeout_ms={timeout_ms}; the record is still on its way"
                raise RequestTimedOutError(msg)

    def result(self, timeout_ms: float | None = None) -> RecordMetadata:
        """Wait for the record to be in the log.

        :param timeout_ms: how long; ``None`` as long as the producer tries.
        :returns: where it is.
        :raises RequestTimedOutError: not decided in time; the producer goes on trying.
        :raises StreamlayerError: it is not, or may not be, in the log.
        """
        self._wait(timeout_ms)
        return metadata_of(self.batch, self.index)

    def exception(self, timeout_ms: float | None = None) -> StreamlayerError | None:
        """Wait for the outcome: ``None`` if the record is in the log, else the error."""
        self._wait(timeout_ms)
        return error_of_record(self.batch, self.index)


class Forked(Protocol):
    """What can be told that this process is a fork's child."""

    def after_fork(self) -> None: ...


class Sending(Protocol):
    """What may have something left to send when the interpreter ends."""

    def deliver_all(self, *, timeout_ms: int | None) -> None: ...


_open: weakref.WeakSet[Any] = weakref.WeakSet()
_sending: weakref.WeakSet[Any] = weakref.WeakSet()


def remember(producer: Forked) -> None:
    """Start it clean in a fork's child."""
    _open.add(producer)


def finish_at_exit(sender: Sending) -> None:
    """Have it send what is left when the interpreter ends, though nobody closed (or even held) its producer."""
    _sending.add(sender)
    _tell_multiprocessing()


def forget(producer: Forked, sender: Sending) -> None:
    """It was closed."""
    _open.discard(producer)
    _sending.discard(sender)


EXIT_MS = 5000
"""What is left in producers that nobody closed is sent at the interpreter's end, for this long at most."""


def _exit() -> None:
    deadline = monotonic_ms() + EXIT_MS
    for sender in list(_sending):
        try:
            sender.deliver_all(timeout_ms=max(1, deadline - monotonic_ms()))
        except Exception as error:  # noqa: BLE001 - the interpreter ends: nobody is left to catch it
            logger.warning("records of a producer that was not closed were left at exit: %s", error)


def _tell_multiprocessing() -> None:
    """A child of multiprocessing ends without ``atexit``, but runs finalizers of its own: be one of them there."""
    global _told_in  # noqa: PLW0603 - once a process
    util: Any = sys.modules.get("multiprocessing.util")
    if util is None or _told_in == os.getpid():
        return
    if not _told_in:
        util.register_after_fork(_open, _in_child_of_multiprocessing)
    _told_in = os.getpid()
    util.Finalize(None, _exit, exitpriority=0)


_told_in = 0


def _in_child_of_multiprocessing(_: object) -> None:
    # What the fork hook may have registered was cleared just now.
    util: Any = sys.modules["multiprocessing.util"]
    util.Finalize(None, _exit, exitpriority=0)


def _fork() -> None:
    global _waking  # noqa: PLW0603 - another thread of the parent may have held it
    _waking = threading.Lock()
    _sending.clear()  # they are the parent's
    for producer in list(_open):
        producer.after_fork()


atexit.register(_exit)
os.register_at_fork(before=_tell_multiprocessing, after_in_child=_fork)
