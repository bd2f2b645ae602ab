"""How handlers of every make are called, and that nothing they do is lost without a word."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from pydantic import BaseModel

from streamlayer import App, ConfigurationError, ConsumerRecord, Retry, TopicConfig
from streamlayer.aio import Admin
from tests.waiting import aio_wait_until
from tests.worker.diary import committed, produce, stored, until_done, work

SOON = Retry(2, backoff_ms=5)


class Elsewhere(BaseModel):
    """What a handler that was declared elsewhere takes; its annotations are texts in this module."""

    id: int


def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator of the many that hide an `async def` in a `def`."""

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


class Handlers:
    """Handlers that are no plain functions."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    async def __call__(self, order: Elsewhere) -> None:
        """An object that is a handler."""
        self.seen.append(("called", order.id))

    async def method(self, order: Elsewhere) -> None:
        """A bound method."""
        self.seen.append(("method", order.id))

    async def with_a_name(self, name: str, order: Elsewhere) -> None:
        """For a partial."""
        self.seen.append((name, order.id))

    async def hidden(self, order: Elsewhere) -> None:
        """For a decorator."""
        self.seen.append(("hidden", order.id))

    def plain(self, order: Elsewhere) -> None:
        """For a thread."""
        self.seen.append(("plain", order.id))


def declare(app: App, handlers: Iterable[Callable[..., Any]]) -> None:
    """Each in a group of its own, from where the names in their annotations are not known."""
    declaring = "for number, handler in enumerate(handlers): app.consumer('t', group_id=f'g{number}')(handler)"
    exec(declaring, {"app": app, "handlers": handlers})


async def test_whatever_can_be_called_is_run_to_its_end(aio_args: dict[str, Any]) -> None:
    """Objects, methods, partials of each, and an `async def` in a decorator: each one runs, with its annotations."""
    handlers = Handlers()
    makes = {
        "called": handlers,
        "method": handlers.method,
        "plain": handlers.plain,
        "partial": functools.partial(handlers.with_a_name, "partial"),
        "partial of an object": functools.partial(Handlers.__call__, handlers),
        "hidden": hidden(handlers.hidden),
    }
    await produce(aio_args, "t", [b'{"id": 1}', b'{"id": 2}'])
    app = App(**aio_args)
    declare(app, makes.values())
    async with app:
        for number in range(len(makes)):
            await until_done(aio_args, f"g{number}", app)
    expected = Counter({(name, i): 1 for name in makes if name != "partial of an object" for i in (1, 2)})
    expected["called", 1] += 1
    expected["called", 2] += 1
    assert Counter(handlers.seen) == expected


def test_generators_are_refused() -> None:
    """Nobody would run one: its records would be committed, and not one line of it executed."""
    app = App()

    def lazy(value: bytes) -> Iterator[bytes]:
        yield value

    async def lazy_too(value: bytes) -> AsyncIterator[bytes]:
        yield value

    for handler in (lazy, lazy_too, functools.partial(lazy)):
        with pytest.raises(ConfigurationError, match="is a generator, which nobody runs"):
            app.consumer("t", group_id="g")(handler)


class Later(BaseModel):
    """It names a model that comes later in this module."""

    there: Elsewhere
    comes: "Comes"  # noqa: UP037 - as people write without the future import


async def test_annotations_may_be_texts_in_texts(aio_args: dict[str, Any]) -> None:
    """Quoted ones in a module with the future import, models that name later ones, `list["Order"]`: all are read."""
    app = App(**aio_args)
    seen: list[Any] = []
    declared = {"retries": Retry(1), "dead_letter": "dead"}

    @app.consumer("t", group_id="quoted", **declared)
    async def quoted(value: "Elsewhere | None") -> None:  # noqa: UP037
        seen.append(value)

    @app.consumer("t", group_id="list", **declared)
    async def batch(values: 'list["Elsewhere"]') -> None:  # noqa: UP037
        seen.extend(values)

    @app.consumer("later", group_id="later", **declared)
    async def later(value: Later) -> None:
        seen.append(value.comes)

    await produce(aio_args, "t", [b'{"id": 1}'])
    await produce(aio_args, "later", [b'{"there": {"id": 1}, "comes": {"id": 1}}'])
    async with app:
        for group_id in ("quoted", "list", "later"):
            await until_done(aio_args, group_id, app)
    assert sorted(type(value).__name__ for value in seen) == ["Comes", "Elsewhere", "Elsewhere"]


async def test_annotations_that_name_nothing_are_refused(aio_args: dict[str, Any]) -> None:
    """Else each record would be a dead letter, for a slip of the pen."""
    app = App(**aio_args)

    async def handle(values: list[Elsewhere]) -> None:
        pass

    handle.__annotations__["values"] = 'list["Elsewere"]'
    with pytest.raises(ConfigurationError, match="Elsewere"):
        app.consumer("t", group_id="g")(handle)

    handle.__annotations__["values"] = type(
        "Never", (BaseModel,), {"__annotations__": {"gone": "Gone"}, "__module__": __name__}
    )
    app.consumer("t", group_id="g")(handle)
    with pytest.raises(ConfigurationError, match="Gone"):
        await app.serve(asyncio.Event())


class Comes(BaseModel):
    """What `Later` names."""

    id: int


class Panic(BaseException):
    """What some libraries raise, that is no `Exception`."""


class Dumb(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")


def panic() -> None:
    """Raise what is no `Exception`."""
    raise Panic


def dumb() -> None:
    """Raise what says nothing."""
    raise Dumb


def cancelled() -> None:
    """Raise what a task that was cancelled raises."""
    raise asyncio.CancelledError


def stopped() -> None:
    """Raise what no future and no coroutine takes."""
    raise StopIteration


@pytest.mark.parametrize("trouble", [panic, dumb, cancelled, stopped, sys.exit])
@pytest.mark.parametrize("how", ["awaited", "thread", "batch"])
async def test_whatever_is_raised_is_the_records_trouble(
    aio_args: dict[str, Any], trouble: Callable[[], None], how: str
) -> None:
    """Also what is no `Exception`, or cannot be printed: a dead letter, and the others are handled."""
    app = App(**aio_args)
    seen: list[bytes] = []
    declared = app.consumer("t", group_id="g", retries=SOON, dead_letter="t.dead", batch_wait_ms=5)

    def handle(values: list[bytes]) -> None:
        if b"bad" in values:
            trouble()
        seen.extend(values)

    async def awaited(value: bytes) -> None:
        handle([value])

    def thread(value: bytes) -> None:
        handle([value])

    async def batch(values: list[bytes]) -> None:
        handle(values)

    declared({"awaited": awaited, "thread": thread, "batch": batch}[how])
    await produce(aio_args, "t", [b"1", b"bad", b"2"])
    async with app:
        await until_done(aio_args, "g", app)
    assert seen == [b"1", b"2"]
    assert [record.value for record in await stored(aio_args, "t.dead")] == [b"bad"]


async def test_a_call_that_cancels_its_own_task_has_failed(aio_args: dict[str, Any]) -> None:
    """As some time limits do that forget to take it back: the worker goes on with all else."""
    app = App(**aio_args)
    seen: list[bytes] = []

    @app.consumer("t", group_id="g", retries=SOON, dead_letter="t.dead")
    async def handle(value: bytes) -> None:
        if value == b"bad":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await work(1000)
        await work(1)
        seen.append(value)

    await produce(aio_args, "t", [b"1", b"bad", b"2"])
    async with app:
        await until_done(aio_args, "g", app)
    assert seen == [b"1", b"2"]
    assert [record.value for record in await stored(aio_args, "t.dead")] == [b"bad"]


async def test_a_generator_that_is_returned_is_a_failure(aio_args: dict[str, Any]) -> None:
    """It cannot be known before: then it is told, and not committed over."""
    app = App(**aio_args)

    @app.consumer("t", group_id="g", to="out", retries=SOON, dead_letter="t.dead")
    async def handle(value: bytes) -> Any:
        return (item for item in [value])

    await produce(aio_args, "t", [b"1"])
    async with app:
        await until_done(aio_args, "g", app)
    (letter,) = await stored(aio_args, "t.dead")
    assert dict(letter.headers)["dlq.message"] == b"the handler returned a generator, which nobody runs: return a list"


variable: ContextVar[int] = ContextVar("variable", default=-1)


@pytest.mark.parametrize("ordering", ["partition", "none"])
async def test_what_a_call_sets_in_its_context_ends_with_it(aio_args: dict[str, Any], ordering: Any) -> None:
    """A request id that one record's handler has set is in the log lines of no other's, whoever waited for whom."""
    app = App(**aio_args)
    found: list[int] = []
    kept: list[bool] = []

    @app.consumer("t", group_id="g", ordering=ordering, concurrency=3, to="out", retries=SOON, dead_letter="dead")
    async def handle(record: ConsumerRecord) -> bytes:
        found.append(variable.get())
        variable.set(record.offset)
        await work(1)
        task = asyncio.create_task(work(1))
        await task
        await app.producer.send("beside", b"x", "k")
        kept.append(variable.get() == record.offset)
        if record.offset % 3 == 0:
            raise ValueError("again")
        return b"x"

    await produce(aio_args, "t", [b"x"] * 12)
    async with app:
        await until_done(aio_args, "g", app)
    assert set(found) == {-1}
    assert all(kept)


async def test_what_a_call_sends_is_its_own_records_business(aio_args: dict[str, Any]) -> None:
    """A send that fails and that nobody waited for: its record is a dead letter, and others are handled once."""
    app = App(**aio_args)
    handled: Counter[bytes] = Counter()

    @app.consumer("t", group_id="g", ordering="key", concurrency=4, retries=SOON, dead_letter="t.dead")
    async def handle(value: bytes) -> None:
        handled[value] += 1
        await app.producer.send("small", os.urandom(5000) if value == b"7" else b"fine", "k")

    await produce(aio_args, "t", [b"%d" % i for i in range(20)], keys=20)
    async with Admin(**aio_args) as admin:
        await admin.create_topics(["small"])
        await admin.alter_configs({"small": TopicConfig(max_message_bytes=1024)})
    async with app:
        await until_done(aio_args, "g", app)
    assert handled == {b"%d" % i: 1 + (i == 7) for i in range(20)}
    (letter,) = await stored(aio_args, "t.dead")
    assert letter.value == b"7"
    assert len(await stored(aio_args, "small")) == 19


async def test_nobody_else_takes_the_blame_for_a_send(aio_args: dict[str, Any]) -> None:
    """While a call whose send has failed still runs, others commit and flush: its record fails all the same."""
    app = App(**aio_args)
    calls: Counter[str] = Counter()
    others_done = asyncio.Event()

    @app.consumer("t", group_id="g", retries=Retry(2, backoff_ms=5), dead_letter="t.dead")
    async def handle(value: bytes) -> None:
        calls["first"] += 1
        await app.producer.send("small", os.urandom(5000), "k")
        await others_done.wait()

    @app.consumer("others", group_id="others", retries=Retry(1), dead_letter="others.dead")
    async def flush(record: ConsumerRecord) -> None:
        calls["other"] += 1
        await app.producer.send_and_wait("beside", b"x", "k")
        await app.producer.flush()

    async with Admin(**aio_args) as admin:
        await admin.create_topics(["small"])
        await admin.alter_configs({"small": TopicConfig(max_message_bytes=1024)})
    await produce(aio_args, "t", [b"x"])
    async with app:
        await aio_wait_until(lambda: calls["first"], "it has sent")
        await produce(aio_args, "others", [b"x"] * 20)
        await until_done(aio_args, "others", app)
        others_done.set()
        await until_done(aio_args, "g", app)
    assert calls == {"first": 2, "other": 20}
    assert [record.value for record in await stored(aio_args, "t.dead")] == [b"x"]
    async with Admin(**aio_args) as admin:
        assert "others.dead" not in await admin.list_topics()


async def test_a_call_that_was_told_decides_by_itself(aio_args: dict[str, Any]) -> None:
    """A handler that has waited for its send, and goes on although it failed, has handled its record."""
    app = App(**aio_args)
    told: list[str] = []

    @app.consumer("t", group_id="g", retries=SOON, dead_letter="t.dead")
    async def handle(value: bytes) -> None:
        future = await app.producer.send("small", os.urandom(5000), "k")
        try:
            await future
        except Exception as error:  # noqa: BLE001 - whatever it is
            told.append(type(error).__name__)

    async with Admin(**aio_args) as admin:
        await admin.create_topics(["small"])
        await admin.alter_configs({"small": TopicConfig(max_message_bytes=1024)})
    await produce(aio_args, "t", [b"x", b"y"])
    async with app:
        await until_done(aio_args, "g", app)
    assert told == ["MessageSizeTooLargeError"] * 2
    assert sum(offset for offset, _ in (await committed(aio_args, "g")).values()) == 2


async def test_a_thread_cannot_send_by_itself(aio_args: dict[str, Any]) -> None:
    """A plain handler that uses `app.producer` would send nothing, silently: it is told what to do instead."""
    app = App(**aio_args)

    @app.consumer("t", group_id="g", retries=Retry(1), dead_letter="t.dead")
    def handle(value: bytes) -> None:
        app.producer.send("out", value)

    await produce(aio_args, "t", [b"x"])
    async with app:
        await until_done(aio_args, "g", app)
    (letter,) = await stored(aio_args, "t.dead")
    assert b"return a ProducerRecord" in dict(letter.headers)["dlq.message"]
