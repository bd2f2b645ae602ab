"""append.lua: one batch, once; where it lies; and every reason for a no."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from streamlayer._core import scripts
from tests.lua.run import (
    EXACT,
    SHORT_FRAME,
    TAIL_LIMIT,
    WEEK_MS,
    Log,
    Stored,
    all_keys,
    key_end,
    new_log,
    promote,
    word_of,
)
from tests.waiting import sync_wait_until

HOUR_MS = 3_600_000


def framed(log: Log, size: int, **options: Any) -> Stored:
    """A batch whose frame takes exactly so many bytes in the server."""
    spare = len(log.batch([b""]).frame)
    for pad in range(size - spare - 5, size - spare + 1):
        batch = log.batch([bytes(pad)], **options)
        if len(batch.frame) == size:
            return batch
    raise AssertionError(f"no frame has {size} bytes")


# --- one batch -------------------------------------------------------------------------------------------------------


def test_offsets_are_dense_from_0(log: Log) -> None:
    """Each batch begins where the one before it ended; all values come back."""
    assert [log.append(*[b"v"] * n).base_offset for n in (1, 3, 2)] == [0, 1, 4]
    assert len(log.read()) == 6


def test_the_append_time_is_the_servers(log: Log) -> None:
    """The first six bytes of a frame, the same time that the answer tells."""
    before = log.run.now()
    answer = log.append(b"v")
    assert before <= answer.append_time <= log.run.now()
    tail = log.run.client.get(log.keys.tail)
    assert tail is not None
    assert int.from_bytes(tail[:6], "big") == answer.append_time
    assert len(tail) == len(log.batch([b"v"]).frame)


def test_a_large_frames_own_bytes_are_not_touched(log: Log) -> None:
    """Its append time stays zero: a second string as long as it would cost the server as much as all the rest."""
    batch = log.batch([bytes(5000)])
    assert log.send(batch).append_time > 0
    assert log.run.client.hget(log.keys.segment(0)[0], "0000000000000000") == batch.frame


def test_a_topic_of_append_times_has_them_in_large_frames_too(log: Log) -> None:
    """Where the append time is the records' time, the script writes it into every frame, and looks for no other."""
    log.set_meta(timestamp_type=1)
    batch = log.batch([bytes(5000)], times=[5])
    answer = log.send(batch)
    stored = log.run.client.hget(log.keys.segment(0)[0], "0000000000000000")
    assert stored == answer.append_time.to_bytes(6, "big") + batch.frame[6:]
    assert log.meta("max_timestamp") == [answer.append_time]


def test_an_appended_batch_costs_only_its_bytes(log: Log) -> None:
    """A small append makes the tail longer and changes neither index nor log."""
    log.append(b"a")
    before = log.dump()
    batch = log.batch([b"b"])
    log.send(batch)
    after = log.dump()
    changed = {key for key in after if before[key][0] != after[key][0]}
    assert changed == {log.keys.meta.encode(), log.keys.tail.encode()}
    assert log.meta("tail_len")[0] == len(after[log.keys.tail.encode()][0])


def test_the_reply_repeats_tag_and_names_the_open_segment(log: Log) -> None:
    """An answer can be told from another call's; the next append knows where to go."""
    answer = log.append(b"v")
    assert answer.segment == 0
    assert answer.epochs.endswith(":0")


# --- twice, late, out of turn ----------------------------------------------------------------------------------------


def test_a_batch_sent_twice_is_stored_once(log: Log) -> None:
    """The second answer has the first one's offset and time; only the producer's last use is renewed."""
    batch = log.batch([b"a", b"b"])
    first = log.send(batch, "me")
    before = log.dump()
    second = log.send(batch, "me")
    assert second == first
    after = log.dump()
    before.pop(log.keys.producers.encode())
    after.pop(log.keys.producers.encode())
    assert after == before


