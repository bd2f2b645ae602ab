"""fetch.lua: what is read from where, how much, with what hint; and how loss is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from streamlayer._core import calls, scripts
from streamlayer._core.codec import decode_frames
from streamlayer._core.positions import epochs_crossed
from tests.lua.run import WEEK_MS, Log, new_log, promote, values_from, word_of


def filled(client: redis.Redis, namespace: str, **created: Any) -> Log:
    """Forty values of many sizes: closed segments, sealed fields, large ones and a tail."""
    log = new_log(client, namespace, segment_bytes=12_000, **created)
    for i in range(0, 40, 2):
        log.append(b"%d" % i + bytes(i * 13 % 700), b"%d" % (i + 1) + bytes(5000 if i % 10 == 4 else 300))
    assert log.meta("segment")[0] >= 2
    assert log.meta("tail_len")[0] > 0
    return log


def crossed_in(epochs: str) -> str:
    """What a reader at the end remembers of a log's epochs: the last four."""
    return ",".join(epochs.split(",")[-4:])


# --- reading ---------------------------------------------------------------------------------------------------------


def test_from_every_position_the_rest_is_read(redis_client: redis.Redis, namespace: str) -> None:
    """Closed segments, sealed fields and tail: from anywhere all that follows comes, in order, whatever the limit."""
    log = filled(redis_client, namespace)
    everything = log.read()
    assert [int(value.rstrip(b"\0")) for value in everything] == list(range(40))
    for position in range(41):
        for max_bytes in (1, 3000, 1 << 20):
            assert log.read(position, max_bytes) == everything[position:]


def test_a_reply_is_within_its_limit_but_for_the_first_field(redis_client: redis.Redis, namespace: str) -> None:
    """At least one field comes, so that a reader with a small limit gets on; a second only if it fits."""
    log = filled(redis_client, namespace)
    for position in range(40):
        for max_bytes in (0, 1, 5000, 9000):
            fields = log.fetch(position, max_bytes).fields
            assert fields
            assert len(fields) == 1 or sum(len(field.frames) for field in fields) <= max_bytes


def test_many_fields_come_in_one_reply(redis_client: redis.Redis, namespace: str) -> None:
    """More fields than one step of the index reads are all there."""
    log = new_log(redis_client, namespace, segment_bytes=10 << 20)
    for i in range(150):
        log.append(b"%d" % i + bytes(4100))
    reply = log.fetch(3, 10 << 20)
    assert [field.base for field in reply.fields] == list(range(3, 150))
    assert len(values_from(reply.fields, 3)) == 147


def test_the_end_is_empty_and_says_where_it_is(log: Log) -> None:
    """At the log's end nothing comes; the reply still tells end, start, segment, generation and epochs."""
    log.append(b"a")
    reply = log.fetch(1)
    assert (reply.next, reply.log_start, reply.segment, reply.generation, reply.fields) == (1, 0, 0, 1, [])
    assert reply.epochs.startswith("1:")
    assert reply.tail_base == 0


def test_reading_writes_nothing(redis_client: redis.Redis, namespace: str) -> None:
    """Without arming, a fetch leaves every key as it was."""
    log = filled(redis_client, namespace)
    before = log.dump()
    for position in range(41):
        log.fetch(position)
    assert log.dump() == before


def test_only_who_has_all_there_is_arms_the_wake_up(redis_client: redis.Redis, namespace: str) -> None:
    """At the end, or with the tail in hand: yes. With sealed fields to come, or unasked: no."""
    log = filled(redis_client, namespace)
    tail_base, end = log.meta("tail_base", "next")
    for position, arm, armed in (
        (0, True, False),
        (tail_base, False, False),
        (tail_base, True, True),
        (end, True, True),
    ):
        log.run.client.hdel(log.keys.meta, "armed")
        log.fetch(position, 1, arm=arm)
        assert log.run.client.hexists(log.keys.meta, "armed") is armed, (position, arm)


