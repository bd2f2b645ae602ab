"""What handlers are given, what becomes of what they return, and how many run at a time in which order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from typing import Annotated, Any, List, NewType  # noqa: UP035 - as people write

import pytest
from pydantic import BaseModel, StringConstraints

from streamlayer import App, ConsumerRecord, ProducerRecord, Retry
from streamlayer._waiting import aio as waiting
from tests.waiting import aio_wait_until
from tests.worker.diary import committed, produce, stored, until_done, work


class Order(BaseModel):
    """What most handlers take."""

    id: int


class Invoice(BaseModel):
    """What they return."""

    order: int


Name = NewType("Name", str)


def order(number: int) -> bytes:
    """An order as it is stored."""
    return b'{"id":%d}' % number


async def test_a_model_comes_in_and_a_model_goes_out(aio_args: dict[str, Any]) -> None:
    """The value is validated, the result is JSON under the same key, and the decorator returns the function itself."""
    app = App(**aio_args)
    seen: list[tuple[Order, ConsumerRecord]] = []

    async def bill(order: Order, record: ConsumerRecord) -> Invoice:
        seen.append((order, record))
        return Invoice(order=order.id)

    assert app.consumer("orders", group_id="billing", to="invoices")(bill) is bill
    await produce(aio_args, "orders", map(order, range(20)), keys=3)
    async with app:
        await until_done(aio_args, "billing", app)
    assert [(each.id, record.offset, record.key) for each, record in seen] == [
        (i, i, b"k%d" % (i % 3)) for i in range(20)
    ]
    made = sorted(await stored(aio_args, "invoices"), key=lambda record: int(record.value[9:-1]))
    assert [(record.key, record.value) for record in made] == [
        (b"k%d" % (i % 3), b'{"order":%d}' % i) for i in range(20)
    ]


async def test_arguments_by_annotation(aio_args: dict[str, Any]) -> None:
    """Bytes, text, dict, the record alone, a null where it is allowed, and parameters in any order."""
    app = App(**aio_args)
    seen: dict[str, list[Any]] = defaultdict(list)

    @app.consumer("t", group_id="bytes")
    async def raw(value: bytes) -> None:
        seen["bytes"].append(value)

    @app.consumer("t", group_id="str")
    async def text(value: str) -> None:
        seen["str"].append(value)

    @app.consumer("t", group_id="dict")
    async def parsed(record: ConsumerRecord, value: dict[str, int]) -> None:
        seen["dict"].append((record.offset, value))

    @app.consumer("t", group_id="record")
    async def whole(record: ConsumerRecord[bytes, bytes]) -> None:
        seen["record"].append(record.value)

    @app.consumer("t", group_id="optional")
    async def maybe(value: Order | None, *, extra: int = 3) -> None:
        seen["optional"].append(value)

    await produce(aio_args, "t", [order(1)])
    async with app:
        for group in ("bytes", "str", "dict", "record", "optional"):
            await until_done(aio_args, group, app)
    assert seen == {
        "bytes": [order(1)],
        "str": ['{"id":1}'],
        "dict": [(0, {"id": 1})],
        "record": [order(1)],
        "optional": [Order(id=1)],
    }


async def test_annotations_with_something_beside_the_type(aio_args: dict[str, Any]) -> None:
    """`Annotated`, a `NewType`, a bare `List`: what is said of text and bytes is looked at, and they are no JSON."""
    app = App(**aio_args)
    got: dict[str, list[Any]] = defaultdict(list)
    declared: dict[str, Any] = {"retries": Retry(1), "dead_letter": "dead"}

    @app.consumer("t", group_id="text", **declared)
    async def text(value: Annotated[str, StringConstraints(max_length=5)]) -> None:
        got["text"].append(value)

    @app.consumer("t", group_id="raw", **declared)
    async def raw(value: Annotated[bytes | None, "as it is"], record: Annotated[ConsumerRecord, "whole"]) -> None:
        got["raw"].append((value, record.offset))

    @app.consumer("t", group_id="name", **declared)
    async def name(value: Name | None) -> None:
        got["name"].append(value)

    @app.consumer("t", group_id="texts", batch_wait_ms=0, **declared)
    async def texts(values: list[Annotated[str, "each"]]) -> None:
        got["texts"].extend(values)

    @app.consumer("json", group_id="list", **declared)
    async def bare(values: List) -> None:  # type: ignore[type-arg]  # noqa: UP006
        got["list"].extend(values)

    await produce(aio_args, "t", [b"short", b"too long", b"\xc3\xa4"])
    await produce(aio_args, "json", [b'{"id":1}'])
    async with app:
        for group_id in ("text", "raw", "name", "texts", "list"):
            await until_done(aio_args, group_id, app)
    assert got == {
        "text": ["short", "ä"],
        "raw": [(b"short", 0), (b"too long", 1), (b"\xc3\xa4", 2)],
        "name": ["short", "too long", "ä"],
        "texts": ["short", "too long", "ä"],
        "list": [{"id": 1}],
    }
    (dead,) = await stored(aio_args, "dead")
    assert b"at most 5 characters" in dict(dead.headers)["dlq.message"]


async def test_what_a_handler_may_return(aio_args: dict[str, Any]) -> None:
    """Nothing, bytes, text, JSON; a record with its own key and topic; several of them."""
    app = App(**aio_args)
    results: list[Any] = [
        None,
        b"raw",
        "text",
        {"a": [1]},
        [],
        ProducerRecord(value=b"other key", key="own"),
        ProducerRecord(value=b"no key", key=None),
        ProducerRecord("elsewhere", b"there", headers={"h": b"1"}),
        [ProducerRecord(value=b"one"), ProducerRecord(value=b"two", key=b"2")],
    ]

    @app.consumer("t", group_id="g", to="out")
    async def handle(value: bytes) -> Any:
        return results[int(value)]

    await produce(aio_args, "t", [b"%d" % i for i in range(len(results))], keys=1)
    async with app:
        await until_done(aio_args, "g", app)
    assert sorted((record.value, record.key) for record in await stored(aio_args, "out")) == sorted(
        [
            (b"raw", b"k0"),
            (b"text", b"k0"),
            (b'{"a":[1]}', b"k0"),
            (b"other key", b"own"),
            (b"no key", None),
            (b"one", b"k0"),
            (b"two", b"2"),
        ],
        key=lambda pair: pair[0],
    )
    (there,) = await stored(aio_args, "elsewhere")
    assert (there.value, there.key, there.headers) == (b"there", b"k0", (("h", b"1"),))


@pytest.mark.parametrize("batch", [False, True])
async def test_records_beside_nothing_are_sent(aio_args: dict[str, Any], batch: bool) -> None:
    """A list of ProducerRecords with a `None` among them, without `to=`: what is no `None` is sent."""
    app = App(**aio_args)

    async def single(value: bytes) -> list[ProducerRecord | None]:
        return [ProducerRecord("out", value), None]

    async def several(values: list[bytes]) -> list[ProducerRecord | None]:
        return [ProducerRecord("out", value) if value < b"2" else None for value in values]

    app.consumer("t", group_id="g")(several if batch else single)
    await produce(aio_args, "t", [b"0", b"1", b"2"], keys=3)
    async with app:
        await until_done(aio_args, "g", app)
    sent = [(record.key, record.value) for record in await stored(aio_args, "out")]
    assert sorted(sent) == [(b"k0", b"0"), (b"k1", b"1"), (b"k2", b"2")][: 2 if batch else 3]


@pytest.mark.parametrize("to", [None, "out"])
@pytest.mark.parametrize("batch", [False, True])
async def test_results_that_hide_a_record_are_failures(aio_args: dict[str, Any], to: str | None, batch: bool) -> None:
    """Records beside values, or in what is read once: they fail, and are neither dropped nor stored as JSON."""
    app = App(**aio_args)
    results = [
        lambda: [b"value", ProducerRecord("out", b"record"), b"one too many"],
        lambda: map(ProducerRecord, ["out"], [b"lazy"]),
        lambda: iter([ProducerRecord("out", b"lazy")]),
    ]

    async def single(value: bytes) -> Any:
        return results[int(value)]()

    async def several(values: list[bytes]) -> Any:
        return results[int(values[0])]()

    app.consumer("t", group_id="g", to=to, retries=Retry(1), dead_letter="dead", batch_size=1)(
        several if batch else single
    )
    await produce(aio_args, "t", [b"%d" % number for number in range(len(results))])
    async with app:
        await until_done(aio_args, "g", app)
    assert len(await stored(aio_args, "dead")) == len(results)
    assert await stored(aio_args, "out") == []


async def test_batches(aio_args: dict[str, Any]) -> None:
    """Lists of at most `batch_size`, in order; a short one comes after its wait; results have their records' keys."""
    app = App(**aio_args)
    seen: list[list[int]] = []

    @app.consumer("t", group_id="g", to="out", batch_size=8, batch_wait_ms=50)
    async def handle(orders: list[Order], records: list[ConsumerRecord]) -> list[Invoice]:
        assert [each.id for each in orders] == [record.offset for record in records]
        seen.append([each.id for each in orders])
        return [Invoice(order=each.id) for each in orders]

    await produce(aio_args, "t", map(order, range(20)), keys=3)
    async with app:
        await until_done(aio_args, "g", app)
    assert [len(batch) for batch in seen] == [8, 8, 4]
    assert [each for batch in seen for each in batch] == list(range(20))
    made = await stored(aio_args, "out")
    assert {(record.key, record.value) for record in made} == {
        (b"k%d" % (i % 3), b'{"order":%d}' % i) for i in range(20)
    }


