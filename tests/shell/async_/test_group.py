"""Consumers in groups: each partition is one member's, partitions move in order, and what was read is committed."""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet
from typing import Any

import pytest

from streamlayer import OffsetAndMetadata, TopicPartition
from streamlayer._core import group_calls
from streamlayer.aio import Admin, Consumer, ConsumerRebalanceListener, Producer
from streamlayer.errors import (
    CommitFailedError,
    ConfigurationError,
    FencedInstanceIdError,
    IllegalStateError,
    InvalidTopicError,
    NonEmptyGroupError,
    RequestTimedOutError,
)
from tests.shell.async_.members import GROUP, Told, create, drain, member, numbers, partitions, produce, settle

TP = TopicPartition("t", 0)


# --- partitions -----------------------------------------------------------------------------------------------------


async def test_a_lone_member_has_all_partitions(aio_args: dict[str, Any]) -> None:
    """And is told of them once, before it is handed anything."""
    await create(aio_args, 4)
    await produce(aio_args, range(20))
    told = Told()
    async with member(aio_args, "t", listener=told) as consumer:
        assert await consumer.wait_for_assignment(timeout_ms=10_000) == partitions(4)
        assert told.words == [("assigned", 4)]
        assert numbers(await drain(consumer, until=20)) == list(range(20))
        metadata = consumer.group_metadata()
        assert metadata is not None
        assert (metadata.group_id, metadata.generation_id, metadata.group_instance_id) == (GROUP, 1, None)
    assert told.words == [("assigned", 4), ("revoked", 4)]


async def test_two_members_share_and_only_what_moves_is_told(aio_args: dict[str, Any]) -> None:
    """Half goes over when the second joins, and comes back when it leaves; what stays is not mentioned."""
    await create(aio_args, 4)
    one, two = Told(), Told()
    async with member(aio_args, "t", listener=one) as first:
        await settle(first, total=4)
        async with member(aio_args, "t", listener=two) as second:
            await settle(first, second, total=4)
            assert one.words == [("assigned", 4), ("revoked", 2)]
            assert two.words == [("assigned", 2)]
        await settle(first, total=4)
        assert one.words == [("assigned", 4), ("revoked", 2), ("assigned", 2)]


async def test_every_record_is_read_once_while_members_come_and_go(aio_args: dict[str, Any]) -> None:
    """Orderly joins and leaves repeat nothing and lose nothing: who gives a partition up commits it first."""
    await create(aio_args, 4)
    records = []
    async with member(aio_args, "t") as first:
        await settle(first, total=4)
        for turn in range(4):
            await produce(aio_args, range(turn * 20, turn * 20 + 20))
            async with member(aio_args, "t") as second:
                records += await settle(first, second, total=4)
                records += (await drain(first, second, until=1)) if len(records) < turn * 20 + 20 else []
            records += await settle(first, total=4)
        records += await drain(first, until=80 - len(records))
    assert numbers(records) == list(range(80))


async def test_more_members_than_partitions(aio_args: dict[str, Any]) -> None:
    """One of them has nothing to do, knows it, and takes over when the other leaves."""
    await create(aio_args, 1)
    async with member(aio_args, "t") as first:
        await settle(first, total=1)
        async with member(aio_args, "t") as second:
            assert await second.wait_for_assignment(timeout_ms=10_000) == set()
            await first.close()
            await settle(second, total=1)


async def test_new_partitions_and_topics_are_picked_up(aio_args: dict[str, Any]) -> None:
    """A topic that grows, and one that comes to match the pattern: read from their first records, even by latest."""
    await create(aio_args, 2, "t.a")
    async with member(aio_args, auto_offset_reset="latest") as consumer, Admin(**aio_args) as admin:
        consumer.subscribe(pattern=r"t\..*")
        await settle(consumer, total=2)
        await admin.create_partitions({"t.a": 4})
        await create(aio_args, 1, "t.b")
        await produce(aio_args, range(4), "t.a")
        await produce(aio_args, range(4, 6), "t.b", count=1)
        records = await settle(consumer, total=5)
        records += await drain(consumer, until=6 - len(records))
        assert numbers(records) == list(range(6))
        assert consumer.subscription() == {"t.a", "t.b"}