# --- the tail hint ---------------------------------------------------------------------------------------------------


def test_a_reader_at_the_tip_gets_only_the_new_bytes(log: Log) -> None:
    """With (tail base, bytes it has) the rest of the tail comes, from its position on."""
    log.append(b"a", b"b")
    first = log.fetch(0).fields[0]
    log.append(b"c")
    (rest,) = log.fetch(2, tail=(0, len(first.frames))).fields
    assert (rest.base, rest.last) == (2, 2)
    assert values_from([rest], 2) == [b"c"]


@pytest.mark.parametrize("hint", [(-1, 0), (7, 30), (0, 5000), (0, 0)])
def test_a_hint_that_does_not_fit_is_left_alone(log: Log, hint: tuple[int, int]) -> None:
    """Another base, or more bytes than there are: the whole tail comes."""
    log.append(b"a", b"b")
    log.append(b"c")
    position = 0 if hint == (0, 0) else 2
    (field,) = log.fetch(position, tail=hint).fields
    assert (field.base, field.last) == (0, 2)
    assert len(list(decode_frames(field.frames))) == 2


def test_a_hint_from_before_the_seal_is_left_alone(log: Log) -> None:
    """When the tail was moved to the log, the field comes whole, and the new tail after it."""
    log.append(b"a")
    had = len(log.fetch(0).fields[0].frames)
    log.append(b"b")
    log.append(bytes(5000))
    reply = log.fetch(1, tail=(0, had))
    assert [(field.base, field.last) for field in reply.fields] == [(0, 1), (2, 2)]


# --- retention -------------------------------------------------------------------------------------------------------


def test_a_segment_past_its_retention_is_not_served(redis_client: redis.Redis, namespace: str) -> None:
    """By closing time, to the millisecond, keys there or not: readers and expiry follow one rule."""
    log = filled(redis_client, namespace)
    first, second = redis_client.zrange(log.keys.segs, 1, 2)
    base = int(second.split(b":")[1])
    redis_client.zadd(log.keys.segs, {first: log.run.now() - WEEK_MS - 1})
    assert log.fetch(0) == ("OUT_OF_RANGE", f"{base} 40")
    assert log.fetch(base - 1)[0] == "OUT_OF_RANGE"
    assert log.fetch(base).log_start == base
    assert len(log.read(base)) == 40 - base


def test_an_idle_partition_is_empty_after_its_deadline(log: Log) -> None:
    """The open segment's end has passed: the log begins where it ends, whether its keys are gone yet or not."""
    log.append(b"a", b"b")
    log.set_meta(deadline=log.run.now())
    assert log.fetch(1) == ("OUT_OF_RANGE", "2 2")
    assert log.fetch(2).fields == []


def test_a_raised_start_holds(redis_client: redis.Redis, namespace: str) -> None:
    """A stored start above the first segment's base is the log's start."""
    log = filled(redis_client, namespace)
    log.set_meta(start=17)
    assert log.fetch(16) == ("OUT_OF_RANGE", "17 40")
    assert log.fetch(17).log_start == 17
    assert len(log.read(17)) == 23


# --- loss is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", range(6))
def test_a_reader_at_8_whose_log_came_back_at_5_is_told_5(log: Log, tells_lives: None, new: int) -> None:
    """Before new appends, after a few, and when the log is long again: the first lost offset, never the end."""
    for i in range(5):
        log.append(b"%d" % i)
    disk = log.freeze()
    for i in range(5, 8):
        log.append(b"%d" % i)
    crossed = crossed_in(log.fetch(8).epochs)
    log.crash(disk)
    for i in range(new):
        log.append(b"new %d" % i)
    assert log.fetch(8, crossed=crossed) == ("TRUNCATED", f"5 {5 + new}")
    assert word_of(log.fetch(5, crossed=crossed)) == "OK"
    assert word_of(log.fetch(3, crossed=crossed)) == "OK"
    assert len(log.read(5)) == new


