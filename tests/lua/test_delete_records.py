"""delete_records.lua: the log start rises, at once and for good; it never falls, and nothing else is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from streamlayer._core import calls, scripts
from tests.lua.run import TOPIC_ID, WEEK_MS, Log, new_log, word_of


def filled(client: redis.Redis, namespace: str, **created: Any) -> Log:
    """Twelve records: two closed segments of four, an open one with a field of two, a record in the tail, and one."""
    log = new_log(client, namespace, **({"segment_bytes": 9000} | created))
    for i in range(0, 10, 2):
        log.append(b"%d" % i + bytes(4600), b"%d" % (i + 1), times=[log.stamp + i, log.stamp + i + 1])
    log.append(b"10", times=[log.stamp + 10])
    log.append(b"11", times=[log.stamp + 11])
    assert [base for _, base, *_ in log.members()] == [0, 4]
    assert log.meta("segment_base", "tail_base", "next") == [8, 10, 12]
    return log


# --- where the log begins then ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", range(13))
def test_what_is_before_is_not_served_and_the_rest_is(redis_client: redis.Redis, namespace: str, before: int) -> None:
    """In a closed segment, at its end, in a field, in the tail, at the end of all: the start is exactly there."""
    log = filled(redis_client, namespace)
    everything = log.read()
    assert log.delete_records(before) == before
    assert (log.describe().log_start, log.describe().next) == (before, 12)
    for position in range(before):
        assert log.fetch(position) == ("OUT_OF_RANGE", f"{before} 12")
    assert log.read(before) == everything[before:]
    assert log.contradiction() == ""
    for ahead in range(13):
        first = max(before, ahead)
        assert log.offset_at(log.stamp + ahead) == (first if first < 12 else None)


def test_minus_one_deletes_all_there_is(redis_client: redis.Redis, namespace: str) -> None:
    """The log is empty and goes on at its end; the open segment's memory is free at once, the rest after a trim."""
    log = filled(redis_client, namespace)
    assert log.delete_records(-1) == 12
    assert (log.describe().bytes, log.describe().segments) == (0, 1)
    assert 2 not in log.segments_with_keys()
    assert log.run.client.get(log.keys.tail) == b""
    log.trim_all()
    assert log.segments_with_keys() == set()
    assert log.members() == []
    assert log.append(b"12").base_offset == 12
    assert log.read(12) == [b"12"]
    assert log.contradiction() == ""


def test_the_next_segment_has_no_end_of_its_own_before_its_first_record(log: Log) -> None:
    """The emptied tail lives on as a placeholder does; only an append gives it an end again."""
    log.append(b"a")
    log.delete_records(-1)
    assert log.run.client.pexpiretime(log.keys.tail) == -1
    assert log.meta("deadline", "segment_at", "segment_bytes", "tail_len") == [0, 0, 0, 0]
    log.append(b"b")
    assert log.run.client.pexpiretime(log.keys.tail) == log.meta("deadline")[0] > 0


def test_an_empty_log_can_be_emptied(log: Log) -> None:
    """Nothing happens, and it works afterwards."""
    before = log.dump()
    assert log.delete_records(-1) == 0
    assert log.delete_records(0) == 0
    assert log.dump() == before
    assert log.append(b"a").base_offset == 0


@pytest.mark.parametrize("before", [13, 99])
def test_beyond_the_end_nothing_can_be_deleted(redis_client: redis.Redis, namespace: str, before: int) -> None:
    """What is not there yet is not deleted in advance; the answer says what there is."""
    log = filled(redis_client, namespace)
    log.delete_records(3)
    kept = log.dump()
    assert log.delete_records(before) == ("OUT_OF_RANGE", "3 12")
    assert log.dump() == kept


# --- twice, late -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [2, 4, 9, 11, 12, -1])
def test_twice_is_once(redis_client: redis.Redis, namespace: str, before: int) -> None:
    """The same call again answers the same, and not a byte changes."""
    log = filled(redis_client, namespace)
    start = log.delete_records(before)
    kept = log.dump()
    assert log.delete_records(before, segment=0) == start
    assert log.dump() == kept


def test_the_start_never_falls(redis_client: redis.Redis, namespace: str) -> None:
    """A late call for an earlier offset answers where the log begins by now, and changes nothing."""
    log = filled(redis_client, namespace)
    log.delete_records(9)
    kept = log.dump()
    for before in range(10):
        assert log.delete_records(before) == 9
    assert log.dump() == kept
    log.delete_records(12)
    log.append(b"12")
    assert log.delete_records(12) == 12
    assert log.read(12) == [b"12"]


def test_what_retention_took_is_not_given_back(redis_client: redis.Redis, namespace: str) -> None:
    """An offset below the computed start is not stored as the start."""
    log = filled(redis_client, namespace)
    log.close_ago(0, WEEK_MS)
    assert log.delete_records(2) == 4
    assert log.meta("start") == [0]
    log.set_meta(deadline=log.run.now())
    assert log.delete_records(-1) == 12


