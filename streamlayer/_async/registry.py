"""Topics made, grown, altered and deleted: an intent in the registry, steps that may be done twice, then the end state.

Whoever meets a topic half done finishes it, with the same functions: there is no other recovery. What happens on a
crash after each step is in DESIGN.md, "The registry".
"""

from __future__ import annotations

import secrets
from functools import partial

from streamlayer._async.client import Client
from streamlayer._config import TopicConfig
from streamlayer._core import calls
from streamlayer._core.calls import Call, CreatedPartition, RegistryChange
from streamlayer._core.entries import ALTERING, CREATING, DELETING, GROWING, READY, TopicEntry, read_entry
from streamlayer._core.keys import partition_keys
from streamlayer.errors import (
    PartitionDamagedError,
    ServerFullError,
    StreamlayerError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)


async def open_topic(client: Client, name: str, timeout_ms: int) -> TopicEntry | None:
    """A topic that can be used, finished first if it was half done; ``None`` if there is none.

    :raises StreamlayerError: the server could not be asked.
    """
    entry = await client.topic(name, timeout_ms)
    while entry is not None:
        if entry.state == READY:
            return entry
        if entry.state == CREATING:
            entry = await finish_creating(client, name, entry, timeout_ms)
        elif entry.state == GROWING:
            try:
                entry = await _finish_growing(client, name, entry, timeout_ms)
            except ServerFullError:
                return entry  # it cannot get more partitions now; those that it has can be used
        elif entry.state == ALTERING:
            entry = await _finish_altering(client, name, entry, timeout_ms)
        elif entry.state == DELETING:
            await finish_deleting(client, name, entry)
            return None
        else:
            msg = f"topic {name!r} is {entry.state}, which this release does not know. Upgrade streamlayer"
            raise StreamlayerError(msg)
    return None


async def _advance(client: Client, name: str, seen: TopicEntry, wanted: TopicEntry) -> TopicEntry | None:
    """Set the entry to what is wanted, unless it is no longer what was seen; what it is now."""
    change: RegistryChange = await client.call(
        calls.registry(client.namespace, name, seen.to_bytes(), wanted.to_bytes())
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
    wanted = TopicEntry(
        id=secrets.token_hex(16), state=CREATING, partitions=partitions, config=config.model_dump(exclude_unset=True)
    )
    while True:
        stored = wanted.to_bytes()
        change: RegistryChange = await client.call(calls.registry(client.namespace, name, b"", stored))
        entry = read_entry(change.entry, name)
        if entry.state == DELETING:
            await finish_deleting(client, name, entry)
            continue
        if entry.id != wanted.id and entry.state != CREATING:
            if exist_ok:
                return await open_topic(client, name, timeout_ms) or entry
            msg = f"topic {name!r} exists already; pass exist_ok=True to take it as it is"
            raise TopicAlreadyExistsError(msg)
        if entry.state == CREATING:
            entry = await finish_creating(client, name, entry, timeout_ms)
        return entry


async def finish_creating(client: Client, name: str, entry: TopicEntry, timeout_ms: int = 10_000) -> TopicEntry:
    """Make each partition, then say so. Partitions that hold another log are adopted, never destroyed."""
    created = await client.call_all(_creations(client, name, entry, range(entry.partitions), entry), timeout_ms)
    ids = {partition.topic_id for partition in created}
    done = entry.with_state(READY)
    if ids != {entry.id}:
        adopted = next(partition for partition in created if partition.topic_id != entry.id)
        done = TopicEntry(
            id=adopted.topic_id,
            state=CREATING,
            partitions=adopted.partitions,
            generation=adopted.generation,
            config=entry.config,
        )
        if len(ids - {entry.id}) > 1:
            msg = f"topic {name!r}: its partitions belong to {len(ids)} different logs. Delete their keys, or restore"
            raise PartitionDamagedError(msg)
        if entry.id in ids:
            await _free_partitions(client, name, entry, range(entry.partitions))
    now = await _advance(client, name, entry, done) or done
    if now.state == CREATING and now != entry:
        return await finish_creating(client, name, now, timeout_ms)
    return now


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
            config_version=entry.config_version,
        )
        for number in numbers
    ]


# --- grow ------------------------------------------------------------------------------------------------------------


