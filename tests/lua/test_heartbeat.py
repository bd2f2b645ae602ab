"""heartbeat.lua: joining, staying, what moves to whom; every reason for a no; twice, late, and after a loss."""

from __future__ import annotations

from typing import Any

import pytest

from streamlayer._core.group_calls import TopicCount
from streamlayer._core.runs import format_runs, parse_runs
from streamlayer._types import TopicPartition
from tests.lua.group import RETENTION_MS, SESSION_MS, Group, Someone, orders
from tests.lua.group_model import check_state
from tests.lua.run import dump, word_of

KEYS = ("meta", "members", "deadlines", "gone", "owners", "offsets")


def unchanged(group: Group, send: Any) -> Any:
    """The answer to something that changes no key."""
    before = group.dump()
    answer = send()
    assert group.dump() == before
    return answer


# --- joining and staying ---------------------------------------------------------------------------------------------


def test_who_joins_alone_gets_everything(group: Group) -> None:
    """With its first answer, and it waits for nothing."""
    answer = group.member("a").join()
    assert (answer.epoch, answer.owned, answer.revoke, answer.pending) == (1, "orders:0-3", None, 0)
    assert answer.earliest_ms == -1
    assert answer.first == {"orders": 4}


def test_partitions_pass_only_when_they_were_let_go(group: Group) -> None:
    """The second waits; the first is told what to give up, and keeps it until it says so."""
    a, b = group.join("a"), group.join("b")
    assert b.beat().pending == 1
    assert a.beat().revoke == "orders:2-3"
    assert (a.owned, b.owned) == ({0, 1, 2, 3}, set())
    assert a.beat(released="orders:2").revoke == "orders:3"
    assert b.beat().owned == "orders:2"
    answer = a.beat(released="orders:3")
    assert (answer.owned, answer.pending, answer.epoch) == ("orders:0-1", 0, 2)
    answer = b.beat()
    assert (answer.owned, answer.pending) == ("orders:2-3", 0)


def test_a_steady_heartbeat_changes_only_its_own_record(group: Group) -> None:
    """Its call number, its deadline, the group's `seen`; it says nothing that the member knows."""
    a = group.join("a")
    before = group.state()
    answer = a.beat()
    assert (answer.owned, answer.revoke, answer.first) == (None, None, {})
    after = group.state()
    before.seen, after.seen = 0, 0
    before.members["a"].call, before.members["a"].deadline = 2, after.members["a"].deadline
    assert after == before


def test_who_missed_an_answer_is_told_again_what_it_owns(group: Group) -> None:
    """`applied` says what was taken in: if it is not the newest, the owned partitions come with the answer."""
    a = group.join("a")
    a.applied = 0
    assert a.beat().owned == "orders:0-3"
    assert a.beat().owned is None


def test_what_is_let_go_and_still_its_own_comes_back(group: Group) -> None:
    """A partition that it shall have is granted again in the same call, in a newer `changed`."""
    a = group.join("a")
    answer = a.beat(released="orders:1")
    assert (answer.owned, answer.changed) == ("orders:0-3", 2)


def test_what_was_never_owned_cannot_be_let_go(group: Group) -> None:
    """Names of other members' partitions, and of none, free nothing."""
    a, b = group.join("a"), group.join("b")
    group.settle(a, b)
    owners = group.state().owners
    assert word_of(b.beat(released="orders:0,77;users:3")) == "OK"
    assert group.state().owners == owners


def test_a_change_is_told_to_all_and_a_release_to_those_who_wait(group: Group) -> None:
    """The group's channel carries `epoch N` and `free`, and nothing for a steady heartbeat."""
    heard = group.client.pubsub()
    heard.subscribe(group.keys.channel)
    a, b = group.join("a"), group.join("b")
    revoke = a.beat().revoke
    a.beat(released=revoke)
    b.beat()
    a.beat()
    said = [message["data"] for message in iter(lambda: heard.get_message(timeout=0.3), None)]
    assert said[1:] == [b"epoch 1", b"epoch 2", b"free"]
    heard.close()


