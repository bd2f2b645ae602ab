"""The consumer's ear: one subscribed connection, on which the server says where something new is.

A message is only a hint to fetch. Whatever can have been missed is covered by one rule: a channel counts as woken
whenever its subscription is confirmed, which happens after each reconnect. It reconnects also when the consumer did:
the address may lead to another server by now, and the former one is there, and silent.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterable
from typing import Any

import redis

from streamlayer._async.client import Client
from streamlayer._async.link import error_text
from streamlayer._core.refusals import is_retriable
from streamlayer._core.retry import backoff_ms
from streamlayer._waiting import aio as waiting

logger = logging.getLogger("streamlayer")

PING_MS = 1000
SILENT_PINGS = 5
ATTEMPTS = 8
"""After so many in vain, some seconds, it is told that there is no subscription though there is a connection."""


class Subscriber:
    """Listens for wake-ups beside a consumer.

    :ivar inbox: a message means: look at ``woken``, or at why else you were woken.
    :ivar woken: channels with something new; the consumer takes them out.
    :ivar hooks: channel -> what is called at once, beside the consumer, with the message (empty: some may be missed).
    """

    def __init__(self, client: Client) -> None:
        self.inbox: waiting.Inbox[bool] = waiting.Inbox()
        self.woken: set[str] = set()
        self.hooks: dict[str, Callable[[str], None]] = {}
        self._client = client
        self._channels: set[str] = set()
        self._connection: waiting.Connection | None = None
        self._task: waiting.Task | None = None
        self._closing = False
        self._attempt = 0
        self._told = False
        self._sending = waiting.Lock()  # the consumer says what to listen to, and what runs beside pings

    async def listen(self, channels: Iterable[str]) -> None:
        """Listen to these channels too."""
        new = set(channels) - self._channels
        if not new:
            return
        self._channels |= new
        if self._task is None:
            self._task = waiting.spawn(self._run, "streamlayer-subscriber")
            return
        connection = self._connection
        if connection is not None:
            try:
                await self._transmit(connection, "SUBSCRIBE", *sorted(new))
            except (redis.RedisError, OSError):
                return  # the connection is lost: the reader will subscribe to all anew

    async def stop_listening(self, channels: Iterable[str]) -> None:
        """Listen to these no more."""
        old = set(channels) & self._channels
        self._channels -= old
        connection = self._connection
        if old and connection is not None:
            with contextlib.suppress(
                redis.RedisError, OSError
            ):  # it is lost: the reader will subscribe to what is left
                await self._transmit(connection, "UNSUBSCRIBE", *sorted(old))

    async def _transmit(self, connection: waiting.Connection, *command: str) -> None:
        async with self._sending:
            await waiting.transmit(connection, *command)

    def _wake(self, channel: str) -> None:
        if channel not in self.woken:
            self.woken.add(channel)
            self.inbox.put_here(True)

    async def _run(self) -> None:
        while not self._closing:
            try:
                settings, opened = self._client.settings, self._client.opened
                connection = settings.kind(**settings.options)
                await waiting.connect(connection)
                self._connection = connection
                await self._transmit(connection, "SUBSCRIBE", *sorted(self._channels))
                await self._read(connection, opened)
            except Exception as error:  # noqa: BLE001 - a server that says nonsense too: whoever listens must go on
                self._lost(error)
            finally:
                await self._disconnect()
            if not self._closing:
                await waiting.sleep_ms(backoff_ms(self._attempt, random.random()))
                self._attempt += 1

    def _lost(self, error: Exception) -> None:
        """Tell it if it will not come back by itself soon: a right is missing, or only this connection is not had."""
        refused = isinstance(error, redis.ResponseError) and not is_retriable(error_text(error))
        lasting = refused or (self._attempt >= ATTEMPTS and self._client.connected)
        if lasting and not self._told:
            logger.warning("no subscription: new records are looked for once a second (%s)", error_text(error))
            self._told = True
        else:
            logger.debug("the subscription was lost: %s", error)

    def _confirmed(self) -> None:
        self._attempt = 0
        if self._told:
            logger.info("the subscription is back")
            self._told = False

    async def _read(self, connection: waiting.Connection, opened: int) -> None:
        """Hear messages until the connection is lost, or the consumer has another."""
        silent = 0
        while not self._closing:
            if self._client.opened != opened:
                msg = "the consumer has connected anew"
                raise redis.ConnectionError(msg)
            message: Any = await waiting.receive(connection, PING_MS)
            if message is not None:
                silent = 0
                self._take_in(message)
                continue
            if silent >= SILENT_PINGS:
                msg = f"no answer to {silent} pings"
                raise redis.ConnectionError(msg)
            silent += 1
            await self._transmit(connection, "PING")

    def _take_in(self, message: Any) -> None:
        """Anybody may publish anything: what cannot be read counts as a message that says nothing."""
        match message:
            case [b"message", bytes(name), bytes(said)]:
                text = said.decode(errors="replace")
            case [b"subscribe", bytes(name), _]:
                text = ""
            case _:
                return
        self._confirmed()
        channel = name.decode(errors="replace")
        if channel in self.hooks:
            self.hooks[channel](text)
        self._wake(channel)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.disconnect()
            except (redis.RedisError, OSError):
                return  # it was gone already

    def let_go(self) -> None:
        """Nobody will close it: what runs beside ends at its next turn, a second later at most."""
        self._closing = True

    async def close(self, timeout_ms: int | None = None) -> None:
        """Stop listening."""
        self._closing = True
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(redis.RedisError, OSError):  # it has ended
                async with self._sending:
                    await waiting.hang_up(connection)
        if self._task is not None:
            await self._task.join(2 * PING_MS if timeout_ms is None else timeout_ms)
        await self._disconnect()
