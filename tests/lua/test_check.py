"""check.lua: keys that contradict each other are found and named; a healthy log gives none, in whatever state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from streamlayer._core import calls, scripts
from streamlayer._core.calls import Checked
from tests.lua.run import TOPIC_ID, WEEK_MS, Log, new_log, word_of

FIELD = "0000000000000008"


def check(log: Log, segment: int = -1, rank: int = 0, size: int = 0) -> Any:
    """One call."""
    return log.run(calls.check(log.keys, topic_id=TOPIC_ID, segment=segment, rank=rank, size=size))


def filled(client: redis.Redis, namespace: str, **created: Any) -> Log:
    """Two closed segments of two fields, an open one with two fields and a tail; two records in each."""
    log = new_log(client, namespace, **({"segment_bytes": 9000} | created))
    for i in range(0, 12, 2):
        log.append(b"%d" % i + bytes(4600), b"%d" % (i + 1), times=[log.stamp + i, log.stamp + i + 1])
        if i == 6:
            log.alter_all(segment_bytes=1 << 20)
    log.append(b"12", b"13")
    assert [base for _, base, *_ in log.members()] == [0, 4]
    assert log.meta("segment", "segment_base", "tail_base", "next") == [2, 8, 12, 14]
    return log


# --- healthy ---------------------------------------------------------------------------------------------------------


def _rolled(log: Log) -> None:
    log.set_meta(segment_at=1)
    log.append(b"next")


def _trimmed(log: Log) -> None:
    log.close_ago(0, WEEK_MS)
    assert log.trim_all() == 1


def _overdue(log: Log) -> None:
    log.close_ago(0, WEEK_MS)
    log.run.client.delete(*log.keys.segment(0))


def _all_overdue(log: Log) -> None:
    log.close_ago(1, WEEK_MS)
    log.set_meta(deadline=log.run.now())
    log.run.client.delete(log.keys.tail, *log.keys.segment(0), *log.keys.segment(1), *log.keys.segment(2))


def _begun_anew(log: Log) -> None:
    _all_overdue(log)
    log.append(b"14")


def _by_size(log: Log) -> None:
    log.alter_all(9, retention_bytes=10_000)
    log.append(b"14")
    assert log.describe().log_start == 4


STATES: dict[str, Callable[[Log], Any]] = {
    "as it is": lambda log: None,
    "rolled": _rolled,
    "trimmed": _trimmed,
    "trimmed by size": _by_size,
    "overdue": _overdue,
    "all overdue": _all_overdue,
    "begun anew": _begun_anew,
    "records deleted in a closed segment": lambda log: log.delete_records(3),
    "records deleted to a segment's end": lambda log: log.delete_records(4),
    "records deleted in a field": lambda log: log.delete_records(9),
    "records deleted in the tail": lambda log: log.delete_records(13),
    "all records deleted": lambda log: log.delete_records(-1),
    "all records deleted, and more": lambda log: (log.delete_records(-1), log.append(b"14"), _rolled(log)),
    "kept longer": lambda log: log.alter_all(9, retention_ms=-1),
    "kept shorter": lambda log: log.alter_all(9, retention_ms=WEEK_MS // 7),
    "half altered": lambda log: log.alter(9, retention_ms=WEEK_MS // 7, retention_bytes=10_000),
    "frozen": lambda log: log.set_meta(growing=4),
    "grown": lambda log: log.set_meta(generation=2, partitions=4),
    "a batch longer than a step": lambda log: log.append(bytes(600_000)),
}


@pytest.mark.parametrize("state", sorted(STATES))
def test_a_healthy_log_has_no_contradiction(redis_client: redis.Redis, namespace: str, state: str) -> None:
    """Whatever was done to it by the scripts, or by time; and checking changes nothing."""
    log = filled(redis_client, namespace)
    STATES[state](log)
    before = log.dump()
    assert log.contradiction() == ""
    assert log.dump() == before


def test_a_log_that_begins_has_none(log: Log) -> None:
    """Without a record, with a tail only, with a field only."""
    assert check(log) == Checked(0, 0, 0, "")
    assert log.contradiction() == ""
    log.append(b"tail")
    assert log.contradiction() == ""
    log.append(bytes(5000))
    assert log.contradiction() == ""


def test_a_call_looks_at_a_bounded_part(redis_client: redis.Redis, namespace: str) -> None:
    """64 fields, or half a MiB: the answer says where to go on, and what came meanwhile is looked at too."""
    log = new_log(redis_client, namespace, segment_bytes=64 << 20)
    for i in range(150):
        log.append(b"%d" % i + bytes(4100))
    first = check(log, 0)
    assert (first.segment, first.rank, first.contradiction) == (0, 65, "")
    second = check(log, *first[:3])
    assert (second.segment, second.rank) == (0, 129)
    log.append(b"tail")
    log.append(bytes(4100))
    assert check(log, *second[:3]) == Checked(-1, 0, 0, "")
    for _ in range(5):
        log.append(bytes(250_000))
    assert check(log, *second[:3]).rank == 129 + 24 + 2


def test_what_is_done_between_two_calls_is_no_contradiction(redis_client: redis.Redis, namespace: str) -> None:
    """The segment in hand closes, is trimmed, or all records are deleted: the next call goes on from there."""
    log = filled(redis_client, namespace)
    _rolled(log)
    assert log.run(calls.check(log.keys, topic_id=TOPIC_ID, segment=2)) == Checked(3, 0, 0, "")
    log.close_ago(0, WEEK_MS)
    log.trim_all()
    assert check(log, 0, 1, 4700) == Checked(1, 0, 0, "")
    log.delete_records(-1)
    assert check(log, 1, 2, 4700) == Checked(log.meta("segment")[0], 0, 0, "")
    assert check(log, 9, 2, 4700) == Checked(-1, 0, 0, "")  # a crash took segment 9 away


# --- tampered with ---------------------------------------------------------------------------------------------------


def _key(log: Log, name: str, segment: int) -> str:
    keys: dict[str, str] = dict(zip(["log", "index", "times"], log.keys.segment(segment), strict=True))
    return keys.get(name) or str(getattr(log.keys, name))


def _member(log: Log, rank: int, place: int, value: int) -> None:
    """Change one part of a member of ``segs``."""
    client = log.run.client
    ((member, closed),) = client.zrange(log.keys.segs, rank, rank, withscores=True)
    parts = member.split(b":")
    parts[place] = b"%d" % value
    client.zrem(log.keys.segs, member)
    client.zadd(log.keys.segs, {b":".join(parts): closed})


def _shorten(log: Log) -> None:
    """Cut the last byte off a field."""
    key = _key(log, "log", 2)
    frames = log.run.client.hget(key, FIELD)
    assert frames is not None
    log.run.client.hset(key, FIELD, frames[:-1])


def _exchange(log: Log) -> None:
    """A field in the place of another one, as whole as it was."""
    key = _key(log, "log", 0)
    other = log.batch([b"more", b"and", b"more"]).frame
    log.run.client.hset(key, "0000000000000000", other)


def _torn_tail(log: Log) -> None:
    """The tail as long as it should be, and nonsense."""
    log.run.client.set(log.keys.tail, bytes(log.meta("tail_len")[0]))


TAMPERED: dict[str, tuple[Callable[[Log], Any], str]] = {
    "a member is gone": (lambda log: log.run.client.zremrangebyrank(log.keys.segs, 2, 2), "segment 0: segs has a gap"),
    "a member's base": (lambda log: _member(log, 2, 1, 5), "segment 0: it ends at 4, what follows begins at 5"),
    "a member's position": (lambda log: _member(log, 2, 2, 5), "segment 0: it holds "),
    "a member's timestamp": (lambda log: _member(log, 1, 3, 5), "segment 0: its highest timestamp is not"),
    "a closed log is gone": (lambda log: log.run.client.delete(_key(log, "log", 0)), "segment 0: log, index and times"),
    "a closed index is gone": (lambda log: log.run.client.delete(_key(log, "index", 0)), "segment 0: log, index"),
    "all of a closed one": (lambda log: log.run.client.delete(*log.keys.segment(1)), "segment 1: "),
    "all of the open one": (
        lambda log: log.run.client.delete(*log.keys.segment(2)),
        "segment 2: the index of segment 2 is gone",
    ),
    "a field is gone": (lambda log: log.run.client.hdel(_key(log, "log", 0), "0000000000000000"), "segment 0: log, in"),
    "a time is gone": (lambda log: log.run.client.zrem(_key(log, "times", 2), FIELD), "segment 2: log, index and"),
    "a time falls": (lambda log: log.run.client.zadd(_key(log, "times", 0), {"0000000000000002": 5}), "does not rise"),
    "a field is too short": (_shorten, f"segment 2: field {FIELD} does not end at 9"),
    "a field has other records": (_exchange, "segment 0: field 0000000000000000 does not end at 1"),
    "an index ends elsewhere": (
        lambda log: log.run.client.zadd(_key(log, "index", 1), {"0000000000000006": 9}),
        "ment 1",
    ),
    "a field begins elsewhere": (
        lambda log: (
            [log.run.client.zrem(_key(log, name, 0), "0000000000000002") for name in ("index", "times")]
            + [log.run.client.hdel(_key(log, "log", 0), "0000000000000002")]
        ),
        "segment 0: it ends at 2, what follows begins at 4",
    ),
    "the tail is too short": (lambda log: log.run.client.set(log.keys.tail, "x"), "segment 2: the tail is not as long"),
    "the tail is nonsense": (_torn_tail, "segment 2: the tail holds -1 records"),
    "the tail's base": (
        lambda log: log.set_meta(tail_base=11),
        "segment 2: the index ends at 11, the tail begins at 11",
    ),
    "the end": (lambda log: log.set_meta(next=20), "segment 2: the tail holds 2 records"),
    "offsets": (lambda log: log.set_meta(tail_base=99), "segment 2: offsets are not in order"),
    "the start": (lambda log: log.set_meta(start=99), "offsets are not in order"),
    "the segment's bytes": (lambda log: log.set_meta(segment_bytes=7), "segment 2: it holds "),
    "the segment's position": (lambda log: log.set_meta(segment_position=7), "segment 1: it holds "),
    "the placeholder": (
        lambda log: log.run.client.zrem(log.keys.segs, "-"),
        "segment 2: segs has lost its placeholder",
    ),
    "trim_at": (lambda log: log.set_meta(trim_at=7), "segment 2: trim_at is 7"),
    "oldest_closed": (lambda log: log.set_meta(oldest_closed=7), "segment 2: oldest_closed is 7"),
}


@pytest.mark.parametrize("what", sorted(TAMPERED))
def test_each_contradiction_is_named(redis_client: redis.Redis, namespace: str, what: str) -> None:
    """One thing is changed behind the scripts' back: the segment is named, and what is wrong there."""
    log = filled(redis_client, namespace)
    change, words = TAMPERED[what]
    change(log)
    before = log.dump()
    assert words in log.contradiction()
    assert log.dump() == before


