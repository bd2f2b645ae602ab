"""How records get into open batches: one at a time, or as many of a run as a batch takes.

No clock, no lock, no socket: the caller passes ``now`` (ms), and holds the lock while it calls.
"""

from __future__ import annotations

from streamlayer._core.accumulator import Accumulator, TopicQueue
from streamlayer._core.batch import Batch
from streamlayer._core.codec import Headers
from streamlayer._core.columns import Run
from streamlayer._core.futures import Slice


class Filling:
    """Fills one producer's open batches.

    :param buffer_memory: bytes of sealed batches past which no new batch is begun.
    """

    def __init__(self, accumulator: Accumulator, buffer_memory: int) -> None:
        self._accumulator = accumulator
        self._buffer_memory = buffer_memory

    def add(
        self,
        queue: TopicQueue,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: int,
        headers: Headers | None,
        size: int,
        now: int,
    ) -> tuple[Batch | None, int, Batch | None]:
        """Add a record if there is room: its batch, its index, and the batch that was sealed to make room.

        :param size: an upper bound of the bytes it takes.
        :returns: the batch is ``None`` if the buffer is full.
        """
        key_hash = queue.hash(key) if key is not None and partition is None else None
        if key_hash is not None:
            partition = key_hash % queue.count
        batch = queue.opens[queue.sticky if partition is None else partition]
        sealed: Batch | None = None
        if batch.values and batch.room < size:
            self._accumulator.seal(batch)
            sealed = batch
            batch = queue.opens[queue.sticky if partition is None else partition]
        if self._accumulator.bytes + size > self._buffer_memory and not batch.values:
            return None, 0, sealed
        index = len(batch.values)
        if index == 0:
            self._accumulator.begin(batch, now)
        batch.room -= size
        batch.add([key], [value], [timestamp], headers)
        if key_hash is not None:
            batch.key_hash = key_hash
        elif key is not None:
            batch.pin(index, index + 1)
        return batch, index, sealed

    def add_run(self, queue: TopicQueue, run: Run, start: int, headers: Headers | None, now: int) -> Slice | None:
        """Add as many records as one batch takes; ``None`` if the buffer is full."""
        batch = queue.opens[queue.sticky if run.partition is None else run.partition]
        end = run.cut(start, batch.room)
        if end == start and batch.values:
            self._accumulator.seal(batch)
            batch = queue.opens[queue.sticky if run.partition is None else run.partition]
            end = run.cut(start, batch.room)
        if self._accumulator.bytes > self._buffer_memory:
            return None
        end = max(end, start + 1)
        index = len(batch.values)
        if index == 0:
            self._accumulator.begin(batch, now)
        batch.room -= run.size(start, end)
        keys = run.keys[start:end] or [None] * (end - start)
        batch.add(keys, run.values[start:end], run.timestamps[start:end], headers)
        if batch.key_hash is None:
            batch.key_hash = run.key_hash
        if run.key_hash is None and run.keys:
            batch.pin(index, index + end - start)
        if end < len(run.values):
            self._accumulator.seal(batch)
        return batch, index, end - start
