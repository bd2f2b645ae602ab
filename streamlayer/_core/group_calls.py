"""The operations of consumer groups as frozen values, as ``calls`` has partitions': one function, one Lua file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from streamlayer._core import scripts
from streamlayer._core.calls import Call, Reply
from streamlayer._core.keys import GroupKeys, groups_key
from streamlayer._core.runs import checked_runs
from streamlayer._types import TopicPartition

COMMITTED_AT_ONCE = 1000
"""How many offsets one commit stores at most, all or none; the script's cost grows with them."""
UNKNOWN = "-"
NO_TOPICS = ";"
"""A subscription to nothing, which is not the same as to what it was before: a pattern that nothing matches yet."""


class TopicCount(NamedTuple):
    """How many partitions a topic has, as a member tells it.

    :ivar partitions: that many; 0 while it is not there.
    :ivar first: how many of them were there when it was subscribed to: the others are read from their first record.
    """

    partitions: int
    first: int


class Heartbeat(NamedTuple):
    """What the group says to a member.

    :ivar epoch: the member's: the group's last one that it has followed.
    :ivar changed: the number of the member's last call that changed what it owns.
    :ivar pending: 0 when it has all it shall have; 1 when it waits for others; 2 when its next call brings more.
    :ivar earliest_ms: until the first other member is overdue; -1 if there is none.
    :ivar version: of the newest registry that any member has told of.
    :ivar time: the server's, ms since the epoch.
    :ivar owned: what the member owns, as runs; ``None`` if that is what it knows.
    :ivar revoke: what it must give up, as runs; ``None`` for nothing.
    :ivar first: comes with ``owned``: topic -> how many partitions it had when the group began to read it.
    """

    epoch: int
    changed: int
    pending: int
    earliest_ms: int
    version: int
    time: int
    owned: str | None
    revoke: str | None
    first: Mapping[str, int]


class Commit(NamedTuple):
    """One offset to store.

    :ivar offset: of the next record to read; -1 deletes what is stored.
    :ivar topic_id: the log that it belongs to; empty if that is not known.
    :ivar crossed: ``number:token:start`` of the epochs that the reader crossed, with commas; empty for none.
    :ivar metadata: the user's own text.
    """

    offset: int
    topic_id: str = ""
    crossed: str = ""
    metadata: str = ""


class Committed(NamedTuple):
    """An offset as it was stored; see ``Commit``.

    :ivar time: of the commit, the server's, ms since the epoch.
    """

    offset: int
    topic_id: str
    crossed: str
    time: int
    metadata: str

    @property
    def epoch(self) -> int:
        """The number of the newest log epoch that the reader had crossed; -1 if that is not known."""
        return int(self.crossed.rpartition(",")[2].partition(":")[0]) if self.crossed else -1


class GroupMember(NamedTuple):
    """A member as the group knows it.

    :ivar instance: of a static member; empty for others.
    :ivar description: ``client_id@host``.
    :ivar deadline: until when it counts as alive without another call, server's ms.
    :ivar subscription: topics.
    :ivar owned: partitions, as runs.
    :ivar target: the same, as they shall be.
    """

    member_id: str
    epoch: int
    instance: str
    description: str
    deadline: int
    subscription: tuple[str, ...]
    owned: str
    target: str


class DescribedGroup(NamedTuple):
    """A group as it is; ``there`` is false if it does not exist."""

    there: bool
    epoch: int
    offsets: dict[TopicPartition, Committed]
    members: list[GroupMember]


def _keys(keys: GroupKeys) -> tuple[str, ...]:
    return keys.meta, keys.members, keys.deadlines, keys.gone, keys.owners, keys.offsets


def partition_name(tp: TopicPartition) -> str:
    """A partition as the group's hashes name it."""
    return f"{tp[0]}:{tp[1]}"


def _partition(name: str) -> TopicPartition:
    topic, _, number = name.rpartition(":")
    return TopicPartition(topic, int(number))


def heartbeat(
    keys: GroupKeys,
    *,
    member: str,
    call: int,
    applied: int,
    session_ms: int,
    interval_ms: int,
    retention_ms: int,
    instance: str = "",
    description: str = "-",
    version: int = 0,
    subscription: Sequence[str] | None = None,
    topics: Mapping[str, TopicCount] | None = None,
    released: str = "",
) -> Call[Heartbeat]:
    """Join, or stay.

    :param member: the member's id, never used before.
    :param call: 1 to join, then rising; the same number again has no effect.
    :param applied: ``changed`` of the newest answer that was taken in.
    :param retention_ms: how long offsets are kept without members.
    :param description: ``client_id@host``, without spaces.
    :param version: of the registry that the topics were read from.
    :param subscription: topics; ``None``: as before.
    :param topics: how many partitions each has, where that may be news.
    :param released: partitions let go, as runs.
    """
    return Call(
        scripts.HEARTBEAT,
        _keys(keys),
        (
            member,
            call,
            applied,
            session_ms,
            interval_ms,
            retention_ms,
            instance,
            description,
            version,
            "" if subscription is None else ";".join(sorted(subscription)) or NO_TOPICS,
            ";".join(f"{topic}:{has}:{first}" for topic, (has, first) in sorted((topics or {}).items())),
            released,
            keys.channel,
        ),
        _heartbeat,
    )


def _heartbeat(reply: Reply) -> Heartbeat:
    *numbers, owned, revoke, topics = reply
    first: dict[str, int] = {}
    for part in filter(None, (topics or b"").decode().split(";")):
        topic, *_, count = part.split(":")
        first[topic] = int(count)
    epoch, changed, pending, earliest_ms, version, time = map(int, numbers)
    return Heartbeat(epoch, changed, pending, earliest_ms, version, time, _runs(owned), _runs(revoke), first)


