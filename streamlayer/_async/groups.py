"""``Admin``'s half that looks after consumer groups: listed, described, deleted; offsets set, members put out.

The rule: whether a group has members is decided by the script that makes the change, in one step with it; what was
looked up before is for messages and arithmetic only.
"""

from __future__ import annotations

import contextlib
import difflib
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from streamlayer._async.client import Client
from streamlayer._async.offsets import Offsets
from streamlayer._async.registry import open_topic
from streamlayer._config import DAY_MS, ConsumerOptions
from streamlayer._core import calls, group_calls
from streamlayer._core.administration import Aim, aim, check_shiftable, current_offsets, description
from streamlayer._core.checks import check_commit, check_mapping, check_names, check_partition, topic_partition
from streamlayer._core.entries import DELETING, TopicEntry
from streamlayer._core.group_calls import COMMITTED_AT_ONCE, Commit, Committed, DescribedGroup
from streamlayer._core.keys import check_name, group_keys, partition_keys
from streamlayer._core.positions import PartitionPosition
from streamlayer._types import GroupDescription, OffsetAndMetadata, OffsetChange, TopicPartition
from streamlayer.errors import (
    ConfigurationError,
    GroupIdNotFoundError,
    ServerUnavailableError,
    UnknownTopicOrPartitionError,
)

TIMEOUT_MS = 10_000
LISTED_MS = DAY_MS
"""How long a group that is not there stays listed: who joins makes it first, and lists it then."""
KEPT_MS = ConsumerOptions().offsets_retention_ms
"""How long offsets that an administrator set are kept at least."""


class _Log(NamedTuple):
    """A partition's log: of which topic, and the offsets from ``start`` to before ``end``."""

    topic_id: str
    start: int
    end: int


