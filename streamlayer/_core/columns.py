"""What a user hands over, made ready to be stored: bytes, headers, times; and many records at once.

Every refusal is a typed error that names the argument and what to do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, zip_longest
from operator import add
from typing import Any, NamedTuple, cast

import msgspec

from streamlayer._core.codec import LONG_RECORD_OVERHEAD, RECORD_OVERHEAD, SHORT, Headers
from streamlayer.errors import InvalidTimestampError

SECONDS_UNTIL = 100_000_000_000
"""A timestamp below this many ms (1973) is taken for seconds: a mistake, not a time."""
LATEST_MS = (1 << 48) - 1


def to_bytes(value: Any, serializer: Callable[[Any], bytes] | None, what: str) -> bytes | None:
    """One key or value as bytes; a null stays a null and does not see the serializer.

    :raises TypeError: it is not bytes, and there is no serializer, or that did not return bytes.
    """
    if value is None:
        return None
    if serializer is not None:
        serialized: Any = serializer(value)
        if isinstance(serialized, bytes):
            return _plain(serialized)
        msg = f"{what}_serializer returned {type(serialized).__name__}, not bytes"
        raise TypeError(msg)
    if isinstance(value, bytes):
        return _plain(value)
    if isinstance(value, bytearray):
        return bytes(value)
    hint = f"streamlayer.serializers.{'string' if isinstance(value, str) else 'json'}"
    msg = f"{what} is {type(value).__name__}, not bytes: pass bytes, or Producer({what}_serializer={hint})"
    raise TypeError(msg)


def _plain(value: bytes) -> bytes:
    """Bytes of a class of one's own would not be encoded."""
    return value if type(value) is bytes else bytes(value)


def to_column(given: Iterable[Any], serializer: Callable[[Any], bytes] | None, what: str) -> list[bytes | None]:
    """Many keys or values as bytes.

    :raises TypeError: as ``to_bytes``.
    """
    column = list(given)
    if serializer is None:
        try:
            # The quick look at each type; without builtin_types a str would pass for base64.
            return cast("list[bytes | None]", msgspec.convert(column, list[bytes], builtin_types=(bytes,)))
        except msgspec.ValidationError:
            pass  # a null, or something to refuse with its name
    return [to_bytes(value, serializer, what) for value in column]


def to_headers(headers: Any) -> Headers | None:
    """A record's headers, a mapping or pairs, as pairs.

    :raises TypeError: a name is not text, or a value not bytes.
    :raises ValueError: a name has no UTF-8.
    """
    if not headers:
        return None
    given: Iterable[tuple[Any, Any]] = headers.items() if hasattr(headers, "items") else headers
    try:
        pairs = tuple((name, value) for name, value in given)
    except (TypeError, ValueError) as error:
        msg = f"headers are a mapping, or pairs of str and bytes, not {headers!r}"
        raise TypeError(msg) from error
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, bytes):
            msg = f"headers are pairs of str and bytes, not ({type(name).__name__}, {type(value).__name__})"
            raise TypeError(msg)
    try:
        return tuple((name.encode().decode(), _plain(value)) for name, value in pairs)
    except UnicodeEncodeError as error:
        msg = f"a header's name has no UTF-8: {error}"
        raise ValueError(msg) from error


def to_timestamp(given: Any, now: int, *, append_time: bool) -> int:
    """A record's time as its producer gives it.

    :param append_time: the record will carry the server's time: what its producer said is looked at for its type only.
    :returns: ``given``; with ``append_time`` it is ``now``.
    :raises InvalidTimestampError: as ``check_timestamp``; with ``append_time`` only for what is no int.
    """
    if append_time:
        _whole(given)
        return now
    return check_timestamp(given)


def _whole(timestamp: Any) -> int:
    if not isinstance(timestamp, int) or isinstance(timestamp, bool):
        msg = f"timestamp_ms is an int of ms since the epoch, not {timestamp!r}"
        raise InvalidTimestampError(msg)
    return timestamp


def check_timestamp(given: Any) -> int:
    """An instant in ms since the epoch.

    :raises InvalidTimestampError: it cannot be in milliseconds since the epoch.
    """
    timestamp = _whole(given)
    if not 0 <= timestamp <= LATEST_MS:
        msg = f"timestamp_ms={timestamp} is out of range: it is in milliseconds since the epoch"
        raise InvalidTimestampError(msg)
    if timestamp < SECONDS_UNTIL:
        msg = f"timestamp_ms={timestamp} looks like seconds: multiply by 1000 (int(time.time() * 1000))"
        raise InvalidTimestampError(msg)
    return timestamp


def record_size(key: bytes | None, value: bytes | None, extra: int = 0) -> int:
    """An upper bound of the bytes a record takes in a batch."""
    key_size, value_size = len(key or b""), len(value or b"")
    overhead = RECORD_OVERHEAD if key_size <= SHORT and value_size <= SHORT else LONG_RECORD_OVERHEAD
    return key_size + value_size + overhead + extra


