"""Topics whose records carry the server's time: what append writes, what look-ups by time go by."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from streamlayer._core.codec import Frame, decode_frames, encode_frame
from tests.lua.run import Log, Stored, new_log, word_of

LARGE = 5000
"""Bytes of a value whose frame does not fit the tail."""


@pytest.fixture
def stamped(redis_client: redis.Redis, namespace: str) -> Log:
    """A partition of a topic of append times."""
    return new_log(redis_client, namespace, timestamp_type=1)


def batch_of(values: list[bytes], times: list[int], sequence: int = 0) -> Stored:
    """A batch as a producer encodes it for such a topic."""
    frame, crc = encode_frame(times, [None] * len(values), values, append_time=True)
    return Stored(sequence, 0, len(values), crc, frame, (min(times), max(times)))


def frames_in(log: Log) -> list[Frame]:
    """All frames of the log, in order."""
    frames: list[Frame] = []
    position = 0
    while fields := log.fetch(position).fields:
        frames += [frame for field in fields for frame in decode_frames(field.frames)]
        position = fields[-1].last + 1
    return frames


def test_each_frame_carries_its_append_time(stamped: Log) -> None:
    """In the tail, in a field that it was sealed into, and in one of its own: what the answer told."""
    told: list[int] = []
    for sizes in ([1, 2, 3], [LARGE], [10], [3000], [3000], [LARGE, LARGE], [7]):
        before = stamped.run.now()
        answer = stamped.send(batch_of([bytes(size) for size in sizes], [before - 1000] * len(sizes)))
        assert before <= answer.append_time <= stamped.run.now()
        told += [answer.append_time] * len(sizes)
    frames = frames_in(stamped)
    assert [time for frame in frames for time in frame.timestamps] == told
    assert {frame.timestamp_type for frame in frames} == {1}


@pytest.mark.parametrize("time", [0, 1, 1_700_000_000, (1 << 48) - 1])
def test_no_time_of_a_producer_is_refused(stamped: Log, time: int) -> None:
    """Neither older than the retention nor ahead of the server: it is not looked at."""
    assert word_of(stamped.send(batch_of([b"v"], [time]))) == "OK"
    assert stamped.meta("max_timestamp") == frames_in(stamped)[0].timestamps


def test_a_batch_sent_twice_keeps_its_first_time(stamped: Log) -> None:
    """The answer and the log go on saying when it was appended."""
    batch = batch_of([b"a", b"b"], [5, 6])
    first = stamped.send(batch, "me")
    while stamped.run.now() == first.append_time:
        pass
    again = stamped.send(batch, "me")
    assert (again.base_offset, again.append_time) == (first.base_offset, first.append_time)
    assert [frame.timestamps for frame in frames_in(stamped)] == [[first.append_time] * 2]


@pytest.mark.parametrize("size", [1, 900, LARGE])
def test_look_ups_go_by_the_append_time(redis_client: redis.Redis, namespace: str, size: int) -> None:
    """In tail, fields and segments: the first record appended at or after a time, whatever its producer said."""
    log = new_log(redis_client, namespace, timestamp_type=1, segment_bytes=8000)
    times: list[int] = []
    for number in range(20):
        answer = log.send(batch_of([bytes(size)] * 2, [1_000 - number, 1_000]))
        times += [answer.append_time] * 2
        while log.run.now() == answer.append_time and number % 2:
            pass
    for when in sorted({step + time for time in times for step in (-1, 0, 1)}):
        expected = next((i for i, time in enumerate(times) if time >= when), None)
        assert _found_at(log, when) == expected


def _found_at(log: Log, when: int) -> int | None:
    answer: Any = log.at_time(when)
    assert word_of(answer) == "OK", answer
    if answer.field is None:
        return None
    inside = [time for frame in decode_frames(answer.field.frames) for time in frame.timestamps]
    return next(answer.field.base + i for i, time in enumerate(inside) if time >= when)
