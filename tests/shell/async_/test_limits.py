"""Byte limits and waiting for enough, on the way out; buffers and sizes, on the way in."""

from __future__ import annotations

import time
from typing import Any

import pytest

from streamlayer import NewTopic, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import MessageSizeTooLargeError
from tests.shell.async_.reading import read, stored_values

TP = TopicPartition("t", 0)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{"fetch_max_bytes": 1}, {"max_partition_fetch_bytes": 1}])
async def test_the_smallest_limit_lets_a_record_through(aio_args: dict[str, Any], limits: dict[str, int]) -> None:
    """Whatever its size, from every partition, until all are read."""
    async with Producer(**aio_args) as producer:
        for size in (10, 5000, 100_000, 10):
            for partition in range(4):
                await producer.send_and_wait("t", b"x" * size, partition=partition)
    async with Consumer("t", **aio_args, **limits) as consumer:
        records = await read(consumer, 16)
    assert sorted(len(r.value) for r in records) == sorted([10, 10, 5000, 100_000] * 4)


async def test_a_limit_bounds_what_is_fetched_ahead(aio_args: dict[str, Any]) -> None:
    """About the limit and at most one field more; a larger one takes all at once."""
    async with Producer(**aio_args) as producer:
        for _ in range(20):
            await producer.send_many("t", [b"x" * 1000] * 10, partition=0)
    for limit in (30_000, 1_000_000):
        async with Consumer("t", **aio_args, max_partition_fetch_bytes=limit) as consumer:
            await consumer.poll(5000, max_records=1)
            fetched = consumer._fetcher.buffered
            assert fetched <= limit + 11_000
            assert fetched > min(limit, 200_000) - 11_000
            assert len(await read(consumer, 199)) == 199


async def test_fetch_min_bytes_waits_for_enough(aio_args: dict[str, Any]) -> None:
    """Too little waits fetch_max_wait_ms, and then comes all the same; enough comes at once."""
    async with Producer(**aio_args) as producer:
        await producer.send_and_wait("t", b"little", partition=0)
        async with Consumer("t", **aio_args, fetch_min_bytes=10_000, fetch_max_wait_ms=300) as consumer:
            begin = time.monotonic()
            assert len(await read(consumer, 1)) == 1
            assert 0.25 < time.monotonic() - begin < 10
        await producer.send_many("t", [b"x" * 1000] * 20, partition=0)
        async with Consumer("t", **aio_args, fetch_min_bytes=10_000, fetch_max_wait_ms=60_000) as consumer:
            begin = time.monotonic()
            assert sum(map(len, (await consumer.poll(60_000)).values())) == 21
            assert time.monotonic() - begin < 10


async def test_a_poll_does_not_wait_longer_than_it_was_told(aio_args: dict[str, Any]) -> None:
    """Its own time is over before fetch_max_wait_ms: what is there is handed out."""
    async with Producer(**aio_args) as producer:
        await producer.send_and_wait("t", b"little", partition=0)
    async with Consumer("t", **aio_args, fetch_min_bytes=10_000, fetch_max_wait_ms=20_000) as consumer:
        begin = time.monotonic()
        assert len((await consumer.poll(200))[TP]) == 1
        assert 0.15 < time.monotonic() - begin < 10


async def test_what_was_fetched_is_not_waited_for_again(aio_args: dict[str, Any]) -> None:
    """fetch_min_bytes is about fetching: once enough came, small polls hand it out without waiting in between."""
    async with Producer(**aio_args) as producer:
        for _ in range(10):
            await producer.send_many("t", [b"x" * 100] * 50, partition=0)
    async with Consumer(
        "t", **aio_args, fetch_min_bytes=50_000, fetch_max_wait_ms=400, max_poll_records=20
    ) as consumer:
        begin = time.monotonic()
        assert len(await read(consumer, 500)) == 500
        assert time.monotonic() - begin < 5  # 25 polls of 400 ms would be 10 s


# --- writing --------------------------------------------------------------------------------------------------------


async def test_a_record_too_large_is_told_and_not_sent(aio_args: dict[str, Any]) -> None:
    """The message names size, limit and what to do; the records around it are in the log."""
    async with Producer(**aio_args, max_request_size=10_000, linger_ms=100) as producer:
        await producer.send("t", b"before", partition=0)
        for value, key, headers in (
            (b"x" * 10_001, None, None),
            (b"x", b"k" * 10_001, None),
            (b"x", None, {"h": b"x" * 10_001}),
        ):
            with pytest.raises(MessageSizeTooLargeError, match=r"t: a record of \d+ bytes.*max_request_size=10000"):
                await producer.send("t", value, key, headers=headers)
            with pytest.raises(MessageSizeTooLargeError, match="max_request_size=10000"):
                await producer.send_many("t", [value], None if key is None else [key], headers=headers)
        await producer.send_and_wait("t", b"behind", partition=0)
    assert await stored_values(aio_args, "t") == [b"before", b"behind"]


async def test_the_largest_record_that_is_allowed(aio_args: dict[str, Any]) -> None:
    """A megabyte goes through with the defaults, by send and by send_many, and comes back."""
    value = bytes(range(256)) * 4000
    async with Producer(**aio_args) as producer:
        await producer.send_and_wait("t", value, partition=0)
        await producer.send_many("t", [value, value], partition=0)
    assert await stored_values(aio_args, "t") == [value] * 3


async def test_the_topics_own_limit_is_told(aio_args: dict[str, Any]) -> None:
    """max_message_bytes is the server's to check: the record fails, the others do not."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 1, config={"max_message_bytes": 2000})])
        futures = [await producer.send("t", b"%d" % i + b"x" * (5000 if i == 5 else 500)) for i in range(10)]
        with pytest.raises(MessageSizeTooLargeError, match=r"t\[0\].*max_message_bytes=2000"):
            await producer.flush()
        assert [i for i, future in enumerate(futures) if future.exception() is not None] == [5]
    assert [int(value.rstrip(b"x")) for value in await stored_values(aio_args, "t")] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


async def test_batches_are_as_large_as_they_may_be(aio_args: dict[str, Any]) -> None:
    """A small batch_size makes many batches, a large one few; the records are the same."""
    async with Admin(**aio_args) as admin:
        sizes = {}
        for name, batch_size in (("small", 200), ("large", 1 << 20)):
            await admin.create_topics([NewTopic(name, 1)])
            async with Producer(**aio_args, batch_size=batch_size) as producer:
                for i in range(500):
                    await producer.send(name, b"%d" % i)
            sizes[name] = (await admin.describe_topics([name]))[name].partitions[0].bytes
    assert sizes["large"] < sizes["small"]
    assert await stored_values(aio_args, "small") == await stored_values(aio_args, "large")


async def test_a_batch_of_a_single_byte_still_sends(aio_args: dict[str, Any]) -> None:
    """batch_size=1 is a batch for each record."""
    async with Producer(**aio_args, batch_size=1) as producer:
        for i in range(20):
            await producer.send("t", b"%d" % i, b"k")
        await producer.send_many("t", [b"%d" % i for i in range(20, 30)], [b"k"] * 10)
    assert await stored_values(aio_args, "t") == [b"%d" % i for i in range(30)]
