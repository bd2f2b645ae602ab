"""What happens in the demo, in order: write and read at once, kill the server and a worker, prove, replay."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import redis

from streamlayer import Admin, Consumer, NewTopic, TopicPartition
from streamlayer._cli.demo.corpus import SourceFile, lines_of, read_lines, share
from streamlayer._cli.demo.crew import Crew, Worker, WorkerFailedError
from streamlayer._cli.demo.diary import Done, put_together, read_diary, stood_still
from streamlayer._cli.demo.proof import Reading, Verdict, compare, judge
from streamlayer._cli.demo.screen import Figures, Screen
from streamlayer._cli.demo.workers import GROUP, Job, Progress, Read, Ready, Written, process_lines, write_files
from streamlayer.embedded import Server

PARTITIONS = 8
PRODUCERS = 2
WORKERS = 4
VICTIM = "worker 1"
KILL_AT = 0.4  # of all lines, as the producers count them
HOLD_AT = 0.6  # of a producer's lines: the rest is sent when the server has been killed, so that it is in mid-stream


@dataclass
class Outcome:
    """What the workers did."""

    written: list[Written]
    read: list[Read]
    down_s: float
    killed_at: float


class Story:
    """One run of the demo.

    :param files: what to send, all under ``job.root``.
    :param diaries: a folder for what the workers write down.
    """

    def __init__(
        self, screen: Screen, server: Server, crew: Crew, job: Job, files: Sequence[SourceFile], diaries: Path
    ) -> None:
        self._diaries = diaries
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
        outcome = self._flow(self._start())
        with Admin(url=self._job.url) as admin:
            (topic,) = admin.describe_topics([self._job.topic]).values()
        log_length = sum(partition.log_end for partition in topic.partitions)
        diaries = {path.name: read_diary(path) for path in self._diaries.iterdir()}
        done = put_together(diaries.values())
        verdict = judge(self._files, [self._reading(done)], log_length)
        holds = self._tell(verdict, done)
        holds &= self._replay(done)
        self._screen.table(
            Figures(
                files=len(self._files),
                records=self._lines,
                written_s=max(w.ended for w in outcome.written) - min(w.begun for w in outcome.written),
                read_s=max(r.ended for r in outcome.read) - min(r.begun for r in outcome.read if r.begun),
                sent_bytes=sum(w.size for w in outcome.written),
                stored_bytes=sum(partition.bytes for partition in topic.partitions),
                down_s=outcome.down_s,
                sent_again=sum(w.sent_again for w in outcome.written),
                stored_twice=max(0, log_length - self._lines),
                still_s=stood_still(diaries, VICTIM, outcome.killed_at),
                repeated=done.repeated,
            )
        )
        return holds

    def _start(self) -> list[Worker]:
        """The producers, once all are ready."""
        shares = share(self._files, PRODUCERS)
        producers = [
            self._crew.start(f"producer {number}", write_files, self._job, files, int(HOLD_AT * lines_of(files)))
            for number, files in enumerate(shares, 1)
        ]
        for number in range(1, WORKERS + 1):
            self._start_worker(number)
        self._crew.wait_until_ready()
        for worker, files in zip(producers, shares, strict=True):
            self._screen.bar(worker.name, lines_of(files))
        for worker in self._crew.workers:
            if worker not in producers:
                self._screen.bar(worker.name, None)
        for worker in producers:
            worker.tell("go")
        return producers

    def _start_worker(self, number: int) -> Worker:
        name = f"worker {number}"
        return self._crew.start(name, process_lines, self._job, self._diaries / name)

    def _flow(self, producers: Sequence[Worker]) -> Outcome:
        """Until everything is written and processed; in the middle of it, kill the server, and then a worker."""
        outcome = Outcome([], [], 0.0, 0.0)
        sent = dict.fromkeys((worker.name for worker in producers), 0)
        ends: dict[TopicPartition, int] = {}
        over = busy = False
        done = 0
        for worker, said in self._crew.listen():
            match said:
                case Progress(records):
                    self._screen.progress(worker.name, records)
                    if worker.name in sent:
                        sent[worker.name] = records
                    elif worker.name == VICTIM:
                        busy = records > done > 0
                        done = records
                case Written():
                    outcome.written.append(said)
                    self._screen.progress(worker.name, said.records)
                    if len(outcome.written) == len(producers):
                        with Consumer(url=self._job.url) as consumer:
                            ends = consumer.end_offsets(self._places)
                case Read(records):
                    outcome.read.append(said)
                    self._screen.progress(worker.name, records)
                case Ready():
                    pass  # the one that was added
                case _:
                    raise WorkerFailedError(f"the {worker.name} said {said!r} out of turn")
            if not outcome.down_s and sum(sent.values()) >= KILL_AT * self._lines:
                outcome.down_s = self._crash(sum(sent.values()))
                busy = False
                for producer in producers:
                    producer.tell("go on")
            if not outcome.killed_at and outcome.down_s and (busy or ends):
                outcome.killed_at = self._replace_a_worker()
            if ends and not over and self._committed() == ends:
                over = True
                for each in self._crew.workers:
                    each.tell("it is over")
        return outcome

    def _committed(self) -> dict[TopicPartition, int | None]:
        """How far the group is."""
        with Consumer(url=self._job.url, group_id=GROUP) as consumer:
            return {place: consumer.committed(place) for place in self._places}

    def _replace_a_worker(self) -> float:
        """Kill one worker of the group, and add another; when that was."""
        victim = next(worker for worker in self._crew.workers if worker.name == VICTIM)
        killed_at = time.monotonic()
        victim.kill()
        newcomer = self._start_worker(WORKERS + 1)
        self._screen.bar(newcomer.name, None)
        self._screen.step(f"  {VICTIM} was killed (SIGKILL) too; {newcomer.name} joins the group.", "yellow")
        return killed_at

    def _reading(self, done: Done) -> Reading:
        """Hold what was done against the disk."""
        found = (compare(key, read_lines(self._job.root, key), came) for key, came in done.lines.items())
        faults = [fault for fault in found if fault is not None]
        return Reading({key: len(came) for key, came in done.lines.items()}, faults, done.jumps)

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

    def _tell(self, verdict: Verdict, done: Done) -> bool:
        parted = [
            f"{key.decode(errors='backslashreplace')}: came from two partitions"
            for key, places in done.places.items()
            if len(places) > 1
        ]
        faults = (*verdict.faults, *parted, *done.faults)
        if faults:
            self._screen.faults("the lines did not come back as they were sent", faults)
            return False
        self._screen.proof(
            f"{verdict.lines:,} lines were processed: complete, in order; put together they are the "
            f"{verdict.files:,} files, byte for byte"
        )
        self._screen.proof(
            f"{done.repeated:,} of them twice: what {VICTIM} had done and not committed, and nothing else"
        )
        return True

    def _replay(self, done: Done) -> bool:
        """Read the longest file again, from the time of its middle line on."""
        key, name = self._longest.key, self._longest.key.decode(errors="backslashreplace")
        times, places = done.times.get(key, []), done.places.get(key, set())
        if len(places) != 1:
            self._screen.faults(f"{name} cannot be replayed", (f"it was found in {len(places)} partitions",))
            return False
        middle = times[len(times) // 2]
        first = next(i for i, each in enumerate(times) if each >= middle)
        with Consumer(url=self._job.url) as consumer:
            consumer.assign([TopicPartition(self._job.topic, *places)])
            consumer.seek_to_time(middle)
            came = [
                record.value for record in consumer.read_to_end() if record.key == key and record.timestamp >= middle
            ]
        fault = compare(key, read_lines(self._job.root, key)[first:], came)
        when = datetime.fromtimestamp(middle / 1000, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
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
