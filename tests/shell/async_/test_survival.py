"""Everybody survives and says so: readers, members of a group, administrators; one line of log, and health in words.

Faults that last are struck one after the other at clients that are polled meanwhile. What producers do is in
`tests/system`, under load; what stands there of consumers is not said again here.
"""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Self

import pytest
import redis

from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.embedded import Server
from streamlayer.errors import RequestTimedOutError, ServerUnavailableError
from tests import servers
from tests.beside import aio_beside
from tests.shell.async_.members import Told, create, drain, member, numbers, partitions, produce
from tests.shell.async_.reading import stored_values
from tests.shell.conftest import REAL, Pair
from tests.shell.survivors import (
    FAULTS,
    Fault,
    Place,
    busy,
    disk_failing,
    kill_connections,
    refused,
    without_replicas,
)
from tests.system.proxy import Proxy
from tests.waiting import aio_wait_until

COUNT = 12
"""Partitions: a fault strikes all of them in one round."""
RECOVERED_S = 4.5
POLL_S = 4.5
"""Below the five seconds that a silent server is listened to."""


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
        self.place = place
        self.told = Told()
        self.reader = Consumer("t", url=place.url)
        self.member = member({"url": place.url}, "t", heartbeat_interval_ms=200, listener=self.told)
        self.admin = Admin(url=place.url)
        self.seen: dict[Consumer, set[bytes]] = {self.reader: set(), self.member: set()}

    async def __aenter__(self) -> Self:
        """All runs."""
        place = {"url": self.place.server.url}
        await create(place, COUNT)
        await produce(place, range(COUNT), count=COUNT)
        await self.admin.list_topics()
        await self.read(range(COUNT))
        await self.until(lambda: self.healthy() and self.member.assignment() == partitions(COUNT), "all is well")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all three, also if the test fails: what they would say later is no other test's."""
        await self.reader.close()
        await self.member.close()
        await self.admin.close()

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


def counted(caplog: pytest.LogCaptureFixture, level: int, words: str) -> int:
    """How many lines of a level hold these words; what a slow machine has said does not count."""
    said = [record.getMessage() for record in caplog.records if record.levelno == level]
    return sum(words in line and "a heartbeat came" not in line for line in said)


PAIRS = list(zip(FAULTS, itertools.cycle(REAL), strict=False))  # none, where only fakeredis is asked for


