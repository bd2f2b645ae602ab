"""``Admin.alter_configs``: settings changed in place, by Kafka's names or ours, or refused with nothing changed."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from streamlayer import ConfigEntry, NewTopic, TopicConfig
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import (
    ConfigurationError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    ServerFullError,
    UnknownTopicOrPartitionError,
)
from tests.beside import aio_beside
from tests.shell.async_.reading import stored_values
from tests.shell.async_.stepping import contents, keys_of, settled, stored_entry
from tests.waiting import aio_wait_until

MIB = 1 << 20


async def config_of(admin: Admin, topic: str = "t") -> TopicConfig:
    """The settings as they are described."""
    return (await admin.describe_topics([topic]))[topic].config


async def options_of(admin: Admin, topic: str = "t") -> dict[str, ConfigEntry]:
    """Every setting with its source."""
    return (await admin.describe_topics([topic]))[topic].options


async def test_settings_change_by_our_names_kafkas_and_a_topic_config(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Each way says the same; what is not named stays as it was; the id and the records stay, too."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 2, config={"max_message_bytes": 4096})])
        await producer.send_and_wait("t", b"kept")
        before = (await admin.describe_topics(["t"]))["t"].topic_id
        for number, changes in enumerate(
            (
                {"retention_ms": 60_000},
                {"retention.ms": 70_000, "retention.bytes": MIB},
                TopicConfig(segment_bytes=20_000),
                {},
                TopicConfig(),
            )
        ):
            await admin.alter_configs({"t": changes})
            entry = settled(redis_client, namespace, "t")
            assert entry is not None
            assert entry.config_version == number + 2
        assert await config_of(admin) == TopicConfig(
            retention_ms=70_000, retention_bytes=MIB, segment_bytes=20_000, max_message_bytes=4096
        )
        assert (await admin.describe_topics(["t"]))["t"].topic_id == before
        assert await stored_values(aio_args, "t") == [b"kept"]


async def test_several_topics_in_one_call(aio_args: dict[str, Any]) -> None:
    """Each gets its own settings."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics(["a", "b", "c"])
        await admin.alter_configs({"a": {"retention_ms": 1000}, "b": {"retention.ms": -1}})
        assert [(await config_of(admin, name)).retention_ms for name in "abc"] == [1000, -1, 604_800_000]
        await admin.alter_configs({})


async def test_a_description_says_where_each_setting_comes_from(aio_args: dict[str, Any]) -> None:
    """From the topic, even if it is the default's value; from the default; or derived. None gives back the default."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 1, config={"retention_ms": 604_800_000, "retention_bytes": MIB})])
        options = await options_of(admin)
        assert options == {
            "retention_ms": ConfigEntry(604_800_000, "topic"),
            "retention_bytes": ConfigEntry(MIB, "topic"),
            "segment_bytes": ConfigEntry(MIB // 16, "derived"),
            "max_message_bytes": ConfigEntry(MIB + 65_536, "default"),
            "partitioner": ConfigEntry("crc32", "default"),
            "message_timestamp_type": ConfigEntry("CreateTime", "default"),
            "min_insync_replicas": ConfigEntry(1, "default"),
            "flush": ConfigEntry("server", "default"),
        }
        await admin.alter_configs(
            {"t": {"segment.bytes": 30_000, "max_message_bytes": MIB + 65_536, "retention_ms": None}}
        )
        altered = await options_of(admin)
        assert altered == options | {
            "retention_ms": ConfigEntry(604_800_000, "default"),
            "segment_bytes": ConfigEntry(30_000, "topic"),
            "max_message_bytes": ConfigEntry(MIB + 65_536, "topic"),
        }
        await admin.alter_configs({"t": {"segment.bytes": None, "retention.bytes": None, "max.message.bytes": None}})
        assert {entry.source for entry in (await options_of(admin)).values()} == {"default", "derived"}
        assert await config_of(admin) == TopicConfig()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"retention_sm": 1}, "no setting 'retention_sm': did you mean 'retention_ms'"),
        ({"retention.msec": None}, "no setting 'retention_msec': did you mean 'retention_ms'"),
        ({"cleanup.policy": "compact"}, "no setting 'cleanup_policy'"),
        ({"retention_ms": 5, "segment_bytes": 5}, "segment_bytes=5 .*greater than or equal to 16384"),
        ({"retention_ms": -2}, "retention_ms=-2"),
        ({"retention_ms": 0}, "retention_ms=0"),
        ({"retention_ms": "60000"}, "retention_ms='60000'.*integer"),
        ({"retention_ms": 1.5}, "retention_ms=1.5"),
        ({"retention_ms": True}, "retention_ms=True"),
        ({"max.message.bytes": 10}, "max_message_bytes=10"),
        ({"partitioner": "murmur2"}, "partitioner is decided when a topic is created"),
        ({"message.timestamp.type": "LogAppendTime"}, "message_timestamp_type is decided when a topic is created"),
        (TopicConfig(message_timestamp_type="LogAppendTime"), "message_timestamp_type is decided"),
    ],
)
async def test_what_cannot_be_set_is_told_and_nothing_is_changed(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, changes: Any, why: str
) -> None:
    """The message names the setting and what would do; no key of any topic has changed."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 2, config={"retention_bytes": MIB})])
        before = contents(redis_client, namespace)
        with pytest.raises(ConfigurationError, match=why):
            await admin.alter_configs({"t": changes})
        assert contents(redis_client, namespace) == before


