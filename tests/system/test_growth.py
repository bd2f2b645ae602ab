"""Partitions are added while four processes write: a key is in one partition at any moment, in order, nothing is lost.

The proof is in the records: the topic's times are the server's, of the append, so that they tell for each key when it
was in which partition. What each writer was told is judged as ever (`judge`).
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from streamlayer import Admin, AppendedRange, Consumer, ConsumerRecord, NewTopic, TopicConfig
from streamlayer.embedded import Server
from tests.system.judge import Anomaly, Event, History, Value, judge
from tests.system.load import PARTITIONS, TOPIC, Load
from tests.system.proxy import Proxy
from tests.waiting import sync_wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
APPEND = b":producers"  # a key that only appends name


class Writer(Load):
    """One of the four: the same load as ever, under a name of its own."""

    def __init__(self, colour: Any, url: str, number: int) -> None:
        super().__init__(colour, url, writers=number + 1, readers=0, burst=30)
        self._names, self._threads = self._names[-1:], self._threads[-1:]

    def _many_acked(self, values: list[Value], ranges: list[AppendedRange]) -> None:
        if len({part.partition for part in ranges}) == 1:
            super()._many_acked(values, ranges)
        else:  # the topic grew in the middle of it: which record is in which partition is not said
            for value in values:
                self.history.unknown(value)


def write(url: str, colour: str, number: str, path: str) -> None:
    """Be a writer until a line comes in; then leave what was tried and seen in a file."""
    with Writer(colour, url, int(number)) as writer:
        sys.stdin.readline()
    assert not writer.errors, writer.errors
    Path(path).write_bytes(pickle.dumps(writer.history.events))


GROW = """
import os, signal, sys
from streamlayer import Admin
url, total, left = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Admin(url=url) as admin:
    execute = admin._client.execute
    def one_by_one(batch, limit_ms=5000):
        global left
        outcomes = []
        for call in batch:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            outcomes += execute([call])
        return outcomes
    admin.list_topics()
    admin._client.execute = one_by_one
    sys.stdin.readline()
    admin.create_partitions({"orders": total})
"""


@contextmanager
def writers(url: str, folder: Path) -> Iterator[History]:
    """Four processes, two of each colour, from `with` to the end of the block; then what they tried and saw."""
    history = History()
    with ExitStack() as stack:
        processes = []
        for number, colour in enumerate(("sync", "aio", "sync", "aio")):
            command = [sys.executable, "-m", "tests.system.test_growth", url, colour, str(number)]
            process = subprocess.Popen([*command, str(folder / str(number))], cwd=ROOT, stdin=subprocess.PIPE)
            processes.append(process)
            stack.callback(process.kill)
        yield history
        for process in processes:
            process.communicate(b"stop\n", timeout=30)
        assert [process.returncode for process in processes] == [0] * 4
        for number in range(4):
            events: list[Event] = pickle.loads((folder / str(number)).read_bytes())
            history.events += events
    history.events.sort(key=lambda event: event.at)
    for event in history.events:
        history.counts[event.what] += len(event.records)


def wait_for(admin: Admin, more: int) -> None:
    """Until so many more records are in the log."""

    def total() -> int:
        return sum(partition.log_end for partition in admin.describe_topics([TOPIC])[TOPIC].partitions)

    enough = total() + more
    sync_wait_until(lambda: total() >= enough, f"{more} more records", timeout=30)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of one's own, with a topic whose times are the server's."""
    with Server(port=0) as running:
        with Admin(url=running.url) as admin:
            config = TopicConfig(message_timestamp_type="LogAppendTime")
            admin.create_topics([NewTopic(TOPIC, PARTITIONS, config=config)])
        yield running


def drain(history: History, url: str, partitions: int) -> list[ConsumerRecord]:
    """Read the whole topic by somebody new."""
    with Consumer(TOPIC, url=url) as consumer:
        records = list(consumer.read_to_end())
    for number in range(partitions):
        history.drained(number, [(r.offset, Value.parse(r.value)) for r in records if r.partition == number])
    return records


def split_keys(records: Sequence[ConsumerRecord], counts: Sequence[int]) -> Iterator[str]:
    """Keys that were in two partitions at a moment, by the server's clock, or in one that was not theirs.

    :param counts: of partitions, one layout after the other.
    """
    times: defaultdict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for record in records:
        assert record.timestamp_type == 1
        times[record.key or b""].append((record.timestamp, record.partition))
    for key, places in times.items():
        layouts = [crc32(key) % count for count in counts]
        at = 0
        for timestamp, found in groupby(sorted(places), key=lambda place: place[0]):
            partitions = {partition for _, partition in found}
            end = next((end for end in range(at, len(layouts)) if partitions <= {*layouts[at : end + 1]}), None)
            if end is None:
                yield f"{key!r} was in {partitions} at {timestamp}, behind {layouts[at]}, with the layouts {layouts}"
                break
            at = end