def test_a_life_without_loss_disturbs_nobody(log: Log, tells_lives: None) -> None:
    """A restart whose history is whole begins its epoch at the end, where every reader may pass."""
    log.append(b"a", b"b")
    crossed = crossed_in(log.fetch(2).epochs)
    promote(log.run.client)
    assert log.fetch(2, crossed=crossed).fields == []
    log.append(b"c")
    assert values_from(log.fetch(2, crossed=crossed).fields, 2) == [b"c"]


def test_from_a_to_b_and_back_to_a(log: Log, tells_lives: None) -> None:
    """A loses its tail while B leads and leads again: the reader of A's lost records is told, in one process."""
    log.append(b"0", b"1")
    disk = log.freeze()
    log.append(b"2", b"3", b"4")
    crossed = crossed_in(log.fetch(5).epochs)
    log.crash(disk)  # B, with what was replicated
    log.append(b"new 2")
    b_disk = log.freeze()
    log.crash(b_disk)  # A again, in sync with B
    log.append(b"new 3", b"new 4")
    assert log.fetch(5, crossed=crossed) == ("TRUNCATED", "2 5")
    assert log.read(2) == [b"new 2", b"new 3", b"new 4"]


def test_an_epochs_number_alone_proves_nothing(log: Log, tells_lives: None) -> None:
    """A crash that loses the epoch's own entry gives its number again: the token beside it is another one."""
    log.append(b"0")
    disk = log.freeze()
    promote(log.run.client)
    log.append(b"1", b"2")
    first = log.fetch(3).epochs
    log.crash(disk)
    second = log.append(b"new 1", b"new 2", b"new 3").epochs
    assert first.split(",")[1].startswith("2:")
    assert second.split(",")[1].startswith("2:")
    assert log.fetch(3, crossed=crossed_in(first)) == ("TRUNCATED", "1 4")


def test_the_newest_pair_that_both_know_decides(log: Log, tells_lives: None) -> None:
    """A reader that crossed two lives is told where the third parted from the second."""
    log.append(b"0")
    promote(log.run.client)
    log.append(b"1")
    disk = log.freeze()
    log.append(b"2")
    crossed = crossed_in(log.fetch(3).epochs)
    log.crash(disk)
    log.append(b"new 2", b"new 3")
    assert log.fetch(3, crossed=crossed) == ("TRUNCATED", "2 4")


@pytest.mark.parametrize("reborn", [False, True], ids=["the same life", "another life"])
@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_two_primaries_side_by_side(log: Log, tells_lives: None, count: int, reborn: bool) -> None:
    """A never was demoted and has no epoch of B's time: the reader of B's records is told by the epoch that A lacks."""
    log.append(b"0", b"1", b"2")
    common = log.freeze()
    for i in range(count):
        log.append(b"a%d" % i)
    a = log.freeze()
    log.crash(common)  # B, with what was replicated
    log.append(b"b0", b"b1")
    log.append(b"b2", b"b3")
    b = log.fetch(7).epochs
    crossed, at_the_fork = epochs_crossed(b, 7)[0], epochs_crossed(b, 3)[0]
    log.crash(a) if reborn else log.restore(a)
    if reborn:
        log.append(b"a, after its start")
    end = 3 + count + reborn
    assert log.fetch(7, crossed=crossed) == ("TRUNCATED", f"3 {end}")
    for position, known in ((3, crossed), (3, at_the_fork), (2, crossed)):
        assert log.fetch(position, crossed=known).next == end


def test_a_tail_of_the_same_base_may_hold_other_bytes(log: Log, tells_lives: None) -> None:
    """The epochs decide before the hint is believed."""
    log.append(b"0")
    common = log.freeze()
    for i in range(9):
        log.append(b"a%d" % i)
    a = log.freeze()
    log.crash(common)
    log.append(b"one long record")
    reply = log.fetch(0)
    crossed, _ = epochs_crossed(reply.epochs, 2)
    log.restore(a)
    hint = (0, len(reply.fields[0].frames))
    assert log.fetch(2, crossed=crossed, tail=hint) == ("TRUNCATED", "1 10")


