"""What is read: topics, patterns and partitions by hand, those that come later, go, and come again."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import redis

from streamlayer import NewTopic, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import (
    ConfigurationError,
    IllegalStateError,
    InvalidTopicError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from tests.shell.async_.reading import read
from tests.waiting import aio_wait_until

TP = TopicPartition("t", 0)


async def send(args: dict[str, Any], topic: str, *values: bytes, partition: int = 0) -> None:
    """Append records."""
    async with Producer(**args) as producer:
        await producer.send_many(topic, values, partition=partition)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of so far."""
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


# --- topics that come ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", ["earliest", "latest", "none"])
async def test_a_missing_topic_is_waited_for_with_one_warning(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture, reset: str
) -> None:
    """The warning names the nearest; when the topic comes it is read from its first record, whatever the reset."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics(["orders", "payments"])
    async with Consumer("ordres", **aio_args, auto_offset_reset=reset) as consumer:
        for _ in range(5):
            assert await consumer.poll(10) == {}
        assert warnings(caplog) == ["topic 'ordres' does not exist yet and is waited for; did you mean 'orders'?"]
        assert consumer.subscription() == {"ordres"}
        assert consumer.assignment() == set()
        await send(aio_args, "ordres", b"1", b"2")
        begin = time.monotonic()
        assert [r.value for r in await read(consumer, 2)] == [b"1", b"2"]
        assert time.monotonic() - begin < 10
    assert len(warnings(caplog)) == 1


async def test_the_warning_where_nothing_is_near(aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """It lists what there is; each missing topic has one of its own."""
    async with Admin(**aio_args) as admin, Consumer("zzz", "qqq", **aio_args) as consumer:
        assert await consumer.poll(0) == {}
        assert [text.partition(";")[2] for text in warnings(caplog)] == [" there are no topics"] * 2
        await admin.create_topics(["orders"])
        consumer.unsubscribe()
        consumer.subscribe(["zzz"])
        await consumer.poll(0)
        assert warnings(caplog)[2:] == ["topic 'zzz' does not exist yet and is waited for; there are ['orders']"]


async def test_a_consumer_makes_no_topics(aio_args: dict[str, Any]) -> None:
    """Reading, seeking and asking create nothing."""
    async with Admin(**aio_args) as admin, Consumer("t", **aio_args) as consumer:
        await consumer.poll(0)
        await consumer.seek_to_beginning()
        with pytest.raises(UnknownTopicOrPartitionError):
            await consumer.end_offsets([TP])
        assert await admin.list_topics() == []


async def test_a_topic_among_others_that_comes_later(aio_args: dict[str, Any]) -> None:
    """Those that exist are read while the missing one is waited for, then both."""
    await send(aio_args, "a", b"1")
    async with Consumer("a", "b", **aio_args) as consumer:
        assert [r.value for r in await read(consumer, 1)] == [b"1"]
        await send(aio_args, "b", b"2")
        await send(aio_args, "a", b"3")
        assert sorted(r.value for r in await read(consumer, 2)) == [b"2", b"3"]


async def test_an_assigned_partition_of_a_missing_topic_is_waited_for(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """With its one warning, and no other partition is read when it comes."""
    async with Consumer(**aio_args, auto_offset_reset="latest") as consumer:
        consumer.assign([TopicPartition("t", 1)])
        assert await consumer.poll(0) == {}
        assert len(warnings(caplog)) == 1
        await send(aio_args, "t", b"other", partition=0)
        await send(aio_args, "t", b"mine", partition=1)
        assert [r.value for r in await read(consumer, 1)] == [b"mine"]
        assert await consumer.poll(50) == {}


# --- patterns -------------------------------------------------------------------------------------------------------


async def test_a_pattern_reads_what_matches_now_and_later(aio_args: dict[str, Any]) -> None:
    """The whole name has to match; a topic that comes later is read from its first record."""
    await send(aio_args, "log.a", b"1")
    await send(aio_args, "my.log.a", b"no")
    await send(aio_args, "log", b"no")
    async with Consumer(**aio_args) as consumer:
        consumer.subscribe(pattern=r"log\..+")
        assert [r.value for r in await read(consumer, 1)] == [b"1"]
        assert consumer.subscription() == {"log.a"}
        await send(aio_args, "log.b", b"2")
        assert [r.value for r in await read(consumer, 1)] == [b"2"]
        assert consumer.subscription() == {"log.a", "log.b"}
        assert await consumer.poll(0) == {}


async def test_a_pattern_with_latest_misses_no_new_topic(aio_args: dict[str, Any]) -> None:
    """What was there begins at its end, what comes later at its beginning."""
    await send(aio_args, "log.a", b"old")
    async with Consumer(**aio_args, auto_offset_reset="latest") as consumer:
        consumer.subscribe(pattern=re.compile("LOG.*", re.IGNORECASE))
        assert await consumer.poll(0) == {}
        await send(aio_args, "log.b", b"1", b"2")
        await send(aio_args, "log.a", b"3")
        assert sorted(r.value for r in await read(consumer, 3)) == [b"1", b"2", b"3"]


async def test_a_pattern_that_matches_nothing_yet(aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """It waits, without a warning: nothing is missing."""
    async with Consumer(**aio_args) as consumer:
        consumer.subscribe(pattern="log.*")
        assert await consumer.poll(50) == {}
        assert warnings(caplog) == []
        await send(aio_args, "log1", b"1")
        assert [r.value for r in await read(consumer, 1)] == [b"1"]


# --- misuse ---------------------------------------------------------------------------------------------------------


async def test_bad_subscriptions_are_told_and_change_nothing(aio_args: dict[str, Any]) -> None:
    """Each names what to do; the subscription before stays."""
    await send(aio_args, "t", b"1")
    async with Consumer("t", **aio_args) as consumer:
        with pytest.raises(TypeError, match=r"subscribe\(\['orders'\]\)"):
            consumer.subscribe("orders")
        with pytest.raises(InvalidTopicError, match="is a URL"):
            consumer.subscribe(["good", "redis://host"])
        with pytest.raises(ConfigurationError, match="to topics or to a pattern: one of them"):
            consumer.subscribe(["a"], pattern="b")
        with pytest.raises(ConfigurationError, match=r"one of them.*unsubscribe\(\)"):
            consumer.subscribe([])
        with pytest.raises(ConfigurationError, match="no regular expression"):
            consumer.subscribe(pattern="(")
        with pytest.raises(IllegalStateError, match=r"unsubscribe\(\) before assign"):
            consumer.assign([TP])
        assert consumer.subscription() == {"t"}
        assert len(await read(consumer, 1)) == 1


async def test_bad_names_in_the_constructor() -> None:
    """No server is needed to see them."""
    with pytest.raises(InvalidTopicError, match="is a URL"):
        Consumer("redis://localhost:6379")
    with pytest.raises(InvalidTopicError, match="is a str, not list"):
        Consumer(["a", "b"])  # type: ignore[arg-type]


async def test_bad_assignments_are_told_and_change_nothing(aio_args: dict[str, Any]) -> None:
    """Negative partitions, bad names and a subscription on top; the assignment before stays."""
    await send(aio_args, "t", b"1")
    async with Consumer(**aio_args) as consumer:
        consumer.assign([TP])
        with pytest.raises((ConfigurationError, UnknownTopicOrPartitionError), match="-1"):
            consumer.assign([TopicPartition("t", -1)])
        with pytest.raises(InvalidTopicError):
            consumer.assign([TopicPartition("no such name", 0)])
        with pytest.raises(IllegalStateError, match=r"unsubscribe\(\) before subscribe"):
            consumer.subscribe(["t"])
        assert consumer.assignment() == {TP}
        assert len(await read(consumer, 1)) == 1
        consumer.assign([TopicPartition("t", 99)])
        for _ in range(2):
            with pytest.raises(UnknownTopicOrPartitionError, match="t has the partitions 0 to 3, not 99"):
                await consumer.poll(0)
        consumer.assign([TopicPartition("t", 0)])
        assert len(await read(consumer, 1)) == 1


# --- changing what is read ------------------------------------------------------------------------------------------


async def test_assigning_anew_keeps_the_positions_of_what_stays(aio_args: dict[str, Any]) -> None:
    """A partition that is in both assignments goes on; one that comes back begins anew."""
    one = TopicPartition("t", 1)
    await send(aio_args, "t", *[b"%d" % i for i in range(10)], partition=0)
    await send(aio_args, "t", *[b"%d" % i for i in range(10)], partition=1)
    async with Consumer(**aio_args) as consumer:
        consumer.assign([TP])
        assert len((await consumer.poll(5000, max_records=4))[TP]) == 4
        consumer.assign([TP, one])
        assert await consumer.position(TP) == 4
        assert await consumer.position(one) == 0
        assert len(await read(consumer, 16)) == 16
        consumer.assign([one])
        assert await consumer.poll(0) == {}
        consumer.assign([TP])
        assert [r.offset for r in await read(consumer, 10)] == list(range(10))


async def test_subscribing_anew_keeps_the_positions_of_what_stays(aio_args: dict[str, Any]) -> None:
    """The same for topics."""
    await send(aio_args, "a", *[b"%d" % i for i in range(10)])
    await send(aio_args, "b", b"b")
    async with Consumer("a", **aio_args) as consumer:
        await consumer.poll(5000, max_records=4)
        consumer.subscribe(["a", "b"])
        records = await read(consumer, 7)
        assert [r.offset for r in records if r.topic == "a"] == [4, 5, 6, 7, 8, 9]
        consumer.subscribe(["b"])
        assert await consumer.poll(0) == {}
        assert consumer.assignment() == {TopicPartition("b", n) for n in range(4)}


async def test_unsubscribe_lets_assign_and_back(aio_args: dict[str, Any]) -> None:
    """From topics to partitions by hand and back again."""
    await send(aio_args, "t", b"1")
    async with Consumer("t", **aio_args) as consumer:
        consumer.unsubscribe()
        consumer.assign([TP])
        assert consumer.subscription() == set()
        assert len(await read(consumer, 1)) == 1
        consumer.unsubscribe()
        consumer.subscribe(["t"])
        assert len(await read(consumer, 1)) == 1
        consumer.unsubscribe()
        consumer.assign([])
        with pytest.raises(IllegalStateError, match="nothing to read"):
            await consumer.poll(0)


# --- topics that go -------------------------------------------------------------------------------------------------


async def test_a_topic_made_anew_is_told_and_then_read_from_its_beginning(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """UnknownTopicIdError once; then the new log's first records, even with latest, and its new partitions."""
    await send(aio_args, "t", b"old1", b"old2")
    async with Admin(**aio_args) as admin, Consumer("t", **aio_args, auto_offset_reset="latest") as consumer:
        assert await consumer.poll(0) == {}
        await admin.delete_topics(["t"])
        await admin.create_topics([NewTopic("t", 5)])
        await send(aio_args, "t", b"new")
        begin = time.monotonic()
        with pytest.raises(UnknownTopicIdError, match="deleted and created again"):
            await read(consumer, 1)
        assert time.monotonic() - begin < 10
        assert [(r.offset, r.value) for r in await read(consumer, 1)] == [(0, b"new")]
        assert consumer.assignment() == {TopicPartition("t", number) for number in range(5)}
    assert warnings(caplog) == []


