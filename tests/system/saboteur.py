"""A world in which logs are trimmed, emptied, altered, replaced and cut back while others read, and all truth about it.

    world = World(server, seed)
    world.disturb()                  # an append, mostly; else something that takes records away

Everything happens in one thread, in an order that the seed decides; readers call ``disturb`` between their own round
trips too (``between_round_trips``). A value says in which log, at which offset and in which life of the server it was
appended, so that a wrong record shows by itself. What each offset holds now, and held in earlier lives: ``histories``.
"""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import redis

from streamlayer import Admin, Consumer, NewTopic, TopicPartition
from streamlayer._core import calls
from streamlayer._core.keys import partition_keys
from streamlayer.embedded import Server
from tests import servers
from tests.lua.run import Log, Runner, word_of
from tests.waiting import sync_wait_until

TOPIC = "orders"
PARTITIONS = 2
WEEK_MS = 604_800_000
SHORT_MS = 300
SMALL: dict[str, Any] = {"segment_bytes": 16_384, "retention_bytes": 65_536, "retention_ms": WEEK_MS}


class Stored(NamedTuple):
    """What an offset holds: the life of the server in which it was appended, and the record's time."""

    life: int
    time: int


class Range(NamedTuple):
    """Where a log began and ended at some moment."""

    topic_id: str
    start: int
    end: int


class Kept(NamedTuple):
    """What is on the server's disk at some moment."""

    files: Path
    topic_id: str
    histories: list[list[Stored]]


def value_of(topic_id: str, partition: int, offset: int, life: int, size: int) -> bytes:
    """A record's value."""
    return f"{topic_id}/{partition}/{offset}/{life}/".encode().ljust(size, b".")


def parse(value: bytes) -> tuple[str, int, int, int]:
    """Topic id, partition, offset, life."""
    topic_id, partition, offset, life, _ = value.decode().split("/")
    return topic_id, int(partition), int(offset), int(life)


