"""Sending dead letters back, each once: what was chosen is sent, flushed, and only then committed.

The rule: whoever replays is a member of the group, so two that run at the same time share the partitions; and it keeps
its progress as workers do: what was replayed above a letter that was left out goes along in the commit's metadata. A
crash between flush and commit repeats what was sent since the last commit, 500 letters at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import deepcopy

from streamlayer import (
    Admin,
    ConfigurationError,
    Consumer,
    ConsumerRecord,
    OffsetAndMetadata,
    Producer,
    RecordFuture,
    StreamlayerError,
    TopicPartition,
)
from streamlayer._cli.consume import partitions_of
from streamlayer._cli.dead_letters import Choice, DeadLetter, dead_letter
from streamlayer._cli.options import Session
from streamlayer._cli.replayed import Memory, met
from streamlayer._core.checks import LONGEST_METADATA
from streamlayer._core.keys import REPLAY_GROUP
from streamlayer._core.progress import Progress, from_metadata
from streamlayer._core.refusals import where as place_of

_REMEMBERED_MS = 365 * 86_400_000
_AT_ONCE = 500
_POLL_MS = 1_000


Record = ConsumerRecord[bytes, bytes]


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
        self._progress: dict[TopicPartition, Progress] = {}
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
            memory = Memory(admin, self._name, consumer)
            for tp, start in consumer.beginning_offsets(consumer.assignment()).items():
                consumer.seek(tp, max(start, memory.start(tp) if self._choice.offset is None else self._choice.offset))
            letters: list[DeadLetter] = []
            for record in consumer.read_to_end():
                if len(letters) == self._limit:
                    break
                if self._choice.offset is not None or not memory.has(record):
                    letters += self._chosen(record)
        self.sent.update(map(self._target, letters))
        return letters

    def run(self, where: Session, partition: int | None) -> None:
        """Send what was chosen.

        :raises StreamlayerError: one could not be sent; those before it are, and are remembered.
        """
        with (
            Consumer(
                url=where.url,
                namespace=where.namespace,
                group_id=REPLAY_GROUP,
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
            ends = consumer.end_offsets(mine)
            for tp in mine:
                self._take_up(consumer, tp)
            while not self._full() and any(consumer.position(tp) < end for tp, end in ends.items()):
                polled = consumer.poll(_POLL_MS)
                if not ends.keys() <= consumer.assignment():
                    self.elsewhere = True
                    ends = {tp: end for tp, end in ends.items() if tp in consumer.assignment()}
                letters: list[DeadLetter] = []
                for tp, end in ends.items():  # what dies again meanwhile is behind the end, and waits for the next one
                    letters += self._read(consumer, [each for each in polled.get(tp, ()) if each.offset < end], letters)
                self._send(consumer, producer, letters)

    def _take_up(self, consumer: Consumer, tp: TopicPartition) -> None:
        start = consumer.position(tp)
        self._progress[tp] = Progress(start, from_metadata(consumer.resumed_metadata(tp), start))
        if self._choice.offset is not None and self._choice.offset < start:
            consumer.seek(tp, self._choice.offset)

    def _read(self, consumer: Consumer, records: list[Record], before: list[DeadLetter]) -> list[DeadLetter]:
        """The letters of one partition that are to be sent; ``before``: those of others from the same poll."""
        if not records:
            return []
        progress = self._progress[records[0].topic_partition]
        if records[0].offset < progress.high and self._choice.offset is None:  # the server lost what was there
            progress.rewind(records[0].offset)
        letters: list[DeadLetter] = []
        for record in records:
            if self._limit is not None and self.sent.total() + len(before) + len(letters) >= self._limit:
                break
            done = met(progress, record, consumer)
            if not done or self._choice.offset is not None:
                letters += self._chosen(record)
        return letters

    def _full(self) -> bool:
        return self._limit is not None and self.sent.total() >= self._limit

    def _chosen(self, record: Record) -> Iterator[DeadLetter]:
        letter = dead_letter(record)
        if not self._choice.takes(letter):
            return
        if letter.origin is None and self._to is None:
            self.strays += 1
            return
        yield letter

    def _target(self, letter: DeadLetter) -> str:
        assert self._to is not None or letter.origin is not None
        return self._to or str(letter.origin and letter.origin.topic)

    def _send(self, consumer: Consumer, producer: Producer, letters: list[DeadLetter]) -> None:
        self._check_room(consumer, letters)
        under_way: list[tuple[DeadLetter, RecordFuture]] = []
        try:
            for letter in letters:
                record = letter.record
                future = producer.send(self._target(letter), record.value, record.key, headers=letter.headers or None)
                under_way.append((letter, future))
            producer.flush()
        except BaseException as error:  # Ctrl-C too
            with suppress(StreamlayerError):
                producer.flush()
            if isinstance(error, StreamlayerError):
                error.add_note(
                    "What was sent before is remembered. --topic and --error choose others, --to another topic."
                )
            raise
        finally:
            sent = [letter for letter, future in under_way if future.done() and future.exception(0) is None]
            self._remember(consumer, sent)

    def _check_room(self, consumer: Consumer, letters: list[DeadLetter]) -> None:
        """What was picked has to fit into the text that goes with a commit."""
        after = deepcopy({tp: self._progress[tp] for tp in _partitions(letters)})
        for letter in letters:
            after[letter.record.topic_partition].done(letter.record.offset)
        for tp, progress in after.items():
            if len(_metadata(consumer, tp, progress)) > LONGEST_METADATA:
                raise ConfigurationError(
                    f"{place_of(*tp)}: too many letters were left out, here and there, to remember which. "
                    "Replay those first, without --error and --topic"
                )

    def _remember(self, consumer: Consumer, letters: list[DeadLetter]) -> None:
        for letter in letters:
            self._progress[letter.record.topic_partition].done(letter.record.offset)
            self.sent[self._target(letter)] += 1
        reached = {tp: self._progress[tp] for tp in _partitions(letters)}
        if reached:
            consumer.commit({tp: OffsetAndMetadata(at.next, _metadata(consumer, tp, at)) for tp, at in reached.items()})


def _partitions(letters: Iterable[DeadLetter]) -> set[TopicPartition]:
    return {letter.record.topic_partition for letter in letters}


def _metadata(consumer: Consumer, tp: TopicPartition, progress: Progress) -> str:
    return progress.to_metadata(consumer.epochs_at(tp, max(0, progress.high - 1)))
