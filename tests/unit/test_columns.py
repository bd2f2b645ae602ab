"""What users hand over: bytes, headers and times made ready, or refused with the reason; and records parted."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlayer._core.accumulator import FRAME_OVERHEAD
from streamlayer._core.codec import encode_frame
from streamlayer._core.columns import (
    LATEST_MS,
    SECONDS_UNTIL,
    check_timestamp,
    longest,
    record_size,
    runs,
    to_bytes,
    to_headers,
    to_timestamp,
    too_large,
)
from streamlayer._core.hashing import PARTITIONERS
from streamlayer.errors import InvalidTimestampError
from tests.profiles import examples

NOW = 1_700_000_000_000

pieces = st.one_of(st.none(), st.binary(max_size=12), st.integers(250, 260).map(bytes))
columns = st.lists(st.tuples(pieces, pieces, st.integers(0, 50)), min_size=1, max_size=60)


@pytest.mark.parametrize("value", [b"", b"x", None])
def test_bytes_and_null_stay_what_they_are(value: bytes | None) -> None:
    """Without a serializer nothing is copied or changed."""
    assert to_bytes(value, None, "value") is value


def test_a_bytearray_is_copied() -> None:
    """What its owner changes later must not change the record."""
    given = bytearray(b"abc")
    stored = to_bytes(given, None, "value")
    given[:] = b"xyz"
    assert stored == b"abc"


def test_the_serializer_sees_all_but_null() -> None:
    """Bytes too go through it; a null means a null to everybody."""
    seen: list[Any] = []

    def serialize(value: Any) -> bytes:
        seen.append(value)
        return b"s"

    assert [to_bytes(value, serialize, "key") for value in (None, b"x", 7)] == [None, b"s", b"s"]
    assert seen == [b"x", 7]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("text", "value is str, not bytes: .*value_serializer=streamlayer.serializers.string"),
        ({"a": 1}, "value is dict, not bytes: .*serializers.json"),
        (7, "value is int"),
        ([b"x"], "value is list"),
    ],
)
def test_anything_else_is_refused_with_what_to_do(value: Any, words: str) -> None:
    """The error names the argument, its type, and the serializer that would do."""
    with pytest.raises(TypeError, match=words):
        to_bytes(value, None, "value")


def test_a_serializer_that_returns_no_bytes_is_named() -> None:
    """The mistake is the serializer's, and the error says so."""
    with pytest.raises(TypeError, match="key_serializer returned str, not bytes"):
        to_bytes(7, str, "key")  # type: ignore[arg-type]


def test_headers_are_pairs_in_order() -> None:
    """A mapping or pairs; a name may come twice; none at all is none."""
    assert to_headers({"a": b"1", "b": b"2"}) == (("a", b"1"), ("b", b"2"))
    assert to_headers([("a", b"1"), ("a", b"2")]) == (("a", b"1"), ("a", b"2"))
    assert to_headers(None) is None
    assert to_headers({}) is None


@pytest.mark.parametrize("headers", [{"a": "1"}, {b"a": b"1"}, [("a", None)], {"a": 1}])
def test_other_headers_are_refused(headers: Any) -> None:
    """Names are text, values bytes."""
    with pytest.raises(TypeError, match="headers are pairs of str and bytes"):
        to_headers(headers)


@pytest.mark.parametrize("timestamp", [SECONDS_UNTIL, NOW, LATEST_MS])
def test_milliseconds_are_taken(timestamp: int) -> None:
    """From 1973 to the last that fits six bytes."""
    assert check_timestamp(timestamp) == timestamp


@pytest.mark.parametrize(
    ("timestamp", "words"),
    [
        (1_700_000_000, "looks like seconds: multiply by 1000"),
        (0, "looks like seconds"),
        (SECONDS_UNTIL - 1, "looks like seconds"),
        (-1, "out of range"),
        (LATEST_MS + 1, "out of range"),
        (NOW * 1_000_000, "out of range"),
        (1.7e12, "an int of ms"),
        (True, "an int of ms"),
        ("2024", "an int of ms"),
    ],
)
def test_what_is_no_time_in_ms_is_refused(timestamp: Any, words: str) -> None:
    """Seconds, nanoseconds, floats and texts are mistakes, not times."""
    with pytest.raises(InvalidTimestampError, match=words):
        check_timestamp(timestamp)


@pytest.mark.parametrize("timestamp", [-5, 0, 1_700_000_000, NOW, LATEST_MS + 1])
def test_a_time_that_the_server_replaces_is_only_looked_at_for_its_type(timestamp: int) -> None:
    """Where the append time counts, any int will do, and what is stored is the producer's own clock."""
    assert to_timestamp(timestamp, NOW + 1, append_time=True) == NOW + 1
    with pytest.raises(InvalidTimestampError, match="an int of ms"):
        to_timestamp(float(timestamp), NOW + 1, append_time=True)