async def grow_topic(client: Client, name: str, entry: TopicEntry, partitions: int, timeout_ms: int) -> TopicEntry:
    """Begin to add partitions, and finish it.

    :param entry: the topic as it was read, ready.
    :returns: the topic as it is then; with fewer partitions than wanted if somebody else changed it meanwhile.
    """
    now = await _advance(client, name, entry, entry.growing_to(partitions))
    if now is None:
        msg = f"topic {name!r} was deleted"
        raise UnknownTopicOrPartitionError(msg)
    if now.state == GROWING:
        now = await _finish_growing(client, name, now, timeout_ms) or now
    return now


async def _finish_growing(client: Client, name: str, entry: TopicEntry, timeout_ms: int) -> TopicEntry | None:
    """Make the new partitions, freeze the old ones for keyed records, give these the new layout, say that it is ready.

    A key is in one partition at any moment of the log: while one partition has the old layout unfrozen, none has the
    new one in use, because nobody appends to partitions that the registry does not name yet.
    """
    grown = entry.grown()
    new = range(entry.partitions, grown.partitions)
    created = await client.call_all(_creations(client, name, entry, new, grown), timeout_ms)
    strangers = [number for number, partition in zip(new, created, strict=True) if partition.topic_id != entry.id]
    if strangers:
        await _free_partitions(client, name, entry, new)
        now = await _advance(client, name, entry, entry.not_grown())
        if now is None or now.id != entry.id:
            return now  # the topic was deleted meanwhile: they are those of the one made since
        key = partition_keys(client.namespace, name, strangers[0]).prefix
        msg = (
            f"topic {name!r} cannot grow: its partition {strangers[0]} holds another log, left by a topic of that name "
            f"before. If nobody needs it, delete the keys {key}:*"
        )
        raise PartitionDamagedError(msg)
    old = [partition_keys(client.namespace, name, number) for number in range(entry.partitions)]
    for step in (calls.freeze_partition, calls.grow_partition):
        layout = partial(step, topic_id=entry.id, generation=grown.generation, partitions=grown.partitions)
        await client.call_all([layout(keys) for keys in old], timeout_ms)
    return await _advance(client, name, entry, grown)


# --- alter -----------------------------------------------------------------------------------------------------------


async def alter_topic(client: Client, name: str, entry: TopicEntry, config: TopicConfig, timeout_ms: int) -> bool:
    """Begin to change a topic's settings, and finish it; false if somebody else changed the topic meanwhile.

    :param entry: the topic as it was read, ready.
    """
    wanted = entry.altered_to(config)
    change: RegistryChange = await client.call(
        calls.registry(client.namespace, name, entry.to_bytes(), wanted.to_bytes())
    )
    now = read_entry(change.entry, name) if change.entry else None
    if now is None or now.to_bytes() != wanted.to_bytes():
        return False
    await _finish_altering(client, name, now, timeout_ms)
    return True


async def _finish_altering(client: Client, name: str, entry: TopicEntry, timeout_ms: int) -> TopicEntry | None:
    """Tell each partition, free what it no longer keeps, then say that it is done."""
    config = entry.topic_config()
    for number in range(entry.partitions):
        keys = partition_keys(client.namespace, name, number)
        segments: tuple[int, int] | None = (0, -1)
        while segments is not None:
            call = calls.alter_partition(
                keys,
                topic_id=entry.id,
                config_version=entry.config_version,
                segments=segments,
                retention_ms=config.retention_ms,
                retention_bytes=config.retention_bytes,
                segment_bytes=config.segment_limit,
                max_message_bytes=config.max_message_bytes,
            )
            segments = await client.call(call, timeout_ms)
        await trim_partition(client, name, number, entry.id, timeout_ms)
    return await _advance(client, name, entry, entry.with_state(READY))


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
    while True:
        entry = await client.topic(name)
        if entry is None:
            return False
        if entry.state != DELETING:
            doomed = entry.with_state(DELETING)
            change = await client.call(calls.registry(client.namespace, name, entry.to_bytes(), doomed.to_bytes()))
            if not change.changed:
                continue
            entry = doomed
        await finish_deleting(client, name, entry)
        return True


async def finish_deleting(client: Client, name: str, entry: TopicEntry) -> None:
    """Free each partition that is still this log, those of a half-done growth too, then remove the entry."""
    await _free_partitions(client, name, entry, range(max(entry.partitions, entry.target)))
    await client.call(calls.registry(client.namespace, name, entry.to_bytes(), b""))


async def _free_partitions(client: Client, name: str, entry: TopicEntry, numbers: range) -> None:
    for number in numbers:
        keys = partition_keys(client.namespace, name, number)
        segments: tuple[int, int] | None = (0, 0)
        while segments is not None:
            segments = await client.call(calls.delete_partition(keys, topic_id=entry.id, segments=segments))
