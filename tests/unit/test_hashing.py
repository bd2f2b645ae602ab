"""Hashes of keys: the published vectors, so that other clients place the same key in the same partition."""

from __future__ import annotations

import pytest

from streamlayer._config import TopicConfig
from streamlayer._core.hashing import PARTITIONERS


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"", 0x00000000),
        (b"a", 0xE8B7BE43),
        (b"abc", 0x352441C2),
        (b"message digest", 0x20159D7F),
        (b"abcdefghijklmnopqrstuvwxyz", 0x4C2750BD),
        (b"123456789", 0xCBF43926),
        (b"The quick brown fox jumps over the lazy dog", 0x414FA339),
    ],
)
def test_crc32_gives_the_published_values(key: bytes, expected: int) -> None:
    """CRC-32 (ISO-HDLC), as published; librdkafka's `consistent` is this modulo the partitions."""
    assert PARTITIONERS["crc32"](key) == expected


@pytest.mark.parametrize("key", [b"order-17", bytes(300), "schlüssel".encode()])
def test_crc32_is_what_its_definition_says(key: bytes) -> None:
    """The same, bit by bit, for keys without a published value."""
    assert PARTITIONERS["crc32"](key) == _crc32(key)


def _crc32(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xEDB88320 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_every_partitioner_of_a_topic_is_there() -> None:
    """What a topic's configuration may name, this release can compute."""
    TopicConfig(partitioner="crc32")
    assert set(PARTITIONERS) == {"crc32"}
