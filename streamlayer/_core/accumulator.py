"""Where records wait to be sent: an open batch per partition, sealed ones behind it, at most 5 of them in flight.

Words: a batch is *open* (records are added), *sealed* (closed, waiting), *in flight* (in the round that was sent
last), *frozen* (sent with an unknown result: it goes again byte for byte), *done* (appended, or given up). One round is
in flight at a time; a partition's batches are sent and settled in order. What each answer means is decided in
``settle``; DESIGN.md has the table.

No clock, no lock, no socket: the caller passes ``now`` (ms of a clock that only goes forward), holds the lock while it
calls, and sends what ``drain`` gives.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from streamlayer._core.codec import Headers, encode_frame
from streamlayer._core.keys import PartitionKeys
from streamlayer.errors import StreamlayerError

BATCHES_IN_FLIGHT: Final = 5
FRAME_LIMIT: Final = 65_400
"""A batch's encoded size stays under this: with the server's own header it just fits a 64 KiB allocation."""
FRAME_OVERHEAD: Final = 40
IDLE_MS: Final = 3_600_000
"""After this long without an append a partition's first batch goes alone: the server may have forgotten this id."""


class Done(Protocol):
    """What a batch's waiters wait on."""

    def set(self) -> None:
        """Let them go on."""

    def is_set(self) -> bool:
        """Whether they may."""
        ...


class Batch:
    """Records of one partition that are appended together.

    :ivar room: bytes left before it is sealed.
    :ivar key_hash: the hash of one record that its key placed here; ``None`` if there is none.
    :ivar base_offset: once done: the first record's offset; -1 if nobody knows.
    :ivar error: once done: why it is not in the log, or not known to be.
    :ivar refused: records that were taken out because the server refused them, by index.
    :ivar told: errors of this batch, or of records of it, that somebody was told of.
    """

    __slots__ = (
        "_frame",
        "append_time",
        "base_offset",
        "callbacks",
        "created",
        "deadline",
        "done",
        "epoch",
        "error",
        "frozen",
        "headers",
        "key_hash",
        "keys",
        "partition",
        "ranks",
        "refused",
        "room",
        "sequence",
        "size",
        "timestamps",
        "told",
        "values",
    )

    def __init__(self, partition: PartitionQueue, room: int, done: Any) -> None:
        self.partition = partition
        self.room = room
        self.size = room
        self.done = done
        self.keys: list[bytes | None] = []
        self.values: list[bytes | None] = []
        self.timestamps: list[int] = []
        self.headers: list[Headers | None] | None = None
        self.key_hash: int | None = None
        self.created = 0
        self.deadline = 0
        self.sequence = -1
        self.epoch = 0
        self.frozen = False
        self.base_offset = -1
        self.append_time = -1
        self.error: StreamlayerError | None = None
        self.refused: dict[int, StreamlayerError] | None = None
        self.ranks: list[int] | None = None
        self.callbacks: list[Callable[[], object]] | None = None
        self.told: set[StreamlayerError] = set()
        self._frame: tuple[bytes, int] | None = None

    def frame(self, compression: int) -> tuple[bytes, int]:
        """The encoded batch and its CRC-32; encoded once."""
        if self._frame is None:
            if self.headers is not None:
                self.headers += [None] * (len(self.values) - len(self.headers))
            self._frame = encode_frame(self.timestamps, self.keys, self.values, self.headers, compression=compression)
        return self._frame

    def add(
        self, keys: list[bytes | None], values: list[bytes | None], timestamps: list[int], headers: Headers | None
    ) -> None:
        """Add records, all with the same headers; none of them if this is interrupted."""
        count = len(self.values)
        try:
            if headers is not None:
                self.headers = self.headers or []
                self.headers += [None] * (count - len(self.headers))
                self.headers += [headers] * len(values)
            self.keys += keys
            self.values += values
            self.timestamps += timestamps
        except BaseException:
            self.cut_back(count)
            raise

    def refuse(self, errors: dict[int, StreamlayerError]) -> None:
        """Take records out, by index, that the server will never accept; the others keep their futures."""
        kept = [i for i in range(len(self.values)) if i not in errors]
        count = len(self.values) if self.ranks is None else len(self.ranks)
        gone = self.refused or {}  # by index at first; `errors` counts only those that were left
        left = [i for i in range(count) if i not in gone]
        self.refused = gone | {left[i]: error for i, error in errors.items()}
        self.ranks = [0] * count
        for rank, i in enumerate(kept):
            self.ranks[left[i]] = rank
        self.keys = [self.keys[i] for i in kept]
        self.values = [self.values[i] for i in kept]
        self.headers = None if self.headers is None else [self.headers[i] for i in kept]
        self.timestamps = [self.timestamps[i] for i in kept]
        self._frame = None

    def cut_back(self, count: int) -> None:
        """Undo an addition that was interrupted: the first ``count`` records stay."""
        for column in (self.keys, self.values, self.timestamps):
            del column[count:]
        if self.headers is not None:
            del self.headers[count:]

    def finish(self) -> None:
        """Free what is no longer needed. The timestamps stay, for the futures."""
        self.keys, self.values, self.headers, self._frame = [], [], None, None


