"""The server is killed and started again with its append-only file, under load: nobody is told, nothing is missing.

`appendfsync no` makes it exact: each append is in the file before it is answered, so that the death of the process
alone takes nothing. (With `everysec` the server may answer up to 2 s ahead of the file while the disk stalls.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from streamlayer import Admin, Consumer, Producer, TopicPartition, aio
from streamlayer.embedded import Server
from tests import servers
from tests.system.load import TOPIC, Colour, Load
from tests.waiting import sync_wait_until

logger = logging.getLogger("tests.restart")
pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that a test may kill."""
    with Server(binary=servers.binary(request.param), port=0) as running:
        servers.make_exact(running)
        yield running


@pytest.fixture(params=["sync", "aio"])
def colour(request: pytest.FixtureRequest) -> Colour:
    """Each colour."""
    return request.param


both = pytest.mark.parametrize(("server", "colour"), [("valkey", "aio"), ("redis", "sync")], indirect=True)


def test_restart_under_load(colour: Colour, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Killed and started three times: producers send again, readers go on from their positions, nothing told to users.

    No record is missing or twice, and nobody takes a complete log for one that lost its end.
    """
    caplog.set_level(logging.INFO, "tests")
    recovery: list[tuple[float, float]] = []
    with Load(colour, server.url, writers=2, readers=2) as load:
        for _ in range(3):
            load.wait_acked(200)
            server.kill()
            load.check()
            server.start()
            began = time.monotonic()
            servers.make_exact(server)
            load.wait_acked(1)
            acked = time.monotonic() - began
            load.wait_read(1)
            recovery.append((acked, time.monotonic() - began))
            load.wait_acked(200)
        load.wait_read(200)
    assert load.errors == []
    assert load.verdict(server.url, floors={"acked": 800, "read": 800}) == []
    assert not [
        r.getMessage() for r in caplog.records if "lost records" in r.getMessage() or "lost the" in r.getMessage()
    ]
    logger.info("seconds from start to the first ack and the first read: %s", recovery)
    assert max(acked for acked, _ in recovery) < 4.5


def test_position_outlives_restarts(server: Server) -> None:
    """A consumer at rest, with records fetched and not yet handed out, goes on behind the last that it handed out."""
    with Producer(url=server.url) as producer, Consumer(TOPIC, url=server.url, max_poll_records=7) as consumer:
        producer.send_many(TOPIC, [b"%d" % i for i in range(100)], partition=0)
        seen = [record.value for records in consumer.poll().values() for record in records]
        for _ in range(3):
            server.kill()
            server.start()
            servers.make_exact(server)
            seen += [record.value for records in consumer.poll(5000, max_records=7).values() for record in records]
        producer.send_and_wait(TOPIC, b"100", partition=0)
        seen += [record.value for record in consumer.read_to_end()]
    assert seen == [b"%d" % i for i in range(101)]


def test_a_slow_reader_crosses_restarts(colour: Colour, server: Server) -> None:
    """Records from before and after restarts, fetched one by one: a whole log is never taken for one that was cut."""
    with Producer(url=server.url, num_partitions=1) as producer:
        for life in range(3):
            for number in range(3):
                producer.send_and_wait(TOPIC, b"%d-%d-" % (life, number) + b"x" * 5000)
            server.kill()
            server.start()
            servers.make_exact(server)
    options: dict[str, Any] = {"url": server.url, "max_partition_fetch_bytes": 1000, "auto_offset_reset": "none"}
    if colour == "sync":
        with Consumer(TOPIC, **options) as consumer:
            consumer.seek(TopicPartition(TOPIC, 0), 0)
            seen = [record.value[:3] for record in consumer.read_to_end()]
    else:

        async def read() -> list[bytes]:
            async with aio.Consumer(TOPIC, **options) as consumer:
                consumer.seek(TopicPartition(TOPIC, 0), 0)
                return [record.value[:3] async for record in consumer.read_to_end()]

        seen = asyncio.run(read())
    assert seen == [b"%d-%d" % (life, number) for life in range(3) for number in range(3)]


@both
def test_away_for_longer_than_delivery_timeout(colour: Colour, server: Server) -> None:
    """A server that stays away makes sends fail, in time, saying truly what is unknown; back again, all goes on."""
    with Load(colour, server.url, writers=2, delivery_timeout_ms=600) as load:
        load.wait_acked(200)
        server.kill()
        began = time.monotonic()
        sync_wait_until(lambda: "it was not written" in "".join(map(str, load.errors[1:])), "sends fail")
        took = time.monotonic() - began
        server.start()
        servers.make_exact(server)
        load.wait_acked(200)
        load.wait_read(200)
    texts = [str(error) for error in load.errors]
    assert all(re.search("may be in the log|it was not written", text) for text in texts), texts
    assert load.verdict(server.url, floors={"acked": 300, "read": 300}) == []
    assert took < 10


def test_killed_at_random_moments(colour: Colour) -> None:
    """Killed eight times a few milliseconds after it answers, while it loads or while clients reconnect."""
    with Server(port=0, binary=servers.binary("valkey")) as server:
        servers.make_exact(server)
        with Load(colour, server.url, writers=2, readers=1) as load:
            for moment in range(8):
                load.wait_acked(5 * moment + 1)
                server.kill()
                server.start()
                servers.make_exact(server)
            load.wait_acked(100)
            load.wait_read(100)
        assert load.errors == []
        assert load.verdict(server.url, floors={"acked": 200, "read": 200}) == []


@both
def test_a_stopped_server_goes_on(colour: Colour, server: Server) -> None:
    """SIGSTOP and SIGCONT: what was in the socket is executed late, after it was sent again; it is there once."""
    assert server.pid is not None
    with Load(colour, f"{server.url}?socket_timeout=0.2", writers=2) as load:
        for _ in range(4):
            load.wait_acked(50)
            os.kill(server.pid, signal.SIGSTOP)
            stopped = threading.Event()
            timer = threading.Timer(0.5, stopped.set)  # longer than the clients wait
            timer.start()
            stopped.wait()
            os.kill(server.pid, signal.SIGCONT)
        load.wait_acked(100)
        load.wait_read(100)
    assert load.errors == []
    assert load.verdict(server.url, floors={"acked": 300, "read": 300}) == []


def test_not_there_at_first(colour: Colour) -> None:
    """Nobody listens when a program starts: told at once, and by name. Later, an object that was connected waits."""
    with Server(port=0) as server:
        with Admin(url=server.url) as admin:
            admin.create_topics([TOPIC])
        server.kill()
        with contextlib.suppress(ConnectionError), Load(colour, server.url):
            pytest.fail("it began to work on a server that is not there")
        server.start()
        with Load(colour, server.url) as load:
            load.wait_acked(100)
        assert load.verdict(server.url, floors={"acked": 100}) == []
