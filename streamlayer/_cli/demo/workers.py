"""The demo's processes: two write, a group reads, each in an interpreter of its own; `crew.py` starts and ends them.

A worker says how it is getting on through its pipe: ``Ready``, ``Progress`` now and then, and at the end ``Written``
or ``Read`` or ``Failed``. The end of the pipe is the end of the worker: nobody outlives the demo.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from streamlayer import (
    CommitFailedError,
    Consumer,
    ConsumerRebalanceListener,
    ConsumerRecord,
    Producer,
    StreamlayerError,
    TopicPartition,
)
from streamlayer._cli.demo.corpus import SourceFile, by_turns
from streamlayer._cli.demo.diary import Diary

_REPORT_S = 0.1
_REPORTS = 50  # of a producer, over all its lines
_POLL_MS = 100
_AT_ONCE = 2000  # records a poll
_COMMIT_S = 0.2
GROUP = "demo"
SESSION_MS = 1000  # short, so that who watches sees a killed member's partitions go on
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
class Read:
    """A member of the group has ended.

    :ivar records: how many it processed.
    :ivar begun: when its first record came.
    :ivar ended: when its last one came.
    """

    records: int
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


class _Member(ConsumerRebalanceListener):
    """What a worker has done and not committed yet; it commits before a partition goes to another."""

    def __init__(self, diary: Diary) -> None:
        self.consumer: Consumer | None = None
        self._diary = diary
        self._done: dict[TopicPartition, int] = {}
        self._committed_at = 0.0
        self.records = 0

    def process(self, at: float, batch: dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]]) -> None:
        """Do what there is to do: write it down."""
        for partition, taken in batch.items():
            self._diary.processed(at, partition.partition, taken)
            self._done[partition] = taken[-1].offset + 1
            self.records += len(taken)
        self._diary.flush()
        if at - self._committed_at >= _COMMIT_S:
            self._committed_at = at
            self._commit(set(self._done))

    def on_partitions_revoked(self, revoked: AbstractSet[TopicPartition]) -> None:
        """Others go on behind what is done."""
        self._commit(revoked & self._done.keys())

    def on_partitions_lost(self, lost: AbstractSet[TopicPartition]) -> None:
        """Others do again what was not committed."""
        for partition in lost:
            self._done.pop(partition, None)

    def _commit(self, partitions: AbstractSet[TopicPartition]) -> None:
        offsets = {partition: self._done.pop(partition) for partition in partitions}
        if not offsets or self.consumer is None:
            return
        try:
            self.consumer.commit(offsets)
        except CommitFailedError:
            return  # they are another's by now
        self._diary.committed(time.monotonic(), {partition.partition: at for partition, at in offsets.items()})
        self._diary.flush()


def process_lines(pipe: Connection, job: Job, diary_path: Path) -> Read:
    """Be a member of the group until the pipe says that it is over; write down what is done before it is committed."""
    diary = Diary(diary_path)
    member = _Member(diary)
    begun = ended = said = 0.0
    with Consumer(
        job.topic,
        url=job.url,
        group_id=GROUP,
        listener=member,
        enable_auto_commit=False,
        max_poll_records=_AT_ONCE,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=SESSION_MS // 4,
    ) as consumer:
        member.consumer = consumer
        consumer.wait_for_assignment()
        pipe.send(Ready())
        while not pipe.poll():
            batch = consumer.poll(_POLL_MS)
            now = time.monotonic()
            if batch:
                begun, ended = begun or now, now
            member.process(now, batch)
            if now - said > _REPORT_S:
                said = now
                pipe.send(Progress(member.records))
    diary.close()
    return Read(member.records, begun, ended)


def _start_together(pipe: Connection) -> None:
    pipe.send(Ready())
    pipe.recv()
