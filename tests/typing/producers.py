"""What type checkers must accept of a producer, and what they must refuse.

Read by mypy and pyright, never run. A line that must fail carries both checkers' comments, and a comment that mutes
nothing is an error: so `make check` fails when such a line begins to pass.
"""

from __future__ import annotations

from typing import assert_type

import redis
import redis.asyncio

from streamlayer import (
    Admin,
    AppendedRange,
    NewTopic,
    Producer,
    RecordFuture,
    RecordMetadata,
    StreamlayerError,
    TopicConfig,
    TopicDescription,
    aio,
    serializers,
)


class Order:
    """A user's own value."""


def order_to_bytes(order: Order) -> bytes:
    return repr(order).encode()


def the_types_of_keys_and_values_are_inferred() -> None:
    assert_type(Producer(), Producer[bytes, bytes])
    assert_type(Producer(url="redis://localhost"), Producer[bytes, bytes])
    assert_type(Producer(key_serializer=serializers.string), Producer[str, bytes])
    assert_type(Producer(value_serializer=order_to_bytes), Producer[bytes, Order])
    assert_type(Producer(key_serializer=serializers.string, value_serializer=order_to_bytes), Producer[str, Order])
    with Producer(value_serializer=order_to_bytes) as producer:
        assert_type(producer, Producer[bytes, Order])


def keys_and_values_are_held_to_their_types() -> None:
    plain = Producer()
    plain.send("orders", b"value", b"key")
    plain.send("orders", b"value")
    plain.send("orders", "value")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.send("orders", b"value", "key")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.send("orders", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.send(1, b"value")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.send_and_wait("orders", "value")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.send_many("orders", ["value"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    plain.send_many("orders", [b"value"], ["key"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    plain.send("orders", b"value", headers={"source": "web"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]

    orders = Producer(key_serializer=serializers.string, value_serializer=order_to_bytes)
    orders.send("orders", Order(), "key", headers={"source": b"web"})
    orders.send("orders", Order(), "key", headers=[("source", b"web"), ("source", b"app")])
    orders.send("orders", b"value")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    orders.send("orders", Order(), b"key")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    nullable: Producer[bytes, bytes | None] = Producer()
    nullable.send("orders", None, b"key")


def the_rest_is_keyword_only(timestamp_ms: int) -> None:
    plain = Producer()
    plain.send("orders", b"value", b"key", partition=0, timestamp_ms=timestamp_ms)
    plain.send("orders", b"value", b"key", 0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    plain.send_many("orders", [b"value"], [b"key"], 0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    plain.flush(timeout_ms=1000)
    plain.flush(1000)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    plain.close(1000)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Producer("redis://localhost")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Admin("redis://localhost")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def a_wrong_option_is_an_error() -> None:
    Producer(linger_ms=5, acks="all")
    Producer(linger=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Producer(bootstrap_servers="localhost")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Producer(linger_ms="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Admin(bootstrap_servers="localhost")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aio.Producer(linger=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_client_has_the_colour_of_who_uses_it() -> None:
    Producer(redis=redis.Redis())
    aio.Producer(redis=redis.asyncio.Redis())
    Producer(redis=redis.asyncio.Redis())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aio.Producer(redis=redis.Redis())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_sync_future_waits_in_result() -> None:
    with Producer() as producer:
        future = producer.send("orders", b"value")
        assert_type(future, RecordFuture)
        assert_type(future.result(), RecordMetadata)
        assert_type(future.result(timeout_ms=1000), RecordMetadata)
        assert_type(future.exception(timeout_ms=1000), StreamlayerError | None)
        assert_type(future.done(), bool)
        future.add_done_callback(seen)
        assert_type(producer.send_and_wait("orders", b"value", timeout_ms=1000), RecordMetadata)
        assert_type(producer.send_many("orders", [b"value"], [None]), list[AppendedRange])
        assert_type(producer.partitions_for("orders"), set[int])


def seen(future: RecordFuture) -> None:
    assert_type(future, RecordFuture)


async def a_sync_future_is_not_awaited() -> None:
    future = Producer().send("orders", b"value")
    await future  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]


async def an_async_future_is_awaited() -> None:
    async with aio.Producer(value_serializer=order_to_bytes) as producer:
        assert_type(producer, aio.Producer[bytes, Order])
        future = assert_type(await producer.send("orders", Order()), aio.RecordFuture)
        assert_type(await future, RecordMetadata)
        assert_type(future.result(), RecordMetadata)
        assert_type(future.exception(), StreamlayerError | None)
        future.result(timeout_ms=1000)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        assert_type(await producer.send_and_wait("orders", Order(), timeout_ms=1000), RecordMetadata)
        assert_type(await producer.send_many("orders", [Order()]), list[AppendedRange])
        await producer.flush()
        await producer.send("orders", b"value")  # type: ignore[arg-type, unused-awaitable]  # pyright: ignore[reportArgumentType]
        producer.send("orders", Order()).result()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    with aio.Producer():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass


async def topics_are_looked_after_in_both_colours() -> None:
    with Admin() as admin:
        admin.create_topics(["orders", NewTopic("payments", 8, config={"retention.ms": 3_600_000})], exist_ok=True)
        admin.create_topics([NewTopic("payments", config=TopicConfig(retention_ms=3_600_000))])
        admin.create_topics(["orders"], True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        assert_type(admin.list_topics(), list[str])
        assert_type(admin.describe_topics(), dict[str, TopicDescription])
        admin.delete_topics(["orders"], missing_ok=True)
    TopicConfig(retention=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    async with aio.Admin() as admin_too:
        await admin_too.create_topics(["orders"])
        assert_type(await admin_too.describe_topics(["orders"]), dict[str, TopicDescription])
