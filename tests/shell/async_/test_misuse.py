"""Mistakes: each gets a typed error whose text says what is wrong and what to do, and nothing is half done."""

from __future__ import annotations

import time
from collections import UserString
from typing import Any

import pytest
import redis.asyncio

from streamlayer import TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.embedded import Server
from streamlayer.errors import (
    AuthenticationFailedError,
    AuthorizationError,
    ConfigurationError,
    IllegalStateError,
    InvalidTopicError,
    ServerUnavailableError,
    StreamlayerError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)
from streamlayer.serializers import json, string
from tests.beside import aio_beside
from tests.old_server import OldServer
from tests.shell.async_.reading import read, stored, stored_values

CLASSES = (Producer, Consumer, Admin)
TP = TopicPartition("t", 0)


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "option", "why"),
    [
        (Producer, "linger", "Producer has no option 'linger': did you mean 'linger_ms'?"),
        (Producer, "batch_sise", "did you mean 'batch_size'"),
        (Producer, "auto_offset_reset", r"Producer has no option 'auto_offset_reset'"),
        (Consumer, "max_pol_records", "Consumer has no option 'max_pol_records': did you mean 'max_poll_records'?"),
        (Consumer, "uri", "did you mean 'url'"),
        (Consumer, "completely_different", r"see help\(Consumer\)"),
        (Admin, "name_space", "Admin has no option 'name_space': did you mean 'namespace'?"),
        (Producer, "bootstrap_servers", "the server is named by url='redis://host:6379/0'"),
        (Consumer, "bootstrap_servers", "the server is named by url="),
        (Admin, "bootstrap_servers", "the server is named by url="),
        (Producer, "retries", "sent again until delivery_timeout_ms; there is no count"),
        (Producer, "transactional_id", "there are no transactions"),
        (Consumer, "isolation_level", "there are no transactions"),
        (Consumer, "security_protocol", "use a rediss:// url for TLS"),
        (Producer, "sasl_plain_password", "redis://user:password@host"),
        (Producer, "partitioner", "the hash is stored with the topic"),
    ],
)
def test_an_unknown_option_names_the_nearest_or_explains_kafkas(kind: Any, option: str, why: str) -> None:
    """A TypeError, as Python's own for a wrong argument; no server is needed."""
    with pytest.raises(TypeError, match=why):
        kind(**{option: "x"})


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        (Producer, {"acks": 2}, "acks=2"),
        (Producer, {"acks": "1"}, "acks='1'"),
        (Producer, {"linger_ms": -1}, "linger_ms=-1.*greater than or equal to 0"),
        (Producer, {"linger_ms": "5"}, "linger_ms='5'.*integer"),
        (Producer, {"linger_ms": 0.5}, "linger_ms=0.5.*integer"),
        (Producer, {"batch_size": 0}, "batch_size=0"),
        (Producer, {"compression_type": "lz4"}, "compression_type='lz4'.*gzip"),
        (Producer, {"num_partitions": 0}, "num_partitions=0"),
        (Producer, {"delivery_timeout_ms": 5, "linger_ms": 5}, "delivery_timeout_ms=5 must be more than linger_ms=5"),
        (Producer, {"buffer_memory": 70_000, "max_request_size": 80_000}, "must fit into buffer_memory=70000"),
        (Consumer, {"auto_offset_reset": "beginning"}, "auto_offset_reset='beginning'.*earliest"),
        (Consumer, {"max_poll_records": 0}, "max_poll_records=0"),
        (Consumer, {"fetch_max_bytes": 0}, "fetch_max_bytes=0"),
        (Consumer, {"fetch_max_wait_ms": -1}, "fetch_max_wait_ms=-1"),
        (Consumer, {"consumer_timeout_ms": -1}, "consumer_timeout_ms=-1"),
        (Consumer, {"max_poll_records": True}, "max_poll_records=True"),
        (Admin, {"url": "localhost:6379"}, "url must look like redis://host:6379/0"),
        (Producer, {"url": "http://localhost"}, "url scheme 'http' is not known: use one of redis"),
        (Producer, {"url": "redis+cluster://h"}, "Redis Cluster is not supported by this version"),
        (Producer, {"url": "redis://h:port/0"}, "url"),
        (Producer, {"url": "redis://h/0?socket_timeout=soon"}, "url"),
        (Producer, {"url": "redis://h/0?socket_timeouts=3"}, "socket_timeouts"),
        (Producer, {"url": "rediss://h/0?ssl_ca_certs=/nowhere.pem"}, "ssl_ca_certs='/nowhere.pem': there is no such"),
        (Producer, {"url": 6379}, "url must look like"),
        (Consumer, {"url": "redis://h", "redis": object()}, "pass url= or redis=, not both"),
        (Consumer, {"redis": object()}, "pass a redis-py client"),
        (Consumer, {"redis": "redis://localhost"}, "pass a redis-py client"),
    ],
)
def test_a_value_that_cannot_work_is_told_when_the_object_is_made(kind: Any, options: dict[str, Any], why: str) -> None:
    """A ConfigurationError, which is a ValueError, names option, value and what would do."""
    with pytest.raises(ConfigurationError, match=why) as raised:
        kind(**options)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_bad_namespace_is_told(kind: Any) -> None:
    """By Kafka's rule for names, from the argument and from the URL."""
    for options in ({"namespace": "a b"}, {"url": "redis://h/0?namespace=a:b"}, {"namespace": ""}):
        with pytest.raises(InvalidTopicError, match="namespace"):
            kind(**options)