# --- every no --------------------------------------------------------------------------------------------------------


def _foreign(log: Log) -> Any:
    log.run.client.delete(log.keys.segs)
    log.run.client.set(log.keys.segs, "mine")
    return check(log)


def _with_meta(**meta: Any) -> Callable[[Log], Any]:
    return lambda log: (log.set_meta(**meta), check(log))[1]


REFUSALS: dict[str, Callable[[Log], Any]] = {
    "FOREIGN": _foreign,
    "UNKNOWN_TOPIC": lambda log: (log.run.client.delete(log.keys.meta), check(log))[1],
    "TOPIC_REPLACED": _with_meta(id="another"),
    "LAYOUT": _with_meta(min_v=2),
    "DAMAGED": _with_meta(damaged="torn"),
}


def test_every_word_of_the_header_has_its_test() -> None:
    """The table above is complete."""
    assert set(REFUSALS) == scripts.CHECK.errors


@pytest.mark.parametrize("word", sorted(REFUSALS))
def test_each_no_is_said_and_writes_nothing(log: Log, word: str) -> None:
    """The word comes; asked again it comes again, and no key has changed in between."""
    log.append(b"a")
    assert word_of(REFUSALS[word](log)) == word
    before = log.dump()
    assert word_of(REFUSALS[word](log)) == word
    assert log.dump() == before


@pytest.mark.parametrize("name", ["meta", "segs", "tail", "log", "index", "times"])
def test_a_foreign_type_is_named(log: Log, name: str) -> None:
    """Somebody's list where our data should be is no contradiction, it is not ours."""
    log.append(bytes(5000))
    key = _key(log, name, 0)
    log.run.client.delete(key)
    log.run.client.rpush(key, "mine")
    assert check(log) == ("FOREIGN", key)


def test_checking_only_reads() -> None:
    """It may run on a replica, and where memory is full."""
    assert scripts.CHECK.flags == "no-writes"