def test_an_epoch_that_is_forgotten_is_no_strange_one(log: Log, tells_lives: None) -> None:
    """The log keeps eight: a reader may have crossed older ones beside those that both know, and is told nothing."""
    log.append(b"0")
    for _ in range(3):
        promote(log.run.client)
        log.append(b"x")
    crossed, _ = epochs_crossed(log.fetch(4).epochs, 4)
    for _ in range(6):
        promote(log.run.client)
        log.append(b"y")
    assert int(log.fetch(0).epochs.partition(":")[0]) == 3
    assert crossed.startswith("1:")
    assert log.fetch(4, crossed=crossed).next == 10


def test_epochs_stored_without_their_starts_count_as_before(log: Log, tells_lives: None) -> None:
    """As commits of the first layout have them: the log's own list decides alone."""
    log.append(b"0", b"1")
    pair = log.fetch(2).epochs.rpartition(":")[0]
    disk = log.freeze()
    log.append(b"2", b"3")
    assert log.fetch(4, crossed=pair).fields == []
    assert log.fetch(4, crossed=f"{pair},2:ffff").fields == []
    log.crash(disk)
    log.append(b"new 2", b"new 3")
    assert log.fetch(4, crossed=f"0:eeee,{pair}") == ("TRUNCATED", "2 4")


def test_another_with_a_number_that_the_log_knows_is_a_loss(log: Log, tells_lives: None) -> None:
    """No pair in common, and one of the log's own numbers was another life: lost, from nobody knows where on."""
    for _ in range(10):
        log.append(b"x")
        promote(log.run.client)
    number, _, start = log.fetch(0).epochs.split(",")[0].split(":")
    assert (number, start) == ("3", "2")
    assert log.fetch(2, crossed="3:ffff:1") == ("TRUNCATED", "-1 10")
    assert word_of(log.fetch(2, crossed="3:ffff:2")) == "OK"  # nothing of that life was read
    assert word_of(log.fetch(2, crossed="2:ffff:1")) == "OK"  # maybe it was the log's, and is forgotten


def test_without_a_common_pair_the_point_is_unknown(log: Log, tells_lives: None) -> None:
    """Strange pairs: fine up to the first entry's start, -1 above it."""
    log.append(b"0", b"1")
    assert log.fetch(1, crossed="1:ffff,2:eeee") == ("TRUNCATED", "-1 2")
    assert word_of(log.fetch(0, crossed="1:ffff,2:eeee")) == "OK"
    for _ in range(10):
        promote(log.run.client)
        log.append(b"x")
    first = int(log.fetch(0).epochs.split(",")[0].rpartition(":")[2])
    assert first > 0
    assert word_of(log.fetch(first, crossed="1:ffff")) == "OK"
    assert log.fetch(first + 1, crossed="1:ffff") == ("TRUNCATED", "-1 12")


def test_a_bare_position_is_out_of_range_and_no_loss(log: Log) -> None:
    """Who carries no pairs (a seek) is told the range; who carries some, that the log was longer once."""
    log.append(b"a")
    crossed = crossed_in(log.fetch(1).epochs)
    assert log.fetch(5) == ("OUT_OF_RANGE", "0 1")
    assert log.fetch(5, crossed=crossed) == ("TRUNCATED", "1 1")


# --- every no --------------------------------------------------------------------------------------------------------


def _segment(log: Log) -> Any:
    return log.fetch(0, segment=9, follow=False)


def _foreign(log: Log) -> Any:
    log.run.client.delete(log.keys.segment(0)[0])
    log.run.client.set(log.keys.segment(0)[0], "mine")
    return log.fetch(0)


def _damaged(log: Log) -> Any:
    log.run.client.hdel(log.keys.segment(0)[0], "0000000000000000")
    return log.fetch(0)


