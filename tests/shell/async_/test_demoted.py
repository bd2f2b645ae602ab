"""A primary becomes a replica, and what leads to it leads to another: clients that are still connected look anew."""

from __future__ import annotations

import redis

from streamlayer import NewTopic
from streamlayer.aio import Admin, Consumer, Producer
from tests.beside import aio_beside
from tests.shell.async_.reading import read, stored_values
from tests.shell.conftest import Pair
from tests.system.proxy import Proxy
from tests.waiting import aio_wait_until


def hand_over(pair: Pair, front: Proxy) -> None:
    """In order: the replica is promoted, the address leads to it, and the former primary follows it."""
    pair.promote()
    front.point_at(pair.replica.url)
    pair.client.replicaof("127.0.0.1", int(pair.replica.url.rpartition(":")[2].partition("/")[0]))


async def test_who_listens_moves_too(pair: Pair) -> None:
    """The former primary goes on for itself, and says nothing: a reader hears the new one as soon as it has met it."""
    with Proxy(pair.url) as front, redis.Redis.from_url(pair.replica.url) as later:
        async with Producer(url=front.url) as producer, Consumer("t", url=front.url) as consumer:
            await producer.send_and_wait("t", b"before", partition=0)
            assert [record.value for record in await read(consumer, 1)] == [b"before"]
            pair.promote()
            front.point_at(pair.replica.url)
            pair.client.replicaof("127.0.0.1", 1)
            await producer.send_and_wait("t", b"after", partition=0)
            assert [record.value for record in await read(consumer, 1)] == [b"after"]
            await aio_wait_until(lambda: later.pubsub_numsub("sl:t:{t:0}:wake")[0][1] == 1, "it listens there")


async def test_a_connection_to_a_former_primary_is_given_up(pair: Pair) -> None:
    """READONLY on a connection that nobody cuts: producer, consumer and admin go on with the new primary."""
    with Proxy(pair.url) as front:
        async with (
            Producer(url=front.url) as producer,
            Consumer("t", url=front.url, group_id="g") as consumer,
            Admin(url=front.url) as admin,
        ):
            await producer.send_and_wait("t", b"before")
            assert [record.value for record in await read(consumer, 1)] == [b"before"]
            await consumer.commit()
            await admin.list_topics()
            hand_over(pair, front)
            await producer.send_and_wait("t", b"after")
            assert [record.value for record in await read(consumer, 1)] == [b"after"]
            await consumer.commit()
            await admin.create_topics(["u"])
    assert await stored_values({"url": pair.replica.url}, "t") == [b"before", b"after"]


async def test_a_send_that_waits_for_replicas_goes_to_the_new_primary(pair: Pair) -> None:
    """The server becomes a replica in the middle of a ``WAIT``: the batch is sent again, to the new primary, once."""
    async with Admin(url=pair.url) as admin:
        await admin.create_topics([NewTopic("t", 1, config={"min_insync_replicas": 2})])
    with Proxy(pair.url) as front:
        async with Producer(url=front.url) as producer:
            await producer.send_and_wait("t", b"before")
            with pair.silenced():
                sending = aio_beside(lambda: producer.send_and_wait("t", b"after"))
                await aio_wait_until(lambda: pair.client.info("clients")["blocked_clients"] == 1, "it waits")
                pair.client.replicaof("127.0.0.1", 1)
            hand_over(pair, front)
            assert (await sending.result()).offset == 1
    assert await stored_values({"url": pair.replica.url}, "t") == [b"before", b"after"]
