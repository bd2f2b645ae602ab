"""What networks do to a producer and a consumer, in both colours: no record lost, none twice, nothing told to the user.

A fault proxy stands between; `Load` sends and reads through it, and the judge looks at all that was tried and seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import redis

from streamlayer import (
    Consumer,
    ConsumerRecord,
    Producer,
    RecordMetadata,
    RequestTimedOutError,
    ServerUnavailableError,
    StreamlayerError,
    aio,
)
from streamlayer.embedded import Server
from tests import servers
from tests.system.judge import History, Value, judge
from tests.system.load import PRODUCER, TOPIC, Colour, Load, drain
from tests.system.proxy import Proxy
from tests.waiting import aio_wait_until, sync_wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

APPEND = b":producers"  # a key that only appends name
FETCH = b":tail"  # a key that appends and fetches name


# Each test meets both servers and both colours; the last one all four pairs.
PAIRS = [("valkey", "sync"), ("redis", "aio")]
OTHER_PAIRS = [("valkey", "aio"), ("redis", "sync")]
both = pytest.mark.parametrize(("running", "colour"), PAIRS, indirect=["running"])
both_too = pytest.mark.parametrize(("running", "colour"), OTHER_PAIRS, indirect=["running"])
all_four = pytest.mark.parametrize(("running", "colour"), PAIRS + OTHER_PAIRS, indirect=["running"])
one_server = pytest.mark.parametrize("running", ["valkey"], indirect=True)


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this kind, with a port, for the whole file."""
    with Server(binary=servers.binary(request.param), port=0) as server:
        yield server


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


@all_four
def test_a_reply_lost_five_times_is_one_record(colour: Colour, proxy: Proxy, running: Server) -> None:
    """The append ran and its answer was lost, five times over: one record, its offset right, no error."""
    send_one_by_one(colour, proxy.url, [b"before"])
    proxy.drop_replies(5, match=APPEND)
    (metadata,) = send_one_by_one(colour, proxy.url, [b"lost"])
    assert proxy.counts["dropped"] == 5
    assert metadata.offset == 1
    assert stored(running.url) == [(0, b"before"), (1, b"lost")]


@both
@pytest.mark.parametrize("part", [False, True], ids=["whole", "half"])
def test_a_request_cut_on_the_way_is_sent_again(colour: Colour, proxy: Proxy, running: Server, *, part: bool) -> None:
    """A request that never, or only half, reached the server: one record, no error."""
    send_one_by_one(colour, proxy.url, [b"before"])
    proxy.cut_requests(3, match=APPEND, part=part)
    (metadata,) = send_one_by_one(colour, proxy.url, [b"cut"])
    assert proxy.counts["cut"] == 3
    assert metadata.offset == 1
    assert stored(running.url) == [(0, b"before"), (1, b"cut")]


@both_too
def test_a_request_that_arrives_twice_is_one_record(colour: Colour, proxy: Proxy, running: Server) -> None:
    """The server gets each append twice and executes both: one record each."""
    proxy.repeat_requests(1000, match=APPEND)
    values = [b"value-%d" % i for i in range(20)]
    assert [metadata.offset for metadata in send_one_by_one(colour, proxy.url, values)] == list(range(20))
    assert proxy.counts["repeated"] >= 20
    assert stored(running.url) == list(enumerate(values))


@all_four
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
    assert load.verdict(running.url, floors={"acked": 300, "read": 300, **floors}, fired=fired) == []


@all_four
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


@all_four
def test_one_producer_for_many(colour: Colour, proxy: Proxy, running: Server) -> None:
    """Four threads, or tasks, use one producer while answers are lost and requests cut: each one's order is kept."""
    with Load(colour, proxy.url, writers=4, shared=True) as load:
        for number in range(20):
            (proxy.drop_replies if number % 2 else proxy.cut_requests)(1, match=APPEND)
            load.wait_acked(20)
        load.wait_acked(100)
        load.wait_read(100)
    check(load, running, proxy.counts, dropped=10, cut=8)


