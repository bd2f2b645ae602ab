"""Two primaries that know nothing of each other, and clients that are led from A to B and to A again.

Neither was demoted, so A begins no epoch meanwhile: only what the client has crossed says that it was elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from streamlayer import TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.errors import LogTruncationError
from tests.shell.async_.reading import read
from tests.shell.conftest import Pair
from tests.system.proxy import Proxy

TP = TopicPartition("t", 0)
OF_A = pytest.mark.parametrize("count", [0, 1, 4, 9], ids=["ends where they part", "shorter", "as long", "longer"])


class Parting:
    """Both begin with three records; then each goes on for itself."""

    def __init__(self, pair: Pair, front: Proxy) -> None:
        self.a, self.b, self.front = pair.primary.url, pair.replica.url, front
        self._pair = pair

    async def begin(self) -> None:
        """Three records that both have, in the tail."""
        await self.send(self.a, b"0", b"1", b"2")
        assert self._pair.client.wait(1, 10_000) == 1

    async def send(self, url: str, *values: bytes) -> None:
        """Append to the one partition."""
        if values:
            async with Producer(url=url, num_partitions=1) as producer:
                await producer.send_many("t", values, partition=0)

    def part(self) -> None:
        """From here on there are two."""
        self._pair.part()

    def lead_to(self, url: str) -> None:
        """Clients find this one now."""
        self.front.point_at(url)
        self.front.kill_all()


@contextmanager
def parting(pair: Pair) -> Iterator[Parting]:
    """Clients are led to A at first."""
    with Proxy(pair.url) as front:
        yield Parting(pair, front)


def of(name: str, count: int) -> list[bytes]:
    """What one of the two has behind the common beginning."""
    return [b"%s%d" % (name.encode(), i) for i in range(3, 3 + count)]


@OF_A
async def test_a_reader_that_comes_back_reads_what_it_has_not_read(
    pair: Pair, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """One warning with both numbers; then every record of A, however many A has by then."""
    with parting(pair) as two:
        await two.begin()
        async with Consumer("t", url=two.front.url) as consumer:
            await read(consumer, 3)
            two.part()
            await two.send(two.b, *of("b", 4))
            await two.send(two.a, *of("a", count))
            two.lead_to(two.b)
            assert [r.value for r in await read(consumer, 4)] == of("b", 4)
            assert consumer.metrics() == (0, 0, 0)
            two.lead_to(two.a)
            assert [r.value for r in await read(consumer, count)] == of("a", count)
            if not count:
                assert await consumer.poll(300) == {}
            await two.send(two.a, b"last")
            assert [r.value for r in await read(consumer, 1)] == [b"last"]
            assert consumer.metrics() == (1, 4, 0)
    told = [r.getMessage() for r in caplog.records if "lost the log's end" in r.getMessage()]
    assert told == ["t[0]: the server lost the log's end; going on at 3, 4 records that were read are gone"]


async def test_none_raises_with_the_numbers(pair: Pair) -> None:
    """LogTruncationError says where the two part, and how many of the records that were read are not here."""
    with parting(pair) as two:
        await two.begin()
        async with Consumer("t", url=two.front.url, auto_offset_reset="none") as consumer:
            await read(consumer, 3)
            two.part()
            await two.send(two.b, *of("b", 4))
            await two.send(two.a, *of("a", 9))
            two.lead_to(two.b)
            await read(consumer, 4)
            two.lead_to(two.a)
            with pytest.raises(LogTruncationError, match=r"t\[0\]: the server lost records from offset 3") as caught:
                await read(consumer, 1)
            assert (caught.value.diverged_at, caught.value.lost) == (3, 4)


async def test_who_has_read_nothing_that_differs_is_told_nothing(pair: Pair) -> None:
    """B had begun an epoch where the reader stands: it goes on at A as if it had never been away."""
    with parting(pair) as two:
        await two.begin()
        async with Consumer("t", url=two.front.url) as consumer:
            await read(consumer, 3)
            two.part()
            two.lead_to(two.b)
            assert await consumer.poll(300) == {}
            two.lead_to(two.a)
            await two.send(two.b, *of("b", 4))
            await two.send(two.a, *of("a", 4))
            assert [r.value for r in await read(consumer, 4)] == of("a", 4)
            assert consumer.metrics() == (0, 0, 0)


@pytest.mark.parametrize("count", [1, 9], ids=["shorter", "longer"])
async def test_an_offset_of_b_that_is_committed_to_a(pair: Pair, count: int) -> None:
    """Who goes on from it, in a process of its own, is told; and the commit names the epoch that it was read in."""
    with parting(pair) as two:
        await two.begin()
        async with Consumer("t", url=two.front.url, group_id="g", enable_auto_commit=False) as member:
            await read(member, 3)
            assert pair.client.wait(1, 10_000) == 1
            two.part()
            await two.send(two.b, *of("b", 4))
            await two.send(two.a, *of("a", count))
            two.lead_to(two.b)
            await read(member, 4)
            two.lead_to(two.a)
            await member.commit()
        async with Admin(url=two.a) as admin:
            stored = (await admin.list_group_offsets("g"))[TP]
        assert (stored.offset, stored.epoch) == (7, 2)
        async with Consumer("t", url=two.a, group_id="g") as member:
            assert [r.value for r in await read(member, count)] == of("a", count)
            assert member.metrics() == (1, 4, 0)


@OF_A
async def test_a_producer_that_comes_back_is_told_what_of_it_is_elsewhere(pair: Pair, count: int) -> None:
    """Four records were acknowledged by B; with the next acknowledgement of A it is known, with numbers."""
    with parting(pair) as two:
        await two.begin()
        async with Producer(url=two.front.url, acks=1) as producer:
            await producer.send_and_wait("t", b"before", partition=0)
            assert pair.client.wait(1, 10_000) == 1
            two.part()
            await two.send(two.a, *of("a", count))
            two.lead_to(two.b)
            for value in of("b", 4):
                await producer.send_and_wait("t", value, partition=0)
            two.lead_to(two.a)
            sent = await producer.send_and_wait("t", b"last", partition=0)
            assert sent.offset == 4 + count
            with pytest.raises(LogTruncationError, match=r"t\[0\]: the server lost 4 records") as caught:
                await producer.flush()
            assert (caught.value.diverged_at, caught.value.lost) == (4, 4)


async def test_the_tail_of_the_one_is_no_part_of_the_other(pair: Pair) -> None:
    """Where nobody may ask who the server is, nothing is told; but nothing sound is called corrupt either."""
    for url in (pair.primary.url, pair.replica.url):
        with redis.Redis.from_url(url) as client:
            client.acl_setuser("u", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-info"])
    with parting(pair) as two:
        await two.begin()
        login = two.front.url.replace("//", "//u:x@")
        async with Consumer("t", url=login) as consumer:
            await read(consumer, 3)
            two.part()

            async def send(url: str, *values: bytes) -> None:
                async with Producer(url=url.replace("//", "//u:x@")) as producer:
                    for value in values:
                        await producer.send_and_wait("t", value, partition=0)

            await send(two.a, *of("a", 9))
            two.lead_to(two.b)
            for value in of("long name of b", 2):  # read one by one: the reader knows how much it has of this tail
                await send(two.b, value)
                await read(consumer, 1)
            two.lead_to(two.a)
            assert [r.value for r in await read(consumer, 7)] == of("a", 9)[2:]
