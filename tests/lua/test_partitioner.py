"""A key's hash and the append script agree on its partition: published vectors, through a real append."""

from __future__ import annotations

import random

import pytest
import redis

from streamlayer._core.hashing import PARTITIONERS
from streamlayer._core.keys import partition_keys
from tests.lua.run import Log, Runner, word_of

# Kafka's own UtilsTest.testMurmur2 as Java's toPositive(…) and librdkafka's consistent crc32, each modulo 7.
IN_SEVEN = {
    "murmur2": {
        b"21": (-973932308 & 0x7FFFFFFF) % 7,
        b"foobar": (-790332482 & 0x7FFFFFFF) % 7,
        b"a-little-bit-long-string": (-985981536 & 0x7FFFFFFF) % 7,
        b"a-little-bit-longer-string": (-1486304829 & 0x7FFFFFFF) % 7,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": (-58897971 & 0x7FFFFFFF) % 7,
        b"abc": 479470107 % 7,
        b"": 275646681 % 7,
    },
    "crc32": {
        b"": 0,
        b"a": 0xE8B7BE43 % 7,
        b"123456789": 0xCBF43926 % 7,
        b"The quick brown fox jumps over the lazy dog": 0x414FA339 % 7,
    },
}


def partitions(client: redis.Redis, namespace: str, count: int) -> list[Log]:
    """A topic's partitions, empty."""
    logs = [Log(Runner(client), partition_keys(namespace, "orders", number)) for number in range(count)]
    for log in logs:
        assert word_of(log.create(partitions=count)) == "OK"
    return logs


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in IN_SEVEN.items() for key in keys])
def test_a_key_is_taken_in_its_partition_and_nowhere_else(
    redis_client: redis.Redis, namespace: str, name: str, key: bytes
) -> None:
    """The published hash, modulo the partitions, is where the script takes the batch; all others refuse it."""
    right = IN_SEVEN[name][key]
    for number, log in enumerate(partitions(redis_client, namespace, 7)):
        before = log.dump()
        answer = log.append(b"v", partition=number, key_hash=PARTITIONERS[name](key))
        if number == right:
            assert answer.base_offset == 0
        else:
            assert answer == ("WRONG_PARTITION", "7")
            assert log.dump() == before


@pytest.mark.parametrize("name", sorted(PARTITIONERS))
def test_python_and_the_script_divide_alike(redis_client: redis.Redis, namespace: str, name: str) -> None:
    """Whatever the key and however many partitions: 32 bits are whole numbers to Lua too."""
    dice = random.Random(name)
    log = Log(Runner(redis_client), partition_keys(namespace, "orders", 0))
    log.create()
    for _ in range(60):
        count = dice.choice([1, 2, 3, 4, 64, 1000, 10_000])
        log.set_meta(partitions=count)
        key_hash = PARTITIONERS[name](dice.randbytes(dice.randint(0, 40)))
        right = key_hash % count
        assert word_of(log.append(b"v", partition=right, key_hash=key_hash)) == "OK"
        wrong = (right + 1) % count
        expected = "OK" if wrong == right else "WRONG_PARTITION"
        assert word_of(log.append(b"v", partition=wrong, key_hash=key_hash)) == expected


@pytest.mark.parametrize("key_hash", [0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1])
def test_the_ends_of_32_bits_are_divided_exactly(redis_client: redis.Redis, namespace: str, key_hash: int) -> None:
    """No sign, no rounding, on either side of 31 and 32 bits."""
    log = Log(Runner(redis_client), partition_keys(namespace, "orders", 0))
    log.create()
    for count in (1, 2, 3, 7, 9_973, 10_000):
        log.set_meta(partitions=count)
        assert word_of(log.append(b"v", partition=key_hash % count, key_hash=key_hash)) == "OK"
        if count > 1:
            answer = log.append(b"v", partition=(key_hash - 1) % count, key_hash=key_hash)
            assert answer == ("WRONG_PARTITION", str(count))
