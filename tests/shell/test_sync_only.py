"""What only threads can get wrong: results that block, many threads, signals, forks, and an interpreter that ends."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from streamlayer import Admin, Consumer, NewTopic, Producer, RecordFuture, TopicPartition
from streamlayer._waiting import threads
from streamlayer.embedded import Server
from streamlayer.errors import ConfigurationError, IllegalStateError, InvalidTimestampError, RequestTimedOutError
from tests import servers
from tests.shell.sync_.reading import read, stored_values
from tests.waiting import sync_wait_until

ROOT = Path(__file__).parents[2]
TP = TopicPartition("t", 0)
FAR_MS = 253_402_300_800_000 - 1  # the year 9999


def run(code: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def begin(code: str, *args: str) -> subprocess.Popen[str]:
    """Start a program; its stdout is a pipe."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(code), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


# --- futures --------------------------------------------------------------------------------------------------------


def test_result_ends_lingering(sync_args: dict[str, Any]) -> None:
    """It waits for the record, and so for nothing else."""
    with Producer(**sync_args, linger_ms=60_000) as producer:
        first, second = producer.send("t", b"1", partition=0), producer.send("t", b"2", partition=0)
        other = producer.send("t", b"3", partition=1)
        assert second.result().offset == 1
        assert first.done()
        assert first.exception() is None
        assert not other.done()
        assert other.exception() is None


def test_a_result_with_a_limit(any_server: Server, any_client: redis.Redis) -> None:
    """RequestTimedOutError says that the record is still on its way; the result comes later all the same."""
    with Producer(url=any_server.url) as producer:
        producer.send_and_wait("t", b"0")
        any_client.config_set("maxmemory", "1mb")
        future = producer.send("t", b"1", partition=1)
        for ask in (future.result, future.exception):
            with pytest.raises(RequestTimedOutError, match="timeout_ms=50; the record is still on its way"):
                ask(timeout_ms=50)
        with pytest.raises(RequestTimedOutError, match="still on its way"):
            producer.send_and_wait("t", b"2", partition=1, timeout_ms=50)
        any_client.config_set("maxmemory", "0")
        assert future.result().offset == 0
    assert sorted(stored_values({"url": any_server.url}, "t")) == [b"0", b"1", b"2"]


def test_result_raises_what_became_of_the_record(sync_args: dict[str, Any]) -> None:
    """As often as it is asked."""
    with Producer(**sync_args) as producer:
        future = producer.send("t", b"x", timestamp_ms=FAR_MS)
        for _ in range(2):
            with pytest.raises(InvalidTimestampError):
                future.result()
            assert isinstance(future.exception(), InvalidTimestampError)


def test_a_callback_may_send(sync_args: dict[str, Any]) -> None:
    """It runs in a thread of the producer's, which must not wait for itself."""
    with Producer(**sync_args) as producer:
        sent: list[RecordFuture] = []
        first = producer.send("t", b"first", partition=0)
        first.add_done_callback(lambda _: sent.append(producer.send("t", b"second", partition=0)))
        first.result()
        sync_wait_until(lambda: sent, "the callback's record")
        assert sent[0].result(timeout_ms=20_000).offset == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_ends_its_thread_harms_nobody(sync_args: dict[str, Any]) -> None:
    """Not even SystemExit leaves the other futures undecided, or the producer without a sender."""

    def end(_: RecordFuture) -> None:
        raise SystemExit

    with Producer(**sync_args, linger_ms=20) as producer:
        futures = [producer.send("t", b"%d" % n, partition=n) for n in range(4)]
        futures[0].add_done_callback(end)
        for future in futures:
            sync_wait_until(future.done, "every future")
        assert producer.send("t", b"later", partition=0).result(timeout_ms=20_000).offset == 1


# --- threads --------------------------------------------------------------------------------------------------------