def _with_meta(**meta: Any) -> Callable[[Log], Any]:
    return lambda log: (log.set_meta(**meta), log.fetch(0))[1]


REFUSALS: dict[str, Callable[[Log], Any]] = {
    "FOREIGN": _foreign,
    "UNKNOWN_TOPIC": lambda log: (log.run.client.delete(log.keys.meta), log.fetch(0))[1],
    "TOPIC_REPLACED": lambda log: log.fetch(0, topic_id="another"),
    "LAYOUT": _with_meta(min_v=2),
    "DAMAGED": _damaged,
    "OUT_OF_RANGE": lambda log: log.fetch(99),
    "TRUNCATED": lambda log: log.fetch(99, crossed="1:"),
    "SEGMENT": _segment,
}


def test_every_word_of_the_header_has_its_test() -> None:
    """The table above is complete."""
    assert set(REFUSALS) == scripts.FETCH.errors


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


@pytest.mark.parametrize(("name", "position"), [("meta", 0), ("tail", 1), ("log", 0), ("index", 0)])
def test_a_foreign_type_is_named(log: Log, name: str, position: int) -> None:
    """The key that is needed and is not ours."""
    log.append(bytes(5000))
    log.append(b"tail")
    keys = dict(zip(["log", "index", "times"], log.keys.segment(0), strict=True))
    key = keys.get(name) or getattr(log.keys, name)
    log.run.client.delete(key)
    log.run.client.rpush(key, "mine")
    assert log.fetch(position) == ("FOREIGN", key)


@pytest.mark.parametrize(
    ("break_it", "position"),
    [
        (lambda log: log.run.client.delete(log.keys.segment(0)[1]), 0),
        (lambda log: log.run.client.zrem(log.keys.segment(0)[1], "0000000000000000"), 0),
        (lambda log: log.run.client.delete(log.keys.tail), 1),
        (lambda log: log.run.client.append(log.keys.tail, "x"), 1),
        (lambda log: log.set_meta(state="x", damaged="by hand"), 1),
    ],
)
def test_missing_data_is_damage_and_never_skipped(log: Log, break_it: Callable[[Log], Any], position: int) -> None:
    """A key, a field, an index entry or bytes that are gone or too many: said so, nothing is served in their place."""
    log.append(bytes(5000))
    log.append(b"tail")
    break_it(log)
    assert log.fetch(position)[0] == "DAMAGED"


def test_a_tail_of_another_length_is_marked(log: Log, redis_client: redis.Redis) -> None:
    """What mends a partition goes by the mark, and a topic that nobody writes to has no append to make it."""
    log.append(b"a")
    redis_client.append(log.keys.tail, "x")
    assert log.fetch(0) == ("DAMAGED", "the tail is not as long as meta says")
    assert redis_client.hget(log.keys.meta, "damaged") == b"the tail is not as long as meta says"


def test_a_topic_that_is_being_deleted_is_unknown(log: Log) -> None:
    """Between the first and the last step of a deletion nothing is read."""
    log.set_meta(state="deleting")
    assert log.fetch(0)[0] == "UNKNOWN_TOPIC"


def test_a_peek_writes_nothing(log: Log) -> None:
    """It runs where a server refuses writes: it arms nothing, and marks no damage, but tells it."""
    log.append(b"a")
    given = {"topic_id": log.topic_id, "max_bytes": 1 << 20, "segment": 0}
    before = log.dump()
    peeked = log.run(calls.fetch(log.keys, position=0, peek=True, **given))
    assert (peeked.next, len(peeked.fields)) == (1, 1)
    assert log.run(calls.fetch(log.keys, position=1, peek=True, **given)).next == 1
    assert log.dump() == before
    log.run.client.append(log.keys.tail, "half")
    before = log.dump()
    if not log.run.fake:  # it knows no flags
        assert word_of(log.run(calls.fetch(log.keys, position=0, peek=True, **given))) == "DAMAGED"
        assert log.dump() == before
