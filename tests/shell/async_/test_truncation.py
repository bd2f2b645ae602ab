"""A server that lost the end of its log: told, with numbers, and gone on from where the logs parted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import pytest
import redis

from streamlayer import NewTopic, TopicPartition
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.embedded import Server
from streamlayer.errors import LogTruncationError, UnknownTopicOrPartitionError
from tests import servers
from tests.beside import aio_beside
from tests.shell.async_.reading import read, stored, stored_values
from tests.waiting import aio_wait_until

TP = TopicPartition("t", 0)


@contextmanager
def power_failure(server: Server) -> Iterator[None]:
    """What is written within the block is lost: the server is killed, and starts with the files it had before."""
    assert server._folder is not None
    files = Path(server._folder, "appendonlydir")
    kept = files.with_name("kept")
    with redis.Redis.from_url(server.url) as client:
        client.config_set("appendfsync", "always")
        client.set("flushed", "1")
    shutil.copytree(files, kept)
    yield
    server.kill()
    shutil.rmtree(files)
    kept.rename(files)
    server.start()


async def send(server: Server, *values: bytes) -> None:
    """Append to one partition."""
    async with Producer(url=server.url) as producer:
        await producer.send_many("t", values, partition=0)


@pytest.mark.parametrize("since", [0, 4], ids=["shorter", "longer"])
async def test_a_reader_ahead_of_the_log_goes_back_to_where_they_part(
    own_server: Server, caplog: pytest.LogCaptureFixture, since: int
) -> None:
    """One warning with both numbers; then every record of the new history, also if it has grown past the position."""
    await send(own_server, b"0", b"1", b"2")
    async with Consumer("t", url=own_server.url) as consumer:
        with power_failure(own_server):
            await send(own_server, b"lost3", b"lost4")
            assert len(await read(consumer, 5)) == 5
        if since:
            await send(own_server, *[b"new%d" % i for i in range(since)])
        for _ in range(5):
            records = [r for part in (await consumer.poll(100)).values() for r in part]
            if records:
                break
        assert [r.value for r in records] == [b"new%d" % i for i in range(since)]
        assert await consumer.position(TP) == 3 + since
        await send(own_server, b"last")
        assert [r.value for r in await read(consumer, 1)] == [b"last"]
    assert consumer.metrics() == (1, 2, 0)
    told = [r.getMessage() for r in caplog.records if "lost the log's end" in r.getMessage()]
    assert len(told) == 1
    assert "t[0]" in told[0]
    assert "going on at 3, 2 records that were read are gone" in told[0]


async def test_none_raises_with_the_numbers(own_server: Server) -> None:
    """LogTruncationError says where the logs part and how many records are gone, until a seek."""
    await send(own_server, b"0", b"1", b"2")
    async with Consumer("t", url=own_server.url, auto_offset_reset="none") as consumer:
        with power_failure(own_server):
            await send(own_server, b"lost3", b"lost4")
            assert len(await read(consumer, 5)) == 5
        await send(own_server, b"new3")
        for _ in range(2):
            with pytest.raises(LogTruncationError, match=r"t\[0\]: the server lost records from offset 3") as raised:
                for _ in range(5):
                    await consumer.poll(500)
        assert (raised.value.diverged_at, raised.value.lost) == (3, 2)
        consumer.seek(TP, 3)
        assert [r.value for r in await read(consumer, 1)] == [b"new3"]


async def test_a_restart_that_lost_nothing_is_not_noticed(own_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Producer and consumer go on; nothing twice, nothing missing, no talk of loss."""
    async with Producer(url=own_server.url) as producer, Consumer("t", url=own_server.url) as consumer:
        await producer.send_and_wait("t", b"0", partition=0)
        assert len(await read(consumer, 1)) == 1
        for i in (1, 2):
            servers.make_exact(own_server)
            own_server.kill()
            future = await producer.send("t", b"%d" % i, partition=0)
            own_server.start()
            await producer.flush()
            assert future.result().offset == i
            assert [r.value for r in await read(consumer, 1)] == [b"%d" % i]
    assert not [r for r in caplog.records if "lost" in r.getMessage() and "connection" not in r.getMessage()]


