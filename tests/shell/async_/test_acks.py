"""``acks="all"``, ``min_insync_replicas`` and ``flush``: what a send waits for, and which of two errors it gets."""

from __future__ import annotations

from typing import Any

import pytest

from streamlayer import NewTopic
from streamlayer.aio import Admin, Producer
from streamlayer.errors import (
    ConfigurationError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
)
from tests.beside import aio_beside
from tests.shell.async_.reading import stored_values
from tests.shell.conftest import Pair
from tests.waiting import aio_wait_until


async def create(url: str, **config: Any) -> None:
    """A topic of one partition with these settings."""
    async with Admin(url=url) as admin:
        await admin.create_topics([NewTopic("t", 1, config=config)])


async def test_a_send_is_done_when_a_replica_has_it(pair: Pair) -> None:
    """With two servers wanted, the replica has each record at the moment at which it is acknowledged."""
    await create(pair.url, min_insync_replicas=2)
    async with Producer(url=pair.url) as producer:
        for number in range(20):
            await producer.send_and_wait("t", b"%d" % number)
            assert pair.on_replica("sl:t:{t:0}:meta", "next") == b"%d" % (number + 1)
        assert producer.metrics().batches_resent == 0


@pytest.mark.parametrize("acks", [0, 1])
async def test_who_does_not_ask_does_not_wait(pair: Pair, acks: Any) -> None:
    """``acks=1`` and 0 send no ``WAIT``, and are taken while there is no replica."""
    await create(pair.url, min_insync_replicas=2)
    pair.part()
    async with Producer(url=pair.url, acks=acks) as producer:
        await producer.send_and_wait("t", b"a")
    assert await stored_values({"url": pair.url}, "t") == [b"a"]
    assert "cmdstat_wait" not in pair.commands()


async def test_by_default_nothing_is_waited_for(pair: Pair) -> None:
    """``acks="all"`` with the default settings sends nothing behind its appends."""
    await create(pair.url)
    async with Producer(url=pair.url) as producer:
        await producer.send_and_wait("t", b"a")
    assert "cmdstat_wait" not in pair.commands()


async def test_without_a_replica_it_is_certainly_not_written(pair: Pair) -> None:
    """None is connected: refused before anything is written, tried again, and told when the time is over."""
    await create(pair.url, min_insync_replicas=2)
    pair.part()
    async with Producer(url=pair.url, delivery_timeout_ms=300) as producer:
        with pytest.raises(NotEnoughReplicasError, match=r"t\[0\].*it was not written.*0 of the 1 replicas") as caught:
            await producer.send_and_wait("t", b"a")
        assert caught.value.retriable
        assert producer.health().state == "retrying"
    assert await stored_values({"url": pair.url}, "t") == []


async def test_it_goes_on_when_the_replica_comes_back(pair: Pair) -> None:
    """What waited for a replica is written once, and acknowledged."""
    await create(pair.url, min_insync_replicas=2)
    pair.part()
    async with Producer(url=pair.url) as producer:
        sending = aio_beside(lambda: producer.send_and_wait("t", b"a"))
        await aio_wait_until(lambda: producer.health().state == "retrying", "the producer has noticed")
        pair.join()
        assert (await sending.result()).offset == 0
        assert producer.health().ok
    assert await stored_values({"url": pair.url}, "t") == [b"a"]


@pytest.mark.parametrize("query", ["", "?socket_timeout=0.3"])
async def test_a_replica_that_falls_silent(pair: Pair, query: str) -> None:
    """It is still connected, so the record is written; it has not answered: an error of its own says both.

    Also where a connection is given up sooner than replicas are waited for otherwise.
    """
    await create(pair.url, min_insync_replicas=2)
    async with Producer(url=pair.url + query, delivery_timeout_ms=1500) as producer:
        await producer.send_and_wait("t", b"before")
        with pair.silenced():
            with pytest.raises(NotEnoughReplicasAfterAppendError, match=r"it was written.*0 of 1 replicas") as caught:
                await producer.send_and_wait("t", b"unsafe")
            assert not caught.value.retriable
            assert await stored_values({"url": pair.url}, "t") == [b"before", b"unsafe"]
        assert (await producer.send_and_wait("t", b"after")).offset == 2
    assert await stored_values({"url": pair.url}, "t") == [b"before", b"unsafe", b"after"]


async def test_a_replica_that_is_slow(pair: Pair) -> None:
    """It answers after a while: each record is acknowledged in the end, stored once, in order."""
    await create(pair.url, min_insync_replicas=2)
    async with Producer(url=pair.url) as producer:
        with pair.silenced():
            for number in range(10):
                await producer.send("t", b"%d" % number)
            await aio_wait_until(lambda: producer.health().state == "retrying", "the producer has noticed")
        await producer.flush()
        assert producer.metrics().batches_resent >= 1
    assert await stored_values({"url": pair.url}, "t") == [b"%d" % number for number in range(10)]


