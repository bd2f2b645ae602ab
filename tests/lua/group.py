"""A consumer group with the handful of moves that tests of its scripts are made of.

``Someone`` is a member whose calls are written by hand: a test says what goes into each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis

from streamlayer._core import group_calls
from streamlayer._core.calls import Call
from streamlayer._core.group_calls import Commit, TopicCount
from streamlayer._core.keys import GroupKeys, group_keys
from streamlayer._types import TopicPartition
from tests.lua.group_model import GroupState, read_state
from tests.lua.run import Dump, Runner, dump, word_of

SESSION_MS, INTERVAL_MS, RETENTION_MS = 10_000, 3000, 86_400_000


class Group:
    """One group on one server."""

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self.client = client
        self.run = Runner(client)
        self.keys: GroupKeys = group_keys(namespace, "billing")
        self.prefix = self.keys.meta.removesuffix("meta")

    def state(self) -> GroupState:
        """What its keys say."""
        return read_state(self.client, self.keys)

    def dump(self) -> Dump:
        """All that its keys hold."""
        return dump(self.client, self.prefix)

    def member(self, name: str, **options: Any) -> Someone:
        """Somebody who is no member yet."""
        return Someone(self, name, **options)

    def join(self, name: str, topics: Mapping[str, int] | None = None, **options: Any) -> Someone:
        """A member, behind its first call; of ``orders`` with 4 partitions if nothing else is said."""
        someone = self.member(name, **options)
        assert word_of(someone.join(topics)) == "OK"
        return someone

    def settle(self, *members: Someone) -> None:
        """All heartbeat and let go until nothing changes."""
        for _ in range(20):
            before = self.state()
            for member in members:
                answer = member.beat()
                assert word_of(answer) == "OK", answer
                if answer.revoke:
                    member.beat(released=answer.revoke)
            after = self.state()
            if after.owners == before.owners and after.epoch == before.epoch:
                return
        raise AssertionError("never quiet")

    def leave(self, *names: str, call: int = -1) -> Any:
        """End memberships."""
        return self.run(group_calls.leave(self.keys, names, call=call))

    def commit(self, offsets: Mapping[TopicPartition, Commit], **options: Any) -> Any:
        """Store offsets; without a member if none is said."""
        return self.run(group_calls.commit(self.keys, offsets, **({"retention_ms": RETENTION_MS} | options)))

    def committed(self, *tps: TopicPartition) -> list[Any]:
        """What is stored for partitions."""
        call = group_calls.read_offsets(self.keys, tps)
        return call.parse(self.client.hmget(*call.args[1:2], list(call.args[2:])))  # type: ignore[arg-type]

    def describe(self, **options: Any) -> Any:
        """What ``describe_group`` says."""
        return self.run(group_calls.describe_group(self.keys, **options))

    def delete(self) -> Any:
        """Delete it, as it is now."""
        created = self.client.hget(self.keys.meta, "created") if self.client.type(self.keys.meta) == b"hash" else None
        return self.run(group_calls.delete_group(self.keys, created=(created or b"").decode()))


class Someone:
    """Who calls by hand.

    :ivar last: the last call, to be sent again.
    """

    def __init__(self, group: Group, name: str, **options: Any) -> None:
        self.group = group
        self.name = name
        self.number = 0
        self.applied = 0
        self.commits = 0
        self.epoch = 0
        self.last: Call[Any] | None = None
        self.options = {"session_ms": SESSION_MS, "interval_ms": INTERVAL_MS, "retention_ms": RETENTION_MS} | options

    def call(self, **said: Any) -> Call[Any]:
        """The next heartbeat, not sent."""
        self.number += 1
        given = {"member": self.name, "call": self.number, "applied": self.applied} | self.options | said
        self.last = group_calls.heartbeat(self.group.keys, **given)
        return self.last

    def join(self, topics: Mapping[str, int] | None = None, **said: Any) -> Any:
        """The first call."""
        counts = {"orders": 4} if topics is None else topics
        told = {topic: TopicCount(count, count) for topic, count in counts.items()}
        return self.send(self.call(**({"subscription": tuple(counts), "topics": told, "version": 1} | said)))

    def beat(self, **said: Any) -> Any:
        """One heartbeat."""
        return self.send(self.call(**said))

    def again(self) -> Any:
        """The last call once more."""
        assert self.last is not None
        return self.group.run(self.last)

    def send(self, call: Call[Any]) -> Any:
        """Send a call and take its answer in."""
        answer = self.group.run(call)
        if word_of(answer) == "OK":
            self.applied, self.epoch = answer.changed, answer.epoch
        return answer

    def commit(self, *tps: TopicPartition, offset: int = 7, **said: Any) -> Any:
        """Commit an offset for partitions."""
        self.commits += 1
        given = {"member": self.name, "epoch": self.epoch, "call": self.commits} | said
        return self.group.commit({tp: Commit(offset) for tp in tps}, **given)

    @property
    def owned(self) -> set[int]:
        """The numbers of the partitions of ``orders`` it owns."""
        return {tp.partition for tp in self.group.state().members[self.name].owned if tp.topic == "orders"}


def orders(*numbers: int) -> list[TopicPartition]:
    """Partitions of ``orders``."""
    return [TopicPartition("orders", number) for number in numbers]
