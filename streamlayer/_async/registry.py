"""Creating and deleting topics: an intent in the registry, then steps that may be done twice, then the end state.

Whoever meets a topic half done finishes it, with the same functions: there is no other recovery. What happens on a
crash after each step is in DESIGN.md, "The registry".
"""

from __future__ import annotations

import secrets

from streamlayer._async.client import Client
from streamlayer._config import TopicConfig
from streamlayer._core import calls
from streamlayer._core.calls import CreatedPartition, RegistryChange
from streamlayer._core.entries import CREATING, DELETING, READY, TopicEntry, read_entry
from streamlayer._core.keys import partition_keys
from streamlayer.errors import PartitionDamagedError, StreamlayerError, TopicAlreadyExistsError


async def create_topic(
    client: Client, name: str, partitions: int, config: TopicConfig, *, exist_ok: bool, timeout_ms: int = 10_000
) -> TopicEntry:
    """Create a topic, or finish what somebody began.

    :param timeout_ms: how long each step is tried while the server cannot do it.
    :raises TopicAlreadyExistsError: it was there before, and ``exist_ok`` is false.
    """
    wanted = TopicEntry(
        id=secrets.token_hex(16), state=CREATING, partitions=partitions, config=config.model_dump(exclude_defaults=True)
    )
    while True:
        stored = wanted.to_bytes()
        change: RegistryChange = await client.call(calls.registry(client.namespace, name, b"", stored))
        entry = read_entry(change.entry, name)
        if entry.state == DELETING:
            await finish_deleting(client, name, entry)
            continue
        if entry.id != wanted.id and entry.state == READY:
            if exist_ok:
                return entry
            msg = f"topic {name!r} exists already; pass exist_ok=True to take it as it is"
            raise TopicAlreadyExistsError(msg)
        if entry.state == CREATING:
            entry = await finish_creating(client, name, entry, timeout_ms)
        return entry


async def finish_creating(client: Client, name: str, entry: TopicEntry, timeout_ms: int = 10_000) -> TopicEntry:
    """Make each partition, then say so. Partitions that hold another log are adopted, never destroyed."""
    created = await _create_partitions(client, name, entry, timeout_ms)
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
            await _free_partitions(client, name, entry)
    change = await client.call(calls.registry(client.namespace, name, entry.to_bytes(), done.to_bytes()))
    now = read_entry(change.entry, name) if change.entry else done
    if now.state == CREATING and now != entry:
        return await finish_creating(client, name, now, timeout_ms)
    return now


async def _create_partitions(client: Client, name: str, entry: TopicEntry, timeout_ms: int) -> list[CreatedPartition]:
    config = entry.topic_config()
    created: list[CreatedPartition] = []
    for partition in range(entry.partitions):
        call = calls.create_partition(
            partition_keys(client.namespace, name, partition),
            topic_id=entry.id,
            partitions=entry.partitions,
            generation=entry.generation,
            retention_ms=config.retention_ms,
            retention_bytes=config.retention_bytes,
            segment_bytes=config.segment_limit,
            max_message_bytes=config.max_message_bytes,
            config_version=entry.config_version,
        )
        created.append(await client.call(call, timeout_ms))
    return created


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
    """Free each partition that is still this log, then remove the entry."""
    await _free_partitions(client, name, entry)
    await client.call(calls.registry(client.namespace, name, entry.to_bytes(), b""))


async def _free_partitions(client: Client, name: str, entry: TopicEntry) -> None:
    for partition in range(entry.partitions):
        keys = partition_keys(client.namespace, name, partition)
        segments: tuple[int, int] | None = (0, 0)
        while segments is not None:
            segments = await client.call(calls.delete_partition(keys, topic_id=entry.id, segments=segments))


async def open_topic(client: Client, name: str, timeout_ms: int) -> TopicEntry | None:
    """A topic that is ready, finished first if it was half done; ``None`` if there is none.

    :raises StreamlayerError: the server could not be asked.
    """
    entry = await client.topic(name, timeout_ms)
    if entry is None:
        return None
    if entry.state == CREATING:
        return await finish_creating(client, name, entry, timeout_ms)
    if entry.state == DELETING:
        await finish_deleting(client, name, entry)
        return None
    if entry.state != READY:
        msg = f"topic {name!r} is {entry.state}, which this release does not know. Upgrade streamlayer"
        raise StreamlayerError(msg)
    return entry