def test_the_earliest_deadline_of_another_is_told(group: Group) -> None:
    """In ms from now, its own left out."""
    a = group.join("a", session_ms=60_000)
    group.join("b", session_ms=20_000)
    assert 15_000 < a.beat().earliest_ms <= 20_000


def test_no_topics_at_all_is_a_subscription_and_nothing_said_is_as_before(group: Group) -> None:
    """An empty subscription gives everything up: a pattern may match nothing any more."""
    a = group.join("a")
    assert a.beat(topics={"orders": TopicCount(5, 5)}, version=2).owned == "orders:0-4"
    answer = a.beat(subscription=())
    assert answer.revoke == "orders:0-4"
    assert a.beat(released="orders:0-4").pending == 0
    assert group.state().topics == {}
    assert group.describe().members[0].subscription == ()


def test_members_with_different_topics_share_only_what_both_want(group: Group) -> None:
    """Each topic set is even by itself."""
    a = group.join("a", {"orders": 4, "users": 3})
    b = group.join("b", {"orders": 4})
    c = group.join("c", {"users": 3, "logs": 1})
    group.settle(a, b, c)
    check_state(group.state())
    assert len(b.owned) == len(a.owned) == 2


# --- twice, late, lost -----------------------------------------------------------------------------------------------


def test_a_call_sent_twice_has_no_effect_and_the_same_answer(group: Group) -> None:
    """Joining, waiting, being told to revoke, releasing, staying: the second answer says the same, if not less."""
    a, b = group.join("a"), group.join("b")
    for member, said in [(b, {}), (a, {}), (a, {"released": "orders:2-3"}), (b, {}), (a, {}), (b, {})]:
        first = member.beat(**said)
        second = unchanged(group, member.again)
        assert second[:2] == first[:2]
        assert (second.pending, second.revoke) == (first.pending, first.revoke)
        assert second.owned == first.owned or first.owned is None


def test_joining_twice_is_joining_once(group: Group) -> None:
    """The first call again finds the member there."""
    a = group.member("a")
    first = a.join()
    second = unchanged(group, a.again)
    assert second._replace(time=0) == first._replace(time=0)


def test_a_late_call_is_stale(group: Group) -> None:
    """Each call of a member after a newer one, the join too: the group is as it was."""
    a, b = group.join("a"), group.join("b")
    late = [a.last, b.last]
    for member, said in [(a, {}), (a, {"released": "orders:3"}), (b, {}), (a, {"released": "orders:2"}), (b, {})]:
        assert word_of(member.beat(**said)) == "OK"
        late.append(member.last)
    a.beat(), b.beat()
    for call in late:
        assert call is not None
        assert unchanged(group, lambda call=call: group.run(call)) == (
            "STALE",
            str(a.number if call.args[0] == "a" else b.number),
        )


@pytest.mark.parametrize("how", ["left", "removed", "dropped", "replaced"])
def test_who_is_no_more_never_comes_back(group: Group, how: str) -> None:
    """None of its calls, however late, its join too: FENCED_MEMBER, and the group is as it was."""
    a = group.member("a", instance="i1", session_ms=150)
    a.join()
    late = [a.last, a.call(), a.call(released="orders:0")]
    group.join("b")
    if how == "left":
        assert group.leave("a", call=a.number + 1) == 1
    elif how == "removed":
        assert group.leave("a") == 1
    elif how == "replaced":
        group.join("c", instance="i1")
    else:
        c = group.join("c")
        while "a" in group.state().members:
            c.beat(interval_ms=60_000)
    for call in late:
        word, detail = unchanged(group, lambda call=call: group.run(call))  # type: ignore[arg-type]
        assert (word, detail) == ("FENCED_MEMBER", "instance" if how == "replaced" else "session")


def test_who_never_joined_cannot_go_on(group: Group) -> None:
    """A call that is not the first, of a member that is not there: also where there is no group at all."""
    a = group.member("a")
    a.number = 4
    assert unchanged(group, a.beat) == ("FENCED_MEMBER", "session")
    group.join("b")
    assert unchanged(group, a.beat) == ("FENCED_MEMBER", "session")


