"""The demo's processes: two write, one is a supervisor of workers, one looks on; `crew.py` starts and ends them.

A process says how it is getting on through its pipe: ``Ready``, ``Progress`` now and then, and at the end ``Written``
or ``Ended`` or ``Failed``. The end of the pipe is its end: nobody outlives the demo.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from streamlayer import Admin, Producer, ServerUnavailableError, StreamlayerError
from streamlayer._cli import main
from streamlayer._cli.demo.corpus import SourceFile, by_turns
from streamlayer._cli.demo.diary import DIARIES, GROUP, Diary

HANDLERS = "streamlayer._cli.demo.handlers:app"
_REPORT_S = 0.1
_REPORTS = 50  # of a producer, over all its lines
_LOOK_S = 0.02  # between two looks at what is committed
_BUFFER = 1 << 20  # bytes a producer holds back: small, so that what it says is sent is nearly all stored
_DELIVERY_TIMEOUT_MS = 30_000


@dataclass(frozen=True)
class Job:
    """What each process is told.

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
class Logged:
    """A line of its log."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The supervisor, or who looked on, has ended, with this status."""

    status: int


@dataclass(frozen=True)
class Failed:
    """It cannot go on."""

    reason: str


Said = Ready | Progress | Logged | Written | Ended | Failed


def work(task: Callable[..., Any], pipe: Connection, *args: Any) -> None:
    """The main function of each of them."""
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


class _Pipe(logging.Handler):
    """Has a process's log told."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it; who is gone does not hear it."""
        with contextlib.suppress(OSError):
            self._pipe.send(Logged(record.getMessage()))


def supervise(pipe: Connection, job: Job, diaries: Path, processes: int) -> Ended:
    """Run ``streamlayer worker``, until the pipe says that it is over; what it logs is told."""
    pipe.send(Ready())
    logging.getLogger("streamlayer").addHandler(_Pipe(pipe))
    os.environ[DIARIES] = str(diaries)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
    sys.argv = ["streamlayer", "--url", job.url, "worker", HANDLERS, "--processes", str(processes)]
    try:
        main()
    except SystemExit as left:
        return Ended(int(left.code or 0))
    return Ended(0)


def _end_with(pipe: Connection) -> None:
    """End in good order when that is said, and at once (the second signal) if nobody is there to say anything."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
        os.kill(os.getpid(), signal.SIGTERM)
        pipe.recv()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)


def look_on(pipe: Connection, job: Job, diary_path: Path, processes: int) -> Ended:
    """Write down what the group commits, until the pipe says that it is over; it is ready when all have joined."""
    diary = Diary(diary_path)
    with Admin(url=job.url) as admin:
        while not _all_there(admin, processes):
            pipe.poll(_LOOK_S)
        pipe.send(Ready())
        said = 0.0
        while not pipe.poll(_LOOK_S):
            try:
                stored = admin.list_group_offsets(GROUP)
            except ServerUnavailableError:
                continue  # it was killed, and comes back
            now = time.monotonic()
            diary.committed(now, {tp.partition: each.offset for tp, each in stored.items()})
            if now - said > _REPORT_S:
                said = now
                pipe.send(Progress(sum(each.offset for each in stored.values())))
    diary.close()
    return Ended(0)


def _all_there(admin: Admin, processes: int) -> bool:
    """Whether so many members have partitions."""
    if GROUP not in admin.list_groups():
        return False
    members = admin.describe_groups([GROUP])[GROUP].members
    return len(members) == processes and all(member.assignment for member in members)


def _start_together(pipe: Connection) -> None:
    pipe.send(Ready())
    pipe.recv()
