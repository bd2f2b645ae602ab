"""Two who change one topic at once, one call of the one between any two of the other: there is no bad moment."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from streamlayer import NewTopic
from streamlayer._core import calls, registry_calls
from streamlayer._core.entries import CREATING, TopicEntry
from streamlayer._core.keys import partition_keys
from streamlayer.aio import Admin, Producer
from streamlayer.errors import (
    ConfigurationError,
    PartitionDamagedError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from tests.shell.async_.reading import stored_values
from tests.shell.async_.stepping import Party, dies_after, keys_of, settled, stored_entry

Work = Callable[[Admin], Awaitable[object]]


async def create(admin: Admin) -> None:
    """With 2 partitions."""
    await admin.create_topics([NewTopic("t", 2)])


async def create_if_missing(admin: Admin) -> None:
    """With 2 partitions, unless it is there."""
    await admin.create_topics([NewTopic("t", 2)], exist_ok=True)


async def create_again(admin: Admin) -> None:
    """Away with it, and one of 3 partitions in its place."""
    await admin.delete_topics(["t"], missing_ok=True)
    await admin.create_topics([NewTopic("t", 3)], exist_ok=True)


async def grow(admin: Admin) -> None:
    """To 3 partitions."""
    await admin.create_partitions({"t": 3})


async def grow_more(admin: Admin) -> None:
    """To 4 partitions."""
    await admin.create_partitions({"t": 4})


async def alter(admin: Admin) -> None:
    """One setting."""
    await admin.alter_configs({"t": {"retention_ms": 5_000}})


async def alter_another(admin: Admin) -> None:
    """Another setting."""
    await admin.alter_configs({"t": {"max_message_bytes": 8192}})


async def delete(admin: Admin) -> None:
    """All of it."""
    await admin.delete_topics(["t"])


async def describe(admin: Admin) -> None:
    """Asked by name, which finishes what is half done."""
    await admin.describe_topics(["t"])


RIVALS: list[tuple[Work, Work]] = [
    (create, create),
    (create, delete),
    (create, create_again),
    (grow, grow),
    (grow, grow_more),
    (grow, alter),
    (grow, delete),
    (grow, create_again),
    (alter, alter),
    (alter, alter_another),
    (alter, delete),
    (alter, create_again),
    (delete, delete),
    (delete, create),
    (delete, create_again),
    (delete, describe),
]

LOST_RACES = (TopicAlreadyExistsError, UnknownTopicOrPartitionError, ConfigurationError)
"""What one may be told whom the other has overtaken: the topic is there, or gone, or has more partitions by now."""


async def prepare(admin: Admin, *works: Work) -> None:
    """The topic, unless it is to be created."""
    await admin.delete_topics(["t"], missing_ok=True)
    if create not in works:
        await create(admin)


async def all_schedules(
    args: dict[str, Any], before: Callable[[], Awaitable[None]], one: Work, two: Work, after: Callable[[str], None]
) -> int:
    """Run them in every order: the one so many calls, the other so many, the one to its end, the other to its end."""
    count = 0
    async with Admin(**args) as first, Admin(**args) as second:
        for steps in itertools.count():
            for others in itertools.count(1):
                await before()
                a, b = Party(first, one), Party(second, two)
                await a.run(steps)
                a_was_through = a.ended
                await b.run(others)
                b_was_through = b.ended
                errors = [await a.end(), await b.end()]
                count += 1
                place = f"{one.__name__} {steps}, {two.__name__} {others}"
                assert all(error is None or isinstance(error, LOST_RACES) for error in errors), f"{place}: {errors}"
                after(f"{place}: {errors}")
                if b_was_through:
                    break
            if a_was_through:
                break
    return count


@pytest.mark.parametrize(("one", "two"), RIVALS, ids=lambda work: work.__name__)
async def test_two_at_once_leave_one_topic_that_agrees_with_itself(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, one: Work, two: Work
) -> None:
    """In every order of their calls each gets through or is told of the other, and nothing half done is left over."""

    async def before() -> None:
        await prepare(admin, one, two)

    def after(place: str) -> None:
        entry = settled(redis_client, namespace, "t")
        if one is alter and two is alter_another:
            assert entry is not None
            assert entry.config == {"retention_ms": 5_000, "max_message_bytes": 8192}, place
        if two in {grow, grow_more}:
            assert entry is not None
            assert entry.partitions == (4 if two is grow_more else 3), place
        if two is create_again and one is not delete:
            assert entry is not None, place

    async with Admin(**aio_args) as admin:
        assert await all_schedules(aio_args, before, one, two, after) > 8


@pytest.mark.parametrize("work", [create, grow_more, alter, delete], ids=lambda work: work.__name__)
@pytest.mark.parametrize("other", [describe, delete], ids=lambda work: work.__name__)
async def test_two_who_finish_what_a_third_began(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, work: Work, other: Work
) -> None:
    """They meet the bare intent, and take turns at any point."""

    async def before() -> None:
        await prepare(admin, work)
        assert not await dies_after(aio_args, 1 if work is create else 2, work)

    def after(place: str) -> None:
        entry = settled(redis_client, namespace, "t")
        assert (entry is None) == (delete in {work, other}), place
        if entry is not None and work is grow_more:
            assert entry.partitions == 4

    async with Admin(**aio_args) as admin:
        await all_schedules(aio_args, before, describe, other, after)


async def lose_registry(args: dict[str, Any], namespace: str, client: redis.Redis, *values: bytes) -> TopicEntry:
    """A topic of 2 partitions, the first with these values, whose entry is gone."""
    async with Admin(**args) as admin:
        await admin.delete_topics(["t"], missing_ok=True)
        await create(admin)
    async with Producer(**args) as producer:
        for value in values:
            await producer.send_and_wait("t", value, partition=0)
    entry = stored_entry(client, namespace, "t")
    assert entry is not None
    client.hdel(f"{namespace}:topics", "t")
    return entry


async def test_two_who_find_a_log_without_an_entry_adopt_it(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """The registry was lost, one partition too. Whatever the order of their calls: its records and its id survive."""
    lost: list[TopicEntry] = []

    async def before() -> None:
        lost[:] = [await lose_registry(aio_args, namespace, redis_client, b"kept")]
        redis_client.delete(*[key for key in keys_of(redis_client, namespace, "t") if "{t:1}" in key])

    def after(place: str) -> None:
        entry = settled(redis_client, namespace, "t")
        assert entry is not None, place
        assert entry.id == lost[0].id, place

    await all_schedules(aio_args, before, create, create_if_missing, after)
    assert await stored_values(aio_args, "t") == [b"kept"]


async def test_a_log_without_an_entry_keeps_its_layout_and_its_settings(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Who creates the topic anew gets the log that is there, as it is; and can alter and grow it."""
    config = {"retention_ms": 60_000, "segment_bytes": 20_000, "message_timestamp_type": "LogAppendTime"}
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 2, config=config)])
        for number in range(3):
            await admin.alter_configs({"t": {"retention_bytes": 1_000_000 + number}})
        await admin.create_partitions({"t": 3})
        async with Producer(**aio_args) as producer:
            await producer.send_and_wait("t", b"kept", partition=2)
        before = stored_entry(redis_client, namespace, "t")
        assert before is not None
        redis_client.hdel(f"{namespace}:topics", "t")
        await admin.create_topics([NewTopic("t", 7, config={"retention_ms": 5})])
        entry = settled(redis_client, namespace, "t")
        assert entry is not None
        assert (entry.id, entry.partitions, entry.generation) == (before.id, 3, 2)
        assert entry.config == config | {"retention_bytes": 1_000_002}
        await admin.alter_configs({"t": {"max_message_bytes": 4096}})
        await admin.create_partitions({"t": 4})
        settled(redis_client, namespace, "t")
    assert await stored_values(aio_args, "t") == [b"kept"]


