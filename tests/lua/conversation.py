"""A producer's core and the scripts in conversation, over a network that loses, repeats, delays and refuses.

Everything is real but the wire and the clock: accumulators are drained, calls are executed by the scripts on a server,
outcomes are settled. One seed is one conversation.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from zlib import crc32

import redis

from streamlayer._async.link import Unanswered
from streamlayer._core import calls
from streamlayer._core.accumulator import IDLE_MS, Accumulator, Batch, TopicQueue
from streamlayer._core.calls import Call
from streamlayer._core.columns import record_size
from streamlayer._core.futures import metadata_of
from streamlayer._core.keys import PartitionKeys, partition_keys
from streamlayer._core.refusals import error_from_reply
from streamlayer._core.replication import confirmed
from streamlayer._core.server_calls import Holders
from streamlayer._core.settlement import Settlement, give_up_late, settle
from streamlayer._types import RecordMetadata
from streamlayer.errors import (
    NotEnoughReplicasAfterAppendError,
    RequestTimedOutError,
    ServerFullError,
    ServerUnavailableError,
    StreamlayerError,
)
from tests.lua.run import TOPIC_ID, Log, Runner, Snapshot, promote, word_of

PARTITIONS = 2


class Flag:
    """What a batch's waiters would wait on."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """Note it; nobody waits."""
        self._set = True

    def is_set(self) -> bool:
        """Whether it was."""
        return self._set


@dataclass
class Sent:
    """One record given to a producer.

    :ivar lost: acknowledged, and then taken away by a crash.
    """

    number: int
    producer: int
    key: bytes | None
    batch: Batch
    index: int
    lost: bool = False


@dataclass
class Faults:
    """How often, of a hundred, what goes wrong."""

    cut: int = 20
    refuse: int = 10
    no_connection: int = 5
    late: int = 30
    bad_timestamp: int = 3
    too_large: int = 1
    old_segment: int = 2
    time_jump: int = 2
    crash: int = 0
    short: int = 0  # replicas do not have it yet; 0: nobody asks for any


class Network:
    """The way to the server, with all that can happen on it."""

    def __init__(self, run: Runner, rng: random.Random, faults: Faults) -> None:
        self.run = run
        self.rng = rng
        self.faults = faults
        self.late: list[list[Call[Any]]] = []

    def _chance(self, percent: int) -> bool:
        return self.rng.randrange(100) < percent

    def _execute(self, call: Call[Any]) -> Any:
        answer = self.run(call)
        return error_from_reply(" ".join(answer), "orders", 0) if word_of(answer) != "OK" else answer

    def arrive(self) -> None:
        """Let requests of dead connections be executed after all: the first few of one connection, in their order."""
        if self.late and self._chance(40):
            connection = self.late[self.rng.randrange(len(self.late))]
            for _ in range(self.rng.randint(1, len(connection))):
                self._execute(connection.pop(0))
            self.late = [left for left in self.late if left]

    def exchange(self, requests: list[Call[Any]]) -> list[Any]:
        """Send a pipeline and say what became of each call, as the shell's link does."""
        if self._chance(self.faults.no_connection):
            raise ServerUnavailableError("nobody answers")
        executed = answered = len(requests)
        if self._chance(self.faults.cut):
            executed = self.rng.randint(0, len(requests))
            answered = self.rng.randint(0, executed)
            if answered == len(requests):
                answered -= 1
        flaky = self._chance(self.faults.refuse)
        outcomes: list[Any] = []
        for i, call in enumerate(requests):
            self.arrive()
            outcome: Any = None
            if i < executed:
                if flaky and self._chance(50):
                    outcome = self.rng.choice([ServerFullError("full"), ServerUnavailableError("loading")])
                else:
                    outcome = self._execute(call)
            outcomes.append(outcome if i < answered else Unanswered(ServerUnavailableError("cut")))
        if answered < len(requests) and self._chance(self.faults.late):
            # What was not executed yet lies in a socket somewhere; a proxy may also repeat what was not answered.
            first = self.rng.choice([executed, self.rng.randint(answered, executed)])
            if requests[first:]:
                self.late.append(list(requests[first:]))
        # A WAIT behind them, which may be cut off as well.
        waited = Holders(0 if self._chance(self.faults.short) else 1)
        answer = Unanswered(ServerUnavailableError("cut")) if answered < len(requests) else waited
        return confirmed([("orders", 0)] * len(requests), outcomes, [answer])