async def test_a_clients_settings_are_taken_and_its_connections_left_alone(aio_args: dict[str, Any]) -> None:
    """decode_responses, hidden retries and another protocol do no harm; the client works on, before and after."""
    if "redis" not in aio_args:
        client = redis.asyncio.Redis.from_url(
            aio_args.pop("url"), decode_responses=True, protocol=3, health_check_interval=1
        )
        aio_args["redis"] = client
    client = aio_args["redis"]
    await client.set(aio_args["namespace"] + ":mine", "1")
    async with Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        await producer.send_and_wait("t", b"\xff\x00 no text", headers={"h": b"\xfe"})
        (record,) = await read(consumer, 1)
        assert (record.value, record.headers) == (b"\xff\x00 no text", (("h", b"\xfe"),))
    assert await client.get(aio_args["namespace"] + ":mine") in {"1", b"1"}
    await client.aclose()


# --- what is sent ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "key", "why"),
    [
        ("text", None, r"value is str, not bytes: .*Producer\(value_serializer=streamlayer.serializers.string\)"),
        ({"a": 1}, None, r"value is dict, not bytes: .*serializers.json"),
        (5, None, "value is int, not bytes"),
        (b"v", "key", r"key is str, not bytes: .*Producer\(key_serializer=streamlayer.serializers.string\)"),
        (b"v", 5, "key is int, not bytes"),
        (UserString("x"), None, "value is UserString, not bytes"),
    ],
)
async def test_what_is_no_bytes_needs_a_serializer(aio_args: dict[str, Any], value: Any, key: Any, why: str) -> None:
    """A TypeError that shows the serializer to use; nothing is sent, and the next record is as it should be."""
    async with Producer(**aio_args, linger_ms=60_000) as producer:
        await producer.send("t", b"1", b"k")
        with pytest.raises(TypeError, match=why):
            await producer.send("t", value, key)
        with pytest.raises(TypeError, match=why):
            await producer.send_and_wait("t", value, key)
        await producer.send("t", b"2", b"k")
    assert await stored_values(aio_args, "t") == [b"1", b"2"]


async def test_serializers_that_go_wrong(aio_args: dict[str, Any]) -> None:
    """What they raise comes out of send; what they return must be bytes; nothing is sent by either."""
    for serializer, given, expected in (
        (string, 5, AttributeError),
        (json, object(), TypeError),
        (lambda value: str(value), "x", TypeError),  # noqa: PLW0108 - it returns no bytes
        (lambda value: None, "x", TypeError),
    ):
        async with Producer(**aio_args, value_serializer=serializer) as producer:  # type: ignore[arg-type]
            with pytest.raises(expected):
                await producer.send("t", given)
            with pytest.raises(expected):
                await producer.send_many("t", [given])
            assert (await producer.send_and_wait("t", None)).offset >= 0  # type: ignore[arg-type]
    assert await stored_values(aio_args, "t") == [None] * 4


class Sub(bytes):
    """Bytes with another name: what some libraries return."""

    __slots__ = ()


class Text(str):
    """Text with another name."""

    __slots__ = ()


async def test_subclasses_of_bytes_and_str_are_stored(aio_args: dict[str, Any]) -> None:
    """As values, keys, from serializers, in headers: they are stored as plain ones; nothing dies of them."""
    async with Producer(**aio_args) as producer:
        await producer.send_and_wait(
            "t", Sub(b"v"), Sub(b"k"), partition=0, headers={Text("h"): Sub(b"1")}, timeout_ms=5000
        )
        await producer.send_many("t", [Sub(b"w")], [Sub(b"k")], partition=0)
    async with Producer(**aio_args, value_serializer=Sub, key_serializer=Sub) as producer:
        await producer.send_and_wait("t", b"x", b"k", partition=0, timeout_ms=5000)
    records = await stored(aio_args, "t")
    assert [(r.key, r.value) for r in records] == [(b"k", b"v"), (b"k", b"w"), (b"k", b"x")]
    assert records[0].headers == (("h", b"1"),)


