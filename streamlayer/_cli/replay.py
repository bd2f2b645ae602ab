"""Sending dead letters back, each once: what was chosen is sent, flushed, and only then committed.

The rule: whoever replays is a member of the group, so two that run at the same time share the partitions. A crash
between flush and commit repeats what was sent since the last commit, 500 letters at most.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy

from streamlayer import (
    Admin,
    ConfigurationError,
    Consumer,
    ConsumerRecord,
    GroupIdNotFoundError,
    OffsetAndMetadata,
    Producer,
    RecordFuture,
    StreamlayerError,
    TopicPartition,
)
from streamlayer._cli.consume import partitions_of
from streamlayer._cli.dead_letters import Choice, DeadLetter, dead_letter
from streamlayer._cli.options import Session
from streamlayer._cli.replayed import Replayed
from streamlayer._core.checks import LONGEST_METADATA
from streamlayer._core.refusals import where as place_of

GROUP = "dlq-replay"
"""The group that remembers what was replayed."""
_REMEMBERED_MS = 365 * 86_400_000
_AT_ONCE = 500
_POLL_MS = 1_000


def replayed(admin: Admin, name: str) -> Mapping[TopicPartition, Replayed]:
    """What of each partition of a topic was replayed."""
    try:
        stored = admin.list_group_offsets(GROUP, topics=[name])
    except GroupIdNotFoundError:
        stored = {}
    return defaultdict(lambda: Replayed(0), {tp: Replayed(at.offset, at.metadata) for tp, at in stored.items()})


class Replay:
    """One replay, or the look at what it would do.

    :param name: the dead letter topic.
    :param choice: which letters.
    :param to: where all of them go; ``None``: each to its origin.
    :param limit: how many at most.
    :ivar sent: how many went to which topic.
    :ivar strays: how many were passed over because they have no origin.
    :ivar elsewhere: whether another replay has some of the partitions.
    """

    def __init__(self, name: str, choice: Choice, to: str | None, limit: int | None) -> None:
        self._name = name
        self._choice = choice
        self._to = to
        self._limit = limit
        self._done: Mapping[TopicPartition, Replayed] = {}
        self.sent: Counter[str] = Counter()
        self.strays = 0
        self.elsewhere = False

    def look(self, where: Session, partition: int | None) -> list[DeadLetter]:
        """What would be sent. Nothing is written, and no group joined."""
        with (
            Admin(url=where.url, namespace=where.namespace) as admin,
            Consumer(url=where.url, namespace=where.namespace) as consumer,
        ):
            consumer.assign(partitions_of(consumer, self._name, partition))
            self._done = replayed(admin, self._name)
            starts = consumer.beginning_offsets(consumer.assignment())
            for tp, start in starts.items():
                consumer.seek(tp, self._start(tp, start))
            letters = list(self._chosen(consumer.read_to_end()))
        self.sent.update(map(self._target, letters))
        return letters

    def run(self, where: Session, partition: int | None) -> None:
        """Send what was chosen.

        :raises StreamlayerError: one could not be sent; those before it are, and are remembered.
        """
        with (
            Admin(url=where.url, namespace=where.namespace) as admin,
            Consumer(
                url=where.url,
                namespace=where.namespace,
                group_id=GROUP,
                enable_auto_commit=False,
                offsets_retention_ms=_REMEMBERED_MS,
                max_poll_records=_AT_ONCE,
            ) as consumer,
            Producer(url=where.url, namespace=where.namespace, allow_auto_create_topics=False) as producer,
        ):
            wanted = set(partitions_of(consumer, self._name, partition))  # what is not there must not make a group
            consumer.subscribe([self._name])
            mine = consumer.wait_for_assignment() & wanted
            self.elsewhere = mine != wanted
            self._done = replayed(admin, self._name)
            for tp, start in consumer.beginning_offsets(mine).items():
                self._done[tp].forget_before(start)
                consumer.seek(tp, self._start(tp, start))
            ends = consumer.end_offsets(mine)
            while not self._full() and any(consumer.position(tp) < end for tp, end in ends.items()):
                polled = consumer.poll(_POLL_MS)
                if not ends.keys() <= consumer.assignment():
                    self.elsewhere = True
                    ends = {tp: end for tp, end in ends.items() if tp in consumer.assignment()}
                self._send(consumer, producer, list(self._chosen(_within(polled, ends))))

    def _start(self, tp: TopicPartition, log_start: int) -> int:
        return max(log_start, self._done[tp].offset if self._choice.offset is None else self._choice.offset)

    def _full(self) -> bool:
        return self._limit is not None and self.sent.total() >= self._limit

    def _chosen(self, records: Iterable[ConsumerRecord[bytes, bytes]]) -> Iterator[DeadLetter]:
        left = None if self._limit is None else self._limit - self.sent.total()
        for letter in map(dead_letter, records):
            if left == 0:
                return
            done = self._choice.offset is None and letter.record.offset in self._done[letter.record.topic_partition]
            if done or not self._choice.takes(letter):
                continue
            if letter.origin is None and self._to is None:
                self.strays += 1
                continue
            yield letter
            left = None if left is None else left - 1

    def _target(self, letter: DeadLetter) -> str:
        assert self._to is not None or letter.origin is not None
        return self._to or str(letter.origin and letter.origin.topic)

    def _send(self, consumer: Consumer, producer: Producer, letters: list[DeadLetter]) -> None:
        self._check_room(letters)
        under_way: list[tuple[DeadLetter, RecordFuture]] = []
        try:
            for letter in letters:
                record = letter.record
                future = producer.send(self._target(letter), record.value, record.key, headers=letter.headers or None)
                under_way.append((letter, future))
            producer.flush()
        except StreamlayerError as error:
            with suppress(StreamlayerError):
                producer.flush()
            error.add_note("What was sent before is remembered. --topic and --error choose others, --to another topic.")
            raise
        finally:
            sent = [letter for letter, future in under_way if future.done() and future.exception(0) is None]
            self._remember(consumer, sent)

    def _check_room(self, letters: list[DeadLetter]) -> None:
        """What was picked has to fit into the text that goes with a commit."""
        after = deepcopy(
            {letter.record.topic_partition: self._done[letter.record.topic_partition] for letter in letters}
        )
        for letter in letters:
            after[letter.record.topic_partition].add(letter.record.offset)
        for tp, done in after.items():
            if len(done.metadata) > LONGEST_METADATA:
                raise ConfigurationError(
                    f"{place_of(*tp)}: too many letters were left out, here and there, to remember which. "
                    "Replay those first, without --error and --topic"
                )

    def _remember(self, consumer: Consumer, letters: list[DeadLetter]) -> None:
        for letter in letters:
            self._done[letter.record.topic_partition].add(letter.record.offset)
            self.sent[self._target(letter)] += 1
        changed = {letter.record.topic_partition: self._done[letter.record.topic_partition] for letter in letters}
        if changed:
            consumer.commit({tp: OffsetAndMetadata(done.offset, done.metadata) for tp, done in changed.items()})


def _within(
    polled: Mapping[TopicPartition, list[ConsumerRecord[bytes, bytes]]], ends: Mapping[TopicPartition, int]
) -> Iterator[ConsumerRecord[bytes, bytes]]:
    """What was there when the replay began: a letter that dies again meanwhile waits for the next one."""
    for tp, records in polled.items():
        yield from (record for record in records if record.offset < ends.get(tp, 0))
