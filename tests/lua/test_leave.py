"""leave.lua: members end at once, by their own call or an administrator's; what they had is free."""

from __future__ import annotations

import pytest

from tests.lua.group import Group, orders
from tests.lua.group_model import check_state


def test_who_leaves_frees_what_it_owned(group: Group) -> None:
    """The other gets it with its next call, in a new epoch, which is told; nothing of the member is left."""
    a, b = group.join("a"), group.join("b")
    group.settle(a, b)
    heard = group.client.pubsub()
    heard.subscribe(group.keys.channel)
    assert heard.get_message(timeout=1) is not None
    a.commit(*orders(0))
    assert group.leave("a", call=a.number + 1) == 1
    message = heard.get_message(timeout=1)
    heard.close()
    state = group.state()
    check_state(state)
    assert message is not None
    assert message["data"] == b"epoch %d" % state.epoch
    assert state.members.keys() == {"b"}
    assert state.gone.keys() == {"a"}
    assert b.beat().owned == "orders:0-3"
    assert group.committed(*orders(0))[0].offset == 7


def test_leaving_twice_is_leaving_once(group: Group) -> None:
    """The second time nobody is there, and nothing changes."""
    a = group.join("a")
    group.join("b")
    assert group.leave("a", call=a.number + 1) == 1
    before = group.dump()
    assert group.leave("a", call=a.number + 1) == 0
    assert group.dump() == before


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_leave_that_comes_late_is_stale(group: Group, number: int) -> None:
    """Its number is not above the member's last call."""
    a = group.join("a")
    a.beat()
    before = group.dump()
    assert group.leave("a", call=number) == ("STALE", "2")
    assert group.dump() == before


def test_an_administrator_names_ids_and_instances(group: Group) -> None:
    """Each counts once however often it is named; strangers, and what looks like the group's own fields, not at all."""
    group.join("a", instance="i1")
    group.join("b")
    group.join("c")
    assert group.leave("i1", "a", "b", "b", "nobody", "a:s", "c:o", "@i1", "-") == 2
    state = group.state()
    check_state(state)
    assert state.members.keys() == {"c"}
    assert state.gone.keys() == {"a", "b"}


def test_nobody_leaves_where_there_is_no_group(group: Group) -> None:
    """The answer is none, and none is made."""
    assert group.leave("a", call=5) == 0
    assert group.leave("a") == 0
    assert group.dump() == {}


def test_everybody_may_leave(group: Group) -> None:
    """The group stays, with its offsets, until its keys end."""
    a, b = group.join("a"), group.join("b")
    group.settle(a, b)
    a.commit(*orders(0))
    assert group.leave("a", "b") == 2
    state = group.state()
    assert (state.members, state.owners, state.topics) == ({}, {}, {})
    assert len(state.offsets) == 1
    assert all(ends > 0 for _, ends in group.dump().values())
    assert group.join("c").owned == {0, 1, 2, 3}


def test_a_static_members_place_is_not_taken_by_the_one_before(group: Group) -> None:
    """The leave of a member that was replaced ends nobody."""
    a = group.join("a", instance="i1")
    group.join("b", instance="i1")
    before = group.dump()
    assert group.leave("a", call=a.number + 1) == 0
    assert group.dump() == before


@pytest.mark.parametrize("name", ["meta", "members", "deadlines", "gone", "owners", "offsets"])
def test_somebody_elses_data_is_not_touched(group: Group, name: str) -> None:
    """Under any key: nothing is half done."""
    a = group.join("a")
    key = getattr(group.keys, name)
    group.client.delete(key)
    group.client.set(key, "mine")
    before = group.dump()
    assert group.leave("a", call=a.number + 1) == ("FOREIGN", key)
    assert group.dump() == before


def test_a_later_layout_is_left_alone(group: Group) -> None:
    """A group that only a later release can read."""
    group.join("a")
    group.client.hset(group.keys.meta, "min_v", 2)
    assert group.leave("a") == ("LAYOUT", "2")