@all_four
def test_without_idempotence_an_unknown_result_is_told(colour: Colour, proxy: Proxy, running: Server) -> None:
    """enable_idempotence=False: an append whose answer was lost is not sent again; the error says it may be there."""
    send_one_by_one(colour, proxy.url, [b"before"])
    proxy.drop_replies(1, match=APPEND)
    with pytest.raises(RequestTimedOutError, match="may be in the log"):
        send_one_by_one(colour, proxy.url, [b"told"], enable_idempotence=False)
    send_one_by_one(colour, running.url, [b"after"], enable_idempotence=False)
    assert stored(running.url) == [(0, b"before"), (1, b"told"), (2, b"after")]


@both_too
def test_fetches_are_struck_too(colour: Colour, proxy: Proxy, running: Server) -> None:
    """Answers to fetches and appends are lost, cut and doubled: the reader misses nothing, reads nothing twice."""
    dice = random.Random(colour)
    with Load(colour, proxy.url) as load:
        for _ in range(30):
            getattr(proxy, dice.choice(["drop_replies", "cut_requests", "repeat_requests"]))(1, match=FETCH)
            load.wait_acked(20)
        proxy.heal()
        load.wait_read(100)
    check(load, running, {"struck": proxy.counts["dropped"] + proxy.counts["cut"]}, struck=10)


@both
def test_late_requests_under_load(colour: Colour, proxy: Proxy, running: Server) -> None:
    """Appends get stuck again and again, and arrive after what was sent later: STALE or known, never written."""
    with Load(colour, f"{proxy.url}?socket_timeout=0.2") as load:
        for _ in range(5):
            proxy.hold(match=APPEND)
            load.wait_acked(60)
            proxy.release()
            load.wait_acked(20)
    check(load, running, proxy.counts, held=5)


@all_four
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
        while time.monotonic() < until or flushes < 500:
            direct.script_flush()
            flushes += 1
            load.check()
        load.wait_acked(100)
        load.wait_read(100)
    check(load, running, {"flushes": flushes}, flushes=500)


@both
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


@both_too
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


@all_four
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


# --- the server is away for longer than delivery_timeout_ms -----------------------------------------------------------


class Sent(NamedTuple):
    """What became of two records of one partition while the server was away."""

    first: StreamlayerError | None
    second: StreamlayerError | None
    seconds: float
    after: RecordMetadata
    after_seconds: float


def send_while_away(
    colour: Colour, url: str, proxy: Proxy, away: Callable[[], object], *, timeout_ms: int, warm: bool
) -> Sent:
    """When `away` is in force, send a record, and one behind it; when it is healed, another.

    :param warm: send one before, too: the producer has a connection, and cannot know that nobody listens any more.
    """
    options: dict[str, Any] = {"linger_ms": 0, "batch_size": 1, "delivery_timeout_ms": timeout_ms}

    def in_flight() -> bool:
        return not warm or proxy.counts["commands"] > asked

    if colour == "sync":
        with Producer(url=url, **options) as producer:
            producer.partitions_for(TOPIC)
            if warm:
                producer.send_and_wait(TOPIC, b"before", b"key")
            away()
            asked, began = proxy.counts["commands"], time.monotonic()
            first = producer.send(TOPIC, b"first", b"key")
            sync_wait_until(in_flight, "it is on its way")
            second = producer.send(TOPIC, b"second", b"key")
            errors = (first.exception(), second.exception())
            took = time.monotonic() - began
            proxy.heal()
            began = time.monotonic()
            after = producer.send_and_wait(TOPIC, b"after", b"key")
            return Sent(*errors, took, after, time.monotonic() - began)

    async def send() -> Sent:
        nonlocal asked
        async with aio.Producer(url=url, **options) as producer:
            await producer.partitions_for(TOPIC)
            if warm:
                await producer.send_and_wait(TOPIC, b"before", b"key")
            away()
            asked, began = proxy.counts["commands"], time.monotonic()
            first = await producer.send(TOPIC, b"first", b"key")
            await aio_wait_until(in_flight, "it is on its way")
            second = await producer.send(TOPIC, b"second", b"key")
            for future in (first, second):
                with contextlib.suppress(StreamlayerError):
                    await future
            took = time.monotonic() - began
            proxy.heal()
            began = time.monotonic()
            after = await producer.send_and_wait(TOPIC, b"after", b"key")
            return Sent(first.exception(), second.exception(), took, after, time.monotonic() - began)

    asked = 0
    return asyncio.run(send())


