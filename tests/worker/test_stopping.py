"""Stopping takes its time, and no longer; a partition that is gone is left alone."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from streamlayer import App, IllegalStateError, NewTopic, Retry
from streamlayer.aio import Admin
from streamlayer.embedded import Server
from tests.waiting import aio_wait_until
from tests.worker.diary import committed, produce, stored, until_done

GRACE_MS = 300
CLOSING_S = 6.0
"""What leaving may take at most, behind the grace time: a supervisor kills after 5 s and looks each second."""


async def stop(app: App, task: asyncio.Task[None], event: asyncio.Event) -> float:
    """Stop an app that runs; how many seconds it took."""
    began = monotonic()
    event.set()
    await asyncio.wait([task], timeout=30)
    assert task.done(), f"{app} has not stopped"
    task.result()
    return monotonic() - began


@pytest.mark.parametrize("by", ["to", "app.producer", "a task"])
async def test_results_that_do_not_arrive_hold_up_no_stop(own_server: Server, by: str) -> None:
    """What is sent waits for replicas that do not come: the stop does not, and nothing is committed."""
    args = {"url": own_server.url}
    app = App(**args, grace_ms=GRACE_MS)
    called = asyncio.Event()
    tasks: set[asyncio.Task[Any]] = set()

    async def send_later() -> None:
        await called.wait()
        await app.producer.send("out", b"x", "k")

    @app.consumer("t", group_id="g", to="out")
    async def handle(value: bytes) -> bytes | None:
        if by == "a task":
            tasks.add(asyncio.create_task(send_later()))
        elif by == "app.producer":
            await app.producer.send("out", b"x", "k")
        called.set()
        return b"x" if by == "to" else None

    async with Admin(**args) as admin:
        await admin.create_topics([NewTopic("out", 1, config={"min_insync_replicas": 3})])
    await produce(args, "t", [b"x"])
    event = asyncio.Event()
    task = asyncio.create_task(app.serve(event))
    await asyncio.wait_for(called.wait(), 20)
    assert await stop(app, task, event) < GRACE_MS / 1000 + CLOSING_S
    if by != "a task":
        assert sum(offset for offset, _ in (await committed(args, "g")).values()) == 0


async def test_a_server_that_is_away_holds_up_no_stop(own_server: Server) -> None:
    """Nothing can be committed, so it is said, and handled again; the stop is in time."""
    args = {"url": own_server.url}
    app = App(**args, grace_ms=GRACE_MS)
    handled: list[bytes] = []

    @app.consumer("t", group_id="g", to="out")
    async def handle(value: bytes) -> bytes:
        handled.append(value)
        return value

    await produce(args, "t", [b"1"])
    event = asyncio.Event()
    task = asyncio.create_task(app.serve(event))
    await until_done(args, "g", app)
    own_server.stop()
    await aio_wait_until(lambda: not app.health().ok, "it has noticed", timeout=30)
    assert await stop(app, task, event) < GRACE_MS / 1000 + CLOSING_S
    assert handled == [b"1"]


async def test_a_call_that_cannot_be_cancelled_holds_up_no_stop(aio_args: dict[str, Any]) -> None:
    """A bare `except` in a handler's loop: it is left alone after a second."""
    app = App(**aio_args, grace_ms=GRACE_MS)
    called, over = asyncio.Event(), asyncio.Event()

    @app.consumer("t", group_id="g")
    async def handle(value: bytes) -> None:
        called.set()
        while not over.is_set():
            try:
                await over.wait()
            except BaseException:  # noqa: BLE001 - as people write
                continue

    await produce(aio_args, "t", [b"1"])
    event = asyncio.Event()
    task = asyncio.create_task(app.serve(event))
    await asyncio.wait_for(called.wait(), 20)
    assert await stop(app, task, event) < GRACE_MS / 1000 + CLOSING_S
    over.set()


async def test_what_is_sent_by_others_in_the_loop_holds_up_nobody(own_server: Server) -> None:
    """A web service's own send waits for replicas: handlers beside it go on, and commit."""
    args = {"url": own_server.url}
    app = App(**args, grace_ms=GRACE_MS)

    @app.consumer("t", group_id="g", to="results")
    async def handle(value: bytes) -> bytes:
        return value

    async with Admin(**args) as admin:
        await admin.create_topics([NewTopic("out", 1, config={"min_insync_replicas": 3})])
    async with app:
        await app.producer.send("out", b"x", "k")
        await produce(args, "t", [b"%d" % i for i in range(20)])
        await until_done(args, "g", app)
    assert len(await stored(args, "results")) == 20


async def test_a_retry_does_not_come_when_the_partition_is_lost(aio_args: dict[str, Any]) -> None:
    """It waits for its next attempt while others take its partition: they handle it, and only they."""
    calls: list[str] = []
    first, second = App(**aio_args), App(**aio_args)
    timely: dict[str, Any] = {"session_timeout_ms": 2000, "heartbeat_interval_ms": 200}

    @first.consumer("t", group_id="g", retries=Retry(3, backoff_ms=1000), **timely)
    async def fail(value: bytes) -> None:
        calls.append("first")
        raise ValueError("not here")

    @second.consumer("t", group_id="g", **timely)
    async def handle(value: bytes) -> None:
        calls.append("second")

    await produce(aio_args, "t", [b"x"])
    async with first, Admin(**aio_args) as admin:
        await aio_wait_until(lambda: calls, "it has failed")
        async with second:
            await aio_wait_until(second.members, "the second has joined")
            ((_, lost),) = first.members()
            await admin.remove_group_members("g", [lost])
            await until_done(aio_args, "g", second)
            await aio_wait_until(lambda: first.members() != [("g", lost)], "the first has noticed")
            began = monotonic()
            await aio_wait_until(lambda: monotonic() - began > 1.2, "its retry would have come")
    assert calls == ["first", "second"]


