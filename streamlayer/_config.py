"""Every option: its default, its limits, what it must agree with, and Kafka's name for it.

Checked by pydantic once, when an object is made; nothing here is on the path of a record.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from streamlayer._types import DurabilityLevel
from streamlayer.errors import ConfigurationError

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MIB = 1 << 20
SHORTEST_RETENTION_MS = 1
LONGEST_SESSION_MS = 30 * 60_000
LONGEST_RETENTION_MS = 36_500 * DAY_MS  # a later expiry would not fit into the server's
SMALLEST_SEGMENT = 16 * 1024
LARGEST_SEGMENT = 8 * MIB
SEGMENTS_KEPT = 16
FLUSH_LEVELS = ("server", "primary", "replicas")

KAFKA_OPTIONS: dict[str, str] = {
    "bootstrap_servers": "the server is named by url='redis://host:6379/0'",
    "retries": "a batch is sent again until delivery_timeout_ms; there is no count",
    "retry_backoff_ms": "the library chooses the back-off; delivery_timeout_ms bounds it",
    "request_timeout_ms": "delivery_timeout_ms bounds a send; other calls take timeout_ms",
    "max_in_flight_requests_per_connection": "up to 5 batches of a partition are sent at once, always in order",
    "partitioner": "the hash is stored with the topic (TopicConfig.partitioner), so that producers cannot disagree",
    "security_protocol": "use a rediss:// url for TLS",
    "sasl_mechanism": "put user and password into the url: redis://user:password@host",
    "sasl_plain_username": "put user and password into the url: redis://user:password@host",
    "sasl_plain_password": "put user and password into the url: redis://user:password@host",
    "ssl_context": "use a rediss:// url, or pass a configured client as redis=",
    "api_version": "there is no protocol to choose",
    "metadata_max_age_ms": "changes of topics are told at once",
    "transactional_id": "there are no transactions; a producer is idempotent by itself",
    "isolation_level": "there are no transactions",
    "partition_assignment_strategy": "partitions are always balanced, and move as little as they can",
    "group_protocol": "there is one: KIP-848's, in the server's scripts",
    "check_crcs": "checksums are always checked",
    "exclude_internal_topics": "there are no internal topics",
    "loop": "the running event loop is used",
    "replication_factor": "replication is the server's: configure replicas there",
}
"""Options that Kafka's clients have and these do not, and what to do instead."""


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class ProducerOptions(_Options):
    """What a producer may be told. Sizes in bytes, durations in ms."""

    acks: Literal[0, 1, "all", -1] = "all"
    enable_idempotence: bool = True
    linger_ms: int = Field(default=5, ge=0, le=60_000)
    batch_size: int = Field(default=65_536, ge=1, le=16 * MIB)
    compression_type: Literal["gzip"] | None = None
    max_request_size: int = Field(default=MIB, ge=1, le=256 * MIB)
    buffer_memory: int = Field(default=32 * MIB, ge=64 * 1024)
    max_block_ms: int = Field(default=10_000, ge=0)
    delivery_timeout_ms: int = Field(default=120_000, ge=1, le=HOUR_MS)
    allow_auto_create_topics: bool = True
    num_partitions: int = Field(default=4, ge=1, le=10_000)
    min_durability: DurabilityLevel | None = None

    @model_validator(mode="after")
    def _agree(self) -> ProducerOptions:
        if self.delivery_timeout_ms <= self.linger_ms:
            msg = f"delivery_timeout_ms={self.delivery_timeout_ms} must be more than linger_ms={self.linger_ms}"
            raise ValueError(msg)
        if self.max_request_size > self.buffer_memory:
            msg = f"max_request_size={self.max_request_size} must fit into buffer_memory={self.buffer_memory}"
            raise ValueError(msg)
        return self


