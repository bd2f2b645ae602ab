"""A server's clock that jumps, on fakeredis, where it can be moved: what is told and dropped stays within its rules."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
import redis

from tests import servers
from tests.lua.clock import Clock
from tests.lua.run import Log, Runner, new_log, word_of

RETENTION_MS = 64_000
SLACK_MS = RETENTION_MS // 64


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
def log(client: redis.Redis, clock: Clock) -> Log:
    """A log of two closed segments with a record each."""
    log = new_log(client, "sl", retention_ms=RETENTION_MS, segment_bytes=10)
    log.append(b"0")
    log.append(b"1")
    log.alter_all(segment_bytes=1 << 20)
    return log


def test_time_is_the_servers(log: Log, clock: Clock) -> None:
    """To the millisecond: served until close + retention_ms, not then; keys end in the same moment or later."""
    clock.pass_by(RETENTION_MS - 1)
    assert (log.describe().log_start, log.read()) == (0, [b"0", b"1"])
    clock.pass_by(1)
    assert log.describe().log_start == 2
    assert log.fetch(1) == ("OUT_OF_RANGE", "2 2")


def test_an_idle_partition_empties_itself(log: Log, clock: Clock, client: redis.Redis) -> None:
    """Without a call all data keys are gone after their time; the next append goes on at the end."""
    log.append(b"2")
    clock.pass_by(RETENTION_MS + SLACK_MS - 1)
    assert log.read(2) == [b"2"]
    clock.pass_by(2)
    assert log.segments_with_keys() == set()
    assert client.exists(log.keys.tail) == 0
    log.stamp = clock.now()
    assert (log.describe().log_start, log.describe().next) == (3, 3)
    assert log.append(b"3").base_offset == 3
    assert log.members() == []
    assert log.contradiction() == ""


def test_a_segment_that_was_idle_ends_by_its_newest_record(log: Log, clock: Clock) -> None:
    """Closed long after it: its records are not kept nearly twice their time."""
    at = log.append(b"2").append_time
    clock.pass_by(RETENTION_MS - 1)
    log.append(b"3")
    assert log.members()[-1][4] == at + SLACK_MS
    clock.pass_by(SLACK_MS + 1)
    assert log.describe().log_start == 3
    assert log.contradiction() == ""


@pytest.mark.parametrize("back", [1, 1000, RETENTION_MS // 2, 10 * RETENTION_MS])
def test_set_back_while_a_segment_is_open(log: Log, clock: Clock, back: int) -> None:
    """Appends go on in order, nothing is dropped before its time, and the end comes for all of it at last."""
    log.append(b"2")
    clock.pass_by(-back)
    log.stamp = clock.now()
    assert log.append(b"3").base_offset == 3
    assert log.read() == [b"0", b"1", b"2", b"3"]
    log.set_meta(segment_limit=1)
    log.append(b"4")
    closings = [closed for *_, closed in log.members()]
    assert closings == sorted(closings)
    log.append(b"5")
    assert log.contradiction() == ""
    clock.pass_by(RETENTION_MS - 1)
    assert log.read() == [b"%d" % i for i in range(6)]
    clock.pass_by(back + SLACK_MS + 1)
    assert log.describe().log_start == 6
    assert log.contradiction() == ""


@pytest.mark.parametrize("back", [1000, RETENTION_MS, 10 * RETENTION_MS])
def test_set_back_before_a_segment_opens(log: Log, clock: Clock, back: int) -> None:
    """The open segment's end may be before that of closed ones then: what it leaves is never a hole in the log."""
    clock.pass_by(-back)
    log.stamp = clock.now()
    log.append(b"2")
    assert log.read() == [b"0", b"1", b"2"]
    clock.pass_by(RETENTION_MS + SLACK_MS)
    log.stamp = clock.now()
    assert (log.describe().log_start, log.describe().next, log.describe().bytes) == (3, 3, 0)
    assert log.fetch(0) == ("OUT_OF_RANGE", "3 3")
    assert log.append(b"3").base_offset == 3
    assert log.fetch(0) == ("OUT_OF_RANGE", "3 4")
    assert log.read(3) == [b"3"]
    assert log.offset_at(0) == 3
    assert log.segments_with_keys() == {3}
    assert log.contradiction() == ""


def test_set_back_after_all_was_overdue(log: Log, clock: Clock) -> None:
    """Once an append went on at the end, what was dropped does not come back with the time."""
    log.append(b"2")
    clock.pass_by(RETENTION_MS + SLACK_MS)
    log.stamp = clock.now()
    assert log.append(b"3", follow=False) == ("SEGMENT", "3")
    clock.pass_by(-RETENTION_MS)
    assert log.describe().log_start == 3
    log.stamp = clock.now()
    assert log.append(b"3").base_offset == 3
    assert (log.describe().log_start, log.read(3)) == (3, [b"3"])
    assert log.contradiction() == ""


def test_trimmed_segments_do_not_come_back(log: Log, clock: Clock) -> None:
    """What a trim has freed is before the start, whatever the time is then."""
    clock.pass_by(RETENTION_MS)
    log.trim_all()
    clock.pass_by(-RETENTION_MS)
    assert log.describe().log_start == 2


@pytest.mark.parametrize("ahead", [1000, RETENTION_MS // 2])
def test_set_ahead_and_back(log: Log, clock: Clock, ahead: int) -> None:
    """What was appended in a wrong future is kept until that has come, and does no harm to what comes later."""
    clock.pass_by(ahead)
    log.append(b"2")
    clock.pass_by(-ahead)
    log.append(b"3")
    log.alter_all(3, retention_ms=2 * RETENTION_MS)
    log.alter_all(4, retention_ms=RETENTION_MS)
    assert log.read() == [b"0", b"1", b"2", b"3"]
    clock.pass_by(RETENTION_MS - 1)
    assert log.read() == [b"0", b"1", b"2", b"3"]
    clock.pass_by(ahead + 3 * SLACK_MS)
    assert log.describe().log_start == 4
    log.stamp = clock.now()
    assert word_of(log.append(b"4")) == "OK"


def test_a_retention_longer_than_time_itself(client: redis.Redis, clock: Clock) -> None:
    """The server's time minus the retention is before 1970: everything is kept, nothing else is different."""
    log = new_log(client, "sl", retention_ms=2 * clock.now(), segment_bytes=10)
    for i in range(3):
        log.append(b"%d" % i)
    assert log.read() == [b"0", b"1", b"2"]
    assert log.offset_at(log.stamp) == 0
    assert log.trim_all() == 0
    assert log.contradiction() == ""
