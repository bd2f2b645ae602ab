"""The values users hold: records, positions, descriptions. Nothing here talks to a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple

import msgspec
from typing_extensions import TypeVar

if TYPE_CHECKING:
    from streamlayer._config import TopicConfig

K = TypeVar("K", default=bytes)
V = TypeVar("V", default=bytes)

CREATE_TIME = 0
"""``timestamp_type`` of a record that carries its producer's time."""
LOG_APPEND_TIME = 1
"""``timestamp_type`` of a record that carries the server's time of its append."""


class TopicPartition(NamedTuple):
    """A topic and the number of one of its partitions. Equal to kafka-python's and aiokafka's of the same two."""

    topic: str
    partition: int


class ConsumerRecord(msgspec.Struct, Generic[K, V], gc=False):
    """One record as it was read.

    :ivar topic: its topic.
    :ivar partition: its partition.
    :ivar offset: its place in the partition, from 0.
    :ivar timestamp: ms since the epoch.
    :ivar timestamp_type: 0 the producer's time, 1 the server's time of the append.
    :ivar key: its key, deserialized; ``None`` if it has none.
    :ivar value: its value, deserialized; ``None`` only if a null was sent.
    :ivar headers: pairs of a name and bytes, in the order in which they were sent.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: K | None
    value: V
    headers: tuple[tuple[str, bytes], ...]

    @property
    def topic_partition(self) -> TopicPartition:
        """Where the record lies."""
        return TopicPartition(self.topic, self.partition)


class RecordMetadata(NamedTuple):
    """Where a record went.

    :ivar topic: the topic.
    :ivar partition: the partition.
    :ivar offset: its offset; -1 with ``acks=0``, where nobody waits to learn it.
    :ivar timestamp: the record's time, ms since the epoch; -1 if that is the server's and ``acks=0``.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int


class AppendedRange(msgspec.Struct, frozen=True):
    """A run of records that ``send_many`` appended, without a gap, to one partition.

    :ivar topic: the topic.
    :ivar partition: the partition.
    :ivar base_offset: the first record's offset; -1 with ``acks=0``.
    :ivar count: how many records.
    """

    topic: str
    partition: int
    base_offset: int
    count: int

    @property
    def last_offset(self) -> int:
        """The last record's offset; -1 with ``acks=0``."""
        return self.base_offset + self.count - 1 if self.base_offset >= 0 else -1


class OffsetAndTimestamp(NamedTuple):
    """The answer to a look-up by time: the first record at or after it.

    :ivar offset: that record's offset.
    :ivar timestamp: that record's time, ms since the epoch.
    """

    offset: int
    timestamp: int


class OffsetAndMetadata(NamedTuple):
    """An offset as a group stores it.

    :ivar offset: of the next record to read.
    :ivar metadata: a text of the user's own.
    :ivar epoch: the number of the log's epoch in which the reader was (Kafka's leader epoch); -1 if that is not known.
    """

    offset: int
    metadata: str = ""
    epoch: int = -1


class OffsetChange(NamedTuple):
    """What a reset does to one offset.

    :ivar before: what was stored; ``None`` if nothing was.
    :ivar after: what is stored now, or would be.
    """

    before: int | None
    after: int


class GroupMetadata(NamedTuple):
    """A consumer's place in its group.

    :ivar group_id: the group.
    :ivar generation_id: the group epoch that the consumer follows: a fencing token for what lies outside Redis. -1
        while it is no member.
    :ivar member_id: its id, new with each joining; empty while it is no member.
    :ivar group_instance_id: of a static member.
    """

    group_id: str
    generation_id: int
    member_id: str
    group_instance_id: str | None


class MemberDescription(NamedTuple):
    """A member of a group.

    :ivar member_id: its id.
    :ivar group_instance_id: of a static member; ``None`` for others.
    :ivar client_id: as its consumer was named.
    :ivar host: where it runs.
    :ivar subscription: the topics that it wants.
    :ivar assignment: the partitions that are its own now.
    :ivar target: those that shall be.
    :ivar overdue: its session is over and nobody has dropped it yet, which the next heartbeat of another member does.
    """

    member_id: str
    group_instance_id: str | None
    client_id: str
    host: str
    subscription: frozenset[str]
    assignment: frozenset[TopicPartition]
    target: frozenset[TopicPartition]
    overdue: bool = False


class GroupDescription(NamedTuple):
    """A group.

    :ivar group_id: its id.
    :ivar state: ``Empty`` (no members but overdue ones), ``Reconciling`` (partitions are on the way) or ``Stable``.
    :ivar members: its members, by id; overdue ones too.
    :ivar lag: for each partition with a stored offset, how many records lie behind it.
    """

    group_id: str
    state: str
    members: tuple[MemberDescription, ...]
    lag: dict[TopicPartition, int]


