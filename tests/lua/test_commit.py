"""commit.lua: offsets of the owner's partitions, in its epochs, all or none; and of a group that nobody is in."""

from __future__ import annotations

from typing import Any

import pytest

from streamlayer._core.group_calls import COMMITTED_AT_ONCE, Commit
from streamlayer._types import TopicPartition
from tests.lua.group import RETENTION_MS, Group, Someone, orders
from tests.lua.run import word_of
from tests.waiting import sync_wait_until


def refused(group: Group, word: str, send: Any) -> None:
    """It is refused with that word, and no key changes."""
    before = group.dump()
    assert word_of(send()) == word
    assert group.dump() == before


def pair(group: Group) -> tuple[Someone, Someone]:
    """Two members: one with 0 and 1 since epoch 1, one with 2 and 3 since epoch 2."""
    a, b = group.join("a"), group.join("b")
    group.settle(a, b)
    assert (a.owned, b.owned) == ({0, 1}, {2, 3})
    assert [group.state().owners[tp][1] for tp in orders(0, 2)] == [1, 2]
    return a, b


# --- of the owner ----------------------------------------------------------------------------------------------------


def test_what_is_stored_comes_back(group: Group) -> None:
    """Offset, topic id, epochs, the server's time, and the user's text with whatever is in it."""
    a = group.join("a")
    text = "  two words\nand a line: näh – \U0001f600 5:6;7 "
    offsets = {
        orders(0)[0]: Commit(1 << 52, "0123abcd", "3:aa:0,4:bb:7", text),
        orders(1)[0]: Commit(0),
    }
    time = group.commit(offsets, member="a", epoch=a.epoch, call=1)
    assert abs(group.run.now() - time) < 5000
    first, second, third = group.committed(*orders(0, 1, 2))
    assert first == (1 << 52, "0123abcd", "3:aa:0,4:bb:7", time, text)
    assert first.epoch == 4
    assert (second.offset, second.topic_id, second.crossed, second.metadata, second.epoch) == (0, "", "", "", -1)
    assert third is None


def test_an_offset_as_it_was_stored_first_is_read(group: Group) -> None:
    """Its epochs have no starts."""
    a = group.join("a")
    a.commit(*orders(0))
    group.client.hset(group.keys.offsets, "orders:0", "7 0123abcd 3:aa,4:bb 1700000000000 a text")
    (found,) = group.committed(*orders(0))
    assert found == (7, "0123abcd", "3:aa,4:bb", 1_700_000_000_000, "a text")
    assert found.epoch == 4


def test_only_the_owner_commits_and_all_or_none(group: Group) -> None:
    """One partition that is another's, or nobody's, refuses the whole."""
    a, b = pair(group)
    refused(group, "NOT_OWNER", lambda: a.commit(*orders(0, 1, 2)))
    refused(group, "NOT_OWNER", lambda: a.commit(*orders(0, 77)))
    assert a.commit(TopicPartition("users", 0)) == ("NOT_OWNER", "users:0")
    assert word_of(a.commit(*orders(0, 1))) == "OK"
    assert word_of(b.commit(*orders(2, 3))) == "OK"


def test_the_epoch_is_between_the_assignment_and_the_members(group: Group) -> None:
    """An older epoch of the owner is good if it had the partition then; a newer one says that the server lost some."""
    a, b = pair(group)
    assert word_of(a.commit(*orders(0), epoch=1)) == "OK"
    assert word_of(a.commit(*orders(0), epoch=2)) == "OK"
    refused(group, "NOT_OWNER", lambda: a.commit(*orders(0), epoch=0))
    refused(group, "NOT_OWNER", lambda: b.commit(*orders(2), epoch=1))
    assert a.commit(*orders(0), epoch=3) == ("FENCED_MEMBER", "lost")


