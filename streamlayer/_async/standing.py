"""A consumer's half that says where it stands: positions, commits, look-ups, and the one user at a time of all that.

The rule: nothing here reads records; ``consumer`` does, and tells by ``_records`` and ``_in_hand`` what it hands out.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from threading import Lock
from types import TracebackType
from typing import Any, Self

from streamlayer._async.assignment import Assignment
from streamlayer._async.client import Client
from streamlayer._async.fetcher import Fetcher
from streamlayer._async.group import Group
from streamlayer._async.offsets import EARLIEST, LATEST, Offsets
from streamlayer._async.subscriber import Subscriber
from streamlayer._config import ConsumerOptions
from streamlayer._core.checks import check_commit, check_offset
from streamlayer._core.entries import DELETING
from streamlayer._core.positions import PartitionPosition
from streamlayer._core.times import to_ms
from streamlayer._types import (
    ConsumerMetrics,
    ConsumerRecord,
    GroupMetadata,
    Health,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    TopicPartition,
)
from streamlayer.errors import ConfigurationError, IllegalStateError, UnknownTopicOrPartitionError

_IN_USE = "the consumer is in use elsewhere: one thread (or task) at a time; only wakeup() may come from others"


class Standing:
    """What a consumer can be asked and told beside reading.

    :param client: its connection; closed with it.
    :param options: the consumer's.
    """

    def __init__(self, client: Client, options: ConsumerOptions) -> None:
        self._client, self._options = client, options
        self._offsets = Offsets(client)
        self._subscriber = Subscriber(client)
        weakref.finalize(self, self._subscriber.let_go).atexit = False
        in_group = options.group_id is not None
        self._assignment = Assignment(client, self._offsets, options.auto_offset_reset, in_group=in_group)
        self._fetcher = Fetcher(client, self._assignment, self._offsets, options)
        self._in_use = Lock()
        self._woken = False
        self._closed = False
        self._in_listener = False
        self._autocommit_at_close = True
        self._finished_only = False
        self._gone = False
        self._records: list[ConsumerRecord[Any, Any]] = []
        self._record = 0
        self._in_hand: dict[TopicPartition, int] = {}
        self._group: Group | None = None
        if in_group:
            self._group = Group(
                client,
                self._assignment,
                self._subscriber,
                options,
                in_poll=self._in_use.locked,
                telling=self._telling,
            )
            self._assignment.resume = self._group.resume

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

    def _in_group(self, what: str) -> Group:
        if self._group is None:
            msg = f"{what}: this consumer has no group_id, and reads without a group: Consumer(…, group_id='…')"
            raise IllegalStateError(msg)
        return self._group

    # --- what was handed out -----------------------------------------------------------------------------------------

    def _finished(self, *, but_in_hand: bool = False) -> dict[TopicPartition, int]:
        """What was handed out: partition -> the offset behind it.

        :param but_in_hand: the record (of an iteration) or the batch (of a poll) that came last does not count.
        """
        done = {tp: position.position for tp, position in self._assignment.positions.items()}
        first = max(0, self._record - 1) if but_in_hand else self._record
        done |= {record.topic_partition: record.offset for record in reversed(self._records[first:])}
        return done | self._in_hand if but_in_hand else done

    def _drop_record_buffer(self) -> None:
        """Records fetched for an iteration and not handed out go back: positions are as if they were never taken."""
        for record in reversed(self._records[self._record :]):
            position = self._assignment.positions.get(record.topic_partition)
            if position is not None:
                position.give_back(record.offset)
        self._records = []
        self._record = 0

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
