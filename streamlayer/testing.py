"""For users' tests of their handlers: records to call them with, and whole apps without a server.

``record`` makes what a handler is given; ``App.test`` runs an app on fakeredis, in this process and thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

from streamlayer._async.admin import Admin
from streamlayer._async.consumer import Consumer
from streamlayer._async.producer import Producer
from streamlayer._types import CREATE_TIME, ConsumerRecord, NewTopic, RecordMetadata, TopicPartition
from streamlayer._waiting import aio as waiting
from streamlayer._worker.declared import Declared
from streamlayer._worker.outputs import to_key, to_value
from streamlayer._worker.retry import Retry
from streamlayer._worker.runner import Runner
from streamlayer.errors import ConfigurationError, GroupIdNotFoundError, IllegalStateError, RequestTimedOutError

__all__ = ["AppTest", "record"]

T = TypeVar("T")
Headers = Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None

_LOOK_MS: Final = 2
_GRACE_MS: Final = 100  # for what hangs, or is tried for ever: all else is done when the app is stopped
_STILL_MS: Final = 50
"""For how long nothing may change before records that are tried for ever are left."""


def record(
    topic: str,
    value: Any,
    key: str | bytes | None = None,
    *,
    partition: int = 0,
    offset: int = 0,
    timestamp_ms: int | None = None,
    headers: Headers = None,
) -> ConsumerRecord[bytes, bytes]:
    """A record as a handler is given one, for calling the handler directly.

    :param value: bytes as they are, text as UTF-8, ``None`` as a null; anything else (a pydantic model, a dict, a
        dataclass) as JSON.
    :param key: bytes, or text as UTF-8.
    :param timestamp_ms: ms since the epoch; now by default.
    :param headers: as for ``Producer.send``.
    """
    stored: Any = to_value(value)
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    now = int(time.time() * 1000)
    return ConsumerRecord(
        topic,
        partition,
        offset,
        now if timestamp_ms is None else timestamp_ms,
        CREATE_TIME,
        to_key(key),
        stored,
        tuple(pairs),
    )


class Backstage(NamedTuple):
    """What an app lets its test do.

    :ivar lend: put it on another server, with other handlers, for a while.
    :ivar serve: ``App.serve``.
    :ivar runners: those that run now.
    """

    lend: Callable[[Any, Callable[[Declared], Declared]], AbstractContextManager[Sequence[Declared]]]
    serve: Callable[..., Coroutine[Any, Any, None]]
    runners: Callable[[], Sequence[Runner]]


class State(NamedTuple):
    """How far all is.

    :ivar ends: of the logs that the app reads.
    :ivar left: records that a group has not committed, by group.
    """

    ends: dict[TopicPartition, int]
    left: dict[str, int]


class AppTest:
    """An app on a fake server of its own, empty when the block is entered: what ``App.test`` returns.

        with app.test() as t:
            t.send("orders", Order(…), key="anna")
            t.run()
            assert t.records("invoices")[0].key == b"anna"

    Everything is as in production but for what would only cost time: retries and batches do not wait.

    :param app: the app's half.
    :param num_partitions: of topics.
    """

    __test__ = False  # for pytest: not a class of tests

    def __init__(self, app: Backstage, num_partitions: int) -> None:
        self._app = app
        self._num_partitions = num_partitions
        self._block = ExitStack()
        self._loop: asyncio.Runner | None = None
        self._over = False
        self._redis: Any = None
        self._declared: Sequence[Declared] = ()
        self._held: list[str] = []

    def __enter__(self) -> Self:
        """Give the app a new server, with the topics that it names.

        :raises ConfigurationError: fakeredis is missing.
        :raises IllegalStateError: the app runs, or an event loop does in this thread.
        """
        if self._loop is not None:
            msg = "app.test(): this one was entered already; each test makes one of its own"
            raise IllegalStateError(msg)
        _check_no_loop()
        self._redis = _fake_redis()
        with ExitStack() as stack:
            self._declared = stack.enter_context(self._app.lend(self._redis, _hurried))
            self._loop = stack.enter_context(asyncio.Runner())
            self._do(self._create_topics())
            self._block = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the app back what it had."""
        self._over = True
        self._block.__exit__(kind, error, trace)

    # --- what a test does --------------------------------------------------------------------------------------------

    def send(
        self,
        topic: str,
        value: Any,
        key: str | bytes | None = None,
        *,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = None,
    ) -> RecordMetadata:
        """Append a record. Key and value are as for ``record``."""
        stored: Any = to_value(value)

        async def send() -> RecordMetadata:
            async with self._producer() as producer:
                return await producer.send_and_wait(
                    topic, stored, to_key(key), partition=partition, timestamp_ms=timestamp_ms, headers=headers
                )

        return self._do(send())

    def run(self, *, timeout_ms: int = 10_000) -> None:
        """Start the app, have it handle all there is, also what its handlers send meanwhile, and stop it in order.

        What handlers raise does not come out here: their records are in the dead letter topic then, or, where there is
        none, in ``held``, and are tried again by the next ``run``.

        :param timeout_ms: how long that may take.
        :raises RequestTimedOutError: it took longer.
        :raises Exception: what ended the app: its ``lifespan``, or what no app goes on after.
        """
        self._do(self._run(timeout_ms))

    def records(self, topic: str) -> list[ConsumerRecord[bytes, bytes]]:
        """All records of a topic, in the order of their append as far as time tells; none if there is no such topic."""

        async def read() -> list[ConsumerRecord[bytes, bytes]]:
            async with Consumer(redis=self._redis) as consumer:
                if topic not in await consumer.topics():
                    return []
                consumer.subscribe([topic])
                return [record async for record in consumer.read_to_end()]

        return sorted(self._do(read()), key=lambda record: (record.timestamp, record.partition, record.offset))

    @property
    def held(self) -> list[str]:
        """Which records failed for good in the last ``run`` and are nobody's dead letters, and why."""
        return self._held.copy()

    # --- how ---------------------------------------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None or self._over:
            work.close()
            msg = "app.test() is a block: with app.test() as t: …" + (", and its block was left" if self._over else "")
            raise IllegalStateError(msg)
        try:
            _check_no_loop()
        except IllegalStateError:
            work.close()
            raise
        return self._loop.run(work)

    def _producer(self) -> Producer[bytes, bytes]:
        return Producer(redis=self._redis, num_partitions=self._num_partitions)

    async def _create_topics(self) -> None:
        named = {
            topic
            for declared in self._declared
            for topic in (*declared.topics, *filter(None, (declared.to, declared.dead_letter)))
        }
        async with Admin(redis=self._redis) as admin:
            await admin.create_topics(NewTopic(topic, self._num_partitions) for topic in sorted(named))

    async def _run(self, timeout_ms: int) -> None:
        self._held = []
        stop = asyncio.Event()
        serving = asyncio.create_task(self._app.serve(stop, grace_ms=_GRACE_MS))
        watching = asyncio.create_task(self._until_done(timeout_ms))
        try:
            await asyncio.wait([serving, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.set()
            watching.cancel()  # if the app has ended by itself, which the next line tells
            await serving
        await watching

    async def _until_done(self, timeout_ms: int) -> None:
        """Wait until two looks in a row find all handled, or nothing going on but what is tried for ever."""
        now = began = since = waiting.monotonic_ms()
        seen: State | None = None
        async with Admin(redis=self._redis) as admin:
            while now <= began + timeout_ms:
                runners = self._app.runners()
                held = [why for runner in runners for why in runner.stuck]
                state = await self._look(admin) if all(runner.resting for runner in runners) else None
                if state is None or state != seen:
                    seen, since = state, now
                elif not any(state.left.values()) or (held and now - since >= _STILL_MS):
                    self._held = held
                    return
                await waiting.sleep_ms(_LOOK_MS)
                now = waiting.monotonic_ms()
            left = ", ".join(f"{count} for {group}" for group, count in (await self._look(admin)).left.items() if count)
        msg = f"t.run(): after timeout_ms={timeout_ms} not all is handled: {left or 'none'}"
        raise RequestTimedOutError(msg)

    async def _look(self, admin: Admin) -> State:
        topics = sorted({topic for declared in self._declared for topic in declared.topics})
        described = await admin.describe_topics(topics)
        logs = {
            TopicPartition(name, log.partition): log for name, topic in described.items() for log in topic.partitions
        }
        left: dict[str, int] = {}
        for declared in self._declared:
            try:
                committed = await admin.list_group_offsets(declared.group_id)
            except GroupIdNotFoundError:
                committed = {}
            read = {tp: log for tp, log in logs.items() if tp.topic in declared.topics}
            begun = {tp: committed[tp].offset if tp in committed else log.log_start for tp, log in read.items()}
            behind = sum(log.log_end - begun[tp] for tp, log in read.items())
            left[declared.group_id] = left.get(declared.group_id, 0) + behind
        return State({tp: log.log_end for tp, log in logs.items()}, left)


def _hurried(declared: Declared) -> Declared:
    """A handler that waits for nothing."""
    reading = {
        **declared.reading,
        "auto_offset_reset": "earliest",
    }  # what a test has sent before it is there to be read
    retries = Retry(declared.retries.attempts, backoff_ms=1, max_backoff_ms=20)
    return replace(declared, retries=retries, batch_wait_ms=0, commit_interval_ms=0, reading=reading)


def _fake_redis() -> Any:
    if find_spec("fakeredis") is None or find_spec("lupa") is None:
        msg = "app.test() runs on fakeredis, which is not installed: pip install 'streamlayer[testing]'"
        raise ConfigurationError(msg)
    import fakeredis

    return fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())


def _check_no_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    msg = "app.test() has an event loop of its own: use it in a plain `def` test, not in an `async def`"
    raise IllegalStateError(msg)