class ConsumerOptions(_Options):
    """What a consumer may be told. Sizes in bytes, durations in ms."""

    group_id: str | None = None
    group_instance_id: str | None = None
    enable_auto_commit: bool = True
    auto_commit_interval_ms: int = Field(default=5000, ge=0)
    max_poll_interval_ms: int = Field(default=300_000, ge=1)
    session_timeout_ms: int = Field(default=10_000, ge=100, le=LONGEST_SESSION_MS)
    heartbeat_interval_ms: int = Field(default=3000, ge=10)
    offsets_retention_ms: int = Field(default=7 * DAY_MS, ge=60_000, le=LONGEST_RETENTION_MS)
    auto_offset_reset: Literal["earliest", "latest", "none"] = "earliest"
    max_poll_records: int = Field(default=500, ge=1)
    fetch_min_bytes: int = Field(default=1, ge=1)
    fetch_max_wait_ms: int = Field(default=500, ge=0)
    fetch_max_bytes: int = Field(default=8 * MIB, ge=1, le=256 * MIB)
    max_partition_fetch_bytes: int = Field(default=MIB, ge=1, le=256 * MIB)
    consumer_timeout_ms: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _agree(self) -> ConsumerOptions:
        if self.group_instance_id is not None and self.group_id is None:
            msg = f"group_instance_id={self.group_instance_id!r} needs a group_id"
            raise ValueError(msg)
        if self.heartbeat_interval_ms * 2 > self.session_timeout_ms:
            msg = (
                f"heartbeat_interval_ms={self.heartbeat_interval_ms} must be half of "
                f"session_timeout_ms={self.session_timeout_ms} at most: one heartbeat may be lost"
            )
            raise ValueError(msg)
        return self


