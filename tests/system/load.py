"""Producers and consumers of one colour at work, while a test does something to them; `judge` says how it went.

    with Load("aio", proxy.url) as load:
        load.wait_acked(500)
        proxy.kill_all()
        load.wait_acked(500)                       # 500 more
    assert load.verdict(server.url, floors={"acked": 1000}) == []

Everything they try and see is in `load.history`. A send may end in one of the two errors of a server that is away,
whose words say whether the record may be in the log (`load.errors`); anything else that is raised fails the test.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Literal, Self

from streamlayer import (
    Admin,
    AppendedRange,
    Consumer,
    LogTruncationError,
    NewTopic,
    Producer,
    RecordMetadata,
    RequestTimedOutError,
    ServerUnavailableError,
    StreamlayerError,
    TopicPartition,
    aio,
)
from tests.system.group_judge import BACK_WITH_THE_SERVER, GroupHistory, Line, judge_group
from tests.system.group_worker import GROUP, TOPIC, Warnings, Worker
from tests.system.judge import Anomaly, History, Value, judge
from tests.waiting import sync_wait_until

Colour = Literal["sync", "aio"]
PARTITIONS = 3
KEYS = 12
MEMBER: dict[str, Any] = {"session_timeout_ms": 2000, "heartbeat_interval_ms": 300}
GROUP_FLOORS = {"records": 200, "committed": 10}
# Small batches, sent at once: many rounds, with several batches of a partition in each.
PRODUCER: dict[str, Any] = {"linger_ms": 1, "batch_size": 200, "delivery_timeout_ms": 30_000}


class Load:
    """`writers` producers and `readers` consumers, in a thread each, from `with` to the end of the block.

    With `shared` all writers use one producer: from several threads, or from several tasks of one loop.

    :ivar lines: what the members of the group say.

    :param name: what the names of its writers, readers and members begin with; by default the colour.
    :param history: to add to; by default a new one.
    """

    def __init__(
        self,
        colour: Colour,
        url: str,
        *,
        writers: int = 1,
        readers: int = 1,
        burst: int = 12,
        shared: bool = False,
        members: int = 0,
        topic: Mapping[str, Any] | None = None,
        name: str = "",
        history: History | None = None,
        **producer: Any,
    ) -> None:
        self.history = History() if history is None else history
        self.errors: list[StreamlayerError] = []
        self._url = url
        self._burst = burst
        self._options = PRODUCER | producer
        self._topic = topic
        self._places: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._silent, self._stopping = threading.Event(), threading.Event()
        self._crashes: list[BaseException] = []
        self._hears = _Hears(self.history)
        who = name or colour
        self._names = [f"{who}-writer-{n}" for n in range(writers)] + [f"{who}-reader-{n}" for n in range(readers)]
        self.lines: list[Line] = []
        names = [f"{who}-member-{n}" for n in range(members)]
        self._members = {name: Member(url, name, colour, self.history, self.lines) for name in names}
        if shared:
            self._threads = [self._thread(getattr(self, f"_{colour}_writers"), *self._names[:writers])]
        else:
            self._threads = [self._thread(getattr(self, f"_{colour}_writer"), name) for name in self._names[:writers]]
        self._threads += [self._thread(getattr(self, f"_{colour}_reader"), name) for name in self._names[writers:]]
        self._threads += [self._thread(member.work, name) for name, member in self._members.items()]

    def _thread(self, work: Callable[..., Any], *names: str) -> threading.Thread:
        def run() -> None:
            try:
                if asyncio.iscoroutinefunction(work):
                    asyncio.run(work(*names))
                else:
                    work(*names)
            except BaseException as crash:  # noqa: BLE001 - the test's own thread raises it
                self._crashes.append(crash)

        return threading.Thread(target=run, name=names[0], daemon=True)

    def __enter__(self) -> Self:
        with Admin(url=self._url) as admin:
            admin.create_topics([NewTopic(TOPIC, PARTITIONS, config=self._topic)], exist_ok=True)
        logging.getLogger("streamlayer").addHandler(self._hears)
        for thread in self._threads:
            thread.start()
        self._wait_ready()
        return self

    def _wait_ready(self) -> None:
        """Until all are connected and have sent or read: a server that is away at the beginning is an error."""

        def ready() -> bool:
            self.check()
            busy = {event.actor for event in list(self.history.events) if event.what in {"acked", "read"}}
            return busy.issuperset(self._names)

        sync_wait_until(ready, "all are at work")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._silent.set()
        self._stopping.set()
        for member in self._members.values():
            member.end()
        logging.getLogger("streamlayer").removeHandler(self._hears)
        for thread in self._threads:
            thread.join(60 if kind is None else 5)
        self.check()
        if kind is None:
            stuck = [thread.name for thread in self._threads if thread.is_alive()]
            assert not stuck, f"these never ended: {stuck}"

    def check(self) -> None:
        """Raise what a writer or reader died of."""
        for crash in self._crashes:
            raise crash

    def wait_acked(self, more: int, *, timeout: float = 30) -> None:
        """Wait until so many more sends have succeeded."""
        self._wait("acked", more, timeout)

    def wait_read(self, more: int, *, timeout: float = 30) -> None:
        """Wait until so many more records were read."""
        self._wait("read", more, timeout)

    def _wait(self, what: str, more: int, timeout: float) -> None:
        enough = self.history.counts[what] + more

        def done() -> bool:
            self.check()
            return self.history.counts[what] >= enough

        sync_wait_until(done, f"{more} more records {what}", timeout=timeout)

    def stop_writing(self) -> None:
        """Have the writers send what they have, and end."""
        self._silent.set()
        for thread in self._threads:
            if "-writer-" in thread.name:
                thread.join(60)
        self.check()

    def wait_seen(self, url: str, *, timeout: float = 30) -> None:
        """Wait until each reader, and the group, has all that is in the logs now; writers may go on.

        Offsets alone do not say it: who has not been told yet that the log went back may have been further before.
        """
        last = last_records(url)
        everybody = [name for name in self._names if "-reader-" in name] + [GROUP] * bool(self._members)
        wanted = {(who, partition) for who in everybody for partition in last}

        def seen() -> bool:
            self.check()
            have = {
                (GROUP if event.what == "handled" else event.actor, event.partition)
                for event in list(self.history.events)
                if event.what in {"read", "handled"} and last.get(event.partition) in event.records
            }
            return wanted <= have

        sync_wait_until(seen, "everybody has read all that is there", timeout=timeout)

    def wait_handled(self, partitions: Collection[int]) -> None:
        """Wait until the members here have been given something of each of these partitions, from now on."""
        at = len(self.lines)

        def handled() -> bool:
            self.check()
            return set(partitions) <= {line.more["partition"] for line in self.lines[at:] if line.what == "read"}

        sync_wait_until(handled, f"members read the partitions {partitions}", timeout=30)

    def take_in(self, lines: Iterable[Line]) -> None:
        """Add what members in other processes said, who have ended."""
        for line in lines:
            self.lines.append(line)
            _note_read(self.history, line)

    def verdict(
        self, url: str, *, floors: Mapping[str, int], fired: Mapping[str, int] | None = None, lossy: bool = False
    ) -> list[Anomaly]:
        """Read the whole topic, by somebody new, and judge; the group too, if there is one."""
        drain(self.history, url)
        found = judge(self.history, floors=floors, fired=fired, lossy=lossy)
        if self._members:
            gone = BACK_WITH_THE_SERVER if lossy else frozenset()
            found += [each for each in judge_group(self._group(url), floors=GROUP_FLOORS) if each.name not in gone]
        return found

    def _group(self, url: str) -> GroupHistory:
        """What the members did, beside what the logs hold now."""
        log = {
            event.partition: [bytes(value).decode() for _, value in event.records]
            for event in self.history.of("drained")
        }
        with Admin(url=url) as admin:
            stored = admin.list_group_offsets(GROUP)
        return GroupHistory(self.lines, log, (), {tp.partition: committed.offset for tp, committed in stored.items()})

    # --- what is sent, and how it ended ------------------------------------------------------------------------------

    def _next(self, writer: str, key: int) -> Value:
        place = (writer, f"key-{key}")
        value = Value(*place, self._places[place])
        self._places[place] += 1
        self.history.sending(value)
        return value

    def acked(self, value: Value, metadata: RecordMetadata) -> None:
        """It worked."""
        self.history.acked(value, metadata.partition, metadata.offset)

    def not_acked(self, values: list[Value], error: StreamlayerError) -> None:
        """It did not; the words say whether it is certain."""
        self.errors.append(error)
        certain = "it was not written" in str(error) or "was not taken" in str(error)
        # Of several at once the error is only the first one's.
        for value in values:
            (self.history.failed if certain and len(values) == 1 else self.history.unknown)(value)

    def _many_acked(self, values: list[Value], ranges: list[AppendedRange]) -> None:
        places = [(r.partition, offset) for r in ranges for offset in range(r.base_offset, r.base_offset + r.count)]
        for value, (partition, offset) in zip(values, places, strict=True):
            self.history.acked(value, partition, offset)

    # --- sync --------------------------------------------------------------------------------------------------------

    def _sync_writers(self, *names: str) -> None:
        with Producer(url=self._url, **self._options) as producer:
            threads = [self._thread(lambda name: self._sync_write(name, producer), name) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _sync_writer(self, name: str) -> None:
        producer = Producer(url=self._url, **self._options)
        try:
            with producer:
                self._sync_write(name, producer)
        except LogTruncationError:
            metrics = producer.metrics()
            self.history.losses[name], self.history.counted[name] = metrics.truncations, metrics.records_lost

    def _sync_write(self, name: str, producer: Producer) -> None:
        dice = random.Random(name)
        while not self._silent.is_set():
            count = dice.randint(1, self._burst)
            way = dice.choice(["send", "one", "many"])
            if way == "send":
                values = [self._next(name, dice.randrange(KEYS)) for _ in range(count)]
                futures = [(v, self._sync_try([v], producer.send, *_record(v))) for v in values]
                for value, future in futures:
                    if future and (metadata := self._sync_try([value], future.result)):
                        self.acked(value, metadata)
            elif way == "one":
                value = self._next(name, dice.randrange(KEYS))
                if metadata := self._sync_try([value], producer.send_and_wait, *_record(value)):
                    self.acked(value, metadata)
            else:
                key = dice.randrange(KEYS)
                values = [self._next(name, key) for _ in range(count)]
                stored, keys = [bytes(value) for value in values], [values[0].key.encode()] * count
                if ranges := self._sync_try(values, producer.send_many, TOPIC, stored, keys):
                    self._many_acked(values, ranges)

    def _sync_try(self, values: list[Value], call: Callable[..., Any], *args: Any) -> Any:
        """Call, and note an error; `None` then."""
        try:
            return call(*args)
        except (ServerUnavailableError, RequestTimedOutError) as error:
            self.not_acked(values, error)
            return None

    def _sync_reader(self, name: str) -> None:
        with Consumer(TOPIC, url=self._url) as consumer:
            while not self._stopping.is_set():
                for tp, records in consumer.poll(200).items():
                    self.history.read(name, tp.partition, [(r.offset, Value.parse(r.value)) for r in records])

    # --- aio ---------------------------------------------------------------------------------------------------------

    async def _aio_writers(self, *names: str) -> None:
        async with aio.Producer(url=self._url, **self._options) as producer:
            await asyncio.gather(*(self._aio_write(name, producer) for name in names))

    async def _aio_writer(self, name: str) -> None:
        producer = aio.Producer(url=self._url, **self._options)
        try:
            async with producer:
                await self._aio_write(name, producer)
        except LogTruncationError:
            metrics = producer.metrics()
            self.history.losses[name], self.history.counted[name] = metrics.truncations, metrics.records_lost

    async def _aio_write(self, name: str, producer: aio.Producer) -> None:
        dice = random.Random(name)
        while not self._silent.is_set():
            count = dice.randint(1, self._burst)
            way = dice.choice(["send", "one", "many"])
            if way == "send":
                values = [self._next(name, dice.randrange(KEYS)) for _ in range(count)]
                futures = [(v, await self._aio_try([v], producer.send(*_record(v)))) for v in values]
                for value, future in futures:
                    if future and (metadata := await self._aio_try([value], future)):
                        self.acked(value, metadata)
            elif way == "one":
                value = self._next(name, dice.randrange(KEYS))
                if metadata := await self._aio_try([value], producer.send_and_wait(*_record(value))):
                    self.acked(value, metadata)
            else:
                key = dice.randrange(KEYS)
                values = [self._next(name, key) for _ in range(count)]
                stored, keys = [bytes(value) for value in values], [values[0].key.encode()] * count
                if ranges := await self._aio_try(values, producer.send_many(TOPIC, stored, keys)):
                    self._many_acked(values, ranges)

    async def _aio_try(self, values: list[Value], call: Awaitable[Any]) -> Any:
        try:
            return await call
        except (ServerUnavailableError, RequestTimedOutError) as error:
            self.not_acked(values, error)
            return None

    async def _aio_reader(self, name: str) -> None:
        async with aio.Consumer(TOPIC, url=self._url) as consumer:
            while not self._stopping.is_set():
                for tp, records in (await consumer.poll(200)).items():
                    self.history.read(name, tp.partition, [(r.offset, Value.parse(r.value)) for r in records])


class Member(Worker):
    """A member of the group in a thread of its own: what it says is told to the group's judge, and in the history."""

    def __init__(self, url: str, name: str, colour: Colour, history: History, lines: list[Line]) -> None:
        super().__init__(url, os.devnull, name, {"colour": colour, "how": "batch", "work_ms": 0, "options": MEMBER})
        self._history, self._lines = history, lines

    def say(self, what: str, **more: Any) -> None:
        """Add one line."""
        line = Line(time.clock_gettime_ns(time.CLOCK_BOOTTIME), f"{self._name}.{self._life}", what, more)
        self._lines.append(line)
        _note_read(self._history, line)

    def work(self, name: str) -> None:
        """Until it is told to end, in the thread of that name."""
        ears = Warnings(self, name)
        logging.getLogger("streamlayer").addHandler(ears)
        try:
            asyncio.run(self.run())
        finally:
            logging.getLogger("streamlayer").removeHandler(ears)

    def end(self) -> None:
        """Tell it so."""
        self.on_signal(signal.SIGTERM, None)


