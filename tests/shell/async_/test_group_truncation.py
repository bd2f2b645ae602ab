"""An offset that is committed to a server which has lost what it counts: whoever goes on from it is told, with numbers.

The group's own keys are whole: a member that stayed knows nothing of the loss yet when it commits.
"""

from __future__ import annotations

from typing import Any

import pytest

from streamlayer import TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.embedded import Server
from streamlayer.errors import LogTruncationError
from tests.shell.async_.reading import read
from tests.shell.async_.test_truncation import power_failure
from tests.shell.conftest import Pair
from tests.system.proxy import Proxy
from tests.waiting import aio_wait_until

TP = TopicPartition("t", 0)


async def send(url: str, *values: bytes) -> None:
    """Append to the one partition."""
    async with Producer(url=url, num_partitions=1) as producer:
        await producer.send_many("t", values, partition=0)


def member(url: str, **options: Any) -> Consumer[bytes, bytes]:
    """The group's only member; it commits when it is told to."""
    return Consumer("t", url=url, group_id="g", **{"enable_auto_commit": False, **options})


async def committed(url: str) -> int:
    """Where the group is, by what is stored."""
    async with Admin(url=url) as admin:
        return (await admin.list_group_offsets("g"))[TP].offset


async def commit_what_is_lost(server: Server) -> None:
    """Five records are read, the server comes back with three, and offset 5 is committed to it."""
    await send(server.url, b"0", b"1", b"2")
    async with member(server.url) as consumer:
        assert len(await read(consumer, 3)) == 3
        with power_failure(server):
            await send(server.url, b"lost3", b"lost4")
            assert len(await read(consumer, 2)) == 2
        await consumer.commit({TP: 5})
    assert await committed(server.url) == 5


@pytest.mark.parametrize("since", [1, 4], ids=["shorter", "longer"])
async def test_who_resumes_goes_back_to_where_the_logs_part(
    own_server: Server, caplog: pytest.LogCaptureFixture, since: int
) -> None:
    """A new member of a new process: one warning with both numbers, counted, every new record; commits follow."""
    await commit_what_is_lost(own_server)
    new = [b"new%d" % i for i in range(since)]
    await send(own_server.url, *new)
    async with member(own_server.url) as consumer:
        assert [record.value for record in await read(consumer, since)] == new
        assert consumer.metrics() == (1, 2, 0)
        await consumer.commit()
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "log's end" in r.getMessage()]
    assert told == ["t[0]: the server lost the log's end; going on at 3, 2 records that were read are gone"]
    assert await committed(own_server.url) == 3 + since
    async with member(own_server.url) as consumer:
        await consumer.wait_for_assignment(timeout_ms=10_000)
        assert await consumer.position(TP) == 3 + since
        assert await consumer.poll(100) == {}
        assert consumer.metrics() == (0, 0, 0)


async def test_auto_commit_takes_the_group_back(own_server: Server) -> None:
    """Where nothing new came yet, the lower offset is committed all the same: the next is told nothing."""
    await commit_what_is_lost(own_server)
    for told in (1, 0):
        async with member(own_server.url, enable_auto_commit=True) as consumer:
            await consumer.wait_for_assignment(timeout_ms=10_000)
            assert await consumer.poll(200) == {}
            assert consumer.metrics() == (told, 2 * told, 0)
        assert await committed(own_server.url) == 3


async def test_none_raises_for_whoever_resumes(own_server: Server) -> None:
    """LogTruncationError with the numbers, for each who comes, until one seeks and commits."""
    await commit_what_is_lost(own_server)
    await send(own_server.url, b"new3")
    for _ in range(2):
        async with member(own_server.url, auto_offset_reset="none") as consumer:
            with pytest.raises(LogTruncationError, match=r"t\[0\]: the server lost records from offset 3") as raised:
                await read(consumer, 1)
            assert (raised.value.diverged_at, raised.value.lost) == (3, 2)
            assert consumer.metrics() == (1, 2, 0)
    async with member(own_server.url, auto_offset_reset="none") as consumer:
        await consumer.wait_for_assignment(timeout_ms=10_000)
        consumer.seek(TP, 3)
        assert [record.value for record in await read(consumer, 1)] == [b"new3"]
        await consumer.commit()
    async with member(own_server.url, auto_offset_reset="none") as consumer:
        await consumer.wait_for_assignment(timeout_ms=10_000)
        assert await consumer.poll(100) == {}


async def test_there_and_back(pair: Pair) -> None:
    """What only A had is committed to B; then A, which followed B, is the primary again: who resumes there is told."""
    with Proxy(pair.url) as front:
        await send(front.url, b"0", b"1", b"2")
        async with member(front.url) as consumer:
            assert len(await read(consumer, 3)) == 3
            assert pair.client.wait(1, 10_000) == 1
            pair.part()
            await send(front.url, b"lost3", b"lost4")
            assert len(await read(consumer, 2)) == 2
            front.point_at(pair.replica.url)
            front.kill_all()
            await send(front.url, b"new3", b"new4", b"new5")
            await consumer.commit({TP: 5})
        pair.swap()
        assert pair.client.wait(1, 10_000) == 1
        pair.part()
        front.point_at(pair.replica.url)
        front.kill_all()
        await send(front.url, b"new6")
        async with member(front.url) as consumer:
            assert [record.value for record in await read(consumer, 4)] == [b"new3", b"new4", b"new5", b"new6"]
            assert consumer.metrics() == (1, 2, 0)


@pytest.mark.parametrize("reset", ["earliest", "none"])
async def test_a_member_whose_joining_was_lost_too_is_told_what_it_had_read(
    own_server: Server, caplog: pytest.LogCaptureFixture, reset: str
) -> None:
    """It joins anew and begins at the committed offset, where nothing contradicts; but it had read on."""
    await send(own_server.url, b"0", b"1", b"2")
    async with member(own_server.url) as first:
        await read(first, 3)
        await first.commit()
    async with member(
        own_server.url, auto_offset_reset=reset, session_timeout_ms=1000, heartbeat_interval_ms=100
    ) as one:
        with power_failure(own_server):
            await send(own_server.url, b"lost3", b"lost4")
            assert [record.value for record in await read(one, 2)] == [b"lost3", b"lost4"]
            before = one.group_metadata()
        await send(own_server.url, b"new3", b"new4", b"new5")

        async def joined_anew() -> bool:
            async with Admin(url=own_server.url) as admin:
                members = (await admin.describe_groups(["g"]))["g"].members
            return before is not None and bool(members) and members[0].member_id != before.member_id

        await aio_wait_until(joined_anew, "it has joined anew")
        if reset == "none":
            with pytest.raises(LogTruncationError, match=r"t\[0\].*earlier assignment") as caught:
                await read(one, 1)
            assert (caught.value.diverged_at, caught.value.lost) == (3, 2)
            one.seek(TP, 3)
        assert [record.value for record in await read(one, 3)] == [b"new3", b"new4", b"new5"]
        assert one.metrics() == (1, 2, 0)
    told = [r.getMessage() for r in caplog.records if "earlier assignment" in r.getMessage()]
    assert len(told) == (1 if reset == "earliest" else 0)