class World:
    """One server and one topic, its only writer, and who takes away what was written.

    :ivar histories: per topic id and partition, one list for each life: what the offsets hold.
    :ivar seen: where the logs began and ended, from one moment to the next.
    :ivar told: what the library logged, since a reader cleared it.
    :ivar done: how often each thing was done.
    :ivar spent: seconds spent here, which are nobody else's.
    """

    def __init__(self, server: Server, seed: object, *, crashes: int = 2) -> None:
        self.server = server
        self.dice = random.Random(seed)
        self.histories: dict[tuple[str, int], list[list[Stored]]] = {}
        self.seen: dict[int, list[Range]] = defaultdict(list)
        self.told: list[str] = []
        self.done: defaultdict[str, int] = defaultdict(int)
        self.spent = 0.0
        self.topics: list[str] = []
        self._life = 0
        self._crashes = crashes
        self._kept: Kept | None = None
        self._logs: list[Log] = []
        self._busy = False

    def __enter__(self) -> Self:
        self.redis = redis.Redis.from_url(self.server.url)
        self.redis.flushall()
        self._exact()
        self.admin = Admin(url=self.server.url)
        self._handler = _Listener(self.told)
        logging.getLogger("streamlayer").addHandler(self._handler)
        self._create()
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("streamlayer").removeHandler(self._handler)
        self.admin.close()
        self.redis.close()
        if self._kept is not None:
            shutil.rmtree(self._kept.files)

    @property
    def topic_id(self) -> str:
        """The log that is there now."""
        return self.topics[-1]

    def history(self, partition: int) -> list[Stored]:
        """What a partition's offsets hold now, trimmed or not."""
        return self.histories[self.topic_id, partition][-1]

    def now(self) -> int:
        """The server's time."""
        return Runner(self.redis).now()

    # --- what a reader may have met ----------------------------------------------------------------------------------

    def look(self) -> None:
        """Note where the logs begin and end."""
        for number, log in enumerate(self._logs):
            described = log.run(calls.describe_partition(log.keys, topic_id=""))
            assert word_of(described) == "OK", described
            assert described.next == len(self.history(number)), (number, described, len(self.history(number)))
            self.seen[number].append(Range(self.topic_id, described.log_start, described.next))

    # --- what happens ------------------------------------------------------------------------------------------------

    def quiet(self) -> None:
        """Nothing happens any more; what is there stays."""
        self.keep_all()
        for number in range(PARTITIONS):
            self.append_to(number, 1, 60)
        self.look()
        self._busy = True

    def disturb(self) -> None:
        """Do something."""
        if self._busy:
            return
        self._busy = True
        began = time.monotonic()
        weights = {
            self.append: 60, self.time_passes: 6, self.delete_records: 4, self.keep_few_bytes: 3, self.keep_short: 4,
            self.keep_all: 4, self.replace: 1, self.keep_disk: 2, self.crash: 2,
        }  # fmt: skip
        (what,) = self.dice.choices(list(weights), list(weights.values()))
        what()
        self.done[what.__name__] += 1
        self.look()
        self.spent += time.monotonic() - began
        self._busy = False

    def append(self) -> None:
        """Some batches: that stay in the tail, that seal it, that are fields of their own."""
        for _ in range(self.dice.choice([1, 1, 3, 10])):
            number = self.dice.randrange(PARTITIONS)
            size = self.dice.choice([60] * 7 + [700, 3000, 9000])
            self.append_to(number, self.dice.choice([1, 2, 5]), size)

    def append_to(self, number: int, count: int, size: int) -> None:
        """One batch."""
        log, history = self._logs[number], self.history(number)
        base = len(history)
        values = [value_of(self.topic_id, number, base + i, self._life, size) for i in range(count)]
        while True:
            now = self.now()
            times = [now + self.dice.randint(-100, 100) for _ in values]
            answer = log.append(*values, times=times)
            if word_of(answer) != "BAD_TIMESTAMP":  # the machine was so busy that the shorter retention passed
                break
        assert word_of(answer) == "OK", answer
        assert answer.base_offset == base, (answer, base)
        history += [Stored(self._life, at) for at in times]

    def time_passes(self) -> None:
        """Some of the shorter retention."""
        until = self.now() + self.dice.choice([20, 60, SHORT_MS])
        sync_wait_until(lambda: self.now() > until, "time passes")

    def delete_records(self) -> None:
        """Up to some offset, or all."""
        number = self.dice.randrange(PARTITIONS)
        end = len(self.history(number))
        before = -1 if self.dice.random() < 0.2 else self.dice.randint(end // 2, end)
        self.admin.delete_records({TopicPartition(TOPIC, number): before})

    def keep_few_bytes(self) -> None:
        """A small limit in bytes."""
        self.admin.alter_configs({TOPIC: {"retention_bytes": self.dice.choice([0, 20_000, 50_000])}})

    def keep_short(self) -> None:
        """A short time."""
        self.admin.alter_configs({TOPIC: {"retention_ms": SHORT_MS}})

    def keep_all(self) -> None:
        """Everything again."""
        self.admin.alter_configs({TOPIC: {"retention_ms": WEEK_MS, "retention_bytes": 200_000}})

    def replace(self) -> None:
        """Another topic of the same name."""
        self.admin.delete_topics([TOPIC])
        self._create()

    def keep_disk(self) -> None:
        """Remember what is on the server's disk, for the next crash."""
        if self._crashes:
            files = _files(self.server).with_name("kept")
            if files.exists():
                shutil.rmtree(files)
            shutil.copytree(_files(self.server), files)
            self._kept = Kept(files, self.topic_id, [list(self.history(n)) for n in range(PARTITIONS)])

    def crash(self) -> None:
        """The server dies, and starts with what was kept."""
        if self._kept is None:
            return
        kept, self._kept = self._kept, None
        self._crashes -= 1
        self.server.kill()
        shutil.rmtree(_files(self.server))
        kept.files.rename(_files(self.server))
        self.server.start()
        self._exact()
        self._life += 1
        if self.topic_id != kept.topic_id:
            self.topics.append(kept.topic_id)
        for number, history in enumerate(kept.histories):
            self.histories[kept.topic_id, number].append(history)
        self._open()

    def _create(self) -> None:
        self.admin.create_topics([NewTopic(TOPIC, PARTITIONS, config=SMALL)])
        self.topics.append(self.admin.describe_topics([TOPIC])[TOPIC].topic_id)
        for number in range(PARTITIONS):
            self.histories[self.topic_id, number] = [[]]
        self._open()

    def _open(self) -> None:
        runner = Runner(self.redis)
        self._logs = [Log(runner, partition_keys("sl", TOPIC, n), self.topic_id) for n in range(PARTITIONS)]

    def _exact(self) -> None:
        # Each write is in the file before it is answered; a fork for a rewrite would only take time.
        servers.make_exact(self.server)
        self.redis.config_set("auto-aof-rewrite-percentage", 0)

    @contextmanager
    def between_round_trips(self, consumer: Consumer, probability: float) -> Iterator[None]:
        """Have things happen between what a consumer asks and what it asks next, too."""
        execute = consumer._client.execute

        def disturbed(batch: Sequence[Any], limit_ms: float = 5000) -> list[Any]:
            if self.dice.random() < probability:
                self.disturb()
            return execute(batch, limit_ms)

        consumer._client.execute = disturbed  # type: ignore[method-assign]
        try:
            yield
        finally:
            consumer._client.execute = execute  # type: ignore[method-assign]


class _Listener(logging.Handler):
    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        self._told.append(record.getMessage())


def _files(server: Server) -> Path:
    assert server._folder is not None
    return Path(server._folder, "appendonlydir")