def test_a_join_behind_its_own_leave_makes_no_member(group: Group) -> None:
    """The leave overtook the first call: the member must not be there for a session without anybody behind it."""
    group.join("b")
    ghost = group.member("a").call(subscription=("orders",))
    assert group.leave("a", call=2) == 0
    assert unchanged(group, lambda: group.run(ghost)) == ("FENCED_MEMBER", "session")


def test_who_knows_more_than_the_server_is_fenced(group: Group) -> None:
    """The server lost its tail, and with it what this member was granted: somebody else may have it by now."""
    a, b = group.join("a"), group.join("b")
    a.beat()
    saved = {key: group.client.dump(key) for key in group.dump()}
    a.beat(released="orders:2-3")
    assert b.beat().owned == "orders:2-3"
    for key, data in saved.items():
        group.client.restore(key, RETENTION_MS, data, replace=True)
    assert b.beat() == ("FENCED_MEMBER", "lost")
    assert "b" not in group.state().members
    assert a.beat() == ("FENCED_MEMBER", "lost")
    assert group.state().owners == {}
    c = group.join("c")
    assert c.owned == {0, 1, 2, 3}


# --- static members --------------------------------------------------------------------------------------------------


def test_a_static_member_takes_over_without_moving_anything(group: Group) -> None:
    """The newer has what the older had, at once, in the same epoch; the older is fenced; the third notices nothing."""
    a, b = group.join("a", instance="i1"), group.join("b")
    group.settle(a, b)
    before = group.state()
    c = group.member("c", instance="i1")
    answer = c.join()
    assert answer.owned == format_runs(before.members["a"].owned)
    assert (answer.epoch, answer.pending) == (before.epoch, 0)
    after = group.state()
    assert after.epoch == before.epoch
    assert after.members["b"] == before.members["b"]
    assert unchanged(group, a.beat) == ("FENCED_MEMBER", "instance")
    assert a.commit(*orders(0)) == ("FENCED_MEMBER", "session")
    assert b.beat().owned is None
    assert word_of(c.commit(*orders(*c.owned))) == "OK"


def test_a_static_member_that_was_giving_up_is_replaced_without_it(group: Group) -> None:
    """What the older had to give up is free at once, and who waits for it is told."""
    group.join("a", instance="i1")
    b = group.join("b")
    heard = group.client.pubsub()
    heard.subscribe(group.keys.channel)
    assert heard.get_message(timeout=1) is not None
    assert group.join("c", instance="i1").owned == {0, 1}
    message = heard.get_message(timeout=1)
    assert message is not None
    assert message["data"] == b"free"
    assert b.beat().owned == "orders:2-3"
    heard.close()


def test_a_static_member_with_another_subscription_is_a_change(group: Group) -> None:
    """The epoch rises, and targets follow the new topics."""
    group.join("a", instance="i1")
    c = group.member("c", instance="i1")
    answer = c.join({"users": 2})
    assert (answer.epoch, answer.owned) == (2, "users:0-1")
    check_state(group.state())


def test_after_a_drop_the_instance_id_is_free(group: Group) -> None:
    """Who comes later with it is a new member."""
    group.join("a", instance="i1")
    assert group.leave("i1") == 1
    assert group.state().instances == {}
    assert group.join("c", instance="i1").owned == {0, 1, 2, 3}


# --- topics ----------------------------------------------------------------------------------------------------------


def test_counts_grow_and_first_stays(group: Group) -> None:
    """New partitions are shared; how many there were when the group began to read is told as it was."""
    a, b = group.join("a"), group.join("b")
    group.settle(a, b)
    answer = a.beat(topics={"orders": TopicCount(7, 7)}, version=5)
    assert answer.first == {"orders": 4}
    group.settle(a, b)
    assert sorted([len(a.owned), len(b.owned)]) == [3, 4]
    assert group.state().topics == {"orders": (7, 5, 4)}