def test_a_partition_that_went_and_came_back_is_not_committed_from_before(group: Group) -> None:
    """The offset that was read in the first time is not let in in the second: others read it between."""
    a, b = pair(group)
    group.leave("b")
    group.settle(a)
    assert group.state().owners[orders(2)[0]] == ("a", 3)
    refused(group, "NOT_OWNER", lambda: a.commit(*orders(2), epoch=1))
    assert word_of(a.commit(*orders(2), epoch=3)) == "OK"
    assert b.commit(*orders(2)) == ("FENCED_MEMBER", "session")


def test_while_giving_up_a_partition_its_last_offset_is_taken(group: Group) -> None:
    """Up to the release, not behind it."""
    a = group.join("a")
    group.join("b")
    assert a.beat().revoke == "orders:2-3"
    assert word_of(a.commit(*orders(3))) == "OK"
    a.beat(released="orders:2-3")
    refused(group, "NOT_OWNER", lambda: a.commit(*orders(3)))


def test_the_same_commit_twice_is_stored_once(group: Group) -> None:
    """The second is answered and changes nothing, not even the time."""
    a = group.join("a")
    assert word_of(a.commit(*orders(0), offset=5)) == "OK"
    refused(group, "OK", lambda: a.commit(*orders(0), offset=5, call=1))


def test_a_late_commit_never_takes_an_offset_back(group: Group) -> None:
    """STALE, with the number of the last that was taken; also if it is about another partition."""
    a = group.join("a")
    for offset in (5, 6, 7):
        a.commit(*orders(0), offset=offset)
    refused(group, "STALE", lambda: a.commit(*orders(0), offset=5, call=1))
    refused(group, "STALE", lambda: a.commit(*orders(1), offset=5, call=2))
    assert group.committed(*orders(0))[0].offset == 7


def test_a_refused_commit_uses_no_number_up(group: Group) -> None:
    """The client may mend it and send it with the same number."""
    a = group.join("a")
    assert word_of(a.commit(*orders(9))) == "NOT_OWNER"
    assert word_of(a.commit(*orders(1), call=1)) == "OK"


def test_heartbeats_and_commits_count_apart(group: Group) -> None:
    """Each has its own numbers: they may overtake each other on two connections."""
    a = group.join("a")
    for _ in range(5):
        a.beat()
    assert word_of(a.commit(*orders(0))) == "OK"
    assert word_of(a.beat()) == "OK"


def test_minus_one_deletes(group: Group) -> None:
    """What is stored for a partition is gone; others stay; nothing stored is no matter."""
    a = group.join("a")
    a.commit(*orders(0, 1))
    assert word_of(a.commit(*orders(0, 2), offset=-1)) == "OK"
    assert [found and found.offset for found in group.committed(*orders(0, 1, 2))] == [None, 7, None]


def test_no_offsets_at_all(group: Group) -> None:
    """Nothing to store is no error."""
    a = group.join("a")
    assert word_of(a.commit()) == "OK"


def test_a_thousand_at_once(group: Group) -> None:
    """As many as one call takes."""
    a = group.join("a", {"orders": COMMITTED_AT_ONCE})
    assert word_of(a.commit(*orders(*range(COMMITTED_AT_ONCE)))) == "OK"
    assert len(group.state().offsets) == COMMITTED_AT_ONCE


def test_a_commit_does_not_shorten_the_groups_life(group: Group) -> None:
    """The keys of a group with members end as its heartbeats say."""
    a = group.join("a")
    ends = {key: ends for key, (_, ends) in group.dump().items()}
    a.commit(*orders(0), retention_ms=60_000)
    assert {key: ends for key, (_, ends) in group.dump().items()} == ends


# --- of nobody -------------------------------------------------------------------------------------------------------


