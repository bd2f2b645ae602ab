"""Frames: how a batch of records is written, and read back with every byte checked.

A frame is: append time (6 bytes, put there by the append script; it stays zero in a large frame whose records carry
their own time), length of the rest after this field (4), CRC-32 of all that follows it (4), version (1), attributes
(1), record count (4), base timestamp (6), body. Integers are big-endian and unsigned. The body is MessagePack by
column, ``[timestamp deltas, keys, values, headers]``; a column that would hold only zeros or nulls is nil. The base
offset is not in it: the server gives it.

No clock, no lock, no socket: bytes in, columns out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, TypeAlias

import msgspec

Headers: TypeAlias = tuple[tuple[str, bytes], ...]

FRAME_VERSION: Final = 1
APPEND_TIME_BYTES: Final = 6
_PLACE_OF_TIME = bytes(APPEND_TIME_BYTES)
_LENGTH_AND_CRC = struct.Struct(">II")
_HEADER = struct.Struct(">BBIHI")  # version, attributes, count, base timestamp (high 16 bits, low 32)
_STORED = struct.Struct(">HIIIBBIHI")  # the same with append time, length and CRC before it
HEADER_BYTES: Final = _STORED.size
SHORT: Final = 255
"""The longest key or value whose length prefix takes two bytes."""
RECORD_OVERHEAD: Final = 7
"""Bytes a record of short key and value costs at most besides those two: two length prefixes and a time delta."""
LONG_RECORD_OVERHEAD: Final = 19
"""The same where a key or a value is longer."""
FAR_TIMESTAMP: Final = 6
"""What a time may cost besides, where it is given and can be far from the batch's first."""

COMPRESSION: Final = {None: 0, "gzip": 1}
"""``compression_type`` and the number in a frame's attributes (Kafka's)."""
APPEND_TIME_BIT: Final = 8
"""Attribute bit (Kafka's): the records' time is the frame's append time."""
_MAX_BODY = 1 << 28
_COLUMN = msgspec.Meta(max_length=_MAX_BODY // RECORD_OVERHEAD)
"""No batch has more records; looked at before a column is made: a small frame could unpack to gigabytes of nulls."""
Columns: TypeAlias = tuple[
    Annotated[list[int], _COLUMN] | None,
    Annotated[list[bytes | None], _COLUMN] | None,
    Annotated[list[bytes | None], _COLUMN],
    Annotated[list[Headers | None], _COLUMN] | None,
]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Columns).decode


class FrameError(Exception):
    """Bytes that are not a whole, sound frame. The message says which check failed.

    :ivar at: where the frame begins in its field.
    """

    at = 0


class Frame(msgspec.Struct):
    """One decoded frame.

    :ivar count: how many records.
    :ivar timestamps: each record's time, ms since the epoch.
    :ivar timestamp_type: 0 the producer's time, 1 the append time.
    :ivar keys: each record's key, or ``None`` if none has one.
    :ivar values: each record's value.
    :ivar headers: each record's headers, or ``None`` if none has any.
    """

    count: int
    timestamps: list[int]
    timestamp_type: int
    keys: list[bytes | None] | None
    values: list[bytes | None]
    headers: list[Headers | None] | None


def header_size(headers: Headers) -> int:
    """An upper bound of the bytes that a record's headers take."""
    return 5 + sum(11 + 4 * len(name) + len(value) for name, value in headers)


