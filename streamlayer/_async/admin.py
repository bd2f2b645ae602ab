"""``Admin``: topics made, listed, described, altered, grown, checked and deleted; records deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Never, Self, cast

from streamlayer._async.client import Client
from streamlayer._async.groups import TIMEOUT_MS, GroupAdmin
from streamlayer._async.registry import (
    alter_topic,
    create_topic,
    delete_topic,
    grow_topic,
    open_topic,
    trim_partition,
)
from streamlayer._config import TopicConfig, altered_config, refuse_unknown, topic_config
from streamlayer._core import calls, server_calls
from streamlayer._core.calls import Call, Checked
from streamlayer._core.checks import (
    check_deleted_before,
    check_mapping,
    check_names,
    check_partition,
    check_partition_count,
    topic_partition,
)
from streamlayer._core.durability import QUESTIONS, durability_of
from streamlayer._core.entries import DELETING, MOST_PARTITIONS, TopicEntry
from streamlayer._core.keys import PartitionKeys, check_name, partition_keys
from streamlayer._core.refusals import Refusal
from streamlayer._types import Durability, NewTopic, PartitionDescription, TopicDescription, TopicPartition
from streamlayer._waiting import aio as waiting
from streamlayer.errors import (
    ConfigurationError,
    ForeignDataError,
    PartitionDamagedError,
    StreamlayerError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)

DEFAULT_PARTITIONS = 4


class Admin(GroupAdmin):
    """Looks after topics, and (``GroupAdmin``) after consumer groups.

    :param url: the server; by default ``STREAMLAYER_URL``, else ``redis://localhost:6379/0``.
    :param redis: a redis-py client instead, whose settings are copied.
    :param namespace: what all keys begin with; ``sl`` by default.
    :param client_id: the connection's name on the server.
    :param allow_eviction: go on although the server may delete records when its memory is full.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        redis: waiting.Redis | None = None,
        namespace: str | None = None,
        client_id: str | None = None,
        allow_eviction: bool = False,
        **unknown: Never,
    ) -> None:
        if unknown:
            refuse_unknown("Admin", unknown, ("url", "redis", "namespace", "client_id", "allow_eviction"))
        super().__init__(Client(url, redis, namespace, client_id, allow_eviction=allow_eviction))

    async def __aenter__(self) -> Self:
        """Connect.

        :raises ServerUnavailableError: nobody answers.
        """
        await self._client.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self._client.closed else "open"
        return f"<Admin {self._client.settings.place} namespace={self._client.namespace} {state}>"

    async def create_topics(self, topics: Iterable[str | NewTopic], *, exist_ok: bool = False) -> None:
        """Create topics; one that somebody began to create is finished.

        :param topics: names (4 partitions, default settings) or ``NewTopic`` values.
        :param exist_ok: leave a topic that exists as it is.
        :raises TopicAlreadyExistsError: a topic exists; those before it in the order given were created.
        :raises InvalidTopicError: a name cannot be one; nothing was created.
        :raises ConfigurationError: a setting is wrong; nothing was created.
        """
        if isinstance(topics, str):
            msg = f"create_topics takes a list of topics: create_topics([{topics!r}])"
            raise TypeError(msg)
        wanted = [topic if isinstance(topic, NewTopic) else NewTopic(topic) for topic in topics]
        checked = [(check_name(topic.name), _partitions(topic), topic_config(topic.config)) for topic in wanted]
        await self._check_disks(config for _, _, config in checked)
        for name, partitions, config in checked:
            await create_topic(self._client, name, partitions, config, exist_ok=exist_ok)

    async def _check_disks(self, configs: Iterable[TopicConfig]) -> None:
        """Refuse a ``flush`` that this server cannot give."""
        if any(config.flush != "server" for config in configs):
            await self._client.call(server_calls.wait_disks(1, 0, 1))

    async def delete_topics(self, names: Iterable[str], *, missing_ok: bool = False) -> None:
        """Delete topics with all their records.

        :param missing_ok: a topic that does not exist is no error.
        :raises UnknownTopicOrPartitionError: one does not exist; those before it were deleted.
        """
        for name in check_names("delete_topics", names):
            if not await delete_topic(self._client, name) and not missing_ok:
                raise UnknownTopicOrPartitionError(await self._unknown(name))

    async def durability(self) -> Durability:
        """What outlives a crash of this server, as it is set up and as it is now."""
        answers: list[Any] = []
        for question in QUESTIONS:
            try:
                answers.append(await self._client.call(Call(None, ("",), question, _as_it_is)))
            except StreamlayerError as refused:  # what may not be read counts as not given
                if refused.retriable:
                    raise
                answers.append(refused)
        return durability_of(answers)

    async def list_topics(self) -> list[str]:
        """The names of all topics, sorted."""
        return sorted(name for name, entry in (await self._client.topics()).items() if entry.state != DELETING)

    async def describe_topics(self, names: Iterable[str] | None = None) -> dict[str, TopicDescription]:
        """What topics hold, by name.

        :param names: which; ``None`` for all.
        :raises UnknownTopicOrPartitionError: one does not exist.
        """
        wanted = await self._names(names, "describe_topics")
        described: dict[str, TopicDescription] = {}
        for name in wanted:
            description = await self._description(name)
            if description is None and names is not None:
                raise UnknownTopicOrPartitionError(await self._unknown(name))
            if description is not None:
                described[name] = description
        return described

    async def _description(self, name: str) -> TopicDescription | None:
        while True:
            entry = await open_topic(self._client, name, TIMEOUT_MS)
            if entry is None:
                return None
            try:
                return await self._describe(name, entry)
            except UnknownTopicOrPartitionError:
                if await self._client.topic(name) == entry:
                    raise  # nobody deleted it meanwhile: keys of it are missing

    async def _describe(self, name: str, entry: TopicEntry) -> TopicDescription:
        keys = [partition_keys(self._client.namespace, name, number) for number in range(entry.partitions)]
        found = await self._client.call_all([calls.describe_partition(each, topic_id=entry.id) for each in keys])
        partitions = [
            PartitionDescription(number, each.log_start, each.next, each.bytes, each.segments)
            for number, each in enumerate(found)
        ]
        return TopicDescription(name, entry.id, entry.topic_config(), tuple(partitions))

    async def alter_configs(self, configs: Mapping[str, TopicConfig | Mapping[str, Any]]) -> None:
        """Change settings of topics. They hold at once; a shorter retention frees memory before this returns.

        :param configs: per topic what is to change, by our names or Kafka's dotted ones; what is not named stays, and
            ``None`` means: the default again. ``partitioner`` and ``message_timestamp_type`` are decided at creation.
        :raises UnknownTopicOrPartitionError: a topic does not exist; those before it were changed.
        :raises ConfigurationError: a setting is wrong, or cannot be changed; of that topic nothing was changed.
        """
        check_mapping("alter_configs", configs, "{'orders': {'retention_ms': 60_000}}")
        for name, changes in configs.items():
            _check_changes(check_name(name), changes)
        for name, changes in configs.items():
            while True:
                entry = await self._open(name)
                config = altered_config(entry.topic_config(), changes)
                await self._check_disks([config])
                if await alter_topic(self._client, name, entry, config, TIMEOUT_MS):
                    break

    async def create_partitions(self, totals: Mapping[str, int]) -> None:
        """Add partitions to topics. Keys are placed anew; records that are in the log stay where they are.

        Producers and consumers of the topics notice at once. Keyed records wait for some ms meanwhile, so that a key
        is in one partition at any moment of the log.

        :param totals: per topic how many partitions it shall have; as many as it has changes nothing.
        :raises UnknownTopicOrPartitionError: a topic does not exist; those before it were changed.
        :raises ConfigurationError: fewer than the topic has (their records would be lost), or too many.
        """
        check_mapping("create_partitions", totals, "{'orders': 8}")
        for name, total in totals.items():
            check_partition_count(check_name(name), total, MOST_PARTITIONS)
        for name, total in totals.items():
            entry = await self._open(name)
            while entry.partitions != total:
                if total < entry.partitions:
                    msg = f"topic {name!r} has {entry.partitions} partitions; it cannot have fewer ({total})"
                    raise ConfigurationError(msg)
                await grow_topic(self._client, name, entry, total, TIMEOUT_MS)
                entry = await self._open(name)

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Delete a partition's records before an offset (KIP-107). Their memory is freed by whole segments.

        :param before: per partition the first offset to keep; -1 deletes all that is there.
        :returns: where the logs begin now.
        :raises UnknownTopicOrPartitionError: there is no such partition; in those before it records were deleted.
        :raises OffsetOutOfRangeError: an offset is beyond the log's end.
        """
        check_mapping("delete_records", before, "{TopicPartition('orders', 0): 100}")
        wanted = {topic_partition(tp): offset for tp, offset in before.items()}
        for tp, offset in wanted.items():
            check_deleted_before(tp, offset)
        starts: dict[TopicPartition, int] = {}
        for tp, offset in wanted.items():
            entry = await self._open(tp.topic)
            check_partition(tp.topic, tp.partition, entry.partitions)
            await self._delete_before(tp, entry.id, offset)
            starts[tp] = await trim_partition(self._client, tp.topic, tp.partition, entry.id)
        return starts

    async def _delete_before(self, tp: TopicPartition, topic_id: str, offset: int) -> None:
        keys = partition_keys(self._client.namespace, *tp)
        if offset == -1:  # the end as it is now: a call that is made twice must not take what came since
            offset = (await self._client.call(calls.list_offsets(keys, topic_id=topic_id))).next
        segment = 0
        while True:
            call = calls.delete_records(keys, topic_id=topic_id, before=offset, segment=segment)
            try:
                await self._client.call(call)
            except Refusal as refusal:
                segment = int(refusal.detail)
            else:
                return

    async def repair_partitions(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Have damaged partitions take and hand out records again, without those that they hold: there is no way back.

        Offsets go on behind all that were given; readers are told how many records they missed. Where the server's data
        can be mended, or a backup restored, do that instead.

        :param tps: which; one in which nothing contradicts is left as it is. All that they hold is looked at.
        :returns: of those that were damaged: where the logs begin now.
        :raises UnknownTopicOrPartitionError: there is no such partition; those before it were repaired.
        :raises ForeignDataError: a key is somebody else's: remove that first.
        """
        starts: dict[TopicPartition, int] = {}
        for given in tps:
            tp = topic_partition(given)
            entry = await self._open(tp.topic)
            check_partition(tp.topic, tp.partition, entry.partitions)
            if await self._repair(tp, entry.id):
                starts[tp] = await trim_partition(self._client, tp.topic, tp.partition, entry.id)
        return starts

    async def _repair(self, tp: TopicPartition, topic_id: str) -> bool:
        keys = partition_keys(self._client.namespace, *tp)
        repaired = False
        while await self._is_damaged(keys, topic_id):
            damage, end = await self._client.call(calls.read_damage(keys))
            segment = 0
            while True:
                call = calls.repair_partition(keys, topic_id=topic_id, damage=damage, end=end, segment=segment)
                try:
                    await self._client.call(call)
                except Refusal as refusal:
                    segment = int(refusal.detail)
                else:
                    break
            repaired = True
        return repaired

    async def _is_damaged(self, keys: PartitionKeys, topic_id: str) -> bool:
        try:
            return bool(await self._contradiction(keys, topic_id))
        except PartitionDamagedError:
            return True

    async def check_topics(self, names: Iterable[str] | None = None) -> dict[TopicPartition, str]:
        """Hold what is stored of topics against itself: offsets, fields, indexes, sizes. It reads all of it.

        :param names: which; ``None`` for all.
        :returns: what contradicts, in words, by partition; empty if nothing does.
        :raises UnknownTopicOrPartitionError: one does not exist.
        """
        found: dict[TopicPartition, str] = {}
        for name in await self._names(names, "check_topics"):
            contradictions = await self._contradictions(name)
            if contradictions is None and names is not None:
                raise UnknownTopicOrPartitionError(await self._unknown(name))
            found |= contradictions or {}
        return found

    async def _contradictions(self, name: str) -> dict[TopicPartition, str] | None:
        entry = await open_topic(self._client, name, TIMEOUT_MS)
        while entry is not None:
            found = await self._check_topic(name, entry)
            now = await open_topic(self._client, name, TIMEOUT_MS) if found else entry
            if now == entry:
                return found
            entry = now  # it was changed meanwhile, or deleted
        return None

    async def _check_topic(self, name: str, entry: TopicEntry) -> dict[TopicPartition, str]:
        looked_at = {
            TopicPartition(name, number): await self._check(name, number, entry) for number in range(entry.partitions)
        }
        return {tp: contradiction for tp, contradiction in looked_at.items() if contradiction}

    async def _check(self, name: str, number: int, entry: TopicEntry) -> str:
        keys = partition_keys(self._client.namespace, name, number)
        try:
            layout = await self._client.call(calls.describe_partition(keys, topic_id=entry.id))
            if (layout.partitions, layout.generation) != (entry.partitions, entry.generation):
                there = f"{layout.partitions} partitions (generation {layout.generation})"
                return f"it knows {there}, the registry {entry.partitions} (generation {entry.generation})"
            return await self._contradiction(keys, entry.id)
        except (
            PartitionDamagedError,
            ForeignDataError,
            UnsupportedVersionError,
            UnknownTopicOrPartitionError,
        ) as wrong:
            return str(wrong)

    async def _contradiction(self, keys: PartitionKeys, topic_id: str) -> str:
        checked = Checked(-1, 0, 0, "")
        while True:
            call = calls.check(keys, topic_id=topic_id, segment=checked.segment, rank=checked.rank, size=checked.bytes)
            checked = await self._client.call(call)
            if checked.segment < 0 or checked.contradiction:
                return checked.contradiction

    async def _names(self, names: Iterable[str] | None, method: str) -> list[str]:
        return await self.list_topics() if names is None else check_names(method, names)

    async def close(self) -> None:
        """Close the connection. May be called twice."""
        await self._client.close()


def _partitions(topic: NewTopic) -> int:
    count = DEFAULT_PARTITIONS if topic.num_partitions is None else topic.num_partitions
    check_partition_count(topic.name, count, MOST_PARTITIONS)
    return count


def _check_changes(topic: str, changes: Any) -> None:
    if isinstance(changes, TopicConfig):
        return
    if not isinstance(changes, Mapping):
        msg = f"the settings of topic {topic!r} are a TopicConfig or a mapping of names to values, not {changes!r}"
        raise TypeError(msg)
    for name in cast("Mapping[str, Any]", changes):
        if name.replace(".", "_") not in TopicConfig.model_fields:
            topic_config({name: None})  # which says what is near


def _as_it_is(reply: Any) -> Any:
    return reply
