"""The demo's processes: two write, two read, each in an interpreter of its own; `crew.py` starts and ends them.

A worker says how it is getting on through its pipe: ``Ready``, ``Progress`` now and then, and at the end ``Written``
or ``Read`` or ``Failed``. The end of the pipe is the end of the worker: nobody outlives the demo.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from streamlayer import Consumer, ConsumerRecord, Producer, StreamlayerError, TopicPartition
from streamlayer._cli.demo.corpus import SourceFile, by_turns, read_lines
from streamlayer._cli.demo.proof import Reading, compare

_REPORT_S = 0.1
_REPORTS = 50  # of a producer, over all its lines
_POLL_MS = 200
_BUFFER = 1 << 20  # bytes a producer holds back: small, so that what it says is sent is nearly all stored
_DELIVERY_TIMEOUT_MS = 30_000


@dataclass(frozen=True)
class Job:
    """What each worker is told.

    :ivar url: the server.
    :ivar topic: the topic.
    :ivar root: the corpus.
    """

    url: str
    topic: str
    root: Path


@dataclass(frozen=True)
class Ready:
    """It has connected."""


@dataclass(frozen=True)
class Progress:
    """Records so far."""

    records: int


@dataclass(frozen=True)
class Written:
    """A producer is done, and everything is acknowledged.

    :ivar records: how many it sent.
    :ivar size: bytes of their keys and values.
    :ivar sent_again: batches that it sent a second time, since no answer came to the first.
    :ivar begun: when it sent its first record, by the monotonic clock, which all processes share.
    :ivar ended: when the last one was acknowledged.
    """

    records: int
    size: int
    sent_again: int
    begun: float
    ended: float


@dataclass(frozen=True)
class Middle:
    """Where the file to be replayed has its middle.

    :ivar partition: where it lies.
    :ivar timestamp: the time of its middle line.
    :ivar place: the index of its first line of that time.
    """

    partition: TopicPartition
    timestamp: int
    place: int


@dataclass(frozen=True)
class Read:
    """A consumer has read to the end.

    :ivar reading: what came.
    :ivar middle: of the file to be replayed, if it came here.
    :ivar begun: when its first record came.
    :ivar ended: when its last one came.
    """

    reading: Reading
    middle: Middle | None
    begun: float
    ended: float


@dataclass(frozen=True)
class Failed:
    """It cannot go on."""

    reason: str


Said = Ready | Progress | Written | Read | Failed


def work(task: Callable[..., Any], pipe: Connection, *args: Any) -> None:
    """The main function of every worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it closes the pipe
    logging.getLogger("streamlayer").addHandler(logging.NullHandler())  # the screen shows what the server does
    try:
        pipe.send(task(pipe, *args))
    except (BrokenPipeError, EOFError):
        return
    except StreamlayerError as error:
        pipe.send(Failed(f"{type(error).__name__}: {error}"))


def write_files(pipe: Connection, job: Job, files: Sequence[SourceFile], hold_at: int) -> Written:
    """Send each line of each file as a record, its key the file.

    After ``hold_at`` lines it does not go on before it is told to: by then the server has been killed.
    """
    with Producer(url=job.url, buffer_memory=_BUFFER, delivery_timeout_ms=_DELIVERY_TIMEOUT_MS) as producer:
        producer.partitions_for(job.topic)
        _start_together(pipe)
        step = sum(file.lines for file in files) // _REPORTS
        records = size = said = 0
        held = False
        begun = time.monotonic()
        send, topic = producer.send, job.topic
        for key, lines in by_turns(job.root, files):
            for line in lines:
                send(topic, line, key)
            records += len(lines)
            size += len(key) * len(lines) + sum(map(len, lines))
            hold = records >= hold_at and not held
            if hold or records >= said + step:
                said = records
                pipe.send(Progress(records))
            if hold:
                held = True
                pipe.recv()
        producer.flush()
        return Written(records, size, producer.metrics().batches_resent, begun, time.monotonic())


class Collection:
    """The lines one consumer got, by file, in the order in which they came."""

    def __init__(self, replayed: bytes) -> None:
        self.lines: dict[bytes, list[bytes]] = {}
        self.jumps = 0
        self.records = 0
        self.next: dict[TopicPartition, int] = {}
        self._replayed = replayed
        self._times: list[int] = []
        self._partition: TopicPartition | None = None

    def add(self, partition: TopicPartition, records: Sequence[ConsumerRecord[bytes, bytes]]) -> None:
        """Take in what a poll gave of one partition."""
        expected = self.next.get(partition, 0)
        for record in records:
            if record.offset != expected:
                self.jumps += 1
            expected = record.offset + 1
            key = record.key or b""
            known = self.lines.get(key)
            if known is None:
                known = self.lines[key] = []
            known.append(record.value)
            if key == self._replayed:
                self._times.append(record.timestamp)
                self._partition = partition
        self.next[partition] = expected
        self.records += len(records)

    def reaches(self, ends: dict[TopicPartition, int]) -> bool:
        """Whether everything before these offsets has come."""
        return all(self.next.get(partition, 0) >= end for partition, end in ends.items())

    def middle(self) -> Middle | None:
        """The middle of the file to be replayed; ``None`` if it did not come here."""
        if self._partition is None:
            return None
        timestamp = self._times[len(self._times) // 2]
        place = next(i for i, each in enumerate(self._times) if each >= timestamp)
        return Middle(self._partition, timestamp, place)

    def reading(self, root: Path) -> Reading:
        """Hold what came against the disk."""
        found = (compare(key, read_lines(root, key), came) for key, came in self.lines.items())
        faults = [fault for fault in found if fault is not None]
        return Reading({key: len(came) for key, came in self.lines.items()}, faults, self.jumps)


def read_partitions(pipe: Connection, job: Job, partitions: Sequence[TopicPartition], replayed: bytes) -> Read:
    """Read partitions while they are written; the pipe brings their ends once nothing more is to come."""
    collection = Collection(replayed)
    with Consumer(url=job.url) as consumer:
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        _start_together(pipe)
        ends: dict[TopicPartition, int] | None = None
        begun = ended = said = 0.0
        while ends is None or not collection.reaches(ends):
            for partition, records in consumer.poll(_POLL_MS).items():
                ended = time.monotonic()
                begun = begun or ended
                collection.add(partition, records)
            if time.monotonic() - said > _REPORT_S:
                said = time.monotonic()
                pipe.send(Progress(collection.records))
                if ends is None and pipe.poll():
                    ends = pipe.recv()
    return Read(collection.reading(job.root), collection.middle(), begun, ended)


def _start_together(pipe: Connection) -> None:
    pipe.send(Ready())
    pipe.recv()
