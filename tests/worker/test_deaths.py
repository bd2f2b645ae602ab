"""Records whose handling ends their worker: each is found, tried alone, and put among the dead letters; no other is."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamlayer import App, OffsetAndMetadata, Retry, TopicConfig, TopicPartition
from streamlayer._worker import isolation, pool
from streamlayer.aio import Admin, Consumer
from streamlayer.embedded import Server
from tests.waiting import aio_wait_until, sync_wait_until
from tests.worker.diary import committed, lag, produce, stored, until_done, work

ROOT = Path(__file__).parents[2]
TP = TopicPartition("t", 0)
POISON = b"41"


class Lives:
    """A worker that is started again each time it has died.

    It dies within the process: its runners are cancelled amid their calls, and commit nothing. That is what others see
    of a process that is killed, after its members were taken out of the group.
    """

    def __init__(self) -> None:
        self.count = 0
        self._dying = asyncio.Event()

    async def die(self) -> None:
        """Of a handler: its worker ends here."""
        self._dying.set()
        await asyncio.Event().wait()

    async def live(self, app: App, args: dict[str, Any], most: int) -> None:
        """Until everything is committed, or so many lives are over."""
        while self.count < most:
            self.count += 1
            self._dying.clear()
            serving = asyncio.create_task(app.serve(asyncio.Event()))
            done = asyncio.create_task(until_done(args, "g", app))
            dying = asyncio.create_task(self._dying.wait())
            await asyncio.wait([done, dying, serving], return_when=asyncio.FIRST_COMPLETED)
            for task in asyncio.all_tasks():
                if task is dying or (not done.done() and task.get_name().startswith("streamlayer ")):
                    task.cancel()
            if done.done():
                serving.cancel()
            await asyncio.gather(serving, dying, return_exceptions=True)
            if done.done():
                await done
                return
            done.cancel()


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
@pytest.mark.parametrize("attempts", [1, 5])
async def test_it_becomes_a_dead_letter(aio_args: dict[str, Any], ordering: Any, attempts: int) -> None:
    """After as many calls as `attempts` says, three at least; its neighbours are handled."""
    lives = Lives()
    app = App(**aio_args)
    handled: Counter[bytes] = Counter()

    @app.consumer(
        "t", group_id="g", concurrency=8, ordering=ordering, dead_letter="dead", retries=Retry(attempts, backoff_ms=0)
    )
    async def handle(value: bytes) -> None:
        if value == POISON:
            await lives.die()
        if int(value) % 3 == 0:
            await work(3)
        handled[value] += 1

    await produce(aio_args, "t", [b"%d" % i for i in range(200)], keys=20)
    await lives.live(app, aio_args, 60)
    (dead,) = await stored(aio_args, "dead")
    assert dead.value == POISON
    headers = dict(dead.headers)
    assert headers["dlq.error"] == b"WorkerLostError"
    assert int(headers["dlq.attempts"]) == max(3, attempts)
    assert set(handled) == {b"%d" % i for i in range(200)} - {POISON}
    assert max(3, attempts) + 1 <= lives.count <= max(3, attempts) + 20  # a life that gets on a little finds nothing
    assert await committed(aio_args, "g") == {TP: (200, "")}


async def test_those_beside_it_are_not_blamed(aio_args: dict[str, Any]) -> None:
    """Slow records of other partitions and handlers are in hand at each death: none of them is a dead letter."""
    lives = Lives()
    app = App(**aio_args)
    handled: Counter[bytes] = Counter()

    @app.consumer("t", group_id="g", concurrency=8, ordering="key", dead_letter="dead", retries=Retry(3, backoff_ms=0))
    async def handle(value: bytes) -> None:
        if value in {b"3", b"70"}:
            await lives.die()
        await work(50)
        handled[value] += 1

    @app.consumer("u", group_id="h", concurrency=8, ordering="none", dead_letter="dead", retries=Retry(3, backoff_ms=0))
    async def beside(value: bytes) -> None:
        await work(80)
        handled[value] += 1

    await produce(aio_args, "t", [b"%d" % i for i in range(80)], keys=80, partitions=4)
    await produce(aio_args, "u", [b"u%d" % i for i in range(8)])
    await lives.live(app, aio_args, 60)
    assert {record.value for record in await stored(aio_args, "dead")} == {b"3", b"70"}
    assert {value for value in handled if not value.startswith(b"u")} == {b"%d" % i for i in range(80)} - {b"3", b"70"}


async def test_a_batch_with_it(aio_args: dict[str, Any]) -> None:
    """A handler of batches is called with one record at a time until it is found."""
    lives = Lives()
    app = App(**aio_args)
    handled: Counter[bytes] = Counter()

    @app.consumer("t", group_id="g", batch_size=50, dead_letter="dead", retries=Retry(3, backoff_ms=0))
    async def handle(values: list[bytes]) -> None:
        if POISON in values:
            await lives.die()
        handled.update(values)

    await produce(aio_args, "t", [b"%d" % i for i in range(200)])
    await lives.live(app, aio_args, 60)
    assert [record.value for record in await stored(aio_args, "dead")] == [POISON]
    assert set(handled) == {b"%d" % i for i in range(200)} - {POISON}


async def test_without_a_dead_letter_topic_it_is_kept(aio_args: dict[str, Any]) -> None:
    """Others go on, `health` says what is held, and it is tried again no sooner than its back-off says."""
    lives = Lives()
    app = App(**aio_args)
    handled: set[bytes] = set()
    calls = 0

    @app.consumer(
        "t", group_id="g", concurrency=8, ordering="key", retries=Retry(3, backoff_ms=600_000, max_backoff_ms=600_000)
    )
    async def handle(value: bytes) -> None:
        nonlocal calls
        if value == POISON:
            calls += 1
            await lives.die()
        handled.add(value)

    await produce(aio_args, "t", [b"%d" % i for i in range(200)], keys=20)
    living = asyncio.create_task(lives.live(app, aio_args, 60))
    try:
        await aio_wait_until(lambda: app.health().state == "holding", "it is held", timeout=30)
        assert "WorkerLostError" in app.health().reason
        assert "offset 41" in app.health().reason
        expected = {b"%d" % i for i in range(200) if i % 20 != 1} | {b"1", b"21"}
        await aio_wait_until(lambda: handled == expected, "the others are handled")
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
    assert calls == lives.count - 1
    ((offset, _),) = (await committed(aio_args, "g")).values()
    assert offset == 41


async def test_an_end_in_order_is_no_death(aio_args: dict[str, Any]) -> None:
    """A worker that is stopped amid its calls, many times, with no patience: nothing is suspected."""
    for _ in range(4):
        app = App(**aio_args, grace_ms=0)
        begun = asyncio.Event()

        @app.consumer("t", group_id="g", concurrency=8, ordering="none", dead_letter="dead")
        async def handle(value: bytes, begun: asyncio.Event = begun) -> None:
            begun.set()
            await asyncio.Event().wait()

        await produce(aio_args, "t", [b"x"])
        async with app:
            await begun.wait()
    assert (await committed(aio_args, "g"))[TP] == (0, "")


async def test_a_session_that_begins_anew_is_no_death(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What a handler sent by itself fails again and again: the runner begins anew, and no call is taken for deadly."""
    app = App(**aio_args)
    done: set[bytes] = set()
    beginnings = 0
    loose: list[asyncio.Task[None]] = []

    async def send_later() -> None:
        await work(5)
        await app.producer.send("out", bytes(5000))

    @app.consumer("t", group_id="g", concurrency=8, ordering="none", dead_letter="dead", retries=Retry(2, backoff_ms=0))
    async def handle(value: bytes) -> None:
        nonlocal beginnings
        if value == b"0":
            beginnings += 1
            if beginnings < 5:
                loose.append(asyncio.create_task(send_later()))
        else:
            await work(100)
        done.add(value)

    async with Admin(**aio_args) as admin:
        await admin.create_topics(["out", "dead"])
        await admin.alter_configs({"out": TopicConfig(max_message_bytes=1024)})
    await produce(aio_args, "t", [b"%d" % i for i in range(8)])
    with caplog.at_level(logging.WARNING, "streamlayer"):
        async with app:
            await until_done(aio_args, "g", app)
    assert "begins anew" in caplog.text
    assert done == {b"%d" % i for i in range(8)}
    assert await stored(aio_args, "dead") == []


