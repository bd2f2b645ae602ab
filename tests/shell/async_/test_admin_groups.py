"""``Admin`` and consumer groups: who is in them, how far they are, and what may be changed when."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from streamlayer import NewTopic, OffsetAndMetadata, OffsetChange, TopicPartition
from streamlayer._async.client import Client
from streamlayer._core import group_calls
from streamlayer._core.group_calls import Commit, Heartbeat, TopicCount
from streamlayer._core.keys import group_keys
from streamlayer._core.refusals import Refusal
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import (
    ConfigurationError,
    ForeignDataError,
    GroupIdNotFoundError,
    InvalidTimestampError,
    InvalidTopicError,
    NonEmptyGroupError,
    UnknownTopicOrPartitionError,
)
from tests.beside import aio_beside
from tests.waiting import aio_wait_until

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)
BASE = int(time.time() * 1000) - 3_600_000
DAY_MS = 86_400_000


def client_of(args: Mapping[str, Any]) -> Client:
    """What an admin talks through, for calls that users cannot make."""
    return Client(args.get("url"), args.get("redis"), args["namespace"], None, allow_eviction=False)


async def beat(client: Client, member: str, call: int, *, session_ms: int = 30_000, applied: int = 0) -> Heartbeat:
    """One heartbeat of a member of group g that wants topic t, of two partitions."""
    keys = group_keys(client.namespace, "g")
    return await client.call(
        group_calls.heartbeat(
            keys,
            member=member,
            call=call,
            applied=applied,
            session_ms=session_ms,
            interval_ms=10,
            retention_ms=60_000,
            description="app@host:7",
            subscription=("t",),
            topics={"t": TopicCount(2, 2)},
        )
    )


async def fill(args: dict[str, Any], topic: str = "t", counts: tuple[int, ...] = (10, 5)) -> None:
    """A topic with so many records in each partition, a second apart from BASE on."""
    async with Admin(**args) as admin, Producer(**args) as producer:
        await admin.create_topics([NewTopic(topic, len(counts))], exist_ok=True)
        for partition, count in enumerate(counts):
            times = [BASE + 1000 * number for number in range(count)]
            await producer.send_many(topic, [b"%d" % n for n in range(count)], partition=partition, timestamps_ms=times)


async def commit(args: dict[str, Any], group: str, offsets: Mapping[TopicPartition, int | OffsetAndMetadata]) -> None:
    """Have a group whose offsets these are, as its members left them."""
    async with Consumer("t", group_id=group, enable_auto_commit=False, **args) as consumer:
        await consumer.wait_for_assignment(timeout_ms=10_000)
        await consumer.commit(offsets)


async def test_a_group_is_listed_and_described_from_its_first_member_to_its_end(aio_args: dict[str, Any]) -> None:
    """Who is in it, where, with which partitions, how far behind; then without members; then it is gone."""
    await fill(aio_args)
    async with Admin(**aio_args) as admin:
        assert await admin.list_groups() == []
        assert await admin.describe_groups() == {}
        options: dict[str, Any] = {"group_id": "g", "group_instance_id": "one", "enable_auto_commit": False}
        async with Consumer("t", client_id="app", **options, **aio_args) as consumer:
            await consumer.wait_for_assignment(timeout_ms=10_000)
            await consumer.commit({T0: 4})

            async def listed() -> bool:
                return await admin.list_groups() == ["g"]

            await aio_wait_until(listed, "the group to be listed: its session does it beside the consumer")
            (group,) = (await admin.describe_groups(["g"])).values()
            assert (group.group_id, group.state, group.lag) == ("g", "Stable", {T0: 6, T1: 5})
            (member,) = group.members
            metadata = consumer.group_metadata()
            assert metadata is not None
            assert member.member_id == metadata.member_id
            assert (member.client_id, member.group_instance_id) == ("app", "one")
            assert member.host == f"{socket.gethostname()}:{os.getpid()}"
            assert member.subscription == {"t"}
            assert member.assignment == member.target == {T0, T1}
            assert not member.overdue
        assert (await admin.describe_groups(["g"]))["g"].state == "Stable"  # a static member does not leave
        assert await admin.remove_group_members("g", ["one"]) == 1
        group = (await admin.describe_groups())["g"]
        assert (group.state, group.members, group.lag) == ("Empty", (), {T0: 6, T1: 5})
        await admin.delete_groups(["g"])
        assert await admin.list_groups() == []
        assert await admin.describe_groups() == {}


async def test_what_is_committed_is_listed(aio_args: dict[str, Any]) -> None:
    """Offset and text as they were stored, of all topics or of some."""
    await fill(aio_args)
    await fill(aio_args, "u", (3,))
    u0 = TopicPartition("u", 0)
    async with Admin(**aio_args) as admin, Consumer("t", "u", group_id="g", **aio_args) as consumer:
        await consumer.wait_for_assignment(timeout_ms=10_000)
        await consumer.commit({T0: OffsetAndMetadata(3, "a text – with spaces"), u0: 2})
        found = await admin.list_group_offsets("g")
        assert list(found) == [T0, T1, u0]
        assert found[T0][:2] == (3, "a text – with spaces")
        assert [found[tp].offset for tp in (T0, T1, u0)] == [3, 0, 2]
        assert await admin.list_group_offsets("g", topics=["u"]) == {u0: found[u0]}
        assert await admin.list_group_offsets("g", topics=[]) == {}
        with pytest.raises(UnknownTopicOrPartitionError, match="no topic 'nope'"):
            await admin.list_group_offsets("g", topics=["nope"])
        with pytest.raises(TypeError, match=r"a list of names: topics=\(\['t'\]\)"):
            await admin.list_group_offsets("g", topics="t")


async def test_offsets_of_another_log_do_not_count(aio_args: dict[str, Any]) -> None:
    """A topic deleted, or made again, has no offsets and no lag, though the old ones are still stored."""
    await fill(aio_args)
    await commit(aio_args, "g", {T0: 4, T1: 5})
    async with Admin(**aio_args) as admin:
        for again in (False, True):
            await admin.delete_topics(["t"], missing_ok=True)
            if again:
                await fill(aio_args)
            assert await admin.list_group_offsets("g") == {}
            assert (await admin.describe_groups(["g"]))["g"].lag == {}
            assert await admin.reset_group_offsets("g", "latest") == {}
        assert await admin.reset_group_offsets("g", 7, topics=["t"]) == {
            T0: OffsetChange(None, 7),
            T1: OffsetChange(None, 5),
        }
        assert (await admin.describe_groups(["g"]))["g"].lag == {T0: 3, T1: 0}


async def test_a_group_that_is_not_there_is_told(aio_args: dict[str, Any]) -> None:
    """Each method says so, and names the nearest; nothing is done to those beside it in the list."""
    await fill(aio_args)
    async with Admin(**aio_args) as admin:
        with pytest.raises(GroupIdNotFoundError, match=r"no group 'biling' in namespace .*; there are none"):
            await admin.list_group_offsets("biling")
        await commit(aio_args, "billing", {T0: 1})
        for asked in (
            lambda: admin.describe_groups(["billing", "biling"]),
            lambda: admin.delete_groups(["billing", "biling"]),
            lambda: admin.remove_group_members("biling", ["x"]),
            lambda: admin.list_group_offsets("biling"),
            lambda: admin.alter_group_offsets("biling", {T0: 1}),
            lambda: admin.reset_group_offsets("biling", "latest", topics=["t"]),
        ):
            with pytest.raises(GroupIdNotFoundError, match=r"no group 'biling' .*; did you mean 'billing'"):
                await asked()
        with pytest.raises(GroupIdNotFoundError, match=r"there are \['billing'\]"):
            await admin.delete_groups(["zzz"])
        assert await admin.list_groups() == ["billing"]


async def test_bad_ids_are_told(aio_args: dict[str, Any]) -> None:
    """What cannot be a group's or a member's id is refused, and so is a str where a list is meant."""
    async with Admin(**aio_args) as admin:
        for call in (admin.describe_groups, admin.delete_groups):
            with pytest.raises(TypeError, match=r"a list of ids: \w+\(\['g'\]\)"):
                await call("g")
            with pytest.raises(InvalidTopicError, match="a group name cannot be empty"):
                await call([""])
        for group_call in (admin.list_group_offsets, lambda group: admin.reset_group_offsets(group, 0)):
            with pytest.raises(InvalidTopicError, match="group name 'a b' has characters"):
                await group_call("a b")
        with pytest.raises(TypeError, match="a list of ids"):
            await admin.remove_group_members("g", "x")
        for wrong in ("", "x:s", "@x"):
            with pytest.raises(InvalidTopicError, match="member name"):
                await admin.remove_group_members("g", [wrong])


async def test_a_live_groups_offsets_are_not_changed(aio_args: dict[str, Any]) -> None:
    """Alter, reset and delete are refused, with how many members and what to do; what would be done may be asked."""
    await fill(aio_args)
    why = r"^group g has 1 member: .* nothing was changed\. Stop them .*remove_group_members"
    async with (
        Admin(**aio_args) as admin,
        Consumer("t", group_id="g", enable_auto_commit=False, **aio_args) as consumer,
    ):
        await consumer.wait_for_assignment(timeout_ms=10_000)
        await consumer.commit({T0: 3, T1: 3})
        with pytest.raises(NonEmptyGroupError, match=why):
            await admin.alter_group_offsets("g", {T0: 1})
        with pytest.raises(NonEmptyGroupError, match=why):
            await admin.reset_group_offsets("g", "earliest")
        with pytest.raises(NonEmptyGroupError, match=why):
            await admin.delete_groups(["g"])
        assert await admin.reset_group_offsets("g", "earliest", dry_run=True) == {
            T0: OffsetChange(3, 0),
            T1: OffsetChange(3, 0),
        }
        assert {tp: at.offset for tp, at in (await admin.list_group_offsets("g")).items()} == {T0: 3, T1: 3}
    assert len(await values_of(aio_args, "g", 9)) == 9


async def values_of(args: dict[str, Any], group: str, count: int) -> list[tuple[int, bytes]]:
    """What a member of the group reads next: partition and value; nothing is committed."""
    read: list[tuple[int, bytes]] = []
    async with Consumer("t", group_id=group, enable_auto_commit=False, **args) as consumer:
        while len(read) < count:
            polled = await consumer.poll(10_000)
            assert polled, f"{len(read)} of {count} records came"
            read += [(record.partition, record.value) for part in polled.values() for record in part]
    return sorted(read)


async def test_altered_offsets_are_where_the_group_goes_on(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """They are stored with the topic's id, no epochs, and the text; the next member begins there."""
    await fill(aio_args)
    await commit(aio_args, "g", {T0: 1, T1: 1})
    async with Admin(**aio_args) as admin:
        await admin.alter_group_offsets("g", {T0: 8, ("t", 1): OffsetAndMetadata(5, "by hand", 77)})
        assert await admin.list_group_offsets("g") == {
            T0: OffsetAndMetadata(8, "", -1),
            T1: OffsetAndMetadata(5, "by hand", -1),
        }
        topic_id = (await admin.describe_topics(["t"]))["t"].topic_id
        stored = redis_client.hget(f"{namespace}:g:{{g}}:offsets", "t:1") or b""
        assert stored.decode().split(" ")[:3] == ["5", topic_id, "-"]
        assert await values_of(aio_args, "g", 2) == [(0, b"8"), (0, b"9")]
        await admin.alter_group_offsets("g", {})


