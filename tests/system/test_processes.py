"""What processes do to a producer and a consumer: fork, exit without close, Ctrl-C, SIGTERM, SIGKILL, sharing a topic.

Each program runs as its own interpreter, the way a user would write it; what it leaves on the server is read back here.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from streamlayer import Admin, Consumer, NewTopic, Producer
from streamlayer.embedded import Server
from tests.waiting import sync_wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[2]
PREAMBLE = """
import asyncio, os, signal, sys, threading, time
from streamlayer import *
from streamlayer import aio
url = sys.argv[1]
def say(*words): print(*words, flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for the file."""
    with Server(port=0) as running:
        yield running


@pytest.fixture(autouse=True)
def admin(server: Server) -> Iterator[Admin]:
    """An empty server with a topic `orders` of one partition."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    with Admin(url=server.url) as admin:
        admin.create_topics([NewTopic("orders", 1)])
        yield admin


class Program:
    """A Python program that runs; `expect` reads what it says."""

    def __init__(self, source: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", PREAMBLE + source, *args],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._said = b""

    def expect(self, line: str, *, timeout: float = 20) -> None:
        """Wait until it has said this line."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        while f"{line}\n".encode() not in self._said:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not piece:
                self.process.kill()
                message = f"it never said {line!r}, but: {self._said!r} {self.process.communicate()[1].decode()}"
                raise AssertionError(message)
            self._said += piece

    def say(self, line: str) -> None:
        """Tell it something, on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def end(self, *, timeout: float = 20) -> tuple[int, str, str]:
        """Wait for its end: exit code, what it said, what it complained."""
        try:
            said, complained = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler shows where it hangs
            _, complained = self.process.communicate()
            pytest.fail(f"it does not end: {complained.decode()}")
        return self.process.returncode, (self._said + said).decode(), complained.decode()


@contextmanager
def program(source: str, *args: str) -> Iterator[Program]:
    """Run one; it is gone at the end of the block."""
    running = Program(source, *args)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def run(source: str, *args: str) -> tuple[int, str, str]:
    """Run one to its end."""
    with program(source, *args) as running:
        return running.end()


def stored(server: Server, topic: str = "orders") -> list[bytes]:
    """The values of a topic, whose offsets are dense."""
    with Consumer(topic, url=server.url) as consumer:
        records = list(consumer.read_to_end())
    assert [record.offset for record in records] == list(range(len(records)))
    return [record.value for record in records]


# --- fork -------------------------------------------------------------------------------------------------------------


def test_fork_in_mid_use(server: Server) -> None:
    """A producer with records in its buffer is forked: what parent and child send is there, once each, in order."""
    code, _, errors = run(
        """
producer = Producer(url=url, linger_ms=1000)
for i in range(50): producer.send("orders", b"before-%d" % i)
child = os.fork()
name = b"parent" if child else b"child"
for i in range(50): producer.send("orders", b"%s-%d" % (name, i))
assert producer.send_and_wait("orders", name + b"-50").offset >= 50
if child:
    assert os.waitpid(child, 0)[1] == 0
""",
        server.url,
    )
    assert (code, errors) == (0, "")
    values = stored(server)
    expected = [b"before-%d" % i for i in range(50)]
    expected += [b"%s-%d" % (name, i) for name in (b"parent", b"child") for i in range(51)]
    assert Counter(values) == Counter(expected)
    for name in (b"parent", b"child"):
        assert [value for value in values if value.startswith(name)] == [b"%s-%d" % (name, i) for i in range(51)]


def test_fork_under_load(server: Server) -> None:
    """Twenty children are forked while threads of the parent send: no child hangs on a lock, nothing twice or lost."""
    code, _, errors = run(
        """
producer = Producer(url=url)
stop = threading.Event()
sent = [0] * 3
def work(n):
    while not stop.is_set():
        producer.send_and_wait("orders", b"thread-%d-%d" % (n, sent[n]))
        sent[n] += 1
threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
for thread in threads: thread.start()
producer.send_and_wait("orders", b"first")
children = []
for number in range(20):
    producer.send("orders", b"parent-%d" % number)
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        for i in range(5): producer.send("orders", b"child-%d-%d" % (number, i))
        producer.flush()
        os._exit(0)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
stop.set()
for thread in threads: thread.join()
producer.close()
assert codes == [0] * 20, codes
assert producer.health().state == "closed"
for n in range(3):
    for i in range(sent[n]): say("thread-%d-%d" % (n, i))
""",
        server.url,
    )[:3]
    assert code == 0, errors
    values = stored(server)
    assert len(values) == len(set(values))
    there = {value.decode() for value in values}
    for number in range(20):
        assert f"parent-{number}" in there
        assert [v for v in values if v.startswith(b"child-%d-" % number)] == [
            b"child-%d-%d" % (number, i) for i in range(5)
        ]


def test_a_child_leaves_the_parents_consumer_alone(server: Server) -> None:
    """A forked child may not read with its parent's consumer; leaving the block there ends no connection of it."""
    code, said, errors = run(
        """
import redis
def connections(): return {c["id"] for c in redis.Redis.from_url(url).client_list() if c["name"] == "streamlayer"}
with Consumer("orders", url=url) as consumer:
    consumer.poll(500)
    before = connections()
    child = os.fork()
    if child == 0:
        try:
            consumer.poll(0)
        except IllegalStateError as error:
            say("child:", error)
    else:
        assert os.waitpid(child, 0)[1] == 0
        say("connections:", len(before & connections()))
        with Producer(url=url) as producer:
            producer.send_and_wait("orders", b"to the parent")
        ((record,),) = consumer.poll(5000).values()
        say("parent:", record.value.decode())
""",
        server.url,
    )
    assert (code, errors) == (0, "")
    assert "child: it was made before a fork" in said
    assert "parent: to the parent" in said
    assert "connections: 2" in said  # one to fetch, one to listen


def test_multiprocessing_child_sends_at_its_end(server: Server) -> None:
    """A child of multiprocessing (fork) sends, by an inherited producer or its own, and just returns: all is there."""
    code, _, errors = run(
        """
producer = Producer(url=url)
producer.send_and_wait("orders", b"parent")
import multiprocessing
def work(name, producer):
    producer = producer or Producer(url=url)
    for i in range(20): producer.send("orders", b"%s-%d" % (name, i))
for name, given in ((b"first", producer), (b"second", producer), (b"own", None)):
    process = multiprocessing.get_context("fork").Process(target=work, args=(name, given))
    process.start()
    process.join()
""",
        server.url,
    )
    assert (code, errors) == (0, "")
    children = (b"first", b"second", b"own")
    assert stored(server) == [b"parent", *(b"%s-%d" % (name, i) for name in children for i in range(20))]


def test_a_future_from_before_a_fork_does_not_hang_the_child(server: Server) -> None:
    """The child asks a future whose record the parent will send: an error, not an endless wait."""
    code, said, errors = run(
        """
producer = Producer(url=url, linger_ms=1000)
future = producer.send("orders", b"value")
child = os.fork()
if child == 0:
    signal.alarm(5)
    try:
        future.result(timeout_ms=3000)
    except Exception as error:
        say(type(error).__name__)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
producer.close()
""",
        server.url,
    )
    assert (code, errors) == (0, "")
    assert said == "IllegalStateError\n"
    assert stored(server) == [b"value"]


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["", "sys.exit()", "raise SystemExit(0)", "del producer"])
def test_exit_without_close(server: Server, how: str) -> None:
    """A program that sends and falls off the end: all its records are there, though it waits for none."""
    source = """
producer = Producer(url=url, linger_ms=60000, delivery_timeout_ms=120000)
for i in range(20000): producer.send("orders", b"%d" % i)
"""
    code, said, errors = run(source + how, server.url)
    assert (code, said, errors) == (0, "", "")
    assert stored(server) == [b"%d" % i for i in range(20000)]


def test_a_traceback_without_close(server: Server) -> None:
    """A program that dies of its own error: what it sent is there all the same."""
    code, _, errors = run("Producer(url=url).send('orders', b'value')\nraise KeyError('mine')", server.url)
    assert code == 1
    assert "KeyError: 'mine'" in errors
    assert stored(server) == [b"value"]


def test_exit_with_unreachable_server() -> None:
    """The server has gone and the program ends: it waits for 5 s, once, and warns that records were left."""
    with Server(port=0) as server:
        source = """
producer = Producer(url=url)
producer.send_and_wait("orders", b"value")
say("ready")
sys.stdin.readline()
producer.send("orders", b"secret")
say("end")
"""
        with program(source, server.url) as running:
            running.expect("ready")
            server.kill()
            running.say("go on")
            running.expect("end")
            began = time.monotonic()
            code, _, errors = running.end()
            took = time.monotonic() - began
    assert code == 0
    assert took < 9  # what has to be waited for, twice, would be ten
    assert "left" in errors
    assert "Traceback" not in errors
    assert "secret" not in errors


READ_LOOP = {
    "sync": """
try:
    with Consumer("orders", url=url) as consumer:
        say("ready")
        for record in consumer:
            say("read", record.value.decode())
except KeyboardInterrupt:
    say("interrupted")
""",
    "aio": """
async def main():
    async with aio.Consumer("orders", url=url) as consumer:
        say("ready")
        async for record in consumer:
            say("read", record.value.decode())
try:
    asyncio.run(main())
except KeyboardInterrupt:
    say("interrupted")
""",
}


@pytest.mark.parametrize("colour", ["sync", "aio"])
@pytest.mark.parametrize("traffic", [False, True], ids=["idle", "busy"])
def test_ctrl_c_in_a_read_loop(server: Server, colour: str, *, traffic: bool) -> None:
    """Ctrl-C ends a read loop in its `with` block at once, without noise, whether records come or not."""
    with Producer(url=server.url) as producer, program(READ_LOOP[colour], server.url) as running:
        running.expect("ready")
        producer.send_and_wait("orders", b"0")
        running.expect("read 0")
        if traffic:
            producer.send_many("orders", [b"%d" % i for i in range(1, 200_000)])
            running.expect("read 100")
        began = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        code, said, errors = running.end()
    assert (code, errors) == (0, "")
    assert said.endswith("interrupted\n")
    assert time.monotonic() - began < 4.5


@pytest.mark.parametrize("colour", ["sync", "aio"])
def test_ctrl_c_while_sending(server: Server, colour: str) -> None:
    """Ctrl-C in a loop that sends and waits, in its `with` block: it ends, and what was acknowledged is there, once."""
    source = {
        "sync": """
count = 0
try:
    with Producer(url=url) as producer:
        while True:
            producer.send_and_wait("orders", b"%d" % count)
            count += 1
            if count == 200: say("busy")
except KeyboardInterrupt:
    say("acked", count)
""",
        "aio": """
count = 0
async def main():
    global count
    async with aio.Producer(url=url) as producer:
        while True:
            await producer.send_and_wait("orders", b"%d" % count)
            count += 1
            if count == 200: say("busy")
try:
    asyncio.run(main())
except KeyboardInterrupt:
    say("acked", count)
""",
    }[colour]
    with program(source, server.url) as running:
        running.expect("busy")
        running.process.send_signal(signal.SIGINT)
        code, said, errors = running.end()
    assert (code, errors) == (0, "")
    acked = int(said.split()[-1])
    # The one in hand may be there too.
    assert stored(server) in ([b"%d" % i for i in range(acked)], [b"%d" % i for i in range(acked + 1)])


def test_ctrl_c_at_any_moment(server: Server) -> None:
    """Three hundred interrupts in a loop that sends and waits and goes on: nothing hangs, nothing is there twice.

    What was acknowledged is where the answer said; what was interrupted is there once, or not at all.
    """
    code, said, errors = run(
        """
import random
producer = Producer(url=url)
producer.send_and_wait("orders", b"first")
pestering = True
def pester():
    global pestering
    for _ in range(300):
        time.sleep(random.uniform(0.0005, 0.003))  # waits for nothing: interrupts shall come at any moment
        os.kill(os.getpid(), signal.SIGINT)
    pestering = False
thread = threading.Thread(target=pester)
acked, count = {}, 0
while pestering or thread.is_alive():
    try:
        if not thread.ident: thread.start()
        acked[count] = producer.send_and_wait("orders", b"%d" % count).offset
    except KeyboardInterrupt:
        pass
    count += 1
producer.close()
say(count)
with Consumer("orders", url=url) as consumer:
    values = [record.value for record in consumer.read_to_end()][1:]
assert len(set(values)) == len(values)
assert sorted(values, key=int) == values
assert all(values[offset - 1] == b"%d" % number for number, offset in acked.items())
assert len(acked) < count, "it was interrupted"
""",
        server.url,
    )
    assert (code, errors) == (0, "")
    assert len(stored(server)) <= int(said) + 1


WAKEUP = {
    "sync": """
with Consumer("orders", url=url) as consumer:
    signal.signal(signal.SIGTERM, lambda *_: consumer.wakeup())
    say("ready")
    seen = []
    for record in consumer:
        seen.append(int(record.value))
        if len(seen) == 100: say("busy")
    say("ended")
    for record in consumer.read_to_end():
        seen.append(int(record.value))
    assert seen == list(range(len(seen))), seen
    say("seen", len(seen))
""",
    "aio": """
async def main():
    async with aio.Consumer("orders", url=url) as consumer:
        if len(sys.argv) > 2:
            signal.signal(signal.SIGTERM, lambda *_: consumer.wakeup())
        else:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.wakeup)
        say("ready")
        seen = []
        async for record in consumer:
            seen.append(int(record.value))
            if len(seen) == 100: say("busy")
        say("ended")
        async for record in consumer.read_to_end():
            seen.append(int(record.value))
        assert seen == list(range(len(seen))), seen
        say("seen", len(seen))
asyncio.run(main())
""",
}


@pytest.mark.parametrize(
    ("colour", "args"), [("sync", []), ("aio", []), ("aio", ["plain"])], ids=["sync", "aio", "aio-plain-handler"]
)
@pytest.mark.parametrize("traffic", [False, True], ids=["idle", "busy"])
def test_sigterm_through_wakeup(server: Server, colour: str, args: list[str], *, traffic: bool) -> None:
    """A SIGTERM handler that calls wakeup() ends the iteration, soon; reading on from there misses nothing."""
    with Producer(url=server.url) as producer, program(WAKEUP[colour], server.url, *args) as running:
        running.expect("ready")
        total = 0
        if traffic:
            total = 300_000
            producer.send_many("orders", [b"%d" % i for i in range(total)])
            running.expect("busy")
        else:
            with redis.Redis.from_url(server.url) as client:
                sync_wait_until(client.pubsub_channels, "it listens")
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        running.expect("ended")
        assert time.monotonic() - began < 4.5
        code, said, errors = running.end()
    assert (code, errors) == (0, "")
    assert said.endswith(f"seen {total}\n")


# --- several of them --------------------------------------------------------------------------------------------------


def test_a_killed_producer_leaves_a_prefix(server: Server) -> None:
    """SIGKILL in mid-stream: what is there is a prefix of what was sent, and holds all that was acknowledged."""
    source = """
producer = Producer(url=url, batch_size=2000, linger_ms=0)
acked = 0
for i in range(10**9):
    future = producer.send("orders", b"%d" % i)
    if i % 50 == 0:
        future.result()
        os.write(1, b"acked %d\\n" % i)
"""
    with program(source, server.url) as running:
        running.expect("acked 5000")
        running.process.kill()
        _, said, _ = running.end()
    values = stored(server)
    assert values == [b"%d" % i for i in range(len(values))]
    whole_lines = said[: said.rfind("\n")]
    assert len(values) > int(whole_lines.rpartition(" ")[2])


def test_two_processes_share_a_topic(server: Server) -> None:
    """A process of each colour writes what the other one reads, at the same time, and both see all of it in order."""
    sync = """
with Producer(url=url) as producer, Consumer("orders", url=url) as consumer:
    mine, seen = sys.argv[2].encode(), []
    for i in range(500):
        producer.send("orders", b"%s-%d" % (mine, i), b"key")
    producer.flush()
    while len(seen) < 1000:
        for records in consumer.poll(5000).values(): seen += [(r.offset, r.value.decode()) for r in records]
    say(*(f"{offset}:{value}" for offset, value in seen))
"""
    aio_ = """
async def main():
    async with aio.Producer(url=url) as producer, aio.Consumer("orders", url=url) as consumer:
        mine, seen = sys.argv[2].encode(), []
        for i in range(500):
            await producer.send("orders", b"%s-%d" % (mine, i), b"key")
        await producer.flush()
        while len(seen) < 1000:
            for records in (await consumer.poll(5000)).values(): seen += [(r.offset, r.value.decode()) for r in records]
        say(*(f"{offset}:{value}" for offset, value in seen))
asyncio.run(main())
"""
    with program(sync, server.url, "a") as first, program(aio_, server.url, "b") as second:
        ends = [first.end(), second.end()]
    assert [(code, errors) for code, _, errors in ends] == [(0, ""), (0, "")]
    assert ends[0][1] == ends[1][1]
    values = [word.partition(":")[2] for word in ends[0][1].split()]
    assert [word.partition(":")[0] for word in ends[0][1].split()] == [str(i) for i in range(1000)]
    for name in "ab":
        assert [value for value in values if value.startswith(name)] == [f"{name}-{i}" for i in range(500)]
