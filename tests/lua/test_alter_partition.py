"""alter_partition.lua: new settings hold, the keys' expiry follows them, and nothing that is served is ever missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from streamlayer._core import calls, scripts
from tests.lua.run import TOPIC_ID, WEEK_MS, Log, all_keys, key_end, new_log, word_of

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def filled(client: redis.Redis, namespace: str, closed: int = 3, **created: Any) -> Log:
    """Closed segments with a record each, and an open one with a record that is not in the tail and one that is."""
    log = new_log(client, namespace, **({"segment_bytes": 10} | created))
    for i in range(closed):
        log.append(b"%d" % i)
    log.set_meta(segment_limit=1 << 20)
    log.append(bytes(5000))
    log.append(b"tail")
    return log


def ends(log: Log, number: int) -> set[int]:
    """When the keys of a segment expire; with the open one the tail."""
    keys = list(log.keys.segment(number))
    if number == log.meta("segment")[0]:
        keys.append(log.keys.tail)
    return {log.run.client.pexpiretime(key) for key in keys}


def closed_ends(log: Log, retention_ms: int) -> list[set[int]]:
    """When the keys of each listed segment should expire."""
    return [{key_end(closed, retention_ms)} for *_, closed in log.members()]


# --- settings --------------------------------------------------------------------------------------------------------


def test_all_settings_hold_from_the_last_call_on(redis_client: redis.Redis, namespace: str) -> None:
    """Two calls for a log of up to 64 segments: the first says which to name, the second has done it."""
    log = filled(redis_client, namespace)
    settings = {"retention_ms": DAY_MS, "retention_bytes": 70_000, "segment_bytes": 7000, "max_message_bytes": 900}
    assert log.alter(2, **settings) == (0, 3)
    assert log.alter(2, (0, 3), **settings) is None
    names = ("retention_ms", "retention_bytes", "segment_limit", "max_message_bytes", "config_version")
    assert log.meta(*names) == [DAY_MS, 70_000, 7000, 900, 2]
    assert log.append(bytes(900))[0] == "TOO_LARGE"
    assert log.contradiction() == ""


def test_an_empty_partition_is_altered_too(log: Log) -> None:
    """Nothing has an expiry that could change; the first append goes by the new retention."""
    assert log.alter_all(retention_ms=DAY_MS) == 2
    assert ends(log, 0) == {-1}
    at = log.append(b"a").append_time
    assert ends(log, 0) == {at + DAY_MS + DAY_MS // 64}


def test_another_size_says_at_once_what_may_go(redis_client: redis.Redis, namespace: str) -> None:
    """`trim_at` follows, up and down; expiry stays as it is."""
    log = filled(redis_client, namespace)
    before = [ends(log, number) for number in range(4)]
    one = log.members()[1][2]
    assert log.meta("trim_at") == [-1]
    log.alter_all(2, retention_bytes=6000)
    assert log.meta("trim_at") == [6000 - 2 * one]
    assert log.contradiction() == ""
    log.alter_all(3, retention_bytes=100)
    assert log.append(b"x", follow=False) == ("TRIM", "0 2")
    log.alter_all(4, retention_bytes=-1)
    assert log.meta("trim_at") == [-1]
    assert word_of(log.append(b"x", follow=False)) == "OK"
    assert [ends(log, number) for number in range(4)] == before


# --- a shorter retention ---------------------------------------------------------------------------------------------


def test_a_shorter_retention_ends_keys_earlier(redis_client: redis.Redis, namespace: str) -> None:
    """Closed ones by their closing, the open one by its newest record: as if it had been so from the beginning."""
    log = filled(redis_client, namespace)
    newest = log.run.now()
    log.alter_all(retention_ms=DAY_MS)
    assert [ends(log, number) for number in range(3)] == closed_ends(log, DAY_MS)
    assert ends(log, 3) == set(log.meta("deadline"))
    assert newest + DAY_MS - 60_000 <= log.meta("deadline")[0] <= log.run.now() + DAY_MS
    assert len(log.read()) == 5


def test_a_shorter_retention_holds_from_the_first_call_on(redis_client: redis.Redis, namespace: str) -> None:
    """What is overdue by it is not served any more; its keys stay until a trim: nothing is freed in passing."""
    log = filled(redis_client, namespace)
    log.close_ago(1, 2 * DAY_MS)
    before = [ends(log, number) for number in range(2)]
    assert log.alter(2, retention_ms=DAY_MS) == (0, 3)
    assert log.describe().log_start == 2
    assert log.fetch(1)[0] == "OUT_OF_RANGE"
    assert log.alter(2, (0, 3), retention_ms=DAY_MS) is None
    assert [ends(log, number) for number in range(2)] == before
    assert log.trim_all() == 1
    assert log.segments_with_keys() == {2, 3}


def test_an_idle_open_segment_that_is_overdue_then_goes_with_the_last_call(
    redis_client: redis.Redis, namespace: str
) -> None:
    """Its newest record is older than the new retention: the log is empty, and its memory is free."""
    log = filled(redis_client, namespace)
    log.close_ago(2, 2 * DAY_MS)
    log.set_meta(segment_at=log.run.now() - 2 * DAY_MS, deadline=log.run.now() - 2 * DAY_MS + WEEK_MS)
    log.alter(2, retention_ms=DAY_MS)
    assert (log.describe().log_start, log.describe().next, log.describe().bytes) == (5, 5, 0)
    log.alter(2, (0, 3), retention_ms=DAY_MS)
    log.trim_all()
    assert log.segments_with_keys() == set()
    assert log.meta("start", "segment", "segment_base") == [5, 4, 5]
    assert log.append(b"5").base_offset == 5
    assert log.contradiction() == ""


def test_half_done_and_idle_no_key_is_forgotten(redis_client: redis.Redis, namespace: str) -> None:
    """From no limit to one, stopped after the first call: the keys have no end yet, and the next append frees them.

    Nobody would name them again: they would stay for ever, and be read as part of a later topic of this name.
    """
    log = filled(redis_client, namespace, retention_ms=-1)
    assert ends(log, 3) == {-1}
    log.alter(2, retention_ms=DAY_MS)
    log.close_ago(2, 2 * DAY_MS)
    log.set_meta(deadline=log.run.now())
    assert ends(log, 3) == {-1}
    assert log.append(b"5").base_offset == 5
    assert log.segments_with_keys() == {4}
    assert log.alter(2, (0, 3), retention_ms=DAY_MS) == (4, 4)
    assert log.alter(2, (4, 4), retention_ms=DAY_MS) is None
    assert log.contradiction() == ""


# --- a longer retention ----------------------------------------------------------------------------------------------


def test_a_longer_retention_ends_keys_later(redis_client: redis.Redis, namespace: str) -> None:
    """It holds when the last call was made: until then readers go by the old one, for keys may still go by it."""
    log = filled(redis_client, namespace)
    deadline = log.meta("deadline")[0]
    assert log.alter(2, retention_ms=2 * WEEK_MS) == (0, 3)
    assert log.meta("retention_ms", "config_version") == [WEEK_MS, 1]
    assert log.alter(2, (0, 2), retention_ms=2 * WEEK_MS) == (3, 3)
    assert log.meta("retention_ms", "config_version") == [WEEK_MS, 1]
    assert log.alter(2, (3, 3), retention_ms=2 * WEEK_MS) is None
    assert log.meta("retention_ms", "config_version") == [2 * WEEK_MS, 2]
    assert [ends(log, number) for number in range(3)] == closed_ends(log, 2 * WEEK_MS)
    assert ends(log, 3) == set(log.meta("deadline"))
    assert deadline + WEEK_MS - WEEK_MS // 64 - 60_000 <= log.meta("deadline")[0] <= deadline + WEEK_MS


def test_what_was_overdue_stays_gone(redis_client: redis.Redis, namespace: str) -> None:
    """The log start never falls: a longer retention gives nothing back, keys there or not."""
    log = filled(redis_client, namespace)
    log.close_ago(1, WEEK_MS)
    redis_client.delete(*log.keys.segment(0))
    assert log.describe().log_start == 2
    log.alter_all(retention_ms=-1)
    assert log.describe().log_start == 2
    assert log.fetch(1) == ("OUT_OF_RANGE", "2 5")
    log.trim_all()
    assert log.segments_with_keys() == {2, 3}
    assert log.contradiction() == ""


def test_an_overdue_open_segment_stays_gone(log: Log) -> None:
    """Its deadline has passed: under a longer retention too nothing of it is served, and it is freed."""
    log.append(b"a")
    log.set_meta(deadline=log.run.now())
    log.alter_all(retention_ms=-1)
    assert (log.describe().log_start, log.describe().next) == (1, 1)
    assert log.segments_with_keys() == set()
    assert log.append(b"b").base_offset == 1
    assert log.read(1) == [b"b"]


def test_what_becomes_overdue_on_the_way_is_gone(redis_client: redis.Redis, namespace: str) -> None:
    """Between the first and the last call the old retention holds."""
    log = filled(redis_client, namespace)
    log.alter(2, (0, 2), retention_ms=2 * WEEK_MS)
    log.close_ago(0, WEEK_MS)
    assert log.describe().log_start == 1
    log.alter(2, (3, 3), retention_ms=2 * WEEK_MS)
    assert log.describe().log_start == 1
    assert log.fetch(0)[0] == "OUT_OF_RANGE"


def test_without_limit_nothing_expires_and_back_again(redis_client: redis.Redis, namespace: str) -> None:
    """-1 takes every expiry away; a limit gives it back, to the open segment counted from the change."""
    log = filled(redis_client, namespace)
    log.alter_all(2, retention_ms=-1)
    assert {redis_client.pexpiretime(key) for key in all_keys(redis_client, log.keys.prefix)} == {-1}
    assert log.meta("deadline") == [0]
    log.append(b"more")
    before = log.run.now()
    log.alter_all(3, retention_ms=DAY_MS)
    assert [ends(log, number) for number in range(3)] == closed_ends(log, DAY_MS)
    (deadline,) = ends(log, 3)
    assert before + DAY_MS <= deadline <= log.run.now() + DAY_MS
    assert len(log.read()) == 6


def test_appends_and_rolls_between_the_calls_are_seen_to(redis_client: redis.Redis, namespace: str) -> None:
    """A segment that closes on the way gets its end by the old retention, and is named in a later call."""
    log = filled(redis_client, namespace)
    assert log.alter(2, retention_ms=2 * WEEK_MS) == (0, 3)
    log.set_meta(segment_limit=10)
    for _ in range(3):
        log.append(b"more")
    log.set_meta(segment_limit=1 << 20)
    log.append(b"open")
    assert log.alter(2, (0, 3), retention_ms=2 * WEEK_MS) == (4, 6)
    assert ends(log, 4) == {key_end(log.members()[4][4], WEEK_MS)}
    assert log.alter(2, (4, 6), retention_ms=2 * WEEK_MS) is None
    assert [ends(log, number) for number in range(6)] == closed_ends(log, 2 * WEEK_MS)
    assert ends(log, 6) == set(log.meta("deadline"))


# --- twice, late, large ----------------------------------------------------------------------------------------------


def test_a_bounded_number_of_segments_a_call(redis_client: redis.Redis, namespace: str) -> None:
    """However many there are: each call says where to go on, and only the last makes a longer retention hold."""
    count = 2 * calls.SEGMENTS_AT_ONCE + 3
    log = filled(redis_client, namespace, count)
    assert log.alter_all(2, retention_ms=2 * WEEK_MS) == 4
    assert [ends(log, number) for number in range(count)] == closed_ends(log, 2 * WEEK_MS)
    log.close_ago(count - 3, 8 * DAY_MS)
    assert log.alter_all(3, retention_ms=WEEK_MS) == 4
    assert log.describe().log_start == count - 2
    log.trim_all()
    assert log.segments_with_keys() == {count - 2, count - 1, count}


@pytest.mark.parametrize("retention_ms", [-1, DAY_MS, WEEK_MS, 2 * WEEK_MS])
def test_twice_is_once(redis_client: redis.Redis, namespace: str, retention_ms: int) -> None:
    """Each call sent again, in any order, once it is done: not a byte, not an end changes."""
    log = filled(redis_client, namespace)
    log.alter_all(retention_ms=retention_ms)
    before = log.dump()
    for segments in ((0, -1), (0, 3), (3, 3), (0, 1)):
        log.alter(2, segments, retention_ms=retention_ms)
        assert log.dump() == before


@pytest.mark.parametrize("retention_ms", [-1, HOUR_MS, 2 * WEEK_MS])
def test_an_older_version_comes_too_late(redis_client: redis.Redis, namespace: str, retention_ms: int) -> None:
    """What was decided before must not undo what was decided since; the caller is told that it is done."""
    log = filled(redis_client, namespace)
    log.alter_all(5, retention_ms=DAY_MS)
    before = log.dump()
    for segments in ((0, -1), (0, 3), (3, 3)):
        assert log.alter(4, segments, retention_ms=retention_ms) is None
        assert log.dump() == before


def test_an_older_version_comes_too_late_while_a_newer_one_is_half_done(
    redis_client: redis.Redis, namespace: str
) -> None:
    """A longer retention has been given to some keys when the call before comes again: they must not end by that.

    Else, when the longer one holds, keys would be gone that readers are sent to.
    """
    log = filled(redis_client, namespace)
    log.alter_all(4, retention_ms=DAY_MS)
    assert log.alter(5, (0, 2), retention_ms=WEEK_MS) == (3, 3)
    assert log.alter(4, (0, 3), retention_ms=DAY_MS) is None
    assert log.alter(5, (3, 3), retention_ms=WEEK_MS) is None
    assert [ends(log, number) for number in range(3)] == closed_ends(log, WEEK_MS)


def test_late_for_another_topic_nothing_is_altered(redis_client: redis.Redis, namespace: str) -> None:
    """A log that was made after the one that was meant."""
    log = filled(redis_client, namespace)
    before = log.dump()
    log.topic_id = "another"
    assert log.alter(9, (0, 3), retention_ms=HOUR_MS) == ("TOPIC_REPLACED", TOPIC_ID)
    assert log.dump() == before


# --- every no --------------------------------------------------------------------------------------------------------


def _alter(log: Log) -> Any:
    settings = {"retention_ms": DAY_MS, "retention_bytes": -1, "segment_bytes": 10, "max_message_bytes": 10}
    return log.run(
        calls.alter_partition(log.keys, topic_id=log.topic_id, config_version=2, segments=(0, 3), **settings)
    )


def _foreign(log: Log) -> Any:
    log.run.client.delete(log.keys.segs)
    log.run.client.set(log.keys.segs, "mine")
    return _alter(log)


def _with_meta(**meta: Any) -> Callable[[Log], Any]:
    return lambda log: (log.set_meta(**meta), _alter(log))[1]


REFUSALS: dict[str, Callable[[Log], Any]] = {
    "FOREIGN": _foreign,
    "UNKNOWN_TOPIC": lambda log: (log.run.client.delete(log.keys.meta), _alter(log))[1],
    "TOPIC_REPLACED": _with_meta(id="another"),
    "LAYOUT": _with_meta(min_v=2),
    "DAMAGED": _with_meta(damaged="torn"),
}


def test_every_word_of_the_header_has_its_test() -> None:
    """The table above is complete."""
    assert set(REFUSALS) == scripts.ALTER_PARTITION.errors


@pytest.mark.parametrize("word", sorted(REFUSALS))
def test_each_no_is_said_and_writes_nothing(redis_client: redis.Redis, namespace: str, word: str) -> None:
    """The word comes; asked again it comes again, and no key has changed in between."""
    log = filled(redis_client, namespace)
    assert word_of(REFUSALS[word](log)) == word
    before = log.dump()
    assert word_of(REFUSALS[word](log)) == word
    assert log.dump() == before


@pytest.mark.parametrize("name", ["meta", "tail", "segs"])
def test_a_foreign_type_is_named(redis_client: redis.Redis, namespace: str, name: str) -> None:
    """Somebody's data gets no expiry of ours."""
    log = filled(redis_client, namespace)
    key = getattr(log.keys, name)
    redis_client.delete(key)
    redis_client.rpush(key, "mine")
    before = log.dump()
    assert _alter(log) == ("FOREIGN", key)
    assert log.dump() == before


def test_a_full_server_can_be_given_a_shorter_retention() -> None:
    """Altering runs where memory is full: it is a way out of that."""
    assert scripts.ALTER_PARTITION.flags == "allow-oom"
