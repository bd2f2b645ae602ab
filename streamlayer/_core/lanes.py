"""Which records of a partition may be handled now: those of one *lane* one after another, lanes side by side.

A lane is a partition (``ordering="partition"``), a key (``"key"``; a record without one is a lane of its own), or a
single record (``"none"``). It is *ready* (its first job may be taken), *busy* (one is taken, or waits for its next
attempt), or gone.

No clock, no lock, no socket: the caller passes ``now``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

from streamlayer._core.progress import Progress
from streamlayer._types import ConsumerRecord, TopicPartition

Ordering = Literal["partition", "key", "none"]
Record = ConsumerRecord[Any, Any]


class Lane:
    """Records that are handled one after another."""

    __slots__ = ("busy", "key", "waiting")

    def __init__(self, key: object) -> None:
        self.key = key
        self.waiting: list[Record] = []
        self.busy = False


class Job:
    """What is handled by one call of a handler: a record, or a batch of them.

    :ivar lanes: theirs, each once; busy until ``Lanes.finish``.
    :ivar records: them, in order; fewer, or none, after reading went back behind them.
    :ivar attempts: how often it has failed.
    :ivar void: the partition is no longer this worker's: what becomes of it does not count.
    :ivar singly: a batch that keeps failing: its records are handled one at a time.
    :ivar began: when its call began, in the event loop's seconds; 0: none runs.
    :ivar sending: results of it that are on their way to their topics.
    :ivar error: why one of them did not arrive.
    """

    __slots__ = ("attempts", "began", "error", "lanes", "owner", "records", "sending", "singly", "void")

    def __init__(self, owner: Lanes, records: list[Record], lanes: list[Lane], attempts: int) -> None:
        self.owner = owner
        self.records = records
        self.lanes = lanes
        self.attempts = attempts
        self.void = self.singly = False
        self.began = 0.0
        self.sending = 0
        self.error: Exception | None = None


class Lanes:
    """One partition's.

    :ivar progress: how far it is.
    :ivar unfinished: records that were accepted and are not done.
    :ivar unfinished_bytes: their values'.
    :ivar available: records that could be taken now.
    :ivar since: when the first of them came, in ms.
    :ivar jobs: those that were taken and are not done.
    :ivar closing: the partition is given up: nothing is begun any more, and nothing is tried again.
    :ivar held: reading waits until there is room.
    :ivar queued: whether it stands in its pool's queue.
    """

    def __init__(self, tp: TopicPartition, ordering: Ordering, progress: Progress) -> None:
        self.tp = tp
        self.progress = progress
        self.unfinished = self.unfinished_bytes = 0
        self.available = 0
        self.since = 0
        self.jobs: set[Job] = set()
        self.closing = self.queued = self.held = False
        self._by_key = ordering == "key"
        self._loose = ordering == "none"
        self._lanes: dict[object, Lane] = {}
        self._ready: deque[Lane] = deque()
        self._again: deque[Job] = deque()

    def accept(self, record: Record, now: int) -> None:
        """Queue a record that was read."""
        self.progress.accept(record.offset)
        self.unfinished += 1
        self.unfinished_bytes += len(record.value or b"")
        if self.available == 0:
            self.since = now
        key = record.key if self._by_key else None
        lane = None if self._loose or (self._by_key and key is None) else self._lanes.get(key)
        if lane is None:
            lane = Lane(key)
            if not self._loose and not (self._by_key and key is None):
                self._lanes[key] = lane
            self._ready.append(lane)
        lane.waiting.append(record)
        if not lane.busy:
            self.available += 1

    def take(self, most: int = 1) -> Job | None:
        """The next job; ``None`` if no lane is ready.

        :param most: of how many records at most; one with which a worker has ended is alone.
        """
        if self._again:
            again = self._again.popleft()
            self.available -= len(again.records)
            return again
        if not self._ready:
            return None
        lanes: list[Lane] = []
        records: list[Record] = []
        deaths = self.progress.deaths
        while self._ready and (left := most - len(records)):
            waiting = self._ready[0].waiting
            if deaths:
                left = next((at for at, record in enumerate(waiting[:left]) if record.offset in deaths), left)
                if not left:
                    if records:
                        break
                    left = most = 1
            lane = self._ready.popleft()
            lane.busy = True
            lanes.append(lane)
            self.available -= len(waiting)
            records += waiting[:left]
            del waiting[:left]
        attempts = self.progress.attempts
        job = Job(self, records, lanes, max(attempts.get(record.offset, 0) for record in records) if attempts else 0)
        self.jobs.add(job)
        return job

    def finish(self, job: Job) -> None:
        """A job's lanes go on with what comes next; whether its records are done is another matter."""
        lanes, job.lanes = job.lanes, []
        self._free(lanes)

    def part(self, job: Job) -> None:
        """The lanes of which a job has no records any more go on, though others of its lanes are held up."""
        if self._by_key:
            held = {record.key for record in job.records}
            free = [lane for lane in job.lanes if lane.key not in held]
            job.lanes = [lane for lane in job.lanes if lane.key in held]
            self._free(free)

    def lane_of(self, record: Record) -> object:
        """What tells a record's lane from others."""
        if self._loose or (self._by_key and record.key is None):
            return record.offset
        return record.key if self._by_key else None

    def _free(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            lane.busy = False
            if lane.waiting:
                self.available += len(lane.waiting)
                self._ready.append(lane)
            elif self._lanes.get(lane.key) is lane:
                del self._lanes[lane.key]

    def done(self, job: Job, records: Sequence[Record] | None = None) -> None:
        """A job's records need no more handling.

        :param records: only these of them; the job goes on.
        """
        if records is None:
            self.jobs.discard(job)
            records, job.records = job.records, []
        else:
            job.records = [record for record in job.records if record not in records]
        if not job.void:
            self._let_go(records)
            for record in records:
                self.progress.done(record.offset)

    def withdraw(self, job: Job) -> None:
        """Its records stay undone, for whoever has the partition next."""
        self.jobs.discard(job)
        self._let_go(job.records)

    def _let_go(self, records: Sequence[Record]) -> None:
        self.unfinished -= len(records)
        for record in records:
            self.unfinished_bytes -= len(record.value or b"")

    def again(self, job: Job) -> None:
        """A job that failed may be taken once more; its lanes stayed busy."""
        if not job.records:  # reading went back behind it
            self._end(job)
            return
        self._again.append(job)
        self.available += len(job.records)

    def _end(self, job: Job) -> None:
        self.jobs.discard(job)
        self.finish(job)

    def rewind(self, offset: int) -> None:
        """Reading went back to this offset: nothing that was read from there on counts."""
        for job in self.jobs:
            gone = [record for record in job.records if record.offset >= offset]
            self._let_go(gone)
            if job in self._again:
                self.available -= len(gone)
            job.records = [record for record in job.records if record.offset < offset]
        for lane in {*self._lanes.values(), *self._ready}:
            gone = [record for record in lane.waiting if record.offset >= offset]
            self._let_go(gone)
            if not lane.busy:
                self.available -= len(gone)
            lane.waiting = [record for record in lane.waiting if record.offset < offset]
        self._ready = deque(lane for lane in self._ready if lane.waiting)
        self._lanes = {key: lane for key, lane in self._lanes.items() if lane.waiting or lane.busy}
        again, self._again = self._again, deque(job for job in self._again if job.records)
        for job in again:
            if not job.records:
                self._end(job)
        self.progress.rewind(offset)

    def close(self) -> None:
        """Give the partition up: forget what was not taken."""
        self.closing = True
        for lane in {*self._lanes.values(), *self._ready}:
            self._let_go(lane.waiting)
            lane.waiting.clear()
        while self._again:
            self.withdraw(self._again.popleft())
        self.available = 0
        self._ready.clear()

    def lose(self) -> None:
        """The partition is another's: forget what was not taken, and let nothing count that was."""
        self.close()
        for job in self.jobs:
            job.void = True