async def test_a_dead_letter_that_waits_holds_up_no_stop(aio_args: dict[str, Any]) -> None:
    """Its topic takes nothing, and the next attempt is far off: the partition is given up at once, not after grace."""
    app = App(**aio_args, grace_ms=60_000)

    @app.consumer("t", group_id="g", dead_letter="t.dead", retries=Retry(1, backoff_ms=60_000))
    async def handle(value: bytes) -> None:
        raise ValueError("no")

    async with Admin(**aio_args) as admin:
        await admin.create_topics([NewTopic("t.dead", 1, config={"max_message_bytes": 1024})])
    await produce(aio_args, "t", [b"x" * 3000])
    event = asyncio.Event()
    task = asyncio.create_task(app.serve(event))
    await aio_wait_until(lambda: "not put into t.dead" in app.health().reason, "it waits")
    assert await stop(app, task, event) < CLOSING_S
    assert sum(offset for offset, _ in (await committed(aio_args, "g")).values()) == 0


async def test_an_app_runs_once_at_a_time(aio_args: dict[str, Any]) -> None:
    """Also while its lifespan is still entered: a second one would have places in groups that nobody knows of."""
    entered, go = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slow(_: App) -> AsyncIterator[None]:
        entered.set()
        await go.wait()
        yield

    app = App(**aio_args, lifespan=slow)
    event = asyncio.Event()
    task = asyncio.create_task(app.serve(event))
    await asyncio.wait_for(entered.wait(), 20)
    with pytest.raises(IllegalStateError, match="runs already"):
        await app.serve(asyncio.Event())
    go.set()
    assert await stop(app, task, event) < CLOSING_S


async def test_handlers_and_their_producer_share_the_grace_time(own_server: Server) -> None:
    """A call that takes all of it, and a send that does not arrive: together they hold up the stop no longer."""
    args = {"url": own_server.url}
    grace_ms = 4000
    app = App(**args, grace_ms=grace_ms)
    called = asyncio.Event()

    @app.consumer("t", group_id="g")
    async def handle(value: bytes) -> None:
        called.set()
        await asyncio.Event().wait()

    async with Admin(**args) as admin:
        await admin.create_topics([NewTopic("out", 1, config={"min_insync_replicas": 3})])
    await produce(args, "t", [b"x"])
    event = asyncio.Event()
    task = asyncio.create_task(app.serve(event))
    await asyncio.wait_for(called.wait(), 20)
    await app.producer.send("out", b"x", "k")  # by somebody else in the loop
    assert await stop(app, task, event) < grace_ms / 1000 + 3


async def test_an_app_that_is_not_waited_for_ends(aio_args: dict[str, Any]) -> None:
    """Who gives up entering the block (its lifespan takes too long) leaves nothing behind that runs."""
    left = asyncio.Event()

    @asynccontextmanager
    async def slow(_: App) -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            left.set()

    app = App(**aio_args, lifespan=slow)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), app:
            pass
    await asyncio.wait_for(left.wait(), 20)
    with pytest.raises(TimeoutError):  # it may be tried again
        async with asyncio.timeout(0.1), app:
            pass


async def test_a_loss_of_the_server_is_no_failure_of_the_stop(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What `app.producer` sent before is gone: it is in the log when that is known, and the app ends in order."""
    from tests.shell.async_.test_truncation import power_failure

    args = {"url": own_server.url}
    app = App(**args)

    @app.consumer("t", group_id="g")
    async def handle(value: bytes) -> None:
        pass

    for topic in ("t", "side"):
        await produce(args, topic, [b"kept"])
    with ExitStack() as failure:
        failure.enter_context(power_failure(own_server))  # copies files: nobody writes meanwhile
        async with app:
            await app.producer.send_and_wait("side", b"lost", partition=0)
            failure.close()
            await app.producer.send_and_wait("side", b"after", partition=0)
    assert "the server lost 1 record" in caplog.text
    assert [record.value for record in await stored(args, "side")] == [b"kept", b"after"]


BLOCKING = """
import sys
from streamlayer import App
app = App(url=sys.argv[1])

@app.consumer("t", group_id="g")
async def handle(value: bytes) -> None:
    print("blocks", flush=True)
    while True:
        pass

app.run()
"""


def test_a_second_signal_ends_a_process_whose_loop_is_blocked(own_server: Server) -> None:
    """`app.run()`: the event loop, which a handler holds, is not asked: Ctrl-C works, and needs no `kill -9`."""
    asyncio.run(produce({"url": own_server.url}, "t", [b"1"]))
    command = [sys.executable, "-c", BLOCKING, own_server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"blocks\n"
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 128 + signal.SIGTERM
        finally:
            process.kill()