def test_many_threads_begin_at_once(sync_args: dict[str, Any]) -> None:
    """The very first send of eight threads opens the topic once: no record is lost, no two topics of one name."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for round_ in range(8):
            topic = f"t{round_}"
            producer = Producer(**sync_args)
            barrier = threading.Barrier(8)
            futures: list[RecordFuture] = []
            errors: list[BaseException] = []

            def work(
                n: int, topic: str = topic, producer: Producer = producer, barrier: threading.Barrier = barrier,
                futures: list[RecordFuture] = futures, errors: list[BaseException] = errors,
            ) -> None:  # fmt: skip
                barrier.wait()
                try:
                    futures.append(producer.send(topic, b"%d" % n, b"k%d" % n))
                except BaseException as error:  # noqa: BLE001 - it is shown below
                    errors.append(error)

            threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert errors == []
            producer.flush(timeout_ms=20_000)
            assert all(future.done() for future in futures)
            producer.close()
            assert sorted(stored_values(sync_args, topic)) == [b"%d" % n for n in range(8)]
    finally:
        sys.setswitchinterval(interval)


def test_many_threads_share_a_producer(sync_args: dict[str, Any]) -> None:
    """send, send_and_wait, send_many and flush from six threads: each record once, in order for each thread's key."""
    with Producer(**sync_args, batch_size=2000) as producer:
        errors: list[BaseException] = []

        def work(n: int) -> None:
            key = b"thread-%d" % n
            try:
                for i in range(60):
                    if i % 20 == 5:
                        producer.send_and_wait("t", b"%d" % i, key)
                    elif i % 20 == 10:
                        producer.send_many("t", [b"%d" % i], [key])
                    else:
                        producer.send("t", b"%d" % i, key)
                    if i % 20 == 15:
                        producer.flush()
            except BaseException as error:  # noqa: BLE001 - it is shown below
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        producer.flush()
    with Consumer("t", **sync_args) as consumer:
        by_key: dict[bytes, list[int]] = {}
        for record in consumer.read_to_end():
            by_key.setdefault(record.key or b"", []).append(int(record.value))
    assert by_key == {b"thread-%d" % n: list(range(60)) for n in range(6)}


def test_closing_while_others_send(sync_args: dict[str, Any]) -> None:
    """Each send either is refused or its future is decided; what says it is stored is stored, nothing hangs."""
    for _ in range(10):
        producer = Producer(**sync_args)
        producer.partitions_for("t")
        futures: list[tuple[bytes, RecordFuture]] = []
        started = threading.Barrier(4)

        def work(
            n: int, producer: Producer = producer, futures: list[Any] = futures, started: threading.Barrier = started
        ) -> None:
            started.wait()
            try:
                for i in range(10_000):
                    value = b"%d-%d" % (n, i)
                    futures.append((value, producer.send("t", value, b"k%d" % n)))
            except IllegalStateError:
                return

        threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        started.wait()
        with contextlib.suppress(RequestTimedOutError):  # what was given in the last moment was given up, and says so
            producer.close()
        for thread in threads:
            thread.join()
        undecided = [value for value, future in futures if not future.done()]
        assert undecided == []
    said = [value for value, future in futures if future.exception() is None]
    assert set(said) <= set(stored_values(sync_args, "t"))


