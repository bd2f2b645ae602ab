"""A worker of four processes under load: one is killed every few seconds, or all are stopped and started again.

``make kills`` is the long run: two minutes of killing.
"""

from __future__ import annotations

import itertools
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from streamlayer import Admin, Consumer, NewTopic, Producer, TopicPartition
from streamlayer._core.progress import from_metadata
from streamlayer.embedded import Server
from tests import servers
from tests.profiles import THOROUGH
from tests.system.worker_crew import WorkerCrew, is_alive
from tests.system.worker_judge import Logged, Seen, Story, judge, recoveries
from tests.waiting import sync_wait_until

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(300)]

PARTITIONS, KEYS = 8, 64
KILLING_S = {"async, by key": 120.0, "threads": 30.0, "batches": 30.0} if THOROUGH else {"async, by key": 12.0}
STOPS = {"SIGTERM": 6, "killed": 3, "in turn": 3} if THOROUGH else {"SIGTERM": 1, "killed": 1}
WORKER = "--processes", "4"
SHOPS = {
    "async, by key": """
@app.consumer("orders", group_id="billing", concurrency=16, ordering="key")
async def bill(value: bytes, record: ConsumerRecord):
    begun = time.monotonic()
    await asyncio.sleep(record.offset % 8 / 1000)
    note(record, begun)
""",
    "threads": """
@app.consumer("orders", group_id="billing", concurrency=8, ordering="partition")
def bill(record: ConsumerRecord):
    begun = time.monotonic()
    threading.Event().wait(record.offset % 3 / 1000)
    note(record, begun)
""",
    "batches": """
@app.consumer("orders", group_id="billing", concurrency=4, batch_size=20, batch_wait_ms=10)
async def bill(records: list[ConsumerRecord]):
    await asyncio.sleep(0.005)
    for record in records:
        note(record)
""",
}


@pytest.fixture
def url() -> Iterator[str]:
    """A server that has the topic."""
    with Server(binary=servers.binary("valkey")) as server:
        with Admin(url=server.url) as admin:
            admin.create_topics([NewTopic("orders", PARTITIONS)])
        yield server.url


