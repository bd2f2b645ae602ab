"""``Runner``: reads for one handler, holds partitions back that have enough, and commits what is done.

One task: it polls, hands records to the pool, and commits, in turn; a record that is done wakes it. The order of a
commit: note what is done; flush what handlers produced by themselves; store what was noted. A crash repeats what was
in flight and what was done since the last commit, and loses nothing.

Faults: a server that is away is waited for, with a line in the log; where producing by a handler failed, nothing is
committed and all that is uncommitted is read again; an error that will not pass by itself ends the runner.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from streamlayer._async.consumer import Consumer
from streamlayer._async.listener import ConsumerRebalanceListener
from streamlayer._async.producer import Producer
from streamlayer._core.lanes import Lanes, Record
from streamlayer._core.progress import Progress, from_metadata
from streamlayer._core.retry import backoff_ms
from streamlayer._types import Health, OffsetAndMetadata, TopicPartition
from streamlayer._waiting import aio as waiting
from streamlayer._worker.declared import Declared
from streamlayer._worker.isolation import Isolation
from streamlayer._worker.own import OwnProducer
from streamlayer._worker.pool import Pool
from streamlayer.errors import (
    CommitFailedError,
    ConfigurationError,
    CorruptRecordError,
    PartitionDamagedError,
    RequestTimedOutError,
    StreamlayerError,
    UnknownTopicOrPartitionError,
)

logger = logging.getLogger("streamlayer")

_LOOK_MS: Final = 1000  # how often it looks at what runs for long
_LONGEST_BACKOFF_MS: Final = 30_000
_FAILED_COMMIT_MS: Final = 200
_MOST_BYTES: Final = 16 << 20  # of a partition in hand; what one `poll` brings may be beyond
_LARGEST: Final = 32 << 20  # of results and dead letters: their topics' limits count, not one of its own
_FLUSH_MS: Final = 1000  # how long a commit waits for what nobody waits for; then it is tried again
_OVERTIME_MS: Final = 1000  # how long after the grace time the last commit may take
_CLOSING_MS: Final = 500  # how long results that do not count any more may be on their way


class _FlushFailedError(StreamlayerError):
    """What a handler sent by ``app.producer`` did not arrive."""

    retriable = True


class Runner(ConsumerRebalanceListener):
    """One handler at work.

    :param declared: the handler, and how it is run.
    :param common: what all clients of the app are made with.
    :param own_producer: the one that handlers send with, once one of them has.
    :param grace_ms: how long calls that run may take to end when the runner stops or gives partitions up.
    :param isolation: the app's.
    """

    def __init__(
        self,
        declared: Declared,
        common: Mapping[str, Any],
        own_producer: Callable[[], OwnProducer | None],
        grace_ms: int,
        isolation: Isolation,
    ) -> None:
        self.declared = declared
        self.grace_ms = grace_ms
        self._common = common
        self._own_producer = own_producer
        self._isolation = isolation
        self._consumer: Consumer | None = None
        self._pool: Pool | None = None
        self._partitions: dict[TopicPartition, Lanes] = {}
        self._dirty: set[TopicPartition] = set()
        self._committed: dict[TopicPartition, tuple[int, str]] = {}
        self._fresh: set[TopicPartition] = set()  # of which no commit says yet that they are begun
        self._left: dict[TopicPartition, tuple[int, str]] = {}  # commits of a session that was given up
        self._storing: dict[TopicPartition, list[asyncio.Future[None]]] = {}
        self._held: dict[TopicPartition, str] = {}
        self._stopping = asyncio.Event()
        self._limit: asyncio.Timeout | None = None
        self._polling = False
        self._commit_at = self._look_at = 0
        self._trouble = ""
        self._failure = ""

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read and handle until ``stop`` is called, whatever the server does meanwhile.

        :raises StreamlayerError: it cannot go on by itself.
        """
        failures = 0
        while not self._stopping.is_set():
            started = waiting.monotonic_ms()
            try:
                await self._session()
            except StreamlayerError as error:
                if not error.retriable:
                    self._failure = str(error)
                    raise
                if waiting.monotonic_ms() - started > _LONGEST_BACKOFF_MS:
                    failures = 0
                failures += 1
                self._trouble = str(error)
                wait = backoff_ms(failures - 1, random.random(), 500, _LONGEST_BACKOFF_MS)
                logger.warning("%s begins anew in %d ms: %s", self, wait, error)
                await self._rest(wait)

    def stop(self) -> None:
        """Finish what runs, commit, leave. Safe to call again."""
        if self._limit is not None and not self._stopping.is_set():
            now = asyncio.get_running_loop().time()
            self._limit.reschedule(now + (self.grace_ms + _OVERTIME_MS) / 1000)
        self._stopping.set()
        self._wake()

    async def _rest(self, milliseconds: float) -> None:
        try:
            async with asyncio.timeout(milliseconds / 1000):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _session(self) -> None:
        """A consumer's life."""
        producer: Producer[Any, Any] = Producer(
            **self._common,
            linger_ms=1,  # what waits for an answer gathers
            max_request_size=_LARGEST,
        )
        self._pool = pool = Pool(self.declared, producer, self._note, self._store, self._isolation)
        self._consumer = consumer = Consumer(
            *self.declared.topics,
            **self._common,
            **self.declared.reading,
            group_id=self.declared.group_id,
            enable_auto_commit=False,
            listener=self,
        )
        self._limit = limit = asyncio.timeout(None)
        try:
            async with limit:
                await consumer.__aenter__()
                while not self._stopping.is_set():
                    await self._turn(consumer, pool)
                await self._give_up(list(self._partitions.values()))
        except TimeoutError:
            if not limit.expired():
                raise
            logger.warning("%s could not commit in time: what it has done since is handled again", self)
        finally:
            self._limit = None
            await self._end(consumer, pool, producer)

    async def _end(self, consumer: Consumer, pool: Pool, producer: Producer[Any, Any]) -> None:
        self._left = self._committed.copy()
        self._forget(set(self._partitions))
        try:
            await pool.close()
        finally:
            self._consumer = self._pool = None
            try:
                await consumer.close()
            finally:
                await _close_quietly(producer)

    # --- one turn ----------------------------------------------------------------------------------------------------

    async def _turn(self, consumer: Consumer, pool: Pool) -> None:
        now = waiting.monotonic_ms()
        if self._dirty and now >= self._commit_at:
            await self._commit(consumer, self._dirty)
            now = waiting.monotonic_ms()
        if now >= self._look_at:
            self._look_at = now + _LOOK_MS
            pool.tell_slow(self._partitions.values())
        room = self._hold_back(consumer)
        timeout_ms = max(0, self._commit_at - now) if self._dirty else _LOOK_MS
        self._polling = True
        try:
            records = await consumer.poll(timeout_ms, max_records=room)
            self._trouble = ""
        except _FlushFailedError:  # it is told once only: others must not commit over it
            raise
        except StreamlayerError as error:
            self._endure(consumer, error)
            return
        finally:
            self._polling = False
        if fresh := self._fresh & records.keys():
            await self._commit(consumer, fresh)
        if records:
            for tp, some in records.items():
                self._accept(consumer, self._partitions[tp], some)
            for tp in records:
                pool.offer(self._partitions[tp])
            await waiting.give_turn()  # handlers that need not wait are done at once

    def _accept(self, consumer: Consumer, lanes: Lanes, records: list[Record]) -> None:
        progress = lanes.progress
        if records[0].offset < progress.high:
            lanes.rewind(records[0].offset)
        now = waiting.monotonic_ms()
        for record in records:
            offset = record.offset
            if progress.resuming(offset) and progress.trusts(offset, consumer.epochs_at(lanes.tp, offset)):
                progress.accept(offset)
                progress.done(offset)
                self._dirty.add(lanes.tp)
                continue
            if offset in progress.attempts and not progress.trusts(offset, consumer.epochs_at(lanes.tp, offset)):
                progress.forget(offset)
            lanes.accept(record, now)

    def _hold_back(self, consumer: Consumer) -> int:
        """Pause partitions that have enough, resume those that have room; the answer is how much each has at least."""
        ahead = room = self.declared.ahead
        for tp, lanes in self._partitions.items():
            free = ahead - lanes.unfinished
            if lanes.unfinished_bytes >= _MOST_BYTES:
                free = 0
            if lanes.held:
                if free >= ahead // 4 and tp not in self._held:
                    lanes.held = False
                    consumer.resume(tp)
            elif free < ahead // 8:
                lanes.held = True
                consumer.pause(tp)
            if not lanes.held:
                room = min(room, free)
        return room

    def _note(self, lanes: Lanes) -> None:
        """Records of a partition are done."""
        if not self._dirty:
            self._wake()
        self._dirty.add(lanes.tp)

    async def _store(self, lanes: Lanes) -> None:
        """Have a partition's progress stored; returns when it is, or its partition given up or gone."""
        if lanes.closing:
            return
        stored = asyncio.get_running_loop().create_future()
        self._storing.setdefault(lanes.tp, []).append(stored)
        self._dirty.add(lanes.tp)
        self._commit_at = 0
        self._wake()
        await stored

    def _wake(self) -> None:
        if self._polling and self._consumer is not None:
            self._consumer.wakeup()

    def _endure(self, consumer: Consumer, error: StreamlayerError) -> None:
        """What ``poll`` raised: others are read on, if that is possible."""
        if isinstance(error, CorruptRecordError):
            tp = TopicPartition(error.topic, error.partition)
            logger.error("%s holds %s[%d] back: %s", self, *tp, error)
            self._held[tp] = str(error)
            if tp in self._partitions:
                self._partitions[tp].held = True
            consumer.pause(tp)
        elif isinstance(error, (PartitionDamagedError, UnknownTopicOrPartitionError)) or error.retriable:
            logger.warning("%s goes on: %s", self, error)
            self._trouble = str(error)
        else:
            raise error

    # --- commits -----------------------------------------------------------------------------------------------------

    async def _commit(self, consumer: Consumer, partitions: Iterable[TopicPartition]) -> None:
        """Store how far partitions are; what cannot be stored now is tried again."""
        tried = set(partitions)
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        storing: dict[TopicPartition, list[asyncio.Future[None]]] = {}
        for tp in tried & self._partitions.keys() & consumer.assignment():  # a topic may be gone
            lanes = self._partitions[tp]
            progress = lanes.progress
            position = await consumer.position(tp)
            if position < progress.high:  # the server lost what was behind it
                lanes.rewind(position)
            kept = progress.to_metadata(consumer.epochs_at(tp, max(0, progress.high - 1)))
            storing[tp] = self._storing.pop(tp, [])
            if (progress.next, kept) != self._committed.get(tp):
                offsets[tp] = OffsetAndMetadata(progress.next, kept)
        for tp in tried - storing.keys():
            _release(self._storing.pop(tp, []))
        self._dirty -= tried
        self._fresh -= tried
        try:
            await self._flush()
            if offsets:
                await consumer.commit(offsets)
        except (CommitFailedError, ConfigurationError) as error:  # another's by now, or cut back: the next poll tells
            self._not_committed(tried, error)
        except _FlushFailedError:
            raise
        except StreamlayerError as error:
            if not error.retriable:
                raise
            self._not_committed(tried, error)
        else:
            self._committed |= {tp: (stored.offset, stored.metadata) for tp, stored in offsets.items()}
            self._commit_at = waiting.monotonic_ms() + self.declared.commit_interval_ms
            for futures in storing.values():
                _release(futures)
            storing.clear()
        finally:
            for tp, futures in storing.items():
                self._storing.setdefault(tp, []).extend(futures)

    def _not_committed(self, tried: set[TopicPartition], error: StreamlayerError) -> None:
        logger.warning("%s has not committed yet: %s", self, error)
        self._dirty |= tried & self._partitions.keys()
        self._commit_at = waiting.monotonic_ms() + _FAILED_COMMIT_MS

    async def _flush(self) -> None:
        """Have what handlers sent by themselves in the log before their records count as done."""
        producer = self._own_producer()
        if producer is None:
            return
        try:
            await producer.flush_others(_FLUSH_MS)
        except RequestTimedOutError:
            raise
        except StreamlayerError as error:
            msg = f"what a handler sent with app.producer did not arrive, so nothing is committed: {error}"
            raise _FlushFailedError(msg) from error

    # --- partitions come and go --------------------------------------------------------------------------------------

    async def on_partitions_assigned(self, assigned: AbstractSet[TopicPartition]) -> None:
        """Go on behind what is committed, skip what is done above it, and beware of what the owner before died of."""
        consumer = self._consumer
        if consumer is None:
            return
        for tp in sorted(assigned):
            start = await consumer.position(tp)
            text = consumer.resumed_metadata(tp)
            kept = from_metadata(text, start)
            if self._left.pop(tp, None) == (start, text):  # nobody died: it is this runner that begins anew
                kept = kept._replace(begun=False, calls=())
            progress = Progress(start, kept)
            progress.begin()
            self._partitions[tp] = Lanes(tp, self.declared.ordering, progress)
            self._committed[tp] = (start, text)
            self._fresh.add(tp)
        logger.info("%s got %s", self, _listed(assigned))

    async def on_partitions_revoked(self, revoked: AbstractSet[TopicPartition]) -> None:
        """Finish what runs, and commit, before others go on."""
        given_up = [self._partitions[tp] for tp in revoked if tp in self._partitions]
        if not given_up:
            return
        logger.info("%s gives up %s", self, _listed(revoked))
        try:
            await self._give_up(given_up)
        finally:
            self._forget(revoked)

    async def on_partitions_lost(self, lost: AbstractSet[TopicPartition]) -> None:
        """Others do again what was not committed."""
        logger.warning("%s lost %s: what it had not committed is handled again elsewhere", self, _listed(lost))
        self._forget(lost)

    def _forget(self, partitions: AbstractSet[TopicPartition]) -> None:
        for tp in partitions:
            lanes = self._partitions.pop(tp, None)
            if lanes is not None:
                lanes.lose()
            self._dirty.discard(tp)
            self._fresh.discard(tp)
            self._committed.pop(tp, None)
            _release(self._storing.pop(tp, []))
            self._held.pop(tp, None)

    async def _give_up(self, partitions: list[Lanes]) -> None:
        """End the calls of partitions, within the grace time, and store how far they are."""
        if self._pool is None or self._consumer is None:
            return
        for lanes in partitions:
            lanes.close()
            _release(self._storing.pop(lanes.tp, []))
        if not await self._pool.settle(partitions, self.grace_ms):
            left = sum(len(job.records) for lanes in partitions for job in lanes.jobs)
            logger.warning("%s: %d records are still in hand after %d ms: left to others", self, left, self.grace_ms)
        for lanes in partitions:
            lanes.progress.leave()
        await self._commit(self._consumer, {lanes.tp for lanes in partitions})

    # --- how it is doing ---------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return f"{self.declared.handler.name} ({self.declared.group_id})"

    def health(self) -> Health:
        """How it is doing, from memory."""
        if self._failure:
            return Health(ok=False, state="failed", reason=self._failure)
        if self._consumer is None:
            return Health(ok=False, state="retrying" if self._trouble else "new", reason=self._trouble)
        health = self._consumer.health()
        stuck = self.stuck
        if not health.ok or not stuck:
            return health
        return health._replace(state="holding", reason=f"{len(stuck)} not handled: {stuck[0]}")

    def member_id(self) -> str:
        """Its consumer's place in the group, from memory; empty while it has none."""
        place = None if self._consumer is None else self._consumer.group_metadata()
        return "" if place is None else place.member_id

    @property
    def stuck(self) -> list[str]:
        """Why what cannot be handled is kept: one line for each record, batch or partition."""
        return [*self._held.values(), *(self._pool.stuck.values() if self._pool is not None else ())]

    @property
    def resting(self) -> bool:
        """Whether nothing goes on but attempts at what failed for good."""
        stuck = {} if self._pool is None else self._pool.stuck
        return not self._dirty and all(job in stuck for lanes in self._partitions.values() for job in lanes.jobs)


def _release(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


async def _close_quietly(producer: Producer[Any, Any]) -> None:
    try:
        await producer.close(timeout_ms=_CLOSING_MS)
    except StreamlayerError as error:
        logger.debug("not sent at the end: %s", error)  # its records are not done, and are handled again


def _listed(partitions: AbstractSet[TopicPartition]) -> str:
    return ", ".join(f"{topic}[{number}]" for topic, number in sorted(partitions))
