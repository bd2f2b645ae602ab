"""What the next worker does: nothing again that was committed or is told done beside the commit, everything else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from streamlayer import App, ConsumerRecord, OffsetAndMetadata, Retry, TopicConfig, TopicPartition
from streamlayer._core.progress import Progress, from_metadata
from streamlayer.aio import Admin, Consumer, Producer
from streamlayer.embedded import Server
from tests import servers
from tests.shell.async_.test_truncation import power_failure
from tests.waiting import aio_wait_until, sync_wait_until
from tests.worker.diary import committed, lag, produce, stored, until_done, work

TP = TopicPartition("t", 0)


async def test_what_is_done_above_the_commit_is_skipped(aio_args: dict[str, Any]) -> None:
    """One key hangs; the worker is stopped with no patience; the next one handles that key only."""
    handled: list[list[int]] = [[], []]
    for life in range(2):
        app = App(**aio_args, grace_ms=0)

        @app.consumer("t", group_id="g", concurrency=8, ordering="key")
        async def handle(record: ConsumerRecord, life: int = life) -> None:
            if life == 0 and record.key == b"k1":
                await asyncio.Event().wait()
            handled[life].append(record.offset)

        if life == 0:
            await produce(aio_args, "t", [b"x"] * 200, keys=4)
        async with app:
            if life == 0:
                await aio_wait_until(lambda: len(handled[0]) == 150, "the other keys are done")
            else:
                await until_done(aio_args, "g", app)
        offset, metadata = (await committed(aio_args, "g"))[TP]
        assert (offset, bool(metadata)) == ((1, True) if life == 0 else (200, False))
    assert sorted(handled[1]) == list(range(1, 200, 4))


async def test_as_many_ranges_as_there_may_be(aio_args: dict[str, Any]) -> None:
    """A thousand ranges are told done above the commit: the next worker reads on, and handles what lies between."""
    await produce(aio_args, "t", [b"x"] * 2000)
    async with Consumer("t", **aio_args, group_id="g", enable_auto_commit=False) as consumer:
        async for record in consumer:
            if record.offset == 1999:
                break
        earlier = Progress(0)
        for offset in range(2000):
            earlier.accept(offset)
        for offset in range(1, 2000, 2):
            earlier.done(offset)
        assert earlier.ranges == 1000
        text = earlier.to_metadata(consumer.epochs_at(TP, 1999))
        await consumer.commit({TP: OffsetAndMetadata(0, text)})
    handled: list[int] = []
    app = App(**aio_args)

    @app.consumer("t", group_id="g", concurrency=8, ordering="none")
    async def handle(record: ConsumerRecord) -> None:
        handled.append(record.offset)

    async with app:
        await until_done(aio_args, "g", app)
    assert sorted(handled) == list(range(0, 2000, 2))


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
async def test_a_stop_under_load_repeats_nothing(aio_args: dict[str, Any], ordering: Any) -> None:
    """Stopped and started many times in the middle: each record is handled once, and its result is there once."""
    await produce(aio_args, "t", [b"%d" % i for i in range(1500)], keys=50, partitions=2)
    handled: Counter[bytes] = Counter()
    for life in range(100):
        app = App(**aio_args)

        @app.consumer("t", group_id="g", to="out", concurrency=16, ordering=ordering)
        async def handle(value: bytes) -> bytes:
            if int(value) % 16 == 0:
                await work(1)
            handled[value] += 1
            return value

        stop = asyncio.Event()
        goal = min(1500, handled.total() + 100 + life)
        task = asyncio.create_task(app.serve(stop))
        try:
            await aio_wait_until(lambda goal=goal: handled.total() >= goal, "some are handled")
        finally:
            stop.set()
            await task
        if handled.total() >= 1500:
            break
    assert set(handled.values()) == {1}
    assert len(handled) == 1500
    assert await lag(aio_args, "g") == 0
    assert len(await stored(aio_args, "out")) == 1500


async def test_records_that_took_the_place_of_others_are_not_skipped(own_server: Server) -> None:
    """Offsets told done beside the commit name other records after the server lost its end: these are handled.

    Group and log lie on one server here, which never loses one of them alone; so the group is put back by hand.
    """
    args = {"url": own_server.url}
    handled: list[bytes] = []
    gate = asyncio.Event()

    def app_of_life(life: int) -> App:
        app = App(**args, grace_ms=0)

        @app.consumer("t", group_id="g", concurrency=8, ordering="none")
        async def handle(value: bytes) -> None:
            if life == 0 and value == b"0":
                await gate.wait()
            handled.append(value)

        return app

    await produce(args, "t", [b"0", b"1"])
    async with app_of_life(0):
        await aio_wait_until(lambda: handled == [b"1"], "the one that does not hang is done")
    with power_failure(own_server):
        await produce(args, "t", [b"lost"])
        async with app_of_life(0):
            await aio_wait_until(lambda: handled == [b"1", b"lost"], "one more, that the server will lose")
        offset, metadata = (await committed(args, "g"))[TP]
        assert (offset, metadata.split(" ")[2]) == (0, "1+2")
        group = servers.copy_keys(own_server.url, "sl:g:{g}:*")
    servers.put_back(own_server.url, group)
    await produce(args, "t", [b"new"])
    app = app_of_life(1)
    async with app:
        await until_done(args, "g", app)
    assert b"new" in handled
    assert b"0" in handled


async def test_deaths_of_another_record_are_not_blamed_on_it(aio_args: dict[str, Any]) -> None:
    """A commit says that three workers ended with offset 1, of a log that parted from this one: it is handled."""
    handled: list[bytes] = []
    await produce(aio_args, "t", [b"0", b"1"])
    async with Consumer("t", **aio_args, group_id="g", enable_auto_commit=False) as consumer:
        await consumer.wait_for_assignment()
        await consumer.commit({TP: OffsetAndMetadata(0, "streamlayer-progress/1 7:0123456789abcdef:0 - 1:5:3 -")})
    app = App(**aio_args)

    @app.consumer("t", group_id="g", dead_letter="dead", retries=Retry(3, backoff_ms=0))
    async def handle(value: bytes) -> None:
        handled.append(value)

    async with app:
        await until_done(aio_args, "g", app)
    assert handled == [b"0", b"1"]


async def test_what_the_server_lost_is_not_committed(own_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that had handled more than there is now commits up to the log's end, and not what is beyond."""
    args = {"url": own_server.url}
    handled: list[bytes] = []
    gate = asyncio.Event()
    app = App(**args)

    @app.consumer("t", group_id="g", concurrency=8, ordering="none")
    async def handle(value: bytes) -> None:
        if value == b"0":
            await gate.wait()
        handled.append(value)

    await produce(args, "t", [b"0", b"1"])
    async with app:
        await aio_wait_until(lambda: handled == [b"1"], "the one that does not hang is done")
        with power_failure(own_server):
            await produce(args, "t", [b"lost"])
            await aio_wait_until(lambda: handled == [b"1", b"lost"], "one more, that the server will lose")
        await aio_wait_until(lambda: "the server lost the log's end" in caplog.text, "it is told", timeout=20)
        gate.set()
        await until_done(args, "g", app)
        assert [offset for offset, _ in (await committed(args, "g")).values()] == [2]