async def test_members_with_different_topics(aio_args: dict[str, Any]) -> None:
    """Each has only what it subscribes to; what both want is shared."""
    await create(aio_args, 4, "both")
    await create(aio_args, 2, "one")
    async with member(aio_args, "both", "one") as first, member(aio_args, "both") as second:
        for _ in range(200):
            await first.poll(10)
            await second.poll(10)
            if second.assignment() and len(first.assignment()) + len(second.assignment()) == 6:
                break
        assert {tp.topic for tp in second.assignment()} == {"both"}
        assert len(second.assignment()) == 2
        first.subscribe(["one"])
        await settle(first, total=2)
        for _ in range(200):
            await second.poll(10)
            if len(second.assignment()) == 4:
                break
        assert second.assignment() == partitions(4, "both")


async def test_a_topic_that_is_created_later(aio_args: dict[str, Any]) -> None:
    """It is waited for, and read from its first record."""
    async with member(aio_args, "t", auto_offset_reset="latest") as consumer:
        assert await consumer.wait_for_assignment(timeout_ms=10_000) == set()
        await create(aio_args, 2)
        await produce(aio_args, range(4), count=2)
        assert numbers(await drain(consumer, until=4)) == [0, 1, 2, 3]


async def test_a_topic_that_is_deleted_and_made_again(aio_args: dict[str, Any]) -> None:
    """What the group had stored of the old log does not count for the new one."""
    await create(aio_args, 1)
    await produce(aio_args, range(5), count=1)
    async with member(aio_args, "t") as consumer:
        await drain(consumer, until=5)
        await consumer.commit()
        assert await consumer.committed(TP) == 5
    async with Admin(**aio_args) as admin:
        await admin.delete_topics(["t"])
    await create(aio_args, 1)
    await produce(aio_args, range(3), count=1)
    async with member(aio_args, "t") as consumer:
        assert await consumer.committed(TP) is None
        assert numbers(await drain(consumer, until=3)) == [0, 1, 2]


# --- commits --------------------------------------------------------------------------------------------------------


async def test_a_group_goes_on_where_it_was(aio_args: dict[str, Any]) -> None:
    """Close commits what was handed out; the next consumer begins behind it."""
    await create(aio_args, 1)
    await produce(aio_args, range(10), count=1)
    async with member(aio_args, "t", max_poll_records=4) as consumer:
        assert numbers(await drain(consumer, until=4)) == [0, 1, 2, 3]
    async with member(aio_args, "t") as consumer:
        assert numbers(await drain(consumer, until=6)) == [4, 5, 6, 7, 8, 9]
        assert await consumer.lag() == {TP: 0}


async def test_commits_of_all_kinds(aio_args: dict[str, Any]) -> None:
    """Everything handed out; a record; an offset; an offset with a text, which the administrator sees."""
    await create(aio_args, 1)
    await produce(aio_args, range(10), count=1)
    async with member(aio_args, "t", enable_auto_commit=False, max_poll_records=5) as consumer:
        records = await drain(consumer, until=5)
        await consumer.commit(records[2])
        assert await consumer.committed(TP) == 3
        await consumer.commit()
        assert await consumer.committed(TP) == 5
        await consumer.commit({TP: 1})
        assert await consumer.committed(TP) == 1
        await consumer.commit({TP: OffsetAndMetadata(2, "half way\nthrough – ünder")})
        assert await consumer.committed(TP) == 2
        assert await consumer.lag() == {TP: 5}


async def test_without_auto_commit_nothing_is_committed(aio_args: dict[str, Any]) -> None:
    """But where the group began, which is decided once."""
    await create(aio_args, 1)
    await produce(aio_args, range(3), count=1)
    async with member(aio_args, "t", enable_auto_commit=False) as consumer:
        await drain(consumer, until=3)
    async with member(aio_args, "t", auto_offset_reset="latest") as consumer:
        assert numbers(await drain(consumer, until=3)) == [0, 1, 2]