async def test_a_batch_waits_to_be_full(aio_args: dict[str, Any]) -> None:
    """What comes within its wait is in one batch, which goes as soon as it is full."""
    app = App(**aio_args)
    seen: list[int] = []

    @app.consumer("t", group_id="g", batch_size=3, batch_wait_ms=60_000)
    async def handle(records: list[ConsumerRecord]) -> None:
        seen.append(len(records))

    await produce(aio_args, "t", [b"1"])
    async with app:
        (runner,) = app._runners
        await aio_wait_until(lambda: any(lanes.available for lanes in runner._partitions.values()), "one is there")
        await produce(aio_args, "t", [b"2"])
        await aio_wait_until(lambda: any(lanes.available == 2 for lanes in runner._partitions.values()), "two are")
        assert seen == []
        await produce(aio_args, "t", [b"3"])
        await until_done(aio_args, "g", app)
    assert seen == [3]


async def test_handlers_that_do_not_wait_leave_turns_to_others(aio_args: dict[str, Any]) -> None:
    """A web service, or heartbeats, in the same loop are not kept from it for as long as there are records."""
    app = App(**aio_args)
    handled = most = 0

    @app.consumer("t", group_id="g", ordering="none")
    async def handle(value: bytes) -> None:
        nonlocal handled
        begun = time.perf_counter()
        while time.perf_counter() < begun + 0.001:
            pass
        handled += 1

    async def look_on() -> None:
        nonlocal most
        seen = handled
        while handled < 200:
            await waiting.give_turn()
            most, seen = max(most, handled - seen), handled

    await produce(aio_args, "t", [b"x"] * 200)
    async with app:
        await look_on()
        await until_done(aio_args, "g", app)
    assert most <= 20  # 5 ms, and then some


