"""A reader whose records are trimmed, expire or are deleted: what was there, once, or how many it missed.

Random histories of the same are in tests/system/test_amid_retention.py.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import redis

from streamlayer import NewTopic, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.embedded import Server
from streamlayer.errors import (
    LogTruncationError,
    OffsetOutOfRangeError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from tests.shell.async_.reading import read
from tests.waiting import aio_wait_until

TP = TopicPartition("t", 0)
OTHER = TopicPartition("t", 1)


async def fill(args: dict[str, Any], *values: bytes, times: Sequence[int] | None = None, partition: int = 0) -> None:
    """Append to a partition of t."""
    async with Producer(**args, num_partitions=2) as producer:
        await producer.send_many("t", values, partition=partition, timestamps_ms=times)


def numbers(first: int, end: int) -> list[bytes]:
    """Values that name their offsets."""
    return [b"%d" % i for i in range(first, end)]


async def delete_before(args: dict[str, Any], offset: int) -> None:
    """Delete records."""
    async with Admin(**args) as admin:
        await admin.delete_records({TP: offset})


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of so far."""
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def before_round_trip(consumer: Consumer[Any, Any], number: int, do: Callable[[], Awaitable[None]]) -> None:
    """Do something between what the consumer asks from now on: right before its round trip of this number."""
    execute = consumer._client.execute
    trips = [0]

    async def counting(batch: Sequence[Any], *limit: float) -> list[Any]:
        trips[0] += 1
        if trips[0] == number:
            await do()
        return await execute(batch, *limit)

    consumer._client.execute = counting  # type: ignore[method-assign]


# --- overtaken --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reset", "goes_on"), [("earliest", 60), ("latest", 100)])
async def test_what_was_missed_is_told_in_numbers(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture, reset: str, goes_on: int
) -> None:
    """The warning says where it was, where it goes on, and how many records lie between, which nobody will get."""
    await fill(aio_args, *numbers(0, 10))
    async with Consumer("t", **aio_args, auto_offset_reset="earliest") as consumer:
        assert len(await read(consumer, 10)) == 10
        consumer._fetcher._options = consumer._fetcher._options.model_copy(update={"auto_offset_reset": reset})
        await fill(aio_args, *numbers(10, 100))
        await delete_before(aio_args, 60)
        records = await read(consumer, 40) if reset == "earliest" else (await consumer.poll(50)).get(TP, [])
        assert [r.offset for r in records] == list(range(goes_on, 100))
        assert await consumer.position(TP) == 100
        await fill(aio_args, b"100")
        assert [r.value for r in await read(consumer, 1)] == [b"100"]
    assert warnings(caplog) == [
        f"t[0]: offset 10 is not in the log; going on at {goes_on}, {goes_on - 10} records were missed"
    ]


async def test_none_raises_with_the_numbers(aio_args: dict[str, Any]) -> None:
    """OffsetOutOfRangeError says where the log begins and how many are missed, until a seek; so for an iteration."""
    await fill(aio_args, *numbers(0, 100))
    async with Consumer("t", **aio_args, auto_offset_reset="none", max_poll_records=10) as consumer:
        assert len(await read(consumer, 10)) == 10
        consumer.seek(TP, 10)  # drops what was fetched
        await delete_before(aio_args, 60)
        for call in (consumer.poll, consumer.__anext__, consumer.poll):
            with pytest.raises(
                OffsetOutOfRangeError, match=r"t\[0\].*the position is 10, 50 records were missed"
            ) as told:
                await call()
            assert (told.value.log_start, told.value.missed) == (60, 50)
        consumer.seek(TP, told.value.log_start)
        assert [r.offset for r in await read(consumer, 40)] == list(range(60, 100))


