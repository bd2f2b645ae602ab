"""A member's side of the group protocol: what it says, when, and what an answer makes of its view."""

from __future__ import annotations

import pytest

from streamlayer._core.group_calls import Heartbeat, TopicCount
from streamlayer._core.keys import group_keys
from streamlayer._core.membership import NO_VIEW, SPREAD_MS, Membership
from streamlayer._core.runs import parse_runs
from streamlayer._types import TopicPartition

SESSION_MS, INTERVAL_MS = 10_000, 3000
ORDERS = {"orders": TopicCount(4, 4)}


def a_member(*, subscribed: bool = True) -> Membership:
    """One that has sent nothing."""
    member = Membership(
        group_keys("sl", "billing"), "a", instance="", description="me@host",
        session_ms=SESSION_MS, interval_ms=INTERVAL_MS, retention_ms=86_400_000,
    )  # fmt: skip
    if subscribed:
        member.subscribe(ORDERS, 1)
    return member


def said(member: Membership, now: int = 0) -> dict[str, str | int]:
    """What the next call says, by name."""
    call = member.next_call(now)
    assert call.script is not None
    return dict(zip(call.script.args, call.args, strict=True))  # type: ignore[arg-type]


def reply(owned: str | None = None, revoke: str | None = None, **changed: object) -> Heartbeat:
    """An answer."""
    given = {"epoch": 1, "changed": 1, "pending": 0, "earliest_ms": -1, "version": 1, "time": 0}
    return Heartbeat(**(given | {"owned": owned, "revoke": revoke, "first": {"orders": 4}} | changed))  # type: ignore[arg-type]


def hear_back(
    member: Membership, owned: str | None = None, revoke: str | None = None, now: int = 0, **changed: object
) -> bool:
    """One call and its answer, at once."""
    member.next_call(now)
    return member.answered(reply(owned, revoke, **changed), now, 0.0)


def orders(text: str) -> frozenset[TopicPartition]:
    """Partitions of orders."""
    return frozenset(parse_runs(f"orders:{text}")) if text else frozenset()


# --- what is said ----------------------------------------------------------------------------------------------------


def test_a_call_goes_again_byte_for_byte_until_it_is_answered() -> None:
    """Whatever happens meanwhile waits for the next one."""
    member = a_member()
    first = member.next_call(0)
    member.let_go(orders("1"))
    member.subscribe({"users": TopicCount(2, 2)}, 2)
    member.hear("epoch 9", 5)
    assert member.next_call(70) is first
    member.answered(reply("orders:0-3"), 80, 0.0)
    then = said(member, 90)
    assert (then["call"], then["released"], then["subscription"], then["topics"]) == (
        2,
        "orders:1",
        "users",
        "users:2:2",
    )


def test_topics_are_said_once() -> None:
    """The first call has them, the next nothing; then only news, with the registry they are from."""
    member = a_member()
    assert said(member)["topics"] == "orders:4:4"
    member.answered(reply("orders:0-3"), 0, 0.0)
    assert not member.subscribe(ORDERS, 2)
    quiet = said(member)
    assert (quiet["subscription"], quiet["topics"], quiet["version"]) == ("", "", 2)
    member.answered(reply(), 0, 0.0)
    assert member.subscribe({"orders": TopicCount(6, 4)}, 3)
    assert said(member)["topics"] == "orders:6:4"


def test_a_subscription_to_nothing_is_said() -> None:
    """It is not the same as saying nothing."""
    member = a_member()
    hear_back(member, "orders:0-3")
    member.subscribe({}, 2)
    assert said(member)["subscription"] == ";"


def test_the_last_answer_that_was_taken_in_is_said() -> None:
    """``applied`` follows only answers that brought the owned partitions."""
    member = a_member()
    hear_back(member, "orders:0-3", changed=1)
    assert said(member)["applied"] == 1
    member.answered(reply(None, changed=2), 0, 0.0)
    assert said(member)["applied"] == 1
    member.answered(reply("orders:0", changed=4), 0, 0.0)
    assert said(member)["applied"] == 4


def test_a_number_for_leaving_is_above_all() -> None:
    """Also above that of a call which is under way."""
    member = a_member()
    hear_back(member, "orders:0-3")
    number = said(member)["call"]
    assert member.last_number() > int(number)


# --- what an answer means --------------------------------------------------------------------------------------------


def test_the_view_follows_the_answers() -> None:
    """Owned, what to give up, whether all is there; told whether something changed."""
    member = a_member()
    assert member.view is NO_VIEW
    assert hear_back(member, "orders:0-3")
    assert (member.view.owned, member.view.whole, member.view.first) == (orders("0-3"), True, {"orders": 4})
    assert not hear_back(member)
    assert hear_back(member, "orders:0-3", "orders:2-3", pending=1)
    assert (member.view.owned, member.view.revoking, member.view.whole) == (orders("0-3"), orders("2-3"), False)