def test_without_members_anybody_commits(group: Group) -> None:
    """The group is made; its keys end after the retention, all together."""
    assert word_of(group.commit({orders(0)[0]: Commit(5)})) == "OK"
    ends = {ends for _, ends in group.dump().values()}
    assert len(group.dump()) == 6
    assert len(ends) == 1
    assert 0 <= group.run.now() + RETENTION_MS - ends.pop() < 5000
    a = group.join("a")
    assert group.committed(*orders(0))[0].offset == 5
    refused(group, "NON_EMPTY_GROUP", lambda: group.commit({orders(0)[0]: Commit(6)}, call=3))
    group.leave("a", call=a.number + 1)
    assert word_of(group.commit({orders(0)[0]: Commit(6)}, call=2)) == "OK"
    assert group.committed(*orders(0))[0].offset == 6


def test_who_is_overdue_is_put_out_by_a_commit_without_member(group: Group) -> None:
    """It may not go on, and commit, from offsets that were set behind its back."""
    a = group.join("a", session_ms=100)
    deadline = group.state().members["a"].deadline
    sync_wait_until(lambda: group.run.now() > deadline, "the session is over")
    assert word_of(group.commit({orders(0)[0]: Commit(6)})) == "OK"
    assert group.state().members == {}
    assert group.state().owners == {}
    refused(group, "FENCED_MEMBER", lambda: a.commit(*orders(0)))
    refused(group, "FENCED_MEMBER", a.beat)


def test_while_nobody_is_dropped_all_count_as_alive(group: Group) -> None:
    """In the time of grace behind a pause an overdue member may still come."""
    group.join("a", session_ms=100)
    deadline = group.state().members["a"].deadline
    group.client.hset(group.keys.meta, "grace", group.run.now() + 60_000)
    sync_wait_until(lambda: group.run.now() > deadline, "the session is over")
    refused(group, "NON_EMPTY_GROUP", lambda: group.commit({orders(0)[0]: Commit(6)}))


def test_a_member_of_no_group_commits_nothing(group: Group) -> None:
    """FENCED_MEMBER, and no group is made; the same for a stranger."""
    refused(group, "FENCED_MEMBER", lambda: group.member("a").commit(*orders(0)))
    group.join("b")
    refused(group, "FENCED_MEMBER", lambda: group.member("a").commit(*orders(0)))
    refused(group, "FENCED_MEMBER", lambda: group.member("b:o").commit(*orders(0)))


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["meta", "members", "deadlines", "gone", "owners", "offsets"])
def test_somebody_elses_data_is_not_touched(group: Group, name: str) -> None:
    """Under any key, of a group that is not there yet."""
    key = getattr(group.keys, name)
    group.client.hset(key, "mine", "1")
    before = group.dump()
    assert group.commit({orders(0)[0]: Commit(5)}) == ("FOREIGN", key)
    assert group.dump() == before


def test_an_offsets_key_that_became_somebody_elses(group: Group) -> None:
    """The group is there, its offsets are another's."""
    a = group.join("a")
    group.client.delete(group.keys.offsets)
    group.client.set(group.keys.offsets, "mine")
    refused(group, "FOREIGN", lambda: a.commit(*orders(0)))


def test_a_later_layout_is_left_alone(group: Group) -> None:
    """A group that only a later release can read."""
    a = group.join("a")
    group.client.hset(group.keys.meta, "min_v", 2)
    refused(group, "LAYOUT", lambda: a.commit(*orders(0)))
    refused(group, "LAYOUT", lambda: group.commit({orders(0)[0]: Commit(5)}))


def test_a_call_without_a_member_that_comes_again(group: Group) -> None:
    """It is known by its number: what was stored since stays, and so do the keys."""
    first = {"call": 4711}
    assert isinstance(group.commit({orders(0)[0]: Commit(5)}, **first), int)
    assert isinstance(group.commit({orders(0)[0]: Commit(9)}, call=4712), int)
    before = group.dump()
    assert isinstance(group.commit({orders(0)[0]: Commit(5)}, **first), int)
    assert group.dump() == before
    assert group.committed(*orders(0))[0].offset == 9