@pytest.mark.parametrize(
    ("offsets", "kind", "why"),
    [
        ({T0: -1}, ConfigurationError, r"alter_group_offsets\(\{.*: -1\}\): an offset is an int from 0 on"),
        ({T0: "3"}, ConfigurationError, "an int from 0 on"),
        ({T0: True}, ConfigurationError, "an int from 0 on"),
        ({T0: OffsetAndMetadata(-3)}, ConfigurationError, "an int from 0 on"),
        ({T0: OffsetAndMetadata(1, "x" * 32_769)}, ConfigurationError, "32,768 characters at most"),
        ({T0: OffsetAndMetadata(1, None)}, ConfigurationError, "metadata is a str that UTF-8 can encode"),
        ({T0: OffsetAndMetadata(1, b"x")}, ConfigurationError, "metadata is a str"),
        ({T0: OffsetAndMetadata(1, "\ud800")}, ConfigurationError, "metadata is a str"),
        ({T0: 11}, ConfigurationError, "the log ends at 10"),
        ({TopicPartition("t", 2): 0}, UnknownTopicOrPartitionError, "partitions 0 to 1, not 2"),
        ({TopicPartition("t", -1): 0}, UnknownTopicOrPartitionError, "not -1"),
        ({TopicPartition("nope", 0): 0}, UnknownTopicOrPartitionError, "no topic 'nope'"),
        ({"t": 0}, TypeError, r"TopicPartition\(topic, number\)"),
        ({7: 0}, TypeError, r"TopicPartition\(topic, number\), not 7"),
        ([T0], TypeError, "takes a mapping"),
    ],
)
async def test_offsets_that_cannot_be_are_told(
    aio_args: dict[str, Any], offsets: Any, kind: type[Exception], why: str
) -> None:
    """The message names the call and what would do; the good one beside it was not stored either."""
    await fill(aio_args)
    await commit(aio_args, "g", {T0: 2, T1: 2})
    given = {T1: 5} | offsets if isinstance(offsets, dict) else offsets
    async with Admin(**aio_args) as admin:
        with pytest.raises(kind, match=why):
            await admin.alter_group_offsets("g", given)
        assert [at.offset for at in (await admin.list_group_offsets("g")).values()] == [2, 2]