async def test_what_was_decided_at_creation_may_be_said_again(aio_args: dict[str, Any]) -> None:
    """The same partitioner and timestamp type are no change, and so is a None for one that has the default."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 1, config={"message_timestamp_type": "LogAppendTime"})])
        await admin.alter_configs({"t": {"partitioner": "crc32", "message.timestamp.type": "LogAppendTime"}})
        await admin.alter_configs({"t": {"partitioner": None}})
        with pytest.raises(ConfigurationError, match="message_timestamp_type is decided"):
            await admin.alter_configs({"t": {"message_timestamp_type": None}})
        assert (await config_of(admin)).message_timestamp_type == "LogAppendTime"


@pytest.mark.parametrize("configs", [["t"], "t", None, {("t", "retention_ms", 5)}])
async def test_no_mapping_is_told(aio_args: dict[str, Any], configs: Any) -> None:
    """The error shows the mapping that was meant."""
    async with Admin(**aio_args) as admin:
        with pytest.raises(TypeError, match=r"alter_configs\(\{'orders': \{'retention_ms'"):
            await admin.alter_configs(configs)


@pytest.mark.parametrize("changes", ["retention_ms=5", ["retention_ms"], None, 5])
async def test_settings_that_are_no_mapping_are_told(aio_args: dict[str, Any], changes: Any) -> None:
    """The error names the topic, even if another one before it is right; nothing is changed."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics(["a", "t"])
        with pytest.raises(TypeError, match=r"settings of topic 't' are a TopicConfig or a mapping"):
            await admin.alter_configs({"a": {"retention_ms": 5000}, "t": changes})
        assert await config_of(admin, "a") == TopicConfig()


async def test_a_topic_that_is_not_there(aio_args: dict[str, Any]) -> None:
    """Those before it in the order given were changed; a name that cannot be one stops it before anything is."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics(["a", "b"])
        with pytest.raises(UnknownTopicOrPartitionError, match=r"no topic 'nope'.*\['a', 'b'\]"):
            await admin.alter_configs({"a": {"retention_ms": 5000}, "nope": {}, "b": {"retention_ms": 5000}})
        assert (await config_of(admin, "a")).retention_ms == 5000
        assert (await config_of(admin, "b")).retention_ms == 604_800_000
        with pytest.raises(InvalidTopicError, match="'a b'"):
            await admin.alter_configs({"b": {"retention_ms": 5000}, "a b": {}})
        assert (await config_of(admin, "b")).retention_ms == 604_800_000


async def test_the_size_of_messages_holds_at_once(aio_args: dict[str, Any]) -> None:
    """An open producer meets the new limit with its next batch, and when it is raised again, that one."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 1)])
        await producer.send_and_wait("t", b"x" * 5000)
        await admin.alter_configs({"t": {"max.message.bytes": 2048}})
        with pytest.raises(MessageSizeTooLargeError, match="max_message_bytes=2048"):
            await producer.send_and_wait("t", b"y" * 5000)
        await admin.alter_configs({"t": {"max.message.bytes": None}})
        await producer.send_and_wait("t", b"z" * 5000)
        assert [value[:1] for value in await stored_values(aio_args, "t")] == [b"x", b"z"]


