"""What an administrator is told of a group, and where its offsets are to go: the deciding, without the asking.

The rule: an offset counts for the log that it was committed for, and for no other of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from streamlayer._core.entries import USABLE, TopicEntry
from streamlayer._core.group_calls import Committed, DescribedGroup, GroupMember
from streamlayer._core.refusals import where
from streamlayer._core.runs import parse_runs
from streamlayer._core.times import to_ms
from streamlayer._types import GroupDescription, MemberDescription, TopicPartition
from streamlayer.errors import ConfigurationError

EMPTY = "Empty"
RECONCILING = "Reconciling"
STABLE = "Stable"


def current_offsets(
    offsets: Mapping[TopicPartition, Committed], topics: Mapping[str, TopicEntry]
) -> dict[TopicPartition, Committed]:
    """Those of logs that are there: a topic that was deleted, or made again since, has none. Sorted.

    :param topics: the registry.
    """
    current: dict[TopicPartition, Committed] = {}
    for tp in sorted(offsets):
        entry, committed = topics.get(tp.topic), offsets[tp]
        if (
            entry is not None
            and entry.state in USABLE
            and tp.partition < entry.partitions
            and committed.topic_id in {"", entry.id}
        ):
            current[tp] = committed
    return current


def description(group_id: str, group: DescribedGroup, lag: dict[TopicPartition, int], now: int) -> GroupDescription:
    """A group as users see it. A member whose session is over does not count for the state, as for the scripts.

    :param now: the server's time, ms.
    """
    living = [member for member in group.members if member.deadline >= now]
    moving = len(living) < len(group.members) or any(
        member.owned != member.target or member.epoch < group.epoch for member in living
    )
    state = (RECONCILING if moving else STABLE) if living else EMPTY
    members = [_member(each, now) for each in sorted(group.members, key=lambda member: member.member_id)]
    return GroupDescription(group_id, state, tuple(members), lag)


def _member(member: GroupMember, now: int) -> MemberDescription:
    client_id, _, host = member.description.rpartition("@")
    return MemberDescription(
        member.member_id,
        member.instance or None,
        client_id,
        host,
        frozenset(member.subscription),
        frozenset(parse_runs(member.owned)),
        frozenset(parse_runs(member.target)),
        overdue=member.deadline < now,
    )


class Aim(NamedTuple):
    """Where a reset moves offsets.

    :ivar kind: the word for it.
    :ivar number: the offset, the time in ms, or how far from what is committed.
    """

    kind: Literal["earliest", "latest", "offset", "time", "shift"]
    number: int = 0

    def offset(self, start: int, end: int, committed: int | None) -> int:
        """The offset in a log, except for a time; within the log, as Kafka's tool has it.

        :param start: the first offset that the log holds.
        :param end: the offset that its next record will get.
        """
        match self.kind:
            case "earliest":
                return start
            case "latest":
                return end
            case "shift":
                assert committed is not None
                return min(max(committed + self.number, start), end)
            case _:
                return min(max(self.number, start), end)


def aim(to: Any, shift_by: Any) -> Aim:
    """Where a reset shall move offsets, from what the user passed.

    :raises ConfigurationError: neither or both, or one that cannot be.
    :raises InvalidTimestampError: a datetime without a time zone.
    """
    if (to is None) == (shift_by is None):
        msg = "where to? reset_group_offsets takes to=… or shift_by=…, one of them"
        raise ConfigurationError(msg)
    if shift_by is not None:
        if not isinstance(shift_by, int) or isinstance(shift_by, bool):
            msg = f"shift_by={shift_by!r}: by how many records, an int; below 0 to read them again"
            raise ConfigurationError(msg)
        return Aim("shift", shift_by)
    if isinstance(to, datetime):
        return Aim("time", to_ms(to))
    if to in ("earliest", "latest"):
        return Aim(to)
    if not isinstance(to, int) or isinstance(to, bool) or to < 0:
        msg = f"to={to!r}: it is 'earliest', 'latest', an offset (an int from 0 on) or a time (an aware datetime)"
        raise ConfigurationError(msg)
    return Aim("offset", to)


def check_shiftable(group_id: str, tp: TopicPartition, committed: int | None) -> None:
    """A shift begins at what is committed.

    :raises ConfigurationError: nothing is.
    """
    if committed is None:
        msg = f"group {group_id} has no offset of {where(*tp)} that could be shifted: pass to=… for that partition"
        raise ConfigurationError(msg)
