"""What networks do to a producer and a consumer, in both colours: no record lost, none twice, nothing told to the user.

A fault proxy stands between; `Load` sends and reads through it, and the judge looks at all that was tried and seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from streamlayer import (
    Admin,
    Consumer,
    NewTopic,
    Producer,
    RecordMetadata,
    RequestTimedOutError,
    ServerUnavailableError,
    StreamlayerError,
    aio,
)
from streamlayer.embedded import Server
from tests import servers
from tests.system.judge import Value
from tests.system.load import TOPIC, Colour, Load
from tests.system.proxy import Proxy
from tests.waiting import aio_wait_until, sync_wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

APPEND = b":producers"  # a key that only appends name
FETCH = b":tail"  # a key that appends and fetches name


@pytest.fixture(scope="module", params=["valkey", "redis"])
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind, with a port, for the whole file."""
    with Server(binary=servers.binary(request.param), port=0) as server:
        yield server


@pytest.fixture(params=["sync", "aio"])
def colour(request: pytest.FixtureRequest) -> Colour:
    """Each colour."""
    return request.param


@pytest.fixture
def direct(running: Server) -> Iterator[redis.Redis]:
    """A client past the proxy. The server is empty at the beginning."""
    with redis.Redis.from_url(running.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def proxy(running: Server, direct: redis.Redis) -> Iterator[Proxy]:
    """A proxy without faults, before an empty server."""
    with Proxy(running.url) as through:
        yield through


def send_one_by_one(colour: Colour, url: str, values: list[bytes], **options: Any) -> list[RecordMetadata]:
    """Send each value and wait for it, one key for all; the metadata."""
    if colour == "sync":
        with Producer(url=url, **options) as producer:
            return [producer.send_and_wait(TOPIC, value, b"key") for value in values]

    async def send() -> list[RecordMetadata]:
        async with aio.Producer(url=url, **options) as producer:
            return [await producer.send_and_wait(TOPIC, value, b"key") for value in values]

    return asyncio.run(send())


def stored(url: str) -> list[tuple[int, bytes]]:
    """All records of the topic: offsets and values, by partition."""
    with Consumer(TOPIC, url=url) as consumer:
        return [(record.offset, record.value) for record in consumer.read_to_end()]


# --- one record, one fault --------------------------------------------------------------------------------------------


def test_a_reply_lost_five_times_is_one_record(colour: Colour, proxy: Proxy, running: Server) -> None:
    """The append ran and its answer was lost, five times over: one record, its offset right, no error."""
    send_one_by_one(colour, proxy.url, [b"before"])
    proxy.drop_replies(5, match=APPEND)
    (metadata,) = send_one_by_one(colour, proxy.url, [b"lost"])
    assert proxy.counts["dropped"] == 5
    assert metadata.offset == 1
    assert stored(running.url) == [(0, b"before"), (1, b"lost")]


@pytest.mark.parametrize("part", [False, True], ids=["whole", "half"])
def test_a_request_cut_on_the_way_is_sent_again(colour: Colour, proxy: Proxy, running: Server, *, part: bool) -> None:
    """A request that never, or only half, reached the server: one record, no error."""
    send_one_by_one(colour, proxy.url, [b"before"])
    proxy.cut_requests(3, match=APPEND, part=part)
    (metadata,) = send_one_by_one(colour, proxy.url, [b"cut"])
    assert proxy.counts["cut"] == 3
    assert metadata.offset == 1
    assert stored(running.url) == [(0, b"before"), (1, b"cut")]


def test_a_request_that_arrives_twice_is_one_record(colour: Colour, proxy: Proxy, running: Server) -> None:
    """The server gets each append twice and executes both: one record each."""
    proxy.repeat_requests(1000, match=APPEND)
    values = [b"value-%d" % i for i in range(20)]
    assert [metadata.offset for metadata in send_one_by_one(colour, proxy.url, values)] == list(range(20))
    assert proxy.counts["repeated"] >= 20
    assert stored(running.url) == list(enumerate(values))


@pytest.mark.parametrize("newer", [1, 9], ids=["remembered", "forgotten"])
def test_a_request_that_arrives_late_writes_nothing(
    colour: Colour, proxy: Proxy, running: Server, direct: redis.Redis, newer: int
) -> None:
    """An append is stuck on the way, is sent again, and arrives after newer ones: it changes nothing.

    Whether its sequence number is among the last five that the server remembers, or not any more.
    """
    values = [b"stuck", *(b"newer-%d" % i for i in range(newer))]
    send_one_by_one(colour, proxy.url, [b"before"])
    proxy.hold(match=APPEND)
    # The client gives up waiting after 0.3 s, and comes again on another connection.
    offsets = [m.offset for m in send_one_by_one(colour, f"{proxy.url}?socket_timeout=0.3", values)]
    assert offsets == list(range(1, newer + 2))
    assert proxy.counts["held"] == 1
    before = direct.info("commandstats")["cmdstat_evalsha"]["calls"]
    proxy.release()
    sync_wait_until(lambda: direct.info("commandstats")["cmdstat_evalsha"]["calls"] > before, "the late one arrives")
    assert stored(running.url) == list(enumerate([b"before", *values]))


# --- under load -------------------------------------------------------------------------------------------------------


def check(load: Load, running: Server, fired: Any, **floors: int) -> None:
    """No error came out, and the judge has nothing to say."""
    assert load.errors == []
    assert load.verdict(running.url, floors={"acked": 500, "read": 500, **floors}, fired=fired) == []


@pytest.mark.parametrize("fault", ["drop_replies", "cut_requests", "repeat_requests"])
def test_every_few_appends_are_struck(colour: Colour, proxy: Proxy, running: Server, fault: str) -> None:
    """Again and again an append loses its answer, is cut on its way, or comes twice, with several batches in flight."""
    name = {"drop_replies": "dropped", "cut_requests": "cut", "repeat_requests": "repeated"}[fault]
    with Load(colour, proxy.url, writers=2) as load:
        for fired in range(1, 31):
            getattr(proxy, fault)(1, match=APPEND)
            sync_wait_until(lambda fired=fired: proxy.counts[name] == fired, "it strikes")
            load.wait_acked(10)
        load.wait_acked(200)
        load.wait_read(200)
    check(load, running, proxy.counts, **{name: 30})


def test_fetches_are_struck_too(colour: Colour, proxy: Proxy, running: Server) -> None:
    """Answers to fetches and appends are lost, cut and doubled in turn: the reader misses nothing, reads nothing twice."""
    dice = random.Random(colour)
    with Load(colour, proxy.url) as load:
        for _ in range(30):
            getattr(proxy, dice.choice(["drop_replies", "cut_requests", "repeat_requests"]))(1, match=FETCH)
            load.wait_acked(20)
        proxy.heal()
        load.wait_read(100)
    check(load, running, {"struck": proxy.counts["dropped"] + proxy.counts["cut"]}, struck=10)


def test_late_requests_under_load(colour: Colour, proxy: Proxy, running: Server) -> None:
    """Appends get stuck again and again, and arrive after what was sent later: STALE or known, never written."""
    with Load(colour, f"{proxy.url}?socket_timeout=0.2") as load:
        for _ in range(5):
            proxy.hold(match=APPEND)
            load.wait_acked(60)
            proxy.release()
            load.wait_acked(20)
    check(load, running, proxy.counts, held=5)


def test_script_flush_is_not_noticed(
    colour: Colour, running: Server, direct: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """SCRIPT FLUSH in mid-traffic, as fast as it goes: no error, no warning, nothing lost."""
    flushes = 0
    with caplog.at_level(logging.INFO, "streamlayer"), Load(colour, running.url, writers=2) as load:
        # Now and then at first; then so often that scripts are gone again as soon as they are loaded.
        for _ in range(30):
            direct.script_flush()
            load.wait_acked(20)
        assert [record.getMessage() for record in caplog.records] == []
        until = time.monotonic() + 1
        while time.monotonic() < until:
            direct.script_flush()
            flushes += 1
            load.check()
        load.wait_acked(100)
        load.wait_read(100)
    check(load, running, {"flushes": flushes}, flushes=500)


def test_client_kill_is_survived(colour: Colour, running: Server, direct: redis.Redis) -> None:
    """CLIENT KILL of all connections, subscriptions too, in mid-traffic: reconnected, nothing lost, nothing twice."""
    killed = 0
    with Load(colour, running.url, writers=2, readers=2) as load:
        for _ in range(15):
            for kind in ("normal", "pubsub"):
                killed += direct.client_kill_filter(_type=kind, skipme=True)
            load.wait_acked(40)
        load.wait_read(100)
    check(load, running, {"killed": killed}, killed=50)


def test_refused_and_cut_for_a_while(colour: Colour, proxy: Proxy, running: Server) -> None:
    """Connections are cut and refused for a moment, five times: all goes on as soon as the server is back."""
    with Load(colour, proxy.url) as load:
        for _ in range(5):
            proxy.refuse()
            proxy.kill_all()
            acked = load.history.counts["acked"]
            sync_wait_until(lambda: proxy.kill_all() == 0, "nobody is connected")
            proxy.heal()
            load.wait_acked(100)
            assert load.history.counts["acked"] > acked
        load.wait_read(100)
    check(load, running, proxy.counts, killed=10)


def test_everything_at_once(colour: Colour, proxy: Proxy, running: Server, direct: redis.Redis) -> None:
    """All faults in a random order, several writers and readers: the judge finds nothing."""
    dice = random.Random(f"{colour} {running.url.partition(':')[0]}")
    faults = [
        lambda: proxy.drop_replies(dice.randint(1, 5), match=APPEND),
        lambda: proxy.cut_requests(dice.randint(1, 5), part=dice.random() < 0.5),
        lambda: proxy.repeat_requests(dice.randint(1, 5), match=FETCH),
        lambda: proxy.hold(dice.randint(1, 3), match=APPEND),
        proxy.release,
        proxy.kill_all,
        lambda: proxy.delay(dice.randint(0, 20)),
        lambda: proxy.blackhole(dice.choice(["up", "down"])),
        direct.script_flush,
        lambda: direct.client_kill_filter(_type="pubsub"),
        proxy.heal,
    ]
    with Load(colour, f"{proxy.url}?socket_timeout=0.2", writers=2, readers=2) as load:
        for _ in range(30):
            dice.choice(faults)()
            with contextlib.suppress(AssertionError):
                load.wait_acked(dice.randint(1, 30), timeout=0.15)
        proxy.heal()
        load.wait_acked(100)
        load.wait_read(200)
    check(load, running, {"struck": sum(proxy.counts[n] for n in ("dropped", "cut", "held", "killed"))}, struck=20)