@pytest.mark.parametrize(
    "headers",
    [
        {"a": "text"},
        {b"a": b"b"},
        {"a": None},
        [("a", b"b", b"c")],
        [("a",)],
        ["ab"],
        "ab",
        5,
        {"\ud800": b"no UTF-8"},
    ],
)
async def test_bad_headers_are_told_and_the_producer_lives_on(aio_args: dict[str, Any], headers: Any) -> None:
    """Before the record is taken: the sender beside the producer never meets them."""
    async with Producer(**aio_args, linger_ms=50) as producer:
        await producer.send("t", b"1", partition=0)
        with pytest.raises((TypeError, ValueError), match=r"header|UTF-8|utf-8"):
            await producer.send("t", b"x", partition=0, headers=headers)
        with pytest.raises((TypeError, ValueError), match=r"header|UTF-8|utf-8"):
            await producer.send_many("t", [b"x"], partition=0, headers=headers)
        await producer.send_and_wait("t", b"2", partition=0, timeout_ms=5000)
    assert await stored_values(aio_args, "t") == [b"1", b"2"]


@pytest.mark.parametrize("partition", [-1, 4, 1 << 40, "1", 1.0])
async def test_a_partition_out_of_range_is_told(aio_args: dict[str, Any], partition: Any) -> None:
    """With the numbers that there are; nothing is sent."""
    async with Producer(**aio_args) as producer:
        with pytest.raises(UnknownTopicOrPartitionError, match="t has the partitions 0 to 3, not"):
            await producer.send("t", b"x", partition=partition)
        with pytest.raises(UnknownTopicOrPartitionError, match="t has the partitions 0 to 3, not"):
            await producer.send_many("t", [b"x"], partition=partition)
        assert (await producer.send_and_wait("t", b"y", partition=3)).offset == 0
    assert await stored_values(aio_args, "t") == [b"y"]


@pytest.mark.parametrize("topic", ["redis://localhost", "a b", "", None, 5, b"bytes", ["t"]])
async def test_a_bad_topic_name_is_told_by_every_call(aio_args: dict[str, Any], topic: Any) -> None:
    """Sending, asking, reading: all by one rule, and nothing is created."""
    async with Producer(**aio_args) as producer, Consumer(**aio_args) as consumer, Admin(**aio_args) as admin:
        for call in (
            lambda: producer.send(topic, b"x"),
            lambda: producer.send_and_wait(topic, b"x"),
            lambda: producer.send_many(topic, [b"x"]),
            lambda: producer.partitions_for(topic),
            lambda: consumer.partitions_for_topic(topic),
            lambda: consumer.end_offsets([TopicPartition(topic, 0)]),
        ):
            with pytest.raises((InvalidTopicError, TypeError), match=r"name|hash"):
                await call()
        assert await admin.list_topics() == []


async def test_use_after_close_is_told(aio_args: dict[str, Any]) -> None:
    """Every call that would do something says that it is closed and what to do."""
    producer = Producer(**aio_args)
    await producer.send_and_wait("t", b"x")
    await producer.close()
    for call in (
        lambda: producer.send("t", b"y"),
        lambda: producer.send("other", b"y"),
        lambda: producer.send_and_wait("t", b"y"),
        lambda: producer.send_many("t", [b"y"]),
        producer.flush,
        lambda: producer.partitions_for("other"),
    ):
        with pytest.raises(IllegalStateError, match="closed"):
            await aio_beside(call).result()
    with pytest.raises(IllegalStateError, match="closed"):
        async with producer:
            pass
    assert await stored_values(aio_args, "t") == [b"x"]


# --- the server -----------------------------------------------------------------------------------------------------


async def expect_from_all(error: type[StreamlayerError], why: str, **options: Any) -> None:
    """Every way to begin raises this error, soon: entering a block, and the first call without one."""
    begin = time.monotonic()
    for kind in CLASSES:
        client = kind(**options)
        with pytest.raises(error, match=why):
            async with client:
                pass
    producer, consumer, admin = Producer(**options), Consumer("t", **options), Admin(**options)
    for call in (
        lambda: producer.send("t", b"x"),
        lambda: consumer.poll(5000),
        lambda: consumer.end_offsets([TP]),
        admin.list_topics,
    ):
        with pytest.raises(error, match=why):
            await call()
    for client in (producer, consumer, admin):
        await client.close()
    assert time.monotonic() - begin < 9  # a server that may come back is tried for ten