async def test_fewer_bytes_are_freed_before_it_returns(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """A smaller retention_bytes drops the oldest segments at once: description, keys and readers agree."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 1, config={"segment_bytes": 16_384})])
        for _ in range(10):
            await producer.send_many("t", [b"x" * 1000] * 50)
        keys = len(keys_of(redis_client, namespace, "t"))
        await admin.alter_configs({"t": {"retention.bytes": 100_000}})
        (partition,) = (await admin.describe_topics(["t"]))["t"].partitions
        assert partition.log_start > 300
        assert 100_000 <= partition.bytes < 200_000
        assert len(keys_of(redis_client, namespace, "t")) < keys / 2
        assert len(await stored_values(aio_args, "t")) == 500 - partition.log_start
        await admin.alter_configs({"t": {"retention.bytes": -1}})
        assert (await admin.describe_topics(["t"]))["t"].partitions[0].log_start == partition.log_start
        assert await admin.check_topics() == {}


def milliseconds(earlier: Any, later: Any) -> float:
    """Between two answers of TIME."""
    return (later[0] - earlier[0]) * 1000 + (later[1] - earlier[1]) / 1000


async def test_a_shorter_time_is_kept_at_once(aio_args: dict[str, Any], redis_client: redis.Redis) -> None:
    """After it returned nothing older is served; a longer one brings nothing back, and counts from now on."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await admin.create_topics([NewTopic("t", 1, config={"segment_bytes": 16_384})])
        for _ in range(3):
            await producer.send_many("t", [b"x" * 1000] * 50)
        sent = redis_client.time()
        await aio_wait_until(lambda: milliseconds(sent, redis_client.time()) > 2, "all of it is older than that")
        await admin.alter_configs({"t": {"retention_ms": 1}})
        await admin.alter_configs({"t": {"retention_ms": -1}})
        (partition,) = (await admin.describe_topics(["t"]))["t"].partitions
        assert partition.log_end == 150
        assert await stored_values(aio_args, "t") == [b"x" * 1000] * (150 - partition.log_start)
        assert partition.log_start > 100
        assert (await producer.send_and_wait("t", b"y")).offset == 150
        assert await admin.check_topics() == {}


async def test_many_who_alter_at_once_lose_nothing(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Four admins change four settings many times: each ends with its last value, and each change was one version."""
    changes = {
        "retention_ms": lambda number: 60_000 + number,
        "retention_bytes": lambda number: MIB + number,
        "segment_bytes": lambda number: 20_000 + number,
        "max_message_bytes": lambda number: 4096 + number,
    }

    async def alter(name: str) -> None:
        async with Admin(**aio_args) as admin:
            for number in range(10):
                await admin.alter_configs({"t": {name: changes[name](number)}})

    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 2)])
        running = [aio_beside(lambda name=name: alter(name)) for name in changes]
        for one in running:
            await one.result()
        assert (await config_of(admin)).model_dump(exclude_unset=True) == {name: of(9) for name, of in changes.items()}
    entry = settled(redis_client, namespace, "t")
    assert entry is not None
    assert entry.config_version == 41


async def test_a_full_server_can_be_told_to_keep_less(
    any_server: Any, any_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is full and a topic is half grown: settings can be changed all the same, and the growth is done later."""
    args = {"url": any_server.url, "namespace": "full"}
    async with Admin(**args) as admin, Producer(**args) as producer:
        await admin.create_topics([NewTopic("t", 2, config={"segment_bytes": 16_384})])
        for _ in range(10):
            await producer.send_many("t", [b"x" * 1000] * 50, partition=0)
        entry = stored_entry(any_client, "full", "t")
        assert entry is not None
        any_client.hset("full:topics", "t", entry.growing_to(4).to_bytes())
        any_client.config_set("maxmemory", 1)
        await admin.alter_configs({"t": {"retention_bytes": 50_000}})
        entry = stored_entry(any_client, "full", "t")
        assert entry is not None
        assert (entry.state, entry.target, entry.partitions) == ("growing", 4, 2)
        described = (await admin.describe_topics())["t"]
        assert [partition.log_end for partition in described.partitions] == [500, 0]
        assert described.partitions[0].bytes < 120_000
        assert len(await stored_values(args, "t")) == 500 - described.partitions[0].log_start
        monkeypatch.setattr("streamlayer._async.admin.TIMEOUT_MS", 300)
        with pytest.raises(ServerFullError):
            await admin.create_partitions({"t": 6})
        any_client.config_set("maxmemory", 0)
        await admin.create_partitions({"t": 6})
        entry = settled(any_client, "full", "t")
        assert entry is not None
        assert (entry.partitions, entry.generation, entry.config_version) == (6, 3, 2)


async def test_a_consumer_reads_on_while_settings_change(aio_args: dict[str, Any]) -> None:
    """Nothing it has read comes again, and nothing is missed."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        await admin.create_topics([NewTopic("t", 1)])
        values: list[bytes] = []
        for number in range(10):
            await producer.send_and_wait("t", b"%d" % number)
            await admin.alter_configs({"t": {"retention_ms": 100_000 + number, "segment_bytes": 20_000 + number}})
            while len(values) <= number:
                values += [r.value for polled in (await consumer.poll(5000)).values() for r in polled]
        assert values == [b"%d" % number for number in range(10)]