def test_the_last_five_batches_are_remembered_after_seal_and_roll(redis_client: redis.Redis, namespace: str) -> None:
    """Wherever their frames lie by now, the last five are duplicates; the sixth is too old to be looked up."""
    log = new_log(redis_client, namespace, segment_bytes=6000)
    batches: list[Stored] = []
    offsets: list[int] = []
    for i in range(12):
        batches.append(log.batch([b"%d" % i + bytes(1500)], sequence=i))
        offsets.append(log.send(batches[-1], "me").base_offset)
    assert log.meta("segment")[0] > 1
    for batch, offset in list(zip(batches, offsets, strict=True))[-5:]:
        assert log.send(batch, "me").base_offset == offset
    assert log.send(batches[-6], "me") == ("STALE", "12")
    assert len(log.read()) == 12


def test_a_duplicate_is_answered_whatever_has_changed(log: Log) -> None:
    """Growing, another generation, a smaller limit, another open segment: the batch is in the log all the same."""
    batch = log.batch([b"a"])
    first = log.send(batch, "me", key_hash=0)
    log.set_meta(growing="8", generation=9, max_message_bytes=1, retention_ms=1, segment_at=1)
    log.run.client.persist(log.keys.tail)
    again = log.send(batch, "me", key_hash=0, follow=False)
    assert (again.base_offset, again.append_time) == (first.base_offset, first.append_time)


def test_producers_have_sequences_of_their_own(log: Log) -> None:
    """Two producers use the same numbers without meeting."""
    assert log.send(log.batch([b"a"]), "one").base_offset == 0
    assert log.send(log.batch([b"b"]), "two").base_offset == 1
    assert log.send(log.batch([b"c"], sequence=1), "one").base_offset == 2
    assert log.send(log.batch([b"d"], sequence=1), "two").base_offset == 3


def test_without_a_producer_each_call_is_a_batch(log: Log) -> None:
    """No idempotence was asked for, and none is remembered."""
    batch = log.batch([b"a"])
    assert [log.send(batch).base_offset for _ in range(3)] == [0, 1, 2]
    assert log.run.client.hkeys(log.keys.producers) == [b"-"]


def test_an_unknown_producer_begins_at_0(log: Log) -> None:
    """A later batch of a pipeline must not overtake the first, where the server forgot the producer or lost it."""
    assert log.send(log.batch([b"b"], sequence=1), "me") == ("GAP", "0")
    assert log.send(log.batch([b"a"], epoch=7), "me").base_offset == 0


def test_a_higher_epoch_begins_at_0_and_fences_what_was_before(log: Log) -> None:
    """After giving up: nothing old gets in any more, not even what was appended before."""
    old = log.batch([b"a"])
    log.send(old, "me")
    assert log.send(log.batch([b"x"], epoch=1, sequence=1), "me") == ("GAP", "0")
    assert log.send(log.batch([b"b"], epoch=1), "me").base_offset == 1
    assert log.send(old, "me") == ("FENCED_PRODUCER", "1")
    assert log.send(log.batch([b"c"], epoch=1, sequence=1), "me").base_offset == 2


def test_idle_producers_are_forgotten_after_a_day(log: Log) -> None:
    """When a new producer comes, others idle for a day go; one that was used is kept, and so is the placeholder."""
    client = log.run.client
    log.send(log.batch([b"a"]), "idle")
    log.send(log.batch([b"b"]), "busy")
    entry = client.hget(log.keys.producers, "idle")
    assert entry is not None
    fields = entry.split(b",")
    fields[2] = (str(log.run.now() - 86_400_001)).encode() + b";" + entry.partition(b";")[2].split(b",")[0]
    client.hset(log.keys.producers, "idle", b",".join(fields))
    for i in range(40):
        if not client.hexists(log.keys.producers, "idle"):
            break
        log.send(log.batch([b"c"]), f"new{i}")
    assert not client.hexists(log.keys.producers, "idle")
    assert client.hexists(log.keys.producers, "busy")
    assert client.hexists(log.keys.producers, "-")


# --- where it lies ---------------------------------------------------------------------------------------------------


def test_the_tail_is_sealed_before_it_passes_16368_bytes(log: Log) -> None:
    """Exactly 16,368 bytes stay in the tail; the next frame moves them to the log, as one field, and begins anew."""
    first = framed(log, 88)
    count = TAIL_LIMIT // 88
    for _ in range(count):
        log.send(first)
    assert log.meta("tail_base", "tail_len") == [0, TAIL_LIMIT]
    assert log.run.client.hkeys(log.keys.segment(0)[0]) == [b"-"]
    log.send(first)
    assert log.meta("tail_base", "tail_len") == [count, 88]
    frames = log.run.client.hget(log.keys.segment(0)[0], "0000000000000000")
    assert frames is not None
    assert len(frames) == TAIL_LIMIT
    assert log.run.client.zscore(log.keys.segment(0)[1], "0000000000000000") == count - 1
    assert len(log.read()) == count + 1