class TopicConfig(_Options):
    """A topic's settings; they hold for each of its partitions. -1 means without limit.

    :ivar retention_ms: how long a record is kept after its append (``retention.ms``).
    :ivar retention_bytes: how many bytes a partition keeps at least while it has them (``retention.bytes``); what it
        holds more is a segment and a batch at most.
    :ivar segment_bytes: when a segment is closed (``segment.bytes``); by default ``retention_bytes`` / 16, within
        16 KiB and 8 MiB. Records are dropped by whole segments.
    :ivar max_message_bytes: the largest batch that is taken, as encoded (``max.message.bytes``).
    :ivar partitioner: the hash that places keyed records: ``crc32``, the default of librdkafka's clients, or
        ``murmur2``, that of Kafka's Java client, kafka-python and aiokafka. Decided at creation.
    :ivar message_timestamp_type: what a record's time is (``message.timestamp.type``): ``CreateTime``, its producer's;
        or ``LogAppendTime``, the server's of its append, and the producer's is ignored. Decided at creation.
    :ivar min_insync_replicas: how many servers must have a batch before ``acks="all"`` is satisfied, the primary
        counted (``min.insync.replicas``): with 2, one replica has it too. While fewer are connected, it is refused.
    :ivar flush: whose disks must have it then, too: ``server``: what the server's AOF setting gives; ``primary``: the
        primary's; ``replicas``: those of ``min_insync_replicas`` servers. Needs Redis 7.2 and ``appendonly yes``.
    """

    retention_ms: int = Field(default=7 * DAY_MS, ge=-1, le=LONGEST_RETENTION_MS)
    retention_bytes: int = Field(default=256 * MIB, ge=-1)
    segment_bytes: int | None = Field(default=None, ge=16 * 1024, le=64 * MIB)
    max_message_bytes: int = Field(default=MIB + 64 * 1024, ge=1024, le=256 * MIB)
    partitioner: Literal["crc32", "murmur2"] = "crc32"
    message_timestamp_type: Literal["CreateTime", "LogAppendTime"] = "CreateTime"
    min_insync_replicas: int = Field(default=1, ge=1, le=100)
    flush: Literal["server", "primary", "replicas"] = "server"

    @model_validator(mode="after")
    def _agree(self) -> TopicConfig:
        if self.flush == "replicas" and self.min_insync_replicas == 1:
            msg = "flush='replicas' asks for the disk of a replica: set min_insync_replicas to 2 or more"
            raise ValueError(msg)
        if -1 < self.retention_ms < SHORTEST_RETENTION_MS:
            msg = f"retention_ms={self.retention_ms} must be -1 (no limit) or at least {SHORTEST_RETENTION_MS}"
            raise ValueError(msg)
        return self

    @property
    def timestamp_type(self) -> int:
        """0: a record carries its producer's time; 1: the server's, of its append."""
        return 1 if self.message_timestamp_type == "LogAppendTime" else 0

    @property
    def flush_level(self) -> int:
        """``flush`` as the server's keys hold it: 0 ``server``, 1 ``primary``, 2 ``replicas``."""
        return FLUSH_LEVELS.index(self.flush)

    @property
    def segment_limit(self) -> int:
        """The bytes at which a segment is closed."""
        if self.segment_bytes is not None:
            return self.segment_bytes
        if self.retention_bytes < 0:
            return LARGEST_SEGMENT
        return min(LARGEST_SEGMENT, max(SMALLEST_SEGMENT, self.retention_bytes // SEGMENTS_KEPT))


OptionsT = TypeVar("OptionsT", bound=_Options)


def _explain(error: ValidationError) -> str:
    parts: list[str] = []
    for detail in error.errors():
        name = ".".join(str(part) for part in detail["loc"][:1])
        text = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        parts.append(f"{name}={detail['input']!r} {text}" if name else text)
    return "; ".join(dict.fromkeys(parts))


def checked(kind: type[OptionsT], options: Mapping[str, Any]) -> OptionsT:
    """Make options of given values.

    :raises ConfigurationError: a value is out of its limits, or two do not agree.
    """
    try:
        return kind(**options)
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


def topic_config(given: TopicConfig | Mapping[str, Any] | None) -> TopicConfig:
    """A topic's settings from what a user passed; Kafka's dotted names are accepted.

    :raises ConfigurationError: an unknown name or a bad value.
    """
    if given is None:
        return TopicConfig()
    if isinstance(given, TopicConfig):
        return given
    named = {name.replace(".", "_"): value for name, value in given.items()}
    for name in named:
        if name not in TopicConfig.model_fields:
            msg = f"a topic has no setting {name!r}{_nearest(name, TopicConfig.model_fields)}"
            raise ConfigurationError(msg)
    return checked(TopicConfig, named)


DECIDED_AT_CREATION = {
    "partitioner": "keys would change their partition",
    "message_timestamp_type": "the batches of open producers carry it",
}


def altered_config(current: TopicConfig, changes: TopicConfig | Mapping[str, Any]) -> TopicConfig:
    """A topic's settings after a change of some.

    :param changes: what is set in it is changed, the rest stays; in a mapping ``None`` means: the default again.
    :raises ConfigurationError: an unknown name, a bad value, or a setting that cannot be changed.
    """
    if isinstance(changes, TopicConfig):
        named = changes.model_dump(exclude_unset=True)
    else:
        named = {name.replace(".", "_"): value for name, value in changes.items()}
    merged = current.model_dump(exclude_unset=True) | named
    config = topic_config({name: value for name, value in merged.items() if value is not None})
    for name, why in DECIDED_AT_CREATION.items():
        was, wanted = getattr(current, name, None), getattr(config, name, None)
        if was != wanted:
            msg = f"{name} is decided when a topic is created ({was!r}); it cannot become {wanted!r}: {why}"
            raise ConfigurationError(msg)
    return config


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f": did you mean {near[0]!r}?" if near else ""


def refuse_unknown(owner: str, unknown: Mapping[str, Any], known: Iterable[str]) -> NoReturn:
    """Raise the ``TypeError`` for an option that does not exist, naming the nearest or explaining Kafka's."""
    name = next(iter(unknown))
    if name in KAFKA_OPTIONS:
        msg = f"{owner} has no option {name!r}: {KAFKA_OPTIONS[name]}"
    else:
        msg = f"{owner} has no option {name!r}{_nearest(name, known) or '; see help(' + owner + ')'}"
    raise TypeError(msg)
