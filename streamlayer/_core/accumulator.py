"""Where records wait to be sent: an open batch per partition, sealed ones behind it, at most 5 of them in flight.

Words: a batch is *open* (records are added), *sealed* (closed, waiting), *in flight* (in the round that was sent
last), *frozen* (sent with an unknown result: it goes again byte for byte), *done* (appended, or given up). One round is
in flight at a time; a partition's batches are sent and settled in order. What each answer means is decided in
``settle``; DESIGN.md has the table. A topic is *stale* when its layout has changed; ``regrouping`` says what then.

No clock, no lock, no socket: the caller passes ``now`` (ms of a clock that only goes forward), holds the lock while it
calls, and sends what ``drain`` gives.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any, Final

from streamlayer._core.batch import Batch
from streamlayer._core.keys import PartitionKeys
from streamlayer._core.replication import NOBODY
from streamlayer._core.server_calls import Holders
from streamlayer._core.truncation import Acknowledged
from streamlayer.errors import LogTruncationError, StreamlayerError

BATCHES_IN_FLIGHT: Final = 5
FRAME_LIMIT: Final = 65_400
"""A batch's encoded size stays under this: with the server's own header it just fits a 64 KiB allocation."""
FRAME_OVERHEAD: Final = 40
MOST_FAILED: Final = 1000
"""Failures that wait for a flush to tell of them; more are only counted."""
IDLE_MS: Final = 3_600_000
"""After this long without an append a partition's first batch goes alone: the server may have forgotten this id."""


class PartitionQueue:
    """One partition's batches, and the producer's place in its sequence there.

    :ivar sequence: the sequence number of the first record that is not known to be in the log.
    :ivar epoch: rises when a batch is given up, so that a late copy of it is fenced.
    :ivar segment: the segment believed to be open.
    :ivar trim: the first and the last old segment to drop before the next append (0, -1: ask which); ``None``: none.
    :ivar hindrance: why the last drop failed for good, and would fail again.
    :ivar needs: who must have a batch before ``acks="all"`` is satisfied, as the last answer said.
    :ivar acknowledged: what is known to be in the log.
    """

    __slots__ = (
        "acknowledged",
        "epoch",
        "hindrance",
        "keys",
        "last_append",
        "needs",
        "number",
        "open",
        "sealed",
        "segment",
        "sequence",
        "topic",
        "trim",
    )

    def __init__(self, topic: TopicQueue, number: int, keys: PartitionKeys) -> None:
        self.topic = topic
        self.number = number
        self.keys = keys
        self.sealed: deque[Batch] = deque()
        self.sequence = 0
        self.epoch = topic.first_epoch
        self.segment = 0
        self.trim: tuple[int, int] | None = None
        self.hindrance: StreamlayerError | None = None
        self.needs: Holders = topic.needs
        self.acknowledged = Acknowledged()
        self.last_append = -IDLE_MS
        self.open: Batch = Batch(self, topic.room, topic.new_done())

    def next_epoch(self) -> None:
        """Fence whatever was sent before."""
        self.epoch += 1
        self.sequence = 0
        self.last_append = -IDLE_MS

    def start_over(self) -> None:
        """What is sealed is certainly not in the log: number it anew, and fence the copies that may be on their way."""
        for batch in self.sealed:
            batch.frozen = False
        self.next_epoch()


class TopicQueue:
    """One topic's partitions as the producer knows them.

    :ivar opens: each partition's open batch, by number: the way of a record leads through this list.
    :ivar count: how many partitions.
    :ivar sticky: the partition of records without key, changed with each batch (KIP-480).
    :ivar room: bytes of records that fit a batch.
    :ivar append_time: its records' time is the server's, of their append.
    :ivar needs: who must have a batch before ``acks="all"`` is satisfied, as the registry says.
    :ivar first_epoch: the producer epoch that its partitions begin with: past all that were used before.
    :ivar stale: the server has, or will have, another layout: nothing new is sent until the topic was read again.
    :ivar asked: how often it was read lately without finding that layout.
    :ivar held_until: nothing new is sent, and it is not read again, before this time.
    """

    __slots__ = (
        "append_time",
        "asked",
        "count",
        "first_epoch",
        "generation",
        "hash",
        "held_until",
        "name",
        "needs",
        "new_done",
        "opens",
        "partitions",
        "room",
        "stale",
        "sticky",
        "topic_id",
    )

    def __init__(
        self,
        name: str,
        topic_id: str,
        generation: int,
        keys: Iterable[PartitionKeys],
        hash_of: Callable[[bytes], int],
        batch_size: int,
        new_done: Callable[[], Any],
        *,
        append_time: bool = False,
        needs: Holders = NOBODY,
    ) -> None:
        self.name = name
        self.topic_id = topic_id
        self.generation = generation
        self.hash = hash_of
        self.new_done = new_done
        self.append_time = append_time
        self.needs = needs
        self.first_epoch = 0
        self.room = max(1, min(batch_size, FRAME_LIMIT) if batch_size <= 1 << 16 else batch_size) - FRAME_OVERHEAD
        self.partitions = [PartitionQueue(self, number, key) for number, key in enumerate(keys)]
        self.opens = [partition.open for partition in self.partitions]
        self.count = len(self.partitions)
        self.sticky = 0
        self.stale = False
        self.asked = 0
        self.held_until = 0

    def adopt(self, partitions: list[PartitionQueue], generation: int) -> None:
        """Have another layout from now on."""
        self.partitions = partitions
        self.opens = [partition.open for partition in partitions]
        self.count = len(partitions)
        self.generation = generation
        self.stale = False
        self.asked = self.held_until = 0

    @property
    def layout(self) -> tuple[str, int, int]:
        """What tells one layout from another. A server that lost a growth gives its generation again."""
        return self.topic_id, self.generation, self.count

    @property
    def undecided(self) -> bool:
        """Whether a batch may be in the log without anybody knowing."""
        return any(batch.frozen for partition in self.partitions for batch in partition.sealed)


