"""A topic queue and its accumulator without a shell: what tests of accumulator and settlement stand on."""

from __future__ import annotations

from zlib import crc32

from streamlayer._core.accumulator import Accumulator, PartitionQueue, TopicQueue
from streamlayer._core.batch import Batch
from streamlayer._core.calls import Appended
from streamlayer._core.codec import Headers
from streamlayer._core.columns import record_size
from streamlayer._core.keys import partition_keys
from streamlayer._core.refusals import Refusal
from streamlayer.errors import StreamlayerError

NOW = 5_000
STAMP = 1_700_000_000_000


class Flag:
    """What a batch's waiters would wait on."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """Note it; nobody waits."""
        self._set = True

    def is_set(self) -> bool:
        """Whether it was."""
        return self._set


class Silence(Exception):
    """No answer came: what the shell's `Unanswered` is to the core."""

    def __init__(self, error: StreamlayerError) -> None:
        super().__init__(str(error))
        self.error = error


class Buffer:
    """An accumulator with one topic of so many partitions."""

    def __init__(
        self, partitions: int = 1, *, linger_ms: int = 0, idempotent: bool = True, batch_size: int = 10_000
    ) -> None:
        self.accumulator = Accumulator(linger_ms, 1000, idempotent=idempotent)
        keys = [partition_keys("sl", "orders", number) for number in range(partitions)]
        self.topic = TopicQueue("orders", "id", 1, keys, crc32, batch_size, Flag)
        self.accumulator.add_topic(self.topic)

    @property
    def partition(self) -> PartitionQueue:
        """The first one."""
        return self.topic.partitions[0]

    def add(
        self,
        value: bytes,
        partition: int = 0,
        *,
        now: int = NOW,
        timestamp: int = STAMP,
        headers: Headers | None = None,
    ) -> tuple[Batch, int]:
        """Put a record into the open batch; returns it and the record's index."""
        batch = self.topic.opens[partition]
        if not batch.values:
            self.accumulator.begin(batch, now)
        batch.room -= record_size(None, value)
        batch.add([None], [value], [timestamp], headers)
        return batch, len(batch.values) - 1

    def batch(self, *values: bytes, partition: int = 0, now: int = NOW, timestamp: int = STAMP) -> Batch:
        """A sealed batch of these values."""
        for value in values or (b"v",):
            batch, _ = self.add(value, partition, now=now, timestamp=timestamp)
        self.accumulator.seal(batch)
        return batch

    def known(self) -> None:
        """Let the server know this producer: from now on five batches go at once."""
        batch = self.batch(b"first")
        assert self.accumulator.drain(NOW) == [batch]
        self.accumulator.succeed(batch, 0, 1, NOW)
        batch.done.set()


def appended(base: int, segment: int = 0, generation: int = 1) -> Appended:
    """A yes."""
    return Appended(base, 99, segment, "1::0", generation)


def layout(
    partitions: int, generation: int = 2, *, topic_id: str = "id", batch_size: int = 10_000, namespace: str = "sl"
) -> TopicQueue:
    """The topic as it is when it is read again: nothing is in it."""
    keys = [partition_keys(namespace, "orders", number) for number in range(partitions)]
    return TopicQueue("orders", topic_id, generation, keys, crc32, batch_size, Flag)


def no(word: str, detail: str = "0") -> Refusal:
    """A no."""
    return Refusal(word, detail)
