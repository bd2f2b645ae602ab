"""The fault proxy does what its methods say, no more and no less: judged by plain redis-py with its retries off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamlayer.embedded import Server
from tests import servers
from tests.system.proxy import Proxy
from tests.system.resp import Splitter, command_name
from tests.waiting import sync_wait_until

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def embedded_server() -> Iterator[Server]:
    """One embedded server, with a port, for the whole file."""
    with Server(binary=servers.binary("valkey"), port=0) as server:
        yield server


@pytest.fixture
def direct(embedded_server: Server) -> Iterator[redis.Redis]:
    """A client past the proxy, to see what the server really has; it starts empty."""
    with redis.Redis.from_url(embedded_server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def proxy(embedded_server: Server) -> Iterator[Proxy]:
    """A proxy without faults."""
    with Proxy(embedded_server.url) as running:
        yield running


def connect(url: str, timeout_s: float = 5, protocol: int = 2) -> redis.Redis:
    """A client that tries nothing again."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=timeout_s, protocol=protocol)


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(proxy: Proxy, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A client through the proxy that tries nothing again, in each version of the protocol."""
    with connect(proxy.url, protocol=request.param) as through:
        yield through


# --- framing ------------------------------------------------------------------------------------------------------

MESSAGES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":12\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$4\r\na\r\nb\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    b"*2\r\n*2\r\n:1\r\n$1\r\nx\r\n+OK\r\n",
    b"%1\r\n+key\r\n*1\r\n,1.5\r\n",
    b"|1\r\n+ttl\r\n:3\r\n$1\r\nx\r\n",
    b">2\r\n+message\r\n_\r\n",
    b"PING\r\n",
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_splitter_finds_whole_messages(size: int) -> None:
    """However the bytes are cut, the messages that come out are those that went in."""
    splitter, stream = Splitter(), b"".join(MESSAGES)
    pieces = (stream[at : at + size] for at in range(0, len(stream), size))
    assert [message for piece in pieces for message in splitter.feed(piece)] == MESSAGES


def test_command_name() -> None:
    """A request's name is found in both forms of a request, in capitals."""
    assert [command_name(MESSAGES[8]), command_name(b"ping x\r\n"), command_name(b"\r\n")] == ["GET", "PING", ""]


# --- no fault -----------------------------------------------------------------------------------------------------


def test_traffic_passes_unchanged(client: redis.Redis, proxy: Proxy, direct: redis.Redis) -> None:
    """Pipelines, large values, scripts, transactions and errors pass; requests and replies are counted alike."""
    big = b"\r\n$5\r\n" * 100_000
    with client.pipeline(transaction=True) as pipeline:
        assert pipeline.set("big", big).get("big").incr("n").execute() == [True, big, 1]
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(1000):
            pipeline.incr("n")
        assert pipeline.execute()[-1] == 1001
    assert client.eval("return {1, {2, 'x'}}", 0) == [1, [2, b"x"]]
    with pytest.raises(redis.ResponseError):
        client.lpush("n", 1)
    counts = proxy.counts
    assert counts["commands"] == counts["replies"]
    assert counts["INCRBY"] == 1001  # what redis-py sends for incr()
    assert direct.get("big") == big


def test_publish_and_subscribe_pass(client: redis.Redis, direct: redis.Redis) -> None:
    """Messages that come unasked reach a subscriber."""
    with client.pubsub() as subscription:
        subscription.subscribe("a", "b")
        for _ in range(2):
            answer = subscription.get_message(timeout=5)
            assert answer is not None
            assert answer["type"] == "subscribe"
        direct.publish("b", "hello")
        message = subscription.get_message(timeout=5)
        assert message is not None
        assert message["data"] == b"hello"


def test_unix_sockets(embedded_server: Server, direct: redis.Redis) -> None:
    """It listens on a unix socket, and speaks to one, as well."""
    with Server(binary=servers.binary("valkey")) as server, Proxy(server.url, unix=True) as both:
        through = connect(both.url)
        assert through.set("a", 1)
        through.close()
    with Proxy(embedded_server.url, unix=True) as one, connect(one.url) as through:
        assert through.set("a", 1)
        one.refuse()
        with connect(one.url) as second, pytest.raises(redis.ConnectionError):
            second.ping()
        one.heal()
        with connect(one.url) as second:
            assert second.get("a") == b"1"
    assert direct.get("a") == b"1"


async def test_async_client(proxy: Proxy, direct: redis.Redis) -> None:
    """An asyncio client is served, and hit, just the same."""
    retry = AsyncRetry(NoBackoff(), 0)
    async with redis.asyncio.Redis.from_url(proxy.url, retry=retry) as client:
        proxy.drop_replies(match=b"INCR")
        with pytest.raises(redis.ConnectionError):
            await client.incr("n")
        assert await client.incr("n") == 2
    assert direct.get("n") == b"2"


# --- faults that hit the next n -----------------------------------------------------------------------------------


def test_dropped_reply_was_executed(client: redis.Redis, proxy: Proxy, direct: redis.Redis) -> None:
    """The server did it, the client does not know; handshakes are left alone, and after n all is well again."""
    proxy.drop_replies(2)
    for done in (1, 2):
        with pytest.raises(redis.ConnectionError):
            client.incr("n")
        assert direct.get("n") == b"%d" % done
    assert client.incr("n") == 3
    assert proxy.counts["dropped"] == 2


def test_dropped_reply_within_a_pipeline(client: redis.Redis, proxy: Proxy, direct: redis.Redis) -> None:
    """Only what matches is hit; what the pipeline holds behind it is executed as well, one cut being one fault."""
    proxy.drop_replies(1, match=b"EVAL")
    with client.pipeline(transaction=False) as pipeline, pytest.raises(redis.ConnectionError):
        pipeline.incr("before").eval("return redis.call('incr', 'n')", 0).incr("after").execute()
    sync_wait_until(lambda: direct.get("after") == b"1", "the pipeline to be executed")
    assert (direct.get("before"), direct.get("n")) == (b"1", b"1")
    assert proxy.counts["dropped"] == 1


@pytest.mark.parametrize("part", [False, True])
def test_cut_request_was_not_executed(part: bool, client: redis.Redis, proxy: Proxy, direct: redis.Redis) -> None:
    """Whether nothing or half of it gets there, the server does not execute it."""
    proxy.cut_requests(1, match=b"INCR", part=part)
    client.set("n", 5)
    with pytest.raises(redis.ConnectionError):
        client.incr("n")
    assert direct.get("n") == b"5"
    assert client.incr("n") == 6
    assert proxy.counts["cut"] == 1


def test_repeated_request_is_answered_once(client: redis.Redis, proxy: Proxy, direct: redis.Redis) -> None:
    """The server executes it twice; the client sees the first answer, and later answers are not shifted."""
    proxy.repeat_requests(1, match=b"INCR")
    assert client.incr("n") == 1
    assert client.get("n") == b"2"
    assert proxy.counts["repeated"] == 1
    assert direct.get("n") == b"2"


def test_held_request_arrives_late(proxy: Proxy, direct: redis.Redis) -> None:
    """It is executed after its client gave up, closed, and did newer things."""
    proxy.hold(1, match=b"late")
    with connect(proxy.url, timeout_s=0.1) as client:
        with pytest.raises(redis.TimeoutError):
            client.rpush("list", "late")
        assert proxy.counts["held"] == 1
        client.rpush("list", "newer")
        client.rpush("list", "late too, but only one was to be held")
        assert direct.llen("list") == 2
        proxy.release()
        sync_wait_until(lambda: direct.llen("list") == 3, "the late request")
    assert direct.lindex("list", -1) == b"late"


# --- faults that last ---------------------------------------------------------------------------------------------


def test_blackhole_up_delivers_late(proxy: Proxy, direct: redis.Redis) -> None:
    """Requests vanish in silence; what was sent arrives when it ends, the client being gone or not."""
    with connect(proxy.url, timeout_s=0.1) as client:
        client.ping()
        proxy.blackhole("up")
        with pytest.raises(redis.TimeoutError):
            client.set("a", 1)
    assert direct.get("a") is None
    proxy.heal()
    sync_wait_until(lambda: direct.get("a") == b"1", "the late request")


def test_blackhole_down_has_executed(proxy: Proxy, direct: redis.Redis) -> None:
    """Requests get there, replies do not; afterwards a connection that was kept gets the old reply first."""
    pool = redis.ConnectionPool.from_url(proxy.url, retry=Retry(NoBackoff(), 0), socket_timeout=5)
    connection = pool.get_connection()
    proxy.blackhole("down")
    connection.send_command("INCR", "n")
    sync_wait_until(lambda: direct.get("n") == b"1", "the request to be executed")
    assert not connection.can_read(timeout=0.05)
    proxy.heal()
    connection.send_command("GET", "n")
    assert connection.read_response() == 1
    assert connection.read_response() == b"1"
    pool.disconnect()


def test_killed_in_a_blackhole_is_lost(proxy: Proxy, direct: redis.Redis) -> None:
    """What waits in a blackhole when the connections are killed never arrives."""
    with connect(proxy.url, timeout_s=0.1) as client:
        client.ping()
        proxy.blackhole()
        with pytest.raises(redis.TimeoutError):
            client.set("a", 1)
        assert proxy.kill_all() >= 1
        proxy.heal()
        assert client.get("a") is None
    assert direct.get("a") is None


def test_refuse(client: redis.Redis, proxy: Proxy) -> None:
    """New connections are refused, open ones stay; after `heal` the address is the same."""
    client.ping()
    proxy.refuse()
    assert client.ping()
    with connect(proxy.url) as second:
        with pytest.raises(redis.ConnectionError, match="refused"):
            second.ping()
        proxy.heal()
        assert second.ping()


def test_kill_all(client: redis.Redis, proxy: Proxy) -> None:
    """Open connections break, a waiting one at once; new ones can be made. (redis-py mends idle ones by itself.)"""
    with client.pubsub() as subscription:
        subscription.subscribe("a")
        assert subscription.get_message(timeout=5)
        assert proxy.kill_all() == 1
        with pytest.raises(redis.ConnectionError):
            subscription.get_message(timeout=5)
    assert client.ping()
    assert proxy.counts["killed"] == 1


def test_delay(proxy: Proxy) -> None:
    """Answers come later: past a short timeout, within a long one."""
    with connect(proxy.url, timeout_s=0.1) as impatient, connect(proxy.url) as patient:
        impatient.ping()
        patient.ping()
        proxy.delay(300)
        with pytest.raises(redis.TimeoutError):
            impatient.ping()
        assert patient.ping()
        proxy.heal()
        assert impatient.ping()


def test_server_killed_behind_it() -> None:
    """When the server is down the proxy's connections break; when it is back they work, at the same address."""
    with Server(binary=servers.binary("valkey")) as server, Proxy(server.url) as proxy, connect(proxy.url) as client:
        servers.make_exact(server)
        client.set("a", 1)
        server.kill()
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                client.get("a")
        server.start()
        assert client.get("a") == b"1"
        assert proxy.counts["unreachable"] >= 1


async def test_many_clients_at_once(proxy: Proxy, direct: redis.Redis) -> None:
    """With replies dropped all over the place, every request was executed exactly once, and every drop is an error."""

    async def work(name: str) -> int:
        errors = 0
        async with redis.asyncio.Redis.from_url(proxy.url, retry=AsyncRetry(NoBackoff(), 0)) as client:
            for _ in range(50):
                try:
                    await client.incr(name)
                except redis.ConnectionError:
                    errors += 1
        return errors

    proxy.drop_replies(40, match=b"INCR")
    errors = await asyncio.gather(*(work(f"n{number}") for number in range(10)))
    assert sum(errors) == proxy.counts["dropped"] == 40
    assert [direct.get(f"n{number}") for number in range(10)] == [b"50"] * 10
