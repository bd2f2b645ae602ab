"""Topics half made, half grown, half altered, half deleted: whoever meets them finishes them, whatever he came for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from streamlayer import NewTopic, TopicConfig
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError
from tests.shell.async_.stepping import Steps, calls_of, contents, dies_after, keys_of, settled, stored_entry

Work = Callable[[Admin], Awaitable[object]]

BEFORE = {"retention_ms": 60_000}
AFTER = {"retention_ms": 5_000, "max_message_bytes": 8192}


async def create(admin: Admin) -> None:
    """With 2 partitions."""
    await admin.create_topics([NewTopic("t", 2, config=BEFORE)])


async def create_if_missing(admin: Admin) -> None:
    """With 2 partitions, unless it is there."""
    await admin.create_topics([NewTopic("t", 2, config=BEFORE)], exist_ok=True)


async def grow(admin: Admin) -> None:
    """To 4 partitions."""
    await admin.create_partitions({"t": 4})


async def alter(admin: Admin) -> None:
    """Two settings."""
    await admin.alter_configs({"t": AFTER})


async def delete(admin: Admin) -> None:
    """All of it."""
    await admin.delete_topics(["t"])


OPERATIONS: dict[str, Work] = {"create": create, "grow": grow, "alter": alter, "delete": delete}


async def describe(args: dict[str, Any]) -> None:
    """Ask what there is; of one that is being deleted, that there is none."""
    async with Admin(**args) as admin:
        await admin.describe_topics()
        try:
            assert (await admin.describe_topics(["t"]))["t"].name == "t"
        except UnknownTopicOrPartitionError:
            assert await admin.list_topics() == []


async def subscribe(args: dict[str, Any]) -> None:
    """Begin to read it."""
    async with Consumer("t", **args) as consumer:
        await consumer.poll(0)


async def assign(args: dict[str, Any]) -> None:
    """Ask for its partitions, as one does before `assign`."""
    async with Consumer(**args) as consumer:
        try:
            await consumer.partitions_for_topic("t")
        except UnknownTopicOrPartitionError:
            assert await consumer.topics() == set()


async def produce(args: dict[str, Any]) -> None:
    """Send records to it, which may create it anew."""
    async with Producer(**args, num_partitions=2) as producer:
        for number in range(8):
            await producer.send("t", b"", b"%d" % number)


def by_admin(work: Work) -> Callable[[dict[str, Any]], Awaitable[None]]:
    """An operation of somebody else's."""

    async def meet(args: dict[str, Any]) -> None:
        async with Admin(**args) as admin:
            try:
                await work(admin)
            except (TopicAlreadyExistsError, UnknownTopicOrPartitionError):
                assert work is not create_if_missing

    return meet


FINDERS = {
    "describe": describe,
    "subscribe": subscribe,
    "assign": assign,
    "produce": produce,
    "create": by_admin(create),
    "create_if_missing": by_admin(create_if_missing),
    "grow": by_admin(grow),
    "alter": by_admin(alter),
    "delete": by_admin(delete),
}


