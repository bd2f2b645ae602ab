"""``Consumer``: reads partitions from a position, hands records out, and waits for more without asking.

Without a group it reads all partitions of its topics, new ones too, and commits nothing; what a group makes of it is in
``group``. What was fetched and how far it was handed out is the core's (``positions``); which partitions there are is
``assignment``'s; this file asks, waits and hands out.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Generic, Literal, Never, Self

from streamlayer._async.client import Client
from streamlayer._async.group import Group
from streamlayer._async.listener import ConsumerRebalanceListener
from streamlayer._async.offsets import LATEST
from streamlayer._async.standing import Standing
from streamlayer._config import ConsumerOptions, checked, refuse_unknown
from streamlayer._core.keys import check_name
from streamlayer._types import (
    ConsumerRecord,
    K,
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
)

_COMMON = ("url", "redis", "namespace", "client_id", "allow_eviction")
_OPTIONS = (*ConsumerOptions.model_fields, "listener", "key_deserializer", "value_deserializer")
TURN_MS = 5
"""After this long without waiting, a call that need not wait gives others a turn."""


class Consumer(Standing, Generic[K, V]):
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
        options = checked(
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
        if group_id is not None:
            check_name(group_id, "group")
            if group_instance_id is not None:
                check_name(group_instance_id, "group_instance_id")
                if group_instance_id == "-":
                    msg = "group_instance_id='-' is taken by the library for none: give it a name"
                    raise ConfigurationError(msg)
        super().__init__(Client(url, redis, namespace, client_id, allow_eviction=allow_eviction), options)
        self._key_of = key_deserializer
        self._value_of = value_deserializer
        self._ripe = False  # what is left was waited for already
        self._ended = False
        self._turn_at = 0
        self._check_at = 0
        self._next_checked = 0
        self._listen(listener)
        if topics:
            self.subscribe(topics)

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

    def _listen(self, listener: ConsumerRebalanceListener | None) -> None:
        if listener is not None:
            self._in_group("listener").listener = listener

    def wakeup(self) -> None:
        """End a ``poll`` or an iteration that waits, now or the next one. Safe in signal handlers and other threads."""
        self._woken = True
        self._subscriber.inbox.put(True)

    def _enter_polling(self) -> None:
        if self._in_listener:
            msg = "a ConsumerRebalanceListener may commit and seek, but not read: poll() called it"
            raise IllegalStateError(msg)
        self._enter()

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
