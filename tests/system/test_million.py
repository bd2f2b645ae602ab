"""A million records from two producers at once, read by two consumers while they are written; each is a process.

One producer and one consumer of each colour. Every consumer checks each record against what must come next, so that
nothing has to be kept: a loss, a copy, a gap or a change of order is the first record that is not the expected one.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import re
import resource
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from streamlayer import Admin, Consumer, ConsumerRecord, NewTopic, Producer, RecordFuture, RecordMetadata, aio
from streamlayer.embedded import Server

logger = logging.getLogger("tests.million")
pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

EACH = 500_000
PARTITIONS = 4
KEYS = [b"key-%04d" % number for number in range(997)]  # both producers use all of them
SAMPLE = 1000  # of so many records, the place of one is compared with what its producer was told
FILL = b"." * 90


@dataclass
class Report:
    """What a process did."""

    seconds: float
    megabytes: float
    places: dict[bytes, tuple[int, int]]  # of sampled values: partition and offset
    counts: list[int] = field(default_factory=list)  # records by partition


def megabytes() -> float:
    """The most memory that this program has had; ru_maxrss would count the one that forked it too."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def value(name: bytes, index: int) -> bytes:
    """100 bytes that tell who sent them, and when."""
    return b"%s%09d%s" % (name, index, FILL)


def places(metadata: Iterable[RecordMetadata], name: bytes) -> dict[bytes, tuple[int, int]]:
    """What the sampled futures said."""
    return {value(name, i * SAMPLE): (found.partition, found.offset) for i, found in enumerate(metadata)}


def produce_sync(url: str) -> Report:
    """Send half of it by `send`."""
    began = time.monotonic()
    sampled: list[RecordFuture] = []
    with Producer(url=url) as producer:
        for index in range(EACH):
            future = producer.send("million", value(b"S", index), KEYS[index % len(KEYS)])
            if index % SAMPLE == 0:
                sampled.append(future)
    return Report(time.monotonic() - began, megabytes(), places([future.result() for future in sampled], b"S"))


def produce_aio(url: str) -> Report:
    """Send the other half, in asyncio."""

    async def produce() -> Report:
        began = time.monotonic()
        sampled: list[aio.RecordFuture] = []
        async with aio.Producer(url=url) as producer:
            for index in range(EACH):
                future = await producer.send("million", value(b"A", index), KEYS[index % len(KEYS)])
                if index % SAMPLE == 0:
                    sampled.append(future)
        return Report(time.monotonic() - began, megabytes(), places([future.result() for future in sampled], b"A"))

    return asyncio.run(produce())


class Expected:
    """What must come next, by partition and by producer and key."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.offsets = [0] * PARTITIONS
        self.indexes = {(name, key): place for name in (b"S", b"A") for place, key in enumerate(KEYS)}
        self.partition_of: dict[bytes, int] = {}
        self.places: dict[bytes, tuple[int, int]] = {}
        self.left = 2 * EACH

    def take(self, records: list[ConsumerRecord]) -> None:
        """Check records of one partition."""
        offsets, indexes = self.offsets, self.indexes
        for record in records:
            stored, key, partition = record.value, record.key, record.partition
            assert stored is not None
            assert key is not None
            assert record.offset == offsets[partition], "offsets are dense"
            offsets[partition] += 1
            index = int(stored[1:10])
            line = stored[:1], key
            assert index == indexes[line], "of each producer and key: the next one, once"
            indexes[line] += len(KEYS)
            assert self.partition_of.setdefault(key, partition) == partition
            assert len(stored) == 100
            if index % SAMPLE == 0:
                self.places[stored] = partition, record.offset
        self.left -= len(records)

    def report(self) -> Report:
        """It is all there: no key's next record belongs to what was sent."""
        assert min(self.indexes.values()) >= EACH
        return Report(time.monotonic() - self.began, megabytes(), self.places, self.offsets)


def consume_sync(url: str) -> Report:
    """Read all of it by `poll`."""
    expected = Expected()
    with Consumer("million", url=url, max_poll_records=2000) as consumer:
        while expected.left:
            for records in consumer.poll(10_000).values():
                expected.take(records)
        assert consumer.poll(0) == {}
    return expected.report()


def consume_aio(url: str) -> Report:
    """Read all of it in asyncio."""

    async def consume() -> Report:
        expected = Expected()
        async with aio.Consumer("million", url=url, max_poll_records=2000) as consumer:
            while expected.left:
                for records in (await consumer.poll(10_000)).values():
                    expected.take(records)
            assert await consumer.poll(0) == {}
        return expected.report()

    return asyncio.run(consume())


def test_a_million_records(caplog: pytest.LogCaptureFixture) -> None:
    """1,000,000 records of 100 bytes from two processes: dense offsets, each once, in order per producer and key.

    The figures are in the log: `pytest -rP`.
    """
    caplog.set_level(logging.INFO, "tests")
    with (
        Server() as server,
        Admin(url=server.url) as admin,
        ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool,
    ):
        admin.create_topics([NewTopic("million", PARTITIONS)])
        jobs = [pool.submit(work, server.url) for work in (consume_sync, consume_aio, produce_sync, produce_aio)]
        consumers, producers = [job.result() for job in jobs[:2]], [job.result() for job in jobs[2:]]
        described = admin.describe_topics(["million"])["million"]
    assert consumers[0].counts == consumers[1].counts
    assert sum(consumers[0].counts) == 2 * EACH
    assert all(consumers[0].counts)
    assert consumers[0].places == consumers[1].places
    assert producers[0].places | producers[1].places == consumers[0].places
    logger.info("sent: %s records/s each", [round(EACH / report.seconds) for report in producers])
    logger.info("read: %s records/s each", [round(2 * EACH / report.seconds) for report in consumers])
    logger.info("memory: %s MB each", [round(report.megabytes) for report in producers + consumers])
    assert max(report.megabytes for report in producers + consumers) < 250
    # Key and value are 108 bytes.
    assert sum(partition.bytes for partition in described.partitions) < 2 * EACH * 108 * 1.15
