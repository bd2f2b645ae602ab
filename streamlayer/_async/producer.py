"""``Producer``: takes records, packs them into batches, and has a sender beside it put them into the log.

The way of a record: ``send`` puts it into its partition's open batch (nothing else, unless the batch is full); the
sender drains what is ready, one round at a time, and settles it. Decisions are the accumulator's.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from threading import Lock
from time import time
from types import TracebackType
from typing import Any, Generic, Literal, Never, Self

from streamlayer._async.client import Client
from streamlayer._async.registry import create_topic, open_topic
from streamlayer._async.sender import Sender
from streamlayer._config import ProducerOptions, TopicConfig, checked, refuse_unknown
from streamlayer._core.accumulator import Accumulator, TopicQueue
from streamlayer._core.batch import Batch
from streamlayer._core.checks import check_partition
from streamlayer._core.codec import FAR_TIMESTAMP, RECORD_OVERHEAD, SHORT, Headers, header_size
from streamlayer._core.columns import (
    Run,
    record_size,
    runs,
    to_bytes,
    to_column,
    to_headers,
    to_timestamp,
    too_large,
)
from streamlayer._core.columns import longest as longest_of
from streamlayer._core.entries import TopicEntry
from streamlayer._core.filling import Filling
from streamlayer._core.futures import Slice, metadata_of, ranges_of
from streamlayer._core.hashing import PARTITIONERS
from streamlayer._core.keys import check_name, partition_keys
from streamlayer._core.replication import needs
from streamlayer._core.settlement import reopen
from streamlayer._types import (
    LOG_APPEND_TIME,
    AppendedRange,
    DurabilityLevel,
    Health,
    K,
    ProducerMetrics,
    RecordMetadata,
    V,
)
from streamlayer._waiting import aio as waiting
from streamlayer._waiting.aio import RecordFuture
from streamlayer.errors import (
    BufferFullError,
    IllegalStateError,
    MessageSizeTooLargeError,
    RequestTimedOutError,
    StreamlayerError,
    UnknownTopicOrPartitionError,
)

_OPTIONS = (*ProducerOptions.model_fields, "key_serializer", "value_serializer")
_MANY = 4096
"""Records of a ``send_many`` that are parted at once; sending begins after the first such part."""
_COMMON = ("url", "redis", "namespace", "client_id", "allow_eviction")


class Producer(Generic[K, V]):
    """Appends records to topics.

    It may be used from any thread (sync) or task (aio); a forked child starts with an empty one of its own.

    :param url: the server; by default ``STREAMLAYER_URL``, else ``redis://localhost:6379/0``.
    :param redis: a redis-py client instead, whose settings are copied.
    :param namespace: what all keys begin with; ``sl`` by default.
    :param client_id: the connections' name on the server.
    :param allow_eviction: go on although the server may delete records when its memory is full.
    :param acks: ``"all"``: a send is done when the server has executed it and as many replicas and disks have it as
        the topic's ``min_insync_replicas`` and ``flush`` want (by default none); 1: when the server has executed it;
        0: when it was sent.
    :param enable_idempotence: a batch whose answer was lost is sent again and stored once; with ``acks=0`` nobody
        waits for an answer, and nothing is sent again.
    :param linger_ms: how long a batch waits for more records. Waiting for a record ends it.
    :param batch_size: bytes of a batch; up to 64 KiB it is rounded down to what fills one allocation of the server.
    :param compression_type: ``"gzip"``, or ``None``.
    :param max_request_size: the largest record, in bytes.
    :param buffer_memory: bytes of batches that may wait; past that ``send`` waits for room.
    :param max_block_ms: how long ``send`` waits for room, or for the topic to be read.
    :param delivery_timeout_ms: how long a record is tried; then its future fails.
    :param allow_auto_create_topics: create a topic on first use.
    :param num_partitions: of a topic created on first use.
    :param min_durability: refuse a server whose settings give less: ``"disk"``, ``"second"``, ``"os_cache"`` or
        ``"snapshot"``. Each new connection looks; see ``Durability``.
    :param key_serializer: from a key to bytes; without one keys are bytes.
    :param value_serializer: from a value to bytes; without one values are bytes.
    :raises ConfigurationError: an option's value cannot work.
    :raises TypeError: an option does not exist.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        redis: waiting.Redis | None = None,
        namespace: str | None = None,
        client_id: str | None = None,
        allow_eviction: bool = False,
        acks: Literal[0, 1, -1, "all"] = "all",
        enable_idempotence: bool = True,
        linger_ms: int = 5,
        batch_size: int = 65_536,
        compression_type: Literal["gzip"] | None = None,
        max_request_size: int = 1_048_576,
        buffer_memory: int = 33_554_432,
        max_block_ms: int = 10_000,
        delivery_timeout_ms: int = 120_000,
        allow_auto_create_topics: bool = True,
        num_partitions: int = 4,
        min_durability: DurabilityLevel | None = None,
        key_serializer: Callable[[K], bytes] | None = None,
        value_serializer: Callable[[V], bytes] | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            refuse_unknown("Producer", unknown, (*_COMMON, *_OPTIONS))
        given: dict[str, Any] = {
            "acks": acks,
            "enable_idempotence": enable_idempotence,
            "linger_ms": linger_ms,
            "batch_size": batch_size,
            "compression_type": compression_type,
            "max_request_size": max_request_size,
            "buffer_memory": buffer_memory,
            "max_block_ms": max_block_ms,
            "delivery_timeout_ms": delivery_timeout_ms,
            "allow_auto_create_topics": allow_auto_create_topics,
            "num_partitions": num_partitions,
            "min_durability": min_durability,
        }
        self._options = checked(ProducerOptions, given)
        self._key_serializer = key_serializer
        self._value_serializer = value_serializer
        self._client = Client(
            url, redis, namespace, client_id, allow_eviction=allow_eviction, min_durability=min_durability
        )
        self._fresh()
        waiting.remember(self)

    def _fresh(self) -> None:
        """An empty buffer, a new id, no connection: at the beginning, and in a fork's child."""
        options = self._options
        idempotent = options.enable_idempotence and options.acks != 0
        self._lock = Lock()
        self._queues: dict[str, TopicQueue] = {}
        self._accumulator = Accumulator(options.linger_ms, options.delivery_timeout_ms, idempotent=idempotent)
        self._filling = Filling(self._accumulator, options.buffer_memory)
        self._opening = waiting.Lock()
        self._sender = Sender(
            self._client,
            self._accumulator,
            self._lock,
            secrets.token_urlsafe(16) if idempotent else "",
            acks="all" if options.acks == -1 else options.acks,
            compression=1 if options.compression_type else 0,
            layout_of=partial(_queue_of, self._client.namespace, options.batch_size),
            forget_topic=partial(_forget_topic, self._queues),
        )
        weakref.finalize(self, self._sender.let_go).atexit = False
        waiting.finish_at_exit(self._sender)
        self._hurry = self._sender.hurry
        self._plain = self._key_serializer is None and self._value_serializer is None
        self._closed = False

    # --- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect.

        :raises ServerUnavailableError: nobody answers.
        """
        await self._client.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is left and close; the first failure comes out, unless the block itself raised."""
        try:
            await self.close()
        except StreamlayerError as failure:
            if error is None:
                raise
            error.add_note(f"and on closing the producer: {type(failure).__name__}: {failure}")

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._sender.state
        place, namespace = self._client.settings.place, self._client.namespace
        return f"<Producer {place} namespace={namespace} {state} buffered={self._accumulator.bytes}>"

    def health(self) -> Health:
        """How it is doing, from memory."""
        if self._closed:
            return Health(ok=False, state="closed", reason="close() was called")
        return self._sender.health()

    def metrics(self) -> ProducerMetrics:
        """What it has done so far, from memory."""
        sender = self._sender
        return ProducerMetrics(
            sender.records_sent,
            sender.batches_sent,
            sender.batches_resent,
            sender.truncations,
            sender.records_lost,
        )

    async def flush(self, *, timeout_ms: int | None = None) -> None:
        """Send all that was given and wait for it.

        :param timeout_ms: how long; ``None``: until each record is in the log or given up.
        :raises RequestTimedOutError: not all was decided in time; the producer goes on trying.
        :raises LogTruncationError: since the last flush the server was found to have lost records that it had
            acknowledged; what was sent since is in the log.
        :raises StreamlayerError: the first failure since the last flush that nobody was told of, with a note that
            counts the others.
        """
        self._check_open()
        await self._sender.deliver_all(timeout_ms=timeout_ms)
        self._raise_failures()

    def _raise_failures(self) -> None:
        with self._lock:
            unnamed = self._accumulator.unnamed
            failures = self._accumulator.take_failures()
        if failures:
            more = len(failures) - 1 + unnamed
            if more:
                failures[0].add_note(f"{more} more batches or records failed since the last flush")
            raise failures[0]

    async def close(self, *, timeout_ms: int | None = None) -> None:
        """Send what is left, wait for it, and close. May be called twice.

        :param timeout_ms: how long to wait; what is not delivered then is given up.
        :raises StreamlayerError: as ``flush``.
        """
        if self._closed:
            return
        if self._accumulator.topics:
            self._client.check_home()
        self._closed = True
        waiting.forget(self, self._sender)
        try:
            await self._sender.deliver_all(timeout_ms=timeout_ms)
        finally:
            await self._sender.close()
            await self._client.close()
        self._raise_failures()

    def after_fork(self) -> None:
        """In a fork's child: begin anew. What the parent has in its buffer, the parent sends."""
        if not self._closed:
            self._client.abandon()
            self._sender.orphan()
            self._fresh()

    def _check_open(self) -> None:
        if self._closed:
            msg = "the producer is closed: make a new one"
            raise IllegalStateError(msg)
        self._client.check_home()
        if self._sender.fatal is not None:
            raise self._sender.fatal

    # --- records in --------------------------------------------------------------------------------------------------

    async def send(
        self,
        topic: str,
        value: V,
        key: K | None = None,
        *,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None = None,
    ) -> RecordFuture:
        """Give a record to be appended. Returns as soon as it is in the buffer.

        :param topic: the topic; created on first use if that is allowed.
        :param value: the value.
        :param key: records of one key go to one partition, in order; without one they go where a batch is open.
        :param partition: a partition to use whatever the key.
        :param timestamp_ms: the record's time, ms since the epoch; now by default. Ignored where a topic's records
            carry the server's time (``LogAppendTime``).
        :param headers: names and bytes.
        :returns: what becomes of the record.
        :raises BufferFullError: no room within ``max_block_ms``; the record was not taken.
        :raises MessageSizeTooLargeError: it is larger than ``max_request_size``.
        :raises UnknownTopicOrPartitionError: there is no such topic (and none may be created) or partition.
        """
        queue = self._queues.get(topic)
        if queue is None:
            queue = await self._open(topic)
        # The common way, for bytes in an open batch: nothing is on it that can be left out.
        common = partition is None and timestamp_ms is None and headers is None and self._plain
        if common and type(key) is bytes and type(value) is bytes:
            plain: Any = value
            size = len(key) + len(plain) + RECORD_OVERHEAD
            if size <= SHORT:
                hash_of = queue.hash  # apart from its call: 3 ns, not 10
                key_hash = hash_of(key)
                now = int(time() * 1000)
                with self._lock:
                    batch = queue.opens[key_hash % queue.count]
                    if batch.key_hash is not None and batch.room >= size:
                        values = batch.values
                        index = len(values)
                        try:
                            batch.room -= size
                            batch.keys.append(key)
                            values.append(plain)
                            batch.timestamps.append(now)
                        except BaseException:  # Ctrl-C between two columns
                            batch.cut_back(index)
                            raise
                        return RecordFuture(batch, index, self._hurry)
        return await self._send(queue, value, key, partition, timestamp_ms, headers, wake=True)

    async def _send(
        self,
        queue: TopicQueue,
        value: Any,
        key: Any,
        partition: int | None,
        timestamp_ms: int | None,
        headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None,
        *,
        wake: bool,
    ) -> RecordFuture:
        """``send`` in full.

        :param wake: tell the sender of a new batch; a caller that drives the round itself need not.
        """
        self._check_open()
        stored_key = to_bytes(key, self._key_serializer, "key")
        stored_value = to_bytes(value, self._value_serializer, "value")
        pairs = to_headers(headers)
        timestamp = int(time() * 1000)
        if timestamp_ms is not None:
            timestamp = to_timestamp(timestamp_ms, timestamp, append_time=queue.append_time)
        extra = (header_size(pairs) if pairs else 0) + (0 if timestamp_ms is None else FAR_TIMESTAMP)
        size = record_size(stored_key, stored_value, extra)
        self._check_size(queue.name, size)
        if partition is not None:
            await self._look_for(queue, partition)
        while True:
            sealed: Batch | None = None
            with self._lock:
                queue = self._queues.get(queue.name, queue)
                if partition is not None:
                    check_partition(queue.name, partition, queue.count)
                batch, index, sealed = self._filling.add(
                    queue, stored_key, stored_value, partition, timestamp, pairs, size, waiting.monotonic_ms()
                )
            if sealed is not None:
                self._sender.wake()
            if batch is not None:
                if wake and index == 0:
                    self._sender.wake()
                if sealed is not None:
                    await waiting.give_turn()
                return RecordFuture(batch, index, self._hurry)
            await self._wait_for_room(queue.name)

    def _check_size(self, topic: str, size: int) -> None:
        if size > self._options.max_request_size:
            msg = (
                f"{topic}: a record of {size} bytes is larger than max_request_size="
                f"{self._options.max_request_size}; it was not sent. Raise that option (and the topic's "
                "max_message_bytes), or store the data elsewhere and send where it is"
            )
            raise MessageSizeTooLargeError(msg)

    async def send_and_wait(
        self,
        topic: str,
        value: V,
        key: K | None = None,
        *,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None = None,
        timeout_ms: int | None = None,
    ) -> RecordMetadata:
        """Send a record and wait for it to be in the log. Arguments and errors as ``send``.

        :param timeout_ms: how long to wait; ``None``: as long as it is tried.
        :returns: where it is.
        :raises RequestTimedOutError: not decided in time; the producer goes on trying.
        """
        queue = self._queues.get(topic) or await self._open(topic)
        future = await self._send(queue, value, key, partition, timestamp_ms, headers, wake=False)
        batch = future.batch
        await self._sender.deliver(batch, timeout_ms)
        if not batch.done.is_set() and not await batch.done.wait(timeout_ms):
            msg = f"{topic}: no answer within timeout_ms={timeout_ms}; the record is still on its way"
            raise RequestTimedOutError(msg)
        return metadata_of(batch, future.index)

    async def send_many(
        self,
        topic: str,
        values: Iterable[V],
        keys: Iterable[K | None] | None = None,
        *,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
        headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None = None,
    ) -> list[AppendedRange]:
        """Append many records and wait for them; much cheaper for each than ``send``.

        :param values: the values.
        :param keys: as many keys, or ``None`` for none.
        :param partition: a partition for all of them.
        :param timestamps_ms: as many times; now by default. Ignored as in ``send``.
        :param headers: the same headers for each.
        :returns: where they are: a range for each run without a gap in one partition.
        :raises ValueError: the lengths differ; nothing was sent.
        :raises StreamlayerError: as ``send``; of what failed the first error, with a note that counts the others.
        """
        self._check_open()
        queue = self._queues.get(topic) or await self._open(topic)
        if partition is not None:
            await self._look_for(queue, partition)
            check_partition(queue.name, partition, queue.count)
        stored = to_column(values, self._value_serializer, "value")
        stored_keys = None if keys is None else to_column(keys, self._key_serializer, "key")
        now = int(time() * 1000)
        times = None
        if timestamps_ms is not None:
            times = [to_timestamp(given, now, append_time=queue.append_time) for given in timestamps_ms]
        for name, column in (("keys", stored_keys), ("timestamps_ms", times)):
            if column is not None and len(column) != len(stored):
                msg = f"{topic}: {len(stored)} values, but {len(column)} {name}: they must be as many"
                raise ValueError(msg)
        pairs = to_headers(headers)
        extra = (header_size(pairs) if pairs else 0) + (0 if times is None else FAR_TIMESTAMP)
        if not stored:
            return []
        longest = longest_of(stored_keys, stored)
        overhead = longest.overhead + extra
        limit = self._options.max_request_size - overhead
        if sum(longest) > limit and (size := too_large(stored_keys, stored, limit)):
            self._check_size(topic, size + overhead)
        slices: list[Slice] = []
        for start in range(0, len(stored), _MANY):
            part = slice(start, start + _MANY)
            part_keys = None if stored_keys is None else stored_keys[part]
            part_times = now if times is None else times[part]
            slices += await self._append_all(queue, stored[part], part_keys, part_times, partition, overhead, pairs)
            await self._sender.hand_over()
        for batch, _, _ in slices:
            if not batch.done.is_set():
                self._sender.hurry(batch)
        for batch, _, _ in slices:
            if not batch.done.is_set():
                await batch.done.wait()
        return ranges_of(slices)

    async def _append_all(
        self,
        queue: TopicQueue,
        values: list[bytes | None],
        keys: list[bytes | None] | None,
        times: list[int] | int,
        partition: int | None,
        overhead: int,
        headers: Headers | None,
    ) -> list[Slice]:
        """Part records by the topic's layout, and put them into batches."""
        with self._lock:
            queue = self._queues.get(queue.name, queue)
            layout, count = queue.layout, queue.count
        if partition is not None:
            check_partition(queue.name, partition, count)
        slices: list[Slice] = []
        for run in runs(values, keys, times, partition, count, queue.hash, overhead):
            slices += await self._append_run(queue, layout, run, headers)
        return slices

    async def _append_run(
        self, queue: TopicQueue, layout: tuple[str, int, int], run: Run, headers: Headers | None
    ) -> list[Slice]:
        slices: list[Slice] = []
        start = 0
        while start < len(run.values):
            with self._lock:
                queue = self._queues.get(queue.name, queue)
                current = queue.layout == layout
                added = self._filling.add_run(queue, run, start, headers, waiting.monotonic_ms()) if current else None
            if not current:  # another one since the records were parted: what is left is parted anew
                chosen = run.partition if run.key_hash is None else None
                left = run.values[start:], run.keys[start:] or None, run.timestamps[start:]
                return slices + await self._append_all(queue, *left, chosen, run.overhead, headers)
            if added is None:
                await self._wait_for_room(queue.name)
                continue
            slices.append(added)
            start += added[2]
        return slices

    async def _wait_for_room(self, topic: str) -> None:
        if not await self._sender.wait_for_room(self._options.max_block_ms):
            msg = (
                f"{topic}: buffer_memory={self._options.buffer_memory} stayed full for "
                f"max_block_ms={self._options.max_block_ms}; the record was not taken. {self._sender.reason}"
            )
            raise BufferFullError(msg)
        self._check_open()

    # --- topics ------------------------------------------------------------------------------------------------------

    async def partitions_for(self, topic: str) -> set[int]:
        """The partitions of a topic.

        :raises UnknownTopicOrPartitionError: there is no such topic, and none may be created.
        """
        self._check_open()
        queue = self._queues.get(topic) or await self._open(topic)
        return set(range(queue.count))

    async def _look_for(self, queue: TopicQueue, partition: int) -> None:
        """If a topic is not known to have a partition, read it again: it may have been added."""
        try:
            check_partition(queue.name, partition, queue.count)
        except UnknownTopicOrPartitionError:
            pass
        else:
            return
        entry = await open_topic(self._client, queue.name, self._options.max_block_ms)
        deadline = waiting.monotonic_ms() + self._options.max_block_ms
        while (
            entry is not None
            and queue.topic_id == entry.id
            and (queue.generation < entry.generation or queue.count < entry.partitions)
        ):
            left = deadline - waiting.monotonic_ms()
            if left <= 0 or self._queues.get(queue.name) is not queue:
                return
            await self._sender.reread(queue, left)

    async def _open(self, topic: str) -> TopicQueue:
        self._check_open()
        check_name(topic)
        async with self._opening:
            if topic in self._queues:
                return self._queues[topic]
            entry = await open_topic(self._client, topic, self._options.max_block_ms)
            if entry is None:
                if not self._options.allow_auto_create_topics:
                    msg = f"there is no topic {topic!r}, and allow_auto_create_topics is off: create it with Admin"
                    raise UnknownTopicOrPartitionError(msg)
                entry = await create_topic(
                    self._client,
                    topic,
                    self._options.num_partitions,
                    TopicConfig(),
                    exist_ok=True,
                    timeout_ms=self._options.max_block_ms,
                )
            queue = _queue_of(self._client.namespace, self._options.batch_size, topic, entry)
            with self._lock:
                settled = reopen(self._accumulator, queue)
                self._queues[topic] = queue
            self._sender.note(settled)
            self._sender.start()
            return queue


def _queue_of(namespace: str, batch_size: int, topic: str, entry: TopicEntry) -> TopicQueue:
    """What the registry says of a topic, with nothing in it."""
    config = entry.topic_config()
    return TopicQueue(
        topic,
        entry.id,
        entry.generation,
        [partition_keys(namespace, topic, number) for number in range(entry.partitions)],
        PARTITIONERS[config.partitioner],
        min(batch_size, config.max_message_bytes),
        waiting.Latch,
        append_time=config.timestamp_type == LOG_APPEND_TIME,
        needs=needs(config.min_insync_replicas, config.flush_level),
    )


def _forget_topic(queues: dict[str, TopicQueue], topic: str) -> None:
    queues.pop(topic, None)