async def test_a_server_that_goes_away_and_comes_back(own_server: Server) -> None:
    """A worker waits for it, says so in `health`, and goes on by itself; everything is handled."""
    args = {"url": own_server.url}
    app = App(**args)
    handled: list[bytes] = []

    @app.consumer("t", group_id="g", to="out")
    async def handle(value: bytes) -> bytes:
        handled.append(value)
        return value

    servers.make_exact(own_server)
    await produce(args, "t", [b"%d" % i for i in range(10)])
    async with app:
        await until_done(args, "g", app)
        own_server.kill()
        await aio_wait_until(lambda: not app.health().ok, "it says that the server is away", timeout=20)
        own_server.start()
        await produce(args, "t", [b"%d" % i for i in range(10, 20)])
        await until_done(args, "g", app)
    assert set(handled) == {b"%d" % i for i in range(20)}
    assert {record.value for record in await stored(args, "out")} == set(handled)


async def test_a_server_that_is_not_there_yet(own_server: Server) -> None:
    """A worker that starts before its server waits for it."""
    args = {"url": own_server.url}
    servers.make_exact(own_server)
    await produce(args, "t", [b"x"])
    own_server.kill()
    handled: list[bytes] = []
    app = App(**args)

    @app.consumer("t", group_id="g")
    async def handle(value: bytes) -> None:
        handled.append(value)

    async with app:
        await aio_wait_until(lambda: app.health().state == "retrying", "it waits", timeout=20)
        own_server.start()
        await aio_wait_until(lambda: handled, "it goes on", timeout=30)
    assert handled == [b"x"]