async def test_what_was_fetched_before_is_handed_out(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Records that were fetched before they were deleted still come; what is told missed is only what did not."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 2, config={"segment_bytes": 16_384})])
    await fill(aio_args, *[b"x" * 1000] * 100)
    async with Consumer("t", **aio_args, max_poll_records=7, max_partition_fetch_bytes=20_000) as consumer:
        records = await read(consumer, 7)
        await delete_before(aio_args, 90)
        while records[-1].offset < 99:
            records += await read(consumer, 1)
    offsets = [r.offset for r in records]
    gap = next(offset for offset, follows in enumerate(offsets) if offset != follows)
    assert gap >= 14, "what had been fetched came"
    assert offsets == [*range(gap), *range(90, 100)]
    assert warnings(caplog) == [f"t[0]: offset {gap} is not in the log; going on at 90, {90 - gap} records were missed"]


async def test_what_was_fetched_comes_before_the_error(aio_args: dict[str, Any]) -> None:
    """A reader that collects fetch_min_bytes has fetched some when it is overtaken: it gets these, then the error."""
    for _ in range(5):
        await fill(aio_args, b"x" * 5000)
    options: dict[str, Any] = {"fetch_min_bytes": 100_000, "fetch_max_wait_ms": 50, "max_partition_fetch_bytes": 1}
    async with Consumer("t", **aio_args, **options, auto_offset_reset="none") as consumer:
        before_round_trip(consumer, 3, lambda: delete_before(aio_args, 4))
        fetched = [r.offset for r in await read(consumer, 1)]
        assert fetched == list(range(len(fetched)))
        with pytest.raises(OffsetOutOfRangeError) as told:
            await consumer.poll(1000)
        assert (told.value.log_start, told.value.missed) == (4, 4 - len(fetched))


async def test_records_expire_under_a_reader(aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """An hour's records end at once when retention_ms is lowered; the reader is told, waits, and gets the next one."""
    await fill(aio_args, *numbers(0, 50))
    async with Consumer("t", **aio_args) as consumer, Admin(**aio_args) as admin:
        consumer.seek(TP, 10)
        await admin.alter_configs({"t": {"retention_ms": 1}})

        async def empty() -> bool:
            return (await consumer.beginning_offsets([TP]))[TP] == 50

        await aio_wait_until(empty, "they expire")
        assert await consumer.poll(50) == {}
        await admin.alter_configs({"t": {"retention_ms": 60_000}})
        assert await consumer.poll(50) == {}, "what is over does not come back"
        await fill(aio_args, b"50")
        assert [r.value for r in await read(consumer, 1)] == [b"50"]
    assert warnings(caplog) == ["t[0]: offset 10 is not in the log; going on at 50, 40 records were missed"]
    assert consumer.metrics() == (0, 0, 40)


async def test_reading_to_an_end_that_is_trimmed_away(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """read_to_end stops, though the records up to its end, and the end itself, are gone when it comes there."""
    await fill(aio_args, *numbers(0, 20))
    async with Consumer("t", **aio_args, max_poll_records=5, max_partition_fetch_bytes=1) as consumer:
        reading = consumer.read_to_end()
        got = [(await anext(reading)).offset for _ in range(3)]
        await fill(aio_args, *numbers(20, 40))
        await delete_before(aio_args, 30)
        got += [record.offset async for record in reading]
        assert got == list(range(got[-1] + 1))
        assert await consumer.position(TP) in {20, 30}
        assert [r.offset for r in await read(consumer, 10)][-10:] == list(range(30, 40))
    assert len(warnings(caplog)) <= 1


# --- the growing tail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [2, 500])
async def test_each_record_of_a_growing_log_comes_once(aio_args: dict[str, Any], most: int) -> None:
    """However its field is stored meanwhile: in the tail, sealed, by itself, in a segment that was closed."""
    dice = random.Random(most)
    sent: list[bytes] = []
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 1, config={"segment_bytes": 16_384})])
        options: dict[str, Any] = {"max_poll_records": most, "auto_offset_reset": "none", "consumer_timeout_ms": 0}
        async with Consumer("t", **aio_args, **options) as consumer:
            got = []
            for _ in range(60):
                size = dice.choice([10, 10, 10, 900, 3000, 6000])
                values = [(b"%d." % (len(sent) + i)).ljust(size, b".") for i in range(dice.choice([1, 1, 3]))]
                await producer.send_many("t", values)
                sent += values
                if dice.random() < 0.5:
                    got += [r for part in (await consumer.poll(0)).values() for r in part]
                elif dice.random() < 0.3:
                    got += [record async for record in consumer]
            got += [record async for record in consumer.read_to_end()]
    assert [r.value for r in got] == sent
    assert [r.offset for r in got] == list(range(len(sent)))


# --- looked up by time ------------------------------------------------------------------------------------------------


async def test_a_look_up_by_time_amid_deletion(aio_args: dict[str, Any]) -> None:
    """What it was about to look through is deleted: it goes on behind that, and finds the first that is left."""
    now = int(time.time() * 1000)
    await fill(aio_args, *numbers(0, 4), times=[now, now + 50, now, now])
    for first in (4, 8, 12):
        await fill(aio_args, *[b"x" * 2000] * 4, times=[now, now, now + 50, now + first])
    await delete_before(aio_args, 2)  # the first at or after now + 50 is gone, but in the field that is asked for
    async with Consumer(**aio_args) as consumer:
        assert (await consumer.offsets_for_times({TP: now + 50}))[TP] == (6, now + 50)
        # The registry, the look-up, the field's segment; then what follows.
        before_round_trip(consumer, 3, lambda: delete_before(aio_args, 7))
        found = (await consumer.offsets_for_times({TP: now + 50}))[TP]
        assert found == (10, now + 50)