async def test_without_idempotence_it_is_told_at_once(pair: Pair) -> None:
    """A second sending would store it twice."""
    await create(pair.url, min_insync_replicas=2)
    async with Producer(url=pair.url, enable_idempotence=False) as producer:
        await producer.send_and_wait("t", b"before")
        with pair.silenced(), pytest.raises(NotEnoughReplicasAfterAppendError):
            await producer.send_and_wait("t", b"unsafe")
    assert await stored_values({"url": pair.url}, "t") == [b"before", b"unsafe"]


async def test_settings_that_change_under_an_open_producer_hold_at_once(pair: Pair) -> None:
    """Raised: the next record is on the replica when it is acknowledged. Lowered: no replica is needed any more."""
    await create(pair.url)
    async with Producer(url=pair.url) as producer, Admin(url=pair.url) as admin:
        await producer.send_and_wait("t", b"0")
        await admin.alter_configs({"t": {"min.insync.replicas": 2}})
        for number in (1, 2):
            await producer.send_and_wait("t", b"%d" % number)
            assert pair.on_replica("sl:t:{t:0}:meta", "next") == b"%d" % (number + 1)
        await admin.alter_configs({"t": {"min_insync_replicas": 1}})
        pair.part()
        assert (await producer.send_and_wait("t", b"3")).offset == 3
    assert await stored_values({"url": pair.url}, "t") == [b"0", b"1", b"2", b"3"]


async def test_what_was_acknowledged_outlives_the_primary(pair: Pair) -> None:
    """The primary is killed at once and the replica promoted: every acknowledged record is there."""
    await create(pair.url, min_insync_replicas=2)
    async with Producer(url=pair.url, delivery_timeout_ms=1000) as producer:
        acked = [await producer.send_and_wait("t", b"%d" % number) for number in range(50)]
        pair.primary.kill()
        pair.promote()
        assert len(acked) == 50
    assert await stored_values({"url": pair.replica.url}, "t") == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("config", [{"flush": "primary"}, {"flush": "replicas", "min_insync_replicas": 2}])
async def test_flush_waits_for_disks(pair: Pair, config: dict[str, Any]) -> None:
    """Acknowledged is what the primary's disk has, or both; seen from how far the append-only files were flushed."""
    if pair.kind == "redis":
        with pytest.raises(ConfigurationError, match=r"need Redis 7\.2"):
            await create(pair.url, **config)
        async with Admin(url=pair.url) as admin:
            assert await admin.list_topics() == []
        return
    await create(pair.url, **config)
    async with Producer(url=pair.url) as producer:
        await producer.send_and_wait("t", b"a")
        assert (await producer.send_and_wait("t", b"b")).offset == 1
    assert pair.commands()["cmdstat_waitaof"]["calls"] >= 3  # one asked whether the server can
    assert await stored_values({"url": pair.url}, "t") == [b"a", b"b"]


async def test_flush_is_refused_where_there_is_no_file(pair: Pair) -> None:
    """At creation and at alteration: nothing was created or changed."""
    pair.client.config_set("appendonly", "no")
    with pytest.raises(ConfigurationError, match="appendonly yes"):
        await create(pair.url, flush="primary")
    await create(pair.url)
    async with Admin(url=pair.url) as admin:
        with pytest.raises(ConfigurationError, match="appendonly yes"):
            await admin.alter_configs({"t": {"flush": "primary"}})
        assert (await admin.describe_topics())["t"].config.flush == "server"


async def test_the_file_is_turned_off_under_a_producer(pair: Pair) -> None:
    """Written, and no disk will ever have it: told at once, not when the time is over."""
    if pair.kind == "redis":
        return
    await create(pair.url, flush="primary")
    async with Producer(url=pair.url) as producer:
        await producer.send_and_wait("t", b"a")
        pair.client.config_set("appendonly", "no")
        with pytest.raises(NotEnoughReplicasAfterAppendError, match="appendonly is disabled"):
            await producer.send_and_wait("t", b"b")
    assert await stored_values({"url": pair.url}, "t") == [b"a", b"b"]


async def test_where_wait_is_forbidden_it_is_told_at_once(pair: Pair) -> None:
    """An ACL without ``WAIT``: the record is written; the error names what is missing."""
    pair.client.acl_setuser(
        "app", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all", "-wait"]
    )
    await create(pair.url, min_insync_replicas=2)
    url = pair.url.replace("redis://", "redis://app:secret@")
    async with Producer(url=url) as producer:
        with pytest.raises(NotEnoughReplicasAfterAppendError, match="wait"):
            await producer.send_and_wait("t", b"a")
    assert await stored_values({"url": pair.url}, "t") == [b"a"]