def test_a_topic_goes_and_comes_back(group: Group) -> None:
    """With no partitions nothing of it is left to anybody; then it is shared anew, and read from its first record."""
    a, b = group.join("a"), group.join("b")
    group.settle(a, b)
    a.beat(topics={"orders": TopicCount(0, 0)}, version=2)
    group.settle(a, b)
    assert group.state().owners == {}
    assert group.state().topics == {"orders": (0, 2, 0)}
    answer = b.beat(topics={"orders": TopicCount(3, 3)}, version=3)
    group.settle(a, b)
    assert len(group.state().owners) == 3
    assert answer.first == {"orders": 0}


def test_what_was_said_and_lost_is_said_again(group: Group) -> None:
    """A server that goes back to before a new subscription fences who said it: else nobody would ever say it again."""
    a = group.join("a")
    kept = group.client.hgetall(group.keys.members), group.client.hgetall(group.keys.meta)
    a.beat(subscription=["orders", "users"], topics={"users": TopicCount(0, 0)}, version=2)
    for key, fields in zip((group.keys.members, group.keys.meta), kept, strict=True):
        group.client.delete(key)
        group.client.hset(key, mapping=fields)
    assert a.beat() == ("FENCED_MEMBER", "lost")


def test_a_topic_that_is_not_there_yet_has_a_first_of_none(group: Group) -> None:
    """Whoever waits for it reads it from its first record when it comes."""
    a = group.join("a", {"orders": 0})
    assert a.owned == set()
    answer = a.beat(topics={"orders": TopicCount(2, 2)}, version=2)
    assert (answer.owned, answer.first) == ("orders:0-1", {"orders": 0})


def test_older_registries_are_not_believed(group: Group) -> None:
    """A lower version changes no count, and who has it is told which one there is."""
    a = group.member("a")
    a.join(version=9)
    epoch = group.state().epoch
    answer = a.beat(topics={"orders": TopicCount(2, 2)}, version=8)
    assert (answer.version, group.state().epoch) == (9, epoch)
    assert a.owned == {0, 1, 2, 3}
    b = group.member("b")
    assert b.join({"orders": 1}, version=3).version == 9
    assert group.state().topics["orders"] == (4, 9, 4)


def test_a_newer_registry_is_remembered_even_if_it_says_the_same(group: Group) -> None:
    """What an older one says then is not believed any more; nothing else changes."""
    a = group.join("a")
    epoch = group.state().epoch
    a.beat(topics={"orders": TopicCount(4, 4)}, version=6)
    assert group.state().epoch == epoch
    assert a.beat(topics={"orders": TopicCount(0, 0)}, version=5).revoke is None
    assert group.state().topics == {"orders": (4, 6, 4)}


# --- size ------------------------------------------------------------------------------------------------------------


def take_all(member: Someone) -> int:
    """Heartbeat until it has everything; how many calls that took."""
    for count in range(1, 30):
        answer = member.beat()
        assert word_of(answer) == "OK", answer
        if answer.pending == 0:
            return count
        assert answer.pending == 2
    raise AssertionError("never all")


def test_ten_thousand_partitions_of_one_topic(group: Group) -> None:
    """1,000 with each call, 2 as pending until all are there; they go in one call."""
    a = group.member("a")
    answer = a.join({"orders": 10_000})
    assert (answer.owned, answer.pending) == ("orders:0-999", 2)
    assert take_all(a) == 9
    check_state(group.state())
    assert group.leave("a", call=99) == 1
    assert group.state().owners == {}


def test_a_hundred_topics_of_a_hundred_partitions(group: Group) -> None:
    """Shared by three, even and whole."""
    topics = {f"topic-{n:03}": 100 for n in range(100)}
    members = [group.join(name, topics) for name in "abc"]
    for _ in range(12):
        for member in members:
            answer = member.beat()
            if answer.revoke:
                member.beat(released=answer.revoke)
    state = group.state()
    check_state(state)
    assert len(state.owners) == 10_000
    assert sorted(len(m.owned) for m in state.members.values()) == [3333, 3333, 3334]