def strays(records: Sequence[ConsumerRecord], counts: Sequence[int]) -> Iterator[str]:
    """Records of a writer and a key that went to an earlier layout than one that was sent before."""
    sent: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for record in records:
        value = Value.parse(record.value)
        sent[value.writer, value.key].append((value.index, record.partition))
    for (writer, key), places in sent.items():
        layouts = iter([crc32(key.encode()) % count for count in counts])
        visited = [partition for partition, _ in groupby(partition for _, partition in sorted(places))]
        if not all(partition in layouts for partition in visited):
            yield f"{writer}'s records of {key} went to {visited}"


def verdict(history: History, url: str, counts: Sequence[int]) -> list[Anomaly | str]:
    """All that is wrong; a key in several partitions is not, if it was in one after the other."""
    records = drain(history, url, counts[-1])
    found: list[Anomaly | str] = [
        anomaly for anomaly in judge(history, floors={"acked": 2500}) if anomaly.name != "key-split"
    ]
    found += split_keys(records, counts)
    found += strays(records, counts)
    used = {partition for record in records for partition in [record.partition]}
    assert used >= {crc32(b"key-%d" % i) % counts[-1] for i in range(12)}, "the last layout was never used"
    return found


def test_growth_under_load(server: Server, tmp_path: Path) -> None:
    """3 to 4, 7 and 12 partitions, while four processes write."""
    counts = [PARTITIONS, 4, 7, 12]
    with Admin(url=server.url) as admin, writers(server.url, tmp_path) as history:
        for count in counts[1:]:
            wait_for(admin, 1500)
            admin.create_partitions({TOPIC: count})
        wait_for(admin, 1500)
    assert verdict(history, server.url, counts) == []


@pytest.mark.parametrize("first", [1, 8])
def test_growth_whose_admin_is_killed(server: Server, tmp_path: Path, first: int) -> None:
    """After each of its calls in turn; another admin finishes it, or a writer whose record was refused."""
    counts = list(range(PARTITIONS, PARTITIONS + 8))
    with Admin(url=server.url) as admin, ExitStack() as stack:
        admins = []
        for calls, count in enumerate(counts[1:], first):  # they take their time to start, beside a load
            command = [sys.executable, "-c", GROW, server.url, str(count), str(calls)]
            admins.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE))
            stack.callback(admins[-1].kill)
        with writers(server.url, tmp_path) as history:
            for calls, (doomed, count) in enumerate(zip(admins, counts[1:], strict=True)):
                wait_for(admin, 600)
                doomed.communicate(b"go\n", timeout=30)
                assert doomed.returncode == -9
                if calls % 2:
                    wait_for(admin, 300)
                admin.create_partitions({TOPIC: count})
            wait_for(admin, 1000)
    assert verdict(history, server.url, counts) == []


def test_growth_through_a_bad_network(server: Server, tmp_path: Path) -> None:
    """Answers lost, requests cut, held back until it is over, and sent twice: what is unknown is decided first."""
    counts = [PARTITIONS, 4, 5, 7, 8, 12]
    dice = random.Random(12)
    with (
        Admin(url=server.url) as admin,
        Proxy(server.url) as proxy,
        writers(f"{proxy.url}?socket_timeout=0.2", tmp_path) as history,
    ):
        faults = [
            lambda: proxy.drop_replies(dice.randint(1, 8), match=APPEND),
            lambda: proxy.cut_requests(dice.randint(1, 8), match=APPEND, part=dice.random() < 0.5),
            lambda: proxy.repeat_requests(dice.randint(1, 8), match=APPEND),
            lambda: proxy.hold(dice.randint(1, 8), match=APPEND),
        ]
        for count in counts[1:]:
            dice.shuffle(faults)
            for fault in (*faults, proxy.kill_all):
                fault()
                wait_for(admin, 60)
            for fault in faults:
                fault()
            admin.create_partitions({TOPIC: count})
            wait_for(admin, 200)
            proxy.release()
        proxy.heal()
        wait_for(admin, 1000)
    struck = sum(proxy.counts[name] for name in ("dropped", "cut", "held", "repeated", "killed"))
    assert struck >= 60, proxy.counts
    assert verdict(history, server.url, counts) == []


def test_the_proof_knows_a_key_that_is_in_two_partitions() -> None:
    """What the tests above rest on: a record behind one of a later layout, and one where it never belonged."""
    key = next(b"k%d" % i for i in range(100) if crc32(b"k%d" % i) % 2 == 0 and crc32(b"k%d" % i) % 3 == 1)

    def log(*places: tuple[int, int]) -> list[ConsumerRecord]:
        return [
            ConsumerRecord(TOPIC, partition, i, timestamp, 1, key, bytes(Value("w", key.decode(), i)), ())
            for i, (timestamp, partition) in enumerate(places)
        ]

    assert list(split_keys(log((1, 0), (2, 0), (2, 1), (3, 1)), [2, 3])) == []
    assert len(list(split_keys(log((1, 0), (2, 1), (3, 0)), [2, 3]))) == 1
    assert len(list(split_keys(log((1, 0), (2, 2)), [2, 3]))) == 1
    assert list(strays(log((1, 0), (2, 1)), [2, 3])) == []
    assert len(list(strays(log((1, 1), (2, 0)), [2, 3]))) == 1


if __name__ == "__main__":
    write(*sys.argv[1:])
    os._exit(0)