async def test_plain_functions_run_in_threads(aio_args: dict[str, Any]) -> None:
    """They block side by side, so many as `concurrency` says, and never in the event loop's thread."""
    app = App(**aio_args)
    meeting = threading.Barrier(4, timeout=10)
    threads: set[int] = set()

    @app.consumer("t", group_id="g", concurrency=4, ordering="none", to="out")
    def handle(value: bytes) -> bytes:
        meeting.wait()
        threads.add(threading.get_ident())
        return value

    await produce(aio_args, "t", [b"%d" % i for i in range(16)])
    async with app:
        await until_done(aio_args, "g", app)
    assert len(threads) <= 4
    assert threading.get_ident() not in threads
    assert len(await stored(aio_args, "out")) == 16


@pytest.mark.parametrize("ordering", ["partition", "key"])
async def test_order_holds_whatever_takes_how_long(aio_args: dict[str, Any], ordering: Any) -> None:
    """Handlers of all lengths, some of which fail at first: each partition, or each key, is finished in its order."""
    app = App(**aio_args)
    began: dict[Any, list[int]] = defaultdict(list)
    ended: dict[Any, list[int]] = defaultdict(list)
    together = most = 0

    @app.consumer("t", group_id="g", concurrency=16, ordering=ordering, retries=Retry(2, backoff_ms=5))
    async def handle(record: ConsumerRecord) -> None:
        nonlocal together, most
        lane = record.partition if ordering == "partition" else record.key
        began[lane].append(record.offset)
        together += 1
        most = max(most, together)
        try:
            await work(hash((record.offset, record.partition)) % 7)
        finally:
            together -= 1
        if hash((record.offset, record.partition)) % 11 == 0 and began[lane].count(record.offset) == 1:
            raise ValueError("once more")
        ended[lane].append(record.offset)

    await produce(aio_args, "t", [b"%d" % i for i in range(400)], keys=20, partitions=4)
    async with app:
        await until_done(aio_args, "g", app)
    assert sum(map(len, ended.values())) == 400
    assert sum(map(len, began.values())) > 420
    for lane, offsets in ended.items():
        assert offsets == sorted(offsets)
        assert began[lane] == sorted(began[lane])
        assert set(began[lane]) == set(offsets)
    assert (most <= 4) if ordering == "partition" else (8 < most <= 16)


