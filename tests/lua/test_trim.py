"""trim.lua: whole closed segments go that nothing keeps, the oldest first; whatever a caller names, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from streamlayer._core import calls, scripts
from streamlayer._core.calls import Trimmed
from tests.lua.run import TOPIC_ID, WEEK_MS, Log, new_log, word_of

AT_ONCE = calls.SEGMENTS_AT_ONCE


def segmented(client: redis.Redis, namespace: str, count: int = 10, **created: Any) -> Log:
    """A log of closed segments with one record each, and an open one without any."""
    log = new_log(client, namespace, **({"segment_bytes": 10} | created))
    for i in range(count):
        log.append(b"%d" % i)
    assert [number for number, *_ in log.members()] == list(range(count))
    return log


def size_of_one(log: Log) -> int:
    """How many bytes each segment of `segmented` has."""
    return log.members()[1][2]


# --- what may go -----------------------------------------------------------------------------------------------------


def test_who_asks_is_told_and_nothing_is_freed(redis_client: redis.Redis, namespace: str) -> None:
    """Without naming a segment: the log start, and which segments may go; not a key changes but `trim_at`."""
    log = segmented(redis_client, namespace)
    assert log.trim() == Trimmed(0, -1, -1)
    log.close_ago(3, WEEK_MS)
    before = log.dump()
    assert log.trim() == Trimmed(4, 0, 3)
    assert log.dump() == before


def test_what_is_overdue_goes_with_its_keys(redis_client: redis.Redis, namespace: str) -> None:
    """Members and all three keys of each; the rest is untouched and can be read."""
    log = segmented(redis_client, namespace)
    log.close_ago(3, WEEK_MS)
    assert log.trim(0, 3) == Trimmed(4, -1, -1)
    assert [number for number, *_ in log.members()] == [4, 5, 6, 7, 8, 9]
    assert log.segments_with_keys() == set(range(4, 10))
    assert log.read(4) == [b"%d" % i for i in range(4, 10)]
    assert log.contradiction() == ""


def test_to_the_millisecond_by_the_rule_of_readers(redis_client: redis.Redis, namespace: str) -> None:
    """What a reader is still served is not freed; what he is not served is."""
    log = segmented(redis_client, namespace, 2)
    log.close_ago(0, WEEK_MS - 60_000)
    assert log.trim(0, 0) == Trimmed(0, -1, -1)
    log.close_ago(0, WEEK_MS)
    assert log.trim(0, 0) == Trimmed(1, -1, -1)


def test_by_size_a_segment_goes_when_the_rest_holds_enough(redis_client: redis.Redis, namespace: str) -> None:
    """At least `retention_bytes` stay; one byte more is asked for, and one segment more stays."""
    log = segmented(redis_client, namespace)
    one = size_of_one(log)
    log.set_meta(retention_bytes=4 * one + 1)
    assert log.trim() == Trimmed(0, 0, 4)
    log.set_meta(retention_bytes=4 * one)
    assert log.trim() == Trimmed(0, 0, 5)
    assert log.trim(0, 5) == Trimmed(6, -1, -1)
    assert log.describe().bytes == 4 * one


def test_the_open_segment_counts_and_never_goes(redis_client: redis.Redis, namespace: str) -> None:
    """Its bytes are among those that are kept; it is not a closed one, however little is to be kept."""
    log = segmented(redis_client, namespace, 3)
    one = size_of_one(log)
    log.set_meta(segment_limit=1 << 20, retention_bytes=one)
    log.append(b"3")
    assert log.describe().log_start == 2
    assert log.trim_all() == 1
    assert (log.describe().log_start, log.describe().bytes) == (3, one)
    log.set_meta(retention_bytes=0)
    assert log.trim_all() == 0
    assert log.read(3) == [b"3"]


def test_deleted_segments_go(redis_client: redis.Redis, namespace: str) -> None:
    """Those that lie whole before the start; the one that the start lies in stays."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    for i in range(4):
        log.append(b"%d" % i, b"and another")
    log.delete_records(5)
    assert log.trim() == Trimmed(5, 0, 1)
    assert log.trim_all() == 1
    assert [number for number, *_ in log.members()] == [2, 3]
    assert log.read(5) == [b"and another", b"3", b"and another"]


