"""list_offsets.lua: the two ends of a log, and the field to look into for a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import redis

from streamlayer._core import scripts
from streamlayer._core.codec import decode_frames
from tests.lua.run import WEEK_MS, Log, new_log, word_of
from tests.profiles import SCALE


def found_at(log: Log, timestamp: int) -> int | None:
    """The offset of the first record at or after a time, as a client finds it: in the field that the script names."""
    answer = log.at_time(timestamp)
    assert word_of(answer) == "OK", answer
    if answer.field is None:
        return None
    times = [time for frame in decode_frames(answer.field.frames) for time in frame.timestamps]
    assert len(times) == answer.field.last - answer.field.base + 1
    return next(answer.field.base + i for i, time in enumerate(times) if time >= timestamp)


def test_both_ends_without_a_time(log: Log) -> None:
    """-1 asks for start and end only."""
    assert (log.at_time(-1).log_start, log.at_time(-1).next, log.at_time(-1).field) == (0, 0, None)
    log.append(b"a", b"b")
    assert (log.at_time(-1).log_start, log.at_time(-1).next, log.at_time(-1).field) == (0, 2, None)


def test_an_empty_log_has_no_record_at_any_time(log: Log) -> None:
    """Not even at or after the beginning of time."""
    assert log.at_time(0).field is None


@pytest.mark.parametrize("seed", range(4 * SCALE))
def test_times_that_go_back_and_forth_are_found(redis_client: redis.Redis, namespace: str, seed: int) -> None:
    """In tail, sealed fields and closed segments: always the first record at or after the time, or none."""
    rng = random.Random(seed)
    log = new_log(redis_client, namespace, segment_bytes=rng.choice([300, 6000, 1 << 20]))
    times: list[int] = []
    for _ in range(30):
        batch = [log.stamp - rng.randint(0, 100) for _ in range(rng.randint(1, 4))]
        log.append(*[bytes(rng.choice([1, 50, 400, 5000]))] * len(batch), times=batch)
        times += batch
    for timestamp in range(log.stamp - 102, log.stamp + 2):
        expected = next((i for i, time in enumerate(times) if time >= timestamp), None)
        assert found_at(log, timestamp) == expected, f"seed {seed}, time {timestamp - log.stamp}"


def test_each_segment_counts_its_own_times(redis_client: redis.Redis, namespace: str) -> None:
    """A late time in an old segment hides nothing in the ones behind it."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    for offset_ms in (50, 10, 30, 5):
        log.append(b"v", times=[log.stamp - 60 + offset_ms])
    assert [found_at(log, log.stamp - 60 + t) for t in (0, 5, 50, 51)] == [0, 0, 0, None]
    redis_client.zadd(log.keys.segs, {redis_client.zrange(log.keys.segs, 1, 1)[0]: log.run.now() - WEEK_MS})
    assert log.at_time(0).log_start == 1
    assert [found_at(log, log.stamp - 60 + t) for t in (0, 10, 11, 31)] == [1, 1, 2, None]


def test_500_segments_are_looked_at_in_a_call(redis_client: redis.Redis, namespace: str) -> None:
    """With more the answer says where to go on, and that nothing before it reaches the time: two hops, no third."""
    log = new_log(redis_client, namespace, segment_bytes=1)
    for i in range(620):
        log.append(b"v", times=[log.stamp + i])
    assert log.at_time(log.stamp + 499, follow=False) == ("SEGMENT", "499")
    assert log.at_time(log.stamp + 500, follow=False) == ("SEGMENT", "500")
    assert log.at_time(log.stamp + 500, segment=500, after=500).field.base == 500
    assert log.at_time(log.stamp + 600, segment=500, after=500, follow=False) == ("SEGMENT", "600")
    assert [log.offset_at(log.stamp + t) for t in (0, 499, 500, 600, 619, 620)] == [0, 499, 500, 600, 619, None]
    log.append(b"a late one", times=[log.stamp + 3])
    assert log.offset_at(log.stamp + 3) == 3
    log.close_ago(9, WEEK_MS)
    assert log.at_time(log.stamp + 509, follow=False) == ("SEGMENT", "509")
    assert log.at_time(log.stamp + 510, follow=False) == ("SEGMENT", "510")


