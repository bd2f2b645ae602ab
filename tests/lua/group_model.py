"""A consumer group as its keys say it is, and what must hold of any such state and of any step from one to the next.

Nothing here asks the scripts: the keys are read as they are, and every rule is said again in a few lines of Python.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import redis

from streamlayer._core.keys import GroupKeys
from streamlayer._core.runs import format_runs, parse_runs
from streamlayer._types import TopicPartition

NOBODY: frozenset[TopicPartition] = frozenset()


@dataclass
class MemberState:
    """What is stored of one member."""

    epoch: int
    call: int
    changed: int
    session_ms: int
    pending: int
    instance: str
    subscription: frozenset[str]
    target: frozenset[TopicPartition]
    owned: frozenset[TopicPartition]
    commit: int
    deadline: int


@dataclass
class GroupState:
    """What is stored of a group.

    :ivar owners: partition -> who owns it, and since which epoch.
    :ivar topics: topic -> partitions, version, first.
    """

    epoch: int = 0
    version: int = 0
    seen: int = 0
    grace: int = 0
    topics: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    members: dict[str, MemberState] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    owners: dict[TopicPartition, tuple[str, int]] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    offsets: dict[str, str] = field(default_factory=dict)


def _packed(text: str) -> frozenset[TopicPartition]:
    partitions = frozenset(parse_runs(text))
    assert format_runs(partitions) == text, f"not as runs are written: {text}"
    return partitions


def read_state(client: redis.Redis, keys: GroupKeys) -> GroupState:
    """Read a group's keys; whatever is there and belongs to nobody fails."""
    meta = {name.decode(): value.decode() for name, value in client.hgetall(keys.meta).items()}
    if not meta:
        return GroupState()
    stored = {name.decode(): value.decode() for name, value in client.hgetall(keys.members).items()}
    deadlines = {name.decode(): int(at) for name, at in client.zrange(keys.deadlines, 0, -1, withscores=True)}
    assert stored.pop("-") == ""
    assert deadlines.pop("-") == -1
    state = GroupState(*(int(meta.get(name, 0)) for name in ("epoch", "version", "seen", "grace")))
    for part in filter(None, meta["topics"].split(";")):
        topic, *numbers = part.split(":")
        count, version, first = map(int, numbers)
        state.topics[topic] = count, version, first
    for member, deadline in deadlines.items():
        head = stored.pop(member).split(" ", 7)
        epoch, call, changed, session, pending = map(int, head[:5])
        state.members[member] = MemberState(
            epoch, call, changed, session, pending,
            instance="" if head[6] == "-" else head[6],
            subscription=frozenset(filter(None, stored.pop(f"{member}:s").split(";"))),
            target=_packed(stored.pop(f"{member}:t")),
            owned=_packed(stored.pop(f"{member}:o")),
            commit=int(stored.pop(f"{member}:c", 0)),
            deadline=deadline,
        )  # fmt: skip
    state.instances = {name[1:]: stored.pop(name) for name in list(stored) if name.startswith("@")}
    assert not stored, f"left of members that are no more: {stored}"
    for name, value in client.hgetall(keys.owners).items():
        if name != b"-":
            topic, _, number = name.decode().rpartition(":")
            owner, since = value.decode().split(" ")
            state.owners[TopicPartition(topic, int(number))] = owner, int(since)
    state.gone = {name.decode(): int(at) for name, at in client.zrange(keys.gone, 0, -1, withscores=True)}
    assert state.gone.pop("-") == -1
    state.offsets = {name.decode(): value.decode() for name, value in client.hgetall(keys.offsets).items()}
    assert state.offsets.pop("-") == ""
    return state


def topic_sets(state: GroupState) -> dict[frozenset[str], set[str]]:
    """Topics by who subscribes to them."""
    sets: dict[frozenset[str], set[str]] = defaultdict(set)
    for topic in state.topics:
        sets[frozenset(name for name, member in state.members.items() if topic in member.subscription)].add(topic)
    return sets


def check_state(state: GroupState) -> None:
    """What holds at any time."""
    # A partition has one owner at most, and both records say the same.
    said = {(tp, name) for name, member in state.members.items() for tp in member.owned}
    assert said == {(tp, owner) for tp, (owner, _) in state.owners.items()}
    assert len(said) == len(state.owners)
    for owner, since in state.owners.values():
        assert since <= state.members[owner].epoch <= state.epoch
    # Members that are no more stay so, and instances name who is there.
    assert not state.gone.keys() & state.members.keys()
    assert state.instances == {member.instance: name for name, member in state.members.items() if member.instance}
    # Targets cover the subscribed topics, once, and evenly.
    targets = [tp for member in state.members.values() for tp in member.target]
    wanted = set().union(*(member.subscription for member in state.members.values()))
    counts = {topic: count for topic, (count, _, _) in state.topics.items()}
    everything = {TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)}
    if state.members:
        assert counts.keys() <= wanted
        assert len(targets) == len(set(targets))
        assert set(targets) == everything
    for members, topics in topic_sets(state).items():
        sizes = [sum(tp.topic in topics for tp in state.members[name].target) for name in members]
        if sizes:
            assert max(sizes) - min(sizes) <= 1, f"{topics}: {sizes}"
    for member in state.members.values():
        assert {tp.topic for tp in member.target} <= member.subscription
        if not member.pending and member.epoch == state.epoch:
            assert member.owned == member.target


def check_sticky(before: GroupState, after: GroupState, renamed: dict[str, str]) -> None:
    """Between two states no partition's target moved that need not.

    :param renamed: who took the place of whom: old -> new.
    """
    held = {renamed.get(name, name): member.target for name, member in before.members.items()}
    for members, topics in topic_sets(after).items():
        old = {
            name: {
                tp for tp in held.get(name, NOBODY) if tp.topic in topics and tp.partition < after.topics[tp.topic][0]
            }
            for name in members
        }
        total = sum(after.topics[topic][0] for topic in topics)
        moved = sum(len(tps - after.members[name].target) for name, tps in old.items())
        sizes = sorted((len(tps) for tps in old.values()), reverse=True)
        each, odd = divmod(total, len(sizes)) if sizes else (0, 0)
        least = sum(max(0, size - each - (place < odd)) for place, size in enumerate(sizes))
        assert moved == least, f"{topics}: {moved} moved, {least} had to"
