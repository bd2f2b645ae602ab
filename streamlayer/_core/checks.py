"""Numbers as users give them, checked at run time: annotations are promises, these are facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from streamlayer._core.keys import check_name
from streamlayer._types import OffsetAndMetadata, TopicPartition
from streamlayer.errors import ConfigurationError, UnknownTopicOrPartitionError


def check_mapping(method: str, given: object, example: str) -> None:
    """What a method takes as a mapping.

    :param example: one, as it would be written.
    :raises TypeError: it is none.
    """
    if not isinstance(given, Mapping):
        msg = f"{method} takes a mapping: {method}({example})"
        raise TypeError(msg)


def check_names(method: str, given: Iterable[str], what: str = "topic") -> list[str]:
    """Names of topics or groups, each once.

    :param what: what they name.
    :raises TypeError: it is one str, which would be taken for its letters.
    :raises InvalidTopicError: a name cannot be one.
    """
    if isinstance(given, str):
        kind = "names" if what == "topic" else "ids"
        msg = f"{method} takes a list of {kind}: {method}([{given!r}])"
        raise TypeError(msg)
    return list(dict.fromkeys(check_name(name, what) for name in given))


def topic_partition(given: Any) -> TopicPartition:
    """A partition, however the pair was given.

    :raises TypeError: it is no pair.
    :raises InvalidTopicError: the first of it cannot be a topic's name.
    """
    if isinstance(given, str) or not hasattr(given, "__len__") or len(given) != 2:
        msg = f"a partition is named by TopicPartition(topic, number), not {given!r}"
        raise TypeError(msg)
    return TopicPartition(check_name(given[0]), given[1])


def _whole(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _is_text(given: Any) -> bool:
    if not isinstance(given, str):
        return False
    try:
        given.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def check_offset(tp: TopicPartition, offset: Any) -> None:
    """An offset to seek to.

    :raises ConfigurationError: it is negative or no int.
    """
    if not _whole(offset) or offset < 0:
        msg = f"seek({tp!r}, {offset!r}): an offset is an int from 0 on; seek_to_beginning and seek_to_end find ends"
        raise ConfigurationError(msg)


LONGEST_METADATA = 32_768
"""Characters that go with a committed offset."""


def check_commit(tp: TopicPartition, given: Any, method: str = "commit") -> tuple[int, str]:
    """An offset to commit, and the text that goes with it.

    :param method: what the user called.
    :raises ConfigurationError: it is negative or no int, or the text is none, or too long.
    """
    offset, metadata = (given.offset, given.metadata) if isinstance(given, OffsetAndMetadata) else (given, "")
    if not _whole(offset) or offset < 0:
        msg = f"{method}({{{tp!r}: {given!r}}}): an offset is an int from 0 on, of the next record to read"
        raise ConfigurationError(msg)
    if not _is_text(metadata):
        msg = f"{method}({{{tp!r}: {given!r}}}): metadata is a str that UTF-8 can encode"
        raise ConfigurationError(msg)
    if len(metadata) > LONGEST_METADATA:
        msg = f"{method}({{{tp!r}: …}}): metadata has {LONGEST_METADATA:,} characters at most"
        raise ConfigurationError(msg)
    return offset, metadata


def check_deleted_before(tp: TopicPartition, offset: Any) -> None:
    """An offset to delete before.

    :raises ConfigurationError: it is no int, or below -1.
    """
    if not _whole(offset) or offset < -1:
        msg = f"delete_records({{{tp!r}: {offset!r}}}): the first offset to keep, from 0 on, or -1 to delete all"
        raise ConfigurationError(msg)


def check_partition(topic: str, partition: Any, count: int) -> None:
    """A partition of a topic that has ``count``.

    :raises UnknownTopicOrPartitionError: it has no such partition.
    """
    if not _whole(partition) or not 0 <= partition < count:
        msg = f"{topic} has the partitions 0 to {count - 1}, not {partition!r}"
        raise UnknownTopicOrPartitionError(msg)


def check_assigned(partition: Any) -> None:
    """A partition's number, before its topic is known.

    :raises ConfigurationError: it cannot be one.
    """
    if not _whole(partition) or partition < 0:
        msg = f"partition {partition!r}: a partition is a number from 0 on"
        raise ConfigurationError(msg)


def check_partition_count(topic: str, count: Any, most: int) -> None:
    """How many partitions a new topic shall have.

    :raises ConfigurationError: not a possible count.
    """
    if not _whole(count) or not 1 <= count <= most:
        msg = f"topic {topic!r}: num_partitions={count!r} must be from 1 to {most}"
        raise ConfigurationError(msg)
