"""One process of a consumer group: reads, takes a while, commits, and logs all it does, until it is told to end.

    python -m tests.system.group_worker URL LOG NAME '{"colour": "aio", "how": "auto", "work_ms": 60, "options": {}}'

SIGUSR1: leave the group in order and join again, as somebody new; SIGTERM: leave, and end. Each line of the log is a
JSON list, written in one go before anything else happens: nanoseconds of ``CLOCK_BOOTTIME``, who, what, and what of it.
The rule: an attempt is logged before it is made and its outcome after, so that a killed process leaves no doubt.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import streamlayer
from streamlayer import aio
from streamlayer._core import scripts
from streamlayer._core.refusals import Refusal
from streamlayer._waiting import aio as aio_waiting
from streamlayer._waiting import threads
from streamlayer.errors import (
    CommitFailedError,
    RequestTimedOutError,
    ServerReadOnlyError,
    ServerUnavailableError,
    StreamlayerError,
)

TOPIC = "orders"
GROUP = "billing"


async def done(answer: Any) -> Any:
    """What was returned, or, in asyncio, what comes of waiting for it."""
    return await answer if inspect.isawaitable(answer) else answer


class Worker:
    """A process that has one consumer after another."""

    def __init__(self, url: str, log: str, name: str, spec: dict[str, Any]) -> None:
        self._url, self._name, self._spec = url, name, spec
        self._aio = spec["colour"] == "aio"
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._dice = random.Random(name)
        self._told: Any = aio_waiting.Inbox() if self._aio else threads.Inbox()
        self._life = 0
        self._leaving = self._ending = False
        self._consumer: Any = None

    def say(self, what: str, **more: Any) -> None:
        """Write one line."""
        line = [time.clock_gettime_ns(time.CLOCK_BOOTTIME), f"{self._name}.{self._life}", what, more]
        os.write(self._log, json.dumps(line).encode() + b"\n")

    def on_signal(self, number: int, _frame: object) -> None:
        """Be told to leave, or to end."""
        self._leaving = True
        self._ending = self._ending or number == signal.SIGTERM
        self._told.put(number)
        if self._consumer is not None:
            self._consumer.wakeup()

    async def run(self) -> None:
        """One life after another."""
        while not self._ending:
            self._life += 1
            self._leaving = False
            self._consumer = consumer = self._make_consumer()
            self._watch_commits(consumer)
            self.say("began", pid=os.getpid(), **self._spec)
            try:
                while not (self._leaving or self._ending):
                    await self._turn(consumer)
            finally:
                await done(consumer.close())
                self.say("left")

    def _make_consumer(self) -> Any:
        kind: Any = aio.Consumer if self._aio else streamlayer.Consumer
        listener = AioListener(self) if self._aio else SyncListener(self)
        options = {"enable_auto_commit": self._spec["how"] == "auto", "auto_commit_interval_ms": 50}
        options |= {"max_poll_records": 20, "consumer_timeout_ms": 100} | self._spec["options"]
        return kind(TOPIC, url=self._url, group_id=GROUP, listener=listener, client_id=self._name, **options)

    def _watch_commits(self, consumer: Any) -> None:
        """Log each commit that goes to the server, whoever wanted it: the user, the interval, a partition given up."""
        call_through = consumer._client.call

        async def watched(call: Any, *limits: Any) -> Any:
            number = self._commit_begins(call)
            try:
                answer = await call_through(call, *limits)
            except BaseException as error:
                self._commit_ended(number, error)
                raise
            self._commit_ended(number, None)
            return answer

        def watched_sync(call: Any, *limits: Any) -> Any:
            number = self._commit_begins(call)
            try:
                answer = call_through(call, *limits)
            except BaseException as error:
                self._commit_ended(number, error)
                raise
            self._commit_ended(number, None)
            return answer

        consumer._client.call = watched if self._aio else watched_sync

    def _commit_begins(self, call: Any) -> int | None:
        if call.script is not scripts.COMMIT:
            return None
        member, epoch, number, _, *rest = call.args
        offsets = {rest[i].rpartition(":")[2]: rest[i + 1] for i in range(0, len(rest), 5)}
        self.say("committing", member=member, epoch=epoch, number=number, offsets=offsets)
        return int(number)

    def _commit_ended(self, number: int | None, error: BaseException | None) -> None:
        if number is not None:
            what = "committed" if error is None else "refused" if isinstance(error, Refusal) else "unknown"
            self.say(what, number=number, why="" if error is None else str(error))

    async def _turn(self, consumer: Any) -> None:
        try:
            if self._spec["how"] == "iterate":
                await self._iterate(consumer)
            else:
                await self._poll(consumer)
        except CommitFailedError:
            pass  # logged already; the next poll goes on with what is its own
        except (ServerUnavailableError, RequestTimedOutError, ServerReadOnlyError) as error:
            self.say("trouble", why=str(error))

    async def _poll(self, consumer: Any) -> None:
        records = await done(consumer.poll(100))
        for tp, taken in records.items():
            self._read(tp.partition, taken)
        if records:
            await done(self._told.get(self._dice.random() * self._spec["work_ms"]))  # the work, which an end cuts short
            if self._spec["how"] != "auto":
                await done(consumer.commit())

    async def _iterate(self, consumer: Any) -> None:
        for _ in range(10):
            try:
                record = await consumer.__anext__() if self._aio else next(consumer)
            except (StopAsyncIteration, StopIteration):
                await done(consumer.commit())  # of all partitions: a record's commit is of its own only
                return
            self._read(record.partition, [record])
            await done(self._told.get(self._dice.random() * self._spec["work_ms"] / 20))
        await done(consumer.commit() if self._dice.random() < 0.5 else consumer.commit(record))

    def _read(self, partition: int, records: list[Any]) -> None:
        self.say("read", partition=partition, records=[[r.offset, r.value.decode()] for r in records])

    def gained(self, positions: dict[int, int]) -> None:
        """Partitions came."""
        place = self._consumer.group_metadata()
        who = {"member": place.member_id, "epoch": place.generation_id, "instance": place.group_instance_id}
        self.say("assigned", **who, positions=positions)

    def gave(self, what: str, partitions: Iterable[Any]) -> None:
        """Partitions went."""
        self.say(what, partitions=sorted(tp.partition for tp in partitions))

    @property
    def consumer(self) -> Any:
        """The present one."""
        return self._consumer


class Warnings(logging.Handler):
    """Has a worker write what the library warns it of.

    :param thread: only of what happens in that thread; by default in the whole process.
    """

    def __init__(self, worker: Worker, thread: str | None = None) -> None:
        super().__init__(logging.WARNING)
        self._worker, self._thread = worker, thread

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        if self._thread in {None, record.threadName}:
            self._worker.say("warned", why=record.getMessage())


class AioListener(aio.ConsumerRebalanceListener):
    """Logs."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Gained."""
        self._worker.gained({tp.partition: await self._worker.consumer.position(tp) for tp in sorted(assigned)})

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Given up."""
        self._worker.gave("revoked", revoked)

    async def on_partitions_lost(self, lost: Any) -> None:
        """Lost."""
        self._worker.gave("lost", lost)


class SyncListener(streamlayer.ConsumerRebalanceListener):
    """Logs."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def on_partitions_assigned(self, assigned: Any) -> None:
        """Gained."""
        self._worker.gained({tp.partition: self._worker.consumer.position(tp) for tp in sorted(assigned)})

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Given up."""
        self._worker.gave("revoked", revoked)

    def on_partitions_lost(self, lost: Any) -> None:
        """Lost."""
        self._worker.gave("lost", lost)


def main(url: str, log: str, name: str, spec: str) -> None:
    """Run one."""
    worker = Worker(url, log, name, json.loads(spec))
    logging.getLogger("streamlayer").addHandler(Warnings(worker))
    handler: Callable[[int, Any], None] = worker.on_signal
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, handler)
    try:
        asyncio.run(worker.run())
    except StreamlayerError as error:
        worker.say("died", why=repr(error))
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