@pytest.mark.parametrize("segment_bytes", [10, 100, 1 << 20])
def test_a_start_within_a_segment_or_a_field_hides_what_is_before(
    redis_client: redis.Redis, namespace: str, segment_bytes: int
) -> None:
    """The field that is named may have reached the time with a deleted record: a client looks on from there."""
    log = new_log(redis_client, namespace, segment_bytes=segment_bytes)
    times = [9, 1, 8, 2, 7, 3, 6, 4, 5, 0]
    for i in range(0, 10, 2):
        log.append(b"a" * (10 if i < 6 else 4100), b"b", times=[log.stamp + t for t in times[i : i + 2]])
    for before in range(11):
        assert log.delete_records(before) == before
        for time in range(-1, 11):
            expected = next((i for i in range(before, 10) if times[i] >= time), None)
            assert log.offset_at(log.stamp + time) == expected, (before, time)


def test_a_number_that_was_left_out_is_no_dead_end(redis_client: redis.Redis, namespace: str) -> None:
    """A segment that was dropped before the open one: nobody is sent to it for ever."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    log.append(b"a")
    log.set_meta(segment=5)
    assert log.at_time(log.stamp + 1).field is None
    assert log.offset_at(log.stamp) == 0


def test_looking_up_writes_nothing(redis_client: redis.Redis, namespace: str) -> None:
    """The script is flagged as one that only reads."""
    log = new_log(redis_client, namespace, segment_bytes=500)
    for _ in range(8):
        log.append(bytes(200))
    before = log.dump()
    log.at_time(-1)
    log.at_time(log.stamp)
    log.at_time(log.stamp + 1)
    assert log.dump() == before
    assert scripts.LIST_OFFSETS.flags == "no-writes"


def test_an_idle_partition_is_empty_after_its_deadline(log: Log) -> None:
    """What may no longer be read is not found either."""
    log.append(b"a", b"b")
    log.set_meta(deadline=log.run.now())
    answer = log.at_time(0)
    assert (answer.log_start, answer.next, answer.field) == (2, 2, None)


def _foreign(log: Log) -> Any:
    log.run.client.delete(log.keys.segment(0)[2])
    log.run.client.set(log.keys.segment(0)[2], "mine")
    return log.at_time(0)


def _damaged(log: Log) -> Any:
    log.run.client.hdel(log.keys.segment(0)[0], "0000000000000000")
    return log.at_time(0)


REFUSALS: dict[str, Callable[[Log], Any]] = {
    "FOREIGN": _foreign,
    "UNKNOWN_TOPIC": lambda log: (log.run.client.delete(log.keys.meta), log.at_time(0))[1],
    "TOPIC_REPLACED": lambda log: (log.set_meta(id="another"), log.at_time(0))[1],
    "LAYOUT": lambda log: (log.set_meta(min_v=2), log.at_time(0))[1],
    "DAMAGED": _damaged,
    "SEGMENT": lambda log: log.at_time(0, segment=9, follow=False),
}


def test_every_word_of_the_header_has_its_test() -> None:
    """The table above is complete."""
    assert set(REFUSALS) == scripts.LIST_OFFSETS.errors


@pytest.mark.parametrize("word", sorted(REFUSALS))
def test_each_no_is_said_and_writes_nothing(log: Log, word: str) -> None:
    """The word comes; asked again it comes again, and no key has changed in between."""
    log.append(bytes(5000))
    log.append(b"tail")
    answer = REFUSALS[word](log)
    assert answer[0] == word
    before = log.dump()
    assert REFUSALS[word](log)[0] == word
    assert log.dump() == before


def test_a_torn_tail_is_damage(log: Log) -> None:
    """The field that would hold the record is not what meta says."""
    log.append(b"tail")
    log.run.client.append(log.keys.tail, "x")
    assert log.at_time(0)[0] == "DAMAGED"


@pytest.mark.parametrize("name", ["meta", "segs", "log", "index", "times", "tail"])
def test_a_foreign_type_under_a_key_that_is_read_never_answers(log: Log, name: str) -> None:
    """Somebody's list where our data should be: an error, and nothing made up."""
    if name != "tail":
        log.append(bytes(5000))
    log.append(b"tail")
    keys = dict(zip(["log", "index", "times"], log.keys.segment(0), strict=True))
    key = keys.get(name) or getattr(log.keys, name)
    log.run.client.delete(key)
    log.run.client.rpush(key, "mine")
    answer = log.at_time(0)
    assert word_of(answer) in {"FOREIGN", "WRONGTYPE", "ERR"}, answer
