"""``App``: handlers of records, and how they are run: in a process of their own, or inside another event loop.

    app = App(url="redis://localhost:6379/0")

    @app.consumer("orders", group_id="billing", to="invoices", concurrency=64, ordering="key")
    async def bill(order: Order) -> Invoice: ...

``streamlayer worker module:app`` runs it in processes, ``app.run()`` in this one, ``async with app:``
in a loop that runs.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Never, Self, TypeVar

from streamlayer._async.admin import Admin
from streamlayer._async.producer import Producer
from streamlayer._config import ConsumerOptions, checked, refuse_unknown
from streamlayer._types import Health
from streamlayer._waiting import aio as waiting
from streamlayer._worker.declared import Declared
from streamlayer._worker.handler import Handler
from streamlayer._worker.isolation import Isolation
from streamlayer._worker.outputs import ProducerRecord
from streamlayer._worker.own import OwnProducer
from streamlayer._worker.retry import Retry
from streamlayer._worker.runner import Runner
from streamlayer._worker.watch import Watch
from streamlayer.errors import ConfigurationError, IllegalStateError, LogTruncationError, RequestTimedOutError

if TYPE_CHECKING:
    from streamlayer.testing import AppTest

__all__ = ["App", "ProducerRecord", "Retry"]

logger = logging.getLogger("streamlayer")

F = TypeVar("F", bound=Callable[..., Any])
Lifespan = Callable[["App"], AbstractAsyncContextManager[object]]
_RUNS_ALREADY = "the app runs already: stop it first, or make another App; more at a time is concurrency="
_COMMON = ("url", "redis", "namespace", "client_id", "allow_eviction", "lifespan", "grace_ms")
_READING = (
    "auto_offset_reset",
    "max_poll_interval_ms",
    "session_timeout_ms",
    "heartbeat_interval_ms",
    "offsets_retention_ms",
    "fetch_min_bytes",
    "fetch_max_wait_ms",
    "fetch_max_bytes",
    "max_partition_fetch_bytes",
)
_DECLARED = (
    "group_id",
    "to",
    "concurrency",
    "ordering",
    "retries",
    "dead_letter",
    "timeout_ms",
    "batch_size",
    "batch_wait_ms",
    "commit_interval_ms",
    *_READING,
)


class App:
    """Handlers, and what they have in common.

    :param url: the server; by default ``STREAMLAYER_URL``, else ``redis://localhost:6379/0``.
    :param redis: a redis-py client for asyncio instead, whose settings are copied.
    :param namespace: what all keys begin with; ``sl`` by default.
    :param client_id: the connections' name on the server.
    :param allow_eviction: go on although the server may delete records when its memory is full.
    :param lifespan: called with the app, a context manager for asyncio: entered before the first record is read, left
        after the last is done.
    :param grace_ms: how long calls that run may take to end when the app stops or gives partitions up.
    :raises ConfigurationError: an option's value cannot work.
    :raises TypeError: an option does not exist.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        redis: waiting.Redis | None = None,
        namespace: str | None = None,
        client_id: str | None = None,
        allow_eviction: bool = False,
        lifespan: Lifespan | None = None,
        grace_ms: int = 30_000,
        **unknown: Never,
    ) -> None:
        if unknown:
            refuse_unknown("App", unknown, _COMMON)
        self.grace_ms = _checked_grace(grace_ms)
        self._common: dict[str, Any] = {
            "url": url,
            "redis": redis,
            "namespace": namespace,
            "client_id": client_id,
            "allow_eviction": allow_eviction,
        }
        self._lifespan = lifespan
        self._declared: list[Declared] = []
        self._runners: list[Runner] = []
        self._serving = False
        self._stopping_at: int | None = None
        self._producer: OwnProducer | None = None
        self._block: tuple[asyncio.Task[None], asyncio.Event] | None = None
        self._failure = ""

    def __repr__(self) -> str:
        handlers = ", ".join(f"{d.handler.name} ({d.group_id})" for d in self._declared)
        return f"<App {handlers or 'without handlers'}>"

    # --- what is handled ---------------------------------------------------------------------------------------------

    def consumer(
        self,
        *topics: str,
        group_id: str,
        to: str | None = None,
        concurrency: int = 1,
        ordering: Literal["partition", "key", "none"] = "partition",
        retries: Retry | None = None,
        dead_letter: str | None = None,
        timeout_ms: int | None = None,
        batch_size: int = 100,
        batch_wait_ms: int = 100,
        commit_interval_ms: int = 5,
        auto_offset_reset: Literal["earliest", "latest"] = "earliest",
        max_poll_interval_ms: int = 300_000,
        session_timeout_ms: int = 10_000,
        heartbeat_interval_ms: int = 3000,
        offsets_retention_ms: int = 604_800_000,
        fetch_min_bytes: int = 1,
        fetch_max_wait_ms: int = 500,
        fetch_max_bytes: int = 8_388_608,
        max_partition_fetch_bytes: int = 1_048_576,
        **unknown: Never,
    ) -> Callable[[F], F]:
        """Have a function called for the records of topics. It is returned unchanged.

        What its parameters are given is in their annotations: a pydantic model, ``dict`` or whatever pydantic validates
        from the value's JSON; ``bytes`` or ``str``: the value; ``ConsumerRecord``: the record. A ``list[…]`` of one of
        them takes batches. A parameter with a default is left alone. An ``async def`` is awaited in the event loop; a
        ``def`` runs in a thread. Each call has a context (``contextvars``) of its own. Whatever it raises is the
        record's failure, ``sys.exit`` too.

        :param topics: what to read.
        :param group_id: the group, in which each partition is one process's.
        :param to: a topic for what the function returns: bytes, str, or what pydantic makes JSON of, with the key of
            the record that was handled; or a ``ProducerRecord``, or a list of these; ``None`` (in it too) or ``[]``:
            nothing.
        :param concurrency: calls at a time, in this process.
        :param ordering: what is handled in order: each ``"partition"``, each ``"key"``, or ``"none"``.
        :param retries: how often a call that raises is repeated; ``Retry()`` by default. It holds up what is to be
            handled in order behind it, and nothing else.
        :param dead_letter: a topic for records that failed in all attempts or do not validate. Without one they are
            tried for ever.
        :param timeout_ms: a call that takes longer is cancelled, and has failed; ``async def`` only.
        :param batch_size: records of a batch at most.
        :param batch_wait_ms: how long a batch waits to be full.
        :param commit_interval_ms: how long what is done waits to be committed, at most.
        :param auto_offset_reset: where to begin without a commit, and to go on when records are gone.
        :param max_poll_interval_ms: as for ``Consumer``, as all that follow.
        :raises ConfigurationError: an option's value cannot work, or an annotation says nothing.
        :raises TypeError: an option does not exist.
        """
        if unknown:
            refuse_unknown("App.consumer", unknown, _DECLARED)
        given = locals()
        reading = {name: given[name] for name in _READING}
        checked(ConsumerOptions, {"group_id": group_id, **reading})
        frame = inspect.currentframe()
        caller = None if frame is None else frame.f_back
        names = {} if caller is None else dict(caller.f_locals)  # annotations may name what is local to a function

        def declare(function: F) -> F:
            declared = Declared(
                Handler(function, names),
                topics,
                group_id,
                to,
                concurrency,
                ordering,
                Retry() if retries is None else retries,
                dead_letter,
                timeout_ms,
                batch_size,
                batch_wait_ms,
                commit_interval_ms,
                reading,
            )
            self._add(declared)
            return function

        return declare

    def _add(self, declared: Declared) -> None:
        if self._runners:
            msg = f"handler {declared.handler.name}: the app runs already; declare handlers before"
            raise IllegalStateError(msg)
        for other in self._declared:
            shared = set(declared.topics) & set(other.topics)
            if declared.group_id == other.group_id and shared:
                msg = (
                    f"handlers {other.handler.name} and {declared.handler.name} both read {min(shared)} in group "
                    f"{declared.group_id}: each would get some partitions only. Give one of them a group of its own"
                )
                raise ConfigurationError(msg)
        self._declared.append(declared)

    @property
    def producer(self) -> Producer[Any, Any]:
        """For what handlers send beside what they return, and for others in the same loop.

        Keys are bytes or str, values bytes, str, or what pydantic makes JSON of. What a handler sends and does not wait
        for is waited for before its record is done; if it does not arrive, the call has failed, and is tried again.
        What others send (a task that a handler leaves running) is flushed before a commit: if that fails, nothing is
        committed. It belongs to the event loop: a handler that runs in a thread returns a ``ProducerRecord``.
        """
        if self._producer is None:
            self._producer = OwnProducer(**self._common)
        return self._producer

    # --- life --------------------------------------------------------------------------------------------------------

    async def serve(self, stop: asyncio.Event, *, grace_ms: int | None = None) -> None:
        """Handle records until an event is set; then finish what is in hand, commit and leave the groups.

        :param stop: the event.
        :param grace_ms: instead of the app's.
        :raises StreamlayerError: a handler's consumer cannot go on by itself; the others have been stopped in order.
        """
        await self._serve(stop, self.grace_ms if grace_ms is None else _checked_grace(grace_ms), None)

    async def _serve(self, stop: asyncio.Event, grace_ms: int, started: asyncio.Event | None) -> None:
        if self._serving:
            raise IllegalStateError(_RUNS_ALREADY)
        self._failure = ""
        for declared in self._declared:
            declared.handler.check()
        self._serving = True  # its lifespan may take its time
        self._stopping_at = None
        watch = Watch(asyncio.get_running_loop())
        try:
            try:
                async with nullcontext() if self._lifespan is None else self._lifespan(self):
                    isolation = Isolation()
                    self._runners = [
                        Runner(declared, self._common, lambda: self._producer, grace_ms, isolation)
                        for declared in self._declared
                    ]
                    if started is not None:
                        started.set()
                    await self._run_all(stop)
            finally:
                await self._close_producer(grace_ms)
        finally:
            watch.close()
            self._runners = []
            self._serving = False

    async def _run_all(self, stop: asyncio.Event) -> None:
        runners = self._runners
        tasks = [asyncio.create_task(runner.run(), name=f"streamlayer {runner}") for runner in runners]
        told = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            self._stopping_at = waiting.monotonic_ms()
            for runner in runners:
                runner.stop()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                self._failure = str(outcome)
                raise outcome

    async def _close_producer(self, grace_ms: int) -> None:
        """Have what was sent last in the log, in what the handlers have left of the grace time, or in a second."""
        producer, self._producer = self._producer, None
        if producer is not None:
            taken_ms = 0 if self._stopping_at is None else waiting.monotonic_ms() - self._stopping_at
            try:
                await producer.close(timeout_ms=max(grace_ms - taken_ms, 1000))
            except RequestTimedOutError as error:  # no record is done whose handler has sent that
                logger.error("app.producer: what was sent last did not arrive: %s", error)  # noqa: TRY400 - expected
            except LogTruncationError as error:  # the server's loss, before: what was sent since is in the log
                logger.warning("app.producer: %s", error)

    def run(self, *, grace_ms: int | None = None) -> None:
        """Handle records in this process until SIGTERM or SIGINT (Ctrl-C): then finish what is in hand and return.

        A second signal ends the process at once.

        :param grace_ms: how long what is in hand may take; by default the app's.
        :raises StreamlayerError: as ``serve``.
        """
        asyncio.run(self._run_until_signalled(grace_ms))

    async def _run_until_signalled(self, grace_ms: int | None) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        told: list[int] = []

        def signalled(number: int, _: object) -> None:
            told.append(number)
            if len(told) > 1:  # no log: whoever was interrupted may hold its lock
                os.write(2, f"{signal.Signals(number).name} again: ends at once\n".encode())
                os._exit(128 + number)
            loop.call_soon_threadsafe(finish, signal.Signals(number).name)

        def finish(name: str) -> None:
            logger.info("%s: finishes what is in hand", name)
            stop.set()

        # Not the loop's own handlers: those wait for a handler that blocks the loop, and Ctrl-C did nothing then.
        before = {number: signal.signal(number, signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            await self.serve(stop, grace_ms=grace_ms)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    async def __aenter__(self) -> Self:
        """Handle records beside what else runs in this loop, until the block is left."""
        if self._block is not None:
            raise IllegalStateError(_RUNS_ALREADY)
        stop = asyncio.Event()
        started = asyncio.Event()
        task = asyncio.create_task(self._serve(stop, self.grace_ms, started), name=f"streamlayer {self!r}")
        self._block = task, stop
        entered = asyncio.create_task(started.wait())
        try:
            await asyncio.wait([task, entered], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # whoever enters gives up: there will be no block to leave
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._block = None
            raise
        finally:
            entered.cancel()
        if task.done():
            self._block = None
            task.result()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is in hand, commit, leave the groups.

        :raises StreamlayerError: as ``serve``.
        """
        if self._block is None:
            return
        task, stop = self._block
        self._block = None
        stop.set()
        await task

    # --- tests -------------------------------------------------------------------------------------------------------

    def test(self, *, num_partitions: int = 1) -> AppTest:
        """For users' tests: ``with app.test() as t:`` has the app on a fake server of its own, without any other.

        :param num_partitions: of topics.
        """
        from streamlayer.testing import AppTest, Backstage

        return AppTest(Backstage(self._lend, self.serve, lambda: self._runners), num_partitions)

    @contextmanager
    def _lend(self, redis: Any, change: Callable[[Declared], Declared]) -> Generator[list[Declared]]:
        """Put the app on another server, with other handlers, for a while."""
        if self._serving or self._block is not None:
            msg = "the app runs: it can be tested when it does not"
            raise IllegalStateError(msg)
        kept = self._common, self._declared, self._producer
        self._common = {**self._common, "url": None, "redis": redis, "namespace": None}
        self._declared = list(map(change, self._declared))
        self._producer = None
        try:
            yield self._declared
        finally:
            self._common, self._declared, self._producer = kept

    # --- how it is doing ---------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """How it is doing, from memory: as its worst handler."""
        if self._failure:
            return Health(ok=False, state="failed", reason=self._failure)
        if not self._runners:
            return Health(ok=not self._declared, state="new", reason="" if self._block is None else "starting")
        healths = [runner.health() for runner in self._runners]
        return next((h for h in healths if not h.ok), next((h for h in healths if h.state != "ok"), healths[0]))

    def members(self) -> list[tuple[str, str]]:
        """This process's places in groups, from memory: group id, member id. What a supervisor removes if it dies."""
        places = [(runner.declared.group_id, runner.member_id()) for runner in self._runners]
        return [place for place in places if place[1]]

    def groups(self) -> set[str]:
        """The groups of its handlers."""
        return {declared.group_id for declared in self._declared}

    def admin(self) -> Admin:
        """An administrator of the server that it uses, for asyncio: a new one, for the caller to close."""
        return Admin(**self._common)


def _checked_grace(grace_ms: Any) -> int:
    if not isinstance(grace_ms, int) or isinstance(grace_ms, bool) or grace_ms < 0:
        msg = f"grace_ms={grace_ms!r} is no whole number of milliseconds, 0 or more"
        raise ConfigurationError(msg)
    return grace_ms