@pytest.mark.parametrize(
    ("to", "shift_by", "after"),
    [
        ("earliest", None, (4, 0)),
        ("latest", None, (10, 5)),
        (5, None, (5, 5)),
        (0, None, (4, 0)),
        (10**12, None, (10, 5)),
        (datetime.fromtimestamp((BASE + 6500) / 1000, UTC), None, (7, 5)),
        (datetime.fromtimestamp(0, UTC), None, (4, 0)),
        (None, -2, (4, 1)),
        (None, 1, (6, 4)),
        (None, 100, (10, 5)),
        (None, 0, (5, 3)),
    ],
)
async def test_a_reset_goes_where_it_was_told_within_the_log(
    aio_args: dict[str, Any], to: Any, shift_by: int | None, after: tuple[int, int]
) -> None:
    """To an end, an offset, a time, or by so many: what was is told with what is, and a dry run changes nothing."""
    await fill(aio_args)
    await commit(aio_args, "g", {T0: 5, T1: 3})
    expected = {T0: OffsetChange(5, after[0]), T1: OffsetChange(3, after[1])}
    async with Admin(**aio_args) as admin:
        await admin.delete_records({T0: 4})
        assert await admin.reset_group_offsets("g", to, shift_by=shift_by, dry_run=True) == expected
        assert [at.offset for at in (await admin.list_group_offsets("g")).values()] == [5, 3]
        assert await admin.reset_group_offsets("g", to, shift_by=shift_by) == expected
        assert [at.offset for at in (await admin.list_group_offsets("g")).values()] == list(after)
        left = [(0, b"%d" % n) for n in range(after[0], 10)] + [(1, b"%d" % n) for n in range(after[1], 5)]
    assert await values_of(aio_args, "g", len(left)) == left