def test_without_limits_nothing_goes(redis_client: redis.Redis, namespace: str) -> None:
    """-1 and -1: whatever the age and the size."""
    log = segmented(redis_client, namespace, retention_ms=-1)
    log.close_ago(9, 100 * WEEK_MS)
    assert log.trim(0, 9) == Trimmed(0, -1, -1)
    assert log.segments_with_keys() == set(range(10))


def test_an_idle_partition_past_its_deadline_is_emptied(redis_client: redis.Redis, namespace: str) -> None:
    """Its closed segments go; of the open one the next append disposes."""
    log = segmented(redis_client, namespace, 3)
    log.set_meta(segment_limit=1 << 20)
    log.append(b"3")
    log.close_ago(2, WEEK_MS)
    log.set_meta(deadline=log.run.now())
    assert log.trim(0, 2) == Trimmed(4, -1, -1)
    assert log.members() == []


# --- whatever is named -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "freed"),
    [((0, 7), {0, 1, 2, 3}), ((0, 1), {0, 1}), ((1, 3), set()), ((5, 9), set()), ((11, 20), set())],
)
def test_only_what_may_go_and_has_nothing_before_it_is_freed(
    redis_client: redis.Redis, namespace: str, named: tuple[int, int], freed: set[int]
) -> None:
    """A range that is too long, too short, begins too late, or is of segments that are not there."""
    log = segmented(redis_client, namespace)
    log.close_ago(3, WEEK_MS)
    answer = log.trim(*named)
    left = set(range(10)) - freed
    assert log.segments_with_keys() == {number for number, *_ in log.members()} == left
    first = min(left)
    assert answer == (Trimmed(4, first, 3) if first < 4 else Trimmed(4, -1, -1))


def test_twice_and_late_change_nothing(redis_client: redis.Redis, namespace: str) -> None:
    """The same call again finds nothing more to free, whatever came since."""
    log = segmented(redis_client, namespace)
    log.close_ago(3, WEEK_MS)
    log.trim(0, 3)
    for _ in range(2):
        before = log.dump()
        assert log.trim(0, 3) == Trimmed(4, -1, -1)
        assert log.dump() == before
        log.append(b"more")


def test_late_for_another_topic_nothing_is_freed(redis_client: redis.Redis, namespace: str) -> None:
    """A log that was made after the one that was meant has segments of the same numbers."""
    log = segmented(redis_client, namespace)
    log.close_ago(3, WEEK_MS)
    before = log.dump()
    call = calls.trim(log.keys, topic_id="another", segments=(0, 3))
    assert log.run(call) == ("TOPIC_REPLACED", TOPIC_ID)
    assert log.dump() == before


def test_a_bounded_number_of_segments_a_call(redis_client: redis.Redis, namespace: str) -> None:
    """However many may go: no server stands still for them, and the answers lead through all."""
    count = 2 * AT_ONCE + 6
    log = segmented(redis_client, namespace, count)
    start = count - 3
    log.close_ago(start - 1, WEEK_MS)
    assert log.trim() == Trimmed(start, 0, AT_ONCE - 1)
    assert log.trim(0, 200) == Trimmed(start, AT_ONCE, 2 * AT_ONCE - 1)
    assert log.segments_with_keys() == set(range(AT_ONCE, count))
    assert log.trim(AT_ONCE, 2 * AT_ONCE - 1) == Trimmed(start, 2 * AT_ONCE, start - 1)
    assert log.trim(2 * AT_ONCE, start - 1) == Trimmed(start, -1, -1)
    assert log.segments_with_keys() == set(range(start, count))


def test_numbers_with_a_gap_are_led_over(redis_client: redis.Redis, namespace: str) -> None:
    """A dropped segment leaves its number out; a range longer than a call still comes to its end."""
    log = segmented(redis_client, namespace, 3)
    log.set_meta(segment=300)
    for i in range(3, 6):
        log.append(b"%d" % i)
    log.close_ago(301, WEEK_MS)
    assert log.trim() == Trimmed(5, 0, 301)
    assert log.trim(0, 301) == Trimmed(5, 300, 301)
    assert log.trim(300, 301) == Trimmed(5, -1, -1)
    assert log.segments_with_keys() == {302}