def test_a_batch_that_was_deleted_is_still_a_duplicate(redis_client: redis.Redis, namespace: str) -> None:
    """Resent it gets its old answer and is not stored again, its segment freed or not."""
    log = new_log(redis_client, namespace)
    batch = log.batch([b"a"])
    first = log.send(batch, "me")
    log.delete_records(-1)
    log.trim_all()
    again = log.send(batch, "me")
    assert (again.base_offset, again.append_time) == (first.base_offset, first.append_time)
    assert log.describe().next == 1
    assert log.send(log.batch([b"b"], sequence=1), "me").base_offset == 1
    assert log.read(1) == [b"b"]


def test_who_does_not_know_the_open_segment_is_told(redis_client: redis.Redis, namespace: str) -> None:
    """Its keys are freed here, so they have to be named; nothing is written before."""
    log = filled(redis_client, namespace)
    kept = log.dump()
    assert log.delete_records(12, segment=0, follow=False) == ("SEGMENT", "2")
    assert log.delete_records(-1, segment=7, follow=False) == ("SEGMENT", "2")
    assert log.dump() == kept
    assert log.delete_records(11, segment=0, follow=False) == 11  # frees nothing, so any will do


def test_segments_are_freed_in_the_order_of_a_trim(redis_client: redis.Redis, namespace: str) -> None:
    """After all was deleted many times there is no key of it, and bytes are counted right."""
    log = new_log(redis_client, namespace, segment_bytes=6000, retention_bytes=30_000)
    for i in range(40):
        log.append(bytes(i * 331 % 4500))
        if i % 7 == 6:
            log.delete_records(-1)
    assert log.segments_with_keys() <= {number for number, *_ in log.members()} | set(log.meta("segment"))
    log.trim_all()
    assert log.contradiction() == ""
    assert len(log.read(log.describe().log_start)) == 5


def test_late_for_another_topic_nothing_is_deleted(log: Log) -> None:
    """A log that was made after the one that was meant."""
    log.append(b"a")
    kept = log.dump()
    assert log.run(calls.delete_records(log.keys, topic_id="another", before=-1)) == ("TOPIC_REPLACED", TOPIC_ID)
    assert log.dump() == kept


# --- every no --------------------------------------------------------------------------------------------------------


def _foreign(log: Log) -> Any:
    log.run.client.delete(log.keys.segs)
    log.run.client.set(log.keys.segs, "mine")
    return log.delete_records(3)


def _with_meta(**meta: Any) -> Callable[[Log], Any]:
    return lambda log: (log.set_meta(**meta), log.delete_records(3))[1]


REFUSALS: dict[str, Callable[[Log], Any]] = {
    "FOREIGN": _foreign,
    "UNKNOWN_TOPIC": lambda log: (log.run.client.delete(log.keys.meta), log.delete_records(3))[1],
    "TOPIC_REPLACED": _with_meta(id="another"),
    "LAYOUT": _with_meta(min_v=2),
    "DAMAGED": _with_meta(damaged="torn"),
    "OUT_OF_RANGE": lambda log: log.delete_records(99),
    "SEGMENT": lambda log: log.delete_records(-1, segment=0, follow=False),
}


def test_every_word_of_the_header_has_its_test() -> None:
    """The table above is complete."""
    assert set(REFUSALS) == scripts.DELETE_RECORDS.errors


@pytest.mark.parametrize("word", sorted(REFUSALS))
def test_each_no_is_said_and_writes_nothing(redis_client: redis.Redis, namespace: str, word: str) -> None:
    """The word comes; asked again it comes again, and no key has changed in between."""
    log = filled(redis_client, namespace)
    assert word_of(REFUSALS[word](log)) == word
    before = log.dump()
    assert word_of(REFUSALS[word](log)) == word
    assert log.dump() == before


@pytest.mark.parametrize("name", ["meta", "segs", "tail", "log", "index", "times"])
def test_a_foreign_type_is_named_and_left_alone(redis_client: redis.Redis, namespace: str, name: str) -> None:
    """Deleting all records must not delete somebody else's data that stands under one of the keys."""
    log = filled(redis_client, namespace)
    keys = dict(zip(["log", "index", "times"], log.keys.segment(2), strict=True))
    key = keys.get(name) or getattr(log.keys, name)
    redis_client.delete(key)
    redis_client.rpush(key, "mine")
    before = log.dump()
    assert log.delete_records(-1) == ("FOREIGN", key)
    assert log.dump() == before


def test_a_full_server_can_be_emptied() -> None:
    """Deleting runs where memory is full: that is when it is needed."""
    assert scripts.DELETE_RECORDS.flags == "allow-oom"
