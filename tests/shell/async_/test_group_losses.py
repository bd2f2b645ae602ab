"""A group whose log went back below what it had committed: told and counted, from where the logs part, on every server.

The log goes back because the server lost its newest writes, or because a replica took over that had not heard them. The
group's keys may have gone back too, or not: they stand elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from streamlayer import OffsetAndMetadata, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import LogTruncationError
from tests.shell.async_.members import GROUP, member
from tests.shell.async_.reading import read
from tests.shell.conftest import Pair
from tests.system.proxy import Proxy
from tests.waiting import aio_wait_until

TP = TopicPartition("t", 0)


async def send(url: str, *values: bytes) -> None:
    """Append to one partition."""
    async with Producer(url=url, num_partitions=1) as producer:
        for value in values:
            await producer.send_and_wait("t", value, partition=0)


def group_keys_to(pair: Pair) -> None:
    """Have the replica know of the group what the primary knows: its keys may live on another server than the log."""
    with redis.Redis.from_url(pair.replica.url) as other:
        for key in pair.client.scan_iter("sl:g:*"):
            other.restore(key, 0, pair.client.dump(key), replace=True)


@contextmanager
def took_over(pair: Pair, front: Proxy) -> Iterator[None]:
    """What is written within the block never reaches the replica, which is the primary afterwards."""
    pair.promote()
    yield
    front.kill_all()
    front.point_at(pair.replica.url)
    front.kill_all()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of loss."""
    return [record.getMessage() for record in caplog.records if "lost the log's end" in record.getMessage()]


@pytest.mark.parametrize(("reset", "since"), [("earliest", 0), ("latest", 4), ("none", 4)])
async def test_whoever_resumes_is_told(pair: Pair, caplog: pytest.LogCaptureFixture, reset: str, since: int) -> None:
    """Committed 5, the log went back to 3: the next member goes on at 3, or is told so, though the log may be at 7."""
    with Proxy(pair.url) as front:
        await send(front.url, b"0", b"1", b"2")
        pair.client.wait(1, 5000)
        with took_over(pair, front):
            await send(front.url, b"lost3", b"lost4")
            async with member({"url": front.url}, "t") as first:
                assert len(await read(first, 5)) == 5
                await first.commit()
            group_keys_to(pair)
        await send(front.url, *[b"new%d" % i for i in range(3, 3 + since)])
        async with member({"url": front.url}, "t", auto_offset_reset=reset) as second:
            if reset == "none":
                with pytest.raises(
                    LogTruncationError, match=r"t\[0\]: the server lost records from offset 3"
                ) as raised:
                    await read(second, 1)
                assert (raised.value.diverged_at, raised.value.lost) == (3, 2)
                second.seek(TP, 3)
            if not since:
                await second.wait_for_assignment(timeout_ms=10_000)
                await aio_wait_until(lambda: poll_until_told(second), "it is told")
                await send(front.url, b"new3")
            records = await read(second, max(1, since))
            assert [record.value for record in records] == [b"new%d" % i for i in range(3, 3 + max(1, since))]
            assert records[0].offset == 3
            assert second.metrics()[:2] == (1, 2)
            await second.commit()
            assert await second.committed(TP) == 3 + max(1, since)
    if reset != "none":
        (line,) = told(caplog)
        assert "going on at 3, 2 records that were read are gone" in line


async def poll_until_told(consumer: Consumer) -> bool:
    """Whether it has met the loss."""
    await consumer.poll(20)
    return consumer.metrics().truncations == 1


async def test_a_member_that_stays_goes_back_and_commits_again(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """Its membership was lost with the log: it joins again, is told, and auto-commit takes its offset back."""
    with Proxy(pair.url) as front:
        await send(front.url, b"0", b"1", b"2")
        async with member({"url": front.url}, "t", heartbeat_interval_ms=100, auto_commit_interval_ms=50) as consumer:
            assert len(await read(consumer, 3)) == 3
            await consumer.commit()
            pair.client.wait(1, 5000)
            with took_over(pair, front):
                await send(front.url, b"lost3", b"lost4")
                assert len(await read(consumer, 2)) == 2
                await consumer.commit()
                group_keys_to(pair)
            await send(front.url, b"new3", b"new4", b"new5")
            records = await read(consumer, 3)
            assert [(record.offset, record.value) for record in records] == [
                (3, b"new3"), (4, b"new4"), (5, b"new5"),
            ]  # fmt: skip
            assert consumer.metrics()[:2] == (1, 2)
        async with Admin(url=front.url) as admin:
            assert (await admin.list_group_offsets(GROUP))[TP].offset == 6
    assert len(told(caplog)) == 1


async def test_there_and_back(pair: Pair) -> None:
    """A to B to A in the same processes, each time without the newest writes: each reader is told each time."""
    with Proxy(pair.url) as front:
        await send(front.url, b"0", b"1", b"2")
        async with (
            member({"url": front.url}, "t", heartbeat_interval_ms=100) as grouped,
            Consumer("t", url=front.url) as alone,
        ):
            for consumer in (grouped, alone):
                assert len(await read(consumer, 3)) == 3
            pair.client.wait(1, 5000)
            with took_over(pair, front):
                await send(front.url, b"lost3", b"lost4")
                for consumer in (grouped, alone):
                    assert len(await read(consumer, 2)) == 2
            await send(front.url, b"b3")
            for consumer in (grouped, alone):
                assert [(record.offset, record.value) for record in await read(consumer, 1)] == [(3, b"b3")]
            pair.swap()
            pair.client.wait(1, 5000)
            with took_over(pair, front):
                await send(front.url, b"lost4", b"lost5", b"lost6")
                for consumer in (grouped, alone):
                    assert len(await read(consumer, 3)) == 3
            await send(front.url, *[b"a%d" % i for i in range(4, 9)])
            for consumer in (grouped, alone):
                records = await read(consumer, 5)
                assert [(record.offset, record.value) for record in records] == [(i, b"a%d" % i) for i in range(4, 9)]
                assert consumer.metrics()[:2] == (2, 5)


async def test_an_offset_that_an_administrator_set_says_nothing_of_loss(pair: Pair) -> None:
    """It carries no epochs: beyond the end it is out of range; before it, it is where reading goes on."""
    with Proxy(pair.url) as front:
        await send(front.url, b"0", b"1", b"2")
        async with member({"url": front.url}, "t") as first:
            await first.wait_for_assignment(timeout_ms=10_000)
        pair.client.wait(1, 5000)
        with took_over(pair, front):
            await send(front.url, b"lost3", b"lost4")
            async with Admin(url=front.url) as admin:
                await admin.alter_group_offsets(GROUP, {TP: OffsetAndMetadata(5, "by hand")})
            group_keys_to(pair)
        async with member({"url": front.url}, "t", auto_offset_reset="none") as second:
            with pytest.raises(Exception, match=r"t\[0\] holds the offsets from 0 to before 3; the position is 5"):
                await read(second, 1)
