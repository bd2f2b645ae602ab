"""What a dead letter says: where it comes from, why it is dead, and how it goes back. No server is asked here.

The rule: anything may lie in a dead letter topic. What does not say where it comes from has no origin, and is shown all
the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from streamlayer import ConsumerRecord, TopicPartition
from streamlayer._cli import output
from streamlayer._worker import dead_letters as worker

COLUMNS = ("LETTER", "DIED", "ORIGIN", "KEY", "GROUP", "ATTEMPTS", "REPLAYED", "ERROR")


class DeadLetter(NamedTuple):
    """A record of a dead letter topic.

    :ivar record: as it lies there.
    :ivar origin: the partition that it was read from; ``None`` if it does not say.
    :ivar offset: its offset there.
    :ivar timestamp: its time there, ms since the epoch.
    :ivar group: whose handler gave it up.
    :ivar error: the class of what that raised.
    :ivar message: what that said.
    :ivar attempts: how often it was tried.
    """

    record: ConsumerRecord[bytes, bytes]
    origin: TopicPartition | None
    offset: int | None
    timestamp: int | None
    group: str | None
    error: str | None
    message: str | None
    attempts: int | None

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """Those that it had before it died."""
        return worker.without(self.record.headers)

    def row(self, *, replayed: bool) -> tuple[str, ...]:
        """What ``COLUMNS`` show of it."""
        record = self.record
        where = "-" if self.origin is None else f"{self.origin.topic}:{self.origin.partition}:{_or_dash(self.offset)}"
        why = ": ".join(filter(None, (self.error, self.message)))
        return (
            f"{record.partition}:{record.offset}",
            output.clock(record.timestamp),
            where,
            "-" if record.key is None else output.shown(record.key),
            self.group or "-",
            _or_dash(self.attempts),
            "yes" if replayed else "no",
            output.shown(why.encode()) or "-",
        )

    def as_json(self, *, replayed: bool) -> dict[str, object]:
        """The record, and what it says of itself."""
        return output.json_fields(self.record) | {
            "dead_letter": {
                "topic": None if self.origin is None else self.origin.topic,
                "partition": None if self.origin is None else self.origin.partition,
                "offset": self.offset,
                "timestamp": self.timestamp,
                "group": self.group,
                "error": self.error,
                "message": self.message,
                "attempts": self.attempts,
                "replayed": replayed,
            }
        }


class Choice(NamedTuple):
    """Which letters are meant: those from a topic, with an error, at an offset; ``None``: any."""

    origin: str | None
    error: str | None
    offset: int | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether this one is."""
        return (
            (self.origin is None or (letter.origin is not None and letter.origin.topic == self.origin))
            and (self.error is None or letter.error == self.error)
            and (self.offset is None or letter.record.offset == self.offset)
        )


def dead_letter(record: ConsumerRecord[bytes, bytes]) -> DeadLetter:
    """What a record of a dead letter topic says. If it died twice, the last time counts."""
    said = {name: value for name, value in record.headers if name.startswith(worker.PREFIX)}
    topic, partition = _text(said, worker.TOPIC), _number(said, worker.PARTITION)
    return DeadLetter(
        record,
        None if not topic or partition is None else TopicPartition(topic, partition),
        _number(said, worker.OFFSET),
        _number(said, worker.TIMESTAMP),
        _text(said, worker.GROUP),
        _text(said, worker.ERROR),
        _text(said, worker.MESSAGE),
        _number(said, worker.ATTEMPTS),
    )


def _text(said: Mapping[str, bytes], name: str) -> str | None:
    value = said.get(name)
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _number(said: Mapping[str, bytes], name: str) -> int | None:
    value = said.get(name, b"")
    return int(value) if value.isdigit() and len(value) < 20 else None


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)
