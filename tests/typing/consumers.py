"""What type checkers must accept of a consumer, and what they must refuse. See ``producers``."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, assert_type

from streamlayer import Consumer, ConsumerRecord, Health, OffsetAndTimestamp, TopicPartition, aio, serializers


class Order:
    """A user's own value."""


def order_from_bytes(stored: bytes) -> Order:
    assert stored
    return Order()


PLACE = TopicPartition("orders", 0)


def the_types_of_keys_and_values_are_inferred() -> None:
    assert_type(Consumer("orders"), Consumer[bytes, bytes])
    assert_type(Consumer(key_deserializer=serializers.from_string), Consumer[str, bytes])
    assert_type(Consumer("a", "b", value_deserializer=order_from_bytes), Consumer[bytes, Order])
    assert_type(Consumer("orders", value_deserializer=serializers.from_json), Consumer[bytes, Any])
    with Consumer("orders", value_deserializer=order_from_bytes) as consumer:
        assert_type(consumer, Consumer[bytes, Order])
    Consumer("orders", value_deserializer=serializers.string)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def records_have_those_types() -> None:
    with Consumer("orders", key_deserializer=serializers.from_string, value_deserializer=order_from_bytes) as consumer:
        polled = consumer.poll()
        assert_type(polled, dict[TopicPartition, list[ConsumerRecord[str, Order]]])
        for record in consumer:
            assert_type(record, ConsumerRecord[str, Order])
            assert_type(record.key, str | None)
            assert_type(record.value, Order)
            assert_type(record.headers, tuple[tuple[str, bytes], ...])
            assert_type(record.topic_partition, TopicPartition)
        for record in consumer.read_to_end():
            assert_type(record, ConsumerRecord[str, Order])
        assert_type(next(consumer), ConsumerRecord[str, Order])
    for plain in Consumer("orders"):
        assert_type(plain, ConsumerRecord[bytes, bytes])
        plain.key.decode()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
        plain.value.encode()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def the_rest_is_keyword_only() -> None:
    consumer = Consumer("orders", url="redis://localhost", max_poll_records=10)
    consumer.poll(1000, max_records=10)
    consumer.poll(1000, 10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    consumer.subscribe(pattern=re.compile("or.*"))
    consumer.subscribe([], "or.*")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    consumer.close(1000)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]


def a_wrong_option_is_an_error() -> None:
    Consumer("orders", max_records=10)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Consumer("orders", group_id=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Consumer("orders", max_poll_records="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Consumer(["orders"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aio.Consumer("orders", bootstrap_servers="localhost")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def positions_are_answered_with_types() -> None:
    consumer = Consumer()
    consumer.assign([PLACE])
    consumer.seek(PLACE, 0)
    consumer.seek("orders", 0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    consumer.seek_to_time(datetime.now(UTC), PLACE)
    consumer.seek_to_time("yesterday")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(consumer.position(PLACE), int)
    assert_type(consumer.highwater(PLACE), int | None)
    assert_type(consumer.beginning_offsets([PLACE]), dict[TopicPartition, int])
    assert_type(consumer.end_offsets([PLACE]), dict[TopicPartition, int])
    assert_type(consumer.offsets_for_times({PLACE: 0}), dict[TopicPartition, OffsetAndTimestamp | None])
    assert_type(consumer.assignment(), set[TopicPartition])
    assert_type(consumer.subscription(), set[str])
    assert_type(consumer.paused(), set[TopicPartition])
    assert_type(consumer.health(), Health)


async def the_async_twin_is_awaited() -> None:
    async with aio.Consumer("orders", value_deserializer=order_from_bytes) as consumer:
        assert_type(consumer, aio.Consumer[bytes, Order])
        assert_type(await consumer.poll(1000), dict[TopicPartition, list[ConsumerRecord[bytes, Order]]])
        async for record in consumer:
            assert_type(record, ConsumerRecord[bytes, Order])
        async for record in consumer.read_to_end():
            assert_type(record.value, Order)
        assert_type(await anext(consumer), ConsumerRecord[bytes, Order])
        assert_type(await consumer.position(PLACE), int)
        assert_type(await consumer.end_offsets([PLACE]), dict[TopicPartition, int])
        await consumer.seek_to_beginning()
        list(consumer)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        consumer.poll().items()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert_type(aio.Consumer(), aio.Consumer[bytes, bytes])


async def what_is_answered_from_memory_is_not_awaited() -> None:
    consumer = aio.Consumer()
    consumer.subscribe(["orders"])
    consumer.assign([PLACE])
    consumer.seek(PLACE, 0)
    consumer.pause(PLACE)
    consumer.wakeup()
    assert_type(consumer.assignment(), set[TopicPartition])
    await consumer.assignment()  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