def encode_frame(
    timestamps: Sequence[int],
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
    headers: Sequence[Headers | None] | None = None,
    *,
    compression: int = 0,
    append_time: bool = False,
) -> tuple[bytes, int]:
    """Write a batch as a frame, its append time still zero.

    :param timestamps: each record's time, ms since the epoch.
    :param headers: each record's headers; ``None`` if none has any.
    :param compression: a value of ``COMPRESSION``.
    :param append_time: the records' time shall be the append time.
    :returns: the bytes and their CRC-32.
    """
    if not len(keys) == len(values) == len(timestamps) == len(headers or values):
        msg = f"{len(keys)} keys, {len(values)} values, {len(timestamps)} timestamps: a frame's columns are as long"
        raise FrameError(msg)
    base = timestamps[0]
    deltas = None
    if not append_time and timestamps.count(base) != len(timestamps):
        deltas = [timestamp - base for timestamp in timestamps]
    keyed = keys[0] is not None or keys.count(None) != len(keys)
    body = _encode((deltas, keys if keyed else None, values, headers))
    if compression:
        body = zlib.compress(body, 6, zlib.MAX_WBITS | 16)
    attributes = compression | (APPEND_TIME_BIT if append_time else 0)
    rest = _HEADER.pack(FRAME_VERSION, attributes, len(values), base >> 32, base & 0xFFFFFFFF) + body
    crc = zlib.crc32(rest)
    return b"".join((_PLACE_OF_TIME, _LENGTH_AND_CRC.pack(len(rest) + 4, crc), rest)), crc


def _body(attributes: int, body: bytes | memoryview) -> bytes | memoryview:
    compression = attributes & 7
    if compression == 0:
        return body
    if compression != COMPRESSION["gzip"]:
        msg = f"compression {compression} is not known to this release"
        raise FrameError(msg)
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        plain = inflate.decompress(body, _MAX_BODY)
    except zlib.error as error:
        msg = f"the body does not decompress: {error}"
        raise FrameError(msg) from error
    if not inflate.eof:
        msg = "the body does not decompress to its end"
        raise FrameError(msg)
    return plain


def decode_frames(stored: bytes) -> Iterator[Frame]:
    """Read a field's frames in order.

    :param stored: frames as the server keeps them, append times included.
    :raises FrameError: at the first frame that is not sound, after those before it were given.
    """
    view = memoryview(stored)
    at = 0
    while at < len(stored):
        try:
            frame, at = _decode_frame(stored, view, at)
        except FrameError as error:
            error.at = at
            raise
        yield frame


def frames_behind(stored: bytes, at: int) -> list[Frame]:
    """The sound frames at a field's end, behind the last that is not.

    :param at: where a frame begins that is not sound; its length is believed if that leads to the field's end.
    """
    view = memoryview(stored)
    behind: list[Frame] = []
    while at < len(stored):
        if at + HEADER_BYTES > len(stored):
            return []
        _, _, length, *_ = _STORED.unpack_from(stored, at)
        try:
            frame, _ = _decode_frame(stored, view, at)
            behind.append(frame)
        except FrameError:
            behind.clear()
        at += APPEND_TIME_BYTES + 4 + length
    return behind if at == len(stored) else []


def _decode_frame(stored: bytes, view: memoryview, at: int) -> tuple[Frame, int]:
    """One frame, and where the next one begins."""
    if at + HEADER_BYTES > len(stored):
        msg = f"{len(stored) - at} bytes are left, less than a frame's header"
        raise FrameError(msg)
    high, low, length, crc, version, attributes, count, base_high, base_low = _STORED.unpack_from(stored, at)
    checked = at + 14
    end = at + APPEND_TIME_BYTES + 4 + length
    if end > len(stored) or end < at + HEADER_BYTES:
        msg = f"a frame says it has {length} bytes, {len(stored) - at} are there"
        raise FrameError(msg)
    if zlib.crc32(view[checked:end]) != crc:
        msg = "the checksum does not match"
        raise FrameError(msg)
    if version != FRAME_VERSION:
        msg = f"frame version {version} is not known to this release"
        raise FrameError(msg)
    try:
        deltas, keys, values, headers = _decode(_body(attributes, view[at + HEADER_BYTES : end]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        msg = f"the body is not what its version says: {error}"
        raise FrameError(msg) from error
    if not count or any(c is not None and len(c) != count for c in (deltas, keys, values, headers)):
        msg = f"the columns do not hold {count} records"
        raise FrameError(msg)
    appended = attributes & APPEND_TIME_BIT
    base = (high << 32) + low if appended else (base_high << 32) + base_low
    if deltas is None or appended:
        timestamps = [base] * count
    else:
        timestamps = [base + delta for delta in deltas]
    return Frame(count, timestamps, 1 if appended else 0, keys, values, headers), end
