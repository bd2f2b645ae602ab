"""Hashes of keys: the published vectors, so that other clients place the same key in the same partition."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamlayer._config import TopicConfig
from streamlayer._core.hashing import PARTITIONERS, Remembering, murmur2


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


@pytest.mark.parametrize(
    ("key", "java"),
    [
        # Kafka's own UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
        # what Akka, kafka-go and others hold themselves to besides; "1" to "12345" have all remainders of 4
        (b"", 275646681),
        (b"1", -1993445489),
        (b"12", 126087238),
        (b"123", -267702483),
        (b"1234", -1614185708),
        (b"12345", -1188365604),
        (bytes([12, 42, 56, 24, 109, 111]), 274204207),
    ],
)
def test_murmur2_gives_the_published_values(key: bytes, java: int) -> None:
    """A Java client's `toPositive(murmur2(key))`: the sign is masked, so the same partition comes out."""
    assert murmur2(key) == java & 0x7FFFFFFF
    assert PARTITIONERS["murmur2"](key) == java & 0x7FFFFFFF


@given(st.binary(max_size=300))
@example(b"\xff" * 64)
@example(b"\xff" * 65)
@example(b"\x80" * 68)
def test_murmur2_is_what_its_definition_says(key: bytes) -> None:
    """The same, step by step as published, for keys of all lengths; asked twice, the answer is the same."""
    expected = _murmur2(key) & 0x7FFFFFFF
    assert murmur2(key) == expected
    assert [PARTITIONERS["murmur2"](key) for _ in range(2)] == [expected] * 2


def _murmur2(data: bytes) -> int:
    multiplier, whole = 0x5BD1E995, len(data) // 4 * 4
    mixed = 0x9747B28C ^ len(data)
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little")
        word = word * multiplier % (1 << 32)
        word ^= word >> 24
        word = word * multiplier % (1 << 32)
        mixed = mixed * multiplier % (1 << 32) ^ word
    for place, byte in enumerate(data[whole:]):
        mixed ^= byte << 8 * place
    if len(data) > whole:
        mixed = mixed * multiplier % (1 << 32)
    mixed ^= mixed >> 13
    mixed = mixed * multiplier % (1 << 32)
    return mixed ^ mixed >> 15


def test_a_repeated_key_is_hashed_once() -> None:
    """What makes repeated keys as cheap as crc32; equal bytes are the same key, whoever made them."""
    hashed: list[bytes] = []

    def hash_of(key: bytes) -> int:
        hashed.append(key)
        return murmur2(key)

    remembering = Remembering(hash_of)
    keys = [b"order-%d" % (number % 10) for number in range(1000)]
    assert [remembering[key] for key in keys] == [murmur2(key) for key in keys]
    assert hashed == keys[:10]


def test_what_is_remembered_is_bounded() -> None:
    """However many keys come, the memory they take has an end; long keys are not kept at all."""
    dice = random.Random(1)
    remembering = Remembering(len)
    most = 0
    for _ in range(200_000):
        assert remembering[dice.randbytes(64)] == 64
        most = max(most, len(remembering))
    assert most == 65_536
    kept = sys.getsizeof(remembering) + sum(map(sys.getsizeof, remembering))
    assert kept < 11 << 20
    before = len(remembering)
    assert remembering[bytes(65)] == remembering[bytes(1 << 20)] - (1 << 20) + 65 == 65
    assert len(remembering) == before


@pytest.mark.parametrize("name", sorted(PARTITIONERS))
def test_a_null_has_no_hash(name: str) -> None:
    """A null among keys is told by a TypeError: such records go wherever a batch is open."""
    with pytest.raises(TypeError):
        PARTITIONERS[name](None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(PARTITIONERS))
def test_every_partitioner_of_a_topic_is_there(name: str) -> None:
    """What a topic's configuration may name, this release can compute; and it gives 32 bits at most."""
    assert TopicConfig.model_validate({"partitioner": name}).partitioner == name
    dice = random.Random(2)
    assert all(0 <= PARTITIONERS[name](dice.randbytes(size)) < 1 << 32 for size in range(200))
    named = TopicConfig.model_json_schema()["properties"]["partitioner"]["enum"]
    assert set(named) == set(PARTITIONERS)