# --- append sends here -----------------------------------------------------------------------------------------------


def test_an_append_waits_for_the_trim_by_size(redis_client: redis.Redis, namespace: str) -> None:
    """The batch with which the rest holds enough is refused until the oldest is gone; then it is taken."""
    log = segmented(redis_client, namespace, 3)
    one = size_of_one(log)
    log.alter_all(retention_bytes=3 * one, segment_bytes=2 * one)
    assert log.meta("trim_at") == [one]
    before = log.dump()
    batch = log.batch([b"3"])
    assert log.send(batch, "me", follow=False) == ("TRIM", "0 0")
    assert log.dump() == before
    assert log.trim(0, 0) == Trimmed(0, -1, -1)  # nothing may go if nothing comes
    assert log.trim(0, 0, len(batch.frame) - 1) == Trimmed(0, -1, -1)
    assert log.trim(0, 0, len(batch.frame)) == Trimmed(1, -1, -1)
    assert word_of(log.send(batch, "me", follow=False)) == "OK"
    assert log.describe().bytes == 3 * one


def test_without_idempotence_what_is_there_decides(redis_client: redis.Redis, namespace: str) -> None:
    """A small batch never overtakes a large one that was sent before it: both are refused, or none."""
    log = segmented(redis_client, namespace, 3)
    one = size_of_one(log)
    log.alter_all(retention_bytes=3 * one, segment_bytes=1000)
    assert log.append(bytes(100), follow=False, producer="me")[0] == "TRIM"
    assert word_of(log.append(bytes(100), follow=False)) == "OK"
    for size in (100, 0):
        assert log.append(bytes(size), follow=False) == ("TRIM", "0 2")
    assert log.trim(0, 2)[1:] == (-1, -1)
    for size in (100, 0):
        assert word_of(log.append(bytes(size), follow=False)) == "OK"


@pytest.mark.parametrize(("producer", "frames"), [("me", 1), ("", 2)])
def test_a_log_never_grows_past_its_bytes_a_segment_and_a_batch(
    redis_client: redis.Redis, namespace: str, producer: str, frames: int
) -> None:
    """After each append, whatever the sizes; and at least `retention_bytes` are there once they were.

    On top is the oldest segment: its limit and the batch that passed it. Without idempotence one batch more.
    """
    log = new_log(redis_client, namespace, retention_bytes=20_000, segment_bytes=4000)
    largest, total = 0, 0
    for i in range(120):
        batch = log.batch([bytes(i * 37 % 5000)], sequence=i)
        log.send(batch, producer)
        largest, total = max(largest, len(batch.frame)), total + len(batch.frame)
        held = log.describe().bytes
        assert min(total, 20_000) <= held < 20_000 + 4000 + frames * largest
    assert log.describe().log_start > 0
    assert log.contradiction() == ""


def test_the_trim_that_an_append_asks_for_is_enough(redis_client: redis.Redis, namespace: str) -> None:
    """Whatever the sizes: one trim with the batch's bytes, and the batch is taken; they never send it to and fro."""
    log = new_log(redis_client, namespace, retention_bytes=20_000, segment_bytes=4000)
    trims = 0
    for i in range(150):
        batch = log.batch([bytes(i * 1237 % 9000)], sequence=i)
        answer = log.send(batch, "me", follow=False)
        if word_of(answer) == "TRIM":
            trims += 1
            assert log.trim(*map(int, answer[1].split()), len(batch.frame))[1:] == (-1, -1)
            answer = log.send(batch, "me", follow=False)
        if word_of(answer) == "SEGMENT":
            answer = log.send(batch, "me")
        assert word_of(answer) == "OK"
    assert trims > 50