def test_a_large_frame_goes_behind_the_tail_as_a_field(log: Log) -> None:
    """What is too large for a tail seals it first, however little it holds, so that fields stay in order."""
    log.append(b"small")
    log.send(framed(log, SHORT_FRAME + 1))
    log.append(b"small too")
    assert log.meta("next", "tail_base") == [3, 2]
    assert sorted(log.run.client.hkeys(log.keys.segment(0)[0])) == [b"-", b"0000000000000000", b"0000000000000001"]
    values = log.read()
    assert (values[0], values[2], len(values)) == (b"small", b"small too", 3)


def test_a_frame_of_4080_bytes_is_a_tail(log: Log) -> None:
    """The limit itself is still short; four of them fit."""
    for count in range(1, 5):
        log.send(framed(log, SHORT_FRAME))
        assert log.meta("tail_len", "tail_base") == [count * SHORT_FRAME, 0]
    log.send(framed(log, SHORT_FRAME))
    assert log.meta("tail_len", "tail_base") == [SHORT_FRAME, 4]


def test_a_segment_closes_when_it_is_large_enough(redis_client: redis.Redis, namespace: str) -> None:
    """The batch that reaches the limit is its last; the next one goes to the next segment's keys."""
    log = new_log(redis_client, namespace, segment_bytes=200)
    batch = framed(log, 100)
    assert [log.send(batch, follow=False).segment for _ in range(2)] == [0, 1]
    assert log.meta("segment", "segment_base", "segment_bytes", "segment_at", "tail_len") == [1, 2, 0, 0, 0]
    ((member, closed),) = redis_client.zrange(log.keys.segs, 1, -1, withscores=True)
    assert member == b"%016d:0:0:%d" % (0, log.stamp)
    assert log.meta("segment_position") == [200]
    log.segment = 0
    assert log.send(batch, follow=False) == ("SEGMENT", "1")
    log.send(batch)
    assert log.read() == [log.read()[0]] * 3
    for key in log.keys.segment(0):
        assert redis_client.pexpiretime(key) == key_end(int(closed), WEEK_MS)
    log.send(batch)
    assert redis_client.zrange(log.keys.segs, 2, 2) == [b"%016d:2:200:%d" % (1, log.stamp)]


