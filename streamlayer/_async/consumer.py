"""``Consumer``: reads partitions from a position, hands records out, and waits for more without asking.

Without a group it reads all partitions of its topics, new ones too, and commits nothing; what a group makes of it is in
``group``. What was fetched and how far it was handed out is the core's (``positions``); which partitions there are is
``assignment``'s; this file asks, waits and hands out.
"""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from threading import Lock
from types import TracebackType
from typing import Any, Generic, Literal, Never, Self

from streamlayer._async.assignment import Assignment
from streamlayer._async.client import Client
from streamlayer._async.fetcher import Fetcher
from streamlayer._async.group import Group
from streamlayer._async.listener import ConsumerRebalanceListener
from streamlayer._async.offsets import EARLIEST, LATEST, Offsets
from streamlayer._async.subscriber import Subscriber
from streamlayer._config import ConsumerOptions, checked, refuse_unknown
from streamlayer._core.checks import check_commit, check_offset
from streamlayer._core.entries import DELETING
from streamlayer._core.keys import check_name
from streamlayer._core.positions import PartitionPosition
from streamlayer._core.times import to_ms
from streamlayer._types import (
    ConsumerMetrics,
    ConsumerRecord,
    GroupMetadata,
    Health,
    K,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    TopicPartition,
    V,
)
from streamlayer._waiting import aio as waiting
from streamlayer.errors import (
    ConfigurationError,
    ForeignDataError,
    IllegalStateError,
    PartitionDamagedError,
    RequestTimedOutError,
    StreamlayerError,
    UnknownTopicOrPartitionError,
)

_COMMON = ("url", "redis", "namespace", "client_id", "allow_eviction")
_OPTIONS = (*ConsumerOptions.model_fields, "listener", "key_deserializer", "value_deserializer")
_IN_USE = "the consumer is in use elsewhere: one thread (or task) at a time; only wakeup() may come from others"
TURN_MS = 5
"""After this long without waiting, a call that need not wait gives others a turn."""


