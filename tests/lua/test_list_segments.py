"""list_segments.lua: the closed segments of a log; and what ``list_offsets`` makes of knowing them."""

from __future__ import annotations

import redis

from streamlayer._core import calls
from streamlayer._core.calls import ClosedSegment, ListedSegments
from tests.lua.run import TOPIC_ID, Log, new_log, word_of


def listed(log: Log, after: int = -1) -> ListedSegments:
    """What the script answers."""
    answer = log.run(calls.list_segments(log.keys, topic_id=TOPIC_ID, after=after))
    assert isinstance(answer, ListedSegments), answer
    return answer


def test_closed_segments_are_listed_in_order(redis_client: redis.Redis, namespace: str) -> None:
    """Number, base and highest time of each, behind the one named; the open one is told apart. Twice is the same."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    for step in (30, 10, 20):
        log.append(b"a", b"b", times=[log.stamp - step, log.stamp - step - 5])
    answer = listed(log)
    assert answer == listed(log)
    assert [each[:3] for each in answer.closed] == [
        (0, 0, log.stamp - 30),
        (1, 2, log.stamp - 10),
        (2, 4, log.stamp - 20),
    ]
    assert [(each.number, each.closed) for each in answer.closed] == [(m[0], m[4]) for m in log.members()]
    assert (answer.open_segment, answer.open_base) == (3, 6)
    assert listed(log, after=1).closed == answer.closed[2:]
    assert listed(log, after=2).closed == []


def test_an_empty_log_has_no_closed_segments(log: Log) -> None:
    """Only the open one, from the first offset on."""
    assert listed(log)[1:] == (0, 0, [])


def test_another_log_and_foreign_data_are_told(log: Log) -> None:
    """A deleted and re-created topic, a key that is not ours."""
    assert word_of(log.run(calls.list_segments(log.keys, topic_id="f" * 32))) == "TOPIC_REPLACED"
    log.run.client.delete(log.keys.segs)
    log.run.client.set(log.keys.segs, "mine")
    assert word_of(log.run(calls.list_segments(log.keys, topic_id=TOPIC_ID))) == "FOREIGN"
    log.run.client.delete(log.keys.segs)


def test_what_was_known_of_another_history_does_not_count(redis_client: redis.Redis, namespace: str) -> None:
    """A reader is not sent past records that came after the end was lost, nor past old ones that came back."""
    log = new_log(redis_client, namespace, segment_bytes=10)
    for step in (3, 2, 1):
        log.append(b"v", times=[log.stamp - step])
    first, second, _ = listed(log).closed
    when = log.stamp - 3

    def look(passed: ClosedSegment, oldest: int = 0) -> object:
        after = passed.number + 1
        call = calls.list_offsets(
            log.keys, topic_id=TOPIC_ID, timestamp=when, segment=after, after=after, oldest=oldest, passed=passed
        )
        return log.run(call)

    believed = look(first)
    assert isinstance(believed, calls.ListedOffsets)
    assert believed.field is not None
    assert believed.field.base == 1, "what the caller says of the segments before is believed"
    assert look(first._replace(closed=first.closed - 1)) == ("SEGMENT", "0"), "it was closed at another time"
    assert look(first._replace(member=first.member + "1")) == ("SEGMENT", "0"), "it holds something else"
    assert look(second, oldest=1) == ("SEGMENT", "0"), "the log begins before what the caller has seen"