@pytest.mark.alone
async def test_forty_times_as_fast_as_one_at_a_time(own_server: Any) -> None:
    """A 10 ms handler with `concurrency=64` over 4 partitions, in the order of each key.

    Of up to five rounds the best counts: whatever else the machine does makes the many slower, and not the one, which
    waits most of its time.
    """
    args = {"url": own_server.url}
    ratios: list[float] = []
    while len(ratios) < 5 and max(ratios, default=0) < 40:
        one = await _rate_of_10_ms(args, f"one-{len(ratios)}", 1, 60)
        ratios.append(await _rate_of_10_ms(args, f"many-{len(ratios)}", 64, 4000) / one)
    assert max(ratios) >= 40, ratios


async def _rate_of_10_ms(args: dict[str, Any], topic: str, concurrency: int, count: int) -> float:
    """Records a second of a handler that takes 10 ms; each key is handled in order."""
    order_of: dict[Any, list[int]] = defaultdict(list)
    times: list[float] = []
    app = App(**args)

    @app.consumer(topic, group_id=topic, concurrency=concurrency, ordering="key" if concurrency > 1 else "partition")
    async def handle(record: ConsumerRecord) -> None:
        await work(10)
        times.append(time.perf_counter())
        order_of[record.key].append(record.offset)

    await produce(args, topic, [b"x"] * count, keys=1000, partitions=4)
    begun = time.perf_counter()
    async with app:
        await aio_wait_until(lambda: len(times) == count, "all are handled", timeout=60)
    assert all(offsets == sorted(offsets) for offsets in order_of.values())
    return count / (times[-1] - begun)


async def test_what_is_in_memory_is_bounded(aio_args: dict[str, Any]) -> None:
    """One key hangs: others go on, the partition is held back at its limit, what is contiguous is committed."""
    app = App(**aio_args)
    gate = asyncio.Event()
    handled: set[int] = set()

    @app.consumer("t", group_id="g", concurrency=8, ordering="key")
    async def handle(record: ConsumerRecord) -> None:
        if record.key == b"k0":
            await gate.wait()
        handled.add(record.offset)

    await produce(aio_args, "t", [b"x"] * 6000, keys=4)
    async with app:
        (runner,) = app._runners
        await aio_wait_until(lambda: len(handled) >= 2000, "the other keys go on")
        (lanes,) = runner._partitions.values()
        await aio_wait_until(lambda: lanes.held and not lanes.available and lanes.unfinished > 750, "it is held")
        assert lanes.unfinished <= 1000
        assert lanes.progress.ranges <= 1000
        assert (await committed(aio_args, "g")).popitem()[1][0] == 0
        gate.set()
        await until_done(aio_args, "g", app)
    assert handled == set(range(6000))


async def test_so_are_its_bytes(aio_args: dict[str, Any]) -> None:
    """Large values, and a key that hangs: 16 MiB and what one fetch brings are in hand at most, and all are handled."""
    app = App(**aio_args)
    gate = asyncio.Event()
    handled: set[int] = set()

    @app.consumer("t", group_id="g", concurrency=8, ordering="key", max_partition_fetch_bytes=2 << 20)
    async def handle(record: ConsumerRecord) -> None:
        if record.key == b"k0":
            await gate.wait()
        handled.add(record.offset)

    await produce(aio_args, "t", [bytes(500_000)] * 160, keys=2)
    async with app:
        (runner,) = app._runners
        await aio_wait_until(lambda: bool(runner._partitions), "it has its partition")
        (lanes,) = runner._partitions.values()
        await aio_wait_until(lambda: lanes.held and lanes.unfinished_bytes >= 16 << 20 and not lanes.available, "held")
        assert lanes.unfinished_bytes <= 20 << 20
        gate.set()
        await until_done(aio_args, "g", app)
    assert handled == set(range(160))


async def test_results_of_bytes_are_stored_as_they_are(aio_args: dict[str, Any]) -> None:
    """Of all three kinds that Python has."""
    app = App(**aio_args)

    @app.consumer("t", group_id="g", to="out")
    async def handle(value: bytes) -> Any:
        return {b"a": bytearray, b"b": memoryview, b"c": bytes}[value](value)

    await produce(aio_args, "t", [b"a", b"b", b"c"])
    async with app:
        await until_done(aio_args, "g", app)
    assert [record.value for record in await stored(aio_args, "out")] == [b"a", b"b", b"c"]
