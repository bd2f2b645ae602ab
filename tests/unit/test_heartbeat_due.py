"""When the next heartbeat is due: in time for the session as the server counts it, whichever copy it answered."""

from __future__ import annotations

from streamlayer._core.group_calls import Heartbeat
from streamlayer._core.keys import group_keys
from streamlayer._core.membership import Membership

SESSION_MS, INTERVAL_MS = 10_000, 3_000


def joined(answered_at: int, *, pending: int = 0, earliest_ms: int = -1) -> Membership:
    """A member whose first call went at 0, maybe several times, and was answered then."""
    member = Membership(
        group_keys("sl", "g"),
        "member",
        instance="",
        description="-",
        session_ms=SESSION_MS,
        interval_ms=INTERVAL_MS,
        retention_ms=1000,
    )
    first = member.next_call(0)
    assert member.next_call(answered_at - 1) == first
    reply = Heartbeat(1, 1, pending, earliest_ms, 0, 0, "t:0", None, {})
    member.answered(reply, answered_at, 0.5)
    return member


def test_the_next_is_due_an_interval_after_the_first_sending() -> None:
    """A copy renews nothing: the server's deadline, as the local one, counts from the first."""
    assert joined(20).due_at == INTERVAL_MS
    late = joined(8_000)
    assert late.valid_until == SESSION_MS
    assert late.due_at == 8_000


def test_it_is_due_earlier_when_something_is_to_be_had() -> None:
    """More to come: at once. Another's deadline: then, and a little later."""
    assert joined(20, pending=2).due_at == 20
    assert joined(20, earliest_ms=100).due_at == 145
