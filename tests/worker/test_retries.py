"""What becomes of records whose handling fails: retries, dead letters, and what is kept where neither helps."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, defaultdict
from typing import Any

import pytest
import redis
from pydantic import BaseModel

from streamlayer import App, ConfigurationError, ConsumerRecord, ProducerRecord, Retry, TopicConfig, TopicPartition
from streamlayer._worker import watch
from streamlayer.aio import Admin
from streamlayer.embedded import Server
from tests.waiting import aio_wait_until
from tests.worker.diary import committed, lag, produce, stored, until_done

SOON = Retry(3, backoff_ms=5)


class Order(BaseModel):
    """What handlers take."""

    id: int


async def test_a_retry_holds_up_its_key_and_nothing_else(aio_args: dict[str, Any]) -> None:
    """While one record waits for its next attempt the other keys are done; those of its key come after it, in order."""
    app = App(**aio_args)
    done: list[int] = []
    failing = True

    @app.consumer("t", group_id="g", concurrency=2, ordering="key", retries=Retry(1000, backoff_ms=5, max_backoff_ms=5))
    async def handle(record: ConsumerRecord) -> None:
        if record.offset == 0 and failing:
            raise ValueError("not yet")
        done.append(record.offset)

    await produce(aio_args, "t", [b"x"] * 40, keys=4)
    async with app:
        await aio_wait_until(lambda: len(done) == 30, "the other keys are done")
        assert all(offset % 4 for offset in done)
        failing = False
        await until_done(aio_args, "g", app)
    assert [offset for offset in done if offset % 4 == 0] == list(range(0, 40, 4))


async def test_backoff_doubles_up_to_its_limit() -> None:
    """With jitter: between half of it and all of it."""
    retry = Retry(9, backoff_ms=100, max_backoff_ms=1000)
    assert [retry.wait_ms(n, 1.0) for n in (1, 2, 3, 4, 5, 100)] == [100, 200, 400, 800, 1000, 1000]
    assert retry.wait_ms(2, 0.0) == 100
    for wrong in ({"attempts": 0}, {"attempts": 1.5}, {"backoff_ms": -1}, {"backoff_ms": 10, "max_backoff_ms": 5}):
        with pytest.raises(ConfigurationError):
            Retry(**wrong)


async def test_after_the_last_attempt_it_is_a_dead_letter(aio_args: dict[str, Any]) -> None:
    """Key, value and headers as they were, and where it came from, what was raised, and how often it was tried."""
    app = App(**aio_args)
    calls: Counter[int] = Counter()

    @app.consumer("t", group_id="g", retries=SOON, dead_letter="t.dead")
    async def handle(record: ConsumerRecord) -> None:
        calls[record.offset] += 1
        if record.value == b"bad":
            raise LookupError("no such thing: é")

    async with Admin(**aio_args) as admin:
        await admin.create_topics(["t"])
    async with app:
        await app.producer.send("t", b"good", "k1")
        await app.producer.send_and_wait("t", b"bad", "k1", headers={"trace": b"7"})
        await app.producer.send_and_wait("t", b"good", "k1")
        await aio_wait_until(lambda: calls.total() == 5, "all are handled")
        await until_done(aio_args, "g", app)
    (dead,) = await stored(aio_args, "t.dead")
    bad = next(record for record in await stored(aio_args, "t") if record.value == b"bad")
    assert (dead.key, dead.value) == (b"k1", b"bad")
    assert dict(dead.headers) == {
        "trace": b"7",
        "dlq.topic": b"t",
        "dlq.partition": b"%d" % bad.partition,
        "dlq.offset": b"1",
        "dlq.timestamp": b"%d" % bad.timestamp,
        "dlq.group": b"g",
        "dlq.error": b"LookupError",
        "dlq.message": "no such thing: é".encode(),
        "dlq.attempts": b"3",
    }
    assert calls == {0: 1, 1: 3, 2: 1}


async def test_a_value_that_does_not_validate_goes_there_at_once(aio_args: dict[str, Any]) -> None:
    """Without a call, with the reason; alone or in a batch, whose other records are handled together."""
    app = App(**aio_args)
    seen: list[Any] = []

    @app.consumer("t", group_id="single", retries=SOON, dead_letter="single.dead")
    async def handle(order: Order) -> None:
        seen.append(order.id)

    @app.consumer("t", group_id="batch", retries=SOON, dead_letter="batch.dead", batch_size=3)
    async def handle_all(orders: list[Order]) -> None:
        seen.append([order.id for order in orders])

    @app.consumer("t", group_id="text", retries=SOON, dead_letter="text.dead")
    async def handle_text(text: str) -> None:
        pass

    await produce(aio_args, "t", [b'{"id":1}', b'{"id":"x\xff"}', b'{"id":3}'])
    async with app:
        for group in ("single", "batch", "text"):
            await until_done(aio_args, group, app)
    assert [each for each in seen if isinstance(each, int)] == [1, 3]
    assert [each for each in seen if isinstance(each, list)] == [[1, 3]]
    for topic in ("single.dead", "batch.dead", "text.dead"):
        (dead,) = await stored(aio_args, topic)
        headers = dict(dead.headers)
        assert headers["dlq.error"] == b"InvalidRecordError"
        assert headers["dlq.attempts"] == b"0"
        assert b"valid" in headers["dlq.message"] or b"UTF-8" in headers["dlq.message"]


async def test_a_batch_that_keeps_failing_is_tried_record_by_record(aio_args: dict[str, Any]) -> None:
    """Only the one that is at fault becomes a dead letter; order holds."""
    app = App(**aio_args)
    alone: list[bytes] = []

    @app.consumer("t", group_id="g", retries=SOON, dead_letter="t.dead", batch_size=5, to="out")
    async def handle(values: list[bytes]) -> list[bytes]:
        if b"3" in values:
            raise ValueError("three")
        alone.extend(values)
        return values

    await produce(aio_args, "t", [b"%d" % i for i in range(10)])
    async with app:
        await until_done(aio_args, "g", app)
    assert alone == [b"%d" % i for i in range(10) if i != 3]
    assert [dead.value for dead in await stored(aio_args, "t.dead")] == [b"3"]
    assert sorted(record.value for record in await stored(aio_args, "out")) == alone


async def test_without_dead_letters_nothing_is_given_up(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A record that fails for ever is tried for ever, said in the log and in `health`; when it works, all goes on."""
    app = App(**aio_args)
    failing = True
    done: list[Any] = []

    @app.consumer("t", group_id="g", retries=Retry(2, backoff_ms=5, max_backoff_ms=10))
    async def handle(value: bytes) -> None:
        if failing:
            raise ValueError("still no")
        done.append(value)

    await produce(aio_args, "t", [b"a", b"b"])
    async with app:
        await aio_wait_until(lambda: app.health().state == "holding", "it says so")
        assert app.health().ok
        assert "t[0], offset 0: ValueError: still no" in app.health().reason
        failing = False
        await until_done(aio_args, "g", app)
        assert app.health().state == "ok"
    assert done == [b"a", b"b"]
    assert "There is no dead_letter=" in caplog.text