async def test_the_last_call_is_made_with_nothing_beside_it(aio_args: dict[str, Any]) -> None:
    """Before a record is taken for deadly its worker has ended while no other call of the app ran."""
    lives = Lives()
    app = App(**aio_args)
    running: set[bytes] = set()
    beside_it: list[set[bytes]] = []

    async def busy(value: bytes) -> None:
        running.add(value)
        try:
            await work(20)
        finally:
            running.discard(value)

    @app.consumer("t", group_id="g", concurrency=8, dead_letter="dead", retries=Retry(3, backoff_ms=0))
    async def handle(value: bytes) -> None:
        if value == POISON:
            seen = set(running)
            beside_it.append(seen)
            for _ in range(5):
                await work(10)
                seen |= running
            await lives.die()
        await busy(value)

    @app.consumer("u", group_id="h", concurrency=8, ordering="none")
    async def beside(value: bytes) -> None:
        await busy(value)

    await produce(aio_args, "u", [b"u%d" % i for i in range(3000)], partitions=4)
    await produce(aio_args, "t", [POISON, b"1", b"2"])
    await lives.live(app, aio_args, 60)
    assert [record.value for record in await stored(aio_args, "dead")] == [POISON]
    assert beside_it[0]
    assert beside_it[-1] == set()


async def test_one_that_takes_long_alone_is_not_blamed_for_the_next(
    aio_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has run alone for so long that others went on: when one of these ends the worker, it is not suspected."""
    monkeypatch.setattr(isolation, "LONGEST_S", 0.2)
    lives = Lives()
    app = App(**aio_args)
    handled: list[bytes] = []

    @app.consumer("t", group_id="g", concurrency=8, ordering="none", dead_letter="dead", retries=Retry(3, backoff_ms=0))
    async def handle(value: bytes) -> None:
        if value == POISON:
            await lives.die()
        await work(900)
        handled.append(value)

    await produce(aio_args, "t", [b"1", POISON])
    await lives.live(app, aio_args, 60)
    assert [record.value for record in await stored(aio_args, "dead")] == [POISON]
    assert handled == [b"1"]


async def test_an_owner_has_not_begun_before_there_is_a_record(aio_args: dict[str, Any]) -> None:
    """Where nothing was in hand nobody need be cautious: idle partitions say nothing, and take no commit."""
    app = App(**aio_args)
    begun = asyncio.Event()

    @app.consumer("t", group_id="g", concurrency=8)
    async def handle(value: bytes) -> None:
        begun.set()
        await asyncio.Event().wait()

    await produce(aio_args, "t", [b"x"], keys=1, partitions=4)
    app.grace_ms = 0
    async with app:
        await begun.wait()
        states = sorted(text for _, text in (await committed(aio_args, "g")).values())
        assert states[:3] == [""] * 3
        assert states[3].endswith(" begun")


async def test_calls_that_are_about_to_be_noted_do_not_hold_up_a_stop(
    aio_args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that gives others a turn when its worker is stopped does not wait for a commit that does not come."""
    monkeypatch.setattr(pool, "TURN_S", -1)
    await produce(aio_args, "t", [b"x"] * 900)
    for life in range(40):
        async with Consumer("t", **aio_args, group_id=f"g{life}", enable_auto_commit=False) as consumer:
            await consumer.wait_for_assignment()
            await consumer.commit({TP: OffsetAndMetadata(0, "streamlayer-progress/1 - - - begun")})
        app = App(**aio_args, grace_ms=3000)
        called = asyncio.Event()

        @app.consumer("t", group_id=f"g{life}", concurrency=100, ordering="none")
        async def handle(value: bytes, called: asyncio.Event = called) -> None:
            called.set()
            await work(random.choice([1, 2, 3]))

        async with app:
            await called.wait()
            await work(5 + life / 4)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 2


async def test_a_topic_that_is_deleted_holds_no_call_up(aio_args: dict[str, Any]) -> None:
    """Cautious calls of it are not waited for in vain: the handler's other topics go on."""
    lives = Lives()
    app = App(**aio_args)
    handled: set[bytes] = set()
    hold, called = asyncio.Event(), asyncio.Event()

    @app.consumer("t", "u", group_id="g", concurrency=1, dead_letter="dead")
    async def handle(value: bytes) -> None:
        if value == b"t0" and lives.count == 1:
            await lives.die()
        if value == b"t0":
            called.set()
            await hold.wait()
        handled.add(value)

    await produce(aio_args, "t", [b"t%d" % i for i in range(20)])
    await produce(aio_args, "u", [])
    await lives.live(app, aio_args, 1)
    async with app, Admin(**aio_args) as admin:
        lives.count += 1
        await aio_wait_until(called.is_set, "the first is called again")
        await admin.delete_topics(["t"])
        hold.set()
        await produce(aio_args, "u", [b"u"])
        await aio_wait_until(lambda: b"u" in handled, "the other topic goes on", timeout=10)


DEADLY = """
import asyncio, os, sys
from streamlayer import App, Retry
app = App(url=os.environ["WHERE"])

BRISK = {"session_timeout_ms": 1000, "heartbeat_interval_ms": 200}

@app.consumer("t", group_id="g", concurrency=4, ordering="key", dead_letter="dead", retries=Retry(3), **BRISK)
def handle(value: bytes) -> None:
    if value == b"41":
        os._exit(3)
    with open(os.environ["DIARY"], "ab") as diary:
        diary.write(value + b"\\n")
"""


async def all_done(args: dict[str, Any]) -> bool:
    """Whether the group is there, and has committed everything."""
    async with Admin(**args) as admin:
        there = "g" in await admin.list_groups()
    return there and await lag(args, "g") == 0


@contextmanager
def worker(source: str, server: Server, folder: Path) -> Generator[None]:
    """`streamlayer worker`, two processes, of an app with this source; it ends in order."""
    (folder / "deadly.py").write_text(source, encoding="utf-8")
    environment = os.environ | {"WHERE": server.url, "DIARY": str(folder / "diary"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "streamlayer._cli", "worker", "deadly:app", "--processes", "2"]
    with subprocess.Popen(command, env=environment, cwd=folder) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_worker_process_that_it_kills(own_server: Server, tmp_path: Path) -> None:
    """It ends one process after another, and then is a dead letter; all others are handled."""
    args = {"url": own_server.url}
    asyncio.run(produce(args, "t", [b"%d" % i for i in range(300)], keys=20, partitions=4))
    with worker(DEADLY, own_server, tmp_path):
        sync_wait_until(lambda: asyncio.run(all_done(args)), "all is committed", timeout=60)
    (dead,) = asyncio.run(stored(args, "dead"))
    assert (dead.value, dict(dead.headers)["dlq.error"]) == (POISON, b"WorkerLostError")
    assert set((tmp_path / "diary").read_bytes().split()) == {b"%d" % i for i in range(300)} - {POISON}


BLOCKING = """
import os, time
from streamlayer import App, Retry
app = App(url=os.environ["WHERE"])

BRISK = {"session_timeout_ms": 1000, "heartbeat_interval_ms": 200}

@app.consumer("t", group_id="g", dead_letter="dead", retries=Retry(2), **BRISK)
async def handle(value: bytes) -> None:
    if value == b"41":
        time.sleep(2.5)
    with open(os.environ["DIARY"], "ab") as diary:
        diary.write(value + b"\\n")
"""


def test_one_that_holds_the_event_loop_for_too_long(own_server: Server, tmp_path: Path) -> None:
    """The partition goes from one process to the other and back; then the record is a dead letter, and others go on."""
    args = {"url": own_server.url}
    asyncio.run(produce(args, "t", [b"%d" % i for i in range(100)]))
    with worker(BLOCKING, own_server, tmp_path):
        sync_wait_until(lambda: asyncio.run(all_done(args)), "all is committed", timeout=60)
    (dead,) = asyncio.run(stored(args, "dead"))
    assert (dead.value, dict(dead.headers)["dlq.error"]) == (POISON, b"WorkerLostError")
    assert set((tmp_path / "diary").read_bytes().split()) - {POISON} == {b"%d" % i for i in range(100)} - {POISON}
