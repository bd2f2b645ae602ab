"""Kafka's log on the Redis you already run, from Python.

The names here are the sync ones; ``streamlayer.aio`` has the same for asyncio.
"""

from streamlayer._config import TopicConfig
from streamlayer._sync.admin import Admin
from streamlayer._sync.consumer import Consumer
from streamlayer._sync.producer import Producer
from streamlayer._types import (
    AppendedRange,
    ConsumerRecord,
    Health,
    NewTopic,
    OffsetAndTimestamp,
    PartitionDescription,
    RecordMetadata,
    TopicDescription,
    TopicPartition,
)
from streamlayer._waiting.threads import RecordFuture
from streamlayer.errors import *  # noqa: F403 - the whole tree, named in errors.__all__
from streamlayer.errors import __all__ as _errors

__version__ = "0.1.0"

__all__ = [
    "Admin",
    "AppendedRange",
    "Consumer",
    "ConsumerRecord",
    "Health",
    "NewTopic",
    "OffsetAndTimestamp",
    "PartitionDescription",
    "Producer",
    "RecordFuture",
    "RecordMetadata",
    "TopicConfig",
    "TopicDescription",
    "TopicPartition",
    *_errors,
]