async def test_what_a_handler_sends_by_itself_is_stored_before_the_commit(aio_args: dict[str, Any]) -> None:
    """`app.producer` without waiting: at the commit it is in the log; where it failed, nothing is committed."""
    app = App(**aio_args)
    handled: Counter[bytes] = Counter()

    @app.consumer("t", group_id="g", retries=Retry(1))
    async def handle(value: bytes) -> None:
        handled[value] += 1
        size = 2000 if value == b"3" and handled[value] < 3 else 1
        await app.producer.send("out", value * size, "k")

    await produce(aio_args, "t", [b"%d" % i for i in range(5)])
    async with Admin(**aio_args) as admin:
        await admin.create_topics(["out"])
        await admin.alter_configs({"out": TopicConfig(max_message_bytes=1024)})
    async with app:
        await until_done(aio_args, "g", app)
    out = {record.value for record in await stored(aio_args, "out")}
    assert out == {b"%d" % i for i in range(5)}
    assert handled[b"3"] >= 3


CRASHING = """
import asyncio, os, sys
from streamlayer import App
app = App(url=sys.argv[1])

BRISK = {"session_timeout_ms": 1000, "heartbeat_interval_ms": 200}

@app.consumer("t", group_id="g", to="out", concurrency=4, ordering="key", **BRISK)
async def handle(value: bytes) -> bytes:
    with open(sys.argv[2], "ab") as diary:
        diary.write(value + b"\\n")
    if value == b"150" and sys.argv[3] == "crash":
        await app.producer.send_and_wait("out", b"before the crash")
        os.kill(os.getpid(), 9)
    await asyncio.sleep(0.005)
    return value

app.run()
"""


def test_a_crash_between_produce_and_commit(own_server: Server, tmp_path: Path) -> None:
    """A kill -9 by a handler after it has produced: each record is handled and has its result, some twice."""
    asyncio.run(produce({"url": own_server.url}, "t", [b"%d" % i for i in range(300)], keys=20, partitions=4))
    diaries = [tmp_path / "1", tmp_path / "2"]
    run = [sys.executable, "-c", CRASHING, own_server.url]
    assert subprocess.run([*run, str(diaries[0]), "crash"], check=False, timeout=60).returncode == -signal.SIGKILL
    second = subprocess.Popen([*run, str(diaries[1]), "go on"])
    try:
        sync_wait_until(lambda: asyncio.run(lag({"url": own_server.url}, "g")) == 0, "all is committed", timeout=30)
    finally:
        os.kill(second.pid, signal.SIGTERM)
        assert second.wait(20) == 0
    first, again = (Counter(diary.read_bytes().split()) for diary in diaries)
    everything = {b"%d" % i for i in range(300)}
    assert set(first) | set(again) == everything
    assert {record.value for record in asyncio.run(stored({"url": own_server.url}, "out"))} == {
        *everything,
        b"before the crash",
    }
    assert sum((first & again).values()) <= 40  # 4 in flight, and what was done within the last milliseconds


async def test_nobody_commits_for_a_partition_that_is_lost(own_server: Server) -> None:
    """A worker that was taken for dead finishes its call: its commit and its result do not count."""
    args = {"url": own_server.url}
    app = App(**args)
    gate, begun = asyncio.Event(), asyncio.Event()
    handled: list[bytes] = []

    @app.consumer("t", group_id="g", to="out")
    async def handle(value: bytes) -> bytes:
        handled.append(value)
        if len(handled) == 1:
            begun.set()
            await gate.wait()
        return value

    await produce(args, "t", [b"0", b"1"])
    async with app, Admin(**args) as admin:
        await begun.wait()
        ((group, member),) = app.members()
        await admin.remove_group_members(group, [member])
        await aio_wait_until(lambda: app.members() != [(group, member)], "it knows that it was removed")
        gate.set()
        await until_done(args, "g", app)
    assert handled[0] == b"0"
    assert handled.count(b"0") == 2
    assert Counter(record.value for record in await stored(args, "out")) == {b"0": 1, b"1": 1}


