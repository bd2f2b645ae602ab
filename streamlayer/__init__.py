"""Kafka's log on the Redis you already run, from Python.

The names here are the sync ones; ``streamlayer.aio`` has the same for asyncio.
"""

from streamlayer._config import TopicConfig
from streamlayer._sync.admin import Admin
from streamlayer._sync.consumer import Consumer
from streamlayer._sync.producer import Producer
from streamlayer._types import (
    AppendedRange,
    ConfigEntry,
    ConsumerRecord,
    Health,
    NewTopic,
    OffsetAndTimestamp,
    PartitionDescription,
    ProducerMetrics,
    RecordMetadata,
    TopicDescription,
    TopicPartition,
)
from streamlayer._waiting.threads import RecordFuture
from streamlayer.errors import (
    AuthenticationFailedError,
    AuthorizationError,
    BufferFullError,
    ConfigurationError,
    CorruptRecordError,
    DuplicateSequenceNumberError,
    ForeignDataError,
    IllegalStateError,
    InvalidTimestampError,
    InvalidTopicError,
    LogTruncationError,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
    OffsetOutOfRangeError,
    PartitionDamagedError,
    ProducerFencedError,
    RecordDeserializationError,
    RequestTimedOutError,
    ServerFullError,
    ServerReadOnlyError,
    ServerUnavailableError,
    StreamlayerError,
    TopicAlreadyExistsError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)

__version__ = "0.1.0"

__all__ = [
    "Admin",
    "AppendedRange",
    "AuthenticationFailedError",
    "AuthorizationError",
    "BufferFullError",
    "ConfigEntry",
    "ConfigurationError",
    "Consumer",
    "ConsumerRecord",
    "CorruptRecordError",
    "DuplicateSequenceNumberError",
    "ForeignDataError",
    "Health",
    "IllegalStateError",
    "InvalidTimestampError",
    "InvalidTopicError",
    "LogTruncationError",
    "MessageSizeTooLargeError",
    "NewTopic",
    "NotEnoughReplicasError",
    "OffsetAndTimestamp",
    "OffsetOutOfRangeError",
    "PartitionDamagedError",
    "PartitionDescription",
    "Producer",
    "ProducerFencedError",
    "ProducerMetrics",
    "RecordDeserializationError",
    "RecordFuture",
    "RecordMetadata",
    "RequestTimedOutError",
    "ServerFullError",
    "ServerReadOnlyError",
    "ServerUnavailableError",
    "StreamlayerError",
    "TopicAlreadyExistsError",
    "TopicConfig",
    "TopicDescription",
    "TopicPartition",
    "UnknownTopicIdError",
    "UnknownTopicOrPartitionError",
    "UnsupportedVersionError",
]