async def test_a_producer_goes_on_behind_what_the_server_has(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Its acknowledged records are gone: logged, counted, raised once by flush; what it sends next is stored once."""
    async with Producer(url=own_server.url) as producer:
        for i in range(3):
            await producer.send_and_wait("t", b"%d" % i, partition=0)
        with power_failure(own_server):
            for _ in range(3):
                await producer.send_and_wait("t", b"lost", partition=0)
        for i in range(3, 6):
            assert (await producer.send_and_wait("t", b"%d" % i, partition=0)).offset == i
        with pytest.raises(LogTruncationError, match=r"t\[0\]: the server lost 3 records") as caught:
            await producer.flush()
        assert (caught.value.diverged_at, caught.value.lost) == (3, 3)
        assert producer.metrics()[-2:] == (1, 3)
        await producer.flush()
    assert [r.levelname for r in caplog.records if "lost 3 records" in r.message] == ["WARNING"]
    assert await stored_values({"url": own_server.url}, "t") == [b"%d" % i for i in range(6)]


async def test_reading_to_an_end_that_was_lost(any_server: Server) -> None:
    """read_to_end does not wait for records that no longer exist."""
    await send(any_server, b"0", b"1", b"2")
    async with Consumer("t", url=any_server.url, max_poll_records=1) as consumer:
        reading = consumer.read_to_end()
        with power_failure(any_server):
            await send(any_server, *[b"lost"] * 5)
            first = await anext(reading)
        consumer.seek(TP, 1)

        async def rest() -> list[bytes]:
            return [record.value async for record in reading]

        assert (first.value, await aio_beside(rest).result()) == (b"0", [b"1", b"2"])


async def test_a_server_that_is_away(any_server: Server) -> None:
    """A poll in between takes about its time and is empty; asking says so; everything goes on when it is back."""
    servers.make_exact(any_server)
    await send(any_server, b"0")
    async with Consumer("t", url=any_server.url) as consumer:
        assert len(await read(consumer, 1)) == 1
        any_server.kill()
        assert await consumer.poll(200) == {}
        assert not consumer.health().ok
        assert consumer.health().state == "retrying"
        any_server.start()
        await send(any_server, b"1")
        assert [r.value for r in await read(consumer, 1)] == [b"1"]
        assert consumer.health().ok


async def test_a_poll_keeps_to_its_time_while_the_server_is_away(any_server: Server) -> None:
    """Also where topics have to be looked up: a pattern, a topic that is waited for. And wakeup is heard."""
    servers.make_exact(any_server)
    await send(any_server, b"0")
    async with Consumer(url=any_server.url) as consumer:
        consumer.subscribe(pattern=".*")
        assert len(await read(consumer, 1)) == 1
        any_server.kill()
        polling = aio_beside(lambda: consumer.poll(700))
        assert await polling.result() == {}
        consumer.wakeup()
        assert await consumer.poll(20_000) == {}
        any_server.start()
        await send(any_server, b"1")
        assert [r.value for r in await read(consumer, 1)] == [b"1"]


async def test_one_who_waits_for_a_topic_recovers_too(any_server: Server) -> None:
    """There is nothing to fetch; health is good again all the same, and the topic is found."""
    async with Consumer("t", url=any_server.url) as consumer:
        assert await consumer.poll(50) == {}
        any_server.kill()
        await aio_wait_until(lambda: in_trouble(consumer), "the consumer to notice")
        any_server.start()
        await send(any_server, b"0")
        assert [r.value for r in await read(consumer, 1)] == [b"0"]
        assert consumer.health().ok


async def in_trouble(consumer: Consumer) -> bool:
    """Poll a little; whether the consumer is in trouble."""
    await consumer.poll(20)
    return not consumer.health().ok


async def test_a_producer_goes_on_in_a_topic_whose_growth_was_lost(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits fails; then it sends by the older layout, and is told of what is gone with the newer one."""
    async with Producer(url=own_server.url, num_partitions=1) as producer, Admin(url=own_server.url) as admin:
        await producer.send_and_wait("t", b"0", b"k")
        with power_failure(own_server):
            await producer.send_and_wait("t", b"lost", partition=0)
            await admin.create_partitions({"t": 2})
            await producer.send_many("t", [b"lost", b"lost"], partition=1)
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send_and_wait("t", b"waits", b"k")
        await producer.send_and_wait("t", b"1", b"k")
        with pytest.raises(LogTruncationError) as raised:
            await producer.flush()
        assert (raised.value.diverged_at, raised.value.lost) == (0, 2)
        assert (producer.metrics().truncations, producer.metrics().records_lost) == (2, 3)
        assert producer.health().ok
    assert await stored_values({"url": own_server.url}, "t") == [b"0", b"1"]
    assert "t[1]: the server lost the partition, and with it 2 records" in caplog.text
    assert "t[0]: the server lost 1 records at the end of the log, from offset 1 on" in caplog.text


async def test_a_reader_is_told_where_a_growth_was_lost(own_server: Server) -> None:
    """Of the partition that is gone, and of each that is there and lost its end: nothing is read twice, or untold."""
    await send(own_server, b"0", b"1")
    values: list[bytes] = []
    gone = 0
    async with Consumer("t", url=own_server.url) as consumer, Admin(url=own_server.url) as admin:
        with power_failure(own_server):
            await send(own_server, b"lost2", b"lost3")
            await admin.create_partitions({"t": 5})
            async with Producer(url=own_server.url) as producer:
                await producer.send_and_wait("t", b"lost", partition=4)
            assert len(await read(consumer, 5)) == 5
        await send(own_server, b"new2", b"new3", b"new4")
        while len(values) < 3:
            try:
                values += [record.value for record in await read(consumer, 1)]
            except UnknownTopicOrPartitionError:
                gone += 1
    assert (values, gone) == ([b"new2", b"new3", b"new4"], 1)
    assert (consumer.metrics().truncations, consumer.metrics().records_lost) == (1, 2)


async def test_a_growth_that_was_lost_and_made_anew_is_another_one(own_server: Server) -> None:
    """It has the same generation, and a count of its own: a producer that noticed nothing follows it."""
    keys = [b"k%d" % i for i in range(20)]
    async with Producer(url=own_server.url, num_partitions=1) as producer, Admin(url=own_server.url) as admin:
        await producer.send_many("t", keys, keys)
        with power_failure(own_server):
            await admin.create_partitions({"t": 2})
            await producer.send_many("t", keys, keys)
        await admin.create_partitions({"t": 3})
        await producer.send_many("t", [b"new"] * 20, keys)
        with pytest.raises(LogTruncationError):
            await producer.flush()
    records = [r for r in await stored({"url": own_server.url}, "t") if r.value == b"new"]
    assert {r.key: r.partition for r in records} == {key: crc32(key) % 3 for key in keys}
    assert len(records) == 20


@pytest.mark.parametrize("infos", [True, False], ids=["epochs", "no INFO"])
async def test_what_was_learnt_of_a_lost_history_keeps_nobody_from_reading(
    own_server: Server, own_client: redis.Redis, infos: bool
) -> None:
    """A reader knows where the segments lay; others have their place. What the server says of them counts."""
    if not infos:
        own_client.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-info")
    url = own_server.url if infos else own_server.url.replace("unix://", "unix://app:secret@")
    async with Admin(url=own_server.url) as admin:
        await admin.create_topics([NewTopic("t", 1, config={"segment_bytes": 16_384})])

    async def append(size: int) -> None:
        async with Producer(url=own_server.url, linger_ms=0) as producer:
            for n in range(20):
                await producer.send_and_wait("t", b"%d-%d" % (size, n) + bytes(size))

    async with Consumer("t", url=url) as consumer:
        with power_failure(own_server):
            await append(5000)
            for offset in (13, 1, 13):  # who seeks again learns
                consumer.seek(TP, offset)
                assert (await read(consumer, 1))[0].offset == offset
        if not infos:
            own_client.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-info")
        await append(7000)
        consumer.unsubscribe()
        consumer.subscribe(["t"])
        consumer.seek(TP, 13)
        assert (await read(consumer, 1))[0].value[:7] == b"7000-13"