def test_a_time_that_counts_is_checked_and_kept() -> None:
    """Where the producer's time counts, it is what the user said, or a refusal."""
    assert to_timestamp(NOW, NOW + 1, append_time=False) == NOW
    with pytest.raises(InvalidTimestampError, match="looks like seconds"):
        to_timestamp(NOW // 1000, NOW, append_time=False)


@given(columns, st.integers(0, 60), st.integers(0, 600))
def test_too_large_names_the_first_that_is(records: list[Any], extra: int, limit: int) -> None:
    """The size of the first record above the limit, 0 if there is none; keys count."""
    keys, values, _ = (list(column) for column in zip(*records, strict=True))
    sizes = [len(key or b"") + len(value or b"") for key, value in zip(keys, values, strict=True)]
    assert too_large(keys, values, limit) == next((size for size in sizes if size > limit), 0)
    alone = [len(value or b"") for value in values]
    assert too_large(None, values, limit) == next((size for size in alone if size > limit), 0)


@given(columns, st.sampled_from([None, 0, 2]), st.integers(1, 5), st.booleans(), st.sampled_from(sorted(PARTITIONERS)))
def test_parting_loses_nothing_and_keeps_order(
    records: list[Any], partition: int | None, partitions: int, keyed: bool, partitioner: str
) -> None:
    """Each record is in one run, in the order given, with its own key and time, where its key or caller wants it."""
    keys, values, offsets = (list(column) for column in zip(*records, strict=True))
    tagged = [(value or b"") + b"#%d" % i for i, value in enumerate(values)]
    times = [NOW + offset for offset in offsets]
    hash_of = PARTITIONERS[partitioner]
    parted = runs(tagged, keys if keyed else None, times, partition, partitions, hash_of, 7)
    seen: list[int] = []
    for run in parted:
        numbers = [int((value or b"").rpartition(b"#")[2]) for value in run.values]
        assert numbers == sorted(numbers)
        assert run.timestamps == [times[i] for i in numbers]
        assert (run.keys or [None] * len(numbers)) == [keys[i] if keyed else None for i in numbers]
        if partition is not None:
            assert run.partition == partition
            assert run.key_hash is None
        elif run.partition is not None:
            assert {hash_of(key) % partitions for key in run.keys if key is not None} == {run.partition}
            assert run.key_hash == hash_of(run.keys[0] or b"")
        else:
            assert run.key_hash is None
        seen += numbers
    assert sorted(seen) == list(range(len(values)))
    assert len({run.partition for run in parted}) == len(parted)


@given(columns, st.integers(1, 3))
@settings(max_examples=examples(30))
def test_one_time_for_all_is_each_ones(records: list[Any], partitions: int) -> None:
    """A single time stands for as many as there are records."""
    keys, values, _ = (list(column) for column in zip(*records, strict=True))
    one = runs(values, keys, NOW, None, partitions, crc32, 7)
    assert one == runs(values, keys, [NOW] * len(values), None, partitions, crc32, 7)


@given(columns, st.booleans(), st.integers(0, 40), st.integers(60, 700))
@settings(max_examples=examples(200))
def test_a_run_is_cut_into_batches_that_fit(records: list[Any], keyed: bool, extra: int, room: int) -> None:
    """Cuts go on, take as much as fits, and what they take is no larger when encoded."""
    keys, values, offsets = (list(column) for column in zip(*records, strict=True))
    times = [NOW + offset for offset in offsets]
    overhead = longest(keys if keyed else None, values).overhead + extra
    for run in runs(values, keys if keyed else None, times, None, 3, crc32, overhead):
        start = 0
        while start < len(run.values):
            end = run.cut(start, room)
            assert start <= end <= len(run.values)
            assert run.size(start, end) <= room
            assert end == len(run.values) or run.size(start, end + 1) > room
            if end == start:  # it alone is larger: it goes alone
                end = start + 1
                room_needed = run.size(start, end)
            else:
                room_needed = room
            part = run.keys[start:end] or [None] * (end - start)
            frame, _ = encode_frame(run.timestamps[start:end], part, run.values[start:end])
            assert len(frame) <= FRAME_OVERHEAD + room_needed
            start = end


@given(pieces, pieces, st.integers(0, 100))
def test_sending_one_reckons_no_less_than_its_bytes(key: bytes | None, value: bytes | None, extra: int) -> None:
    """The size of a record is more than key and value, whatever is null."""
    assert record_size(key, value, extra) >= len(key or b"") + len(value or b"") + extra + 7