async def test_latest_loses_nothing_that_comes_before_the_first_commit(aio_args: dict[str, Any]) -> None:
    """Where latest was is committed when the partition is taken up."""
    await create(aio_args, 1)
    await produce(aio_args, range(3), count=1)
    async with member(aio_args, "t", auto_offset_reset="latest", enable_auto_commit=False) as consumer:
        await consumer.wait_for_assignment(timeout_ms=10_000)
    await produce(aio_args, range(3, 6), count=1)
    async with member(aio_args, "t", auto_offset_reset="latest") as consumer:
        assert numbers(await drain(consumer, until=3)) == [3, 4, 5]


async def test_an_iteration_commits_what_is_finished(aio_args: dict[str, Any]) -> None:
    """When the block raises, the record in hand does not count; when it ends, it does."""
    await create(aio_args, 1)
    await produce(aio_args, range(6), count=1)
    with pytest.raises(ZeroDivisionError):
        async with member(aio_args, "t") as consumer:
            async for record in consumer:
                assert 1 / (2 - int(record.value))
    async with member(aio_args, "t") as consumer:
        assert await consumer.committed(TP) == 2
        async for record in consumer:
            if record.offset == 3:
                break
    async with member(aio_args, "t") as consumer:
        assert await consumer.committed(TP) == 4


async def test_a_batch_in_hand_is_not_committed_when_the_block_raises(aio_args: dict[str, Any]) -> None:
    """The batches before it are."""
    await create(aio_args, 1)
    await produce(aio_args, range(6), count=1)
    with pytest.raises(ZeroDivisionError):
        async with member(aio_args, "t", max_poll_records=2) as consumer:
            await drain(consumer, until=4)
            raise ZeroDivisionError
    async with member(aio_args, "t") as consumer:
        assert await consumer.committed(TP) == 2


@pytest.mark.parametrize("how", ["poll", "iterate"])
async def test_what_ctrl_c_keeps_from_being_handed_out_is_not_committed(aio_args: dict[str, Any], how: str) -> None:
    """Struck while records of a second partition are made ready: those of the first were seen by nobody either."""
    await create(aio_args, 2)
    await produce(aio_args, range(6), count=2)
    made: list[bytes] = []

    def struck(value: bytes) -> bytes:
        made.append(value)
        if len(made) == 4:
            raise KeyboardInterrupt
        return value

    with pytest.raises(KeyboardInterrupt):
        async with member(aio_args, "t", value_deserializer=struck) as consumer:
            await consumer.wait_for_assignment(timeout_ms=10_000)
            if how == "poll":
                await drain(consumer, until=6)
            async for _ in consumer:
                pass
    assert len(made) == 4
    async with member(aio_args, "t") as consumer:
        assert numbers(await drain(consumer, until=6)) == list(range(6))


async def test_polling_goes_on_after_ctrl_c_with_what_it_kept_back(aio_args: dict[str, Any]) -> None:
    """Who catches it within the block is given all that was taken and not handed out."""
    await create(aio_args, 2)
    await produce(aio_args, range(6), count=2)
    made: list[bytes] = []

    def struck(value: bytes) -> bytes:
        made.append(value)
        if len(made) == 4:
            raise KeyboardInterrupt
        return value

    async with Consumer("t", value_deserializer=struck, **aio_args) as consumer:
        with pytest.raises(KeyboardInterrupt):
            await drain(consumer, until=6)
        assert numbers(await drain(consumer, until=6)) == list(range(6))


async def test_auto_commit_happens_in_poll_and_in_iteration(aio_args: dict[str, Any]) -> None:
    """Of what was handed out before, not of the batch that the poll returns."""
    await create(aio_args, 1)
    await produce(aio_args, range(4), count=1)
    async with member(aio_args, "t", auto_commit_interval_ms=0, max_poll_records=2) as consumer:
        await drain(consumer, until=2)
        assert await consumer.committed(TP) == 0
        await drain(consumer, until=2)
        assert await consumer.committed(TP) == 2
        await consumer.poll(0)
        assert await consumer.committed(TP) == 4