async def test_a_reset_of_some_partitions_leaves_the_others(aio_args: dict[str, Any]) -> None:
    """By topics, by partitions, by both; without either all that the group has offsets of, and no more."""
    await fill(aio_args)
    await fill(aio_args, "u", (3, 3))
    u0, u1 = TopicPartition("u", 0), TopicPartition("u", 1)
    await commit(aio_args, "g", {T0: 5, T1: 3})
    async with Admin(**aio_args) as admin:
        assert list(await admin.reset_group_offsets("g", 4)) == [T0, T1]
        assert await admin.reset_group_offsets("g", 1, partitions=[u1]) == {u1: OffsetChange(None, 1)}
        assert await admin.reset_group_offsets("g", 2, topics=["u"]) == {
            u0: OffsetChange(None, 2),
            u1: OffsetChange(1, 2),
        }
        assert list(await admin.reset_group_offsets("g", 3, topics=["u"], partitions=[T0, u0])) == [T0, u0, u1]
        assert await admin.reset_group_offsets("g", 3, topics=[], partitions=[]) == {}
        found = await admin.list_group_offsets("g")
        assert {tp: at.offset for tp, at in found.items()} == {T0: 3, T1: 4, u0: 3, u1: 3}


@pytest.mark.parametrize(
    ("given", "kind", "why"),
    [
        ({}, ConfigurationError, "to=… or shift_by=…, one of them"),
        ({"to": 1, "shift_by": 1}, ConfigurationError, "one of them"),
        ({"to": "beginning"}, ConfigurationError, "to='beginning': it is 'earliest', 'latest', an offset"),
        ({"to": -1}, ConfigurationError, "to=-1"),
        ({"to": True}, ConfigurationError, "to=True"),
        ({"to": 1.5}, ConfigurationError, r"to=1\.5"),
        ({"shift_by": "1"}, ConfigurationError, "shift_by='1'"),
        ({"to": datetime(2026, 1, 1)}, InvalidTimestampError, "no time zone"),  # noqa: DTZ001 - that is the mistake
        ({"to": 1, "topics": ["nope"]}, UnknownTopicOrPartitionError, "no topic 'nope'"),
        ({"to": 1, "topics": "t"}, TypeError, "a list of names"),
        ({"to": 1, "partitions": [TopicPartition("t", 9)]}, UnknownTopicOrPartitionError, "not 9"),
        ({"to": 1, "partitions": [("t", "0"), T0]}, UnknownTopicOrPartitionError, "not '0'"),
        ({"to": 1, "partitions": [7]}, TypeError, r"TopicPartition\(topic, number\), not 7"),
        ({"to": 1, "partitions": T0}, TypeError, r"TopicPartition\(topic, number\), not 't'"),
        ({"shift_by": 1, "topics": ["t"]}, ConfigurationError, r"group g has no offset of t\[1\].* pass to=…"),
    ],
)
async def test_a_reset_that_cannot_be_is_told(
    aio_args: dict[str, Any], given: dict[str, Any], kind: type[Exception], why: str
) -> None:
    """The message says what would do, and nothing was changed."""
    await fill(aio_args)
    client = client_of(aio_args)
    async with Admin(**aio_args) as admin:
        topic_id = (await admin.describe_topics(["t"]))["t"].topic_id
        offsets = {T0: Commit(2, topic_id)}
        await client.call(group_calls.commit(group_keys(client.namespace, "g"), offsets, retention_ms=60_000))
        with pytest.raises(kind, match=why):
            await admin.reset_group_offsets("g", **given)
        assert {tp: at.offset for tp, at in (await admin.list_group_offsets("g")).items()} == {T0: 2}
    await client.close()