class PartitionQueue:
    """One partition's batches, and the producer's place in its sequence there.

    :ivar sequence: the sequence number of the first record that is not known to be in the log.
    :ivar epoch: rises when a batch is given up, so that a late copy of it is fenced.
    :ivar segment: the segment believed to be open.
    """

    __slots__ = ("epoch", "keys", "last_append", "number", "open", "sealed", "segment", "sequence", "topic")

    def __init__(self, topic: TopicQueue, number: int, keys: PartitionKeys) -> None:
        self.topic = topic
        self.number = number
        self.keys = keys
        self.sealed: deque[Batch] = deque()
        self.sequence = 0
        self.epoch = 0
        self.segment = 0
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
    """

    __slots__ = ("count", "generation", "hash", "name", "new_done", "opens", "partitions", "room", "sticky", "topic_id")

    def __init__(
        self,
        name: str,
        topic_id: str,
        generation: int,
        keys: Iterable[PartitionKeys],
        hash_of: Callable[[bytes], int],
        batch_size: int,
        new_done: Callable[[], Any],
    ) -> None:
        self.name = name
        self.topic_id = topic_id
        self.generation = generation
        self.hash = hash_of
        self.new_done = new_done
        self.room = max(1, min(batch_size, FRAME_LIMIT) if batch_size <= 1 << 16 else batch_size) - FRAME_OVERHEAD
        self.partitions = [PartitionQueue(self, number, key) for number, key in enumerate(keys)]
        self.opens = [partition.open for partition in self.partitions]
        self.count = len(self.partitions)
        self.sticky = 0


class Accumulator:
    """All batches of one producer.

    :ivar bytes: of batches that are sealed and not done.
    :ivar failed: batches with their errors, since the last ``take_failures``.
    """

    def __init__(self, linger_ms: int, delivery_timeout_ms: int, *, idempotent: bool) -> None:
        self.linger_ms = linger_ms
        self.delivery_timeout_ms = delivery_timeout_ms
        self.idempotent = idempotent
        self.bytes = 0
        self.failed: list[tuple[Batch, StreamlayerError]] = []
        self._topics: dict[str, TopicQueue] = {}

    def add_topic(self, topic: TopicQueue) -> None:
        """Take a topic in, in place of an older state of it with nothing in it."""
        self._topics[topic.name] = topic

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
            for partition in topic.partitions:
                batch = partition.open
                if batch.values and batch.created + self.linger_ms <= now:
                    self.seal(batch)
                if partition.sealed:
                    ready += self._next_of(partition, now)
        return ready

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
            self.failed.append((other, error))
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
            self.failed.append((batch, error))
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

    def take_failures(self) -> list[StreamlayerError]:
        """What failed since the last time and nobody was told of."""
        failed, self.failed = self.failed, []
        return [error for batch, error in failed if error not in batch.told]

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not any(
            partition.sealed or partition.open.values
            for topic in self._topics.values()
            for partition in topic.partitions
        )

    @property
    def topics(self) -> dict[str, TopicQueue]:
        """By name."""
        return self._topics