class Client:
    """One producer: its accumulator, and what the shell's sender does with it."""

    def __init__(self, number: int, namespace: str, network: Network, rng: random.Random) -> None:
        self.number = number
        self.network = network
        self.name = f"producer{number}"
        self.accumulator = Accumulator(
            linger_ms=rng.choice([0, 5]), delivery_timeout_ms=rng.choice([200, 2000]), idempotent=True
        )
        keys = [partition_keys(namespace, "orders", partition) for partition in range(PARTITIONS)]
        self.queue = TopicQueue("orders", TOPIC_ID, 1, keys, crc32, rng.choice([150, 600, 6000]), Flag)
        self.accumulator.add_topic(self.queue)
        self.memos: dict[Batch, Any] = {}
        self.owed: set[str] = set()
        self.losses = 0

    def add(self, key: bytes | None, value: bytes, timestamp: int, now: int) -> tuple[Batch, int]:
        """Put a record into its partition's open batch, as ``Producer.send`` does."""
        queue = self.queue
        size = record_size(key, value)
        key_hash = None if key is None else crc32(key)
        number = queue.sticky if key_hash is None else key_hash % queue.count
        batch = queue.opens[number]
        if batch.values and batch.room < size:
            self.accumulator.seal(batch)
            batch = queue.opens[queue.sticky if key_hash is None else number]
        if not batch.values:
            self.accumulator.begin(batch, now)
        batch.room -= size
        batch.keys.append(key)
        batch.values.append(value)
        batch.timestamps.append(timestamp)
        if key_hash is not None:
            batch.key_hash = key_hash
        return batch, len(batch.values) - 1

    def round(self, now: int) -> None:
        """Drain, send, settle."""
        batches = self.accumulator.drain(now)
        if not batches:
            return
        for batch in batches:
            if batch.frozen:
                assert self.memos[batch] == (batch.sequence, batch.epoch, batch.frame(0)), "a frozen batch was changed"
            self.memos[batch] = (batch.sequence, batch.epoch, batch.frame(0))
        requests = [self._call(batch) for batch in batches]
        try:
            outcomes = self.network.exchange(requests)
        except StreamlayerError as error:
            done = give_up_late(self.accumulator, error, now)
        else:
            settled = settle(self.accumulator, batches, outcomes, now)
            done = settled.done
            self._check_losses(settled)
            if settled.trouble or settled.again:
                done += give_up_late(self.accumulator, settled.trouble, now)
        for batch in done:
            assert not batch.done.is_set(), "decided twice"
            batch.done.set()

    def crashed(self, ends: list[int]) -> None:
        """The logs end here now: what was acknowledged behind that is to be told, with the next acknowledgement."""
        for partition, end in zip(self.queue.partitions, ends, strict=True):
            if partition.acknowledged.end > end:
                self.owed.add(f"orders[{partition.number}]")

    def _check_losses(self, settled: Settlement) -> None:
        told = {str(loss).partition(":")[0] for loss in settled.losses}
        acked = {f"orders[{batch.partition.number}]" for batch in settled.done if batch.error is None}
        assert told <= self.owed & acked, "told, and nothing was lost"
        assert self.network.run.fake or told == self.owed & acked, "lost, and not told"  # fakeredis: not always seen
        self.owed -= told
        self.losses += len(told)

    def _call(self, batch: Batch) -> Call[Any]:
        partition = batch.partition
        frame, crc = batch.frame(0)
        return calls.append(
            partition.keys,
            partition.segment,
            topic_id=TOPIC_ID,
            partition=partition.number,
            generation=1,
            key_hash=batch.key_hash,
            producer=self.name,
            epoch=batch.epoch,
            sequence=batch.sequence,
            crc=crc,
            count=len(batch.values),
            min_timestamp=min(batch.timestamps),
            max_timestamp=max(batch.timestamps),
            frame=frame,
        )


