"""Worker processes of a consumer group, and a producer: started, signalled, killed by a test, which reads their logs.

    with Crew(server.url, tmp_path) as crew:
        crew.start("a", colour="aio", how="batch")
        crew.wait(lambda: crew.said("a", "assigned"), "a has partitions")
        crew.kill("a")

What the test does to a process is logged like what the process does; see ``group_worker`` and ``group_judge``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import redis

from streamlayer import Admin, Consumer, NewTopic, Producer, TopicPartition
from streamlayer._core import group_calls
from streamlayer._core.keys import group_keys
from tests.system.group_judge import GroupHistory, Line, Observed
from tests.system.group_worker import GROUP, TOPIC
from tests.waiting import sync_wait_until

ROOT = Path(__file__).parents[2]
SESSION: dict[str, Any] = {"session_timeout_ms": 1000, "heartbeat_interval_ms": 200}
HOWS = ("auto", "batch", "iterate")


def now_ns() -> int:
    """The clock of all logs."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Crew:
    """All processes of one group."""

    def __init__(self, url: str, folder: Path, *, partitions: int = 6, work_ms: int = 60, **options: Any) -> None:
        self.partitions = partitions
        self._url, self._work_ms = url, work_ms
        self._folder = folder
        self._options = SESSION | options
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log = os.open(folder / "test.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._read_to: defaultdict[Path, int] = defaultdict(int)
        self._lines: list[Line] = []
        self._stop = threading.Event()
        self._beside: list[threading.Thread] = []
        self._crashes: list[BaseException] = []
        self.observed: list[Observed] = []
        self.sent = 0

    def __enter__(self) -> Self:
        with Admin(url=self._url) as admin:
            admin.create_topics([NewTopic(TOPIC, self.partitions)], exist_ok=True)
        self._redis = redis.Redis.from_url(self._url)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for process in self._processes.values():
            process.kill()
            process.wait()
        for thread in self._beside:
            thread.join()
        self._redis.close()
        os.close(self._log)

    # --- processes ---------------------------------------------------------------------------------------------------

    def start(self, name: str, *, colour: str, how: str, **options: Any) -> None:
        """A new process, under a name that no other had."""
        spec = json.dumps({"colour": colour, "how": how, "work_ms": self._work_ms, "options": self._options | options})
        with (self._folder / f"{name}.err").open("wb") as errors:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.system.group_worker", self._url, self._path(name), name, spec],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )

    def _path(self, name: str) -> str:
        return str(self._folder / f"{name}.log")

    def _say(self, name: str, what: str) -> None:
        line = [now_ns(), name, what, {}]
        os.write(self._log, json.dumps(line).encode() + b"\n")

    def _signal(self, name: str, number: int, what: str) -> None:
        """Not before it has begun: until then SIGTERM would end it out of order."""
        process, said = self._processes[name], Path(self._path(name))
        sync_wait_until(
            lambda: process.poll() is not None or (said.exists() and said.stat().st_size > 0), f"{name} has begun"
        )
        self._say(name, what)
        process.send_signal(number)

    def kill(self, name: str) -> None:
        """End it by SIGKILL."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()
        self._say(name, "killed")  # what it has said, it said before

    def stop(self, name: str) -> None:
        """Have it stand still, until ``go_on``."""
        self._signal(name, signal.SIGSTOP, "stopped")

    def go_on(self, name: str) -> None:
        """Have it run again."""
        self._signal(name, signal.SIGCONT, "continued")

    def rejoin(self, name: str) -> None:
        """Have it leave in order, and join again."""
        self._signal(name, signal.SIGUSR1, "told to rejoin")

    def end(self, name: str) -> None:
        """Have it leave in order, and end."""
        self._signal(name, signal.SIGTERM, "told to end")
        process = self._processes.pop(name)
        assert process.wait(30) == 0, self.complaints(name)

    def complaints(self, name: str) -> str:
        """What it wrote to its standard error."""
        return (self._folder / f"{name}.err").read_text()

    @property
    def names(self) -> list[str]:
        """Who runs, or stands still."""
        return list(self._processes)

    # --- what they say -----------------------------------------------------------------------------------------------

    def lines(self) -> list[Line]:
        """All logs so far; one process's lines are in order."""
        for path in self._folder.glob("*.log"):
            with path.open("rb") as log:
                log.seek(self._read_to[path])
                whole, _, _ = log.read().rpartition(b"\n")
            if whole:
                self._read_to[path] += len(whole) + 1
                self._lines += [Line(*json.loads(text)) for text in whole.split(b"\n")]
        return self._lines

    def said(self, name: str, what: str, *, since: int = 0) -> list[Line]:
        """One process's lines of a kind, since a moment."""
        return [
            line
            for line in self.lines()
            if line.what == what and line.at >= since and line.actor.rpartition(".")[0] == name
        ]

    def has(self, name: str) -> set[int]:
        """The partitions that a process has now, by its log."""
        owned: set[int] = set()
        for line in self.lines():
            if line.actor.rpartition(".")[0] == name:
                if line.what == "assigned":
                    owned |= {int(text) for text in line.more["positions"]}
                elif line.what in {"revoked", "lost"}:
                    owned -= set(line.more["partitions"])
        return owned

    def wait(self, predicate: Callable[[], Any], description: str, *, timeout: float = 20) -> Any:
        """Wait until something holds, and nothing has died."""

        def holds() -> Any:
            self.check()
            return predicate()

        return sync_wait_until(holds, description, timeout=timeout)

    def wait_shared(self, *names: str, timeout: float = 20) -> None:
        """Wait until these processes share all partitions evenly."""

        def shared() -> bool:
            parts = [self.has(name) for name in names]
            sizes = [len(part) for part in parts]
            return sum(sizes) == len(set().union(*parts)) == self.partitions and max(sizes) - min(sizes) <= 1

        self.wait(shared, f"{names} share {self.partitions} partitions", timeout=timeout)

    def check(self) -> None:
        """Raise what the producer died of; see that no process has."""
        for crash in self._crashes:
            raise crash
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} died: {self.complaints(name)}"

    # --- beside them -------------------------------------------------------------------------------------------------

    def produce(self, per_second: int = 300) -> None:
        """Append from now on, round the partitions."""
        self._run_beside(lambda: self._produce(per_second))

    def observe(self) -> None:
        """Look at what is committed, from now on."""
        self._run_beside(self._observe)

    def _run_beside(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as crash:  # noqa: BLE001 - the test's own thread raises it
                self._crashes.append(crash)

        self._beside.append(threading.Thread(target=run, daemon=True))
        self._beside[-1].start()

    def _produce(self, per_second: int) -> None:
        with Producer(url=self._url, linger_ms=2) as producer:
            while not self._stop.wait(0.02):
                for _ in range(per_second // 50):
                    producer.send(TOPIC, b"%d" % self.sent, partition=self.sent % self.partitions)
                    self.sent += 1

    def _observe(self) -> None:
        while not self._stop.wait(0.05):
            asked = now_ns()
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):  # the server is away
                offsets = self.committed()
                self.observed.append(Observed(asked, now_ns(), offsets))

    def committed(self) -> dict[int, int]:
        """What the group has stored, by partition."""
        stored = self._redis.hgetall(group_keys("sl", GROUP).offsets)
        return {
            int(name.rpartition(b":")[2]): group_calls._committed(value).offset
            for name, value in stored.items()
            if name != b"-"
        }

    def described(self) -> group_calls.DescribedGroup:
        """The group, as the server has it."""
        with Consumer(TOPIC, url=self._url) as consumer:
            return consumer._client.call(group_calls.describe_group(group_keys("sl", GROUP)))

    def end_offsets(self) -> dict[int, int]:
        """Where the logs end."""
        with Consumer(url=self._url) as consumer:
            ends = consumer.end_offsets([TopicPartition(TOPIC, n) for n in range(self.partitions)])
        return {tp.partition: end for tp, end in ends.items()}

    def finish(self, *, timeout: float = 30) -> GroupHistory:
        """Append no more, let all be committed, end all processes: what happened."""
        self._stop.set()
        for thread in self._beside:
            thread.join()
        ends = self.end_offsets()
        self.wait(lambda: self.committed() == ends, "everything is committed", timeout=timeout)
        for name in self.names:
            self.end(name)
        return GroupHistory(self.lines(), self._whole_logs(), self.observed, self.committed())

    def _whole_logs(self) -> dict[int, list[str]]:
        logs: dict[int, list[str]] = {n: [] for n in range(self.partitions)}
        with Consumer(TOPIC, url=self._url) as consumer:
            for record in consumer.read_to_end():
                assert record.offset == len(logs[record.partition])
                logs[record.partition].append(record.value.decode())
        assert sum(map(len, logs.values())) == self.sent
        return logs
