"""Many records into one partition, as fast as they can be written: what is measured comes afterwards.

The batches are what a producer would make of the same records, but no producer is there: each is encoded once, here,
and sent as an ``append``.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import NamedTuple

from benchmarks.place import Place
from benchmarks.records import VALUE_BYTES
from streamlayer import Admin, NewTopic, TopicConfig, TopicPartition
from streamlayer._core import calls
from streamlayer._core.codec import encode_frame
from streamlayer._core.keys import DEFAULT_NAMESPACE, partition_keys
from streamlayer._core.refusals import Refusal
from streamlayer._sync.client import Client

BATCH = 640
"""Records of 100 bytes in a batch of 65,400 bytes: a producer's default."""
LARGE_BATCH = 10_000
"""The same for a batch of 1 MiB, the largest that a topic takes by default."""
_AT_ONCE = 8


class Filled(NamedTuple):
    """What was written: its place and its times.

    :ivar tp: the topic's only partition.
    :ivar records: how many, from offset 0 on.
    :ivar first_ms: timestamp of the first.
    :ivar last_ms: timestamp of the last.
    """

    tp: TopicPartition
    records: int
    first_ms: int
    last_ms: int


class _Batch(NamedTuple):
    records: int
    timestamp: int
    frame: bytes
    crc: int


def _batch(count: int, timestamp: int) -> _Batch:
    frame, crc = encode_frame([timestamp] * count, [None] * count, [b"x" * VALUE_BYTES] * count)
    return _Batch(count, timestamp, frame, crc)


def fill(
    place: Place, topic: str, records: int, *, batch: int = BATCH, step_ms: int = 0, retention_ms: int = -1
) -> Filled:
    """Make a topic of one partition that keeps all, and fill it.

    :param batch: records of a batch.
    :param step_ms: how much later each batch is stamped than the one before it; the last is stamped now.
    :param retention_ms: what the topic keeps after all.
    """
    config = TopicConfig(retention_ms=retention_ms, retention_bytes=-1, segment_bytes=place.scale.segment_bytes)
    with Admin(url=place.url) as admin:
        admin.create_topics([NewTopic(topic, 1, config=config)])
    counts = [batch] * (records // batch) + [records % batch] * (records % batch > 0)
    now = time.time_ns() // 1_000_000
    first = now - step_ms * (len(counts) - 1)
    batches = (_batch(count, first + step_ms * number) for number, count in enumerate(counts))
    client = Client(place.url, None, None, None, allow_eviction=False)
    try:
        client.connect()
        append = _Appender(client, topic)
        while part := list(islice(batches, _AT_ONCE)):
            while part:
                part = append.some(part)
    finally:
        client.close()
    place.written()
    return Filled(TopicPartition(topic, 0), records, first, now)


class _Appender:
    def __init__(self, client: Client, topic: str) -> None:
        entry = client.topic(topic)
        assert entry is not None
        self._client = client
        self._keys = partition_keys(DEFAULT_NAMESPACE, topic, 0)
        self._id, self._generation = entry.id, entry.generation
        self._segment = 0

    def some(self, batches: list[_Batch]) -> list[_Batch]:
        """Append; what comes back is to be appended again, since another segment was open."""
        again: list[_Batch] = []
        for batch, outcome in zip(batches, self._client.execute([self._call(b) for b in batches]), strict=True):
            if isinstance(outcome, Refusal) and outcome.word == "SEGMENT":
                self._segment = int(outcome.detail)
                again.append(batch)
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                self._segment = outcome.segment
        return again

    def _call(self, batch: _Batch) -> calls.Call[calls.Appended]:
        return calls.append(
            self._keys,
            self._segment,
            topic_id=self._id,
            partition=0,
            generation=self._generation,
            key_hash=None,
            producer="",
            epoch=0,
            sequence=0,
            crc=batch.crc,
            count=batch.records,
            min_timestamp=batch.timestamp,
            max_timestamp=batch.timestamp,
            frame=batch.frame,
        )
