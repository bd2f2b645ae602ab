"""Every error a user can meet: one tree, and the only table that pairs the scripts' error words with it.

The rule that keeps it so: no other file defines a public error (``embedded`` apart), and no other file turns a word
into a class. Names are kafka-python's where it has one. ``retriable`` says whether the same call may be made again
and can succeed without anything else being changed.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AuthenticationFailedError",
    "AuthorizationError",
    "BufferFullError",
    "CommitFailedError",
    "ConfigurationError",
    "CorruptRecordError",
    "DuplicateSequenceNumberError",
    "FencedInstanceIdError",
    "ForeignDataError",
    "GroupIdNotFoundError",
    "IllegalStateError",
    "InsufficientDurabilityError",
    "InvalidTimestampError",
    "InvalidTopicError",
    "LogTruncationError",
    "MessageSizeTooLargeError",
    "NonEmptyGroupError",
    "NotEnoughReplicasAfterAppendError",
    "NotEnoughReplicasError",
    "OffsetOutOfRangeError",
    "PartitionDamagedError",
    "ProducerFencedError",
    "RecordDeserializationError",
    "RequestTimedOutError",
    "ServerFullError",
    "ServerReadOnlyError",
    "ServerUnavailableError",
    "StreamlayerError",
    "TopicAlreadyExistsError",
    "UnknownTopicIdError",
    "UnknownTopicOrPartitionError",
    "UnsupportedVersionError",
]


class StreamlayerError(Exception):
    """Base of all errors of this library."""

    retriable: ClassVar[bool] = False


# --- the way to the server -------------------------------------------------------------------------------------------


class ServerUnavailableError(StreamlayerError, ConnectionError):
    """No connection, or it was lost. What was under way has an unknown result."""

    retriable = True


class RequestTimedOutError(StreamlayerError, TimeoutError):
    """No answer in time. What was under way has an unknown result: it may have been done."""

    retriable = True


class BufferFullError(RequestTimedOutError):
    """``send`` found no room in ``buffer_memory`` for ``max_block_ms``. The record was not taken."""


class AuthenticationFailedError(StreamlayerError):
    """The server refused the user name or the password, or wants one."""


class AuthorizationError(StreamlayerError):
    """The server's ACL denies a command, key or channel that is needed. The message names it."""


class UnsupportedVersionError(StreamlayerError):
    """The server, or the layout of a topic, is of a version that this release cannot work with."""


class InsufficientDurabilityError(StreamlayerError):
    """The server gives less than a producer's ``min_durability`` asks for. Nothing is sent to it."""


class ServerFullError(StreamlayerError):
    """The server is at its ``maxmemory``. Nothing was written."""

    retriable = True


class ServerReadOnlyError(StreamlayerError):
    """The server refuses writes: it is a replica, or cannot write to its disk. Nothing was written."""

    retriable = True


class NotEnoughReplicasError(StreamlayerError):
    """Fewer replicas are connected than the topic's ``min_insync_replicas`` or the server's ``min-replicas-to-write``
    want. Nothing was written.
    """

    retriable = True


class NotEnoughReplicasAfterAppendError(StreamlayerError):
    """Written, not yet safe: the records are in the log and are read, but fewer replicas or disks have them than the
    topic's ``min_insync_replicas`` and ``flush`` want. Sending them again would store them twice.
    """


# --- topics and partitions -------------------------------------------------------------------------------------------


class UnknownTopicOrPartitionError(StreamlayerError):
    """There is no such topic, or the topic has no such partition."""


class UnknownTopicIdError(UnknownTopicOrPartitionError):
    """The topic was deleted and created again: it is another log now. Open it anew to go on."""


class TopicAlreadyExistsError(StreamlayerError):
    """A topic of this name exists already."""


class InvalidTopicError(StreamlayerError, ValueError):
    """The name cannot be a topic's (or a namespace's): 1 to 249 of ``a-z A-Z 0-9 . _ -``, and not ``.`` or ``..``."""


class ForeignDataError(StreamlayerError):
    """A key of ours holds something that this library did not write.

    :ivar key: the Redis key.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class PartitionDamagedError(StreamlayerError):
    """A partition's keys contradict each other. It refuses to go on rather than to serve nonsense."""


# --- records ---------------------------------------------------------------------------------------------------------


class MessageSizeTooLargeError(StreamlayerError, ValueError):
    """A record is larger than ``max_request_size`` or the topic's ``max_message_bytes``. It was not written."""


class InvalidTimestampError(StreamlayerError, ValueError):
    """A time that cannot be meant: seconds, no time zone, or a record's over an hour ahead or past retention."""