def _note_read(history: History, line: Line) -> None:
    if line.what == "read":
        records = [(offset, Value.parse(value.encode())) for offset, value in line.more["records"]]
        history.handled(line.actor, line.more["partition"], records)


class _Hears(logging.Handler):
    """Notes what readers are told of logs that lost their end. A reader's thread has its name."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.WARNING)
        self._history = history

    def emit(self, record: logging.LogRecord) -> None:
        match record.args:
            case (str(place), int(diverged_at), _) if "lost the log's end" in record.msg:
                self._history.told(str(record.threadName), _partition(place), diverged_at)
            case (LogTruncationError() as error, _, int(goes_on)):  # where the logs part is unknown
                self._history.told(str(record.threadName), _partition(str(error)), goes_on)


def _partition(text: str) -> int:
    return int(text.partition("[")[2].partition("]")[0])


def last_records(url: str) -> dict[int, tuple[int, Value]]:
    """The last record of each log that is not empty, as somebody new finds it: partition -> offset, value."""
    tps = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
    found: dict[int, tuple[int, Value]] = {}
    with Consumer(url=url) as consumer:
        consumer.assign(tps)
        ends = consumer.end_offsets(tps)
        for tp, end in ends.items():
            consumer.seek(tp, max(0, end - 1))
        while any(
            start < ends[tp] and tp.partition not in found for tp, start in consumer.beginning_offsets(tps).items()
        ):
            for tp, records in consumer.poll(200).items():
                found.setdefault(tp.partition, (records[0].offset, Value.parse(records[0].value)))
    return found


def drain(history: History, url: str) -> None:
    """Read the whole topic by somebody new, for the judge."""
    with Consumer(TOPIC, url=url) as consumer:
        drained: dict[TopicPartition, list[tuple[int, Value]]] = {tp: [] for tp in consumer.assignment()}
        for record in consumer.read_to_end():
            drained[record.topic_partition].append((record.offset, Value.parse(record.value)))
    for tp, records in drained.items():
        history.drained(tp.partition, records)


def _record(value: Value) -> tuple[str, bytes, bytes]:
    return TOPIC, bytes(value), value.key.encode()
