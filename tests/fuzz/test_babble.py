"""A server that babbles: whatever bytes come back, clients of both colours raise documented errors, in time."""

from __future__ import annotations

import asyncio
import random
import resource
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from streamlayer import Admin, Consumer, Producer, StreamlayerError, TopicPartition, aio
from tests.fuzz.inputs import TRIED
from tests.profiles import examples
from tests.system.resp import Splitter, command_name

pytestmark = pytest.mark.timeout(300)

TP = TopicPartition("t", 0)
PIECES = [
    b"+OK\r\n", b"-ERR x\r\n", b":1\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n", b"$3\r\nabc\r\n",
    b"*2\r\n$1\r\n1\r\n:5\r\n", b"*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", b"$99999999999\r\nabc", b"$-5\r\n",
    b"*1000000000\r\n", b"*-7\r\n", b":abc\r\n", b"+\xff\xfe\r\n", b"\x00\x00", b"\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n", b"%1\r\n+a\r\n+b\r\n", b">2\r\n+a\r\n+b\r\n", b"_\r\n", b"#t\r\n",
    b"%1\r\n*1\r\n:1\r\n:2\r\n", b"*4000000000\r\n", b"*1\r\n" * 3000, b",nan\r\n", b"(12345678901234567890\r\n",
    b"*3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n",
    b"*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n", b"$4\r\n\xff\xff\xff\xff\r\n",
    b"-TRUNCATED x\r\n", b"-SEGMENT\r\n", b"-MOVED 1 1.2.3.4:1\r\n", b"-LOADING x\r\n", b"",
]  # fmt: skip


class Babbler(socketserver.BaseRequestHandler):
    """Answers rightly what connecting needs (most of them do), and then as the dice say."""

    dice = random.Random(0)
    manners = 1.0
    polite = frozenset({"HELLO", "AUTH", "CLIENT", "SELECT"})

    def handle(self) -> None:
        """One connection."""
        splitter = Splitter()
        while data := self.request.recv(65_536):
            for command in splitter.feed(data):
                if not self._answer(command_name(command)):
                    return

    def _answer(self, name: str) -> bool:
        handshake = name in self.polite and self.dice.random() < self.manners
        if handshake or (name in {"INFO", "SCRIPT"} and self.dice.random() < 0.97):
            self.request.sendall(b"$0\r\n\r\n" if name == "INFO" else b"+OK\r\n")
            return True
        how = self.dice.random()
        TRIED["babble"] += 1
        if how < 0.1:
            return False  # hangs up
        if how < 0.3:
            self.request.sendall(self.dice.randbytes(self.dice.randrange(1, 60)))
        else:
            pieces = self.dice.choices(PIECES, k=self.dice.randrange(1, 4))
            self.request.sendall(b"".join(pieces))
        return True


@contextmanager
def babbling(seed: int) -> Iterator[str]:
    """Its URL. A client gives a connection up that is silent for 200 ms."""
    Babbler.dice = random.Random(seed)
    Babbler.manners = 1.0 if seed % 4 else 0.7
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Babbler) as server:
        threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True).start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}/0?socket_timeout=0.2"
        finally:
            server.shutdown()


def story(url: str) -> None:
    """What each client does first."""

    def produce() -> None:
        with Producer(url=url, delivery_timeout_ms=400, max_block_ms=400) as producer:
            producer.send_and_wait("t", b"a")

    def read() -> None:
        with Consumer(url=url) as consumer:
            consumer.assign([TP])
            for _ in range(5):
                with suppress(StreamlayerError):
                    consumer.poll(100)

    def join() -> None:
        with Consumer("t", url=url, group_id="g", session_timeout_ms=400, heartbeat_interval_ms=100) as consumer:
            for _ in range(5):
                with suppress(StreamlayerError):
                    consumer.poll(100)

    def look() -> None:
        with Admin(url=url) as admin:
            admin.list_topics()

    for attempt in (produce, read, join, look):
        try:
            attempt()
        except StreamlayerError:
            continue


async def story_aio(url: str) -> None:
    """The same with asyncio."""

    async def produce() -> None:
        async with aio.Producer(url=url, delivery_timeout_ms=400, max_block_ms=400) as producer:
            await producer.send_and_wait("t", b"a")

    async def read() -> None:
        async with aio.Consumer(url=url) as consumer:
            consumer.assign([TP])
            for _ in range(5):
                with suppress(StreamlayerError):
                    await consumer.poll(100)

    async def join() -> None:
        async with aio.Consumer(
            "t", url=url, group_id="g", session_timeout_ms=400, heartbeat_interval_ms=100
        ) as member:
            for _ in range(3):
                with suppress(StreamlayerError):
                    await member.poll(100)

    async def look() -> None:
        async with aio.Admin(url=url) as admin:
            await admin.list_topics()

    for attempt in (produce, read, join, look):
        try:
            await attempt()
        except StreamlayerError:
            continue


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def told(seed: int, error: Exception) -> Any:
    """Say which seed it was."""
    error.add_note(f"seed {seed}")
    return error


@pytest.mark.parametrize("colour", ["sync", "aio"])
@pytest.mark.parametrize("seed", range(examples(2)))
def test_babble(seed: int, colour: str) -> None:
    """Documented errors, in seconds, whatever the bytes; and no memory for what they only announce."""
    began, held = time.monotonic(), peak()
    with babbling(seed) as url:
        try:
            if colour == "sync":
                story(url)
            else:
                asyncio.run(story_aio(url))
        except Exception as error:
            raise told(seed, error) from error
    assert time.monotonic() - began < 40
    assert peak() - held < 300 << 20
