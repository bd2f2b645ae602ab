"""describe_group.lua: what a group is, without changing it."""

from __future__ import annotations

import pytest

from streamlayer._core import scripts
from streamlayer._core.group_calls import Commit
from streamlayer._types import TopicPartition
from tests.lua.group import Group, orders


def test_a_group_that_is_not_there(group: Group) -> None:
    """It says so; nothing is made."""
    assert group.describe() == (False, 0, {}, [])
    assert group.dump() == {}


def test_members_with_what_they_have_and_shall_have(group: Group) -> None:
    """And until when they count as alive."""
    a, b = group.join("a", instance="i1", description="me@host"), group.join("b", {"orders": 4, "users": 0})
    a.beat(), b.beat()
    before = group.dump()
    found = group.describe()
    assert group.dump() == before
    assert (found.there, found.epoch) == (True, 2)
    one, two = sorted(found.members)
    assert one == ("a", 1, "i1", "me@host", one.deadline, ("orders",), "orders:0-3", "orders:0-1")
    assert two == ("b", 2, "", "-", two.deadline, ("orders", "users"), "", "orders:2-3")
    assert group.run.now() < one.deadline <= group.run.now() + 10_000


def test_offsets_if_they_are_asked_for(group: Group) -> None:
    """With their metadata; the placeholder is no partition."""
    tp = TopicPartition("a.b-c_d", 12)
    group.commit({tp: Commit(5, metadata="x y"), orders(1)[0]: Commit(6)})
    found = group.describe().offsets
    assert found.keys() == {tp, orders(1)[0]}
    assert (found[tp].offset, found[tp].metadata) == (5, "x y")
    assert group.describe(with_offsets=False).offsets == {}


@pytest.mark.parametrize("kind", ["string", "zset"])
def test_somebody_elses_key(group: Group, kind: str) -> None:
    """Where the group's meta would be."""
    _ = group.client.set(group.keys.meta, "x") if kind == "string" else group.client.zadd(group.keys.meta, {"x": 1})
    assert group.describe() == ("FOREIGN", group.keys.meta)


def test_a_later_layout_is_not_read(group: Group) -> None:
    """A group that only a later release can read."""
    group.join("a")
    group.client.hset(group.keys.meta, "min_v", 2)
    assert group.describe() == ("LAYOUT", "2")


def test_it_promises_to_write_nothing() -> None:
    """So that it may run where writes are refused."""
    assert scripts.DESCRIBE_GROUP.flags == "no-writes"
