"""``Producer.send_many``: many records at once, where they went, and what it refuses before anything was sent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import pytest

from streamlayer import AppendedRange, NewTopic
from streamlayer.aio import Admin, Producer
from streamlayer.errors import InvalidTimestampError, MessageSizeTooLargeError, UnknownTopicOrPartitionError
from streamlayer.serializers import json, string
from tests.beside import aio_beside
from tests.shell.async_.reading import stored, stored_values

HOUR_MS = 3_600_000


async def test_keyed_records_go_where_send_would_put_them(aio_args: dict[str, Any]) -> None:
    """One range a partition; order by key; every record once; offsets dense."""
    keys = [b"k%d" % (i % 50) for i in range(5000)]
    values = [b"%d" % i for i in range(5000)]
    async with Producer(**aio_args) as producer:
        ranges = await producer.send_many("t", values, keys)
    assert [(r.partition, r.base_offset) for r in ranges] == [(n, 0) for n in range(4)]
    assert sum(r.count for r in ranges) == 5000
    assert all(r.last_offset == r.count - 1 for r in ranges)
    records = await stored(aio_args, "t")
    assert all(r.partition == crc32(r.key or b"") % 4 for r in records)
    assert sorted(int(r.value) for r in records) == list(range(5000))
    for partition in range(4):
        numbers = [int(r.value) for r in records if r.partition == partition]
        assert numbers == sorted(numbers)


async def test_records_without_key_share_the_partitions(aio_args: dict[str, Any]) -> None:
    """Each batch goes to the next partition; the ranges say where, and cover all."""
    async with Producer(**aio_args, batch_size=2000) as producer:
        ranges = await producer.send_many("t", [b"%0100d" % i for i in range(400)])
    assert {r.partition for r in ranges} == {0, 1, 2, 3}
    assert sum(r.count for r in ranges) == 400
    records = {(r.partition, r.offset): r.value for r in await stored(aio_args, "t")}
    told = {(r.partition, r.base_offset + i) for r in ranges for i in range(r.count)}
    assert told == set(records)


async def test_one_partition_one_range(aio_args: dict[str, Any]) -> None:
    """With partition= everything is one run, in the order given, behind what was there; keys stay what they are."""
    async with Producer(**aio_args, batch_size=1000) as producer:
        await producer.send_and_wait("t", b"first", partition=2)
        ranges = await producer.send_many("t", [b"%d" % i for i in range(500)], [b"k"] * 500, partition=2)
    assert ranges == [AppendedRange("t", 2, 1, 500)]
    records = await stored(aio_args, "t")
    assert [r.value for r in records] == [b"first"] + [b"%d" % i for i in range(500)]
    assert [r.key for r in records] == [None] + [b"k"] * 500


async def test_it_joins_what_send_left_open(aio_args: dict[str, Any]) -> None:
    """Records that linger in the same partition keep their place before it, and are sent along."""
    async with Producer(**aio_args, linger_ms=60_000) as producer:
        futures = [await producer.send("t", b"a%d" % i, partition=0) for i in range(3)]
        ranges = await producer.send_many("t", [b"b0", b"b1"], partition=0)
        later = await producer.send("t", b"c", partition=0)
        assert ranges == [AppendedRange("t", 0, 3, 2)]
        assert [future.result().offset for future in futures] == [0, 1, 2]
        assert not later.done()
    assert await stored_values(aio_args, "t") == [b"a0", b"a1", b"a2", b"b0", b"b1", b"c"]


async def test_generators_nulls_headers_and_times(aio_args: dict[str, Any]) -> None:
    """Any iterables; the same headers for each; a time for each; nulls among keys and values."""
    now = int(time.time() * 1000)

    def values() -> Iterator[bytes]:
        yield from (b"0", None, b"2")  # type: ignore[misc]

    async with Producer(**aio_args) as producer:
        await producer.send_many(
            "t",
            values(),
            iter([None, b"k", b""]),
            partition=0,
            timestamps_ms=(now - 5 * i for i in range(3)),
            headers={"h": b"1"},
        )
        await producer.send_many("t", [b"3"], partition=0)
    records = await stored(aio_args, "t")
    assert [(r.key, r.value) for r in records] == [(None, b"0"), (b"k", None), (b"", b"2"), (None, b"3")]
    assert [r.headers for r in records] == [(("h", b"1"),)] * 3 + [()]
    assert [r.timestamp for r in records][:3] == [now, now - 5, now - 10]


async def test_keys_with_and_without_null_mixed(aio_args: dict[str, Any]) -> None:
    """Records whose key is null go anywhere, the others where their key says."""
    keys = [None if i % 3 else b"k%d" % i for i in range(99)]
    async with Producer(**aio_args) as producer:
        ranges = await producer.send_many("t", [b"%d" % i for i in range(99)], keys)
    assert sum(r.count for r in ranges) == 99
    records = await stored(aio_args, "t")
    assert sorted(int(r.value) for r in records) == list(range(99))
    assert all(r.partition == crc32(r.key) % 4 for r in records if r.key is not None)
    assert {int(r.value): r.key for r in records} == dict(enumerate(keys))


async def test_nothing_to_send(aio_args: dict[str, Any]) -> None:
    """No records, no ranges."""
    async with Producer(**aio_args) as producer:
        assert await producer.send_many("t", []) == []
        assert await producer.send_many("t", iter(()), []) == []


async def test_more_than_one_part_and_one_round(aio_args: dict[str, Any]) -> None:
    """50,000 records, more than are parted at once: all there, in order within each key."""
    keys = [b"k%d" % (i % 7) for i in range(50_000)]
    async with Producer(**aio_args) as producer:
        ranges = await producer.send_many("t", [b"%d" % i for i in range(50_000)], keys)
    assert sum(r.count for r in ranges) == 50_000
    assert len(ranges) == len({r.partition for r in ranges})
    last: dict[bytes | None, int] = {}
    count = 0
    for record in await stored(aio_args, "t"):
        assert last.get(record.key, -1) < int(record.value)
        last[record.key] = int(record.value)
        count += 1
    assert count == 50_000


async def test_large_records_among_small_ones(aio_args: dict[str, Any]) -> None:
    """One that fills more than a batch goes alone; the order stays."""
    values = [b"s", b"x" * 300_000, b"s2", b"y" * 70_000, b"z" * 70_000, b"s3"]
    async with Producer(**aio_args) as producer:
        assert await producer.send_many("t", values, partition=0) == [AppendedRange("t", 0, 0, 6)]
    assert await stored_values(aio_args, "t") == values


@pytest.mark.parametrize("acks", [0, 1])
async def test_offsets_are_known_or_not(aio_args: dict[str, Any], acks: int) -> None:
    """With acks=0 the ranges count, and say -1 for the offsets."""
    async with Producer(**aio_args, acks=acks) as producer:
        ranges = await producer.send_many("t", [b"x"] * 10, partition=1)
        assert [(r.base_offset, r.last_offset, r.count) for r in ranges] == [(0, 9, 10) if acks else (-1, -1, 10)]


async def test_different_lengths_are_refused(aio_args: dict[str, Any]) -> None:
    """Keys or times that are fewer or more than the values: nothing is sent."""
    async with Producer(**aio_args) as producer:
        for keys in ([b"k"] * 2, [b"k"] * 4):
            with pytest.raises(ValueError, match=rf"3 values, but {len(keys)} keys"):
                await producer.send_many("t", [b"x"] * 3, keys)
        with pytest.raises(ValueError, match="3 values, but 1 timestamps_ms"):
            await producer.send_many("t", [b"x"] * 3, timestamps_ms=[int(time.time() * 1000)])
    assert await stored_values(aio_args, "t") == []


async def test_one_bad_record_and_nothing_is_sent(aio_args: dict[str, Any]) -> None:
    """Whatever can be seen before sending is: a wrong type, a large one, seconds, a partition out of range."""

    def broken() -> Iterator[bytes]:
        yield b"good"
        raise LookupError("the caller's own")

    good = [b"good"] * 10
    async with Producer(**aio_args, max_request_size=1000) as producer:
        with pytest.raises(TypeError, match="value is str, not bytes"):
            await producer.send_many("t", [*good, "text"])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="value is int, not bytes"):
            await producer.send_many("t", b"bytes are no list of records")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="key is int, not bytes"):
            await producer.send_many("t", good, [*good[:9], 5])  # type: ignore[list-item]
        with pytest.raises(MessageSizeTooLargeError, match="max_request_size=1000"):
            await producer.send_many("t", [*good, b"x" * 1001])
        with pytest.raises(InvalidTimestampError, match="looks like seconds"):
            await producer.send_many("t", good, timestamps_ms=[int(time.time())] * 10)
        with pytest.raises(UnknownTopicOrPartitionError, match=r"partitions 0 to 3, not 4"):
            await producer.send_many("t", good, partition=4)
        with pytest.raises(LookupError):
            await producer.send_many("t", broken())
        with pytest.raises(TypeError, match="headers are pairs of str and bytes"):
            await producer.send_many("t", good, headers={"a": "text"})  # type: ignore[dict-item]
        assert await stored_values(aio_args, "t") == []
        await producer.send_many("t", good)
    assert await stored_values(aio_args, "t") == good


async def test_what_the_server_refuses_is_told_with_a_count(aio_args: dict[str, Any]) -> None:
    """The first error comes out with a note; the good records of the call are in the log; flush says no more."""
    now = int(time.time() * 1000)
    times = [now + 2 * HOUR_MS if i in {2, 5, 7} else now for i in range(10)]
    async with Producer(**aio_args) as producer:
        with pytest.raises(InvalidTimestampError, match="an hour ahead") as raised:
            await producer.send_many("t", [b"%d" % i for i in range(10)], partition=0, timestamps_ms=times)
        assert raised.value.__notes__ == ["2 more batches or records of this call failed"]
        await producer.flush()
    assert await stored_values(aio_args, "t") == [b"%d" % i for i in (0, 1, 3, 4, 6, 8, 9)]


async def test_two_calls_at_once_do_not_mix_their_answers(aio_args: dict[str, Any]) -> None:
    """Each gets the ranges of its own records, whatever batch they shared."""
    async with Producer(**aio_args, batch_size=3000) as producer:
        await producer.partitions_for("t")
        running = [
            aio_beside(
                lambda name=name: producer.send_many("t", [b"%s-%d" % (name, i) for i in range(500)], partition=0)
            )
            for name in (b"a", b"b", b"c")
        ]
        answers = {name: await one.result() for name, one in zip((b"a", b"b", b"c"), running, strict=True)}
    values = await stored_values(aio_args, "t")
    assert len(values) == 1500
    for name, ranges in answers.items():
        told = [values[r.base_offset + i] for r in ranges for i in range(r.count)]
        assert told == [b"%s-%d" % (name, i) for i in range(500)]


async def test_serializers_are_used_for_each(aio_args: dict[str, Any]) -> None:
    """Keys and values go through them, nulls do not; the key's bytes decide the partition."""
    async with Producer(**aio_args, key_serializer=string, value_serializer=json) as producer:
        await producer.send_many("t", [{"n": 1}, None, "x"], ["a", "b", None])
    records = await stored(aio_args, "t")
    assert sorted((r.key or b"", r.value or b"") for r in records) == [(b"", b'"x"'), (b"a", b'{"n":1}'), (b"b", b"")]
    assert all(r.partition == crc32(r.key) % 4 for r in records if r.key)


async def test_a_topic_of_its_own_number_of_partitions(aio_args: dict[str, Any]) -> None:
    """A single partition takes all, keyed or not."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 1)])
        assert await producer.send_many("t", [b"1", b"2"], [b"a", b"b"]) == [AppendedRange("t", 0, 0, 2)]
        assert await producer.send_many("t", [b"3"]) == [AppendedRange("t", 0, 2, 1)]