class GroupAdmin:
    """Looks after consumer groups."""

    def __init__(self, client: Client) -> None:
        self._client = client

    # --- what there is -----------------------------------------------------------------------------------------------

    async def list_groups(self) -> list[str]:
        """The ids of all groups, sorted: those that have members, and those whose offsets are still kept."""
        namespace = self._client.namespace
        listed = await self._client.call(group_calls.list_groups(namespace))
        there = await self._there(listed)
        if len(there) < len(listed):
            until = await self._client.call(group_calls.server_time(namespace)) - LISTED_MS
            for group_id in await self._client.call(group_calls.list_groups(namespace, until=until)):
                if group_id not in there:
                    await self._unlist(group_id)
        return sorted(there)

    async def _there(self, group_ids: list[str]) -> set[str]:
        batch = [group_calls.group_exists(group_keys(self._client.namespace, each)) for each in group_ids]
        found = await self._client.call_all(batch)
        return {group_id for group_id, exists in zip(group_ids, found, strict=True) if exists}

    async def _unlist(self, group_id: str) -> None:
        """Take a group that has ended from the list. A member that joined meanwhile may have listed it just before."""
        namespace = self._client.namespace
        await self._client.call(group_calls.unlist_group(namespace, group_id))
        if await self._client.call(group_calls.group_exists(group_keys(namespace, group_id))):
            now = await self._client.call(group_calls.server_time(namespace))
            await self._client.call(group_calls.enlist_group(namespace, group_id, now))

    async def describe_groups(self, ids: Iterable[str] | None = None) -> dict[str, GroupDescription]:
        """Who is in groups, with which partitions, and how far behind they are; by id.

        :param ids: which; ``None`` for all.
        :raises GroupIdNotFoundError: one does not exist.
        """
        wanted = await self.list_groups() if ids is None else check_names("describe_groups", ids, "group")
        now = await self._client.call(group_calls.server_time(self._client.namespace))
        batch = [group_calls.describe_group(group_keys(self._client.namespace, each)) for each in wanted]
        found = dict(zip(wanted, await self._client.call_all(batch), strict=True))
        for group_id, group in found.items():
            if ids is not None and not group.there:
                raise GroupIdNotFoundError(await self._unknown_group(group_id))
        there = {group_id: group for group_id, group in found.items() if group.there}
        lags = await self._lags(there)
        return {group_id: description(group_id, group, lags[group_id], now) for group_id, group in there.items()}

    async def _lags(self, groups: Mapping[str, DescribedGroup]) -> dict[str, dict[TopicPartition, int]]:
        while True:
            topics = await self._client.topics()
            current = {group_id: current_offsets(group.offsets, topics) for group_id, group in groups.items()}
            ids = {tp: topics[tp.topic].id for offsets in current.values() for tp in offsets}
            try:
                logs = await self._bounds(ids)
            except UnknownTopicOrPartitionError:
                if await self._client.topics() == topics:
                    raise  # nobody deleted it meanwhile: keys of it are missing
            else:
                return {
                    group_id: {tp: max(0, logs[tp].end - committed.offset) for tp, committed in offsets.items()}
                    for group_id, offsets in current.items()
                }

    async def _bounds(self, topic_ids: Mapping[TopicPartition, str]) -> dict[TopicPartition, _Log]:
        namespace = self._client.namespace
        batch = [calls.list_offsets(partition_keys(namespace, *tp), topic_id=each) for tp, each in topic_ids.items()]
        found = await self._client.call_all(batch)
        return {
            tp: _Log(topic_id, listed.log_start, listed.next)
            for (tp, topic_id), listed in zip(topic_ids.items(), found, strict=True)
        }

    async def _described(self, group_id: str) -> DescribedGroup:
        """A group that there is.

        :raises GroupIdNotFoundError: there is none.
        """
        group = await self._client.call(group_calls.describe_group(group_keys(self._client.namespace, group_id)))
        if not group.there:
            raise GroupIdNotFoundError(await self._unknown_group(group_id))
        return group

    async def _unknown_group(self, group_id: str) -> str:
        there = await self.list_groups()
        near = difflib.get_close_matches(group_id, there, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"there are {there[:10] or 'none'}"
        return f"there is no group {group_id!r} in namespace {self._client.namespace!r}; {advice}"

    # --- ends --------------------------------------------------------------------------------------------------------

    async def delete_groups(self, ids: Iterable[str]) -> None:
        """Delete groups with their offsets. A consumer that joins one later begins at its ``auto_offset_reset``.

        :raises GroupIdNotFoundError: one does not exist; nothing was deleted.
        :raises NonEmptyGroupError: one has members; those before it in the order given were deleted.
        """
        wanted = check_names("delete_groups", ids, "group")
        keys = [group_keys(self._client.namespace, group_id) for group_id in wanted]
        created = await self._client.call_all([group_calls.group_created(each) for each in keys])
        for group_id, since in zip(wanted, created, strict=True):
            if since is None:
                raise GroupIdNotFoundError(await self._unknown_group(group_id))
        for group_id, each, since in zip(wanted, keys, created, strict=True):
            await self._client.call(group_calls.delete_group(each, created=str(since)))
            await self._unlist(group_id)

    async def remove_group_members(self, group_id: str, ids: Iterable[str]) -> int:
        """Put members out of a group: others get their partitions at once.

        It is for members that will not come back. A consumer that still runs notices with its next heartbeat and joins
        again, as a new member.

        :param ids: member ids or ``group_instance_id`` values; who is no member (any more) is passed over.
        :returns: how many were members.
        :raises GroupIdNotFoundError: there is no such group.
        """
        check_name(group_id, "group")
        wanted = set(check_names("remove_group_members", ids, "member"))
        group = await self._described(group_id)
        members = [each.member_id for each in group.members if {each.member_id, each.instance} & wanted]
        if members:
            await self._client.call(group_calls.leave(group_keys(self._client.namespace, group_id), members))
        return len(members)

    # --- offsets -----------------------------------------------------------------------------------------------------

    async def list_group_offsets(
        self, group_id: str, *, topics: Iterable[str] | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """What a group has committed, of the logs that are there: those of a topic made anew do not count.

        :param topics: of which topics; ``None`` for all.
        :raises GroupIdNotFoundError: there is no such group.
        :raises UnknownTopicOrPartitionError: there is no such topic.
        """
        check_name(group_id, "group")
        wanted = None if topics is None else check_names("topics=", topics)
        for topic in wanted or ():
            await self._open(topic)
        found = await self._offsets(group_id)
        return {
            tp: OffsetAndMetadata(committed.offset, committed.metadata, committed.epoch)
            for tp, committed in found.items()
            if wanted is None or tp.topic in wanted
        }

    async def _offsets(self, group_id: str) -> dict[TopicPartition, Committed]:
        group = await self._described(group_id)
        return current_offsets(group.offsets, await self._client.topics())

    async def alter_group_offsets(
        self, group_id: str, offsets: Mapping[TopicPartition, int | OffsetAndMetadata]
    ) -> None:
        """Have a group go on at other offsets. It must have no members: what they read is theirs to commit.

        :param offsets: per partition the offset of the next record to read, or that with a text. All of them are
            stored or none up to 1,000, more in parts of 1,000.
        :raises GroupIdNotFoundError: there is no such group.
        :raises NonEmptyGroupError: it has members; nothing was stored (of that part).
        :raises UnknownTopicOrPartitionError: there is no such partition; nothing was stored.
        :raises ConfigurationError: an offset cannot be one, or lies behind the log's end; nothing was stored.
        """
        check_mapping("alter_group_offsets", offsets, "'billing', {TopicPartition('orders', 0): 100}")
        check_name(group_id, "group")
        wanted = {
            (tp := topic_partition(given)): check_commit(tp, offset, "alter_group_offsets")
            for given, offset in offsets.items()
        }
        await self._described(group_id)
        logs = await self._logs(wanted)
        for tp, (offset, _) in wanted.items():
            if offset > logs[tp].end:
                msg = f"alter_group_offsets({{{tp!r}: {offset}}}): the log ends at {logs[tp].end}"
                raise ConfigurationError(msg)
        commits = {tp: Commit(offset, logs[tp].topic_id, "", metadata) for tp, (offset, metadata) in wanted.items()}
        await self._store(group_id, commits)

    async def reset_group_offsets(
        self,
        group_id: str,
        to: Literal["earliest", "latest"] | int | datetime | None = None,
        *,
        shift_by: int | None = None,
        topics: Iterable[str] | None = None,
        partitions: Iterable[TopicPartition] | None = None,
        dry_run: bool = False,
    ) -> dict[TopicPartition, OffsetChange]:
        """Have a group read again, or skip. It must have no members, unless it is only asked what would be done.

        :param to: ``"earliest"``, ``"latest"``, an offset, or a time (an aware datetime: the first record at or after
            it, else the end). What lies outside a log becomes its start, or its end.
        :param shift_by: instead: how many records from what is committed; below 0: back.
        :param topics: all partitions of these.
        :param partitions: these partitions, besides. Neither: all that the group has offsets of.
        :param dry_run: change nothing.
        :returns: per partition what was stored, and what is stored now; up to 1,000 are changed in one piece.
        :raises GroupIdNotFoundError: there is no such group.
        :raises NonEmptyGroupError: it has members; nothing was changed.
        :raises UnknownTopicOrPartitionError: there is no such topic or partition; nothing was changed.
        :raises ConfigurationError: ``to`` and ``shift_by`` are not one of both, or cannot be; or a partition is to be
            shifted of which nothing is committed. Nothing was changed.
        :raises InvalidTimestampError: the datetime has no time zone.
        """
        check_name(group_id, "group")
        goal = aim(to, shift_by)
        names = None if topics is None else check_names("topics=", topics)
        pairs = None if partitions is None else [topic_partition(given) for given in partitions]
        before = await self._offsets(group_id)
        wanted = list(before) if names is None and pairs is None else list(pairs or ())
        for topic in names or ():
            wanted += [TopicPartition(topic, number) for number in range((await self._open(topic)).partitions)]
        logs = await self._logs(dict.fromkeys(wanted))
        changes: dict[TopicPartition, OffsetChange] = {}
        for tp, log in sorted(logs.items()):
            stored = before[tp].offset if tp in before else None
            changes[tp] = OffsetChange(stored, await self._place(group_id, tp, log, goal, stored))
        if not dry_run:
            commits = {tp: Commit(change.after, logs[tp].topic_id) for tp, change in changes.items()}
            await self._store(group_id, commits)
        return changes

    async def _place(self, group_id: str, tp: TopicPartition, log: _Log, goal: Aim, stored: int | None) -> int:
        if goal.kind == "time":
            keys = partition_keys(self._client.namespace, *tp)
            position = PartitionPosition(tp, keys, log.topic_id, 0, log.start)
            (offset,) = await Offsets(self._client).find([position], goal.number)
            return offset
        if goal.kind == "shift":
            check_shiftable(group_id, tp, stored)
        return goal.offset(log.start, log.end, stored)

    async def _store(self, group_id: str, commits: Mapping[TopicPartition, Commit]) -> None:
        keys = group_keys(self._client.namespace, group_id)
        left = await self._client.call(group_calls.expires_in(keys))
        items = list(commits.items())
        for start in range(0, len(items), COMMITTED_AT_ONCE):
            part = dict(items[start : start + COMMITTED_AT_ONCE])
            call = group_calls.commit(keys, part, retention_ms=max(KEPT_MS, left), call=secrets.randbits(52))
            time = await self._client.call(call)
            await self._enlist(group_id, time)

    async def _enlist(self, group_id: str, time: int) -> None:
        """Have a group listed. Its offsets are stored: a list that cannot be written (memory is full) is no failure."""
        with contextlib.suppress(ServerUnavailableError):
            await self._client.execute([group_calls.enlist_group(self._client.namespace, group_id, time)])

    # --- topics ------------------------------------------------------------------------------------------------------

    async def _logs(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, _Log]:
        """Where logs begin and end.

        :raises UnknownTopicOrPartitionError: there is no such topic or partition.
        """
        entries: dict[str, TopicEntry] = {}
        ids: dict[TopicPartition, str] = {}
        for tp in tps:
            if tp.topic not in entries:
                entries[tp.topic] = await self._open(tp.topic)
            check_partition(tp.topic, tp.partition, entries[tp.topic].partitions)
            ids[tp] = entries[tp.topic].id
        return await self._bounds(ids)

    async def _open(self, name: str) -> TopicEntry:
        entry = await open_topic(self._client, name, TIMEOUT_MS)
        if entry is None:
            raise UnknownTopicOrPartitionError(await self._unknown(name))
        return entry

    async def _unknown(self, name: str) -> str:
        there = sorted(name for name, entry in (await self._client.topics()).items() if entry.state != DELETING)
        return f"there is no topic {name!r} in namespace {self._client.namespace!r}; there are {there[:10] or 'none'}"