def test_a_trim_whose_batch_never_comes_leaves_all_but_its_bytes(redis_client: redis.Redis, namespace: str) -> None:
    """However often it is called: never more than one batch's bytes are missing from `retention_bytes`."""
    log = segmented(redis_client, namespace)
    one = size_of_one(log)
    log.set_meta(retention_bytes=4 * one)
    for _ in range(3):
        assert log.trim(0, 9, 2 * one) == Trimmed(8, -1, -1)
        assert log.describe().bytes == 2 * one
    log.append(b"more")
    assert log.trim() == Trimmed(8, -1, -1)


def test_trims_end_also_when_much_is_to_go(redis_client: redis.Redis, namespace: str) -> None:
    """A retention that was cut down to almost nothing: a few trims, then the append is taken."""
    count = 2 * AT_ONCE + 5
    log = segmented(redis_client, namespace, count)
    log.alter_all(retention_bytes=1)
    words = []
    while word_of(answer := log.append(b"x", follow=False)) == "TRIM":
        words.append(answer[1])
        log.trim(*map(int, answer[1].split()))
    assert words == [f"0 {AT_ONCE - 1}", f"{AT_ONCE} {2 * AT_ONCE - 1}", f"{2 * AT_ONCE} {count - 2}"]
    assert answer.base_offset == count
    assert log.describe().log_start == count - 1


def test_what_becomes_overdue_goes_before_the_next_batch(redis_client: redis.Redis, namespace: str) -> None:
    """Also in the midst of a segment: the memory is freed by who appends, before the keys' own end."""
    log = segmented(redis_client, namespace, 3)
    log.set_meta(segment_limit=1 << 20)
    log.append(b"3")
    log.close_ago(1, WEEK_MS)
    assert log.append(b"4", follow=False) == ("TRIM", "0 1")
    assert log.append(b"4").base_offset == 4
    assert log.segments_with_keys() == {2, 3}
    assert log.meta("oldest_closed") == [log.members()[0][4]]
    assert log.contradiction() == ""


def test_a_duplicate_is_answered_without_a_trim(redis_client: redis.Redis, namespace: str) -> None:
    """A batch that is in the log needs no room."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    batch = log.batch([b"a"])
    first = log.send(batch, "me")
    log.close_ago(0, WEEK_MS)
    assert log.append(b"b", follow=False)[0] == "TRIM"
    assert log.send(batch, "me", follow=False).base_offset == first.base_offset


# --- every no --------------------------------------------------------------------------------------------------------


def _foreign(log: Log) -> Any:
    log.run.client.delete(log.keys.segs)
    log.run.client.set(log.keys.segs, "mine")
    return log.trim(0, 3)


def _with_meta(**meta: Any) -> Callable[[Log], Any]:
    return lambda log: (log.set_meta(**meta), log.trim(0, 3))[1]


REFUSALS: dict[str, Callable[[Log], Any]] = {
    "FOREIGN": _foreign,
    "UNKNOWN_TOPIC": lambda log: (log.run.client.delete(log.keys.meta), log.trim(0, 3))[1],
    "TOPIC_REPLACED": _with_meta(id="another"),
    "LAYOUT": _with_meta(min_v=2),
    "DAMAGED": _with_meta(damaged="torn"),
}


def test_every_word_of_the_header_has_its_test() -> None:
    """The table above is complete."""
    assert set(REFUSALS) == scripts.TRIM.errors


@pytest.mark.parametrize("word", sorted(REFUSALS))
def test_each_no_is_said_and_writes_nothing(redis_client: redis.Redis, namespace: str, word: str) -> None:
    """The word comes; asked again it comes again, and no key has changed in between."""
    log = segmented(redis_client, namespace, 4)
    log.close_ago(3, WEEK_MS)
    assert word_of(REFUSALS[word](log)) == word
    before = log.dump()
    assert word_of(REFUSALS[word](log)) == word
    assert log.dump() == before


def test_a_foreign_meta_is_named(log: Log) -> None:
    """Somebody's data under the partition's first key."""
    log.run.client.delete(log.keys.meta)
    log.run.client.rpush(log.keys.meta, "mine")
    assert log.trim(0, 0) == ("FOREIGN", log.keys.meta)


def test_a_full_server_can_be_trimmed() -> None:
    """Trimming runs where memory is full: that is when it is needed."""
    assert scripts.TRIM.flags == "allow-oom"
