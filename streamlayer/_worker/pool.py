"""``Pool``: calls a handler for the records of partitions, so many calls at a time, and sees each record to its end.

A record's end is one of three: the handler returned and what it returned is in its topic; it is a dead letter; or its
partition went to another member, who handles it. Which records may be handled is the lanes' to say.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final

from streamlayer._async.producer import Producer
from streamlayer._core.lanes import Job, Lanes, Record
from streamlayer._core.refusals import where
from streamlayer._waiting import aio as waiting
from streamlayer._waiting.aio import RecordFuture
from streamlayer._worker import dead_letters
from streamlayer._worker import isolation as alone
from streamlayer._worker.calls import Calls
from streamlayer._worker.declared import Declared
from streamlayer._worker.handler import InvalidRecordError
from streamlayer._worker.isolation import LEAST_DEATHS, Isolation, WorkerLostError
from streamlayer._worker.outputs import outputs

logger = logging.getLogger("streamlayer")

TURN_S: Final = 0.005
"""After this long without waiting, a call gives the event loop a turn."""
SLOW_S: Final = 60.0
"""A call that runs for longer is told of, once."""

CLOSE_S: Final = 1.0
"""How long calls that are cancelled may take to end."""

LEAST_HELD_MS: Final = 1000
"""Between attempts that go on for ever, where there is no wait between those before."""

LOOK_MS: Final = 50
"""How often a dead letter that waits looks whether its partition is given up."""


class Pool:
    """The calls of one handler.

    :param declared: the handler, and how it is run.
    :param producer: for what it returns, and for dead letters.
    :param finished: told of each partition of which records were done.
    :param store: has the progress of a partition committed, and returns when it is, or when the partition is given up.
    :param isolation: the app's.
    """

    def __init__(
        self,
        declared: Declared,
        producer: Producer[Any, Any],
        finished: Callable[[Lanes], None],
        store: Callable[[Lanes], Awaitable[None]],
        isolation: Isolation,
    ) -> None:
        self._declared, self._handler = declared, declared.handler
        self._producer = producer
        self._finished = finished
        self._store = store
        self._isolation = isolation
        isolation.pools.add(self)
        self._at_once = declared.at_once
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Lanes] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.calling = 0
        self._timers: dict[Job, asyncio.TimerHandle] = {}
        self._batch_timer: asyncio.TimerHandle | None = None
        self._turn_at = 0.0
        self._settled = waiting.Signal()
        self._calls = Calls(self._handler, declared.concurrency, declared.timeout_ms)
        self._slow: set[Job] = set()
        self.stuck: dict[Job, str] = {}
        """Jobs that failed in all their attempts and are not dead letters yet, and why."""

    # --- what is called ----------------------------------------------------------------------------------------------

    def offer(self, lanes: Lanes) -> None:
        """Call the handler for what is available of a partition, as soon as there is room."""
        if lanes.available and not lanes.queued:
            lanes.queued = True
            self._queue.append(lanes)
        self.fill()

    def fill(self) -> None:
        """Call the handler for what is available, as far as there is room."""
        while self.calling < self._declared.concurrency and self._queue:
            job = self._take()
            if job is None:
                return
            self.calling += 1
            self._spawn(self._call_on(job))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._calls.spawn(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": f"{self._handler.name}: {error!r}", "exception": error})

    def _take(self) -> Job | None:
        """The next job, partitions in turn."""
        if self._isolation.closed:
            return None
        now = waiting.monotonic_ms() if self._at_once > 1 else 0
        due: int | None = None
        for _ in range(len(self._queue)):
            lanes = self._queue.popleft()
            if not lanes.available:
                lanes.queued = False
                continue
            if now and lanes.available < self._at_once and now < (ripe := lanes.since + self._declared.batch_wait_ms):
                self._queue.append(lanes)
                due = ripe if due is None else min(due, ripe)
                continue
            job = lanes.take(self._at_once)
            if lanes.available:
                self._queue.append(lanes)
                if job is None or len(job.records) == self._at_once:  # else the rest has waited already
                    lanes.since = now
            else:
                lanes.queued = False
            if job is not None:
                return job
        if due is not None and self._batch_timer is None:
            self._batch_timer = self._loop.call_later((due - now) / 1000, self._batch_due)
        return None

    def _batch_due(self) -> None:
        self._batch_timer = None
        self.fill()

    async def _call_on(self, job: Job | None) -> None:
        """Call the handler for one job after another, as long as there is one."""
        try:
            while job is not None:
                job.began = self._loop.time()
                if job.began - self._turn_at > TURN_S:
                    await waiting.give_turn()
                    self._turn_at = self._loop.time()
                if job.owner.progress.cautious:
                    await self._call_cautiously(job)
                else:
                    await self._call_once(job)
                job.began = 0.0
                job = self._take()
        except asyncio.CancelledError:
            if job is not None:
                self._abandon(job)
            raise
        finally:
            self.calling -= 1

    async def _call_once(self, job: Job) -> None:
        await (self._call_singly(job) if job.singly else self._call(job))

    async def _call(self, job: Job) -> None:
        try:
            if self._handler.takes_batches:
                arguments = await self._batch(job)
            else:
                arguments = self._handler.arguments(job.records[0]) if job.records else []
            records = job.records
            sent = await self._handle(job, arguments, records) if records else []
        except InvalidRecordError as error:
            self._failed_to_read(job, error)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is the record's trouble, not the worker's
            self._failed(job, error)
        else:
            job.owner.finish(job)
            if sent:
                job.sending = len(sent)
                for future in sent:
                    future.add_done_callback(partial(self._sent, job))
            else:
                self._complete(job)
            self.offer(job.owner)

    async def _batch(self, job: Job) -> list[Any]:
        """What to call the handler with. Records that do not fit are dead letters first."""
        rows: list[list[Any]] = []
        for record in list(job.records):
            try:
                rows.append(self._handler.arguments(record))
            except InvalidRecordError as error:
                if self._declared.dead_letter is None or not await self._bury(job, record, error, 0):
                    raise
                self._complete(job, [record])
        return self._handler.batch(rows)

    async def _handle(self, job: Job, arguments: list[Any], records: list[Record]) -> list[RecordFuture]:
        """Call the handler; the answer is what has to be in the log before the records are done."""
        result, sent = await self._calls.call(arguments)
        if job.void:
            return []
        return sent if result is None else [*sent, *await self._send(result, records)]

    async def _send(self, result: Any, records: list[Record]) -> list[RecordFuture]:
        batch = self._handler.takes_batches
        whole = list(outputs(result, records, self._declared.to, batch=batch))  # all of it can be sent, or none is
        return [
            await self._producer.send(
                str(output.topic),
                output.value,
                output.key,
                partition=output.partition,
                timestamp_ms=output.timestamp_ms,
                headers=output.headers,
            )
            for output in whole
        ]

    def _sent(self, job: Job, future: RecordFuture) -> None:
        """One result of a job is in the log, or is not."""
        job.error = job.error or future.exception()
        job.sending -= 1
        if job.sending:
            return
        error, job.error = job.error, None
        if error is None:
            self._complete(job)
        else:
            self._failed(job, error)

    def _complete(self, job: Job, records: list[Record] | None = None) -> None:
        job.owner.done(job, records)
        if self.stuck:
            self.stuck.pop(job, None)
        self._settle(job)

    def _settle(self, job: Job) -> None:
        self._settled.set()
        self._finished(job.owner)

    # --- what may end the worker -------------------------------------------------------------------------------------

    async def _call_cautiously(self, job: Job) -> None:
        """Have the call in the log of commits before it is made; whom a worker has ended with is called alone."""
        if self._over(job):
            return
        progress, offsets = job.owner.progress, [record.offset for record in job.records]
        deaths = max((progress.deaths.get(offset, 0) for offset in offsets), default=0)
        if not deaths and not progress.doubtful:
            await self._call_once(job)
            return
        if deaths >= LEAST_DEATHS and job.attempts >= self._declared.retries.attempts and job not in self.stuck:
            self._fail_for_good(job, deaths)
            return
        if deaths and not self._isolation.enter(job, self):
            self._timers[job] = self._loop.call_later(alone.LOOK_MS / 1000, self._again, job)
            return
        limit = self._loop.call_later(alone.LONGEST_S, self._spawn_outlived, job, offsets) if deaths else None
        try:
            if deaths >= LEAST_DEATHS - 1:
                await self._quiet(job)
            for offset in offsets:
                progress.call(offset)
            await self._store(job.owner)
            if not self._over(job):
                await self._call_once(job)
        finally:
            if limit is not None:
                limit.cancel()
            for offset in offsets:
                progress.called(offset)
            self._isolation.leave(job)

    async def _quiet(self, job: Job) -> None:
        """Wait until no other call runs in the app, and have none begin."""
        self._isolation.closed = True
        until = self._loop.time() + alone.QUIET_S
        while self._isolation.calling > 1 and self._loop.time() < until and not job.owner.closing:
            await waiting.sleep_ms(LOOK_MS)

    def _spawn_outlived(self, job: Job, offsets: list[int]) -> None:
        self._spawn(self._outlived(job, offsets))

    async def _outlived(self, job: Job, offsets: list[int]) -> None:
        """A call that is made alone lasts: others go on, and it is not blamed for what they do."""
        for offset in offsets:
            job.owner.progress.called(offset)
        try:
            async with asyncio.timeout(alone.QUIET_S):
                await self._store(job.owner)
        except TimeoutError:
            pass
        finally:
            self._isolation.leave(job)

    def turn(self, job: Job) -> bool:
        """A job that waits to be called alone may go on now; whether it still waits."""
        timer = self._timers.get(job)
        if timer is None:
            return False
        timer.cancel()
        self._again(job)
        return True

    def _fail_for_good(self, job: Job, deaths: int) -> None:
        """A record ends one worker after another."""
        error = WorkerLostError(f"{deaths} workers ended, or lost the partition, while they handled it")
        logger.error("%s: %s", self._place(job), error)
        if self._declared.dead_letter is not None:
            self._spawn(self._bury_job(job, error))
            return
        wait = self._hold(job, f"{self._place(job)}: {self._handler.name}: {error}", error)
        self._timers[job] = self._loop.call_later(wait / 1000, self._again, job)

    # --- what fails --------------------------------------------------------------------------------------------------

    def _failed(self, job: Job, error: Exception) -> None:
        """The handler raised, or what it returned could not be sent."""
        job.attempts += 1
        owner = job.owner
        for record in job.records:
            owner.progress.attempts[record.offset] = job.attempts
        self._finished(owner)  # a crash does not have them begin anew
        if self._over(job):
            return
        retries, more = self._declared.retries, job.attempts < self._declared.retries.attempts
        place = self._place(job)
        said = f"{place}: {self._handler.name} failed, attempt {job.attempts}: {dead_letters.told(error)}"
        if more:
            wait = retries.wait_ms(job.attempts, random.random())
            logger.warning("%s. Again in %d ms", said, wait, exc_info=error if job.attempts == 1 else None)
        elif len(job.records) > 1:
            logger.warning("%s. Its records are tried one at a time", said)
            job.singly, wait = True, 0.0
        elif self._declared.dead_letter is not None:
            self._spawn(self._bury_job(job, error))
            return
        else:
            wait = self._hold(job, said, error)
        self._timers[job] = self._loop.call_later(wait / 1000, self._again, job)

    def _failed_to_read(self, job: Job, error: InvalidRecordError) -> None:
        """A value does not fit: it is of no use to try again."""
        if self._over(job):
            return
        if self._declared.dead_letter is not None:
            self._spawn(self._bury_job(job, error))
            return
        if len(job.records) > 1:  # others of the batch are not to wait for it
            job.singly, wait = True, 0.0
        else:
            job.attempts += 1
            wait = self._hold(job, f"{self._place(job)}: {error}", error)
        self._timers[job] = self._loop.call_later(wait / 1000, self._again, job)

    def _hold(self, job: Job, said: str, error: Exception) -> float:
        """Nothing else can be done with a record: it is tried for ever, for it must not be lost."""
        retries = self._declared.retries
        wait = retries.wait_ms(job.attempts, random.random()) or LEAST_HELD_MS
        logger.error("%s. There is no dead_letter= to put it into: it is kept, and tried again in %d ms", said, wait)
        self.stuck[job] = f"{self._place(job)}: {dead_letters.told(error)}"
        return wait

    def _over(self, job: Job) -> bool:
        """Whether the job's partition is given up or gone: whoever has it next handles its records."""
        if not (job.owner.closing or job.void):
            return False
        self._abandon(job)
        return True

    def _abandon(self, job: Job) -> None:
        job.owner.withdraw(job)
        self.stuck.pop(job, None)
        self._settled.set()

    def _again(self, job: Job) -> None:
        del self._timers[job]
        if self._over(job):
            return
        if not job.records:
            self.stuck.pop(job, None)
        job.owner.again(job)
        self.offer(job.owner)

    async def _call_singly(self, job: Job) -> None:
        """A batch that keeps failing: one call for each record, the last for each that fails in it."""
        trouble: Exception | None = None
        held: set[object] = set()
        for record in list(job.records):
            lane = job.owner.lane_of(record)
            if job.void or record not in job.records or lane in held:
                continue  # another's by now; reading went back behind it; or it comes after one that is kept
            try:
                arguments = self._handler.batch([self._handler.arguments(record)])
                for future in await self._handle(job, arguments, [record]):
                    await future
            except Exception as error:  # noqa: BLE001 - as in _call
                attempts = 0 if isinstance(error, InvalidRecordError) else job.attempts + 1
                if self._declared.dead_letter is None or not await self._bury(job, record, error, attempts):
                    trouble = error
                    held.add(lane)
                    continue
            self._complete(job, [record])
        if self._over(job):
            return
        if trouble is None:
            job.owner.finish(job)
            self._complete(job)
            self.offer(job.owner)
        else:
            job.owner.part(job)
            self.offer(job.owner)
            job.attempts += 1
            wait = self._hold(
                job, f"{self._place(job)}: {self._handler.name} failed: {dead_letters.told(trouble)}", trouble
            )
            self._timers[job] = self._loop.call_later(wait / 1000, self._again, job)

    # --- dead letters ------------------------------------------------------------------------------------------------

    async def _bury_job(self, job: Job, error: Exception) -> None:
        """Put all records of a job among the dead letters; its lanes go on when they are there."""
        attempts = 0 if isinstance(error, InvalidRecordError) else job.attempts
        try:
            buried = [await self._bury(job, record, error, attempts) for record in list(job.records)]
        except asyncio.CancelledError:
            self._abandon(job)
            raise
        if not all(buried):
            self._abandon(job)
            return
        job.owner.finish(job)
        self._complete(job)
        self.offer(job.owner)

    async def _bury(self, job: Job, record: Record, error: Exception, attempts: int) -> bool:
        """Put a record among the dead letters, as often as it takes.

        :returns: whether it is there; if not, its partition was given up meanwhile.
        """
        topic = str(self._declared.dead_letter)
        place = f"{where(record.topic, record.partition)}, offset {record.offset}"
        headers = dead_letters.headers(record, self._declared.group_id, error, attempts)
        failures = 0
        self.stuck[job] = f"{place}: on its way to {topic}: {dead_letters.told(error)}"
        while not job.void:
            try:
                await self._producer.send_and_wait(topic, record.value, record.key, headers=headers)
            except Exception as trouble:  # noqa: BLE001 - the record is kept whatever it is
                failures += 1
                wait = self._declared.retries.wait_ms(failures, random.random()) or LEAST_HELD_MS
                self.stuck[job] = said = f"{place}: not put into {topic}: {dead_letters.told(trouble)}"
                logger.error("%s. It is kept, and tried again in %d ms", said, wait)  # noqa: TRY400 - the line says it
                again_at = self._loop.time() + wait / 1000
                while not job.owner.closing and (left := again_at - self._loop.time()) > 0:
                    await waiting.sleep_ms(min(left * 1000, LOOK_MS))
                if job.owner.closing:  # nobody who wants the partition is to wait for this
                    break
            else:
                logger.error("%s: is in %s now: %s", place, topic, dead_letters.told(error))
                return True
        return False

    # --- ends --------------------------------------------------------------------------------------------------------

    async def settle(self, partitions: list[Lanes], timeout_ms: float) -> bool:
        """Wait for what runs of partitions; what waits for its next attempt is left to whoever has them next.

        :returns: whether all has ended.
        """
        given_up = set(map(id, partitions))
        for job in [job for job in self._timers if id(job.owner) in given_up]:
            self._timers.pop(job).cancel()
            self._abandon(job)
        deadline = self._loop.time() + timeout_ms / 1000
        while any(lanes.jobs for lanes in partitions):
            left = deadline - self._loop.time()
            if left <= 0:
                return False
            await self._settled.wait(left * 1000)
        return True

    def tell_slow(self, partitions: Iterable[Lanes]) -> None:
        """Say which calls have run for long."""
        limit = self._loop.time() - SLOW_S
        running = {job for lanes in partitions for job in lanes.jobs if job.began}
        for job in running:
            if job.began < limit and job not in self._slow:
                self._slow.add(job)
                logger.warning("%s: %s has been running for %d s", self._place(job), self._handler.name, SLOW_S)
        self._slow &= running

    async def close(self) -> None:
        """Cancel what still runs."""
        self._isolation.pools.discard(self)
        for timer in (*self._timers.values(), *filter(None, [self._batch_timer])):
            timer.cancel()
        self._calls.closing()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks and (left := (await asyncio.wait(tasks, timeout=CLOSE_S))[1]):
            logger.warning("%s: %d calls do not let themselves be cancelled: left alone", self._handler.name, len(left))
        self._calls.close()

    def _place(self, job: Job) -> str:
        if not job.records:
            return where(*job.owner.tp)
        first, last = job.records[0].offset, job.records[-1].offset
        offsets = f"offset {first}" if first == last else f"offsets {first} to {last}"
        return f"{where(*job.owner.tp)}, {offsets}"