class CorruptRecordError(StreamlayerError):
    """Stored bytes are not what was written: a checksum or a length is wrong.

    :ivar topic: the topic.
    :ivar partition: the partition.
    :ivar offset: the first offset that cannot be read.
    :ivar next_offset: where reading can go on: ``consumer.seek(tp, error.next_offset)``.
    """

    def __init__(self, message: str, topic: str, partition: int, offset: int, next_offset: int) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.next_offset = next_offset


class RecordDeserializationError(StreamlayerError):
    """A deserializer raised. The records before this one were delivered; its own error is the cause.

    :ivar topic: the topic.
    :ivar partition: the partition.
    :ivar offset: the offset of the record.
    :ivar next_offset: where reading can go on: ``consumer.seek(tp, error.next_offset)``.
    """

    def __init__(self, message: str, topic: str, partition: int, offset: int) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.next_offset = offset + 1


class OffsetOutOfRangeError(StreamlayerError):
    """A position is not, or no longer, in the log.

    :ivar log_start: the first offset the log holds.
    :ivar missed: how many records retention removed before they were read (0 for a position past the end).
    """

    def __init__(self, message: str, log_start: int = 0, missed: int = 0) -> None:
        super().__init__(message)
        self.log_start = log_start
        self.missed = missed


class LogTruncationError(StreamlayerError):
    """The server lost the end of a log (a restart or a failover): offsets at and after a point changed meaning.

    :ivar diverged_at: the first offset that may differ from what was read or written; ``None`` if that is unknown.
    :ivar lost: how many records read or acknowledged before are gone; ``None`` if that is unknown.
    """

    def __init__(self, message: str, diverged_at: int | None = None, lost: int | None = None) -> None:
        super().__init__(message)
        self.diverged_at = diverged_at
        self.lost = lost


class ProducerFencedError(StreamlayerError):
    """Another producer took over this one's id (a copied or forked process). Make a new ``Producer``."""


class DuplicateSequenceNumberError(StreamlayerError):
    """A sequence number came again with other data: two producers share one id. Make a new ``Producer``."""


# --- consumer groups -------------------------------------------------------------------------------------------------


class CommitFailedError(StreamlayerError):
    """The commit was refused, and nothing was stored: the partition is another member's by now, or the group went on
    without this one. What was read since the last commit will be read again, by the partition's owner.
    """


class FencedInstanceIdError(StreamlayerError):
    """Another consumer with this ``group_instance_id`` joined the group and took this one's place."""


class NonEmptyGroupError(StreamlayerError):
    """The group has members: its offsets are theirs, and it cannot be deleted. Stop them first."""


class GroupIdNotFoundError(StreamlayerError):
    """There is no such consumer group."""


# --- misuse ----------------------------------------------------------------------------------------------------------


class IllegalStateError(StreamlayerError, RuntimeError):
    """The call does not fit the object's state: closed, another thread's, another loop's, mixed subscriptions."""


class ConfigurationError(StreamlayerError, ValueError):
    """An option has a value that cannot work. The message names the option and what would."""


# --- the scripts' words ----------------------------------------------------------------------------------------------

BY_WORD: dict[str, type[StreamlayerError]] = {
    "UNKNOWN_TOPIC": UnknownTopicOrPartitionError,
    "TOPIC_REPLACED": UnknownTopicIdError,
    "NOT_ENOUGH_REPLICAS": NotEnoughReplicasError,
    "TOO_LARGE": MessageSizeTooLargeError,
    "BAD_TIMESTAMP": InvalidTimestampError,
    "FENCED_PRODUCER": ProducerFencedError,
    "SEQUENCE_REUSED": DuplicateSequenceNumberError,
    "STALE": RequestTimedOutError,
    "OUT_OF_RANGE": OffsetOutOfRangeError,
    "TRUNCATED": LogTruncationError,
    "FENCED_MEMBER": CommitFailedError,
    "NOT_OWNER": CommitFailedError,
    "NON_EMPTY_GROUP": NonEmptyGroupError,
    "DAMAGED": PartitionDamagedError,
    "FOREIGN": ForeignDataError,
    "LAYOUT": UnsupportedVersionError,
}
"""Words of ``redis.error_reply`` that a user may see as an error."""

WORDS_FOR_THE_CLIENT = frozenset({"WRONG_PARTITION", "STALE_GENERATION", "GROWING", "SEGMENT", "TRIM", "GAP"})
"""Words on which the client acts and tries again; a user never sees them."""