class Accumulator:
    """All batches of one producer.

    :ivar bytes: of batches that are sealed and not done.
    :ivar failed: batches with their errors, since the last ``take_failures``; the first ones that nobody was told of.
    :ivar unnamed: how many more there were.
    :ivar losses: acknowledged records that the server lost, since then.
    """

    def __init__(self, linger_ms: int, delivery_timeout_ms: int, *, idempotent: bool) -> None:
        self.linger_ms = linger_ms
        self.delivery_timeout_ms = delivery_timeout_ms
        self.idempotent = idempotent
        self.bytes = 0
        self.failed: list[tuple[Batch, StreamlayerError]] = []
        self.unnamed = 0
        self.losses: list[LogTruncationError] = []
        self._topics: dict[str, TopicQueue] = {}

    def add_topic(self, topic: TopicQueue) -> None:
        """Take a topic in, in place of an older state of it with nothing in it."""
        self._topics = {**self._topics, topic.name: topic}  # `empty` and the like are read without the lock, too

    # --- on the way in -----------------------------------------------------------------------------------------------

    def begin(self, batch: Batch, now: int) -> None:
        """The first record is about to be added."""
        batch.created = now
        batch.deadline = now + self.delivery_timeout_ms

    def seal(self, batch: Batch) -> None:
        """Close an open batch and put an empty one in its place. Does nothing to one that is closed or empty."""
        partition = batch.partition
        if partition.open is not batch or not batch.values:
            return
        topic = partition.topic
        fresh = Batch(partition, topic.room, topic.new_done())
        # An interrupt (Ctrl-C) may end this between any two lines: at no point is the batch both open and sealed.
        batch.size -= batch.room
        partition.open = topic.opens[partition.number] = fresh
        partition.sealed.append(batch)
        self.bytes += batch.size
        if topic.sticky == partition.number:
            topic.sticky = (topic.sticky + 1) % topic.count

    def seal_all(self) -> list[Batch]:
        """Close every open batch; return all that are not done."""
        pending: list[Batch] = []
        for topic in self._topics.values():
            for partition in topic.partitions:
                self.seal(partition.open)
                pending += partition.sealed
        return pending

    # --- on the way out ----------------------------------------------------------------------------------------------

    def next_ready(self, now: int) -> int | None:
        """In how many ms a batch is ready to be sent: 0 now, ``None`` never without another record."""
        soonest: int | None = None
        for topic in self._topics.values():
            if topic.stale or topic.held_until > now:
                left = 0 if topic.undecided else max(0, topic.held_until - now)
                soonest = left if soonest is None else min(soonest, left)
                continue
            for partition in topic.partitions:
                if partition.sealed:
                    return 0
                if partition.open.values:
                    left = max(0, partition.open.created + self.linger_ms - now)
                    soonest = left if soonest is None else min(soonest, left)
        return soonest

    def drain(self, now: int) -> list[Batch]:
        """The batches of the next round, in order, with their sequence numbers."""
        ready: list[Batch] = []
        for topic in self._topics.values():
            if topic.held_until > now and not topic.undecided:
                continue
            for partition in topic.partitions:
                batch = partition.open
                if batch.values and batch.created + self.linger_ms <= now:
                    self.seal(batch)
                if partition.sealed:
                    ready += self._undecided_of(partition, now) if topic.stale else self._next_of(partition, now)
        return ready

    def _undecided_of(self, partition: PartitionQueue, now: int) -> list[Batch]:
        """While the topic is stale: what may be in the log, until that is decided, and nothing new."""
        if partition.sealed[0].frozen:
            return list(takewhile(lambda batch: batch.frozen, self._next_of(partition, now)))
        if any(batch.frozen for batch in partition.sealed):
            # The first is certainly not in the log and nobody will send it: to the server there is a gap before them.
            partition.start_over()
        return []

    def stale_topics(self, now: int) -> list[TopicQueue]:
        """The topics to read again now: nothing of them is in flight or undecided."""
        topics = self._topics.values()
        return [topic for topic in topics if topic.stale and topic.held_until <= now and not topic.undecided]

    def _next_of(self, partition: PartitionQueue, now: int) -> list[Batch]:
        alone = now - partition.last_append >= IDLE_MS
        if alone and partition.sequence and not any(batch.frozen for batch in partition.sealed):
            partition.next_epoch()  # a server that has forgotten this producer takes nothing but sequence 0
        sequence = partition.sequence
        chosen: list[Batch] = []
        for batch in partition.sealed:
            if len(chosen) == (1 if alone else BATCHES_IN_FLIGHT):
                break
            if not batch.frozen:
                batch.sequence, batch.epoch = sequence, partition.epoch
            sequence = max(sequence, batch.sequence + len(batch.values))
            chosen.append(batch)
        return chosen

    # --- what became of them -----------------------------------------------------------------------------------------

    def succeed(self, batch: Batch, base_offset: int, append_time: int, now: int) -> None:
        """It is in the log."""
        partition = batch.partition
        if batch.epoch == partition.epoch:
            partition.sequence = max(partition.sequence, batch.sequence + len(batch.values))
        partition.last_append = now
        batch.base_offset, batch.append_time = base_offset, append_time
        self._finish(batch)

    def fail(self, batch: Batch, error: StreamlayerError) -> list[Batch]:
        """Give a batch up, and return all that are done by this.

        One whose result is unknown takes the frozen ones behind it along: their place in the sequence is lost.
        """
        partition = batch.partition
        given_up = [batch]
        if batch.frozen:
            given_up += [other for other in partition.sealed if other.frozen and other is not batch]
        for other in given_up:
            other.error = error
            self.note_failure(other, error)
            self._finish(other)
        if batch.frozen:
            partition.next_epoch()
        elif any(other.frozen for other in partition.sealed):
            partition.start_over()
        return given_up

    def fail_all(self, partition: PartitionQueue, error: StreamlayerError) -> list[Batch]:
        """Give up everything that waits for a partition."""
        self.seal(partition.open)
        given_up = list(partition.sealed)
        for batch in given_up:
            batch.error = error
            self.note_failure(batch, error)
            self._finish(batch)
        partition.next_epoch()
        return given_up

    def expired(self, now: int) -> list[Batch]:
        """Batches at the head of their queue whose time is over; an open one is sealed for it."""
        late: list[Batch] = []
        for topic in self._topics.values():
            for partition in topic.partitions:
                if partition.open.values and partition.open.deadline <= now:
                    self.seal(partition.open)
                if partition.sealed and partition.sealed[0].deadline <= now:
                    late.append(partition.sealed[0])
        return late

    def first_deadline(self) -> float:
        """When the time of the first batch is over; infinity if there is none."""
        heads = (
            partition.sealed[0] if partition.sealed else partition.open
            for topic in self._topics.values()
            for partition in topic.partitions
        )
        return min((batch.deadline for batch in heads if batch.values), default=math.inf)

    def _finish(self, batch: Batch) -> None:
        batch.partition.sealed.remove(batch)
        self.bytes -= batch.size
        batch.finish()

    def note_failure(self, batch: Batch, error: StreamlayerError) -> None:
        """A batch, or a record of it, failed: the next flush tells of it, unless somebody is told before."""
        self.failed.append((batch, error))
        if len(self.failed) > 2 * MOST_FAILED:  # who asks each future may never flush
            untold = self._untold()
            self.failed = untold[:MOST_FAILED]
            self.unnamed += len(untold) - len(self.failed)

    def _untold(self) -> list[tuple[Batch, StreamlayerError]]:
        return [(batch, error) for batch, error in self.failed if error not in batch.told]

    def take_failures(self) -> list[StreamlayerError]:
        """What failed since the last time and nobody was told of; ``unnamed`` more."""
        failures = [*self.losses, *(error for _, error in self._untold())]
        self.failed, self.losses, self.unnamed = [], [], 0
        return failures

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not any(
            partition.sealed or partition.open.values
            for topic in self._topics.values()
            for partition in topic.partitions
        )

    @property
    def stale(self) -> bool:
        """Whether a topic is to be read again."""
        return any(topic.stale for topic in self._topics.values())

    @property
    def topics(self) -> dict[str, TopicQueue]:
        """By name."""
        return self._topics