def test_two_threads_say_what_a_subscription_is_to_hear(sync_args: dict[str, Any]) -> None:
    """The consumer's thread and the one beside it write on one connection: neither is in the other's way."""
    with Consumer("t", **sync_args) as consumer, Admin(**sync_args) as admin:
        admin.create_topics([NewTopic("t", 1)])
        consumer.poll(100)
        subscriber = consumer._subscriber
        sync_wait_until(lambda: subscriber._connection is not None, "it listens")
        failures: list[BaseException] = []

        def listen(name: str) -> None:
            try:
                for number in range(300):
                    subscriber.listen([f"{name}-{number}"])
                    subscriber.stop_listening([f"{name}-{number}"])
            except BaseException as error:  # noqa: BLE001 - it is what is looked for
                failures.append(error)

        threads = [threading.Thread(target=listen, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def test_a_consumer_is_one_threads_at_a_time(sync_args: dict[str, Any]) -> None:
    """One after the other is fine; the second at once is told."""
    with Producer(**sync_args) as producer, Consumer("t", **sync_args) as consumer:
        producer.send_and_wait("t", b"1")
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(read(consumer, 1)))
        thread.start()
        thread.join()
        assert [record.value for record in answers[0]] == [b"1"]
        assert consumer.poll(0) == {}


# --- the wrong colour, fakeredis ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Producer, Consumer, Admin])
def test_an_asyncio_client_is_refused(kind: Any) -> None:
    """The message says which client it was, and both ways out."""
    with pytest.raises(
        ConfigurationError, match=r"redis\.asyncio.*asyncio client: pass a redis\.Redis, or use streamlayer\.aio"
    ):
        kind(redis=redis.asyncio.Redis())


@pytest.mark.parametrize(("given", "used"), [(None, 5), (0.5, 0.5), (60, 5)])
def test_no_answer_is_waited_for_for_ever(given: float | None, used: float) -> None:
    """A client's own socket_timeout may be shorter; without one a server that hangs would hang its caller."""
    producer = Producer(redis=redis.Redis(socket_timeout=given))
    assert producer._client.settings.options["socket_timeout"] == used


def test_threads_may_send_on_one_connection(server: servers.TestServer) -> None:
    """Who closes a consumer ends its reader's wait, on the connection on which the reader may be sending just now."""
    with server.sync_client() as client:
        connection = client.connection_pool.get_connection()
        errors: list[Exception] = []

        def send() -> None:
            try:
                for _ in range(500):
                    threads.transmit(connection, "PING")
            except Exception as error:  # noqa: BLE001 - the test shows it
                errors.append(error)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            senders = [threading.Thread(target=send) for _ in range(4)]
            for thread in senders:
                thread.start()
            for thread in senders:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert errors == []
        assert [connection.read_response(disable_decoding=True) for _ in range(2000)] == [b"PONG"] * 2000
        client.connection_pool.release(connection)


def test_fakeredis_without_lua_is_told() -> None:
    """In both colours the message says what to install."""
    done = run(
        """
        import asyncio, sys
        sys.modules["lupa"] = None
        import fakeredis, streamlayer, streamlayer.aio
        from streamlayer.errors import ConfigurationError
        async def aio():
            async with streamlayer.aio.Producer(redis=fakeredis.FakeAsyncRedis()) as producer:
                await producer.send_and_wait("t", b"x")
        def sync():
            with streamlayer.Producer(redis=fakeredis.FakeRedis()) as producer:
                producer.send_and_wait("t", b"x")
        for use in (sync, lambda: asyncio.run(aio())):
            try:
                use()
            except ConfigurationError as error:
                print(error)
        """
    )
    assert done.stdout.count("pip install 'fakeredis[lua]'") == 2, done.stdout + done.stderr


# --- forks ----------------------------------------------------------------------------------------------------------


def test_a_forked_child_begins_anew(any_server: Server) -> None:
    """The parent's buffer is the parent's; the child's producer works, its consumer says that it is the parent's."""
    done = run(
        """
        import os, sys
        from streamlayer import Consumer, IllegalStateError, Producer
        url = sys.argv[1]
        producer = Producer(url=url, linger_ms=60_000)
        consumer = Consumer("t", url=url)
        producer.send_and_wait("t", b"0", partition=0)
        assert len(consumer.poll(5000)) == 1
        producer.send("t", b"parent", partition=0)
        pid = os.fork()
        if pid == 0:
            try:
                try:
                    consumer.poll(0)
                except IllegalStateError as error:
                    print("child:", error, flush=True)
                producer.send("t", b"child", partition=0)
                producer.close()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        producer.send("t", b"parent again", partition=0)
        producer.close()
        print(sorted(record.value for record in consumer.read_to_end()))
        consumer.close()
        """,
        any_server.url,
    )
    assert done.returncode == 0, done.stderr
    assert "before a fork: make a new one in the child" in done.stdout
    assert "[b'child', b'parent', b'parent again']" in done.stdout, done.stdout + done.stderr


# --- the interpreter's end, signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_exit_without_close_sends_what_is_left(any_server: Server, kept: bool) -> None:
    """A producer that nobody closed, or even one that nobody holds any more, is flushed at the end."""
    done = run(
        """
        import sys
        from streamlayer import Producer
        def produce():
            producer = Producer(url=sys.argv[1], linger_ms=60_000)
            for n in range(10):
                producer.send("t", b"%d" % n, partition=0)
            return producer
        kept = produce()
        if sys.argv[2] == "False":
            del kept
            import gc
            gc.collect()
        """,
        any_server.url,
        str(kept),
    )
    assert done.returncode == 0, done.stderr
    assert stored_values({"url": any_server.url}, "t") == [b"%d" % n for n in range(10)]


def test_a_producer_that_is_dropped_still_sends(sync_args: dict[str, Any]) -> None:
    """Its records are not lost with the object, and its thread ends."""
    before = threading.active_count()
    Producer(**sync_args, linger_ms=50).send("t", b"x", partition=0)
    gc.collect()
    with Consumer("t", **sync_args) as consumer:
        assert [record.value for record in read(consumer, 1)] == [b"x"]
    sync_wait_until(lambda: threading.active_count() <= before, "the dropped producer's thread to end")


def test_a_consumer_that_is_dropped_ends_its_thread(any_server: Server) -> None:
    """No thread goes on listening for nobody."""
    before = threading.active_count()
    with Admin(url=any_server.url) as admin:
        admin.create_topics([NewTopic("t", 1)])
    consumer: Consumer | None = Consumer("t", url=any_server.url)
    assert consumer is not None
    consumer.poll(50)
    del consumer
    gc.collect()
    sync_wait_until(lambda: threading.active_count() <= before, "the dropped consumer's thread to end")


READER = """
    import signal, sys
    from streamlayer import Consumer
    consumer = Consumer("t", url=sys.argv[1])
    if sys.argv[2] == "wakeup":
        signal.signal(signal.SIGTERM, lambda *_: consumer.wakeup())
    got = []
    try:
        for record in consumer:
            got.append(record.offset)
            print("record", flush=True)
        print("loop ended", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    position = consumer.position(record.topic_partition)
    consumer.topics(), consumer.poll(0)
    print(position, sorted(consumer.topics()), flush=True)
    consumer.close()
"""


@pytest.mark.parametrize(
    ("number", "how", "said"), [(signal.SIGINT, "plain", "interrupted"), (signal.SIGTERM, "wakeup", "loop ended")]
)
def test_a_signal_ends_a_read_loop(any_server: Server, number: int, how: str, said: str) -> None:
    """Ctrl-C by its exception, SIGTERM through wakeup: soon, and the consumer can still be asked and closed."""
    with Producer(url=any_server.url) as producer:
        producer.send_and_wait("t", b"0", partition=0)
        with begin(READER, any_server.url, how) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "record\n"
            reader.send_signal(number)
            out, err = reader.communicate(timeout=10)
    assert out.splitlines() == [said, "1 ['t']"], err
    assert reader.returncode == 0


def test_an_interrupt_in_the_middle_of_a_call_leaves_no_stale_answer(
    any_server: Server, any_client: redis.Redis
) -> None:
    """Ctrl-C while an answer is awaited: the next call does not take it for its own."""
    with Producer(url=any_server.url) as producer, Consumer("t", url=any_server.url) as consumer:
        producer.send_and_wait("t", b"x", partition=0)
        consumer.topics()
        any_client.client_pause(400)
        timer = threading.Timer(0.1, lambda: signal.raise_signal(signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            consumer.partitions_for_topic("t")
        timer.join()
        any_client.execute_command("CLIENT UNPAUSE")
        assert consumer.topics() == {"t"}
        assert consumer.partitions_for_topic("t") == {0, 1, 2, 3}
        assert [record.value for record in read(consumer, 1)] == [b"x"]