def _text(stored: bytes | None) -> str | None:
    return None if stored is None else stored.decode()


def _runs(stored: bytes | None) -> str | None:
    return None if stored is None else checked_runs(stored.decode())


def leave(keys: GroupKeys, members: Iterable[str], *, call: int = -1) -> Call[int]:
    """End memberships; the answer is how many.

    :param members: ids; without a call number, instance ids too.
    :param call: the member's own, greater than that of its last heartbeat; -1: an administrator's.
    """
    return Call(scripts.LEAVE, _keys(keys), (call, keys.channel, *members), lambda reply: int(reply[0]))


def commit(
    keys: GroupKeys,
    offsets: Mapping[TopicPartition, Commit],
    *,
    retention_ms: int,
    member: str = "",
    epoch: int = 0,
    call: int = 0,
) -> Call[int]:
    """Store offsets, 1,000 at most, all or none; the answer is the server's time.

    :param member: whose partitions they are; empty: the group has no members.
    :param epoch: that the member followed when the offsets were read.
    :param call: rises with each commit of the member; without one, a random number that names the call.
    """
    args: list[str | bytes | int] = []
    for tp, (offset, topic_id, crossed, metadata) in offsets.items():
        args += [partition_name(tp), offset, topic_id or UNKNOWN, crossed or UNKNOWN, metadata]
    return Call(scripts.COMMIT, _keys(keys), (member, epoch, call, retention_ms, *args), lambda reply: int(reply[0]))


def _committed(stored: bytes) -> Committed:
    offset, topic_id, crossed, time, metadata = stored.decode().split(" ", 4)
    return Committed(int(offset), topic_id.replace(UNKNOWN, ""), crossed.replace(UNKNOWN, ""), int(time), metadata)


def read_offsets(keys: GroupKeys, tps: Sequence[TopicPartition]) -> Call[list[Committed | None]]:
    """Read stored offsets, in the order asked for."""
    return Call(
        None,
        (keys.offsets,),
        ("HMGET", keys.offsets, *map(partition_name, tps)),
        lambda reply: [None if stored is None else _committed(stored) for stored in reply],
    )


def describe_group(keys: GroupKeys, *, with_offsets: bool = True) -> Call[DescribedGroup]:
    """Ask who is in a group and what it has stored."""
    return Call(scripts.DESCRIBE_GROUP, _keys(keys), (int(with_offsets),), _described)


def _described(reply: Reply) -> DescribedGroup:
    there, epoch, flat, *rows = reply
    offsets = {_partition(flat[i].decode()): _committed(flat[i + 1]) for i in range(0, len(flat), 2) if flat[i] != b"-"}
    members = [_member(*(part.decode() for part in rows[i : i + 6])) for i in range(0, len(rows), 6)]
    return DescribedGroup(bool(there), int(epoch), offsets, members)


def _member(member_id: str, head: str, deadline: str, subscription: str, owned: str, target: str) -> GroupMember:
    epoch, *_, instance, description = head.split(" ", 7)
    return GroupMember(
        member_id=member_id,
        epoch=int(epoch),
        instance="" if instance == "-" else instance,
        description=description,
        deadline=int(float(deadline)),
        subscription=tuple(filter(None, subscription.split(";"))),
        owned=checked_runs(owned),
        target=checked_runs(target),
    )


def delete_group(keys: GroupKeys, *, created: str) -> Call[bool]:
    """Free a group without members; the answer is whether there was one.

    :param created: as ``group_created`` said: a group that was made since is left alone.
    """
    return Call(scripts.DELETE_GROUP, _keys(keys), (created,), lambda reply: bool(reply[0]))


def enlist_group(namespace: str, group_id: str, time: int) -> Call[Any]:
    """Have a group listed.

    :param time: the server's.
    """
    key = groups_key(namespace)
    return Call(None, (key,), ("ZADD", key, "GT", time, group_id), lambda reply: reply)


def unlist_group(namespace: str, group_id: str) -> Call[Any]:
    """Take a group from the list."""
    key = groups_key(namespace)
    return Call(None, (key,), ("ZREM", key, group_id), lambda reply: reply)


def list_groups(namespace: str, *, until: int | None = None) -> Call[list[str]]:
    """All groups that were listed; some may have ended since.

    :param until: only those that nobody has joined after this time, the server's.
    """
    key = groups_key(namespace)
    which = (0, -1) if until is None else ("-inf", until, "BYSCORE")
    return Call(None, (key,), ("ZRANGE", key, *which), lambda reply: [group.decode() for group in reply])


def group_created(keys: GroupKeys) -> Call[str | None]:
    """Ask when a group was created: what tells it from another of that name; ``None``: there is none."""
    return Call(None, (keys.meta,), ("HGET", keys.meta, "created"), _text)


def group_exists(keys: GroupKeys) -> Call[bool]:
    """Ask whether there is a group, listed or not."""
    return Call(None, (keys.meta,), ("EXISTS", keys.meta), bool)


def expires_in(keys: GroupKeys) -> Call[int]:
    """Ask how long a group is kept if nobody calls, in ms; negative: there is none."""
    return Call(None, (keys.meta,), ("PTTL", keys.meta), int)


def server_time(namespace: str) -> Call[int]:
    """Ask for the server's time, ms since the epoch."""
    return Call(None, (groups_key(namespace),), ("TIME",), lambda reply: int(reply[0]) * 1000 + int(reply[1]) // 1000)