@all_four
def test_a_refused_record_is_certainly_not_written(colour: Colour, proxy: Proxy, running: Server) -> None:
    """No connection for longer than delivery_timeout_ms: the errors say "not written", in time, and it is true."""

    def away() -> None:
        proxy.refuse()
        proxy.kill_all()

    sent = send_while_away(colour, proxy.url, proxy, away, timeout_ms=700, warm=False)
    for error in (sent.first, sent.second):
        assert type(error) is ServerUnavailableError
        assert re.search(r"orders\[\d\].*delivery_timeout_ms=700.*it was not written", str(error))
    assert 0.6 < sent.seconds < 4.5
    assert stored(running.url) == [(0, b"after")]
    assert sent.after.offset == 0


@both
def test_the_next_record_does_not_wait_for_those_that_were_given_up(
    colour: Colour, proxy: Proxy, running: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that comes after a failed one is tried at once: the wait between attempts may be longer than its time.

    The dice make the waits short until the first records are given up, and as long as they get, a second, from then on.
    """

    def away() -> None:
        proxy.refuse()
        proxy.kill_all()

    waits = iter([0.0] * 6)  # 630 ms; the seventh attempt is the last one of 700 ms
    monkeypatch.setattr(random, "random", lambda: next(waits, 0.999))
    sent = send_while_away(colour, proxy.url, proxy, away, timeout_ms=700, warm=False)
    assert "it was not written" in str(sent.second)
    assert stored(running.url) == [(0, b"after")]
    assert sent.after_seconds < 0.9


@all_four
def test_what_a_silent_server_may_have_is_unknown(colour: Colour, proxy: Proxy, running: Server) -> None:
    """The server got the first record and nobody heard: "may be in the log". The second never left: "not written"."""
    url = f"{proxy.url}?socket_timeout=0.3"
    sent = send_while_away(colour, url, proxy, lambda: proxy.blackhole("down"), timeout_ms=1000, warm=True)
    assert type(sent.first) is RequestTimedOutError
    assert "may be in the log" in str(sent.first)
    assert "it was not written" in str(sent.second)
    assert 0.9 < sent.seconds < 4.5
    assert [value for _, value in stored(running.url)] == [b"before", b"first", b"after"]
    assert sent.after.offset == 2


@pytest.mark.parametrize(("running", "colour"), PAIRS[:1], indirect=["running"])
def test_delivery_timeout_bounds_a_silent_server(colour: Colour, proxy: Proxy, running: Server) -> None:
    """With nothing tuned, a server that takes the bytes and never answers holds a record for no longer than asked."""
    sent = send_while_away(colour, proxy.url, proxy, proxy.blackhole, timeout_ms=1000, warm=True)
    assert "may be in the log" in str(sent.first)
    assert sent.seconds < 4.5


@both
def test_delivery_timeout_bounds_a_slow_server(colour: Colour, proxy: Proxy, running: Server) -> None:
    """Each of the many answers that a new connection wants comes in time; all together have what is left of it."""

    def slow() -> None:
        proxy.delay(300, each=True)
        proxy.kill_all()

    sent = send_while_away(colour, proxy.url, proxy, slow, timeout_ms=1000, warm=True)
    assert isinstance(sent.first, StreamlayerError)
    assert isinstance(sent.second, StreamlayerError)
    assert sent.seconds < 5
    assert [value for _, value in stored(running.url)][-1] == b"after"


@both
def test_a_slow_server_is_waited_for(colour: Colour, proxy: Proxy, running: Server) -> None:
    """Each answer comes well within `socket_timeout`, all that a connection wants do not: the record is sent."""
    proxy.delay(80, each=True)
    url = f"{proxy.url}?socket_timeout=1"
    (metadata,) = send_one_by_one(colour, url, [b"slowly"])
    assert metadata.offset == 0
    assert proxy.tally["connections"] <= 2, "it was given up and tried anew"
    assert [value for _, value in stored(running.url)] == [b"slowly"]


@both
def test_poll_comes_back_from_a_silent_server(colour: Colour, proxy: Proxy, running: Server) -> None:
    """poll() on a silent server returns nothing when the socket gives up; then reading goes on from the position."""
    url = f"{proxy.url}?socket_timeout=0.4"
    send_one_by_one(colour, running.url, [b"one"])
    if colour == "sync":
        with Consumer(TOPIC, url=url) as consumer:
            assert len(consumer.poll(5000)) == 1
            proxy.blackhole()
            began = time.monotonic()
            assert consumer.poll(1000) == {}
            took = time.monotonic() - began
            proxy.heal()
            send_one_by_one(colour, running.url, [b"two"])
            (records,) = consumer.poll(5000).values()
    else:

        async def poll() -> tuple[float, list[ConsumerRecord]]:
            async with aio.Consumer(TOPIC, url=url) as consumer:
                assert len(await consumer.poll(5000)) == 1
                proxy.blackhole()
                began = time.monotonic()
                assert await consumer.poll(1000) == {}
                took = time.monotonic() - began
                proxy.heal()
                await asyncio.to_thread(send_one_by_one, "sync", running.url, [b"two"])
                (records,) = (await consumer.poll(5000)).values()
                return took, records

        took, records = asyncio.run(poll())
    assert 0.9 < took < 4.5
    assert [record.value for record in records] == [b"two"]


# --- cancellation -----------------------------------------------------------------------------------------------------


@one_server
async def test_cancelled_awaits_lose_nothing(proxy: Proxy, running: Server) -> None:
    """send_and_wait, futures, flush and poll are cancelled at any moment: each record is there once, in order."""
    dice = random.Random(7)
    history = History()
    cancelled = 0
    async with aio.Producer(url=proxy.url, **PRODUCER) as producer, aio.Consumer(TOPIC, url=proxy.url) as consumer:
        await producer.partitions_for(TOPIC)
        proxy.delay(1)  # so that there is something to cancel
        for index in range(400):
            value = Value("writer", f"key-{index % 7}", index)
            history.sending(value)
            if index % 2:
                call = asyncio.ensure_future(producer.send_and_wait(TOPIC, bytes(value), value.key.encode()))
            else:
                call = asyncio.ensure_future(_await(await producer.send(TOPIC, bytes(value), value.key.encode())))
            for work in (call, asyncio.ensure_future(producer.flush()), asyncio.ensure_future(consumer.poll(50))):
                await asyncio.wait([work], timeout=dice.choice([0, 0.0005, 0.002, 0.01]))
                cancelled += work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    found = await work
                    if isinstance(found, dict):
                        for tp, records in found.items():
                            history.read("reader", tp.partition, [(r.offset, Value.parse(r.value)) for r in records])
            if call.cancelled():
                history.unknown(value)
            else:
                history.acked(value, call.result().partition, call.result().offset)
        proxy.heal()
        await producer.flush()
        await aio_wait_until(lambda: _read_some(consumer, history), "all are read", timeout=20)
    drain(history, running.url)
    assert judge(history, floors={"cancelled": 200, "read": 400, "acked": 20}, fired={"cancelled": cancelled}) == []
    there = {value for event in history.of("drained") for _, value in event.records}
    assert len(there) == 400


async def _await(future: aio.RecordFuture) -> RecordMetadata:
    return await future


async def _read_some(consumer: aio.Consumer, history: History) -> bool:
    for tp, records in (await consumer.poll(100)).items():
        history.read("reader", tp.partition, [(r.offset, Value.parse(r.value)) for r in records])
    return history.counts["read"] >= 400


@one_server
@pytest.mark.parametrize("stuck", [b"CLIENT", b"INFO", b"SCRIPT", b"HGET"])
async def test_a_call_cancelled_while_it_connects(proxy: Proxy, running: Server, stuck: bytes) -> None:
    """A cancelled call leaves no half-made connection behind, and no answer that the next call takes for its own."""
    async with aio.Producer(url=proxy.url, num_partitions=5) as producer, aio.Consumer(url=proxy.url) as consumer:
        await producer.send_and_wait(TOPIC, b"value", b"key")
        for _ in range(3):
            proxy.kill_all()
            proxy.hold(match=stuck)
            held = proxy.counts["held"]
            call = asyncio.ensure_future(consumer.partitions_for_topic(TOPIC))
            await aio_wait_until(lambda held=held: proxy.counts["held"] > held, "it is stuck")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            again = asyncio.ensure_future(consumer.partitions_for_topic(TOPIC))
            await asyncio.wait([again], timeout=0.05)
            proxy.release()
            assert await again == set(range(5))
            assert await consumer.topics() == {TOPIC}
