"""Who is dropped, and when: a clock that jumps, a server that was away, on fakeredis, where time can be moved."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
import redis

from streamlayer._core.group_calls import Commit
from tests import servers
from tests.lua.clock import Clock
from tests.lua.group import INTERVAL_MS, SESSION_MS, Group, Someone, orders
from tests.lua.group_model import check_state
from tests.lua.run import Runner, word_of

HOUR_MS = 3_600_000


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    """A server of its own."""
    client = fakeredis.FakeRedis(version=servers.FAKE_VERSION)
    yield client
    client.close()


@pytest.fixture
def clock(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Its time."""
    return Clock(Runner(client), monkeypatch)


@pytest.fixture
def group(client: redis.Redis, clock: Clock) -> Group:
    """A group on it."""
    assert clock.moves
    return Group(client, "sl")


def trio(group: Group) -> tuple[Someone, Someone, Someone]:
    """Three members that have what they shall have."""
    members = group.join("a"), group.join("b"), group.join("c")
    group.settle(*members)
    return members


def live_on(clock: Clock, ms: int, *members: Someone) -> None:
    """So much time, in which these go on."""
    for _ in range(ms // INTERVAL_MS):
        clock.pass_by(INTERVAL_MS)
        for member in members:
            assert word_of(member.beat()) == "OK"


def test_who_is_silent_for_a_session_is_dropped(group: Group, clock: Clock) -> None:
    """Not before; then by another's call, and what it had is free at once."""
    a, b, c = trio(group)
    live_on(clock, SESSION_MS - INTERVAL_MS, a, b)
    assert "c" in group.state().members
    live_on(clock, 2 * INTERVAL_MS, a, b)
    assert group.state().members.keys() == {"a", "b"}
    check_state(group.state())
    group.settle(a, b)
    assert len(group.state().owners) == 4
    assert c.beat() == ("FENCED_MEMBER", "session")


def test_its_own_late_heartbeat_keeps_a_member(group: Group, clock: Clock) -> None:
    """Nobody took its place meanwhile: it goes on."""
    a = group.join("a")
    clock.pass_by(HOUR_MS)
    assert word_of(a.beat()) == "OK"
    assert a.owned == {0, 1, 2, 3}


def test_after_a_pause_of_the_server_nobody_is_dropped_for_a_session(group: Group, clock: Clock) -> None:
    """All that live come back in that time; who does not is dead."""
    a, b, c = trio(group)
    clock.pass_by(60_000)
    assert a.beat().earliest_ms == SESSION_MS
    clock.pass_by(1000)
    assert word_of(b.beat()) == "OK"
    live_on(clock, SESSION_MS - 1000 - 1, a, b)
    assert "c" in group.state().members
    live_on(clock, 2 * INTERVAL_MS, a, b)
    assert group.state().members.keys() == {"a", "b"}
    assert word_of(c.beat()) == "FENCED_MEMBER"


def test_the_grace_is_not_given_twice_for_one_pause(group: Group, clock: Clock) -> None:
    """Heartbeats behind it are not silent: its end does not move."""
    a, _, _ = trio(group)
    clock.pass_by(60_000)
    a.beat()
    grace = group.state().grace
    live_on(clock, SESSION_MS - INTERVAL_MS, a)
    assert group.state().grace == grace


def test_a_lone_members_silence_gives_no_grace(group: Group, clock: Clock) -> None:
    """It is gone when another comes, which has everything at once."""
    group.join("a")
    clock.pass_by(SESSION_MS + 1)
    b = group.join("b")
    assert group.state().members.keys() == {"b"}
    assert b.owned == {0, 1, 2, 3}


def test_a_clock_set_back_drops_nobody_and_keeps_no_dead(group: Group, clock: Clock) -> None:
    """Deadlines of before count no longer than a session from then on."""
    a, b, c = trio(group)
    clock.pass_by(-HOUR_MS)
    assert a.beat().earliest_ms <= SESSION_MS
    assert group.state().members.keys() == {"a", "b", "c"}
    live_on(clock, SESSION_MS + INTERVAL_MS, a, b)
    assert group.state().members.keys() == {"a", "b"}
    assert word_of(c.beat()) == "FENCED_MEMBER"


def test_a_clock_set_back_while_one_is_alone(group: Group, clock: Clock) -> None:
    """Who comes then does not push it out: its silence is not proven."""
    a = group.join("a")
    clock.pass_by(-HOUR_MS)
    group.join("b")
    assert group.state().members.keys() == {"a", "b"}
    assert word_of(a.beat()) == "OK"


def test_a_clock_set_back_in_the_time_of_grace(group: Group, clock: Clock) -> None:
    """The grace, too, lasts no longer than a session."""
    a, _, _ = trio(group)
    clock.pass_by(60_000)
    a.beat()
    clock.pass_by(-600_000)
    a.beat()
    assert group.state().grace <= clock.now() + SESSION_MS
    live_on(clock, SESSION_MS + INTERVAL_MS, a)
    assert group.state().members.keys() == {"a"}


def test_a_clock_set_forward_drops_nobody(group: Group, clock: Clock) -> None:
    """It looks like a pause."""
    members = trio(group)
    clock.pass_by(24 * HOUR_MS - 60_000)
    for member in members:
        assert word_of(member.beat()) == "OK"
    live_on(clock, 2 * SESSION_MS, *members)
    assert group.state().members.keys() == {"a", "b", "c"}


def test_many_dead_are_dropped_some_at_a_time(group: Group, clock: Clock) -> None:
    """100 a call; the answer says that there are more."""
    a = group.join("a")
    for n in range(230):
        group.join(f"m{n}")
    clock.pass_by(INTERVAL_MS)
    a.beat()
    for _ in range(3):
        clock.pass_by(INTERVAL_MS)
        a.beat()
    assert len(group.state().members) == 131
    assert a.beat().earliest_ms == 0
    assert a.beat().earliest_ms == -1
    assert group.state().members.keys() == {"a"}


def test_gone_ids_are_forgotten_after_an_hour(group: Group, clock: Clock) -> None:
    """No call is that late; the list does not grow for ever."""
    group.join("a")
    group.leave("a")
    clock.pass_by(HOUR_MS + 1)
    group.join("b")
    group.leave("b")
    assert group.state().gone.keys() == {"b"}


def test_an_idle_group_ends_with_all_its_keys(group: Group, clock: Clock) -> None:
    """After the retention and a session; members of before are none."""
    a = group.join("a", retention_ms=60_000)
    a.commit(*orders(0))
    clock.pass_by(60_000 + SESSION_MS - 1)
    assert len(group.dump()) == 6
    clock.pass_by(2)
    assert group.dump() == {}
    assert a.beat() == ("FENCED_MEMBER", "session")


def test_heartbeats_keep_the_keys(group: Group, clock: Clock) -> None:
    """For as long as there are any, and the retention from the last one on, 1/16 less at most."""
    a = group.join("a", retention_ms=60_000)
    live_on(clock, 300_000, a)
    group.leave("a", call=a.number + 1)
    clock.pass_by((60_000 + SESSION_MS) * 15 // 16 - 1)
    assert len(group.dump()) == 6


def test_a_commit_of_nobody_keeps_the_keys(group: Group, clock: Clock) -> None:
    """Each renews the retention."""
    for _ in range(5):
        group.commit({orders(0)[0]: Commit(5)}, retention_ms=60_000)
        clock.pass_by(50_000)
    assert group.committed(*orders(0))[0].offset == 5
