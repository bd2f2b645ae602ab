"""Frames: what is written comes back, and what is not what was written is never taken for it."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlayer._core.accumulator import FRAME_OVERHEAD
from streamlayer._core.codec import (
    APPEND_TIME_BYTES,
    COMPRESSION,
    HEADER_BYTES,
    Frame,
    FrameError,
    Headers,
    decode_frames,
    encode_frame,
    header_size,
)
from streamlayer._core.columns import LATEST_MS, record_size
from tests.profiles import examples

Record = tuple[int, bytes | None, bytes | None, Headers | None]

parts = st.one_of(st.none(), st.binary(max_size=40), st.binary(min_size=250, max_size=300))
headers = st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=20)), max_size=3).map(tuple)
instants = st.one_of(st.integers(0, LATEST_MS), st.integers(1_700_000_000_000, 1_700_000_000_500))
records = st.lists(st.tuples(instants, parts, parts, st.one_of(st.none(), headers)), min_size=1, max_size=30)
near = st.lists(
    st.tuples(st.integers(1_700_000_000_000, 1_700_000_030_000), parts, parts, st.none()), min_size=1, max_size=60
)


def encode(batch: list[Record], compression: int = 0, *, append_time: bool = False, at: int = 0) -> bytes:
    """A batch as the server would keep it."""
    times, keys, values, pairs = (list(column) for column in zip(*batch, strict=True))
    frame, _ = encode_frame(
        times, keys, values, pairs if any(pairs) else None, compression=compression, append_time=append_time
    )
    return at.to_bytes(APPEND_TIME_BYTES, "big") + frame[APPEND_TIME_BYTES:]


def decode(stored: bytes) -> list[Frame]:
    """All frames of a field."""
    return list(decode_frames(stored))


def sealed(body: bytes, *, count: int = 1, attributes: int = 0, version: int = 1) -> bytes:
    """A frame with any body, and a checksum that matches it."""
    rest = struct.pack(">BBIHI", version, attributes, count, 0, 0) + body
    return bytes(APPEND_TIME_BYTES) + struct.pack(">II", len(rest) + 4, zlib.crc32(rest)) + rest


@given(records, st.sampled_from(sorted(COMPRESSION.values())))
def test_what_is_written_comes_back(batch: list[Record], compression: int) -> None:
    """Keys, values, headers and times survive, nulls and far timestamps too, plain and compressed."""
    (frame,) = decode(encode(batch, compression))
    assert frame.count == len(batch)
    assert frame.timestamp_type == 0
    assert frame.timestamps == [time for time, *_ in batch]
    assert (frame.keys or [None] * len(batch)) == [key for _, key, _, _ in batch]
    assert frame.values == [value for _, _, value, _ in batch]
    assert [pairs or None for pairs in frame.headers or [None] * len(batch)] == [pairs or None for *_, pairs in batch]


@given(st.lists(records, max_size=5))
@settings(max_examples=examples(30))
def test_frames_behind_each_other_come_back_in_order(batches: list[list[Record]]) -> None:
    """A field holds many frames; each says itself where it ends."""
    frames = decode(b"".join(encode(batch) for batch in batches))
    assert [frame.values for frame in frames] == [[value for _, _, value, _ in batch] for batch in batches]


@given(records, st.integers(0, LATEST_MS))
@settings(max_examples=examples(30))
def test_append_time_is_the_servers(batch: list[Record], at: int) -> None:
    """With the append-time bit each record has the time that the script wrote before the frame."""
    (frame,) = decode(encode(batch, append_time=True, at=at))
    assert frame.timestamps == [at] * len(batch)
    assert frame.timestamp_type == 1


def test_the_checksum_is_that_of_all_behind_it() -> None:
    """The CRC that the producer sends beside the frame is the one in it, over everything that follows."""
    frame, crc = encode_frame([1], [b"k"], [b"v"])
    assert struct.unpack(">II", frame[6:14]) == (len(frame) - 10, crc)
    assert crc == zlib.crc32(frame[14:])


@pytest.mark.parametrize("compression", COMPRESSION.values())
def test_every_corrupted_byte_is_noticed(compression: int) -> None:
    """Any other value in any byte of a frame, the append time apart, is an error and never other records."""
    batch: list[Record] = [(1_700_000_000_000 + i, b"key", b"value %d" % i, (("a", b"b"),)) for i in range(3)]
    stored = encode(batch, compression)
    whole = decode(stored)
    for place in range(APPEND_TIME_BYTES, len(stored)):
        for flip in (1, 0x80, 0xFF):
            broken = bytearray(stored)
            broken[place] ^= flip
            try:
                found = decode(bytes(broken))
            except FrameError:
                continue
            assert found == whole, f"byte {place} ^ {flip}"


def test_every_cut_is_noticed_after_what_was_whole() -> None:
    """A field that ends early gives its whole frames, then an error."""
    first, second = encode([(1, None, b"a", None)]), encode([(2, None, b"b", None)])
    for end in range(len(first) + 1, len(first) + len(second)):
        frames = decode_frames((first + second)[:end])
        assert next(frames).values == [b"a"]
        with pytest.raises(FrameError):
            next(frames)


@given(st.binary(max_size=200))
@settings(max_examples=examples(200))
def test_arbitrary_bytes_are_at_worst_an_error(stored: bytes) -> None:
    """Nothing but FrameError comes out of nonsense, and it ends."""
    with suppress(FrameError):
        decode(stored)


@given(st.binary(max_size=60), st.integers(0, 255), st.integers(0, 3), st.sampled_from([0, 1, 1 << 31]))
@settings(max_examples=examples(300))
def test_nonsense_with_a_right_checksum_is_at_worst_an_error(
    body: bytes, attributes: int, version: int, count: int
) -> None:
    """The checks behind the checksum hold by themselves: another release may have written anything."""
    try:
        frames = decode(sealed(body, count=count, attributes=attributes, version=version))
    except FrameError:
        return
    assert [frame.count for frame in frames] == [count]


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (sealed(msgspec.msgpack.encode((None, None, [b"v"], None)), version=2), "frame version 2"),
        (sealed(msgspec.msgpack.encode((None, None, [b"v"], None)), attributes=5), "compression 5"),
        (sealed(b"not gzip", attributes=1), "does not decompress"),
        (sealed(zlib.compress(b"x" * 99, wbits=31)[:-4], attributes=1), "to its end"),
        (sealed(msgspec.msgpack.encode((None, None, [b"v"], None)), count=2), "2 records"),
        (sealed(msgspec.msgpack.encode((None, [b"k", b"k"], [b"v"], None))), "1 records"),
        (sealed(msgspec.msgpack.encode((None, None, [], None)), count=0), "0 records"),
        (sealed(b"\x94\xc0\xc0\xdd\xff\xff\xff\xff\xc0"), "not what its version says"),
        (sealed(b"\x91" * 5000), "not what its version says"),
        (bytes(HEADER_BYTES), "0 bytes"),
        (bytes(HEADER_BYTES - 1), "less than a frame's header"),
    ],
)
def test_each_check_says_what_it_found(stored: bytes, words: str) -> None:
    """One frame for each check, and the words of its error."""
    with pytest.raises(FrameError, match=words):
        decode(stored)


@given(near)
@settings(max_examples=examples(100))
def test_a_batch_takes_no_more_than_was_reckoned(batch: list[Record]) -> None:
    """The sizes by which a batch is closed are upper bounds: for records that were made within half a minute."""
    reckoned = FRAME_OVERHEAD + sum(record_size(key, value) for _, key, value, _ in batch)
    assert len(encode(batch)) <= reckoned


@given(st.lists(headers.filter(bool), min_size=1, max_size=20))
@settings(max_examples=examples(50))
def test_headers_take_no_more_than_was_reckoned(column: list[Headers]) -> None:
    """The bound for headers is one."""
    batch: list[Record] = [(5, None, b"", pairs) for pairs in column]
    reckoned = FRAME_OVERHEAD + sum(record_size(None, b"", header_size(pairs)) for pairs in column)
    assert len(encode(batch)) <= reckoned
