"""Every operation on a partition as a frozen value: which script, which keys, which arguments, how to read the answer.

A ``Call`` does nothing by itself: the shell sends it and hands the reply to ``parse``. One function here, one Lua file
of the same name, one test file. Beside this: ``group_calls``, ``registry_calls``, ``server_calls``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from streamlayer._core import scripts
from streamlayer._core.keys import PartitionKeys
from streamlayer._core.scripts import Script

T = TypeVar("T")

SEGMENTS_AT_ONCE = 8
"""How many segments a call names, so that none keeps the server long; the scripts know the same number."""

Acks = Literal[0, 1, "all"]
"""What a producer waits for: nothing, the primary, or all that ``min_insync_replicas`` and ``flush`` want."""

Reply = list[Any]
"""What a script answered, its tag removed."""


class Call(msgspec.Struct, Generic[T], frozen=True):
    """One operation.

    :ivar script: the Lua file; ``None`` for a plain command, which is then ``args``.
    :ivar keys: as the script's header names them.
    :ivar args: the same, without the tag.
    :ivar parse: makes the result of the reply.
    """

    script: Script | None
    keys: tuple[str, ...]
    args: tuple[str | bytes | int, ...]
    parse: Callable[[Any], T]


class Appended(NamedTuple):
    """A batch is in the log.

    :ivar base_offset: its first record's offset.
    :ivar append_time: server time of the append, ms since the epoch.
    :ivar segment: the open segment, for the next append.
    :ivar epochs: the log's epochs.
    :ivar generation: the topic's layout generation, as the partition knows it.
    :ivar min_insync_replicas: how many servers shall have it, the primary counted.
    :ivar flush: whose disks shall have it: 0 nobody is asked, 1 the primary's, 2 the replicas' too.
    """

    base_offset: int
    append_time: int
    segment: int
    epochs: str
    generation: int
    min_insync_replicas: int = 1
    flush: int = 0


class Field(NamedTuple):
    """A stored field: frames of consecutive records.

    :ivar base: the offset of the first record.
    :ivar last: the offset of the last.
    :ivar frames: the bytes.
    """

    base: int
    last: int
    frames: bytes


class Fetched(NamedTuple):
    """What a fetch found.

    :ivar next: the log's end, the offset that the next record will get.
    :ivar log_start: the first offset it holds.
    :ivar segment: the open segment.
    :ivar generation: the topic's layout generation.
    :ivar epochs: the log's epochs.
    :ivar tail_base: the first offset that is not in a sealed field.
    :ivar fields: what was read; empty at the end of the log.
    """

    next: int
    log_start: int
    segment: int
    generation: int
    epochs: str
    tail_base: int
    fields: list[Field]


class ListedOffsets(NamedTuple):
    """Where a log begins and ends; ``field`` holds the first record at or after the time asked for, if there is one."""

    log_start: int
    next: int
    field: Field | None


class ClosedSegment(NamedTuple):
    """A segment that never changes any more.

    :ivar number: its number.
    :ivar base: the offset of its first record.
    :ivar highest: the highest timestamp in it, ms since the epoch.
    :ivar member: what stands in ``segs``.
    :ivar closed: when it was closed, server's ms since the epoch.
    """

    number: int
    base: int
    highest: int
    member: str
    closed: int


class ListedSegments(NamedTuple):
    """Closed segments, in order, 1,000 at most.

    :ivar epochs: the log's.
    :ivar open_segment: the number of the open one.
    :ivar open_base: its first offset.
    """

    epochs: str
    open_segment: int
    open_base: int
    closed: list[ClosedSegment]


class CreatedPartition(NamedTuple):
    """The log that is there now, made by this call or before."""

    topic_id: str
    partitions: int
    generation: int


class DescribedPartition(NamedTuple):
    """What one partition holds."""

    log_start: int
    next: int
    bytes: int
    segments: int
    generation: int
    partitions: int


class Trimmed(NamedTuple):
    """What a trim left.

    :ivar log_start: the first offset the log holds.
    :ivar first: the oldest segment that may still go; -1 for none.
    :ivar last: the newest.
    """

    log_start: int
    first: int
    last: int


class Checked(NamedTuple):
    """How far a check got, and what contradicts.

    :ivar segment: where to go on; -1 when all was looked at.
    :ivar rank: of the next field.
    :ivar bytes: of the fields before it.
    :ivar contradiction: what is wrong, in words; empty if nothing is.
    """

    segment: int
    rank: int
    bytes: int
    contradiction: str


def _appended(reply: Reply) -> Appended:
    base, time, segment, epochs, generation, insync, flush = reply
    return Appended(int(base), int(time), int(segment), _epochs(epochs), int(generation), int(insync), int(flush))


@lru_cache(maxsize=1024)  # nearly always the same
def _epochs(stored: bytes) -> str:
    """``number:token:start,…``, as it must be."""
    text = stored.decode()
    for epoch in text.split(","):
        number, _, start = epoch.split(":")
        if not (number.isdecimal() and start.isdecimal()):
            raise ValueError(text)
    return text


def as_bytes(part: Any) -> bytes:
    if not isinstance(part, bytes):
        msg = f"bytes were due, not {part!r}"
        raise TypeError(msg)
    return part


def append(
    keys: PartitionKeys,
    segment: int,
    *,
    topic_id: str,
    partition: int,
    generation: int,
    key_hash: int | None,
    producer: str,
    epoch: int,
    sequence: int,
    crc: int,
    count: int,
    min_timestamp: int,
    max_timestamp: int,
    frame: bytes,
    acks: Acks = 1,
    partitions: int | None = None,
) -> Call[Appended]:
    """Add one batch.

    :param segment: the segment believed to be open.
    :param key_hash: the hash of one record that its key placed here; ``None`` if none was.
    :param producer: the producer's id; empty for no idempotence.
    :param epoch: its epoch for this partition.
    :param sequence: the first record's sequence number.
    :param acks: ``"all"``: it is refused while fewer replicas are connected than the topic wants.
    :param partitions: how many the topic has in the layout by which keys placed its records; ``None``: whatever it has.
    """
    return Call(
        scripts.APPEND,
        (keys.meta, keys.tail, keys.segs, keys.producers, *keys.segment(segment)),
        (
            topic_id,
            partition,
            generation,
            "" if partitions is None else partitions,
            "" if key_hash is None else key_hash,
            segment,
            producer,
            epoch,
            sequence,
            f"{crc:08x}",
            count,
            min_timestamp,
            max_timestamp,
            acks,
            frame,
            keys.channel,
        ),
        _appended,
    )


def _fields(flat: Reply) -> list[Field]:
    return [Field(int(flat[i]), int(flat[i + 1]), as_bytes(flat[i + 2])) for i in range(0, len(flat), 3)]


def _fetched(reply: Reply) -> Fetched:
    end, start, segment, generation, epochs, tail_base, *fields = reply
    return Fetched(
        int(end), int(start), int(segment), int(generation), _epochs(epochs), int(tail_base), _fields(fields)
    )


def fetch(
    keys: PartitionKeys,
    *,
    topic_id: str,
    position: int,
    max_bytes: int,
    segment: int,
    tail: tuple[int, int] = (-1, 0),
    crossed: str = "",
    arm: bool = True,
    peek: bool = False,
) -> Call[Fetched]:
    """Read from a position.

    :param max_bytes: about how many bytes to return; one field at least.
    :param segment: the segment believed to hold the position.
    :param tail: the tail's base and how many of its bytes the reader has, where the position is right behind them.
    :param crossed: ``number:token:start`` of the last epochs the reader crossed, with commas; empty after a bare seek.
    :param arm: wake this reader when the log's end was reached and more comes.
    :param peek: write nothing, so do not arm either.
    """
    log, index, _ = keys.segment(segment)
    return Call(
        scripts.PEEK if peek else scripts.FETCH,
        (keys.meta, keys.tail, keys.segs, log, index),
        (topic_id, position, max_bytes, segment, tail[0], tail[1], crossed, int(arm and not peek)),
        _fetched,
    )


def _listed(reply: Reply) -> ListedOffsets:
    start, end, *field = reply
    return ListedOffsets(int(start), int(end), _fields(field)[0] if field else None)


def list_offsets(
    keys: PartitionKeys,
    *,
    topic_id: str,
    timestamp: int = -1,
    segment: int = 0,
    after: int = 0,
    oldest: int = 0,
    passed: ClosedSegment | None = None,
) -> Call[ListedOffsets]:
    """Ask where the log begins and ends, and with a timestamp (ms, not negative) for the field to look into.

    :param segment: the segment believed to hold the first record at or after the time.
    :param after: the first segment to look at: those before it are known to hold no such record.
    :param oldest: if that is known from a list of segments: the oldest of these.
    :param passed: the last of them before ``after``; ``None`` if a refusal has just said so.
    """
    return Call(
        scripts.LIST_OFFSETS,
        (keys.meta, keys.tail, keys.segs, *keys.segment(segment)),
        (
            topic_id,
            timestamp,
            segment,
            after,
            oldest,
            "" if passed is None else passed.member,
            -1 if passed is None else passed.closed,
        ),
        _listed,
    )


def list_segments(keys: PartitionKeys, *, topic_id: str, after: int = -1) -> Call[ListedSegments]:
    """Ask which closed segments there are.

    :param after: only those with a higher number.
    """
    return Call(scripts.LIST_SEGMENTS, (keys.meta, keys.segs), (topic_id, after), _listed_segments)


def _listed_segments(reply: Reply) -> ListedSegments:
    epochs, segment, base, *flat = reply
    closed = [_closed(flat[i].decode(), flat[i + 1]) for i in range(0, len(flat), 2)]
    return ListedSegments(_epochs(epochs), int(segment), int(base), closed)


def _closed(member: str, closed: int) -> ClosedSegment:
    number, base, _, highest = map(int, member.split(":"))
    return ClosedSegment(number, base, highest, member, int(closed))


def create_partition(
    keys: PartitionKeys,
    *,
    topic_id: str,
    partitions: int,
    generation: int,
    retention_ms: int,
    retention_bytes: int,
    segment_bytes: int,
    max_message_bytes: int,
    config_version: int,
    timestamp_type: int = 0,
    min_insync_replicas: int = 1,
    flush: int = 0,
) -> Call[CreatedPartition]:
    """Make an empty partition unless there is one."""
    return Call(
        scripts.CREATE_PARTITION,
        (keys.meta, keys.tail, keys.segs, keys.producers, *keys.segment(0)),
        (
            topic_id,
            partitions,
            generation,
            retention_ms,
            retention_bytes,
            segment_bytes,
            max_message_bytes,
            timestamp_type,
            min_insync_replicas,
            flush,
            config_version,
        ),
        lambda reply: CreatedPartition(reply[0].decode(), int(reply[1]), int(reply[2])),
    )


def delete_partition(
    keys: PartitionKeys, *, topic_id: str, segments: tuple[int, int] = (0, 0)
) -> Call[tuple[int, int] | None]:
    """Free a partition's keys.

    :param segments: the first and the last segment to name; the answer says which to name instead, ``None`` when all
        is gone.
    """
    first, last = segments
    last = min(last, first + SEGMENTS_AT_ONCE - 1)
    return Call(
        scripts.DELETE_PARTITION,
        (keys.meta, keys.tail, keys.segs, keys.producers, *_named(keys, first, last)),
        (topic_id, first, last),
        _range,
    )


def _named(keys: PartitionKeys, first: int, last: int) -> list[str]:
    return [key for number in range(first, last + 1) for key in keys.segment(number)]


def _range(reply: Reply) -> tuple[int, int] | None:
    first, last = map(int, reply)
    return None if first < 0 else (first, last)


def trim(keys: PartitionKeys, *, topic_id: str, segments: tuple[int, int] = (0, -1), coming: int = 0) -> Call[Trimmed]:
    """Free whole segments that retention, or a deletion of records, no longer keeps.

    :param segments: the first and the last segment to name, 8 at most (more are left out); by default none: the answer
        says which.
    :param coming: bytes of the batch that room is made for: once it is appended, the log holds ``retention_bytes``.
    """
    first, last = segments[0], min(segments[1], segments[0] + SEGMENTS_AT_ONCE - 1)
    return Call(
        scripts.TRIM,
        (keys.meta, keys.segs, *_named(keys, first, last)),
        (topic_id, first, last, coming),
        lambda reply: Trimmed(*map(int, reply)),
    )


def alter_partition(
    keys: PartitionKeys,
    *,
    topic_id: str,
    config_version: int,
    segments: tuple[int, int] = (0, -1),
    retention_ms: int,
    retention_bytes: int,
    segment_bytes: int,
    max_message_bytes: int,
    min_insync_replicas: int = 1,
    flush: int = 0,
) -> Call[tuple[int, int] | None]:
    """Give a partition newer settings. The expiry of its keys follows, 8 segments a call.

    :param segments: the first and the last segment to name, at first none; the answer says which to name next,
        ``None`` when all is done.
    """
    first, last = segments[0], min(segments[1], segments[0] + SEGMENTS_AT_ONCE - 1)
    return Call(
        scripts.ALTER_PARTITION,
        (keys.meta, keys.tail, keys.segs, *_named(keys, first, last)),
        (
            topic_id,
            config_version,
            first,
            last,
            retention_ms,
            retention_bytes,
            segment_bytes,
            max_message_bytes,
            min_insync_replicas,
            flush,
        ),
        _range,
    )


def delete_records(keys: PartitionKeys, *, topic_id: str, before: int, segment: int = 0) -> Call[int]:
    """Raise the log start; the answer is where the log begins now.

    :param before: the first offset to keep; -1 for none.
    :param segment: the segment believed to be open.
    """
    return Call(
        scripts.DELETE_RECORDS,
        (keys.meta, keys.tail, keys.segs, *keys.segment(segment)),
        (topic_id, before, segment),
        lambda reply: int(reply[0]),
    )


def read_damage(keys: PartitionKeys) -> Call[tuple[str, int]]:
    """Why a partition is marked as damaged (empty if it is not), and the offset that its next record would get."""
    return Call(None, (keys.meta,), ("HMGET", keys.meta, "damaged", "next"), _damage)


def _damage(reply: Reply) -> tuple[str, int]:
    damage, end = reply
    return (damage or b"").decode(), int(end)


def repair_partition(keys: PartitionKeys, *, topic_id: str, damage: str, end: int, segment: int = 0) -> Call[int]:
    """Have a damaged partition go on without what it holds; the answer is where the log begins now.

    :param damage: what ``read_damage`` told, like
    :param end: this. If either is another by now, nothing is done.
    :param segment: the segment believed to be open.
    """
    return Call(
        scripts.REPAIR_PARTITION,
        (keys.meta, keys.tail, keys.segs, *keys.segment(segment)),
        (topic_id, damage, end, segment),
        lambda reply: int(reply[0]),
    )


def freeze_partition(keys: PartitionKeys, *, topic_id: str, generation: int, partitions: int) -> Call[int]:
    """Have a partition refuse keyed batches until it has the next layout; the answer is its generation.

    :param generation: of the next layout.
    :param partitions: how many partitions the topic will have.
    """
    return Call(scripts.FREEZE_PARTITION, (keys.meta,), (topic_id, generation, partitions), lambda reply: int(reply[0]))


def grow_partition(keys: PartitionKeys, *, topic_id: str, generation: int, partitions: int) -> Call[int]:
    """Give a partition the next layout; the answer is its generation."""
    return Call(scripts.GROW_PARTITION, (keys.meta,), (topic_id, generation, partitions), lambda reply: int(reply[0]))


def _checked(reply: Reply) -> Checked:
    segment, rank, count, *contradiction = reply
    return Checked(int(segment), int(rank), int(count), contradiction[0].decode() if contradiction else "")


def check(keys: PartitionKeys, *, topic_id: str, segment: int = -1, rank: int = 0, size: int = 0) -> Call[Checked]:
    """Hold a partition's keys against each other, a part at a time.

    :param segment: with ``rank`` and ``size`` what the last call answered; at first left out.
    """
    return Call(
        scripts.CHECK,
        (keys.meta, keys.tail, keys.segs, *keys.segment(max(segment, 0))),
        (topic_id, segment, rank, size),
        _checked,
    )


def describe_partition(keys: PartitionKeys, *, topic_id: str) -> Call[DescribedPartition]:
    """Ask what a partition holds."""
    return Call(
        scripts.DESCRIBE_PARTITION,
        (keys.meta, keys.segs),
        (topic_id,),
        lambda reply: DescribedPartition(*map(int, reply)),
    )