def test_more_members_than_are_read_at_once(group: Group) -> None:
    """510 of them, where 500 are read with one command; each is in the targets, and when half of them go."""
    for n in range(510):
        group.join(f"m{n}", {"orders": 1020}, session_ms=120_000)  # joining takes seconds
    check_state(group.state())
    assert group.leave(*(f"m{n}" for n in range(0, 510, 2))) == 255
    state = group.state()
    check_state(state)
    assert {len(m.target) for m in state.members.values()} == {4}


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("kind", ["string", "hash", "zset"])
def test_somebody_elses_data_is_not_touched(group: Group, name: str, kind: str) -> None:
    """Under any key, of any type, before the group is there: FOREIGN, and nothing is written."""
    key = getattr(group.keys, name)
    if kind == "string":
        group.client.set(key, "mine")
    elif kind == "hash":
        group.client.hset(key, "mine", "1")
    else:
        group.client.zadd(key, {"mine": 1})
    assert unchanged(group, group.member("a").join) == ("FOREIGN", key)


@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_became_somebody_elses(group: Group, name: str) -> None:
    """A call that would write to it refuses before it writes anything; the shell knows WRONGTYPE as the same."""
    a = group.join("a")
    group.join("b")
    key = getattr(group.keys, name)
    group.client.delete(key)
    group.client.set(key, "mine")
    for said in ({}, {"released": "orders:2"}):
        answer = unchanged(group, lambda said=said: a.beat(**said))
        assert answer == ("FOREIGN", key) or answer[0] == "WRONGTYPE" or "WRONGTYPE" in answer[1]


def test_a_later_layout_is_left_alone(group: Group) -> None:
    """A group that only a later release can read."""
    a = group.join("a")
    group.client.hset(group.keys.meta, "min_v", 2)
    assert unchanged(group, a.beat) == ("LAYOUT", "2")
    assert unchanged(group, group.member("b").join) == ("LAYOUT", "2")


def test_what_an_evicted_group_left_is_not_taken_up(group: Group) -> None:
    """Without its meta key it is a new group: no member and no owner of before, but its offsets."""
    a = group.join("a")
    a.commit(*orders(1))
    group.client.delete(group.keys.meta)
    b = group.join("b")
    assert b.owned == {0, 1, 2, 3}
    assert group.state().members.keys() == {"b"}
    assert group.committed(*orders(1))[0].offset == 7
    assert a.beat() == ("FENCED_MEMBER", "session")


def test_all_keys_end_together_and_are_renewed_lazily(group: Group) -> None:
    """One time for all six, after the retention and a session; written again only when 1/16 of it is used up."""
    a = group.join("a")
    ends = {group.client.pexpiretime(key) for key in group.dump()}
    assert len(ends) == 1
    assert 0 <= group.run.now() + RETENTION_MS + SESSION_MS - ends.pop() < 5000
    expected = {key: ends for key, (_, ends) in group.dump().items()}
    a.beat()
    assert {key: ends for key, (_, ends) in group.dump().items()} == expected
    a.beat(retention_ms=2 * RETENTION_MS)
    later = {ends for _, ends in group.dump().values()}
    assert len(later) == 1
    assert later.pop() > max(expected.values()) + RETENTION_MS - 5000
    assert len(group.dump()) == 6


def test_odd_descriptions_are_kept(group: Group) -> None:
    """None, and one with spaces: the record can be read all the same."""
    group.join("a", description="")
    group.join("b", description="my client@the host")
    assert {m.member_id: m.description for m in group.describe().members} == {"a": "-", "b": "my client@the host"}


def test_owners_and_views_agree_over_topics(group: Group) -> None:
    """The runs of a member are what the hash of owners says, however they are cut."""
    a = group.join("a", {"orders": 10, "users": 1})
    a.beat(released="orders:1,3-4,9;users:0")
    state = group.state()
    check_state(state)
    assert parse_runs("orders:0-9;users:0") == set(state.owners)
    assert TopicPartition("users", 0) in state.members["a"].owned
    assert dump(group.client, group.prefix) == group.dump()
