"""repair_partition.lua: a damaged partition goes on without what it holds, and no offset comes again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from streamlayer._core import calls, scripts
from tests.lua.run import Log, new_log, word_of

TORN = "torn"


def filled(client: redis.Redis, namespace: str) -> Log:
    """Twelve records: two closed segments of four, an open one with a field of two, two in the tail."""
    log = new_log(client, namespace, segment_bytes=9000)
    for i in range(0, 10, 2):
        log.append(b"%d" % i + bytes(4600), b"%d" % (i + 1), times=[log.stamp + i, log.stamp + i + 1])
    log.append(b"10", times=[log.stamp + 10])
    log.append(b"11", times=[log.stamp + 11])
    return log


def repair(log: Log, *, damage: str = TORN, end: int | None = None, segment: int = 2) -> Any:
    """Call it, as one who has just read what it says of itself."""
    at = log.meta("next")[0] if end is None else end
    return log.run(calls.repair_partition(log.keys, topic_id=log.topic_id, damage=damage, end=at, segment=segment))


def _torn_roll(log: Log) -> None:
    """The keys of the next segment are there already, and its predecessor is closed; meta knows nothing of it."""
    client, (first, *others) = log.run.client, log.keys.segment(3)
    client.zadd(log.keys.segs, {f"{2:016d}:8:18400:9": 2**42})
    client.hset(first, mapping={"-": "", f"{12:016d}": b"half"})
    for each in others:
        client.zadd(each, {"-": -1, f"{12:016d}": 14})


DAMAGES: dict[str, tuple[Callable[[Log], Any], int]] = {
    "the tail is too long": (lambda log: log.run.client.append(log.keys.tail, b"half"), 12),
    "the tail is gone": (lambda log: log.run.client.delete(log.keys.tail), 12),
    "a field is gone": (lambda log: log.run.client.hdel(log.keys.segment(2)[0], f"{8:016d}"), 12),
    "the index is gone": (lambda log: log.run.client.delete(log.keys.segment(2)[1]), 12),
    "next is too low": (lambda log: log.set_meta(next=9), 10),
    "the index is further than meta": (lambda log: log.run.client.zadd(log.keys.segment(2)[1], {f"{12:016d}": 30}), 31),
    "segs is gone": (lambda log: log.run.client.delete(log.keys.segs), 12),
    "a torn roll": (_torn_roll, 12),
}


@pytest.mark.parametrize("mark", [TORN, ""], ids=["marked", "found"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_it_goes_on_behind_all_that_was_given(
    redis_client: redis.Redis, namespace: str, damage: str, mark: str
) -> None:
    """Empty, at an end that is not below any trace of a record; appends, rolls and reads are sound from there."""
    log = filled(redis_client, namespace)
    break_it, end = DAMAGES[damage]
    break_it(log)
    if mark:
        log.set_meta(damaged=mark)
    assert repair(log, damage=mark) == end
    assert (log.describe().log_start, log.describe().next) == (end, end)
    log.trim_all()
    assert log.members() == []
    assert log.contradiction() == ""
    for i in range(5):
        assert log.append(b"%d" % i + bytes(4600)).base_offset == end + i
    log.append(b"tail")
    assert len(log.members()) == 2
    assert log.contradiction() == ""
    assert len(log.read(end)) == 6


def test_a_reader_of_what_is_gone_is_told(redis_client: redis.Redis, namespace: str) -> None:
    """Before the new start: out of range. Beyond it, having crossed an epoch: truncated there."""
    log = filled(redis_client, namespace)
    pair = log.fetch(0).epochs.rpartition(":")[0]
    log.set_meta(next=9, damaged=TORN)
    assert repair(log) == 10
    assert log.fetch(9, crossed=pair, follow=False) == ("OUT_OF_RANGE", "10 10")
    assert log.fetch(12, crossed=pair, follow=False) == ("TRUNCATED", "10 10")


def test_twice_or_late_it_does_nothing(redis_client: redis.Redis, namespace: str) -> None:
    """What came since is kept; so is a partition with another damage, and one with none."""
    log = filled(redis_client, namespace)
    log.set_meta(damaged=TORN)
    assert repair(log) == 12
    log.append(b"12")
    kept = log.dump()
    assert repair(log, end=12) == 12
    assert repair(log, damage="", end=12) == 12
    assert log.dump() == kept
    log.set_meta(damaged="something else")
    kept = log.dump()
    assert repair(log) == 12
    assert log.dump() == kept


# --- every no --------------------------------------------------------------------------------------------------------


def _foreign(log: Log) -> Any:
    log.run.client.delete(log.keys.tail)
    log.run.client.rpush(log.keys.tail, "mine")
    return repair(log)


def _with_meta(**meta: Any) -> Callable[[Log], Any]:
    return lambda log: (log.set_meta(**meta), repair(log))[1]


REFUSALS: dict[str, Callable[[Log], Any]] = {
    "FOREIGN": _foreign,
    "UNKNOWN_TOPIC": lambda log: (log.run.client.delete(log.keys.meta), repair(log, end=12))[1],
    "TOPIC_REPLACED": _with_meta(id="another"),
    "LAYOUT": _with_meta(min_v=2),
    "SEGMENT": lambda log: repair(log, segment=0),
}


def test_every_word_of_the_header_has_its_test() -> None:
    """The table above is complete."""
    assert set(REFUSALS) == scripts.REPAIR_PARTITION.errors


@pytest.mark.parametrize("word", sorted(REFUSALS))
def test_each_no_is_said_and_writes_nothing(redis_client: redis.Redis, namespace: str, word: str) -> None:
    """The word comes; asked again it comes again, and no key has changed in between."""
    log = filled(redis_client, namespace)
    log.set_meta(damaged=TORN)
    assert word_of(REFUSALS[word](log)) == word
    before = log.dump()
    assert word_of(REFUSALS[word](log)) == word
    assert log.dump() == before


def test_a_full_server_can_be_repaired() -> None:
    """It frees memory."""
    assert scripts.REPAIR_PARTITION.flags == "allow-oom"