async def test_two_workers_share_and_hand_over_without_a_gap(aio_args: dict[str, Any]) -> None:
    """A second app joins under load and leaves again: nothing is handled twice, each key in order."""
    order: dict[Any, list[int]] = {}
    handled: Counter[tuple[int, int]] = Counter()

    def make() -> App:
        app = App(**aio_args)

        @app.consumer("t", group_id="g", concurrency=8, ordering="key")
        async def handle(record: ConsumerRecord) -> None:
            if record.offset % 9 == 0:
                await work(1)
            handled[record.partition, record.offset] += 1
            order.setdefault((record.partition, record.key), []).append(record.offset)

        return app

    await produce(aio_args, "t", [b"x"] * 1000, keys=40, partitions=4)
    async with Producer(**aio_args) as producer, make() as first:
        await aio_wait_until(lambda: handled.total() > 100, "the first works")
        async with make() as second:
            for _ in range(20):
                await producer.send_many("t", [b"y"] * 100, [b"k%d" % i for i in range(100)])
            await aio_wait_until(lambda: bool(second._runners[0]._partitions), "the second has some")
        await until_done(aio_args, "g", first)
    assert set(handled.values()) == {1}
    assert handled.total() == 3000
    assert all(offsets == sorted(offsets) for offsets in order.values())


async def test_what_did_not_arrive_is_not_committed_by_others(aio_args: dict[str, Any]) -> None:
    """A send fails, and just then a partition is given up: nothing is committed over it, here or there."""
    handled: Counter[bytes] = Counter()
    failing = True

    def make() -> App:
        app = App(**aio_args)

        @app.consumer("t", group_id="g", concurrency=20, ordering="none")
        async def handle(value: bytes) -> None:
            handled[value] += 1
            await app.producer.send("out", value * 2000 if failing else value, "k")

        return app

    await produce(aio_args, "t", [b"%d" % i for i in range(20)], keys=20, partitions=2)
    async with Admin(**aio_args) as admin:
        await admin.create_topics(["out"])
        await admin.alter_configs({"out": TopicConfig(max_message_bytes=1024)})
        async with make() as first:
            await aio_wait_until(lambda: len(handled) == 20, "all are handled, and nothing arrives")
            async with make():
                await aio_wait_until(lambda: handled.total() > 20, "the first begins anew")
                assert not any(offset for offset, _ in (await committed(aio_args, "g")).values())
                failing = False
                await until_done(aio_args, "g", first)
    assert {record.value for record in await stored(aio_args, "out")} == set(handled)


async def test_a_topic_that_is_deleted_and_made_again(aio_args: dict[str, Any]) -> None:
    """While a worker runs: the others go on, and the new topic is handled from its first record."""
    app = App(**aio_args)
    handled: list[bytes] = []

    @app.consumer("t", "u", group_id="g")
    async def handle(value: bytes) -> None:
        handled.append(value)

    await produce(aio_args, "t", [b"t0", b"t1"])
    await produce(aio_args, "u", [b"u0"])
    async with app, Admin(**aio_args) as admin:
        await aio_wait_until(lambda: len(handled) == 3, "all are handled")
        await admin.delete_topics(["t"])
        await produce(aio_args, "u", [b"u1"])
        await aio_wait_until(lambda: b"u1" in handled, "the other topic goes on")
        await produce(aio_args, "t", [b"new"])
        await aio_wait_until(lambda: b"new" in handled, "the new one is handled")
        await until_done(aio_args, "g", app)
    assert sorted(handled) == [b"new", b"t0", b"t1", b"u0", b"u1"]


async def test_attempts_are_stored_when_nothing_else_is(aio_args: dict[str, Any]) -> None:
    """A kill -9 between two attempts, with nothing done since, does not have them begin anew."""
    app = App(**aio_args)
    calls: list[bytes] = []

    @app.consumer("t", group_id="g", retries=Retry(9, backoff_ms=1))
    async def handle(value: bytes) -> None:
        calls.append(value)
        if len(calls) > 2:
            await asyncio.Event().wait()
        raise ValueError("no")

    async def kept() -> bool:
        return any(from_metadata(text, at).attempts == {0: 2} for at, text in (await committed(aio_args, "g")).values())

    app.grace_ms = 0
    await produce(aio_args, "t", [b"x"])
    async with app:
        await aio_wait_until(lambda: len(calls) == 3, "it has failed twice")
        await aio_wait_until(kept, "both are stored")