async def test_a_deleted_topic_is_told_and_then_waited_for(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One error, one warning, and when it comes again all its records."""
    await send(aio_args, "t", b"old")
    async with Admin(**aio_args) as admin, Consumer("t", **aio_args) as consumer:
        await read(consumer, 1)
        await consumer.poll(0)
        await admin.delete_topics(["t"])
        begin = time.monotonic()
        with pytest.raises(UnknownTopicOrPartitionError, match="does not exist"):
            await consumer.poll(5000)
        assert time.monotonic() - begin < 10
        assert await consumer.poll(50) == {}
        assert len(warnings(caplog)) == 1
        await send(aio_args, "t", b"1", b"2")
        assert [r.value for r in await read(consumer, 2)] == [b"1", b"2"]


async def test_a_topic_that_was_away_is_read_on(
    aio_args: dict[str, Any], redis_client: redis.Redis, namespace: str
) -> None:
    """Another server answered for a while, or a backup came back: told once, and nothing is read twice."""
    await send(aio_args, "t", b"0", b"1")
    async with Consumer("t", **aio_args) as consumer:
        assert len(await read(consumer, 2)) == 2
        keys = [key.decode() for key in redis_client.keys(f"{namespace}:*")]
        for key in keys:
            redis_client.rename(key, f"away-{key}")
        with pytest.raises(UnknownTopicOrPartitionError):
            for _ in range(10):
                await consumer.poll(1000)
        for key in keys:
            redis_client.rename(f"away-{key}", key)
        await send(aio_args, "t", b"2")
        assert [record.value for record in await read(consumer, 1)] == [b"2"]


async def test_an_idle_consumer_of_many_partitions_hears_at_once_that_its_topic_went(aio_args: dict[str, Any]) -> None:
    """It hears it, and does not ask one partition after another, a second each."""
    async with Admin(**aio_args) as admin, Consumer("t", **aio_args) as consumer:
        await admin.create_topics([NewTopic("t", 30)])
        assert await consumer.poll(0) == {}
        assert await consumer.poll(50) == {}
        consumer._check_at = 1 << 60
        await admin.delete_topics(["t"])
        with pytest.raises(UnknownTopicOrPartitionError):
            await consumer.poll(60_000)


async def test_a_position_in_a_log_that_is_gone_asks_nothing_of_the_new_one(aio_args: dict[str, Any]) -> None:
    """Records of the new log are never handed out under the old position."""
    await send(aio_args, "t", *[b"old"] * 10)
    async with Admin(**aio_args) as admin, Consumer("t", **aio_args) as consumer:
        await consumer.poll(5000, max_records=5)
        consumer.seek(TP, 5)
        await admin.delete_topics(["t"])
        await admin.create_topics(["t"])
        await send(aio_args, "t", *[b"new"] * 10)
        values: list[bytes] = []
        with pytest.raises(UnknownTopicIdError):
            while True:
                values += [r.value for part in (await consumer.poll(1000)).values() for r in part]
        assert set(values) <= {b"old"}
        assert [r.value for r in await read(consumer, 10)] == [b"new"] * 10


async def test_a_topic_whose_partitions_are_all_new_is_found_while_polling(aio_args: dict[str, Any]) -> None:
    """A consumer that is deep in a long poll sees a topic that is created meanwhile."""
    async with Consumer("t", **aio_args) as consumer, Producer(**aio_args) as producer:
        assert await consumer.poll(0) == {}
        await producer.send("t", b"x")
        await aio_wait_until(lambda: consumer.poll(2000), "the record of a topic that was created later")