class Load:
    """Sends records of all keys, and looks at what is committed meanwhile, until it is told to stop."""

    def __init__(self, url: str, *, a_round_ms: int = 40) -> None:
        self._url, self._round_s = url, a_round_ms / 1000
        self.commits: list[Seen] = []
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(work,)) for work in (self._send, self._look)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more records."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self._failures, self._failures

    def _run(self, work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - told where it is stopped
            self._failures.append(error)

    def _send(self) -> None:
        """Each key's next record, in a new order each time: about 1,600 a second."""
        keys, dice = list(range(KEYS)), random.Random(6)
        number = 0
        with Producer(url=self._url) as producer:
            while not self._stop.wait(self._round_s):
                dice.shuffle(keys)
                for key in keys:
                    producer.send("orders", b"%d" % number, b"key-%d" % key)
                number += 1

    def _look(self) -> None:
        with Admin(url=self._url) as admin:
            while not self._stop.wait(0.05):
                offsets = admin.list_group_offsets("billing") if admin.list_groups() else {}
                answered = time.monotonic()
                for tp, stored in offsets.items():
                    ranges = from_metadata(stored.metadata, stored.offset).ranges
                    self.commits.append(Seen(answered, tp.partition, stored.offset, ranges))


def read_log(url: str) -> list[Logged]:
    """All records, once nobody sends."""
    with Consumer(url=url) as consumer:
        consumer.assign([TopicPartition("orders", number) for number in range(PARTITIONS)])
        return [
            Logged(record.partition, record.offset, (record.key or b"").decode(), record.value.decode())
            for record in consumer.read_to_end()
        ]


def owners(url: str) -> dict[int, list[int]]:
    """Which partitions each process has, by pid."""
    with Admin(url=url) as admin:
        members = admin.describe_groups(["billing"])["billing"].members
    return {int(each.host.rpartition(":")[2]): sorted(tp.partition for tp in each.assignment) for each in members}


def all_handled(crew: WorkerCrew, log: list[Logged]) -> None:
    """Wait for that."""
    wanted = {(record.partition, record.offset) for record in log}
    sync_wait_until(
        lambda: not wanted - {(note.partition, note.offset) for note in crew.notes()}, "all is handled", timeout=60
    )


@pytest.mark.parametrize("shape", KILLING_S)
def test_processes_are_killed(url: str, tmp_path: Path, shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`kill -9`, every few seconds: every record is handled, in order per key, without gaps in commits.

    A killed process's partitions flow again within 300 ms (median).
    """
    dice = random.Random(6)
    owned: dict[int, list[int]] = {}
    with WorkerCrew(url, tmp_path, SHOPS[shape], *WORKER) as crew:
        crew.wait_until_ready()
        with Load(url) as load:
            ends = time.monotonic() + KILLING_S[shape]
            turns = itertools.cycle((2, 1, 4, 3))  # who lives for over ten seconds starts again at once
            while time.monotonic() < ends:
                threading.Event().wait(dice.uniform(1.8, 3.8))
                number = next(turns)
                sync_wait_until(lambda who=number: crew.pid(who) in owners(url), f"worker {number} is in the group")
                shares = owners(url)
                pid = crew.kill(number)
                owned[pid] = shares[pid]
            killed = crew.killed
            sync_wait_until(
                lambda: {n.partition for n in crew.notes() if n.begun > max(killed.values())} == set(range(PARTITIONS)),
                "all partitions flow after the last kill",
            )
            load.stop()
            log = read_log(url)
            all_handled(crew, log)
            assert crew.stop() == 0
    story = Story(log, crew.notes(), killed, load.commits)
    waits = sorted(recoveries(story, owned))
    repeats = story.repeats()
    with capsys.disabled():
        print(  # noqa: T201 - what was measured
            f"\n{len(killed)} kills, {len(log):,} records, {len(load.commits):,} commits looked at, "
            f"{sum(repeats.values())} handled again ({max(repeats.values(), default=0)} at most a kill); "
            f"partitions stood still {statistics.median(waits) * 1000:.0f} ms (median), "
            f"{waits[-1] * 1000:.0f} ms at most"
        )
    assert judge(story) == []
    assert len(killed) >= KILLING_S[shape] / 5
    assert statistics.median(waits) <= 0.3, waits
    assert max(waits) < 5, waits
    assert max(repeats.values(), default=0) <= 100


@pytest.mark.parametrize("how", STOPS)
def test_stopped_and_started_again(url: str, tmp_path: Path, how: str) -> None:
    """SIGTERM under load, and the same worker again: not one record is handled twice, none is left out.

    The same when the supervisor alone is killed, and when its processes are stopped one after the other.
    """
    crew = WorkerCrew(url, tmp_path, SHOPS["async, by key"], *WORKER)
    with crew:
        crew.wait_until_ready()
        with Load(url) as load:
            for _ in range(STOPS[how]):
                seen = len(crew.notes())
                sync_wait_until(lambda seen=seen: len(crew.notes()) > seen + 1000, "it is in mid-stream")
                pids = [int(pid) for pid in crew.said(r"worker \d started: pid (\d+)")]
                if how == "in turn":
                    for number in range(1, 5):
                        crew.stop_one(number)
                    continue
                if how == "SIGTERM":
                    assert crew.stop() == 0
                    assert [pid for pid in pids if is_alive(pid)] == []
                else:
                    crew.process.kill()
                    crew.process.wait()
                crew.start()
                crew.wait_until_ready()
            load.stop()
            log = read_log(url)
            all_handled(crew, log)
            assert crew.stop() == 0
    story = Story(log, crew.notes(), commits=load.commits)
    assert judge(story) == []
    assert max(Counter((note.partition, note.offset) for note in story.notes).values()) == 1
