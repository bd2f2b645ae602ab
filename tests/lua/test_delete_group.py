"""delete_group.lua: a group that nobody is in ends, with its offsets."""

from __future__ import annotations

from streamlayer._core import group_calls
from streamlayer._core.group_calls import Commit
from tests.lua.group import Group, orders
from tests.waiting import sync_wait_until


def test_nothing_is_left(group: Group) -> None:
    """All keys go; a second time there is none."""
    group.commit({orders(0)[0]: Commit(5)})
    assert group.delete() is True
    assert group.dump() == {}
    assert group.delete() is False


def test_a_group_with_members_stays(group: Group) -> None:
    """NON_EMPTY_GROUP, with how many; not a key changes."""
    group.join("a"), group.join("b")
    before = group.dump()
    assert group.delete() == ("NON_EMPTY_GROUP", "2")
    assert group.dump() == before
    group.leave("a", "b")
    assert group.delete() is True


def test_the_dead_do_not_count_and_do_not_come_back(group: Group) -> None:
    """Unless nobody is dropped at the time."""
    a = group.join("a", session_ms=100)
    deadline = group.state().members["a"].deadline
    sync_wait_until(lambda: group.run.now() > deadline, "the session is over")
    group.client.hset(group.keys.meta, "grace", group.run.now() + 60_000)
    assert group.delete() == ("NON_EMPTY_GROUP", "1")
    group.client.hset(group.keys.meta, "grace", 0)
    assert group.delete() is True
    assert a.beat() == ("FENCED_MEMBER", "session")
    assert group.dump() == {}


def test_a_late_delete_does_nothing_to_a_group_that_is_in_use_again(group: Group) -> None:
    """It finds members."""
    group.commit({orders(0)[0]: Commit(5)})
    group.delete()
    group.join("a")
    assert group.delete() == ("NON_EMPTY_GROUP", "1")


def test_somebody_elses_key_and_a_later_layout(group: Group) -> None:
    """Neither is deleted."""
    group.client.set(group.keys.meta, "mine")
    assert group.delete() == ("FOREIGN", group.keys.meta)
    group.client.delete(group.keys.meta)
    group.client.hset(group.keys.meta, "mine", 1)
    assert group.delete() is False
    assert group.client.exists(group.keys.meta)
    group.client.hset(group.keys.meta, "min_v", 2)
    assert group.delete() == ("LAYOUT", "2")


def test_a_deletion_that_comes_late_spares_the_next_group(group: Group) -> None:
    """It names the group that was meant by the time of its creation."""
    group.commit({orders(0)[0]: Commit(5)}, call=1)
    created = group.client.hget(group.keys.meta, "created")
    assert group.run(group_calls.delete_group(group.keys, created=created.decode())) is True
    group.client.hset(group.keys.meta, mapping={"min_v": 1, "created": int(created) + 1})
    before = group.dump()
    assert group.run(group_calls.delete_group(group.keys, created=created.decode())) is False
    assert group.dump() == before