async def test_a_listener_may_commit_and_seek(aio_args: dict[str, Any]) -> None:
    """What is to be given up is still its own; what is given has not been read yet. Reading within it is refused."""
    await create(aio_args, 2)
    await produce(aio_args, range(10), count=2)

    class Careful(ConsumerRebalanceListener):
        consumer: Consumer

        async def on_partitions_assigned(self, assigned: AbstractSet[TopicPartition]) -> None:
            for tp in assigned:
                self.consumer.seek(tp, 2)
            with pytest.raises(IllegalStateError, match="not read"):
                await self.consumer.poll(0)

        async def on_partitions_revoked(self, revoked: AbstractSet[TopicPartition]) -> None:
            await self.consumer.commit(dict.fromkeys(revoked, 3))

    careful = Careful()
    async with member(aio_args, "t", enable_auto_commit=False, listener=careful) as consumer:
        careful.consumer = consumer
        assert numbers(await drain(consumer, until=6)) == [4, 5, 6, 7, 8, 9]
    async with member(aio_args, "t") as consumer:
        assert await consumer.committed(TP) == 3


async def test_what_a_listener_raises_comes_out_of_poll(aio_args: dict[str, Any]) -> None:
    """And the consumer goes on."""
    await create(aio_args, 1)

    class Broken(ConsumerRebalanceListener):
        async def on_partitions_assigned(self, assigned: AbstractSet[TopicPartition]) -> None:
            raise ZeroDivisionError

    async with member(aio_args, "t", listener=Broken()) as consumer:
        with pytest.raises(ZeroDivisionError):
            await consumer.wait_for_assignment(timeout_ms=10_000)
        assert await consumer.wait_for_assignment(timeout_ms=10_000) == {TP}


# --- those who are fenced -------------------------------------------------------------------------------------------


