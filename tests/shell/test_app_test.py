"""``App.test``: what a user's test sees of an app without a server. Everything here is on fakeredis."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from streamlayer import (
    App,
    ConfigurationError,
    ConsumerRecord,
    IllegalStateError,
    ProducerRecord,
    RequestTimedOutError,
    Retry,
)

NOBODY = "redis://nobody.invalid:1/0"  # whoever really connects fails


class Order(BaseModel):
    """A value as users have them."""

    customer: str
    cents: int


class Invoice(BaseModel):
    """What is made of it."""

    customer: str
    total: int


def shop(**options: Any) -> tuple[App, list[Order]]:
    """An app that makes invoices of orders, and what it was called with; 13 cents are bad luck."""
    app = App(url=NOBODY, namespace="production")
    calls: list[Order] = []

    @app.consumer("orders", group_id="billing", to="invoices", **options)
    async def bill(order: Order) -> Invoice:
        calls.append(order)
        if order.cents == 13:
            msg = "bad luck"
            raise ValueError(msg)
        return Invoice(customer=order.customer, total=2 * order.cents)

    return app, calls


def test_a_record_is_handled_and_its_result_is_there() -> None:
    """Under the key of the record; with its value as JSON; nothing asks for a server."""
    app, _ = shop()
    with app.test() as t:
        sent = t.send("orders", Order(customer="anna", cents=450), key="anna")
        assert (sent.topic, sent.partition, sent.offset) == ("orders", 0, 0)
        t.run()
        (invoice,) = t.records("invoices")
    assert invoice.key == b"anna"
    assert Invoice.model_validate_json(invoice.value) == Invoice(customer="anna", total=900)


def test_each_test_begins_with_nothing_and_each_run_goes_on() -> None:
    """A second block sees nothing of the first; a second run handles what is new, and nothing twice."""
    app, calls = shop()
    for _ in range(2):
        calls.clear()
        with app.test() as t:
            t.run()
            assert t.records("invoices") == []
            for cents in (1, 2):
                t.send("orders", Order(customer="anna", cents=cents))
                t.run()
            assert [order.cents for order in calls] == [1, 2]
            assert len(t.records("invoices")) == 2


def test_what_handlers_send_is_handled_too() -> None:
    """A chain of three, one of which sends by itself, and a circle that ends: one run brings all of it to its end."""
    app, _ = shop()
    mailed: list[int] = []

    @app.consumer("invoices", group_id="mailer")
    async def mail(invoice: Invoice) -> None:
        await app.producer.send("mails", {"left": invoice.total}, key=invoice.customer)

    @app.consumer("mails", group_id="postman", to="mails")
    def deliver(mail: dict[str, int]) -> dict[str, int] | None:  # a plain function, in a thread
        mailed.append(mail["left"])
        return {"left": mail["left"] - 1} if mail["left"] else None

    with app.test() as t:
        t.send("orders", Order(customer="anna", cents=2), key="anna")
        t.run()
        assert mailed == [4, 3, 2, 1, 0]
        assert [record.key for record in t.records("mails")] == [b"anna"] * 5


def test_retries_do_not_wait_and_end_as_dead_letters() -> None:
    """All attempts are made, at once; the dead letter has the record and says why; others are handled."""
    app, calls = shop(dead_letter="orders.dead", retries=Retry(4, backoff_ms=60_000))
    with app.test() as t:
        t.send("orders", Order(customer="anna", cents=13), key="anna", headers={"source": b"web"})
        t.send("orders", b"{}", key="bert")
        t.send("orders", Order(customer="carla", cents=1))
        begun = time.monotonic()
        t.run()
        assert time.monotonic() - begun < 5
        unlucky, invalid = sorted(t.records("orders.dead"), key=lambda letter: letter.key or b"")
        assert len(t.records("invoices")) == 1
        assert t.held == []
    assert [order.cents for order in calls] == [13] * 4 + [1]
    assert (unlucky.key, unlucky.value) == (b"anna", b'{"customer":"anna","cents":13}')
    said = dict(unlucky.headers)
    assert (said["source"], said["dlq.topic"], said["dlq.attempts"]) == (b"web", b"orders", b"4")
    assert (said["dlq.error"], said["dlq.message"]) == (b"ValueError", b"bad luck")
    assert (invalid.key, invalid.value) == (b"bert", b"{}")


def test_what_is_nobodys_dead_letter_is_held(caplog: pytest.LogCaptureFixture) -> None:
    """Without a dead letter topic the record stays, and is named; what need not wait for it is handled."""
    caplog.set_level(logging.CRITICAL)
    app, calls = shop(ordering="key", concurrency=2, retries=Retry(2))
    with app.test() as t:
        t.send("orders", Order(customer="anna", cents=13), key="anna")
        t.send("orders", Order(customer="anna", cents=1), key="anna")
        t.send("orders", Order(customer="bert", cents=1), key="bert")
        for _ in range(2):
            t.run()
            (why,) = t.held
            assert "orders[0], offset 0" in why
            assert "ValueError: bad luck" in why
            assert [record.key for record in t.records("invoices")] == [b"bert"]
    assert Order(customer="anna", cents=1) not in calls
    assert calls.count(Order(customer="bert", cents=1)) == 1


def test_slow_handlers_are_waited_for_also_beside_one_that_is_held(caplog: pytest.LogCaptureFixture) -> None:
    """A run is not over while a call is under way, however long nothing else happens."""
    caplog.set_level(logging.CRITICAL)
    app = App(url=NOBODY)
    done: list[bytes] = []

    @app.consumer("work", group_id="g", ordering="none", concurrency=4, retries=Retry(1))
    async def work(value: bytes) -> None:
        if value == b"bad":
            raise ValueError
        try:
            async with asyncio.timeout(0.4):
                await asyncio.Event().wait()
        except TimeoutError:
            done.append(value)

    with app.test() as t:
        for value in (b"bad", b"slow", b"slower"):
            t.send("work", value)
        t.run()
        assert sorted(done) == [b"slow", b"slower"]
        assert len(t.held) == 1


def test_batches_do_not_wait_to_be_full() -> None:
    """What is there is a batch, at once."""
    app = App(url=NOBODY)
    batches: list[list[Order]] = []

    @app.consumer("orders", group_id="g", batch_size=50, batch_wait_ms=60_000)
    async def store(orders: list[Order]) -> None:
        batches.append(orders)

    with app.test() as t:
        for cents in range(3):
            t.send("orders", Order(customer="anna", cents=cents))
        t.run(timeout_ms=5_000)
    assert [[order.cents for order in batch] for batch in batches] == [[0, 1, 2]]


def test_what_was_sent_before_the_first_run_is_read() -> None:
    """Also where the handler would begin at the end: in production its group was there before the record."""
    app, calls = shop(auto_offset_reset="latest")
    with app.test() as t:
        t.send("orders", Order(customer="anna", cents=1))
        t.run()
    assert len(calls) == 1


def test_all_kinds_of_values_and_places() -> None:
    """Values as an app stores them, a null too; partitions, times and headers as given; topics nobody has named."""
    app = App(url=NOBODY)
    seen: list[ConsumerRecord] = []

    @app.consumer("things", group_id="g")
    async def keep(record: ConsumerRecord) -> list[ProducerRecord]:
        seen.append(record)
        return [ProducerRecord("copies", record.value, partition=3)]

    with app.test(num_partitions=4) as t:
        t.send("things", "text", "key", partition=2, timestamp_ms=int(time.time() * 1000) - 5, headers=[("a", b"1")])
        t.send("things", None, b"key", partition=1)
        t.send("things", {"a": [1]}, partition=0)
        t.run()
        assert t.records("nothing") == []
        assert len(t.records("copies")) == 3
        assert [record.value for record in t.records("things")] == [b"text", None, b'{"a":[1]}']
    assert {(record.partition, record.key, record.value) for record in seen} == {
        (2, b"key", b"text"), (1, b"key", None), (0, None, b'{"a":[1]}'),
    }  # fmt: skip
    assert next(record.headers for record in seen if record.partition == 2) == (("a", b"1"),)


def test_the_lifespan_belongs_to_a_run() -> None:
    """It is entered and left by each; what it raises comes out."""
    said: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        said.append("in")
        if len(said) > 4:
            msg = "no database"
            raise OSError(msg)
        yield
        said.append("out")

    app = App(url=NOBODY, lifespan=lifespan)
    with app.test() as t:
        t.run()
        t.run()
        assert said == ["in", "out", "in", "out"]
        with pytest.raises(OSError, match="no database"):
            t.run()


def test_a_handler_that_hangs() -> None:
    """The run ends after its time, says for whom how much is left, and the test goes on."""
    app = App(url=NOBODY)

    @app.consumer("work", group_id="slow", ordering="none")
    async def hang(value: bytes) -> None:
        await asyncio.Event().wait()

    with app.test() as t:
        t.send("work", b"1")
        t.send("work", b"2")
        begun = time.monotonic()
        with pytest.raises(RequestTimedOutError, match=r"after timeout_ms=300 not all is handled: 2 for slow"):
            t.run(timeout_ms=300)
        assert time.monotonic() - begun < 5
        assert len(t.records("work")) == 2


def test_the_app_is_as_before_afterwards() -> None:
    """Its server, its handlers and its producer come back, also after a test that failed; it cannot be lent twice."""
    app, _ = shop(batch_wait_ms=77)
    before = repr(app), app._common, app._declared
    with pytest.raises(ZeroDivisionError), app.test() as t:
        assert app._common != before[1]
        with pytest.raises(IllegalStateError, match="each test makes one of its own"), t:
            pass
        raise ZeroDivisionError
    assert (repr(app), app._common, app._declared) == before
    with pytest.raises(IllegalStateError, match="is a block"):
        app.test().run()


@pytest.mark.filterwarnings("error")
def test_behind_its_block_it_says_so() -> None:
    """Who looks at records after the block is told, and nothing is left unawaited."""
    app, _ = shop()
    with app.test() as t:
        t.run()
    with pytest.raises(IllegalStateError, match="its block was left"):
        t.records("invoices")
    with pytest.raises(IllegalStateError, match="each test makes one of its own"), t:
        pass


async def test_it_has_a_loop_of_its_own() -> None:
    """In an ``async def`` test that is said, and no coroutine is left unawaited."""
    app, _ = shop()
    with pytest.raises(IllegalStateError, match="use it in a plain `def` test"), app.test():
        pass


@pytest.mark.parametrize("package", ["fakeredis", "lupa"])
def test_without_fakeredis_it_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, package, None)
    app, _ = shop()
    with pytest.raises(ConfigurationError, match=r"pip install 'streamlayer\[testing\]'"), app.test():
        pass
