"""delete_partition.lua: stop, then free, whatever the caller knew of the segments, and only the log that is meant."""

from __future__ import annotations

import pytest
import redis

from streamlayer._core import calls, scripts
from tests.lua.run import TOPIC_ID, WEEK_MS, Log, new_log, word_of


def delete(log: Log, segments: tuple[int, int] = (0, 0), topic_id: str = TOPIC_ID) -> tuple[int, int] | None:
    """One call."""
    return log.run(calls.delete_partition(log.keys, topic_id=topic_id, segments=segments))


def delete_all(log: Log) -> None:
    """Call until all is gone, as a client does."""
    segments: tuple[int, int] | None = (0, 0)
    for _ in range(20):
        segments = delete(log, segments)
        if segments is None:
            return
    raise AssertionError(f"deleting never ends: {segments}")


def test_all_keys_are_freed_in_two_calls(redis_client: redis.Redis, namespace: str) -> None:
    """The first answer names what is left, the second call frees it; nothing stays, and a third changes nothing."""
    log = new_log(redis_client, namespace, segment_bytes=100)
    for _ in range(12):
        log.append(bytes(60))
    newest = log.meta("segment")[0]
    assert newest == 6
    assert delete(log) == (1, newest)
    assert delete(log, (1, newest)) is None
    assert log.dump() == {}
    assert delete(log, (1, newest)) is None
    assert log.dump() == {}


def test_no_key_stays_where_segments_closed_in_one_moment(redis_client: redis.Redis, namespace: str) -> None:
    """A key that stayed would be read as part of the next topic of this name."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    for i in range(12):
        log.append(b"%d" % i)
    for member in redis_client.zrange(log.keys.segs, 1, -1):
        redis_client.zadd(log.keys.segs, {member: log.run.now()})
    delete_all(log)
    assert log.dump() == {}


def test_a_call_frees_a_bounded_number_of_segments(redis_client: redis.Redis, namespace: str) -> None:
    """No server stands still for a large log; each call says where to go on, and a repeated one does no harm."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    at_once = calls.SEGMENTS_AT_ONCE
    count = 2 * at_once + 3
    for i in range(count):
        log.append(b"%d" % i)
    for _ in range(2):
        assert delete(log, (0, count)) == (at_once, count)
        assert log.segments_with_keys() == set(range(at_once, count))
    assert delete(log, (at_once, count)) == (2 * at_once, count)
    assert delete(log, (2 * at_once, count)) is None
    assert log.dump() == {}


def test_numbers_that_were_left_out_are_gone_over(redis_client: redis.Redis, namespace: str) -> None:
    """A segment that was dropped leaves a gap in the numbers, which may be longer than a call."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    log.append(b"0")
    log.set_meta(segment=200)
    log.append(b"1")
    assert delete(log) == (1, 201)
    assert delete(log, (1, 201)) == (200, 201)
    assert delete(log, (200, 201)) is None
    assert log.dump() == {}


def test_expired_segments_need_not_be_named(redis_client: redis.Redis, namespace: str) -> None:
    """What is no longer listed was trimmed: the range begins at the first that is."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    log.append(b"0")
    log.append(b"1")
    member = redis_client.zrange(log.keys.segs, 1, 1)[0]
    redis_client.zadd(log.keys.segs, {member: log.run.now() - WEEK_MS})
    log.append(b"2")
    assert log.trim_all() == 0
    assert delete(log) == (1, 3)
    assert delete(log, (1, 3)) is None
    assert log.dump() == {}


def test_from_the_first_call_on_the_topic_is_unknown(log: Log) -> None:
    """Between the two calls nothing is appended, read, looked up, described or created: the range cannot grow."""
    log.append(b"a")
    log.set_meta(segment=3)
    assert delete(log) == (3, 3)
    assert log.append(b"b")[0] == "UNKNOWN_TOPIC"
    assert log.fetch(0)[0] == "UNKNOWN_TOPIC"
    assert log.at_time(-1)[0] == "UNKNOWN_TOPIC"
    assert word_of(log.run(calls.describe_partition(log.keys, topic_id=TOPIC_ID))) == "UNKNOWN_TOPIC"
    assert word_of(log.create()) == "UNKNOWN_TOPIC"


@pytest.mark.parametrize("state", ["ready", "deleting"])
def test_another_log_is_left_alone(log: Log, state: str) -> None:
    """A partition that belongs to another topic id is not this deletion's business."""
    log.append(b"a")
    log.set_meta(state=state)
    before = log.dump()
    assert delete(log, topic_id="another") is None
    assert log.dump() == before


def test_a_damaged_partition_or_a_later_layout_can_be_deleted(log: Log) -> None:
    """The way out of damage must not be shut by it."""
    log.append(b"a")
    log.set_meta(damaged="torn", min_v=9)
    assert delete(log) is None
    assert log.dump() == {}


def test_a_topic_of_the_same_name_begins_anew(log: Log) -> None:
    """After the deletion another log may be made there; it holds nothing of the first."""
    log.append(b"a", bytes(5000))
    assert delete(log) is None
    log.topic_id = "another"
    log.create()
    assert log.append(b"b").base_offset == 0
    assert log.read() == [b"b"]


@pytest.mark.parametrize("name", ["meta", "segs"])
def test_a_foreign_type_is_named_and_nothing_is_written(log: Log, name: str) -> None:
    """Who deletes by mistake what is not ours is told which key."""
    assert scripts.DELETE_PARTITION.errors == {"FOREIGN"}
    key = getattr(log.keys, name)
    log.run.client.delete(key)
    log.run.client.rpush(key, "mine")
    before = log.dump()
    assert delete(log) == ("FOREIGN", key)
    assert log.dump() == before


def test_a_full_server_can_be_emptied() -> None:
    """Deleting runs where memory is full: that is when it is needed."""
    assert scripts.DELETE_PARTITION.flags == "allow-oom"