async def test_members_put_out_leave_their_partitions_to_others(aio_args: dict[str, Any]) -> None:
    """By member id or instance id; who is no member is passed over, and who still runs joins again."""
    await fill(aio_args)
    async with (
        Admin(**aio_args) as admin,
        Consumer("t", group_id="g", group_instance_id="one", **aio_args) as one,
        Consumer("t", group_id="g", **aio_args) as two,
    ):

        async def apart() -> bool:
            await one.poll(10)
            await two.poll(10)
            return len(one.assignment()) == len(two.assignment()) == 1

        await aio_wait_until(apart, "each to have a partition")
        members = (await admin.describe_groups(["g"]))["g"].members
        ids = {member.group_instance_id: member.member_id for member in members}
        assert set(ids) == {"one", None}
        assert await admin.remove_group_members("g", []) == 0
        assert await admin.remove_group_members("g", ["nobody", "-"]) == 0
        assert await admin.remove_group_members("g", ["one", str(ids[None]), "nobody"]) == 2
        assert (await admin.describe_groups(["g"]))["g"].members != members
        await aio_wait_until(apart, "both to have joined again")
        again = {member.member_id for member in (await admin.describe_groups(["g"]))["g"].members}
        assert len(again) == 2
        assert not again & set(ids.values())


async def test_the_state_says_whether_partitions_are_on_their_way(aio_args: dict[str, Any]) -> None:
    """Reconciling while a member has not let go, or one is overdue beside others; Empty when all are overdue."""
    await fill(aio_args)
    client = client_of(aio_args)
    async with Admin(**aio_args) as admin:

        async def state() -> str:
            return (await admin.describe_groups(["g"]))["g"].state

        await beat(client, "a", 1, session_ms=2000)
        assert await state() == "Stable"
        await beat(client, "b", 1)
        group = (await admin.describe_groups(["g"]))["g"]
        assert group.state == "Reconciling"
        (a, b) = group.members
        assert (a.member_id, a.client_id, a.host, a.group_instance_id) == ("a", "app", "host:7", None)
        assert a.assignment == {T0, T1}
        assert b.assignment == frozenset()
        assert a.target | b.target == {T0, T1}
        assert len(a.target) == len(b.target) == 1

        async def a_is_over() -> bool:
            return [each.overdue for each in (await admin.describe_groups(["g"]))["g"].members] == [True, False]

        await aio_wait_until(a_is_over, "a's session to be over")
        assert await state() == "Reconciling"
        with pytest.raises(NonEmptyGroupError, match="has 1 member:"):
            await admin.alter_group_offsets("g", {T0: 1})
        assert await admin.remove_group_members("g", ["a", "b"]) == 2
        assert await state() == "Empty"
        await admin.alter_group_offsets("g", {T0: 1})
    await client.close()


