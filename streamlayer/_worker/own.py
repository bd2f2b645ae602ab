"""``app.producer``: what handlers send by themselves, and whose it is.

The rule: what a handler has sent and did not wait for belongs to its record, as what it returns does: the record is
done when that is in the log, and has failed if it does not get there. So one record's failure is not told to another,
and nobody commits over it. What is sent by tasks that a handler left running is flushed before a commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from streamlayer._async.producer import Producer
from streamlayer._types import AppendedRange, RecordMetadata
from streamlayer._waiting.aio import RecordFuture
from streamlayer._worker.outputs import to_key, to_value
from streamlayer.errors import IllegalStateError, StreamlayerError


class OwnFuture(RecordFuture):
    """What becomes of a record that a handler has sent.

    :ivar asked: whether the handler knows.
    """

    asked: bool = False

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        try:
            return (yield from RecordFuture.__await__(self))
        finally:
            self.asked = self.asked or self.done()

    def result(self) -> RecordMetadata:
        """As of ``RecordFuture``."""
        self.asked = self.asked or self.done()
        return RecordFuture.result(self)

    def exception(self) -> StreamlayerError | None:
        """As of ``RecordFuture``."""
        self.asked = self.asked or self.done()
        return RecordFuture.exception(self)


class Sends:
    """What one call of a handler sends, until it ends."""

    __slots__ = ("_futures", "_over")

    def __init__(self) -> None:
        self._futures: list[OwnFuture] | None = None
        self._over = False

    def take(self, future: RecordFuture) -> RecordFuture | None:
        """It has sent that; ``None`` if the call is over, and this comes from what it left running."""
        if self._over:
            return None
        own = OwnFuture(future.batch, future.index, future.hurry)
        own.add_done_callback(RecordFuture.exception)  # so no flush tells somebody else
        if self._futures is None:
            self._futures = []
        self._futures.append(own)
        return own

    def close(self) -> list[RecordFuture]:
        """The call is over; the answer is what it has sent and does not know the outcome of."""
        self._over = True
        futures, self._futures = self._futures, None
        return [] if futures is None else [future for future in futures if not future.asked]


gathering: ContextVar[Sends | None] = ContextVar("gathering", default=None)
"""What the call that runs here has sent."""


_BY_A_TASK: Final = object()
"""Stands for all that tasks have sent which handlers left running."""


class OwnProducer(Producer[Any, Any]):
    """The producer that handlers, and others in their loop, send with. It takes what handlers may return.

    :param options: those of ``Producer``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, key_serializer=_key, value_serializer=_value)
        self._loose: set[object] = set()  # what was sent since the last flush, and no record's handling waits for

    if not TYPE_CHECKING:  # there they are what they are in `Producer`

        def send(self, *args: Any, **options: Any) -> Coroutine[Any, Any, RecordFuture]:
            _check_in_loop()
            return self._send_own(*args, **options)

        def send_and_wait(self, *args: Any, **options: Any) -> Coroutine[Any, Any, RecordMetadata]:
            _check_in_loop()
            return self._until_sent(super().send_and_wait(*args, **options))

        def send_many(self, *args: Any, **options: Any) -> Coroutine[Any, Any, list[AppendedRange]]:
            _check_in_loop()
            return self._until_sent(super().send_many(*args, **options))

    async def _send_own(self, *args: Any, **options: Any) -> RecordFuture:
        """``send``: what a handler does not wait for is waited for before its record is done."""
        sends = gathering.get()
        future = await super().send(*args, **options)
        if sends is None:
            return future  # of somebody who is no handler: his own business
        own = sends.take(future)
        if own is None:
            self._loose.add(_BY_A_TASK)
        return own or future

    async def _until_sent(self, sending: Coroutine[Any, Any, Any]) -> Any:
        """The others: it may be a task that nobody waits for, so until it has ended well it is to be flushed."""
        if gathering.get() is None:
            return await sending
        self._loose.add(sending)
        outcome = await sending
        self._loose.discard(sending)
        return outcome

    async def flush_others(self, timeout_ms: int) -> None:
        """Have what handlers have sent, and no record waits for, in the log.

        :param timeout_ms: how long to wait for it.
        :raises StreamlayerError: as ``flush``.
        """
        if self._loose:
            flushed, self._loose = self._loose, set()  # what comes meanwhile is for the next flush
            try:
                await self.flush(timeout_ms=timeout_ms)
            except BaseException:
                self._loose |= flushed
                raise


def _key(given: Any) -> bytes:
    return to_key(given) or b""  # it is asked for no null


def _value(given: Any) -> bytes:
    return to_value(given) or b""


def _check_in_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        msg = (
            "app.producer belongs to the event loop, and a handler that is a plain `def` runs in a thread: "
            "make it an `async def`, or return a ProducerRecord, or a list of them"
        )
        raise IllegalStateError(msg) from None