def expected(operation: str, finder: str, *, begun: bool) -> tuple[int, int, int] | None:
    """Partitions, retention and generation of what there is in the end; ``None`` for no topic."""
    if finder == "delete":
        return None
    made_anew = finder in {"create", "create_if_missing", "produce"}
    if operation == "delete" and begun:
        return ((2, 60_000, 1) if finder != "produce" else (2, TopicConfig().retention_ms, 1)) if made_anew else None
    if operation == "create" and not begun:
        return ((2, 60_000, 1) if finder != "produce" else (2, TopicConfig().retention_ms, 1)) if made_anew else None
    grown = finder == "grow" or (operation == "grow" and begun)
    altered = finder == "alter" or (operation == "alter" and begun)
    return 4 if grown else 2, 5_000 if altered else 60_000, 2 if grown else 1


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_what_was_begun_is_finished_by_whoever_meets_it(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, operation: str, finder: str
) -> None:
    """A client dies after each of its calls in turn; then all is as if it had never begun, or as if it had got through.

    No key is left over, and each partition knows what the registry says.
    """
    work = OPERATIONS[operation]
    through = False
    steps = 0
    while not through:
        async with Admin(**aio_args) as admin:
            if operation != "create":
                await create(admin)
        known = settled(redis_client, namespace, "t")
        through = await dies_after(aio_args, steps, work)
        begun = through or stored_entry(redis_client, namespace, "t") != known
        await FINDERS[finder](aio_args)
        now = settled(redis_client, namespace, "t")
        found = None if now is None else (now.partitions, now.topic_config().retention_ms, now.generation)
        assert found == expected(operation, finder, begun=begun), f"died after {steps} calls"
        async with Admin(**aio_args) as admin:
            await admin.delete_topics(["t"], missing_ok=True)
        assert not keys_of(redis_client, namespace, "t")
        steps += 1
    assert steps > 4


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_second_death_on_the_way_changes_nothing(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, operation: str
) -> None:
    """Who finishes may die too, after each of his calls, and so may the next one."""
    work = OPERATIONS[operation]
    for first in range(1, 30):
        async with Admin(**aio_args) as admin:
            if operation != "create":
                await create(admin)
        through = await dies_after(aio_args, first, work)
        for second in range(1, 30):
            if await dies_after(aio_args, second, lambda admin: admin.describe_topics(None)):
                break
        await describe(aio_args)
        settled(redis_client, namespace, "t")
        async with Admin(**aio_args) as admin:
            await admin.delete_topics(["t"], missing_ok=True)
        if through:
            return
    raise AssertionError("it never got through")


async def again(args: dict[str, Any], calls: list[Any]) -> None:
    """Execute calls once more, whatever they are refused with."""
    async with Admin(**args) as admin:
        await admin._client.execute(calls)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_calls_that_come_once_more_and_late_change_nothing(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis, operation: str
) -> None:
    """Right after the end, after more changes, and after the topic was deleted and made again with more partitions."""
    async with Admin(**aio_args) as admin:
        if operation != "create":
            await create(admin)
    calls = await calls_of(aio_args, OPERATIONS[operation])
    if operation != "delete":
        before = contents(redis_client, namespace)
        await again(aio_args, calls)
        assert contents(redis_client, namespace) == before
        async with Admin(**aio_args) as admin, Producer(**aio_args) as producer:
            await producer.send_and_wait("t", b"x" * 5000, partition=1)
            await admin.alter_configs({"t": {"retention_ms": 7_000}})
            await admin.create_partitions({"t": 5})
        before = contents(redis_client, namespace)
        await again(aio_args, calls)
        assert contents(redis_client, namespace) == before
        async with Admin(**aio_args) as admin:
            await admin.delete_topics(["t"])
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 5)])
    before = contents(redis_client, namespace)
    await again(aio_args, calls)
    assert contents(redis_client, namespace) == before
    settled(redis_client, namespace, "t")


async def test_a_create_met_by_a_delete_is_no_error_of_the_creator(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Somebody deletes it after each call of the creator in turn: he goes on, and ends with a topic that is whole."""
    for place in range(1, 10):
        async with Admin(**aio_args) as creator, Admin(**aio_args) as deleter:
            steps = Steps(creator._client, place)

            async def delete_once(steps: Steps = steps, deleter: Admin = deleter) -> None:
                steps.left = 1000
                await deleter.delete_topics(["t"], missing_ok=True)

            steps.at_end = delete_once  # type: ignore[method-assign]
            await create(creator)
            interrupted = steps.left != 1000 - 1 and steps.left > 100
            entry = settled(redis_client, namespace, "t")
            assert entry is not None
            await deleter.delete_topics(["t"])
        if not interrupted:
            return
    raise AssertionError("it never got through")