class Run(NamedTuple):
    """Records of one ``send_many`` that go to one partition, in order, by column.

    :ivar partition: its number; ``None``: wherever a batch without key is open.
    :ivar key_hash: the hash of the first record that its key placed here; ``None`` if none was.
    :ivar ends: at each index: the bytes of all keys and values up to it, itself included.
    :ivar overhead: bytes each record takes besides them.
    """

    partition: int | None
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps: list[int]
    key_hash: int | None
    ends: list[int]
    overhead: int

    def size(self, start: int, end: int) -> int:
        """The bytes of the records from ``start`` to before ``end``."""
        return (
            (self.ends[end - 1] if end else 0) - (self.ends[start - 1] if start else 0) + (end - start) * self.overhead
        )

    def cut(self, start: int, room: int) -> int:
        """The index behind the last record that fits into ``room``, from ``start`` on."""
        ends = range(start + 1, len(self.values) + 1)
        return start + bisect_right(ends, room, key=lambda end: self.size(start, end))


def _longest(column: Sequence[bytes | None]) -> int:
    try:
        return max(map(len, cast("Sequence[bytes]", column)), default=0)
    except TypeError:  # a null among them
        return max(len(part or b"") for part in column)


def _run(
    partition: int | None,
    keys: list[bytes | None],
    values: list[bytes | None],
    timestamps: list[int],
    key_hash: int | None,
    overhead: int,
) -> Run:
    try:
        lengths = map(len, cast("list[bytes]", values))
        ends = list(accumulate(map(add, map(len, cast("list[bytes]", keys)), lengths) if keys else lengths))
    except TypeError:  # a null among them
        ends = list(accumulate(len(key or b"") + len(value or b"") for key, value in zip_longest(keys, values)))
    return Run(partition, keys, values, timestamps, key_hash, ends, overhead)


class Longest(NamedTuple):
    """The lengths of the longest key and the longest value of many records."""

    key: int
    value: int

    @property
    def overhead(self) -> int:
        """Bytes each record takes at most besides key and value."""
        return RECORD_OVERHEAD if max(self) <= SHORT else LONG_RECORD_OVERHEAD


def longest(keys: Sequence[bytes | None] | None, values: Sequence[bytes | None]) -> Longest:
    """Scan columns for their longest entries."""
    return Longest(_longest(keys or ()), _longest(values))


def too_large(keys: Sequence[bytes | None] | None, values: Sequence[bytes | None], limit: int) -> int:
    """The bytes of the first record whose key and value are larger than ``limit``; 0 if none is."""
    sizes = (len(key or b"") + len(value or b"") for key, value in zip_longest(keys or (), values))
    return next((size for size in sizes if size > limit), 0)


def runs(
    values: list[bytes | None],
    keys: list[bytes | None] | None,
    timestamps: list[int] | int,
    partition: int | None,
    partitions: int,
    hash_of: Callable[[bytes], int],
    overhead: int,
) -> list[Run]:
    """Part records by partition, order kept in each.

    :param timestamps: each record's time, or one for all.
    :param partition: the one partition to use, ``None`` to go by key.
    :param partitions: how many there are.
    :param overhead: bytes each record takes besides key and value.
    """
    if keys is None or partition is not None:
        times = [timestamps] * len(values) if isinstance(timestamps, int) else timestamps
        return [_run(partition, keys or [], values, times, None, overhead)]
    hashes: list[int | None]
    try:
        hashes = list(map(hash_of, cast("list[bytes]", keys)))
        places = [key_hash % partitions for key_hash in cast("list[int]", hashes)]
    except TypeError:  # a null among them
        hashes = [None if key is None else hash_of(key) for key in keys]
        places = [partitions if key_hash is None else key_hash % partitions for key_hash in hashes]
    part_keys: list[list[bytes | None]] = [[] for _ in range(partitions + 1)]
    part_values: list[list[bytes | None]] = [[] for _ in range(partitions + 1)]
    add_key = [column.append for column in part_keys]
    add_value = [column.append for column in part_values]
    for place, key, value in zip(places, keys, values, strict=True):
        add_key[place](key)
        add_value[place](value)
    part_times = _part_times(timestamps, places, [len(column) for column in part_values])
    return [
        _run(None, [], part_values[number], part_times[number], None, overhead)
        if number == partitions
        else _run(
            number,
            part_keys[number],
            part_values[number],
            part_times[number],
            hashes[places.index(number)],
            overhead,
        )
        for number in range(partitions + 1)
        if part_values[number]
    ]


def _part_times(timestamps: list[int] | int, places: list[int], counts: list[int]) -> list[list[int]]:
    if isinstance(timestamps, int):
        return [[timestamps] * count for count in counts]
    parted: list[list[int]] = [[] for _ in counts]
    for place, timestamp in zip(places, timestamps, strict=True):
        parted[place].append(timestamp)
    return parted