@pytest.mark.parametrize("retention_ms", [80_000, WEEK_MS, 40 * 86_400_000])
def test_a_segment_closes_when_it_is_old_enough(redis_client: redis.Redis, namespace: str, retention_ms: int) -> None:
    """An eighth of the retention, a day at most, after its first record: the next append opens a new one."""
    log = new_log(redis_client, namespace, retention_ms=retention_ms)
    log.append(b"a")
    age = min(retention_ms // 8, 86_400_000)
    log.set_meta(segment_at=log.run.now() - age + 5000)
    assert log.append(b"b", follow=False).segment == 0
    log.set_meta(segment_at=log.run.now() - age)
    assert log.append(b"c", follow=False) == ("SEGMENT", "1")
    assert log.append(b"c").base_offset == 2
    assert log.read() == [b"a", b"b", b"c"]


def test_without_retention_no_segment_is_too_old(redis_client: redis.Redis, namespace: str) -> None:
    """-1 is no limit: nothing expires, and only size closes a segment."""
    log = new_log(redis_client, namespace, retention_ms=-1, segment_bytes=5000)
    log.append(b"a", times=[1])
    log.set_meta(segment_at=1)
    for _ in range(3):
        assert word_of(log.append(bytes(3000), times=[1])) == "OK"
    assert log.meta("segment") == [1]
    assert {redis_client.pexpiretime(key) for key in all_keys(redis_client, log.keys.prefix)} == {-1}


def test_the_open_segments_keys_outlive_its_newest_record(redis_client: redis.Redis, namespace: str) -> None:
    """They end retention_ms after it and at most 1/64 later, all at one moment, renewed only when that is used up."""
    log = new_log(redis_client, namespace, retention_ms=640_000)
    keys = [log.keys.tail, *log.keys.segment(0)]
    at = log.append(b"a").append_time
    (deadline,) = {redis_client.pexpiretime(key) for key in keys}
    assert deadline == at + 650_000 == log.meta("deadline")[0]
    log.append(b"b")
    assert {redis_client.pexpiretime(key) for key in keys} == {deadline}
    log.set_meta(deadline=at + 639_000)
    at = log.append(b"c").append_time
    assert {redis_client.pexpiretime(key) for key in keys} == {at + 650_000}
    log.append(bytes(4080))  # the tail is emptied, and keeps its end
    assert redis_client.pexpiretime(log.keys.tail) == at + 650_000


def test_after_the_deadline_a_new_segment_begins_where_the_old_one_ended(log: Log) -> None:
    """The open segment is gone with its keys; offsets go on, and nothing of it is served."""
    log.append(b"a", b"b")
    for key in (log.keys.tail, *log.keys.segment(0)):
        log.run.client.delete(key)
    log.set_meta(deadline=log.run.now() - 1)
    assert log.append(b"c", follow=False) == ("SEGMENT", "1")
    assert log.append(b"c").base_offset == 2
    assert log.read(2) == [b"c"]
    assert log.fetch(0) == ("OUT_OF_RANGE", "2 3")


def test_segments_keep_their_order_when_closed_in_one_moment(redis_client: redis.Redis, namespace: str) -> None:
    """Equal closing times, ten segments and more: each offset is still found where it is."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    for i in range(12):
        log.append(b"%d" % i)
    for member in redis_client.zrange(log.keys.segs, 1, -1):
        redis_client.zadd(log.keys.segs, {member: log.run.now()})
    if not log.run.fake:  # it keeps equal scores in the order of insertion
        assert redis_client.zrange(log.keys.segs, 1, -1) == sorted(redis_client.zrange(log.keys.segs, 1, -1))
    assert [log.fetch(i).fields[0].base for i in range(12)] == list(range(12))
    assert log.read() == [b"%d" % i for i in range(12)]


def test_closing_times_never_go_back(redis_client: redis.Redis, namespace: str) -> None:
    """A server clock that was set back does not put a new segment before an old one."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    log.append(b"a")
    ahead = log.run.now() + HOUR_MS
    redis_client.zadd(log.keys.segs, {redis_client.zrange(log.keys.segs, 1, 1)[0]: ahead})
    log.append(b"b")
    assert [score for _, score in redis_client.zrange(log.keys.segs, 1, -1, withscores=True)] == [ahead, ahead]
    assert redis_client.pexpiretime(log.keys.segment(1)[0]) == key_end(ahead, WEEK_MS)
    assert log.read() == [b"a", b"b"]


def test_overdue_segments_leave_the_list_before_the_next_one_begins(redis_client: redis.Redis, namespace: str) -> None:
    """The list of segments does not grow for ever: who begins one is sent to trim first, and finds nothing again."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    for i in range(3):
        log.append(b"%d" % i)
    members = redis_client.zrange(log.keys.segs, 1, 2)
    redis_client.zadd(log.keys.segs, {member: log.run.now() - WEEK_MS for member in members})
    assert log.append(b"3", follow=False) == ("TRIM", "0 1")
    log.append(b"3")
    assert redis_client.zcard(log.keys.segs) == 3
    assert log.segments_with_keys() == {2, 3}
    assert log.fetch(2).log_start == 2


# --- lives of the server ---------------------------------------------------------------------------------------------


def test_a_new_life_of_the_server_is_noted(log: Log, tells_lives: None) -> None:
    """The first append after a promotion adds an epoch that starts at the log's end; the next ones do not."""
    first = log.append(b"a").epochs
    promote(log.run.client)
    second = log.append(b"b").epochs
    assert second.startswith(first + ",2:")
    assert second.endswith(":1")
    assert log.append(b"c").epochs == second


def test_eight_epochs_are_kept(log: Log, tells_lives: None) -> None:
    """The oldest go; numbers go on."""
    for _ in range(11):
        promote(log.run.client)
        epochs = log.append(b"a").epochs
    assert [entry.partition(":")[0] for entry in epochs.split(",")] == [str(n) for n in range(5, 13)]


def test_without_info_there_is_one_epoch(log: Log) -> None:
    """On fakeredis, and where INFO is not allowed, the token is empty: nothing is added with each append."""
    epochs = {log.append(b"a").epochs for _ in range(3)}
    assert len(epochs) == 1
    assert (epochs == {"1::0"}) == log.run.fake


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_offsets_are_exact_to_2_to_the_53rd(redis_client: redis.Redis, namespace: str) -> None:
    """The last offsets that a double can hold are given, stored, sealed, indexed and found exactly."""
    log = new_log(redis_client, namespace, segment_bytes=9000)
    start = EXACT - 1000
    log.set_meta(next=start, segment_base=start, tail_base=start, segment=EXACT - 5)
    for i in range(5):
        assert log.append(b"%d" % i, bytes(1500)).base_offset == start + 2 * i
    log.append(bytes(5000))
    assert log.meta("next") == [start + 11]
    for position in range(start, start + 11):
        assert log.fetch(position).fields[0].base <= position <= log.fetch(position).fields[0].last
    assert [value for value in log.read(start) if len(value) == 1] == [b"%d" % i for i in range(5)]
    log.set_meta(next=EXACT - 2)
    log.run.client.delete(log.keys.tail)
    log.set_meta(tail_base=EXACT - 2, tail_len=0, segment_at=0)
    assert log.append(b"last").base_offset == EXACT - 2
    assert log.meta("next") == [EXACT - 1]
    assert log.read(EXACT - 2) == [b"last"]


def test_times_and_sizes_are_whole_numbers_in_meta(log: Log) -> None:
    """Nothing is stored as 1.7e+12 or 5.0: the next reader would not know it."""
    log.append(b"a")
    log.append(bytes(5000))
    for name, value in log.run.client.hgetall(log.keys.meta).items():
        if name not in {b"id", b"epochs", b"armed"}:
            assert value.lstrip(b"-").isdigit(), (name, value)


# --- every no --------------------------------------------------------------------------------------------------------


def _foreign(log: Log) -> Any:
    log.run.client.delete(log.keys.segment(0)[1])
    log.run.client.set(log.keys.segment(0)[1], "mine")
    return log.append(bytes(5000))


def _sequence_reused(log: Log) -> Any:
    log.send(log.batch([b"a"]), "me")
    return log.send(log.batch([b"b"]), "me")


def _stale(log: Log) -> Any:
    for i in range(6):
        log.send(log.batch([b"a"], sequence=i), "me")
    return log.send(log.batch([b"a"]), "me")


def _fenced(log: Log) -> Any:
    log.send(log.batch([b"a"], epoch=3), "me")
    return log.send(log.batch([b"a"], epoch=2), "me")


def _trim(log: Log) -> Any:
    log.set_meta(segment_limit=1)
    log.append(b"closed")
    log.close_ago(0, WEEK_MS)
    return log.append(b"a", follow=False)


def _changed(**meta: Any) -> Callable[[Log], Any]:
    def change(log: Log) -> Any:
        log.set_meta(**meta)
        return log.append(b"a", key_hash=7, partition=1, follow=False)

    return change


REFUSALS: dict[str, Callable[[Log], Any]] = {
    "FOREIGN": _foreign,
    "UNKNOWN_TOPIC": lambda log: (log.run.client.delete(log.keys.meta), log.append(b"a"))[1],
    "TOPIC_REPLACED": lambda log: log.append(b"a", topic_id="another"),
    "LAYOUT": _changed(min_v=2),
    "DAMAGED": _changed(damaged="a field is gone"),
    "FENCED_PRODUCER": _fenced,
    "SEQUENCE_REUSED": _sequence_reused,
    "STALE": _stale,
    "GAP": lambda log: (log.send(log.batch([b"a"]), "me"), log.send(log.batch([b"a"], sequence=2), "me"))[1],
    "GROWING": _changed(growing=8),
    "STALE_GENERATION": _changed(generation=2),
    "WRONG_PARTITION": _changed(partitions=7),
    "TOO_LARGE": _changed(max_message_bytes=10, partitions=6),
    "BAD_TIMESTAMP": lambda log: log.append(b"a", times=[5]),
    "SEGMENT": _changed(segment=4, partitions=6),
    "TRIM": _trim,
}


def test_every_word_of_the_header_has_its_test() -> None:
    """The table above is complete; what needs a real server stands below."""
    assert set(REFUSALS) | {"NOT_ENOUGH_REPLICAS"} == scripts.APPEND.errors


@pytest.mark.parametrize("word", sorted(REFUSALS))
def test_each_no_is_said_and_writes_nothing(log: Log, word: str) -> None:
    """The word comes, and again when the same is sent again; in between not a byte of the partition has changed."""
    log.append(b"first")
    assert word_of(REFUSALS[word](log)) == word
    if word in {"SEQUENCE_REUSED", "STALE", "FENCED_PRODUCER", "GAP"}:
        before = log.dump()
        sequence = {"SEQUENCE_REUSED": 0, "STALE": 0, "FENCED_PRODUCER": 0, "GAP": 9}[word]
        epoch = 2 if word == "FENCED_PRODUCER" else 0
        assert log.send(log.batch([b"zz"], sequence=sequence, epoch=epoch), "me")[0] == word
    else:
        before = log.dump()
        if word == "FOREIGN":
            assert log.append(bytes(5000)) == (word, log.keys.segment(0)[1])
        elif word == "TOPIC_REPLACED":
            assert log.append(b"a", topic_id="another") == (word, log.topic_id)
        elif word == "BAD_TIMESTAMP":
            assert log.append(b"a", times=[5])[0] == word
        elif word == "TRIM":
            assert log.append(b"a", follow=False) == (word, "0 0")
        else:
            assert log.append(b"a", key_hash=7, partition=1, follow=False)[0] == word
    assert log.dump() == before


@pytest.mark.parametrize("name", ["meta", "tail", "segs", "producers", "log", "index", "times"])
@pytest.mark.parametrize("opened", [True, False])
def test_a_foreign_type_under_any_key_is_named_before_anything_is_written(
    redis_client: redis.Redis, namespace: str, name: str, opened: bool
) -> None:
    """Whatever somebody put there: the batch that would need that key is refused whole, and the key is named."""
    log = new_log(redis_client, namespace)
    if opened:
        log.append(b"first")
    keys = dict(zip(["log", "index", "times"], log.keys.segment(0), strict=True))
    key = keys.get(name) or getattr(log.keys, name)
    redis_client.delete(key)
    redis_client.rpush(key, "mine")
    before = log.dump()
    batch = log.batch([bytes(5000)])  # one that touches them all
    assert log.send(batch, "me") == ("FOREIGN", key)
    assert log.dump() == before


def test_the_hash_is_checked_against_the_partitions_own_count(redis_client: redis.Redis, namespace: str) -> None:
    """A keyed batch belongs where its hash says, by the count in meta; one without key goes anywhere."""
    log = new_log(redis_client, namespace, partitions=5, generation=3)
    assert log.append(b"a", key_hash=0xFFFFFFFF, generation=3).base_offset == 0
    assert log.append(b"a", key_hash=5, generation=3).base_offset == 1
    assert log.append(b"a", key_hash=6, generation=3) == ("WRONG_PARTITION", "5")
    assert log.append(b"a", key_hash=5, generation=2) == ("STALE_GENERATION", "3")
    assert log.append(b"a", key_hash=5, generation=3, partitions=4) == ("STALE_GENERATION", "3")
    assert log.append(b"a", key_hash=5, generation=3, partitions=5).base_offset == 2
    assert log.append(b"a", generation=2).base_offset == 3
    log.set_meta(growing=7)
    assert log.append(b"a", key_hash=5, generation=3) == ("GROWING", "7")
    assert log.append(b"a", generation=3).base_offset == 4


@pytest.mark.parametrize(
    ("offset_ms", "taken"),
    [(HOUR_MS - 5000, True), (HOUR_MS + 5000, False), (-WEEK_MS + 60_000, True), (-WEEK_MS - 5000, False)],
)
def test_times_are_taken_from_the_retention_to_an_hour_ahead(log: Log, offset_ms: int, taken: bool) -> None:
    """One record outside is enough; the answer names the limits, by the server's clock."""
    now = log.run.now()
    answer = log.append(b"a", b"b", times=[now, now + offset_ms])
    assert (word_of(answer) == "OK") == taken
    if not taken:
        oldest, newest = map(int, answer[1].split())
        assert now - WEEK_MS <= oldest <= now - WEEK_MS + 60_000
        assert newest == oldest + WEEK_MS + HOUR_MS


def test_the_largest_batch_is_what_meta_says(log: Log) -> None:
    """The frame as sent counts; a byte more is too large, with the limit in the answer."""
    batch = log.batch([bytes(500)])
    log.set_meta(max_message_bytes=len(batch.frame))
    assert word_of(log.send(batch)) == "OK"
    log.set_meta(max_message_bytes=len(batch.frame) - 1)
    assert log.send(batch) == ("TOO_LARGE", str(len(batch.frame) - 1))


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
def test_a_tail_of_another_length_is_damage(log: Log, old: bool) -> None:
    """Torn, or gone before its time: the partition says so, for good, and seals no nonsense, however old it is."""
    log.append(b"a", b"b")
    if old:
        log.set_meta(segment_at=1)
    log.run.client.set(log.keys.tail, "half")
    assert log.append(b"c") == ("DAMAGED", "the tail is not as long as meta says")
    assert log.fetch(0)[0] == "DAMAGED"
    assert log.append(b"c")[0] == "DAMAGED"


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda log: log.run.client.delete(log.keys.segment(0)[1]), "the index of segment 0 is gone"),
        (lambda log: log.run.client.hdel(log.keys.segment(0)[0], "0000000000000000"), "is gone"),
        (lambda log: log.run.client.zrem(log.keys.segment(0)[1], "0000000000000000"), "the index ends at -1"),
        (lambda log: log.set_meta(tail_base=9), "the tail begins at 9"),
    ],
)
def test_keys_that_contradict_each_other_are_found_in_a_new_life(
    log: Log, tells_lives: None, break_it: Callable[[Log], Any], words: str
) -> None:
    """A torn append-only file is noticed at the first append after the start, before anything is built on it."""
    log.append(bytes(5000))
    log.append(b"a")
    break_it(log)
    promote(log.run.client)
    answer = log.append(b"b")
    assert answer[0] == "DAMAGED"
    assert words in answer[1]


