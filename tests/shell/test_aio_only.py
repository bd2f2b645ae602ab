"""What only asyncio can get wrong: awaited futures, cancellation, event loops, and a loop that must get its turn."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest
import redis
import redis.asyncio

from streamlayer import TopicPartition
from streamlayer._waiting import aio as waiting
from streamlayer.aio import Admin, Consumer, Producer, RecordFuture
from streamlayer.embedded import Server
from streamlayer.errors import ConfigurationError, IllegalStateError, InvalidTimestampError
from tests.shell.async_.reading import read, stored_values
from tests.shell.test_sync_only import FAR_MS, run
from tests.waiting import aio_wait_until

TP = TopicPartition("t", 0)


# --- futures --------------------------------------------------------------------------------------------------------


async def test_awaiting_a_future_ends_lingering(aio_args: dict[str, Any]) -> None:
    """It waits for the record, and so for nothing else; it may be awaited again."""
    async with Producer(**aio_args, linger_ms=60_000) as producer:
        first, second = await producer.send("t", b"1", partition=0), await producer.send("t", b"2", partition=0)
        other = await producer.send("t", b"3", partition=1)
        assert (await second).offset == 1
        assert (await second).offset == 1
        assert first.done()
        assert not other.done()


async def test_a_future_that_is_not_decided_says_so(aio_args: dict[str, Any]) -> None:
    """Result and exception do not wait in asyncio: they tell to await."""
    async with Producer(**aio_args, linger_ms=60_000) as producer:
        future = await producer.send("t", b"1")
        for ask in (future.result, future.exception):
            with pytest.raises(IllegalStateError, match="still on its way: await the future"):
                ask()
        assert await future == future.result()


async def test_futures_can_be_gathered(aio_args: dict[str, Any]) -> None:
    """By gather, wait_for and tasks; a failure comes out of its own only."""
    async with Producer(**aio_args, linger_ms=60_000) as producer:

        async def outcome(future: RecordFuture) -> Any:
            return await future

        futures = [await producer.send("t", b"%d" % n, partition=n % 4) for n in range(8)]
        futures.append(await producer.send("t", b"bad", partition=0, timestamp_ms=FAR_MS))
        outcomes = await asyncio.gather(*map(outcome, futures), return_exceptions=True)
        assert [place.offset for place in outcomes[:8]] == [0, 0, 0, 0, 1, 1, 1, 1]
        assert isinstance(outcomes[8], InvalidTimestampError)


# --- cancelling -----------------------------------------------------------------------------------------------------


async def test_cancelling_a_wait_loses_no_record(any_server: Server, any_client: redis.Redis) -> None:
    """Cancelled in the middle of the round that carries them: each record given is stored once, in order."""
    async with Producer(url=any_server.url) as producer:
        await producer.send_and_wait("t", b"start", partition=0)
        for n in range(15):
            any_client.client_pause(30)
            waiting = asyncio.create_task(producer.send_and_wait("t", b"%d" % n, partition=0))
            queue = producer._accumulator.topics["t"].partitions[0]

            def on_its_way(value: bytes = b"%d" % n, queue: Any = queue, waiting: Any = waiting) -> bool:
                return waiting.done() or any(value in batch.values for batch in queue.sealed)

            await aio_wait_until(on_its_way, "the record to be on its way")
            waiting.cancel()
            await asyncio.wait([waiting])
        await producer.flush()
        assert (await producer.send_and_wait("t", b"end", partition=0)).offset == 16
    expected = [b"start", *[b"%d" % n for n in range(15)], b"end"]
    assert await stored_values({"url": any_server.url}, "t") == expected


async def test_cancelling_the_wait_for_a_future_loses_no_record(aio_args: dict[str, Any]) -> None:
    """wait_for that runs out, gather that is cancelled: the futures are decided all the same."""
    async with Producer(**aio_args, linger_ms=100) as producer:
        futures = [await producer.send("t", b"%d" % n, partition=0) for n in range(20)]

        async def wait() -> None:
            await futures[3]

        tasks = [asyncio.create_task(wait()) for _ in range(5)]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await producer.flush()
        assert [future.result().offset for future in futures] == list(range(20))


async def test_cancelling_a_flush_and_a_close(any_server: Server, any_client: redis.Redis) -> None:
    """What was given is still sent by a later flush."""
    async with Producer(url=any_server.url, linger_ms=60_000) as producer:
        await producer.partitions_for("t")
        future = await producer.send("t", b"1", partition=0)
        any_client.client_pause(200)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await producer.flush()
        await producer.flush()
        assert future.result().offset == 0
    assert await stored_values({"url": any_server.url}, "t") == [b"1"]


async def test_cancelling_a_poll_loses_no_record(any_server: Server, any_client: redis.Redis) -> None:
    """Cancelled while it waits, or while it fetches: the next poll goes on as if nothing had been."""
    async with Producer(url=any_server.url) as producer, Consumer("t", url=any_server.url) as consumer:
        await producer.partitions_for("t")
        got: list[bytes] = []
        for n in range(20):
            if n % 2:
                any_client.client_pause(20)
            polling = asyncio.create_task(consumer.poll(10_000))
            await aio_wait_until(
                lambda polling=polling: polling.done() or consumer._in_use.locked(), "the poll to begin"
            )
            polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                got += [r.value for part in (await polling).values() for r in part]
            await producer.send_and_wait("t", b"%d" % n, partition=0)
        got += [r.value for r in await read(consumer, 20 - len(got))]
        assert got == [b"%d" % n for n in range(20)]


async def test_cancelling_a_loop_loses_no_record(aio_args: dict[str, Any]) -> None:
    """A task that is cancelled in the middle of its loop leaves the consumer behind the last record it had."""
    async with Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        await producer.send_many("t", [b"%d" % n for n in range(50)], partition=0)
        got: list[bytes] = []

        async def follow() -> None:
            async for record in consumer:
                got.append(record.value)
                if len(got) == 20:
                    await asyncio.Event().wait()

        following = asyncio.create_task(follow())
        await aio_wait_until(lambda: len(got) == 20, "twenty records")
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        got += [r.value for r in await read(consumer, 30)]
        assert got == [b"%d" % n for n in range(50)]


# --- event loops, colours -------------------------------------------------------------------------------------------


def test_another_event_loop_is_told(any_server: Server) -> None:
    """Producer, consumer and admin belong to the loop that used them first."""
    url = any_server.url

    async def use() -> tuple[Producer, Consumer, Admin]:
        producer, consumer, admin = Producer(url=url), Consumer("t", url=url), Admin(url=url)
        await producer.send_and_wait("t", b"x")
        await read(consumer, 1)
        await admin.list_topics()
        return producer, consumer, admin

    async def use_elsewhere(producer: Producer, consumer: Consumer, admin: Admin) -> None:
        for call in (
            lambda: producer.send("t", b"y"),
            lambda: producer.send_and_wait("t", b"y"),
            lambda: producer.send_many("t", [b"y"]),
            producer.flush,
            lambda: consumer.poll(0),
            consumer.topics,
            admin.list_topics,
        ):
            with pytest.raises(IllegalStateError, match="another event loop: make one inside the loop"):
                await asyncio.wait_for(call(), 20)

    one = asyncio.new_event_loop()
    made = one.run_until_complete(use())
    asyncio.run(use_elsewhere(*made))

    async def close() -> None:
        for client in made:
            await client.close()

    one.run_until_complete(close())
    one.close()
    assert asyncio.run(stored_values({"url": url}, "t")) == [b"x"]


def test_objects_may_be_made_outside_a_loop(any_server: Server) -> None:
    """The first use decides where they live."""
    producer, consumer = Producer(url=any_server.url), Consumer("t", url=any_server.url)

    async def use() -> list[bytes]:
        async with producer, consumer:
            await producer.send_and_wait("t", b"x")
            return [record.value for record in await read(consumer, 1)]

    assert asyncio.run(use()) == [b"x"]


@pytest.mark.parametrize("kind", [Producer, Consumer, Admin])
def test_a_blocking_client_is_refused(kind: Any) -> None:
    """The message says which client it was, and both ways out."""
    with pytest.raises(
        ConfigurationError, match=r"blocking client: pass a redis\.asyncio\.Redis, or use streamlayer without"
    ):
        kind(redis=redis.Redis())


def test_a_forked_child_begins_anew(any_server: Server) -> None:
    """In the child's own loop the producer works, the consumer says that it is the parent's."""
    done = run(
        """
        import asyncio, os, sys, time
        from streamlayer.aio import Consumer, Producer
        from streamlayer.errors import IllegalStateError
        url = sys.argv[1]
        async def child(producer, consumer):
            try:
                await consumer.poll(0)
            except IllegalStateError as error:
                print("child:", error, flush=True)
            await producer.send("t", b"child", partition=0)
            await producer.close()
        async def main():
            producer = Producer(url=url, linger_ms=60_000)
            consumer = Consumer("t", url=url)
            await producer.send_and_wait("t", b"0", partition=0)
            assert len(await consumer.poll(5000)) == 1
            await producer.send("t", b"parent", partition=0)
            pid = os.fork()
            if pid == 0:
                try:
                    asyncio.run(child(producer, consumer))
                except BaseException as error:
                    print("child died:", repr(error), flush=True)
                finally:
                    os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            begin = time.monotonic()
            await producer.send("t", b"parent again", partition=0)
            await producer.close()
            assert time.monotonic() - begin < 4.5, "the parent's event loop has lost its connection"
            print(sorted([record.value async for record in consumer.read_to_end()]))
            await consumer.close()
        asyncio.run(main())
        """,
        any_server.url,
    )
    assert done.returncode == 0, done.stderr
    assert "before a fork: make a new one in the child" in done.stdout, done.stdout
    assert "[b'child', b'parent', b'parent again']" in done.stdout, done.stdout + done.stderr


def test_exit_without_close_ends(any_server: Server) -> None:
    """A loop that ends with open clients ends: no hang, no traceback of ours."""
    done = run(
        """
        import asyncio, sys
        from streamlayer.aio import Consumer, Producer
        async def main():
            producer, consumer = Producer(url=sys.argv[1]), Consumer("t", url=sys.argv[1])
            await producer.send_and_wait("t", b"x")
            await consumer.poll(100)
            await consumer.poll(100)
        asyncio.run(main())
        print("ended")
        """,
        any_server.url,
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr
    assert "Traceback" not in done.stderr


# --- turns ----------------------------------------------------------------------------------------------------------


async def test_busy_loops_let_others_run(aio_args: dict[str, Any]) -> None:
    """Sending and iterating without ever really waiting do not starve a ticker: it has its share of the computing."""
    gaps: list[float] = []
    stop = asyncio.Event()

    async def tick() -> None:
        last = time.thread_time()
        while not stop.is_set():
            await asyncio.wait([asyncio.ensure_future(stop.wait())], timeout=0.001)
            now = time.thread_time()
            gaps.append(now - last)
            last = now

    async with Producer(**aio_args) as producer, Consumer("t", **aio_args) as consumer:
        await producer.partitions_for("t")
        ticking = asyncio.create_task(tick())
        for n in range(100_000):
            await producer.send("t", b"%d" % n, b"k%d" % (n % 10))
        await producer.flush()
        count = 0
        async for _ in consumer:
            count += 1
            if count == 100_000:
                break
        stop.set()
        await ticking
    assert max(gaps) < sum(gaps) / 2, f"the ticker stood still for {max(gaps)} of {sum(gaps)} s"


async def test_two_tasks_share_a_producer(aio_args: dict[str, Any]) -> None:
    """send, send_and_wait, send_many and flush from ten tasks: each record once, in order for each task's key."""
    async with Producer(**aio_args, batch_size=2000) as producer:

        async def work(n: int) -> None:
            key = b"task-%d" % n
            for i in range(40):
                if i % 20 == 5:
                    await producer.send_and_wait("t", b"%d" % i, key)
                elif i % 20 == 10:
                    await producer.send_many("t", [b"%d" % i], [key])
                else:
                    await producer.send("t", b"%d" % i, key)
                if i % 20 == 15:
                    await producer.flush()

        await asyncio.gather(*map(work, range(10)))
    by_key: dict[bytes, list[int]] = {}
    async with Consumer("t", **aio_args) as consumer:
        async for record in consumer.read_to_end():
            by_key.setdefault(record.key or b"", []).append(int(record.value))
    assert by_key == {b"task-%d" % n: list(range(40)) for n in range(10)}


async def test_wakeup_from_a_signal_handler(aio_args: dict[str, Any]) -> None:
    """loop.call_later, call_soon_threadsafe or a handler: wakeup is a plain function."""
    async with Consumer("t", **aio_args) as consumer:
        await consumer.poll(0)
        asyncio.get_running_loop().call_later(0.05, consumer.wakeup)
        begin = time.monotonic()
        assert await consumer.poll(20_000) == {}
        assert time.monotonic() - begin < 5


async def test_an_end_that_came_this_moment_is_seen(own_server: Server) -> None:
    """The loop has not run since: a connection that the server has just ended is not taken for a good one."""
    with redis.Redis.from_url(own_server.url) as client:
        for _ in range(20):
            connection = redis.asyncio.Redis.from_url(own_server.url).connection_pool.make_connection()
            await connection.connect()
            await connection.send_command("CLIENT", "ID")
            number = await connection.read_response()
            assert not await waiting.hung_up(connection)
            client.client_kill_filter(_id=number)
            assert await waiting.hung_up(connection)
            await connection.disconnect()
