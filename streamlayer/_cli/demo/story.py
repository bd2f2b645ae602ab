"""What happens in the demo, in order: write and read at once, kill the server and a worker, prove, replay."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import redis

from streamlayer import Admin, Consumer, NewTopic, TopicPartition
from streamlayer._cli.demo.corpus import SourceFile, lines_of, read_lines, share
from streamlayer._cli.demo.crew import Crew, Hand, HandFailedError
from streamlayer._cli.demo.diary import GROUP, Done, diary_of, put_together, read_diary, stood_still
from streamlayer._cli.demo.processes import Ended, Job, Logged, Progress, Written, look_on, supervise, write_files
from streamlayer._cli.demo.proof import Reading, Verdict, compare, judge
from streamlayer._cli.demo.screen import Figures, Screen
from streamlayer.embedded import Server

PARTITIONS = 8
PRODUCERS = 2
WORKERS = 4
SUPERVISOR, ONLOOKER, VICTIM = "supervisor", "group", "worker 1"
KILL_AT = 0.4  # of all lines, as the producers count them
HOLD_AT = 0.6  # of a producer's lines: the rest is sent when the server has been killed, so that it is in mid-stream


@dataclass
class Outcome:
    """What happened."""

    written: list[Written]
    down_s: float = 0.0
    killed_at: float = 0.0


class Victim:
    """The worker that is killed: when it is at work.

    :ivar pid: its process; 0 before that is known.
    :ivar busy: whether it has written something down between the last two looks.
    :ivar replaced: whether another process has its place.
    """

    def __init__(self, diaries: Path) -> None:
        self._diaries = diaries
        self._size = 0
        self.pid = 0
        self.busy = self.killed = self.replaced = False

    def look(self) -> None:
        """See what it is doing."""
        diary = self._diaries / diary_of(self.pid)
        size = diary.stat().st_size if diary.exists() else 0
        self.busy, self._size = size > self._size > 0, size

    def kill(self) -> float:
        """End it; when that was."""
        self.killed = True
        killed_at = time.monotonic()
        os.kill(self.pid, signal.SIGKILL)
        return killed_at


class Story:
    """One run of the demo.

    :param files: what to send, all under ``job.root``.
    :param diaries: a folder for what the workers write down.
    """

    def __init__(
        self, screen: Screen, server: Server, crew: Crew, job: Job, files: Sequence[SourceFile], diaries: Path
    ) -> None:
        self._diaries = diaries
        self._victim = Victim(diaries)
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
        times = [page.at for pages in diaries.values() for page in pages if page.values]
        done = put_together(diaries.values())
        verdict = judge(self._files, [self._reading(done)], log_length)
        holds = self._tell(verdict, done)
        holds &= self._replay(done)
        self._screen.table(
            Figures(
                files=len(self._files),
                records=self._lines,
                written_s=max(w.ended for w in outcome.written) - min(w.begun for w in outcome.written),
                read_s=max(times) - min(times),
                sent_bytes=sum(w.size for w in outcome.written),
                stored_bytes=sum(partition.bytes for partition in topic.partitions),
                down_s=outcome.down_s,
                sent_again=sum(w.sent_again for w in outcome.written),
                stored_twice=max(0, log_length - self._lines),
                still_s=stood_still(diaries, diary_of(self._victim.pid), outcome.killed_at),
                repeated=done.repeated,
            )
        )
        return holds

    def _start(self) -> list[Hand]:
        """The producers, once all are ready."""
        shares = share(self._files, PRODUCERS)
        producers = [
            self._crew.start(f"producer {number}", write_files, self._job, files, int(HOLD_AT * lines_of(files)))
            for number, files in enumerate(shares, 1)
        ]
        self._crew.start(SUPERVISOR, supervise, self._job, self._diaries, WORKERS)
        self._crew.start(ONLOOKER, look_on, self._job, self._diaries / ONLOOKER, WORKERS)
        self._crew.wait_until_ready()
        for producer, files in zip(producers, shares, strict=True):
            self._screen.bar(producer.name, lines_of(files))
        self._screen.bar(ONLOOKER, self._lines)
        for producer in producers:
            producer.tell("go")
        return producers

    def _flow(self, producers: Sequence[Hand]) -> Outcome:
        """Until everything is written and processed; in the middle of it, kill the server, and then a worker."""
        outcome = Outcome([])
        sent = dict.fromkeys((producer.name for producer in producers), 0)
        ends: dict[TopicPartition, int] = {}
        over = False
        for hand, said in self._crew.listen():
            match said:
                case Progress(records):
                    self._screen.progress(hand.name, records)
                    if hand.name in sent:
                        sent[hand.name] = records
                    else:
                        self._victim.look()
                case Logged(text):
                    self._hear(text)
                case Written():
                    outcome.written.append(said)
                    self._screen.progress(hand.name, said.records)
                    if len(outcome.written) == len(producers):
                        with Consumer(url=self._job.url) as consumer:
                            ends = consumer.end_offsets(self._places)
                case Ended(0) if over:
                    pass
                case _:
                    raise HandFailedError(f"the {hand.name} said {said!r} out of turn")
            if not outcome.down_s and sum(sent.values()) >= KILL_AT * self._lines:
                outcome.down_s = self._crash(sum(sent.values()))
                self._victim.busy = False
                for producer in producers:
                    producer.tell("go on")
            if self._victim.pid and not outcome.killed_at and outcome.down_s and (self._victim.busy or ends):
                outcome.killed_at = self._victim.kill()
                self._screen.step(f"  {VICTIM} was killed (SIGKILL) too. Its supervisor says:", "yellow")
            if ends and not over and self._committed() == ends:
                over = True
                for each in self._crew.hands:
                    each.tell("it is over")
        return outcome

    def _hear(self, text: str) -> None:
        """What the supervisor logs: who the victim is, and what becomes of it."""
        started = text.startswith(f"{VICTIM} started: pid ")
        if self._victim.killed and not self._victim.replaced and text.startswith(f"{VICTIM} "):
            self._screen.step(f"    {text}", "yellow")
            self._victim.replaced = started
        elif started and not self._victim.killed:
            self._victim.pid = int(text.rpartition(" ")[2])

    def _committed(self) -> dict[TopicPartition, int | None]:
        """How far the group is."""
        with Consumer(url=self._job.url, group_id=GROUP) as consumer:
            return {place: consumer.committed(place) for place in self._places}

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