async def test_a_dead_letter_topic_that_is_full_is_waited_for(
    any_server: Server, any_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """The server takes no more: the record is kept, other keys go on, and when there is room it is there, once."""
    args = {"url": any_server.url}
    app = App(**args)
    done: list[int] = []

    @app.consumer("t", group_id="g", ordering="key", concurrency=4, retries=SOON, dead_letter="t.dead")
    async def handle(record: ConsumerRecord) -> None:
        if record.offset == 0:
            any_client.config_set("maxmemory", "1")
            raise ValueError("bad")
        done.append(record.offset)

    await produce(args, "t", [b"x"] * 20, keys=4)
    async with Admin(**args) as admin:
        await admin.create_topics(["t.dead"])
    async with app:
        await aio_wait_until(lambda: len(done) == 15, "the other keys are done")
        await aio_wait_until(lambda: "maxmemory" in caplog.text, "the log says so")
        assert app.health().state == "holding"
        assert "on its way to t.dead: ValueError: bad" in app.health().reason
        any_client.config_set("maxmemory", "0")
        await until_done(args, "g", app)
    assert sorted(done) == list(range(1, 20))
    assert [record.headers[2] for record in await stored(args, "t.dead")] == [("dlq.offset", b"0")]


async def test_a_result_that_cannot_be_sent_is_a_failure(aio_args: dict[str, Any]) -> None:
    """Too large, or no value for each record of a batch: the record is tried again, then it is a dead letter."""
    app = App(**aio_args)

    @app.consumer("t", group_id="large", to="out", retries=SOON, dead_letter="large.dead")
    async def large(value: bytes) -> bytes:
        return value * 2_000_000

    @app.consumer("t", group_id="short", to="out", retries=SOON, dead_letter="short.dead", batch_size=2)
    async def short(values: list[bytes]) -> list[bytes]:
        return [*values, b"one more"]

    @app.consumer("t", group_id="nowhere", retries=SOON, dead_letter="nowhere.dead")
    async def nowhere(value: bytes) -> ProducerRecord:
        return ProducerRecord(value=value)

    await produce(aio_args, "t", [b"a"])
    async with app:
        for group in ("large", "short", "nowhere"):
            await until_done(aio_args, group, app)
    errors = [
        dict((await stored(aio_args, f"{name}.dead"))[0].headers)["dlq.error"] for name in ("large", "short", "nowhere")
    ]
    assert errors == [b"MessageSizeTooLargeError", b"ConfigurationError", b"ConfigurationError"]


async def test_a_result_that_does_not_arrive_is_a_failure(aio_args: dict[str, Any]) -> None:
    """What the server refuses after the handler has returned: the record is not done before its result is stored."""
    app = App(**aio_args)
    calls: list[bytes] = []

    @app.consumer("t", group_id="g", to="out", retries=SOON, dead_letter="t.dead")
    async def handle(value: bytes) -> bytes:
        calls.append(value)
        return value * 3000

    await produce(aio_args, "t", [b"a", b"b"])
    async with Admin(**aio_args) as admin:
        await admin.create_topics(["out"])
        await admin.alter_configs({"out": TopicConfig(max_message_bytes=1024)})
    async with app:
        await until_done(aio_args, "g", app)
    assert sorted(dead.value for dead in await stored(aio_args, "t.dead")) == [b"a", b"b"]
    assert Counter(calls) == {b"a": 3, b"b": 3}
    assert await stored(aio_args, "out") == []


async def test_a_handler_that_hangs(aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """With `timeout_ms` it has failed; without, it is told of, and other partitions' records go on."""
    app = App(**aio_args)
    cancelled: list[int] = []
    done: set[tuple[int, int]] = set()

    @app.consumer("t", group_id="timed", retries=SOON, dead_letter="t.dead", timeout_ms=300)
    async def timed(record: ConsumerRecord) -> None:
        if record.offset == 1:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(record.partition)

    @app.consumer("t", group_id="waiting", concurrency=4)
    async def waiting(record: ConsumerRecord) -> None:
        if record.partition == 0:
            await asyncio.Event().wait()
        done.add((record.partition, record.offset))

    await produce(aio_args, "t", [b"x"] * 200, keys=50, partitions=2)
    app.grace_ms = 50
    async with app:
        await until_done(aio_args, "timed", app)
        count = sum(record.partition == 1 for record in await stored(aio_args, "t"))
        await aio_wait_until(lambda: len(done) == count, "the other partition is done")
        assert cancelled.count(0) == cancelled.count(1) == 3
    dead = await stored(aio_args, "t.dead")
    assert [dict(record.headers)["dlq.message"] for record in dead] == [b"it took longer than timeout_ms=300"] * 2
    offsets = await committed(aio_args, "waiting")
    assert offsets[TopicPartition("t", 1)] == (count, "")
    assert offsets[TopicPartition("t", 0)] == (0, "")
    assert "records are still in hand after 50 ms" in caplog.text


async def test_a_slow_call_is_told_of(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, with its place."""
    monkeypatch.setattr("streamlayer._worker.pool.SLOW_S", 0.05)
    monkeypatch.setattr("streamlayer._worker.runner._LOOK_MS", 20)
    app = App(**aio_args)
    gate = threading.Event()

    @app.consumer("t", group_id="g")
    def handle(value: bytes) -> None:
        gate.wait(10)

    await produce(aio_args, "t", [b"x"])
    async with app:
        await aio_wait_until(lambda: "has been running for" in caplog.text, "it says so")
        gate.set()
        await until_done(aio_args, "g", app)
    assert caplog.text.count("has been running for") == 1
    assert "t[0], offset 0: " in caplog.text


async def test_a_handler_that_blocks_the_event_loop_is_named(
    aio_args: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says where the loop stands still; the group lets it go, and its record is done once more or committed."""
    monkeypatch.setattr(watch, "BLOCKED_S", 0.2)
    app = App(**aio_args)
    calls: list[int] = []
    never = threading.Event()

    @app.consumer("t", group_id="g", session_timeout_ms=1000, heartbeat_interval_ms=200)
    async def handle(record: ConsumerRecord) -> None:
        calls.append(record.offset)
        if len(calls) == 1:
            never.wait(1.5)

    await produce(aio_args, "t", [b"x"] * 5)
    with caplog.at_level(logging.WARNING, logger="streamlayer"):
        async with app:
            await until_done(aio_args, "g", app)
    assert "the event loop has stood still" in caplog.text
    assert "never.wait(1.5)" in caplog.text
    assert set(calls) == set(range(5))


async def test_a_handler_that_cancels_itself_has_failed(aio_args: dict[str, Any]) -> None:
    """A CancelledError that nobody asked for is the record's trouble, not the worker's end."""
    app = App(**aio_args)

    @app.consumer("t", group_id="g", retries=SOON, dead_letter="t.dead")
    async def handle(value: bytes) -> None:
        raise asyncio.CancelledError

    await produce(aio_args, "t", [b"x"])
    async with app:
        await until_done(aio_args, "g", app)
    assert [record.value for record in await stored(aio_args, "t.dead")] == [b"x"]


async def test_attempts_outlive_the_process(aio_args: dict[str, Any]) -> None:
    """A record that failed twice here is tried only once more by the next worker."""
    calls: dict[str, int] = defaultdict(int)
    for name in ("first", "second"):
        app = App(**aio_args)
        stop = asyncio.Event()

        @app.consumer("t", group_id="g", retries=Retry(4, backoff_ms=5), dead_letter="t.dead")
        async def handle(value: bytes, name: str = name, stop: asyncio.Event = stop) -> None:
            calls[name] += 1
            if name == "first" and calls[name] == 2:
                stop.set()
            raise ValueError("no")

        if name == "first":
            await produce(aio_args, "t", [b"x"])
            await app.serve(stop)
        else:
            async with app:
                await until_done(aio_args, "g", app)
    assert calls["first"] + calls["second"] == 4
    assert calls["second"] >= 1
    assert dict((await stored(aio_args, "t.dead"))[0].headers)["dlq.attempts"] == b"4"
    assert await lag(aio_args, "g") == 0


@pytest.mark.parametrize("trouble", ["invalid", "raised"])
async def test_one_record_of_a_batch_holds_up_its_own_key_only(aio_args: dict[str, Any], trouble: str) -> None:
    """Without dead letters it is kept, with those of its key behind it; all others, also later ones, are done."""
    app = App(**aio_args)
    seen: list[int] = []
    bad = b"bad" if trouble == "invalid" else b"2"

    @app.consumer("t", group_id="g", ordering="key", concurrency=2, retries=SOON, batch_wait_ms=20)
    async def handle(numbers: list[int]) -> None:
        if 2 in numbers:
            raise ValueError("no")
        seen.extend(numbers)

    await produce(aio_args, "t", [b"%d" % i if i != 2 else bad for i in range(10)], keys=5)
    async with app:
        await aio_wait_until(lambda: len(seen) >= 8, "the others of its batch are done")
        await produce(aio_args, "t", [b"%d" % i for i in range(10, 20)], keys=5)
        await aio_wait_until(lambda: len(seen) >= 16, "those that come later too")
        assert app.health().state == "holding"
    assert sorted(seen) == [i for i in range(20) if i % 5 != 2]


async def test_what_is_tried_for_ever_is_not_tried_all_the_time(aio_args: dict[str, Any]) -> None:
    """`Retry(backoff_ms=0)` means at once for its attempts, not for what is kept: it would do nothing else."""
    app = App(**aio_args)
    calls: list[bytes] = []

    @app.consumer("t", group_id="g", ordering="none", retries=Retry(2, backoff_ms=0))
    async def handle(value: bytes) -> None:
        calls.append(value)
        if value == b"bad":
            raise ValueError("no")

    await produce(aio_args, "t", [b"bad", *[b"x"] * 20])
    async with app:
        await aio_wait_until(lambda: calls.count(b"x") == 20 and app.health().state == "holding", "all else is done")
    assert calls.count(b"bad") <= 10  # one a second: it is no loop


async def test_the_largest_records_fit_among_dead_letters(aio_args: dict[str, Any]) -> None:
    """What a producer may send by default has room for the headers of a dead letter; its partition goes on."""
    app = App(**aio_args)

    @app.consumer("t", group_id="g", retries=Retry(1), dead_letter="t.dead")
    async def handle(value: bytes) -> None:
        raise ValueError("no" * 500)

    largest = b"x" * ((1 << 20) - 100)
    await produce(aio_args, "t", [largest])
    async with app:
        await until_done(aio_args, "g", app)
    assert [record.value for record in await stored(aio_args, "t.dead")] == [largest]