def test_what_is_let_go_stays_out_until_it_is_acknowledged() -> None:
    """An answer to an older call still names it; it must not come back by that."""
    member = a_member()
    hear_back(member, "orders:0-3", "orders:2-3", pending=1)
    member.next_call(0)
    member.let_go(orders("2"))
    member.answered(reply("orders:0-3", "orders:2-3", pending=1), 0, 0.0)
    assert (member.view.owned, member.view.revoking) == (orders("0-1,3"), orders("3"))
    assert member.due_at == 0, "what is let go is said at once"
    assert said(member)["released"] == "orders:2"
    member.let_go(orders("3"))
    member.answered(reply("orders:0-1,3", "orders:3", pending=1, changed=3), 0, 0.0)
    assert (member.view.owned, member.view.revoking) == (orders("0-1"), frozenset())
    assert said(member)["released"] == "orders:3"
    member.answered(reply("orders:0-1", changed=4), 0, 0.0)
    assert said(member)["released"] == ""


def test_what_is_granted_again_comes_back() -> None:
    """The same partition, let go and granted in one call: it is in the view of the answer."""
    member = a_member()
    hear_back(member, "orders:0-3")
    member.let_go(orders("1"))
    hear_back(member, "orders:0-3", changed=2)
    assert member.view.owned == orders("0-3")


def test_a_view_with_news_unsaid_is_not_whole() -> None:
    """Who waits for its assignment waits for that of the topics it wants now."""
    member = a_member()
    member.next_call(0)
    member.subscribe({"users": TopicCount(2, 2)}, 2)
    member.answered(reply("orders:0-3"), 0, 0.0)
    assert not member.view.whole
    assert member.due_at == 0


def test_it_ends_with_nothing() -> None:
    """Nothing is its own, and nothing is vouched for."""
    member = a_member()
    hear_back(member, "orders:0-3", now=100)
    member.ended()
    assert member.view is NO_VIEW
    assert member.valid_until == 0


# --- when ------------------------------------------------------------------------------------------------------------


def test_a_view_is_vouched_for_from_before_the_sending() -> None:
    """The server counts from when it executed the first copy; the sending was before that."""
    member = a_member()
    member.next_call(100)
    member.next_call(4000)
    member.answered(reply("orders:0-3"), 4500, 0.0)
    assert member.valid_until == 100 + SESSION_MS
    member.next_call(5000)
    assert member.valid_until == 100 + SESSION_MS
    member.answered(reply(), 5001, 0.0)
    assert member.valid_until == 5000 + SESSION_MS


def test_the_interval_runs_from_the_sending() -> None:
    """A late answer brings the next heartbeat forward: the session has been running."""
    member = a_member()
    member.next_call(100)
    member.answered(reply("orders:0-3"), 600, 0.0)
    assert member.due_at == 100 + INTERVAL_MS
    member.next_call(3100)
    member.answered(reply(), 9000, 0.0)
    assert member.due_at == 9000


def test_the_next_call_is_due_when_another_is_overdue() -> None:
    """Spread a little; never later than the interval; at once if more is to come."""
    member = a_member()
    member.next_call(0)
    member.answered(reply("orders:0-3", earliest_ms=1000), 10, 0.5)
    assert member.due_at == 1010 + SPREAD_MS // 2
    member.next_call(2000)
    member.answered(reply(earliest_ms=60_000), 2010, 0.5)
    assert member.due_at == 2000 + INTERVAL_MS
    member.next_call(6000)
    member.answered(reply("orders:0", pending=2, changed=3), 6010, 0.5)
    assert member.due_at == 6010


@pytest.mark.parametrize(
    ("text", "pending", "revoke", "wakes"),
    [
        ("epoch 2", 0, None, True),
        ("epoch 1", 0, None, False),
        ("epoch 1", 1, None, True),
        ("free", 0, None, False),
        ("free", 1, None, True),
        ("", 0, None, True),
    ],
)
@pytest.mark.parametrize("under_way", [False, True])
def test_what_is_heard_wakes_those_concerned(
    text: str, pending: int, revoke: str | None, wakes: bool, under_way: bool
) -> None:
    """Who has all it shall have of that epoch sleeps on; what is heard while a call is under way counts behind it."""
    member = a_member()
    hear_back(member, "orders:0-3", pending=pending, revoke=revoke)
    assert member.due_at == INTERVAL_MS
    if under_way:
        member.next_call(500)
    member.hear(text, 600)
    if under_way:
        member.answered(reply(pending=pending, revoke=revoke), 700, 0.0)
        assert member.due_at == (700 if wakes else 500 + INTERVAL_MS)
        member.next_call(800)
        member.answered(reply(pending=pending, revoke=revoke), 800, 0.0)
        assert member.due_at == 800 + INTERVAL_MS, "heard once"
    else:
        assert member.due_at == (600 if wakes else INTERVAL_MS)


def test_the_newest_registry_is_remembered() -> None:
    """Whoever told of it: who is behind reads it anew."""
    member = a_member()
    hear_back(member, "orders:0-3", version=7)
    hear_back(member, version=5)
    assert member.version == 7
