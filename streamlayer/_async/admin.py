"""``Admin``: topics made, listed, described and deleted."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Never, Self

from streamlayer._async.client import Client
from streamlayer._async.registry import create_topic, delete_topic, open_topic
from streamlayer._config import refuse_unknown, topic_config
from streamlayer._core import calls
from streamlayer._core.checks import check_partition_count
from streamlayer._core.entries import DELETING, TopicEntry
from streamlayer._core.keys import check_name, partition_keys
from streamlayer._types import NewTopic, PartitionDescription, TopicDescription
from streamlayer._waiting import aio as waiting
from streamlayer.errors import UnknownTopicOrPartitionError

DEFAULT_PARTITIONS = 4
MOST_PARTITIONS = 10_000


class Admin:
    """Looks after topics.

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
        self._client = Client(url, redis, namespace, client_id, allow_eviction=allow_eviction)

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
        for name, partitions, config in checked:
            await create_topic(self._client, name, partitions, config, exist_ok=exist_ok)

    async def delete_topics(self, names: Iterable[str], *, missing_ok: bool = False) -> None:
        """Delete topics with all their records.

        :param missing_ok: a topic that does not exist is no error.
        :raises UnknownTopicOrPartitionError: one does not exist; those before it were deleted.
        """
        if isinstance(names, str):
            msg = f"delete_topics takes a list of names: delete_topics([{names!r}])"
            raise TypeError(msg)
        for name in [check_name(name) for name in names]:
            if not await delete_topic(self._client, name) and not missing_ok:
                raise UnknownTopicOrPartitionError(await self._unknown(name))

    async def list_topics(self) -> list[str]:
        """The names of all topics, sorted."""
        return sorted(name for name, entry in (await self._client.topics()).items() if entry.state != DELETING)

    async def describe_topics(self, names: Iterable[str] | None = None) -> dict[str, TopicDescription]:
        """What topics hold, by name.

        :param names: which; ``None`` for all.
        :raises UnknownTopicOrPartitionError: one does not exist.
        """
        if isinstance(names, str):
            msg = f"describe_topics takes a list of names: describe_topics([{names!r}])"
            raise TypeError(msg)
        wanted = await self.list_topics() if names is None else [check_name(name) for name in names]
        described: dict[str, TopicDescription] = {}
        for name in wanted:
            entry = await open_topic(self._client, name, 10_000)
            if entry is None and names is not None:
                raise UnknownTopicOrPartitionError(await self._unknown(name))
            if entry is not None:
                described[name] = await self._describe(name, entry)
        return described

    async def _describe(self, name: str, entry: TopicEntry) -> TopicDescription:
        partitions: list[PartitionDescription] = []
        for number in range(entry.partitions):
            keys = partition_keys(self._client.namespace, name, number)
            found = await self._client.call(calls.describe_partition(keys, topic_id=entry.id))
            partitions.append(PartitionDescription(number, found.log_start, found.next, found.bytes, found.segments))
        return TopicDescription(name, entry.id, entry.topic_config(), tuple(partitions))

    async def _unknown(self, name: str) -> str:
        there = await self.list_topics()
        return f"there is no topic {name!r} in namespace {self._client.namespace!r}; there are {there[:10] or 'none'}"

    async def close(self) -> None:
        """Close the connection. May be called twice."""
        await self._client.close()


def _partitions(topic: NewTopic) -> int:
    count = DEFAULT_PARTITIONS if topic.num_partitions is None else topic.num_partitions
    check_partition_count(topic.name, count, MOST_PARTITIONS)
    return count