@pytest.mark.parametrize(("fault", "place"), PAIRS, indirect=["place"])
async def test_a_fault_that_lasts(fault: str, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is told but by health and one line of log, with the reason; admin calls wait for the end.

    Soon after the end all goes on, with the same member and its partitions.
    """
    async with Survivors(place) as them:
        caplog.set_level(logging.INFO, "streamlayer")
        caplog.clear()
        with FAULTS[fault](place) as words:
            await them.until(lambda: them.in_trouble(words), f"both say {words!r}")
            asked = aio_beside(lambda: them.admin.create_topics(["u"]))
            for _ in range(2):
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


@pytest.mark.parametrize("place", REAL, indirect=True)
@pytest.mark.parametrize("fault", [disk_failing, without_replicas])
async def test_what_is_there_is_read_where_only_writes_are_refused(place: Place, fault: Fault) -> None:
    """MISCONF, NOREPLICAS: all that the log holds is read, health says what is the matter, and what comes later too."""
    await create({"url": place.server.url}, COUNT)
    await produce({"url": place.server.url}, range(5 * COUNT), count=COUNT)
    async with Consumer("t", url=place.server.url, max_poll_records=7) as consumer:
        with fault(place):
            assert numbers(await drain(consumer, until=5 * COUNT)) == list(range(5 * COUNT))
            assert consumer.health().state == "retrying"
        await produce({"url": place.server.url}, range(COUNT), count=COUNT)
        assert numbers(await drain(consumer, until=COUNT)) == list(range(COUNT))
        assert consumer.health().ok


@pytest.mark.parametrize("place", REAL[-1:], indirect=True)
async def test_killed_connections(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """CLIENT KILL of all, subscriptions too, three times: all is well again at once, and heard again."""
    async with Survivors(place) as them:
        await them.until(lambda: heard_by(place) == 2, "both listen")
        for turn in (1, 2, 3):
            assert kill_connections(place) >= 6  # one to ask and one to hear each, the heartbeats', the administrator's
            values = range(turn * COUNT, (turn + 1) * COUNT)
            began = time.monotonic()
            await produce({"url": place.server.url}, values, count=COUNT)
            await them.read(values)
            await them.until(them.healthy, "both are well again")
            assert time.monotonic() - began < RECOVERED_S
            assert await them.admin.list_topics() == ["t"]
            await them.until(lambda: heard_by(place) == 2, "both listen again")
        await them.member.commit()
        assert them.told.words == [("assigned", COUNT)]
        assert (
            counted(caplog, logging.WARNING, "") == counted(caplog, logging.WARNING, "is in trouble and goes on") <= 9
        )


def heard_by(place: Place) -> int:
    """How many listen to the first partition."""
    found: int = place.client.pubsub_numsub("sl:t:{t:0}:wake")[0][1]
    return found


@pytest.mark.parametrize("place", REAL[:1], indirect=True)
async def test_forgotten_scripts(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """SCRIPT FLUSH before each step of members and administrators: nothing is to be seen of it."""
    async with Survivors(place) as them:
        for turn in range(1, 6):
            place.client.script_flush()
            await them.admin.create_topics([f"u{turn}"])
            values = range(turn * COUNT, (turn + 1) * COUNT)
            await produce({"url": place.server.url}, values, count=COUNT)
            place.client.script_flush()
            await them.read(values)
            place.client.script_flush()
            await them.member.commit()
        assert counted(caplog, logging.WARNING, "") == 0


@pytest.mark.parametrize("place", REAL, indirect=True)
async def test_a_server_that_ends_idle_connections(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """`timeout`: what is sent next goes over a new connection. Without idempotence it would be unknown else."""
    async with (
        Producer(
            url=place.server.url, client_id="idle", enable_idempotence=False, delivery_timeout_ms=5000
        ) as producer,
        Admin(url=place.server.url, client_id="idle") as admin,
    ):
        await producer.send_and_wait("t", b"1", partition=0)
        place.client.config_set("timeout", "1")
        await aio_wait_until(lambda: not idle_ones(place), "the server ends them")
        await producer.send_and_wait("t", b"2", partition=0)
        assert await admin.list_topics() == ["t"]
    assert counted(caplog, logging.WARNING, "") == 0
    assert await stored_values({"url": place.server.url}, "t") == [b"1", b"2"]


def idle_ones(place: Place) -> list[str]:
    """Connections that the test's clients have."""
    return [each["id"] for each in place.client.client_list() if each["name"] == "idle"]


@pytest.mark.parametrize("place", REAL[:1], indirect=True)
async def test_who_asks_waits_for_the_server(place: Place) -> None:
    """Seeking, committing, asking for ends: done when the server is back, without an error."""
    async with Survivors(place) as them:
        with refused(place):
            asked = [
                aio_beside(them.reader.seek_to_end),
                aio_beside(them.member.commit),
                aio_beside(them.admin.describe_topics),
            ]
            clients = [each._client for each in (them.reader, them.member, them.admin)]
            await aio_wait_until(lambda: not any(client.connected for client in clients), "all have met it")
            assert not any(each.done() for each in asked)
        for each in asked:
            await each.result()


@pytest.mark.parametrize("place", REAL[:1], indirect=True)
async def test_who_asks_is_told_in_time(place: Place) -> None:
    """A call with a time limit ends about then with its typed error, whether nobody answers or nobody is there."""
    async with Admin(url=place.proxy.url) as admin:
        await admin.list_topics()
        for fault in (place.proxy.blackhole, place.proxy.refuse):
            fault()
            if fault == place.proxy.refuse:
                place.proxy.kill_all()
            began = time.monotonic()
            with pytest.raises((RequestTimedOutError, ServerUnavailableError)):
                await admin._client.topics(500)
            assert 0.2 < time.monotonic() - began < 8
            place.proxy.heal()
            assert await admin.list_topics() == []


async def test_a_former_primary_that_says_nothing_is_given_up(pair: Pair) -> None:
    """MASTERDOWN to questions that any replica would answer: who asks is led to the new primary."""
    with Proxy(pair.url) as front:
        async with Producer(url=front.url) as producer, Admin(url=front.url) as admin:
            await producer.send_and_wait("t", b"1")
            assert await admin.list_topics() == ["t"]
            pair.promote()
            front.point_at(pair.replica.url)
            pair.client.config_set("replica-serve-stale-data", "no")
            pair.client.replicaof("127.0.0.1", 1)
            began = time.monotonic()
            assert await admin.list_topics() == ["t"]
            assert time.monotonic() - began < RECOVERED_S


@pytest.mark.parametrize("place", REAL, indirect=True)
async def test_a_busy_server_is_not_taken_for_a_weaker_one(place: Place) -> None:
    """A producer with min_durability that connects while a script runs waits: what was not answered says nothing."""
    async with Producer(url=place.url, min_durability="second") as producer:
        await producer.send_and_wait("t", b"1", partition=0)
        with busy(place):
            place.proxy.kill_all()
            future = await producer.send("t", b"2", partition=0)
            await aio_wait_until(lambda: "busy" in producer.health().reason, "it has met it")
        assert (await producer.send_and_wait("t", b"3", partition=0)).offset == 2
        assert future.done()
    assert await stored_values({"url": place.server.url}, "t") == [b"1", b"2", b"3"]


@pytest.mark.parametrize("place", REAL, indirect=True)
async def test_who_comes_while_the_server_cannot_be_used_yet_waits(place: Place) -> None:
    """At the first contact, too: somebody is there, and the url is right."""
    await produce({"url": place.server.url}, range(1), count=1)
    producer, admin, asking = Producer(url=place.url), Admin(url=place.url), Admin(url=place.url)
    reader, joining = Consumer("t", url=place.url), member({"url": place.url}, "t")
    with busy(place):
        await aio_wait_until(lambda: is_busy(place), "it is busy")
        waits = [
            aio_beside(lambda: producer.send_and_wait("t", b"1", partition=0)),
            aio_beside(admin.__aenter__),
            aio_beside(asking.list_topics),
            aio_beside(lambda: drain(reader, until=1)),
            aio_beside(lambda: drain(joining, until=1)),
        ]
        links = [each._client._link for each in (producer, admin, asking, reader)]
        await aio_wait_until(lambda: all(link.put_off for link in links), "all have met it")
        assert not any(each.done() for each in waits)
    for each in waits:
        await each.result()
    for client in (producer, admin, asking, reader, joining):
        await client.close()


def is_busy(place: Place) -> bool:
    """Whether it says so."""
    try:
        place.client.ping()
    except redis.ResponseError:
        return True
    return False


@pytest.mark.parametrize("place", REAL[:1], indirect=True)
async def test_waiting_for_an_assignment_outlives_a_connection(place: Place) -> None:
    """Each connection is cut as soon as the member has joined: it takes its partitions up all the same."""
    await create({"url": place.server.url}, COUNT)
    async with member({"url": place.url}, "t") as joining:
        place.proxy.drop_replies(3, match=b"sl:topics")
        assert await joining.wait_for_assignment(timeout_ms=10_000) == partitions(COUNT)
        assert place.proxy.counts["dropped"] == 3