async def test_an_unreachable_server_is_told_at_once() -> None:
    """Without hidden retries; the address is named, the password never."""
    await expect_from_all(
        ServerUnavailableError,
        r"127\.0\.0\.1:1\b(?!.*geheim).*Is the server running there",
        url="redis://user:geheim@127.0.0.1:1/0",
    )
    await expect_from_all(ServerUnavailableError, r"/nowhere\.sock", url="unix:///tmp/nowhere.sock")
    assert issubclass(ServerUnavailableError, ConnectionError)


async def test_a_wrong_password_is_told_at_once(own_server: Server, own_client: redis.Redis) -> None:
    """Wrong, missing, or given where none is wanted; the right one works; it never stands in a message or repr."""
    own_client.config_set("requirepass", "geheim")
    with_password = own_server.url.replace("unix://", "unix://:{}@")
    why = r"(?!.*falsch)(?i:password|login)"
    await expect_from_all(AuthenticationFailedError, why, url=with_password.format("falsch"))
    await expect_from_all(AuthenticationFailedError, why, url=own_server.url)
    async with Producer(url=with_password.format("geheim")) as producer:
        await producer.send_and_wait("t", b"x")
        assert "geheim" not in repr(producer)


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ("redis_version:6.2.14", "the server is Redis 6.2.14; streamlayer needs Redis 7.0 or Valkey 7.2, or later"),
        ("redis_version:7.2.4\r\nvalkey_version:7.1.9", "the server is Valkey 7.1.9"),
    ],
)
async def test_a_server_too_old_is_told(info: str, why: str) -> None:
    """At connect; the message names its version and what is needed."""
    with OldServer(info) as server:
        await expect_from_all(UnsupportedVersionError, why, url=server.url)


async def test_a_server_that_evicts_is_refused(own_server: Server, own_client: redis.Redis) -> None:
    """It would delete records silently: the message has the command that mends it; allow_eviction=True goes on."""
    for policy in ("allkeys-lru", "volatile-ttl"):
        own_client.config_set("maxmemory-policy", policy)
        own_client.config_set("maxmemory", "100mb")
        why = rf"maxmemory-policy is {policy}.*CONFIG SET maxmemory-policy noeviction.*allow_eviction=True"
        await expect_from_all(ConfigurationError, why, url=own_server.url)
        async with Producer(url=own_server.url, allow_eviction=True) as producer:
            await producer.send_and_wait("t", b"x")
        own_client.config_set("maxmemory", "0")
        async with Admin(url=own_server.url) as admin:
            assert await admin.list_topics() == ["t"]


async def test_a_server_that_evicts_from_now_on_is_refused(
    own_server: Server, own_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that are open look now and then; when it is mended, all goes on."""
    monkeypatch.setattr("streamlayer._async.link.LOOK_MS", 0)
    args: dict[str, Any] = {"url": own_server.url}
    async with Producer(**args) as producer, Consumer("t", **args) as consumer, Admin(**args) as admin:
        await producer.send_and_wait("t", b"1", partition=0)
        assert len(await read(consumer, 1)) == 1
        own_client.config_set("maxmemory-policy", "allkeys-lru")
        own_client.config_set("maxmemory", "100mb")
        asked = [
            lambda: producer.send_and_wait("t", b"2", partition=0),
            lambda: consumer.poll(2000),
            admin.list_topics,
        ]
        for ask in asked:
            await ask()
        for ask in asked:
            with pytest.raises(ConfigurationError, match="maxmemory-policy is allkeys-lru"):
                await ask()
        own_client.config_set("maxmemory-policy", "noeviction")
        await producer.send_and_wait("t", b"3", partition=0)
        assert [record.value for record in await read(consumer, 1)] == [b"3"]


async def test_an_acl_that_denies_is_told(own_server: Server, own_client: redis.Redis) -> None:
    """A user without the right to run scripts, or to these keys, is told so at once."""
    own_client.execute_command("ACL SETUSER reader on >pw ~other:* &* +@all")
    url = own_server.url.replace("unix://", "unix://reader:pw@")
    with pytest.raises(AuthorizationError, match=r"ACL.*NOPERM"):
        async with Admin(url=url):
            raise AssertionError("it connected")
    async with Producer(url=url, namespace="other") as producer:
        await producer.send_and_wait("t", b"x")


async def test_a_bad_client_id_is_told(aio_args: dict[str, Any]) -> None:
    """The server takes no spaces in a connection's name: a typed error, not redis-py's."""
    producer = Producer(**aio_args, client_id="two words")
    try:
        await producer.send_and_wait("t", b"x", timeout_ms=5000)
    except StreamlayerError as error:
        assert "name" in str(error)  # noqa: PT017 - fakeredis takes any name
    await producer.close()
