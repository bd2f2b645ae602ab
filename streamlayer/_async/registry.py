"""Topics made, grown, altered and deleted: an intent in the registry, steps that may be done twice, then the end state.

Whoever meets a topic half done finishes it, with the same functions: there is no other recovery. What happens on a
crash after each step is in DESIGN.md, "The registry".
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from streamlayer._async.client import Client
from streamlayer._config import FLUSH_LEVELS, TopicConfig
from streamlayer._core import calls, registry_calls
from streamlayer._core.calls import Call, CreatedPartition
from streamlayer._core.entries import ALTERING, CREATING, DELETING, GROWING, READY, TopicEntry, read_entry
from streamlayer._core.keys import PartitionKeys, partition_keys
from streamlayer._core.registry_calls import RegistryChange
from streamlayer._types import LOG_APPEND_TIME
from streamlayer.errors import (
    PartitionDamagedError,
    ServerFullError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)

GROWING_MS = 500
"""How long who meets a half-grown topic tries to make its partitions, if the server is full: he can do without."""


async def open_topic(client: Client, name: str, timeout_ms: int) -> TopicEntry | None:
    """A topic that can be used, finished first if it was half done; ``None`` if there is none.

    :returns: it is ``ready``; or ``growing``, if it cannot have more partitions now: ``grow_topic`` says why.
    :raises StreamlayerError: the server could not be asked.
    """
    return await _settle(client, name, await client.topic(name, timeout_ms), timeout_ms)


async def _settle(client: Client, name: str, entry: TopicEntry | None, timeout_ms: int) -> TopicEntry | None:
    while entry is not None and entry.state != READY:
        half_done = entry
        patience_ms = min(timeout_ms, GROWING_MS) if half_done.state == GROWING else timeout_ms
        try:
            entry = await _finish(client, name, half_done, patience_ms)
        except (ServerFullError, PartitionDamagedError):
            if half_done.state != GROWING:
                raise
            return half_done  # the partitions that it has can be used
    return entry


async def _finish(client: Client, name: str, entry: TopicEntry, timeout_ms: int) -> TopicEntry | None:
    """Do what a half-done topic's entry says was meant; the entry as it is then, ``None`` if there is none.

    If somebody deleted the topic meanwhile, he may have passed by before a partition was made here: it is freed.
    """
    try:
        now = await _carry_out(client, name, entry, timeout_ms)
    except UnknownTopicOrPartitionError:
        now = await client.topic(name, timeout_ms)
        if now == entry:
            raise  # nobody deleted it: keys of it are missing
    if now is None or now.id != entry.id or now.state == DELETING:
        await _free_partitions(client, name, entry.id, _made_by(entry))
    return now


async def _carry_out(client: Client, name: str, entry: TopicEntry, timeout_ms: int) -> TopicEntry | None:
    if entry.state == CREATING:
        return await _finish_creating(client, name, entry, timeout_ms)
    if entry.state == GROWING:
        return await _finish_growing(client, name, entry, timeout_ms)
    if entry.state == ALTERING:
        return await _finish_altering(client, name, entry, timeout_ms)
    if entry.state == DELETING:
        return await _finish_deleting(client, name, entry, timeout_ms)
    msg = f"topic {name!r} is {entry.state}, which this release does not know. Upgrade streamlayer"
    raise UnsupportedVersionError(msg)


def _made_by(entry: TopicEntry) -> range:
    """The partitions that are made while an entry is in its state."""
    if entry.state == CREATING:
        return range(entry.partitions)
    return range(entry.partitions, entry.target) if entry.state == GROWING else range(0)


async def _advance(
    client: Client, name: str, seen: TopicEntry | None, wanted: TopicEntry | None, timeout_ms: int = 10_000
) -> TopicEntry | None:
    """Set the entry to what is wanted, unless it is no longer what was seen; what it is now. ``None``: no entry."""
    before, after = (b"" if entry is None else entry.to_bytes() for entry in (seen, wanted))
    change: RegistryChange = await client.call(
        registry_calls.registry(client.namespace, name, before, after), timeout_ms
    )
    return read_entry(change.entry, name) if change.entry else None


# --- create ----------------------------------------------------------------------------------------------------------


async def create_topic(
    client: Client, name: str, partitions: int, config: TopicConfig, *, exist_ok: bool, timeout_ms: int = 10_000
) -> TopicEntry:
    """Create a topic, or finish what somebody began.

    :param timeout_ms: how long each step is tried while the server cannot do it.
    :raises TopicAlreadyExistsError: it was there before, and ``exist_ok`` is false.
    """
    while True:
        wanted = TopicEntry(
            id=secrets.token_hex(16),
            state=CREATING,
            partitions=partitions,
            config=config.model_dump(exclude_unset=True),
        )
        entry = await _advance(client, name, None, wanted)
        assert entry is not None
        if entry.state == DELETING:
            await _finish(client, name, entry, timeout_ms)
            continue
        there_before = entry.id != wanted.id and entry.state != CREATING
        opened = await _settle(client, name, entry, timeout_ms)
        if opened is not None:
            if there_before and not exist_ok:
                msg = f"topic {name!r} exists already; pass exist_ok=True to take it as it is"
                raise TopicAlreadyExistsError(msg)
            return opened
        # Somebody deleted it at once: that deletion came first, then.


async def _finish_creating(client: Client, name: str, entry: TopicEntry, timeout_ms: int) -> TopicEntry | None:
    """Make each partition, then say so. A log that is there and holds records is adopted, never destroyed."""
    numbers = range(entry.partitions)
    if not await _make(client, name, entry, numbers, entry, timeout_ms):
        was_adopted = entry.config_version > 1  # its partitions may have stopped on the way to other settings
        return await _advance(client, name, entry, entry.with_state(ALTERING if was_adopted else READY))
    now = await client.topic(name, timeout_ms)
    if now != entry:
        return now  # what was in the way is of a topic made since
    there = await _look_at(client, name, numbers, timeout_ms)
    further = range(entry.partitions, 1 + max((log.partitions for log in there.values()), default=0))
    there |= await _look_at(client, name, further, timeout_ms)
    holding = {log.topic_id for log in there.values() if log.next > 0 and not log.deleting}
    if len(holding) > 1:
        msg = f"topic {name!r}: its partitions belong to {len(holding)} different logs. Delete their keys, or restore"
        raise PartitionDamagedError(msg)
    kept = holding.pop() if holding else entry.id
    await _free_others(client, name, kept, there)
    if kept == entry.id:
        return entry
    return await _advance(client, name, entry, _adopted(entry, [log for log in there.values() if log.topic_id == kept]))


async def _make(
    client: Client, name: str, entry: TopicEntry, numbers: range, layout: TopicEntry, timeout_ms: int
) -> bool:
    """Make partitions; tell whether something else is in the way."""
    try:
        created = await client.call_all(_creations(client, name, entry, numbers, layout), timeout_ms)
    except UnknownTopicOrPartitionError:
        return True  # somebody began to delete what is there
    return any(partition.topic_id != entry.id for partition in created)


class _Log(NamedTuple):
    """What a partition knows of itself."""

    topic_id: str
    next: int
    deleting: bool
    partitions: int
    generation: int
    config_version: int
    config: dict[str, Any]


async def _look_at(client: Client, name: str, numbers: Iterable[int], timeout_ms: int) -> dict[int, _Log]:
    """The partitions that there are, whosever they are."""
    keys = {number: partition_keys(client.namespace, name, number) for number in numbers}
    found = await client.call_all([_read_meta(each) for each in keys.values()], timeout_ms)
    return {number: log for number, log in zip(keys, found, strict=True) if log is not None}


def _read_meta(keys: PartitionKeys) -> Call[_Log | None]:
    fields = ("id", "state", "next", "partitions", "generation", "config_version")
    settings = ("retention_ms", "retention_bytes", "segment_limit", "max_message_bytes", "timestamp_type")
    more = ("min_insync_replicas", "flush")
    return Call(None, (keys.meta,), ("HMGET", keys.meta, *fields, *settings, *more), _log)


def _log(reply: list[bytes]) -> _Log | None:
    topic_id, state, *rest = reply
    if not topic_id:
        return None
    end, partitions, generation, version, *settings = map(int, rest)
    retention_ms, retention_bytes, limit, most, kind, insync, flush = settings
    known = {
        "retention_ms": retention_ms,
        "retention_bytes": retention_bytes,
        "segment_bytes": None if limit == TopicConfig(retention_bytes=retention_bytes).segment_limit else limit,
        "max_message_bytes": most,
        "message_timestamp_type": "LogAppendTime" if kind == LOG_APPEND_TIME else "CreateTime",
        "min_insync_replicas": insync,
        "flush": FLUSH_LEVELS[flush],
    }
    default = TopicConfig()
    config = {name: value for name, value in known.items() if value != getattr(default, name)}
    return _Log(topic_id.decode(), end, state == b"deleting", partitions, generation, version, config)


async def _free_others(client: Client, name: str, kept: str, there: Mapping[int, _Log]) -> None:
    """Free what a topic of that name left behind that never took a record, or was being deleted."""
    for number, log in there.items():
        if log.topic_id != kept or log.deleting:
            await _free_partitions(client, name, log.topic_id, [number])


def _adopted(entry: TopicEntry, logs: Sequence[_Log]) -> TopicEntry:
    """The entry of a log whose entry was lost, from what its partitions know; the partitioner alone they do not."""
    settings = max(logs, key=lambda log: log.config_version)
    generation, partitions = newest = max((log.generation, log.partitions) for log in logs)
    grown = all((log.generation, log.partitions) == newest for log in logs)
    partitioner = {name: value for name, value in entry.config.items() if name == "partitioner"}
    return TopicEntry(
        id=settings.topic_id,
        state=CREATING,
        partitions=partitions,
        generation=generation if grown else generation - 1,
        config=settings.config | partitioner,
        config_version=settings.config_version + 1,
        target=0 if grown else partitions,
    )


def _creations(
    client: Client, name: str, entry: TopicEntry, numbers: range, layout: TopicEntry
) -> list[Call[CreatedPartition]]:
    """The calls that make partitions under a layout."""
    config = entry.topic_config()
    return [
        calls.create_partition(
            partition_keys(client.namespace, name, number),
            topic_id=entry.id,
            partitions=layout.partitions,
            generation=layout.generation,
            retention_ms=config.retention_ms,
            retention_bytes=config.retention_bytes,
            segment_bytes=config.segment_limit,
            max_message_bytes=config.max_message_bytes,
            timestamp_type=config.timestamp_type,
            min_insync_replicas=config.min_insync_replicas,
            flush=config.flush_level,
            config_version=entry.config_version,
        )
        for number in numbers
    ]


# --- grow ------------------------------------------------------------------------------------------------------------


async def grow_topic(client: Client, name: str, entry: TopicEntry, partitions: int, timeout_ms: int) -> None:
    """Begin to add partitions, and finish it; or finish what somebody else has begun.

    :param entry: the topic as ``open_topic`` returned it. If somebody else has changed it since, nothing is begun.
    :raises ServerFullError: there is no room for more partitions now.
    :raises PartitionDamagedError: a topic of that name has left records where a new partition shall be.
    """
    now: TopicEntry | None = entry
    if entry.state == READY:
        now = await _advance(client, name, entry, entry.growing_to(partitions))
    if now is not None and now.state == GROWING:
        await _finish(client, name, now, timeout_ms)


async def _finish_growing(client: Client, name: str, entry: TopicEntry, timeout_ms: int) -> TopicEntry | None:
    """Make the new partitions, freeze the old ones for keyed records, give these the new layout, say that it is ready.

    A key is in one partition at any moment of the log: while one partition has the old layout unfrozen, none has the
    new one in use, because nobody appends to partitions that the registry does not name yet.
    """
    grown = entry.grown()
    new = range(entry.partitions, grown.partitions)
    if await _make(client, name, entry, new, grown, timeout_ms):
        now = await client.topic(name, timeout_ms)
        if now != entry:
            return now  # what is in the way is of a topic made since
        there = await _look_at(client, name, new, timeout_ms)
        for number, log in there.items():
            if log.topic_id != entry.id and log.next > 0 and not log.deleting:
                key = partition_keys(client.namespace, name, number).prefix
                msg = (
                    f"topic {name!r} cannot grow: its partition {number} holds another log, left by a topic of that "
                    f"name before. If nobody needs it, delete the keys {key}:*"
                )
                raise PartitionDamagedError(msg)
        await _free_others(client, name, entry.id, there)
        return entry
    if entry.config_version > 1:
        for number in new:  # one may have been made before the settings were altered
            await _alter_partition(client, name, number, entry, timeout_ms)
    old = [partition_keys(client.namespace, name, number) for number in range(entry.partitions)]
    for step in (calls.freeze_partition, calls.grow_partition):
        layout = partial(step, topic_id=entry.id, generation=grown.generation, partitions=grown.partitions)
        await client.call_all([layout(keys) for keys in old], timeout_ms)
    return await _advance(client, name, entry, grown)


# --- alter -----------------------------------------------------------------------------------------------------------


async def alter_topic(client: Client, name: str, entry: TopicEntry, config: TopicConfig, timeout_ms: int) -> bool:
    """Begin to change a topic's settings, and finish it; false if somebody else changed the topic meanwhile.

    :param entry: the topic as ``open_topic`` returned it.
    """
    wanted = entry.altered_to(config)
    now = await _advance(client, name, entry, wanted)
    if now is None or now.to_bytes() != wanted.to_bytes():
        return False
    await _finish(client, name, now, timeout_ms)
    return True


async def _finish_altering(client: Client, name: str, entry: TopicEntry, timeout_ms: int) -> TopicEntry | None:
    """Tell each partition, free what it no longer keeps, then say that it is done.

    A topic whose growth had to wait, because the server was full, goes on growing: a shorter retention makes room.
    """
    for number in range(max(entry.partitions, entry.target)):
        try:
            await _alter_partition(client, name, number, entry, timeout_ms)
            await trim_partition(client, name, number, entry.id, timeout_ms)
        except UnknownTopicOrPartitionError:
            if number < entry.partitions:
                raise
    return await _advance(client, name, entry, entry.with_state(GROWING if entry.target else READY))


async def _alter_partition(client: Client, name: str, number: int, entry: TopicEntry, timeout_ms: int) -> None:
    config = entry.topic_config()
    segments: tuple[int, int] | None = (0, -1)
    while segments is not None:
        call = calls.alter_partition(
            partition_keys(client.namespace, name, number),
            topic_id=entry.id,
            config_version=entry.config_version,
            segments=segments,
            retention_ms=config.retention_ms,
            retention_bytes=config.retention_bytes,
            segment_bytes=config.segment_limit,
            max_message_bytes=config.max_message_bytes,
            min_insync_replicas=config.min_insync_replicas,
            flush=config.flush_level,
        )
        segments = await client.call(call, timeout_ms)


async def trim_partition(client: Client, name: str, number: int, topic_id: str, timeout_ms: int = 10_000) -> int:
    """Free all that a partition no longer keeps, a bounded part at a time; the log start."""
    keys = partition_keys(client.namespace, name, number)
    trimmed = await client.call(calls.trim(keys, topic_id=topic_id), timeout_ms)
    while trimmed.first >= 0:
        segments = trimmed.first, trimmed.last
        trimmed = await client.call(calls.trim(keys, topic_id=topic_id, segments=segments), timeout_ms)
    return trimmed.log_start


# --- delete ----------------------------------------------------------------------------------------------------------


async def delete_topic(client: Client, name: str) -> bool:
    """Delete a topic; tell whether there was one."""
    entry = await client.topic(name)
    while entry is not None:
        if entry.state == DELETING:
            await _finish(client, name, entry, 10_000)
            return True
        entry = await _advance(client, name, entry, entry.with_state(DELETING))
    return False


async def _finish_deleting(client: Client, name: str, entry: TopicEntry, timeout_ms: int) -> TopicEntry | None:
    """Free each partition that is still this log, those of a half-done growth too, then remove the entry."""
    await _free_partitions(client, name, entry.id, range(max(entry.partitions, entry.target)), timeout_ms)
    return await _advance(client, name, entry, None, timeout_ms)


async def _free_partitions(
    client: Client, name: str, topic_id: str, numbers: Iterable[int], timeout_ms: int = 10_000
) -> None:
    for number in numbers:
        keys = partition_keys(client.namespace, name, number)
        segments: tuple[int, int] | None = (0, 0)
        while segments is not None:
            segments = await client.call(calls.delete_partition(keys, topic_id=topic_id, segments=segments), timeout_ms)
