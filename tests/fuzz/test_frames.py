"""Frames that somebody spoiled: a reader gets the records before them and a documented error, and goes on behind."""

from __future__ import annotations

import struct
import zlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlayer import CorruptRecordError, TopicPartition
from streamlayer._core.calls import Fetched, Field
from streamlayer._core.codec import APPEND_TIME_BYTES, FrameError, decode_frames, encode_frame, frames_behind
from streamlayer._core.keys import partition_keys
from streamlayer._core.positions import PartitionPosition
from tests.fuzz.inputs import TRIED, mutated, replies
from tests.profiles import examples

TP = TopicPartition("t", 0)


def frames(*counts: int, compression: int = 0) -> bytes:
    """A field of sound frames of so many records."""
    made = b""
    for count in counts:
        values = [b"value %d" % number for number in range(count)]
        times = list(range(1_700_000_000_000, 1_700_000_000_000 + count))
        made += encode_frame(times, [b"key"] * count, values, compression=compression)[0]
    return made


def sealed(body: bytes, count: int, attributes: int = 0) -> bytes:
    """A frame with any body, whose checksum and length are right."""
    rest = struct.pack(">BBIHI", 1, attributes, count, 0, 0) + body
    return bytes(APPEND_TIME_BYTES) + struct.pack(">II", len(rest) + 4, zlib.crc32(rest)) + rest


def _packed(value: object) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (TypeError, OverflowError, ValueError):
        return b"\xc1"


packed = replies.map(_packed)
FIELDS = [frames(3), frames(1, 2, 3), frames(50), frames(20, compression=1), frames(2, compression=1) + frames(4)]


def read(stored: bytes, last: int) -> int:
    """Read a field as a consumer does, over every error; how many records came."""
    position = PartitionPosition(TP, partition_keys("sl", "t", 0), "id", 1, 0)
    position.fetched(Fetched(last + 1, 0, 0, 1, "1:a:0", last + 1, [Field(0, last, stored)]))
    came = 0
    for _ in range(2 * last + 10):
        try:
            records = position.take(7, None, None, None)
        except CorruptRecordError as error:
            spoiled = error
        else:
            spoiled = None
            came += len(records)
        if spoiled is not None:
            assert spoiled.next_offset > 0, "who seeks there would get the same again"
            position.seek(spoiled.next_offset)
            return came
        if not records:
            return came
    raise AssertionError("it never comes to an end")


@settings(max_examples=examples(1500))
@given(st.data())
def test_spoiled_frames(data: st.DataObject) -> None:
    """Each is read to its end or to ``FrameError``; nothing else is raised, and a reader ends."""
    stored = data.draw(mutated(data.draw(st.sampled_from(FIELDS))))
    TRIED["frames"] += 1
    try:
        for frame in decode_frames(stored):
            assert frame.count == len(frame.timestamps) == len(frame.values)
    except FrameError as error:
        frames_behind(stored, error.at)
    read(stored, data.draw(st.integers(0, 60)))


@settings(max_examples=examples(1000))
@given(st.one_of(st.binary(max_size=60), packed), st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_bodies_of_any_kind_behind_a_right_checksum(body: bytes, count: int, attributes: int) -> None:
    """What passes the checksum may still be anything: it is refused, or its columns are as long as it says."""
    TRIED["frames"] += 1
    stored = sealed(body, count, attributes)
    try:
        for frame in decode_frames(stored):
            assert frame.count == len(frame.timestamps) == len(frame.values)
    except FrameError:
        assert frames_behind(stored, 0) == []
    read(stored, 5)


@pytest.mark.parametrize("size", [1 << 29])
def test_a_small_frame_that_would_become_huge(size: int) -> None:
    """Half a gigabyte of zeros in a compressed body of half a megabyte: refused, not unpacked."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    piece = bytes(1 << 20)
    body = b"".join(squeeze.compress(piece) for _ in range(size >> 20)) + squeeze.flush()
    with pytest.raises(FrameError, match="does not decompress to its end"):
        list(decode_frames(sealed(body, 1, 1)))
