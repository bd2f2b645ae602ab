"""What happens in the demo, in order: write and read at once, kill the server, start it again, prove, replay."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import redis

from streamlayer import Admin, Consumer, NewTopic, TopicPartition
from streamlayer._cli.demo.corpus import SourceFile, lines_of, read_lines, share
from streamlayer._cli.demo.crew import Crew, Worker, WorkerFailedError
from streamlayer._cli.demo.proof import Verdict, compare, judge
from streamlayer._cli.demo.screen import Figures, Screen
from streamlayer._cli.demo.workers import (
    Job,
    Middle,
    Progress,
    Read,
    Written,
    read_partitions,
    write_files,
)
from streamlayer.embedded import Server

PARTITIONS = 4
PRODUCERS = 2
CONSUMERS = 2
KILL_AT = 0.4  # of all lines, as the producers count them
HOLD_AT = 0.6  # of a producer's lines: the rest is sent when the server has been killed, so that it is in mid-stream


@dataclass
class Outcome:
    """What the workers did."""

    written: list[Written]
    read: list[Read]
    down_s: float


class Story:
    """One run of the demo.

    :param files: what to send, all under ``job.root``.
    """

    def __init__(self, screen: Screen, server: Server, crew: Crew, job: Job, files: Sequence[SourceFile]) -> None:
        self._screen = screen
        self._server = server
        self._crew = crew
        self._job = job
        self._files = files
        self._lines = lines_of(files)
        self._longest = max(files, key=lambda file: file.lines)
        self._places = [TopicPartition(job.topic, number) for number in range(PARTITIONS)]

    def run(self) -> bool:
        """Everything, to the table; whether all proofs hold."""
        self._write_through(self._server)
        with Admin(url=self._job.url) as admin:
            admin.create_topics([NewTopic(self._job.topic, PARTITIONS)])
        producers, consumers = self._start()
        outcome = self._flow(producers, consumers)
        with Admin(url=self._job.url) as admin:
            (topic,) = admin.describe_topics([self._job.topic]).values()
        log_length = sum(partition.log_end for partition in topic.partitions)
        verdict = judge(self._files, [read.reading for read in outcome.read], log_length)
        holds = self._tell(verdict)
        holds &= self._replay([read.middle for read in outcome.read if read.middle is not None])
        self._screen.table(
            Figures(
                files=len(self._files),
                records=self._lines,
                written_s=max(w.ended for w in outcome.written) - min(w.begun for w in outcome.written),
                read_s=max(r.ended for r in outcome.read) - min(r.begun for r in outcome.read),
                sent_bytes=sum(w.size for w in outcome.written),
                stored_bytes=sum(partition.bytes for partition in topic.partitions),
                down_s=outcome.down_s,
                sent_again=sum(w.sent_again for w in outcome.written),
                stored_twice=verdict.extra,
            )
        )
        return holds

    def _start(self) -> tuple[list[Worker], list[Worker]]:
        shares = share(self._files, PRODUCERS)
        producers = [
            self._crew.start(f"producer {number}", write_files, self._job, files, int(HOLD_AT * lines_of(files)))
            for number, files in enumerate(shares, 1)
        ]
        consumers = [
            self._crew.start(
                f"consumer {number}",
                read_partitions,
                self._job,
                self._places[number - 1 :: CONSUMERS],
                self._longest.key,
            )
            for number in range(1, CONSUMERS + 1)
        ]
        for _ in self._crew.listen(self._crew.workers):  # each says Ready
            pass
        for worker, files in zip(producers, shares, strict=True):
            self._screen.bar(worker.name, lines_of(files))
        for worker in consumers:
            self._screen.bar(worker.name, None)
        for worker in self._crew.workers:
            worker.tell("go")
        return producers, consumers

    def _flow(self, producers: Sequence[Worker], consumers: Sequence[Worker]) -> Outcome:
        """Until everything is written and read; in the middle of it, kill the server."""
        outcome = Outcome([], [], 0.0)
        sent = dict.fromkeys((worker.name for worker in producers), 0)
        for worker, said in self._crew.listen([*producers, *consumers]):
            match said:
                case Progress(records):
                    self._screen.progress(worker.name, records)
                    if worker.name in sent:
                        sent[worker.name] = records
                case Written():
                    outcome.written.append(said)
                    self._screen.progress(worker.name, said.records)
                    if len(outcome.written) == len(producers):
                        self._announce_ends(consumers)
                case Read(reading):
                    outcome.read.append(said)
                    self._screen.progress(worker.name, sum(reading.lines.values()))
                case _:
                    raise WorkerFailedError(f"the {worker.name} said {said!r} out of turn")
            if not outcome.down_s and sum(sent.values()) >= KILL_AT * self._lines:
                outcome.down_s = self._crash(sum(sent.values()))
                for producer in producers:
                    producer.tell("go on")
        return outcome

    def _crash(self, sent: int) -> float:
        """Kill the server and start it again; the seconds that it was away."""
        begun = time.monotonic()
        self._server.kill()
        self._screen.step(f"  The server was killed (SIGKILL) after {sent:,} lines …", "yellow")
        self._server.start()
        took = time.monotonic() - begun
        self._write_through(self._server)
        self._screen.step(f"  … and started again: it was away for {took:.1f} s.", "yellow")
        return took

    def _announce_ends(self, consumers: Sequence[Worker]) -> None:
        """Everything is acknowledged: the consumers are told how far they have to read."""
        with Consumer(url=self._job.url) as consumer:
            ends = consumer.end_offsets(self._places)
        for number, worker in enumerate(consumers):
            mine = {place: ends[place] for place in self._places[number::CONSUMERS]}
            self._screen.total(worker.name, sum(mine.values()))
            worker.tell(mine)

    def _tell(self, verdict: Verdict) -> bool:
        if verdict.faults:
            self._screen.faults("the lines did not come back as they were sent", verdict.faults)
            return False
        self._screen.proof(
            f"{verdict.lines:,} lines came back: complete, in order, once; put together they are the "
            f"{verdict.files:,} files, byte for byte"
        )
        return True

    def _replay(self, middles: Sequence[Middle]) -> bool:
        """Read the longest file again, from the time of its middle line on."""
        name = self._longest.key.decode(errors="backslashreplace")
        if len(middles) != 1:
            self._screen.faults(f"{name} cannot be replayed", (f"it was found in {len(middles)} partitions",))
            return False
        (middle,) = middles
        with Consumer(url=self._job.url) as consumer:
            consumer.assign([middle.partition])
            consumer.seek_to_time(middle.timestamp)
            came = [
                record.value
                for record in consumer.read_to_end()
                if record.key == self._longest.key and record.timestamp >= middle.timestamp
            ]
        expected = read_lines(self._job.root, self._longest.key)[middle.place :]
        fault = compare(self._longest.key, expected, came)
        when = datetime.fromtimestamp(middle.timestamp / 1000, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        if fault is not None or not came:
            self._screen.faults(f"{name} was not replayed as it is", (str(fault or "nothing came"),))
            return False
        self._screen.proof(
            f"{name}, {self._longest.lines:,} lines, replayed from its middle by time ({when}): "
            f"the last {len(came):,} lines came again"
        )
        return True

    @staticmethod
    def _write_through(server: Server) -> None:
        """Have the server write to disk before it answers.

        By default it does so once a second, and while the disk is busy with that it may keep two seconds of answered
        writes in memory: a SIGKILL takes those along, and the demo promises that none is lost.
        """
        with redis.Redis.from_url(server.url) as client:  # pyright: ignore[reportUnknownMemberType]
            client.config_set("appendfsync", "always")  # pyright: ignore[reportUnknownMemberType]