# --- waking ----------------------------------------------------------------------------------------------------------


def test_only_an_armed_partition_wakes_and_only_once(log: Log) -> None:
    """A reader that found nothing arms it; the next append says its number on the channel, those after are silent."""
    heard: list[Any] = []
    with log.run.client.pubsub() as pubsub:
        pubsub.subscribe(log.keys.channel)
        sync_wait_until(lambda: pubsub.get_message(timeout=1), "the subscription is confirmed")
        log.append(b"a")
        log.fetch(1, arm=True)
        log.append(b"b")
        log.append(b"c")
        log.run.client.publish(log.keys.channel, "end")
        while heard[-1:] != [b"end"]:
            message = sync_wait_until(lambda: pubsub.get_message(timeout=1), "a message comes")
            heard.append(message["data"])
    assert heard == [b"0", b"end"]


@pytest.mark.usefixtures("tells_lives")
@pytest.mark.parametrize("acks", [0, 1, "all"])
def test_too_few_replicas_refuse_only_who_wants_them(log: Log, acks: Any) -> None:
    """``acks="all"`` on a server without replicas that shall have one: refused, nothing written; others are taken."""
    log.set_meta(min_insync_replicas=2)
    before = log.dump()
    answer = log.append(b"a", acks=acks)
    if acks == "all":
        assert answer == ("NOT_ENOUGH_REPLICAS", "0 1")
        assert log.dump() == before
    else:
        assert answer.min_insync_replicas == 2


@pytest.mark.usefixtures("tells_lives")
def test_what_is_there_already_is_answered_though_replicas_are_gone(log: Log) -> None:
    """A batch sent again is found, and says so: whether replicas have it is the ``WAIT``'s to tell."""
    batch = log.batch([b"a"])
    assert log.send(batch, "me").base_offset == 0
    log.set_meta(min_insync_replicas=2)
    assert log.send(batch, "me", acks="all").base_offset == 0