class Health(NamedTuple):
    """How a client is doing, from memory.

    :ivar ok: whether it can do its work now.
    :ivar state: one word: ``new``, ``ok``, ``retrying``, ``failed`` or ``closed``; in a group also ``joining``, and
        ``left`` (it did not poll for ``max_poll_interval_ms``).
    :ivar reason: the last trouble in words; empty when there is none.
    :ivar heartbeat_age_ms: in a group: how long ago a heartbeat was answered.
    :ivar poll_age_ms: in a group: how long ago the consumer was used.
    """

    ok: bool
    state: str
    reason: str
    heartbeat_age_ms: int | None = None
    poll_age_ms: int | None = None


class ProducerMetrics(NamedTuple):
    """What a producer has done since it was made.

    :ivar records_sent: records that are in the log.
    :ivar batches_sent: batches that are in the log.
    :ivar batches_resent: times a batch went again because its answer was lost, or replicas did not have it yet; each is
        stored once all the same.
    :ivar truncations: times that the server was found to have lost records that it had acknowledged.
    :ivar records_lost: how many, where that is known.
    """

    records_sent: int
    batches_sent: int
    batches_resent: int
    truncations: int
    records_lost: int


class ConsumerMetrics(NamedTuple):
    """What a consumer has met since it was made.

    :ivar truncations: times that a partition's log was found to have lost its end (a restart, or a failover).
    :ivar records_lost: records that it had handed out, and that are gone by that; where it is known.
    :ivar records_missed: records that retention, or a deletion, removed before it read them.
    """

    truncations: int
    records_lost: int
    records_missed: int


DurabilityLevel = Literal["memory", "snapshot", "os_cache", "second", "disk"]
"""What outlives a crash of the server, the least first: nothing; what the last snapshot has; what was handed to the
operating system (the server may die, not the machine); the same, but for a second or two; all that was answered."""


class Durability(NamedTuple):
    """What a server's settings, and its state, give to what it has answered.

    :ivar level: ``memory``, ``snapshot``, ``os_cache``, ``second`` or ``disk``.
    :ivar replicas: how many replicas hear each write now.
    :ivar min_replicas_to_write: with fewer the server takes no writes; 0: it always does, or will not say.
    :ivar reasons: why it is not more, in words; what could not be read counts as not given.
    """

    level: DurabilityLevel
    replicas: int
    min_replicas_to_write: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class NewTopic:
    """A topic to create.

    :ivar name: 1 to 249 of ``a-z A-Z 0-9 . _ -``.
    :ivar num_partitions: how many partitions; ``None`` takes the default, 4.
    :ivar config: the topic's settings, a ``TopicConfig`` or a mapping with its (or Kafka's dotted) names.
    """

    name: str
    num_partitions: int | None = None
    config: TopicConfig | Mapping[str, object] | None = field(default=None, kw_only=True)


class PartitionDescription(NamedTuple):
    """One partition as the server holds it.

    :ivar partition: its number.
    :ivar log_start: the first offset it holds.
    :ivar log_end: the offset the next record will get.
    :ivar bytes: bytes of stored batches.
    :ivar segments: how many segments.
    """

    partition: int
    log_start: int
    log_end: int
    bytes: int
    segments: int


class ConfigEntry(NamedTuple):
    """One setting of a topic, and where it comes from.

    :ivar value: what holds; -1 means without limit.
    :ivar source: ``topic``: it was set for this topic; ``default``: nobody set it; ``derived``: it follows from
        another setting of the topic.
    """

    value: int | str
    source: Literal["topic", "default", "derived"]


class TopicDescription(NamedTuple):
    """One topic.

    :ivar name: its name.
    :ivar topic_id: 32 hex digits, drawn at creation: a topic deleted and created again has another.
    :ivar config: its settings.
    :ivar partitions: its partitions, by number.
    """

    name: str
    topic_id: str
    config: TopicConfig
    partitions: tuple[PartitionDescription, ...]

    @property
    def options(self) -> dict[str, ConfigEntry]:
        """Each setting by name, as it holds, with its source."""
        options: dict[str, ConfigEntry] = {}
        for name in type(self.config).model_fields:
            source: Literal["topic", "default"] = "topic" if name in self.config.model_fields_set else "default"
            options[name] = ConfigEntry(getattr(self.config, name), source)
        if self.config.segment_bytes is None:
            options["segment_bytes"] = ConfigEntry(self.config.segment_limit, "derived")
        return options