async def test_a_group_whose_members_died_is_empty(aio_args: dict[str, Any]) -> None:
    """After their session they are described as overdue, nobody counts them, and the group's offsets can be set."""
    await fill(aio_args)
    client = client_of(aio_args)
    async with Admin(**aio_args) as admin:
        await beat(client, "a", 1, session_ms=300)
        with pytest.raises(NonEmptyGroupError):
            await admin.delete_groups(["g"])

        async def is_empty() -> bool:
            return (await admin.describe_groups(["g"]))["g"].state == "Empty"

        await aio_wait_until(is_empty, "a's session to be over")
        (member,) = (await admin.describe_groups(["g"]))["g"].members
        assert (member.member_id, member.overdue, member.assignment) == ("a", True, {T0, T1})
        await admin.alter_group_offsets("g", {T0: 4})
        group = (await admin.describe_groups(["g"]))["g"]
        assert (group.members, group.lag) == ((), {T0: 6})
    await client.close()


async def test_a_member_that_wakes_up_late_does_not_undo_what_was_set(aio_args: dict[str, Any]) -> None:
    """Its session was over and nobody had dropped it: it is fenced from then on, and its commit is refused."""
    await fill(aio_args)
    client = client_of(aio_args)
    async with Admin(**aio_args) as admin:
        topic_id = (await admin.describe_topics(["t"]))["t"].topic_id
        epoch = (await beat(client, "a", 1, session_ms=300)).epoch

        async def is_empty() -> bool:
            return (await admin.describe_groups(["g"]))["g"].state == "Empty"

        await aio_wait_until(is_empty, "a's session to be over")
        await admin.reset_group_offsets("g", 4, topics=["t"], dry_run=True)
        assert (await beat(client, "a", 2, session_ms=300, applied=1)).epoch == epoch
        await aio_wait_until(is_empty, "a's session to be over again")
        await admin.reset_group_offsets("g", 4, topics=["t"])
        keys, late = group_keys(client.namespace, "g"), {T0: Commit(9, topic_id)}
        with pytest.raises(Refusal, match="FENCED_MEMBER session"):
            await client.call(group_calls.commit(keys, late, retention_ms=60_000, member="a", epoch=epoch, call=1))
        with pytest.raises(Refusal, match="FENCED_MEMBER session"):
            await beat(client, "a", 3, session_ms=300, applied=1)
        assert [at.offset for at in (await admin.list_group_offsets("g")).values()] == [4, 4]
    await client.close()