async def test_a_slow_handler_leaves_in_an_orderly_way(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Its partitions go to the other; its commit says why it failed, once; its next poll joins again."""
    await create(aio_args, 2)
    await produce(aio_args, range(4), count=2)
    told = Told()
    async with (
        member(aio_args, "t", max_poll_interval_ms=300, listener=told, enable_auto_commit=False) as slow,
        member(aio_args, "t") as other,
    ):
        records = await settle(slow, other, total=2)
        while not (mine := [r for r in records if r.topic_partition in slow.assignment()]):
            records += await drain(slow, other, until=1)
        with caplog.at_level(logging.WARNING, "streamlayer"):
            await settle(other, total=2)  # while the slow one does not poll
        assert "max_poll_interval_ms is 300" in caplog.text
        assert slow.health().state == "left"
        with pytest.raises(CommitFailedError, match="max_poll_interval_ms=300"):
            await slow.commit(mine[0])
        await settle(slow, other, total=2)
        assert told.words[-2:] == [("lost", 1), ("assigned", 1)]
        assert [word for word, _ in told.words].count("lost") == 1


async def test_who_was_put_out_of_its_group_joins_again(aio_args: dict[str, Any]) -> None:
    """Its partitions are lost, what it had read may not be committed, and the next poll has them again."""
    await create(aio_args, 1)
    await produce(aio_args, range(3), count=1)
    told = Told()
    async with member(aio_args, "t", listener=told, heartbeat_interval_ms=50) as consumer:
        records = await drain(consumer, until=3)
        metadata = consumer.group_metadata()
        assert metadata is not None
        session = consumer._group.session
        call = group_calls.leave(session._keys, [metadata.member_id])
        assert await consumer._client.call(call) == 1
        with pytest.raises(CommitFailedError):
            await consumer.commit(records[0])
        again = await drain(consumer, until=3)
        assert numbers(again) == [0, 1, 2]
        assert told.words == [("assigned", 1), ("lost", 1), ("assigned", 1)]


async def test_static_members_keep_their_partitions(aio_args: dict[str, Any]) -> None:
    """One that closes and comes back within its session has the same, and nobody else was told anything."""
    await create(aio_args, 4)
    told = Told()
    async with member(aio_args, "t", listener=told, group_instance_id="a") as first:
        second = member(aio_args, "t", group_instance_id="b")
        await settle(first, second, total=4)
        had, words = second.assignment(), list(told.words)
        await second.close()
        async with member(aio_args, "t", group_instance_id="b") as back:
            assert await back.wait_for_assignment(timeout_ms=10_000) == had
            await first.poll(0)
            assert told.words == words


async def test_of_two_with_one_instance_id_the_newer_stays(aio_args: dict[str, Any]) -> None:
    """The older is told at its next poll, and for good."""
    await create(aio_args, 2)
    async with member(aio_args, "t", group_instance_id="a", heartbeat_interval_ms=50) as older:
        await settle(older, total=2)
        async with member(aio_args, "t", group_instance_id="a") as newer:
            assert await newer.wait_for_assignment(timeout_ms=10_000) == partitions(2)
            with pytest.raises(FencedInstanceIdError, match="'a'"):
                await settle(older, total=99)
            with pytest.raises(FencedInstanceIdError):
                await older.poll(0)
            assert older.assignment() == set()
            assert older.health().state == "failed"


# --- partitions assigned by hand ------------------------------------------------------------------------------------


async def test_assign_with_a_group_uses_its_offsets(aio_args: dict[str, Any]) -> None:
    """It begins at the stored offset and may commit while the group has no members; no longer."""
    await create(aio_args, 1)
    await produce(aio_args, range(6), count=1)
    by_hand = member(aio_args)
    by_hand.assign([TP])
    await drain(by_hand, until=6)
    await by_hand.commit({TP: 2})
    await by_hand.close(autocommit=False)
    by_hand = member(aio_args)
    by_hand.assign([TP])
    assert numbers(await drain(by_hand, until=4)) == [2, 3, 4, 5]
    async with member(aio_args, "t") as consumer:
        await settle(consumer, total=1)
        with pytest.raises(NonEmptyGroupError):
            await by_hand.commit()
    await by_hand.close()


# --- bad input ------------------------------------------------------------------------------------------------------


async def test_bad_commits_are_refused_and_nothing_is_stored(aio_args: dict[str, Any]) -> None:
    """Without a group, of a partition not owned, past the end, negative, no number, with too long a text."""
    await create(aio_args, 2)
    await produce(aio_args, range(4), count=2)
    async with Consumer("t", **aio_args) as alone:
        await alone.poll()
        with pytest.raises(IllegalStateError, match="group_id"):
            await alone.commit()
        with pytest.raises(IllegalStateError, match="group_id"):
            await alone.committed(TP)
        assert alone.group_metadata() is None
    async with member(aio_args, "t", enable_auto_commit=False) as consumer:
        await drain(consumer, until=4)
        for offset, why in ((-1, "from 0 on"), (7, "the log ends at 2"), ("1", "an int"), (True, "an int")):
            with pytest.raises(ConfigurationError, match=why):
                await consumer.commit({TP: offset})  # type: ignore[dict-item]
        with pytest.raises(ConfigurationError, match="32,768"):
            await consumer.commit({TP: OffsetAndMetadata(1, "x" * 40_000)})
        with pytest.raises(CommitFailedError, match=r"t\[5\] is not this consumer's"):
            await consumer.commit({TP: 1, TopicPartition("t", 5): 1})
        assert await consumer.committed(TP) == 0


def test_bad_options_are_refused(aio_args: dict[str, Any]) -> None:
    """Sessions shorter than heartbeats, names that cannot be, a listener without a group, both ways to read."""
    with pytest.raises(ConfigurationError, match="heartbeat_interval_ms=3000 must be half of session_timeout_ms=4000"):
        Consumer("t", **aio_args, group_id="g", session_timeout_ms=4000)
    with pytest.raises(ConfigurationError, match="needs a group_id"):
        Consumer("t", **aio_args, group_instance_id="a")
    with pytest.raises(InvalidTopicError, match="group"):
        Consumer("t", **aio_args, group_id="a b")
    with pytest.raises(InvalidTopicError, match="group_instance_id"):
        Consumer("t", **aio_args, group_id="g", group_instance_id="")
    with pytest.raises(IllegalStateError, match="listener: this consumer has no group_id"):
        Consumer("t", **aio_args, listener=ConsumerRebalanceListener())
    consumer = Consumer(**aio_args, group_id="g")
    with pytest.raises(ConfigurationError, match="one of them"):
        consumer.subscribe([])
    with pytest.raises(ConfigurationError, match="no regular expression"):
        consumer.subscribe(pattern="(")
    consumer.subscribe(["t"])
    with pytest.raises(IllegalStateError, match="unsubscribe"):
        consumer.assign([TP])


async def test_waiting_for_an_assignment_ends(aio_args: dict[str, Any]) -> None:
    """After its time, with an error that names the group; on wakeup, with what there is."""
    await create(aio_args, 2)
    async with member(aio_args, "t") as first, member(aio_args, "t") as second:
        await settle(first, total=2)
        with pytest.raises(RequestTimedOutError, match=GROUP):
            await second.wait_for_assignment(timeout_ms=50)  # the first does not poll, and gives nothing up
        second.wakeup()
        assert await second.wait_for_assignment() == set()


async def test_unsubscribe_leaves_the_group(aio_args: dict[str, Any]) -> None:
    """The other has all; who subscribes again has its part again."""
    await create(aio_args, 2)
    async with member(aio_args, "t") as first, member(aio_args, "t") as second:
        await settle(first, second, total=2)
        first.unsubscribe()
        assert first.assignment() == set()
        await settle(second, total=2)
        first.subscribe(["t"])
        await settle(first, second, total=2)


async def test_health_tells_of_the_group(aio_args: dict[str, Any]) -> None:
    """Joining, ok with the ages of the last heartbeat and poll, closed."""
    await create(aio_args, 1)
    consumer = member(aio_args, "t")
    assert consumer.health().heartbeat_age_ms is None
    await settle(consumer, total=1)
    health = consumer.health()
    assert (health.ok, health.state) == (True, "ok")
    assert health.heartbeat_age_ms is not None
    assert health.poll_age_ms is not None
    assert 0 <= health.heartbeat_age_ms < 20_000
    await consumer.close()
    assert consumer.health().state == "closed"


async def test_reading_to_the_end_in_a_group(aio_args: dict[str, Any]) -> None:
    """It waits for the assignment first, and reads this member's part."""
    await create(aio_args, 2)
    await produce(aio_args, range(6), count=2)
    async with member(aio_args, "t") as consumer, Producer(**aio_args) as producer:
        records = []
        async for record in consumer.read_to_end():
            if not records:
                await producer.send_and_wait("t", b"99", partition=0)
            records.append(record)
        assert numbers(records) == [0, 1, 2, 3, 4, 5]


async def test_auto_commit_never_takes_an_offset_back(aio_args: dict[str, Any]) -> None:
    """What was committed on purpose stands, though the position is before it: by seeking, or for want of a poll."""
    await create(aio_args, 1)
    await produce(aio_args, range(6), count=1)
    async with member(aio_args, "t") as consumer:
        await consumer.wait_for_assignment(timeout_ms=10_000)
        await consumer.commit({TP: 4})
    async with member(aio_args, "t") as consumer:
        assert await consumer.committed(TP) == 4
        await drain(consumer, until=2)
        await consumer.commit()
        consumer.seek(TP, 1)
        await drain(consumer, until=5)
        consumer.seek(TP, 2)
    async with member(aio_args, "t") as consumer:
        assert await consumer.committed(TP) == 6


async def test_a_group_without_members_is_listed(aio_args: dict[str, Any]) -> None:
    """Who commits what it reads by hand makes a group that an administrator sees."""
    await create(aio_args, 1)
    await produce(aio_args, range(2), count=1)
    by_hand = member(aio_args)
    by_hand.assign([TP])
    await drain(by_hand, until=2)
    await by_hand.close()
    async with Admin(**aio_args) as admin:
        assert await admin.list_groups() == [GROUP]
        assert (await admin.describe_groups())[GROUP].lag == {TP: 0}