class Consumer(Generic[K, V]):
    """Reads topics.

    One thread (sync) or one task (aio) at a time uses it; ``wakeup`` alone may come from anywhere.

    :param topics: what to read; the same as ``subscribe(topics)``.
    :param url: the server; by default ``STREAMLAYER_URL``, else ``redis://localhost:6379/0``.
    :param redis: a redis-py client instead, whose settings are copied.
    :param namespace: what all keys begin with; ``sl`` by default.
    :param client_id: the connections' name on the server.
    :param allow_eviction: go on although the server may delete records when its memory is full.
    :param group_id: the group whose members share the partitions, each read by one of them; ``None`` for no group.
    :param group_instance_id: makes a static member (KIP-345): it does not leave when it closes, and has the same
        partitions again if it comes back within its session. Each that runs at the same time needs an id of its own.
    :param listener: told of partitions that come and go; see ``ConsumerRebalanceListener``.
    :param enable_auto_commit: commit in ``poll`` and ``close`` what was handed out before.
    :param auto_commit_interval_ms: how often at most.
    :param max_poll_interval_ms: a consumer that does not poll for longer leaves its group until it does.
    :param session_timeout_ms: a consumer that is not heard for so long is dropped from its group.
    :param heartbeat_interval_ms: how often it is heard, whether it polls or not.
    :param offsets_retention_ms: how long the group's offsets are kept after it was last heard.
    :param auto_offset_reset: where to begin, and to go on when records are gone: ``"earliest"``, ``"latest"``, or
        ``"none"`` to raise when they are gone (it begins at the first record).
    :param max_poll_records: how many records ``poll`` returns at most.
    :param fetch_min_bytes: wait for this many bytes before records are returned, ``fetch_max_wait_ms`` at most.
    :param fetch_max_wait_ms: see there.
    :param fetch_max_bytes: about how many bytes one fetch brings; one record always comes.
    :param max_partition_fetch_bytes: the same for one partition.
    :param consumer_timeout_ms: iteration ends after this long without a record; ``None``: never.
    :param key_deserializer: from bytes to a key.
    :param value_deserializer: from bytes to a value.
    :raises ConfigurationError: an option's value cannot work.
    :raises TypeError: an option does not exist.
    """

    def __init__(
        self,
        *topics: str,
        url: str | None = None,
        redis: waiting.Redis | None = None,
        namespace: str | None = None,
        client_id: str | None = None,
        allow_eviction: bool = False,
        group_id: str | None = None,
        group_instance_id: str | None = None,
        listener: ConsumerRebalanceListener | None = None,
        enable_auto_commit: bool = True,
        auto_commit_interval_ms: int = 5000,
        max_poll_interval_ms: int = 300_000,
        session_timeout_ms: int = 10_000,
        heartbeat_interval_ms: int = 3000,
        offsets_retention_ms: int = 604_800_000,
        auto_offset_reset: Literal["earliest", "latest", "none"] = "earliest",
        max_poll_records: int = 500,
        fetch_min_bytes: int = 1,
        fetch_max_wait_ms: int = 500,
        fetch_max_bytes: int = 8_388_608,
        max_partition_fetch_bytes: int = 1_048_576,
        consumer_timeout_ms: int | None = None,
        key_deserializer: Callable[[bytes], K] | None = None,
        value_deserializer: Callable[[bytes], V] | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            refuse_unknown("Consumer", unknown, (*_COMMON, *_OPTIONS))
        self._options = checked(
            ConsumerOptions,
            {
                "group_id": group_id,
                "group_instance_id": group_instance_id,
                "enable_auto_commit": enable_auto_commit,
                "auto_commit_interval_ms": auto_commit_interval_ms,
                "max_poll_interval_ms": max_poll_interval_ms,
                "session_timeout_ms": session_timeout_ms,
                "heartbeat_interval_ms": heartbeat_interval_ms,
                "offsets_retention_ms": offsets_retention_ms,
                "auto_offset_reset": auto_offset_reset,
                "max_poll_records": max_poll_records,
                "fetch_min_bytes": fetch_min_bytes,
                "fetch_max_wait_ms": fetch_max_wait_ms,
                "fetch_max_bytes": fetch_max_bytes,
                "max_partition_fetch_bytes": max_partition_fetch_bytes,
                "consumer_timeout_ms": consumer_timeout_ms,
            },
        )
        self._key_of = key_deserializer
        self._value_of = value_deserializer
        self._client = Client(url, redis, namespace, client_id, allow_eviction=allow_eviction)
        self._offsets = Offsets(self._client)
        self._subscriber = Subscriber(self._client)
        weakref.finalize(self, self._subscriber.let_go).atexit = False
        self._assignment = Assignment(
            self._client, self._offsets, self._options.auto_offset_reset, in_group=group_id is not None
        )
        self._fetcher = Fetcher(self._client, self._assignment, self._offsets, self._options)
        self._in_use = Lock()
        self._woken = False
        self._ripe = False  # what is left was waited for already
        self._ended = False
        self._closed = False
        self._turn_at = 0
        self._check_at = 0
        self._next_checked = 0
        self._records: list[ConsumerRecord[Any, Any]] = []
        self._record = 0
        self._in_listener = False
        self._autocommit_at_close = True
        self._finished_only = False
        self._gone = False
        self._in_hand: dict[TopicPartition, int] = {}
        self._group: Group | None = None
        if group_id is not None:
            check_name(group_id, "group")
            if group_instance_id is not None:
                check_name(group_instance_id, "group_instance_id")
                if group_instance_id == "-":
                    msg = "group_instance_id='-' is taken by the library for none: give it a name"
                    raise ConfigurationError(msg)
            self._group = Group(
                self._client,
                self._assignment,
                self._subscriber,
                self._options,
                in_poll=self._in_use.locked,
                telling=self._telling,
            )
            self._assignment.resume = self._group.resume
        self._listen(listener)
        if topics:
            self.subscribe(topics)

    # --- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect, and find the partitions of what was subscribed to.

        :raises ServerUnavailableError: nobody answers.
        """
        await self._client.connect()
        await self._assignment.refresh()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. If the block raised, what was finished is committed: all but the record, or the batch, in hand."""
        self._finished_only = kind is not None
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._fetcher.health().state
        what = ", ".join(sorted(self._assignment.topics)) or f"{len(self._assignment.positions)} partitions"
        return f"<Consumer {what} at {self._client.settings.place} namespace={self._client.namespace} {state}>"

    def health(self) -> Health:
        """How it is doing, from memory."""
        if self._closed:
            return Health(ok=False, state="closed", reason="close() was called")
        health = self._fetcher.health()
        return health if self._group is None or self._assignment.by_hand else self._group.health(health)

    def metrics(self) -> ConsumerMetrics:
        """What it has met so far, from memory."""
        fetcher = self._fetcher
        return ConsumerMetrics(fetcher.truncations, fetcher.records_lost, fetcher.records_missed)

    async def close(self, *, autocommit: bool = True, timeout_ms: int | None = None) -> None:
        """Commit what was handed out, leave the group, close the connections. May be called twice.

        :param autocommit: whether to commit; it is not done either if ``enable_auto_commit`` is false.
        :param timeout_ms: how long to wait for what runs beside; ``None``: a few seconds.
        """
        self._closed = True
        self._autocommit_at_close = self._autocommit_at_close and autocommit
        self._subscriber.inbox.put(True)
        await self._subscriber.close(timeout_ms)
        if self._in_use.acquire(blocking=False):  # else a call is under way elsewhere: it ends soon, and closes
            await self._leave()
            self._drop_record_buffer()

    async def _end(self) -> None:
        """Commit, leave the group and close the connection, once."""
        if self._gone:
            return
        self._gone = True
        try:
            if self._group is not None:
                if self._autocommit_at_close and self._options.enable_auto_commit:
                    await self._group.commit_quietly(self._finished(but_in_hand=self._finished_only))
                await self._group.close()
        finally:
            await self._client.close()

    def wakeup(self) -> None:
        """End a ``poll`` or an iteration that waits, now or the next one. Safe in signal handlers and other threads."""
        self._woken = True
        self._subscriber.inbox.put(True)

    def _check(self) -> None:
        """For what is done without waiting: refuse it after close, and in the middle of another call."""
        if self._closed and not self._in_listener:
            msg = "the consumer is closed: make a new one"
            raise IllegalStateError(msg)
        if self._in_use.locked():
            raise IllegalStateError(_IN_USE)

    def _enter(self) -> None:
        self._check()
        if not self._in_use.acquire(blocking=False):
            raise IllegalStateError(_IN_USE)
        try:
            self._client.check_home()
        except BaseException:
            self._in_use.release()
            raise

    def _enter_polling(self) -> None:
        if self._in_listener:
            msg = "a ConsumerRebalanceListener may commit and seek, but not read: poll() called it"
            raise IllegalStateError(msg)
        self._enter()

    async def _leave(self) -> None:
        if self._group is not None:
            self._group.polled()
        self._in_use.release()
        if self._closed and not self._in_listener:
            await self._end()

    @contextmanager
    def _telling(self) -> Generator[None]:
        """While a listener runs it may use the consumer."""
        held = self._in_use.locked()
        if held:
            self._in_use.release()
        self._in_listener = True
        try:
            yield
        finally:
            self._in_listener = False
            if held and not self._in_use.acquire(blocking=False):
                raise IllegalStateError(_IN_USE)

    def _listen(self, listener: ConsumerRebalanceListener | None) -> None:
        if listener is not None:
            self._in_group("listener").listener = listener

    def _in_group(self, what: str) -> Group:
        if self._group is None:
            msg = f"{what}: this consumer has no group_id, and reads without a group: Consumer(…, group_id='…')"
            raise IllegalStateError(msg)
        return self._group

    # --- what is read ------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        topics: Iterable[str] = (),
        *,
        pattern: str | re.Pattern[str] | None = None,
        listener: ConsumerRebalanceListener | None = None,
    ) -> None:
        """Read all partitions of topics, those that are added too; in a group, this member's part of them.

        Replaces an earlier subscription.

        :param topics: their names; one that does not exist yet is waited for.
        :param pattern: instead: every topic whose whole name this regular expression matches.
        :param listener: told of partitions that come and go; by default the one that there was.
        :raises InvalidTopicError: a name cannot be one.
        :raises IllegalStateError: partitions were assigned by hand; ``unsubscribe`` first.
        """
        self._check()
        self._drop_record_buffer()
        self._listen(listener)
        self._assignment.subscribe(topics, pattern)
        if self._group is not None:
            self._group.subscribe()

    def unsubscribe(self) -> None:
        """Read nothing any more, drop what was fetched, leave the group. Nothing is committed, no listener is told."""
        self._check()
        self._drop_record_buffer()
        if self._group is not None:
            self._group.unsubscribe()
        self._assignment.clear()

    def subscription(self) -> set[str]:
        """The topics subscribed to; with a pattern, those it matched so far."""
        if self._group is not None and self._assignment.pattern is not None:
            return set(self._group.session.topics)
        return set(self._assignment.topics)

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read just these partitions. Those that were read before go on where they were.

        :raises IllegalStateError: topics were subscribed to; ``unsubscribe`` first.
        """
        self._check()
        self._drop_record_buffer()
        self._assignment.assign(partitions)

    def assignment(self) -> set[TopicPartition]:
        """The partitions that are read now. A subscription is looked up on entering the block and in ``poll``."""
        return self._assignment.assigned()

    async def wait_for_assignment(self, *, timeout_ms: int | None = None) -> set[TopicPartition]:
        """Wait until this consumer has all the partitions that its group wants it to have; maybe none.

        :param timeout_ms: how long; ``None``: as long as it takes.
        :raises RequestTimedOutError: it has not, after that time.
        """
        self._enter_polling()
        try:
            self._check_wanted()
            if self._group is None or self._assignment.by_hand:
                await self._assignment.refresh()
                return self._assignment.assigned()
            self._drop_record_buffer()
            now = waiting.monotonic_ms()
            deadline = now + (math.inf if timeout_ms is None else timeout_ms)
            while not (self._woken or self._closed):
                self._absorb()
                if now >= self._fetcher.retry_at:
                    await self._follow(self._group)
                if self._group.settled:
                    break
                if now >= deadline:
                    msg = f"group {self._options.group_id}: the assignment is not complete after {timeout_ms} ms"
                    raise RequestTimedOutError(msg)
                await self._wait(now, deadline)
                now = waiting.monotonic_ms()
            self._woken = False
            return self._assignment.assigned()
        finally:
            await self._leave()

    # --- records -----------------------------------------------------------------------------------------------------

    async def poll(
        self, timeout_ms: int = 1000, *, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord[K, V]]]:
        """Hand out the next records. Those that were fetched before they expired or were deleted may be among them.

        While the server is away nothing is raised: it is empty, ``health`` says why, and all goes on by itself.

        :param timeout_ms: how long to wait for the first; 0: only what is there. A server that is connected and silent
            may take 5 s more.
        :param max_records: how many at most; ``max_poll_records`` by default.
        :returns: records by partition, in order; empty after the time or ``wakeup()``.
        :raises OffsetOutOfRangeError: a position is not in the log, and ``auto_offset_reset`` is ``"none"``.
        :raises UnknownTopicOrPartitionError: a topic was deleted. Told once; if it comes again (or is there again:
            ``UnknownTopicIdError``), it is read from its first record; if it is the same log again, from where it was.
        :raises LogTruncationError: the server lost records, and ``auto_offset_reset`` is ``"none"``.
        :raises PartitionDamagedError: what is stored of a partition contradicts itself. Told now and then; in between
            the others are read. ``pause`` ends it, and when it was mended it is read by itself.
        :raises CorruptRecordError: the next record cannot be read; ``seek`` past it to go on.
        :raises RecordDeserializationError: a deserializer raised; ``seek`` past the record to go on.
        """
        if timeout_ms < 0 or (max_records is not None and max_records < 1):
            msg = f"timeout_ms={timeout_ms} must not be negative, max_records={max_records} must be 1 or more"
            raise ConfigurationError(msg)
        self._enter_polling()
        try:
            self._drop_record_buffer()
            return await self._poll(timeout_ms, max_records or self._options.max_poll_records, None)
        finally:
            await self._leave()

    def _check_wanted(self) -> None:
        if not self._assignment.wanted:
            msg = "nothing to read: Consumer('topic'), subscribe() or assign() comes first"
            raise IllegalStateError(msg)

    async def _poll(
        self, timeout_ms: float, most: int, ends: Mapping[TopicPartition, int] | None
    ) -> dict[TopicPartition, list[ConsumerRecord[Any, Any]]]:
        self._check_wanted()
        now = waiting.monotonic_ms()
        deadline = now + timeout_ms
        self._ended = False
        if now - self._turn_at >= TURN_MS:
            await waiting.give_turn()
            self._turn_at = now
        enough_at: float | None = None
        group = None if self._assignment.by_hand else self._group
        if self._group is not None:
            trouble = await self._group.commit_due(self._finished)
            now = waiting.monotonic_ms()
            if trouble is not None:
                self._fetcher.endure(trouble)  # to ask a silent server once is enough
        self._in_hand = {}
        while True:
            if self._woken or self._closed:
                self._woken = False
                self._ended = True
                return {}
            self._absorb()
            if group is not None and now >= self._fetcher.retry_at:
                await self._follow(group)
                now = waiting.monotonic_ms()
            if group is not None and group.lapsed():  # nothing is handed out before the group vouches for it again
                if now >= deadline:
                    return {}
                await self._sleep(min(deadline - now, 1000))
                now = self._turn_at = waiting.monotonic_ms()
                continue
            await self._fetcher.keep_up(now)
            now = waiting.monotonic_ms()
            if self._fetcher.buffered:
                if enough_at is None:
                    enough_at = now + self._options.fetch_max_wait_ms
                enough = self._ripe or self._fetcher.buffered >= self._options.fetch_min_bytes
                if enough or now >= min(enough_at, deadline):
                    records = self._hand_out(group, most, ends)
                    self._ripe = self._fetcher.buffered > 0
                    if records:
                        return records
            else:
                self._ripe = False
            self._take_errors()
            if now >= deadline:
                return {}
            if not self._fetcher.due(now):
                await self._wait(now, min(deadline, enough_at or deadline))
                now = self._turn_at = waiting.monotonic_ms()

    async def _follow(self, group: Group) -> None:
        """Do what the group wants; trouble with the server is noted and tried again later."""
        try:
            await group.follow(self._finished)
        except StreamlayerError as error:
            self._fetcher.endure(error)

    def _hand_out(
        self, group: Group | None, most: int, ends: Mapping[TopicPartition, int] | None
    ) -> dict[TopicPartition, list[ConsumerRecord[Any, Any]]]:
        """Take records, and give them back where they are not to be handed out: nobody vouches for this member, or
        Ctrl-C struck meanwhile. What is in hand is noted before, so that wherever it strikes it is not committed.
        """
        self._in_hand = {p.tp: p.position for p in self._assignment.positions.values() if p.buffered}
        records: dict[TopicPartition, list[ConsumerRecord[Any, Any]]] = {}
        try:
            records = self._take(most, ends)
            if group is not None and group.lapsed():
                self._take_back()
                records = {}
        except BaseException:
            self._take_back()
            raise
        self._in_hand = {tp: self._in_hand[tp] for tp in records}
        return records

    def _take(
        self, most: int, ends: Mapping[TopicPartition, int] | None
    ) -> dict[TopicPartition, list[ConsumerRecord[Any, Any]]]:
        records: dict[TopicPartition, list[ConsumerRecord[Any, Any]]] = {}
        for position in self._fetcher.in_turn():
            if position.buffered and not position.paused:
                end = None if ends is None else ends.get(position.tp, 0)
                try:
                    taken = position.take(most, end, self._key_of, self._value_of)
                except Exception:  # whatever it is: what was taken of other partitions must not be lost with it
                    if records:
                        break  # hand those out first; the error stays and comes next
                    raise
                if taken:
                    records[position.tp] = taken
                    most -= len(taken)
                    if not most:
                        break
        return records

    def _take_back(self) -> None:
        for tp, offset in self._in_hand.items():
            position = self._assignment.positions[tp]
            if position.position != offset:
                position.give_back(offset)

    def _finished(self, *, but_in_hand: bool = False) -> dict[TopicPartition, int]:
        """What was handed out: partition -> the offset behind it.

        :param but_in_hand: the record (of an iteration) or the batch (of a poll) that came last does not count.
        """
        done = {tp: position.position for tp, position in self._assignment.positions.items()}
        first = max(0, self._record - 1) if but_in_hand else self._record
        done |= {record.topic_partition: record.offset for record in reversed(self._records[first:])}
        return done | self._in_hand if but_in_hand else done

    def _take_errors(self) -> None:
        for position in self._assignment.positions.values():
            error = position.error
            if error is None or position.paused:
                continue
            if isinstance(error, (PartitionDamagedError, ForeignDataError)):  # somebody may mend it: asked in its turn
                position.error, position.waiting = None, True
            raise error

    def _absorb(self) -> None:
        """Take in what the subscriber heard."""
        while self._subscriber.woken:
            self._assignment.woken(self._subscriber.woken.pop())

    async def _wait(self, now: int, until: float) -> None:
        """Sleep until something new is heard, or it is time to look without being told."""
        await self._subscriber.listen(self._assignment.channels())
        if self._check_at <= now:
            self._check_at = now + 1000
            waits = [position for position in self._assignment.positions.values() if position.waiting]
            if waits:
                self._next_checked += 1
                waits[self._next_checked % len(waits)].waiting = False
                return
        await self._sleep(min(until, self._check_at, self._fetcher.retry_at or until) - now)

    async def _sleep(self, milliseconds: float) -> None:
        """Sleep until something new is heard, or the time is over."""
        if await self._subscriber.inbox.get(milliseconds):
            while self._subscriber.inbox.get_nowait():
                pass

    def __aiter__(self) -> Self:
        """Iterate over records, one at a time; see ``__anext__``."""
        return self

    async def __anext__(self) -> ConsumerRecord[K, V]:
        """The next record; ends after ``consumer_timeout_ms`` of silence, ``wakeup()`` and ``close()``."""
        if self._record < len(self._records) and not self._woken and not self._interrupted():
            now = waiting.monotonic_ms()
            if now - self._turn_at >= TURN_MS:
                await waiting.give_turn()
                self._turn_at = now
                if self._group is not None:
                    await self._group.commit_due(self._finished)
            record = self._records[self._record]
            self._record += 1
            return record
        if self._closed:
            raise StopAsyncIteration
        self._enter_polling()
        try:
            self._drop_record_buffer()
            timeout = self._options.consumer_timeout_ms
            while True:
                batch = await self._poll(1000 if timeout is None else timeout, self._options.max_poll_records, None)
                if batch:
                    self._keep(batch)
                    self._record = 1
                    return self._records[0]
                if timeout is not None or self._ended:
                    raise StopAsyncIteration
        finally:
            await self._leave()

    def _interrupted(self) -> bool:
        """Whether the group has to be looked at before the next record of a batch is handed out."""
        return self._group is not None and self._group.interrupts()

    def _keep(self, batch: dict[TopicPartition, list[ConsumerRecord[Any, Any]]]) -> None:
        """Records to hand out one at a time."""
        self._records = [record for records in batch.values() for record in records]
        self._record = 0
        self._in_hand = {}

    def _drop_record_buffer(self) -> None:
        """Records fetched for an iteration and not handed out go back: positions are as if they were never taken."""
        for record in reversed(self._records[self._record :]):
            position = self._assignment.positions.get(record.topic_partition)
            if position is not None:
                position.give_back(record.offset)
        self._records = []
        self._record = 0

    async def read_to_end(self) -> AsyncIterator[ConsumerRecord[K, V]]:
        """Iterate up to the ends of all assigned partitions as they are now, then stop.

        What is appended meanwhile is not read; the positions are right behind the ends.
        """
        if self._group is not None and not self._assignment.by_hand:
            await self.wait_for_assignment()
        self._enter_polling()
        try:
            self._check_wanted()
            self._drop_record_buffer()
            await self._assignment.refresh()
            positions = self._assignment.positions
            ends = dict(zip(positions, await self._find(list(positions.values()), LATEST), strict=True))
            self._assignment.expect(ends)
            for position in self._assignment.positions.values():
                position.waiting = False  # the ends may be newer than its last fetch
        finally:
            await self._leave()
        while True:
            while self._record < len(self._records) and not self._interrupted():
                record = self._records[self._record]
                self._record += 1
                yield record
            self._drop_record_buffer()
            if self._closed or not self._assignment.behind(ends):
                return
            self._enter_polling()
            try:
                self._keep(await self._poll(1000, self._options.max_poll_records, ends))
            finally:
                await self._leave()
            if self._ended:
                return

    # --- positions ---------------------------------------------------------------------------------------------------

    async def position(self, tp: TopicPartition) -> int:
        """The offset of the next record that will be handed out.

        :raises IllegalStateError: the partition is not assigned.
        """
        self._enter()
        try:
            if tp not in self._assignment.positions and self._assignment.wanted:
                await self._assignment.refresh()
            for record in self._records[self._record :]:
                if record.topic_partition == tp:
                    return record.offset
            return self._assignment.position_of(tp).position
        finally:
            await self._leave()

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Go on at an offset; what was fetched is dropped. Whether it is in the log shows at the next ``poll``.

        :raises ConfigurationError: the offset is negative or no int.
        :raises IllegalStateError: the partition is neither assigned nor of a topic subscribed to.
        """
        check_offset(tp, offset)
        self._check()
        self._drop_record_buffer()
        self._assignment.seek(tp, offset)

    async def seek_to_beginning(self, *tps: TopicPartition) -> None:
        """Go to the first offsets that the logs hold now. No arguments: all assigned partitions."""
        await self._seek_all(tps, EARLIEST)

    async def seek_to_end(self, *tps: TopicPartition) -> None:
        """Go behind the last records that the logs hold now. No arguments: all assigned partitions."""
        await self._seek_all(tps, LATEST)

    async def seek_to_time(self, when: int | datetime, *tps: TopicPartition) -> None:
        """Go to the first records at or after a time; where there is none, to the end.

        :param when: ms since the epoch, or an aware datetime.
        :raises InvalidTimestampError: seconds, or a datetime without a time zone.
        """
        await self._seek_all(tps, to_ms(when))

    async def _seek_all(self, tps: tuple[TopicPartition, ...], timestamp: int) -> None:
        self._enter()
        try:
            self._drop_record_buffer()
            await self._assignment.refresh()
            chosen = [self._assignment.position_of(tp) for tp in tps or self._assignment.positions]
            found = await self._find(chosen, timestamp)
            for position, offset in zip(chosen, found, strict=True):
                position.seek(offset)
        finally:
            await self._leave()

    async def _find(self, positions: Sequence[PartitionPosition], timestamp: int) -> list[int]:
        """Offsets of partitions that are read. If a topic is gone, that is told once, as by ``poll``."""
        try:
            return await self._offsets.find(positions, timestamp)
        except UnknownTopicOrPartitionError:
            await self._assignment.let_go()
            raise

    def pause(self, *tps: TopicPartition) -> None:
        """Hand out nothing of these partitions until ``resume``; none named: all. What was fetched is kept."""
        self._check()
        self._drop_record_buffer()
        for tp in tps or self._assignment.assigned():
            self._assignment.pause(tp, paused=True)

    def resume(self, *tps: TopicPartition) -> None:
        """End ``pause``. None named: all."""
        self._check()
        for tp in tps or self._assignment.paused():
            self._assignment.pause(tp, paused=False)

    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        return self._assignment.paused()

    def highwater(self, tp: TopicPartition) -> int | None:
        """The log's end as the last fetch saw it; ``None`` before the first, or for a partition not assigned."""
        position = self._assignment.positions.get(tp)
        return None if position is None else position.highwater

    # --- the group ---------------------------------------------------------------------------------------------------

    async def commit(
        self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | ConsumerRecord[Any, Any] | None = None
    ) -> None:
        """Store in the group how far this consumer is.

        :param offsets: partition -> offset of the next record to read, or that with a text; or a record, up to and
            including which its partition was read; ``None``: everything that was handed out.
        :raises CommitFailedError: a partition is not this consumer's, or no longer; nothing was stored.
        :raises NonEmptyGroupError: partitions were assigned by hand, but the group has members.
        :raises ConfigurationError: an offset cannot be one, or lies behind the log's end.
        :raises IllegalStateError: there is no group.
        """
        group = self._in_group("commit")
        self._enter()
        try:
            if offsets is None:
                wanted = {tp: (offset, "") for tp, offset in self._finished().items()}
            elif isinstance(offsets, ConsumerRecord):
                wanted = {offsets.topic_partition: (offsets.offset + 1, "")}
            else:
                wanted = {TopicPartition(*tp): check_commit(tp, given) for tp, given in offsets.items()}
                await self._check_ends({tp: offset for tp, (offset, _) in wanted.items()})
            if wanted:
                await group.commit(wanted)
        finally:
            await self._leave()

    async def _check_ends(self, offsets: Mapping[TopicPartition, int]) -> None:
        positions = self._assignment.positions
        further = [positions[tp] for tp, at in offsets.items() if tp in positions and at > positions[tp].position]
        for position, end in zip(further, await self._find(further, LATEST), strict=True):
            if offsets[position.tp] > end:
                msg = f"commit({{{position.tp!r}: {offsets[position.tp]}}}): the log ends at {end}"
                raise ConfigurationError(msg)

    async def committed(self, tp: TopicPartition) -> int | None:
        """The offset that the group has stored of a partition; ``None`` if it has none of this log.

        :raises UnknownTopicOrPartitionError: there is no such topic or partition.
        :raises IllegalStateError: there is no group.
        """
        group = self._in_group("committed")
        self._enter()
        try:
            (position,) = await self._assignment.look_up([tp])
            (stored,) = await group.read([position.tp])
            return None if stored is None or stored.topic_id not in {"", position.topic_id} else stored.offset
        finally:
            await self._leave()

    def resumed_metadata(self, tp: TopicPartition) -> str:
        """The text that was committed with the offset at which this consumer took a partition up, from memory.

        Empty if there was none, or if the partition is not assigned.
        """
        position = self._assignment.positions.get(tp)
        return "" if position is None else position.metadata

    def epochs_at(self, tp: TopicPartition, offset: int) -> str:
        """The last epochs of the log up to a record that was handed out, as ``number:token:start,…``; from memory.

        An offset names another record after the server lost its log's end: then it lies in another epoch. Who keeps
        offsets elsewhere keeps these beside them. Empty if they are unknown, or if the partition is not assigned.
        """
        position = self._assignment.positions.get(tp)
        return "" if position is None else position.crossed_at(offset)

    async def lag(self) -> dict[TopicPartition, int]:
        """How many records lie between this consumer and the end, for each assigned partition."""
        self._enter()
        try:
            await self._assignment.refresh()
            positions = list(self._assignment.positions.values())
            ends = await self._find(positions, LATEST)
            done = self._finished()
            return {p.tp: max(0, end - done[p.tp]) for p, end in zip(positions, ends, strict=True)}
        finally:
            await self._leave()

    def group_metadata(self) -> GroupMetadata | None:
        """This consumer's place in its group, from memory; ``None`` without a group."""
        return None if self._group is None else self._group.metadata()

    # --- questions ---------------------------------------------------------------------------------------------------

    async def beginning_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset that each log holds.

        :raises UnknownTopicOrPartitionError: there is no such topic or partition.
        """
        return await self._ask(tps, EARLIEST)

    async def end_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset that the next record of each log will get.

        :raises UnknownTopicOrPartitionError: there is no such topic or partition.
        """
        return await self._ask(tps, LATEST)

    async def _ask(self, tps: Iterable[TopicPartition], timestamp: int) -> dict[TopicPartition, int]:
        self._enter()
        try:
            asked = await self._assignment.look_up(tps)
            found = await self._offsets.find(asked, timestamp)
            return {position.tp: offset for position, offset in zip(asked, found, strict=True)}
        finally:
            await self._leave()

    async def offsets_for_times(
        self, times: Mapping[TopicPartition, int | datetime]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """For each partition the first record at or after a time; ``None`` where there is none.

        :param times: ms since the epoch, or aware datetimes.
        :raises InvalidTimestampError: seconds, or a datetime without a time zone.
        :raises UnknownTopicOrPartitionError: there is no such topic or partition.
        """
        self._enter()
        try:
            wanted = {tp: to_ms(when) for tp, when in times.items()}
            asked = await self._assignment.look_up(wanted)
            return {position.tp: await self._offsets.at_time(position, wanted[position.tp]) for position in asked}
        finally:
            await self._leave()

    async def topics(self) -> set[str]:
        """The names of all topics there are."""
        self._enter()
        try:
            return {name for name, entry in (await self._client.topics()).items() if entry.state != DELETING}
        finally:
            await self._leave()

    async def partitions_for_topic(self, topic: str) -> set[int]:
        """The partitions of a topic.

        :raises UnknownTopicOrPartitionError: there is no such topic.
        """
        self._enter()
        try:
            return set(range((await self._assignment.entry(topic)).partitions))
        finally:
            await self._leave()
