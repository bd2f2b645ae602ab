"""What a user hands over, made ready to be stored: bytes, headers, times; and many records at once.

Every refusal is a typed error that names the argument and what to do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, zip_longest
from operator import add
from typing import Any, NamedTuple, cast

from streamlayer._core.codec import Headers
from streamlayer.errors import InvalidTimestampError

SECONDS_UNTIL = 100_000_000_000
"""A timestamp below this many ms (1973) is taken for seconds: a mistake, not a time."""
LATEST_MS = (1 << 48) - 1


def to_bytes(value: Any, serializer: Callable[[Any], bytes] | None, what: str) -> bytes | None:
    """One key or value as bytes; a null stays a null and does not see the serializer.

    :raises TypeError: it is not bytes, and there is no serializer, or that did not return bytes.
    """
    if value is None or type(value) is bytes:
        if value is None or serializer is None:
            return value
    if serializer is not None:
        serialized = serializer(value)
        if isinstance(serialized, bytes):
            return serialized
        msg = f"{what}_serializer returned {type(serialized).__name__}, not bytes"
        raise TypeError(msg)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    hint = f"streamlayer.serializers.{'string' if isinstance(value, str) else 'json'}"
    msg = f"{what} is {type(value).__name__}, not bytes: pass bytes, or Producer({what}_serializer={hint})"
    raise TypeError(msg)


def to_headers(headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None) -> Headers | None:
    """A record's headers as pairs.

    :raises TypeError: a name is not text, or a value not bytes.
    """
    if not headers:
        return None
    pairs = tuple(headers.items()) if isinstance(headers, Mapping) else tuple((name, value) for name, value in headers)
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, bytes):
            msg = f"headers are pairs of str and bytes, not ({type(name).__name__}, {type(value).__name__})"
            raise TypeError(msg)
    return pairs


def check_timestamp(timestamp: Any) -> int:
    """A record's time.

    :raises InvalidTimestampError: it cannot be in milliseconds since the epoch.
    """
    if not isinstance(timestamp, int) or isinstance(timestamp, bool):
        msg = f"timestamp_ms is an int of ms since the epoch, not {timestamp!r}"
        raise InvalidTimestampError(msg)
    if not 0 <= timestamp <= LATEST_MS:
        msg = f"timestamp_ms={timestamp} is out of range: it is in milliseconds since the epoch"
        raise InvalidTimestampError(msg)
    if timestamp < SECONDS_UNTIL:
        msg = f"timestamp_ms={timestamp} looks like seconds: multiply by 1000 (int(time.time() * 1000))"
        raise InvalidTimestampError(msg)
    return timestamp


def record_size(key: bytes | None, value: bytes | None, extra: int = 0) -> int:
    """An upper bound of the bytes a record takes in a batch."""
    size = (len(key) if key is not None else 0) + (len(value) if value is not None else 0) + 7 + extra
    return size if size <= 262 else size + 12  # noqa: PLR2004 - 255 bytes and the overhead: a longer length prefix


class Run(NamedTuple):
    """Records of one ``send_many`` that go to one partition, in order, by column.

    :ivar partition: its number; ``None``: wherever a batch without key is open.
    :ivar key_hash: the hash of the first record that its key placed here; ``None`` if none was.
    :ivar ends: of the record at each index: the bytes that all up to it take.
    """

    partition: int | None
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps: list[int]
    key_hash: int | None
    ends: list[int]

    def cut(self, start: int, room: int) -> int:
        """The index behind the last record that fits into ``room``, from ``start`` on."""
        return bisect_right(self.ends, (self.ends[start - 1] if start else 0) + room, start)


def _ends(keys: Sequence[bytes | None], values: Sequence[bytes | None], extra: int) -> list[int]:
    try:
        plain = cast("Sequence[bytes]", values)
        sizes = (
            list(map(len, plain))
            if not keys
            else list(map(add, map(len, cast("Sequence[bytes]", keys)), map(len, plain)))
        )
    except TypeError:  # a null among them
        sizes = [len(key or b"") + len(value or b"") for key, value in zip_longest(keys, values)]
    overhead = extra + (7 if max(sizes) < 256 else 19)  # noqa: PLR2004 - longer ones have longer length prefixes
    return list(accumulate(map(overhead.__add__, sizes)))


def largest(keys: Sequence[bytes | None] | None, values: Sequence[bytes | None]) -> int:
    """The bytes of the largest record, overhead left out."""
    if not values:
        return 0
    sizes = [0 if value is None else len(value) for value in values]
    if keys is None:
        return max(sizes)
    return max(map(add, sizes, (0 if key is None else len(key) for key in keys)))


def runs(
    values: list[bytes | None],
    keys: list[bytes | None] | None,
    timestamps: list[int],
    partition: int | None,
    partitions: int,
    hash_of: Callable[[bytes], int],
    extra: int,
) -> list[Run]:
    """Part records by partition, order kept in each.

    :param partition: the one partition to use, ``None`` to go by key.
    :param partitions: how many there are.
    :param extra: bytes each record takes besides key and value.
    """
    if keys is None or partition is not None:
        return [Run(partition, keys or [], values, timestamps, None, _ends(keys or [], values, extra))]
    if None in keys:
        hashes: list[int | None] = [None if key is None else hash_of(key) for key in keys]
        places = [partitions if key_hash is None else key_hash % partitions for key_hash in hashes]
    else:
        hashes = list(map(hash_of, cast("list[bytes]", keys)))
        places = [key_hash % partitions for key_hash in cast("list[int]", hashes)]
    parts: list[tuple[list[bytes | None], list[bytes | None], list[int]]] = [
        ([], [], []) for _ in range(partitions + 1)
    ]
    adders = [(part[0].append, part[1].append, part[2].append) for part in parts]
    for place, key, value, timestamp in zip(places, keys, values, timestamps, strict=True):
        add_key, add_value, add_timestamp = adders[place]
        add_key(key)
        add_value(value)
        add_timestamp(timestamp)
    return [
        Run(None, [], part[1], part[2], None, _ends([], part[1], extra))
        if number == partitions
        else Run(number, *part, hashes[places.index(number)], _ends(part[0], part[1], extra))
        for number, part in enumerate(parts)
        if part[1]
    ]