async def test_a_seek_to_a_time_that_has_not_come(aio_args: dict[str, Any]) -> None:
    """It goes to the end that was the end when nothing was found: what comes in that moment is not passed over."""
    now = int(time.time() * 1000)
    await fill(aio_args, b"early", times=[now - 5000])
    async with Consumer("t", **aio_args) as consumer:
        # The registry, the look-up; a third round trip is the next fetch.
        before_round_trip(consumer, 3, lambda: fill(aio_args, b"just now", times=[now]))
        await consumer.seek_to_time(now - 1000, TP)
        assert await consumer.position(TP) == 1
        assert [r.value for r in await read(consumer, 1)] == [b"just now"]


# --- replaced ---------------------------------------------------------------------------------------------------------


async def replace(args: dict[str, Any], *values: bytes) -> None:
    """Delete t and create it anew."""
    async with Admin(**args) as admin:
        await admin.delete_topics(["t"])
        await admin.create_topics([NewTopic("t", 2)])
    await fill(args, *values)


@pytest.mark.parametrize("way", ["read_to_end", "seek_to_beginning", "seek_to_time", "poll"])
async def test_another_log_of_the_same_name_is_told_once(aio_args: dict[str, Any], way: str) -> None:
    """UnknownTopicIdError, by whatever asks first; then the new topic is read, from its first record."""
    await fill(aio_args, *numbers(0, 5))
    async with Consumer("t", **aio_args) as consumer:
        assert len(await read(consumer, 5)) == 5
        await replace(aio_args, b"new0", b"new1")
        with pytest.raises(UnknownTopicIdError, match="deleted and created again"):
            if way == "read_to_end":
                await anext(consumer.read_to_end())
            elif way == "seek_to_beginning":
                await consumer.seek_to_beginning()
            elif way == "seek_to_time":
                await consumer.seek_to_time(0)
            else:
                await consumer.poll(5000)
        if way == "read_to_end":
            assert [record.value async for record in consumer.read_to_end()] == [b"new0", b"new1"]
        else:
            assert [r.value for r in await read(consumer, 2)] == [b"new0", b"new1"]


async def test_a_pause_outlives_the_topic(aio_args: dict[str, Any]) -> None:
    """What was paused stays so in the topic that comes again; resume() without arguments ends it."""
    await fill(aio_args, *numbers(0, 5))
    async with Consumer("t", **aio_args) as consumer:
        assert len(await read(consumer, 5)) == 5
        consumer.pause(TP)
        await replace(aio_args, b"new0")
        with pytest.raises(UnknownTopicOrPartitionError):
            await consumer.poll(5000)
        assert consumer.paused() == {TP}
        assert await consumer.poll(100) == {}
        consumer.resume()
        assert consumer.paused() == set()
        assert [r.value for r in await read(consumer, 1)] == [b"new0"]


# --- cut back ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", ["none", "earliest", "latest"])
async def test_where_the_logs_part_is_unknown(
    aio_args: dict[str, Any], redis_client: redis.Redis, caplog: pytest.LogCaptureFixture, reset: str
) -> None:
    """The reader and the log share no epoch: LogTruncationError without a point under none, else the reset policy."""
    await fill(aio_args, *numbers(0, 5))
    async with Consumer("t", **aio_args) as consumer:
        assert len(await read(consumer, 5)) == 5
        consumer._fetcher._options = consumer._fetcher._options.model_copy(update={"auto_offset_reset": reset})
        redis_client.hset(f"{aio_args['namespace']}:t:{{t:0}}:meta", "epochs", "8:abc:2,9:def:4")
        consumer._assignment.positions[TP].waiting = False
        if reset == "none":
            for _ in range(2):
                with pytest.raises(LogTruncationError, match="logs part is unknown; the position is 5") as told:
                    await consumer.poll(0)
                assert (told.value.diverged_at, told.value.lost) == (None, None)
            consumer.seek(TP, 0)
        assert len((await consumer.poll(50)).get(TP, [])) == (0 if reset == "latest" else 5)
        assert await consumer.position(TP) == 5
    if reset != "none":
        goes_on = 5 if reset == "latest" else 0
        (told_text,) = warnings(caplog)
        assert told_text.endswith(f"where the logs part is unknown; the position was 5, going on at {goes_on}")


async def test_a_position_is_known_without_a_server(any_server: Server) -> None:
    """While the server is away, or a topic changes, position() answers from memory."""
    args = {"url": any_server.url}
    await fill(args, *numbers(0, 3))
    async with Consumer("t", **args) as consumer:
        assert len(await read(consumer, 3)) == 3
        await fill({**args, "namespace": "sl"}, b"3", partition=1)
        consumer._assignment.changed()
        any_server.kill()
        assert await consumer.position(TP) == 3
        any_server.start()
