"""Everybody survives and says so: readers, members of a group, administrators; one line of log, and health in words.

Faults that last are struck one after the other at clients that are polled meanwhile. What producers do is in
`tests/system`, under load; what stands there of consumers is not said again here.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator

import pytest

from streamlayer.aio import Admin, Consumer
from streamlayer.embedded import Server
from tests import servers
from tests.beside import aio_beside
from tests.shell.async_.members import Told, create, member, partitions, produce
from tests.shell.conftest import REAL
from tests.shell.survivors import FAULTS, Place
from tests.system.proxy import Proxy
from tests.waiting import aio_wait_until

COUNT = 12
"""Partitions: a fault strikes all of them in one round."""
RECOVERED_S = 2.5
POLL_S = 2.0


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A server of its own, with a proxy before it."""
    kind = getattr(request, "param", REAL[0])
    with Server(binary=servers.binary(kind), port=0) as server, Proxy(server.url) as proxy:
        found = Place(server, proxy)
        yield found
        found.client.close()


class Survivors:
    """A reader, a member of a group, an administrator."""

    def __init__(self, place: Place) -> None:
        self.told = Told()
        self.reader = Consumer("t", url=place.url)
        self.member = member({"url": place.url}, "t", heartbeat_interval_ms=200, listener=self.told)
        self.admin = Admin(url=place.url)
        self.seen: dict[Consumer, set[bytes]] = {self.reader: set(), self.member: set()}

    async def poll(self) -> None:
        """Poll both a little: it raises nothing and takes little longer than asked for."""
        for consumer, values in self.seen.items():
            began = time.monotonic()
            for records in (await consumer.poll(20)).values():
                values |= {record.value for record in records}
            assert time.monotonic() - began < POLL_S

    async def until(self, met: Callable[[], object], what: str) -> None:
        """Poll both until something is the case."""

        async def polled() -> object:
            await self.poll()
            return met()

        await aio_wait_until(polled, what)

    async def read(self, values: range) -> None:
        """Poll until both have these."""
        wanted = {b"%d" % i for i in values}
        await self.until(lambda: all(wanted <= seen for seen in self.seen.values()), f"both read {values}")

    def healthy(self) -> bool:
        """Whether both say that they are well."""
        return all(consumer.health().ok and consumer.health().state == "ok" for consumer in self.seen)

    def in_trouble(self, words: str) -> bool:
        """Whether both say that they try again, and why."""
        found = [consumer.health() for consumer in self.seen]
        return all(not each.ok and each.state == "retrying" and re.search(words, each.reason) for each in found)

    async def close(self) -> None:
        """All three."""
        await self.reader.close()
        await self.member.close()
        await self.admin.close()


async def settled(place: Place) -> Survivors:
    """Them, when all runs."""
    await create({"url": place.server.url}, COUNT)
    await produce({"url": place.server.url}, range(COUNT), count=COUNT)
    them = Survivors(place)
    await them.admin.list_topics()
    await them.read(range(COUNT))
    await them.until(lambda: them.healthy() and them.member.assignment() == partitions(COUNT), "all is well")
    return them


def counted(caplog: pytest.LogCaptureFixture, level: int, words: str) -> int:
    """How many lines of a level hold these words."""
    return sum(record.levelno == level and words in record.getMessage() for record in caplog.records)


PAIRS = [(fault, REAL[turn % len(REAL)]) for turn, fault in enumerate(FAULTS)]


@pytest.mark.parametrize(("fault", "place"), PAIRS, indirect=["place"])
async def test_a_fault_that_lasts(fault: str, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is told but by health and one line of log, with the reason; admin calls wait for the end.

    Soon after the end all goes on, with the same member and its partitions.
    """
    them = await settled(place)
    caplog.set_level(logging.INFO, "streamlayer")
    caplog.clear()
    with FAULTS[fault](place) as words:
        await them.until(lambda: them.in_trouble(words), f"both say {words!r}")
        asked = aio_beside(lambda: them.admin.create_topics(["u"]))
        for _ in range(5):
            await them.poll()
        assert not asked.done()
    ended = time.monotonic()
    await asked.result()
    await produce({"url": place.server.url}, range(COUNT, 2 * COUNT), count=COUNT)
    await them.read(range(COUNT, 2 * COUNT))
    await them.until(them.healthy, "both are well again")
    took = time.monotonic() - ended
    await them.member.commit()
    assert them.told.words == [("assigned", COUNT)]
    readers = counted(caplog, logging.WARNING, "reading is in trouble")
    members = counted(caplog, logging.WARNING, "heartbeat is in trouble")
    assert 1 <= readers == counted(caplog, logging.INFO, "reading goes on") <= 2
    assert members == counted(caplog, logging.INFO, "heartbeats go on") <= 1
    assert readers + members >= 2  # a member may meet it with a heartbeat, or with a fetch, before it is over
    assert counted(caplog, logging.WARNING, "") <= 4, caplog.text
    assert counted(caplog, logging.ERROR, "") == 0
    assert took < RECOVERED_S
    await them.close()