@pytest.mark.parametrize("steps", range(2, 12))
@pytest.mark.parametrize("work", [alter, grow], ids=lambda work: work.__name__)
async def test_a_log_whose_entry_was_lost_half_way(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, work: Work, steps: int
) -> None:
    """Altered or grown in part when the entry went: the partitions agree again, and no record is lost."""
    async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
        await create(admin)
        for partition in range(2):
            await producer.send_and_wait("t", b"kept", partition=partition)
    await dies_after(aio_args, steps, work)
    redis_client.hdel(f"{namespace}:topics", "t")
    async with Admin(**aio_args) as admin:
        await create_if_missing(admin)
        assert settled(redis_client, namespace, "t") is not None
        assert await admin.check_topics() == {}
    assert await stored_values(aio_args, "t") == [b"kept", b"kept"]


async def test_two_logs_under_one_name_are_left_alone(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Partitions of two logs that both hold records: an error says so, and not a key is touched, by nobody."""
    entry = await lose_registry(aio_args, namespace, redis_client, b"one")
    keys = partition_keys(namespace, "t", 1)
    redis_client.hset(keys.meta, "id", "f" * 32)
    async with Admin(**aio_args) as admin:
        other = registry_calls.registry(namespace, "t", b"", TopicEntry("f" * 32, CREATING, 2).to_bytes())
        await admin._client.call(other)
        before = keys_of(redis_client, namespace, "t")
        redis_client.hset(keys.meta, "next", 1)
        for _ in range(2):
            with pytest.raises(PartitionDamagedError, match="'t': its partitions belong to 2 different logs"):
                await create(admin)
            with pytest.raises(PartitionDamagedError, match="'t': its partitions belong to 2 different logs"):
                await admin.describe_topics(["t"])
    assert keys_of(redis_client, namespace, "t") == before
    assert redis_client.hget(partition_keys(namespace, "t", 0).meta, "id") == entry.id.encode()


async def leave_partition(admin: Admin, namespace: str, number: int) -> None:
    """A partition of a topic of that name that was deleted, made by a client that was slow or died."""
    left = calls.create_partition(
        partition_keys(namespace, "t", number), topic_id="f" * 32, partitions=4, generation=1, retention_ms=-1,
        retention_bytes=-1, segment_bytes=65_536, max_message_bytes=4096, config_version=1,
    )  # fmt: skip
    await admin._client.call(left)


async def test_growth_waits_where_a_partition_holds_records_of_another_log(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """They are not touched: the topic is used as it was, it is said what to do, and when that was done it grows."""
    async with Admin(**aio_args) as admin:
        await create(admin)
        await leave_partition(admin, namespace, 3)
        redis_client.hset(partition_keys(namespace, "t", 3).meta, "next", 1)
        before = redis_client.hgetall(partition_keys(namespace, "t", 3).meta)
        for _ in range(2):
            with pytest.raises(PartitionDamagedError, match=r"partition 3 holds another log.*keys .*\{t:3\}:\*"):
                await grow_more(admin)
            assert redis_client.hgetall(partition_keys(namespace, "t", 3).meta) == before
        await alter(admin)
        described = (await admin.describe_topics(["t"]))["t"]
        assert (len(described.partitions), described.config.retention_ms) == (2, 5_000)
        async with Producer(**aio_args) as producer:
            for number in range(8):
                await producer.send_and_wait("t", b"kept", b"%d" % number)
        assert await stored_values(aio_args, "t") == [b"kept"] * 8
        redis_client.delete(*[key for key in keys_of(redis_client, namespace, "t") if "{t:3}" in key])
        await grow_more(admin)
    entry = settled(redis_client, namespace, "t")
    assert entry is not None
    assert (entry.partitions, entry.generation) == (4, 2)


@pytest.mark.parametrize("state", ["", "deleting"])
async def test_what_never_took_a_record_is_in_nobodys_way(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, state: str
) -> None:
    """Partitions left by a client that was overtaken by a deletion: making and growing a topic free them."""
    async with Admin(**aio_args) as admin:
        for number in (1, 3):
            await leave_partition(admin, namespace, number)
            if state:
                redis_client.hset(partition_keys(namespace, "t", number).meta, "state", state)
        await create(admin)
        if not state:
            settled(redis_client, namespace, "t")  # it looked as far as the partition left behind counted
            await leave_partition(admin, namespace, 3)
        await grow_more(admin)
    entry = settled(redis_client, namespace, "t")
    assert entry is not None
    assert (entry.id != "f" * 32, entry.partitions, entry.config) == (True, 4, {})