@dataclass
class World:
    """A topic, its producers, and one history of them."""

    client: redis.Redis
    namespace: str
    seed: int
    faults: Faults = field(default_factory=Faults)
    producers: int = 2
    steps: int = 120

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.run = Runner(self.client)
        self.network = Network(self.run, self.rng, self.faults)
        self.logs = [Log(self.run, self._keys(number)) for number in range(PARTITIONS)]
        for log in self.logs:
            limit, insync = self.rng.choice([300, 3000, 20_000]), 2 if self.faults.short else 1
            log.create(partitions=PARTITIONS, segment_bytes=limit, min_insync_replicas=insync)
            log.set_meta(max_message_bytes=20_000)
        self.clients = [
            Client(number, self.namespace, self.network, self.rng)
            for number in range(self.rng.randint(1, self.producers))
        ]
        self.sent: list[Sent] = []
        self.numbers = count()
        self.now = 10_000
        self.base_ms = self.run.now()
        self.disk: list[list[Snapshot]] = []
        self.crashes = 0
        self.told = (0, 0, 0, 0)

    def _keys(self, number: int) -> PartitionKeys:
        return partition_keys(self.namespace, "orders", number)

    def _chance(self, percent: int) -> bool:
        return self.rng.randrange(100) < percent

    def _send(self) -> None:
        rng = self.rng
        client = rng.choice(self.clients)
        number = next(self.numbers)
        key = rng.choice([None, *(b"key%d" % i for i in range(6))])
        pad = rng.choice([0, 0, 10, 100, 700, 5000]) if not self._chance(self.faults.too_large) else 25_000
        timestamp = 200_000_000_000 if self._chance(self.faults.bad_timestamp) else self.base_ms + rng.randint(0, 50)
        value = b"%d:%d:" % (client.number, number) + b"." * pad
        batch, index = client.add(key, value, timestamp, self.now)
        self.sent.append(Sent(number, client.number, key, batch, index))

    def _crash(self) -> None:
        """The server comes back with an earlier state of everything; its connections are gone."""
        chosen = self.rng.randrange(len(self.disk))
        snapshots = self.disk[chosen]
        del self.disk[chosen + 1 :]
        for log, snapshot in zip(self.logs, snapshots, strict=True):
            log.restore(snapshot)
        if not self.run.fake:
            promote(self.client)
        self.network.late.clear()
        self.crashes += 1
        ends = [log.meta("next")[0] for log in self.logs]
        for client in self.clients:
            client.crashed(ends)
        for sent in self.sent:
            if sent.batch.done.is_set() and sent.batch.base_offset >= 0:
                sent.lost |= sent.batch.base_offset >= ends[sent.batch.partition.number]

    def talk(self) -> None:
        """The whole conversation, and then calm, until nothing waits."""
        for _ in range(self.steps):
            for _ in range(self.rng.choice([0, 1, 1, 2, 5, 12])):
                self._send()
            self.now += self.rng.choice([0, 1, 5, 20])
            if self._chance(self.faults.time_jump):
                self.now += self.rng.choice([150, 1500, 2 * IDLE_MS])
            if self._chance(self.faults.old_segment):
                log = self.rng.choice(self.logs)
                if log.meta("segment_at") != [0]:
                    log.set_meta(segment_at=1)
            if self.faults.crash and self._chance(15):
                self.disk.append([log.freeze() for log in self.logs])
            if self.disk and self._chance(self.faults.crash):
                self._crash()
            self.rng.choice(self.clients).round(self.now)
            self.network.arrive()
        self.network.faults = Faults(cut=0, refuse=0, no_connection=0)
        for client in self.clients:
            for _ in range(1000):
                if client.accumulator.empty:
                    break
                self.now += 10
                client.round(self.now)
            assert client.accumulator.empty, "something waits for ever"
            assert client.accumulator.bytes == 0, "memory was not given back"
        while self.network.late:
            self.network.arrive()

    # --- the judge ---------------------------------------------------------------------------------------------------

    def judge(self) -> tuple[int, int, int, int]:
        """Compare what was told with what is there.

        :returns: how many records are in the logs, how many certainly not, and of how many nobody knows.
        """
        logs = [
            [self._numbers(value) for value in log.read(max_bytes=self.rng.choice([1, 5000, 1 << 20]))]
            for log in self.logs
        ]
        by_number = {sent.number: sent for sent in self.sent}
        stored = [number for log in logs for _, number in log]
        assert len(stored) == len(set(stored)), f"stored twice: {_twice(stored)}"
        assert set(stored) <= set(by_number), "in the log, never sent"
        for partition, log in enumerate(logs):
            for producer in range(self.producers):
                numbers = [number for name, number in log if name == producer]
                assert numbers == sorted(numbers), f"partition {partition}: not in the order in which they were sent"
            for _, number in log:
                key = by_number[number].key
                assert key is None or crc32(key) % PARTITIONS == partition, "in another key's partition"
        present = set(stored)
        acked = refused = unknown = unsafe = 0
        for sent in self.sent:
            assert sent.batch.done.is_set(), "never decided"
            outcome = self._told(sent)
            if isinstance(outcome, RecordMetadata):
                acked += 1
                if not sent.lost:
                    there = logs[outcome.partition][outcome.offset]
                    assert there == (sent.producer, sent.number), f"{sent.number} is not at {outcome}"
            elif isinstance(outcome, RequestTimedOutError) and "may be in the log" in str(outcome):
                unknown += 1
            elif isinstance(outcome, NotEnoughReplicasAfterAppendError):
                unsafe += 1
                assert self.crashes or sent.number in present, f"said to be there, but is not: {sent.number}"
            else:
                refused += 1
                assert sent.number not in present, f"said not to be there, but is: {sent.number} {outcome}"
        return acked, refused, unknown, unsafe

    def _told(self, sent: Sent) -> RecordMetadata | StreamlayerError:
        try:
            return metadata_of(sent.batch, sent.index)
        except StreamlayerError as error:
            return error

    def _numbers(self, value: bytes) -> tuple[int, int]:
        producer, number, _ = value.split(b":", 2)
        return int(producer), int(number)


def _twice(numbers: list[int]) -> list[int]:
    return [number for number in set(numbers) if numbers.count(number) > 1]