async def test_a_group_that_has_expired_is_not_listed(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """Its entry goes when it is a day old; a newer one may be of a member that is just joining."""
    await fill(aio_args)
    listed = f"{namespace}:groups"
    async with Admin(**aio_args) as admin:
        for group in ("new", "old", "stays"):
            await commit(aio_args, group, {T0: 1})
        redis_client.zadd(listed, {"old": BASE - DAY_MS, "stays": BASE - DAY_MS})
        for group in ("new", "old"):
            redis_client.delete(*redis_client.keys(f"{namespace}:g:{{{group}}}:*"))
        assert await admin.list_groups() == ["stays"]
        assert set(await admin.describe_groups()) == {"stays"}
        assert redis_client.zrange(listed, 0, -1) == [b"stays", b"new"]


async def test_a_group_that_comes_back_while_it_is_taken_from_the_list_stays_listed(aio_args: dict[str, Any]) -> None:
    """Its member listed it just before: taking it off looks again, and puts it back."""
    await fill(aio_args)
    await commit(aio_args, "g", {T0: 1})
    async with Admin(**aio_args) as admin:
        await admin._unlist("g")
        assert await admin.list_groups() == ["g"]


async def test_what_an_administrator_sets_never_ends_a_group_sooner(
    aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis
) -> None:
    """A long retention stays, a short one becomes 7 days, and a group that nobody had listed is listed."""
    await fill(aio_args)
    client = client_of(aio_args)
    async with Admin(**aio_args) as admin:
        topic_id = (await admin.describe_topics(["t"]))["t"].topic_id
        for group, days, after in (("long", 30, 30), ("short", 1, 7)):
            keys = group_keys(client.namespace, group)
            call = group_calls.commit(keys, {T0: Commit(2, topic_id)}, retention_ms=days * DAY_MS)
            await client.call(call)
            await admin.alter_group_offsets(group, {T0: 3})
            for key in (keys.meta, keys.offsets):
                assert abs(redis_client.pttl(key) - after * DAY_MS) < 60_000
        assert await admin.list_groups() == ["long", "short"]
    await client.close()


async def test_many_offsets_are_set_in_parts(aio_args: dict[str, Any]) -> None:
    """More than one call takes: each partition gets its own."""
    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t", 1001)])
        await commit(aio_args, "g", {})
        changes = await admin.reset_group_offsets("g", "latest", topics=["t"])
        assert len(changes) == 1001
        assert set(await admin.list_group_offsets("g")) == set(changes)
        assert len((await admin.describe_groups(["g"]))["g"].lag) == 1001


async def test_somebody_elses_data_is_told(aio_args: dict[str, Any], namespace: str, redis_client: redis.Redis) -> None:
    """The error names the group, or the list of them, and the key."""
    redis_client.set(f"{namespace}:g:{{g}}:meta", "not ours")
    async with Admin(**aio_args) as admin:
        with pytest.raises(ForeignDataError, match=r"^group g: the key '.*:g:\{g\}:meta' holds data"):
            await admin.describe_groups(["g"])
        redis_client.set(f"{namespace}:groups", "not ours")
        with pytest.raises(ForeignDataError, match=r"^the list of groups: the key '.*:groups' holds data"):
            await admin.list_groups()


async def test_groups_can_be_described_while_topics_come_and_go(aio_args: dict[str, Any]) -> None:
    """A topic that is deleted, or made anew, in the middle of it disturbs nobody."""
    await fill(aio_args)
    await commit(aio_args, "g", {T0: 4, T1: 5})

    async def come_and_go() -> None:
        async with Admin(**aio_args) as admin:
            for _ in range(20):
                await admin.delete_topics(["t"])
                await admin.create_topics([NewTopic("t", 2)])
                await admin.reset_group_offsets("g", 0, topics=["t"])

    async with Admin(**aio_args) as admin:
        coming = aio_beside(come_and_go)

        async def looked_on_to_the_end() -> bool:
            assert (await admin.describe_groups(["g"]))["g"].lag.keys() <= {T0, T1}
            await admin.list_group_offsets("g")
            return coming.done()

        await aio_wait_until(looked_on_to_the_end, "the topic to have come and gone", timeout=60)
        await coming.result()
