"""What producer, consumer and admin share: the way to one server, its registry of topics, and a patient ``call``."""

from __future__ import annotations

import copy
import itertools
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from redis.exceptions import RedisError

from streamlayer._async.link import Link, Settings, Unanswered
from streamlayer._core import registry_calls
from streamlayer._core.calls import Call
from streamlayer._core.entries import TopicEntry, read_entry, topics_in
from streamlayer._core.refusals import Refusal
from streamlayer._core.retry import backoff_ms
from streamlayer._core.settings import DEFAULT_URL, FILES, connection_options, namespace_of, parse_url
from streamlayer._types import DurabilityLevel
from streamlayer._waiting import aio as waiting
from streamlayer.errors import ConfigurationError, IllegalStateError, ServerUnavailableError, StreamlayerError

T = TypeVar("T")

CALLS_AT_ONCE = 100
CONNECT_MS = 10_000
"""How long a server that is there, and loads or is busy, is waited for at first."""
LEAST_PATIENCE_MS = 1000
"""However little time is left, a silent server has so long to answer: a connection has to be made, too."""


def settings_of(url: str | None, client: waiting.Redis | None, *, allow_eviction: bool) -> Settings:
    """How to connect: by a URL, or like a redis-py client (its settings are copied, its connections never used).

    :raises ConfigurationError: both were given, or what was given cannot work.
    """
    if url is not None and client is not None:
        msg = "pass url= or redis=, not both"
        raise ConfigurationError(msg)
    if client is None:
        return _settings_of_url(url or os.environ.get("STREAMLAYER_URL") or DEFAULT_URL, allow_eviction=allow_eviction)
    if not waiting.same_colour(client):
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        hint = waiting.OTHER_COLOUR if hasattr(client, "connection_pool") else "pass a redis-py client"
        msg = f"redis={kind}: {hint}"
        raise ConfigurationError(msg)
    pool: Any = client.connection_pool
    return Settings(pool.connection_class, connection_options(pool.connection_kwargs), allow_eviction=allow_eviction)


def _settings_of_url(url: str, *, allow_eviction: bool) -> Settings:
    address = parse_url(url)
    try:
        pool = cast("Any", waiting.ConnectionPool).from_url(address.url)  # redis-py leaves its arguments untyped
        pool.connection_class(**pool.connection_kwargs)  # not connected: are the parameters known?
    except (ValueError, TypeError, RedisError) as error:
        msg = f"a part of url cannot be used: {error}"  # not the url: there may be a password in it
        raise ConfigurationError(msg) from None
    options = connection_options(pool.connection_kwargs)
    for name in FILES:
        if options.get(name) and not Path(options[name]).exists():
            msg = f"{name}={options[name]!r}: there is no such file"
            raise ConfigurationError(msg)
    return Settings(pool.connection_class, options, allow_eviction=allow_eviction)


class Client:
    """One user object's connection to a server.

    :ivar namespace: what all keys begin with.
    """

    def __init__(
        self,
        url: str | None,
        redis: waiting.Redis | None,
        namespace: str | None,
        client_id: str | None,
        *,
        allow_eviction: bool,
        min_durability: DurabilityLevel | None = None,
    ) -> None:
        address = parse_url(url) if url is not None else None
        if address is None and redis is None and "STREAMLAYER_URL" in os.environ:
            address = parse_url(os.environ["STREAMLAYER_URL"])
        self.namespace = namespace_of(namespace, address)
        self.settings = settings_of(url, redis, allow_eviction=allow_eviction)
        self.settings.namespace = self.namespace
        self.settings.min_durability = min_durability
        self.settings.options["client_name"] = client_id or "streamlayer"
        self._link = Link(self.settings)
        self._lock = waiting.Lock()
        self._home: waiting.Home | None = None
        self.reached = False  # whether anybody was there, be it to say that it loads
        self.closed = False

    def check_home(self) -> None:
        """Remember where the object is used first; refuse it elsewhere, and after it was closed.

        :raises IllegalStateError: closed, another event loop, or a fork's child.
        """
        if self.closed:
            msg = "it is closed"
            raise IllegalStateError(msg)
        if self._home is None:
            self._home = waiting.Home()
        elif trouble := self._home.trouble():
            raise IllegalStateError(trouble)

    @property
    def opened(self) -> int:
        """How many times it has connected."""
        return self._link.opened

    @property
    def connected(self) -> bool:
        """Whether it has a connection that has not been found lost."""
        return self._link.connected

    def new_link(self) -> Link:
        """Another connection to the same server."""
        return Link(self.settings)

    async def connect(self) -> None:
        """Reach the server for the first time.

        :raises StreamlayerError: it cannot be reached, or must not be used.
        """
        self.check_home()
        deadline = waiting.monotonic_ms() + CONNECT_MS
        for attempt in itertools.count():
            try:
                async with self._lock:
                    await self._link.connect()
                break
            except ServerUnavailableError:
                wait_ms = backoff_ms(attempt, random.random())
                if not self._link.put_off or waiting.monotonic_ms() + wait_ms > deadline:
                    raise
            await waiting.sleep_ms(wait_ms)
        self.reached = True

    def sibling(self) -> Client:
        """Another one with the same settings and a connection of its own."""
        other = copy.copy(self)
        other._link = self.new_link()  # noqa: SLF001 - it is one of us
        other._lock = waiting.Lock()  # noqa: SLF001 - as above
        return other

    async def execute(self, batch: Sequence[Call[Any]], limit_ms: float = waiting.REPLY_TIMEOUT_MS) -> list[Any]:
        """Send calls in one go, once; each outcome is a result, or an error as a value.

        :param limit_ms: how long the server may be silent.
        :raises ServerUnavailableError: there is no connection.
        """
        self.check_home()
        try:
            async with self._lock:
                outcomes = await self._link.execute(batch, limit_ms)
        except ServerUnavailableError:
            self.reached = self.reached or self._link.put_off
            raise
        self.reached = True
        return outcomes

    async def call(self, call: Call[T], timeout_ms: int = 10_000) -> T:
        """Execute one call; while the server is away, try again until the time is over. All our calls may run twice.

        :param timeout_ms: how long; a silent server may take a second more. 0: once.
        :raises Refusal: the script wants something else of the client.
        :raises StreamlayerError: what became of it, at the end.
        """
        deadline = waiting.monotonic_ms() + timeout_ms
        attempt = 0
        while True:
            left_ms = deadline - waiting.monotonic_ms() if timeout_ms > 0 else math.inf
            limit_ms = min(waiting.REPLY_TIMEOUT_MS, max(LEAST_PATIENCE_MS, left_ms))
            try:
                (outcome,) = await self.execute([call], limit_ms)
            except ServerUnavailableError as unavailable:
                if not self.reached:
                    raise
                outcome = unavailable
            if not isinstance(outcome, Exception):
                result: T = outcome
                return result
            error = outcome.error if isinstance(outcome, Unanswered) else outcome
            wait_ms = backoff_ms(attempt, random.random())
            again = isinstance(error, StreamlayerError) and error.retriable
            if not again or waiting.monotonic_ms() + wait_ms > deadline:
                raise error
            attempt += 1
            await waiting.sleep_ms(wait_ms)

    async def call_all(self, batch: Sequence[Call[T]], timeout_ms: int = 10_000) -> list[T]:
        """Execute calls, many in one go; what could not be done at once is tried again one by one.

        :param timeout_ms: how long to try each while the server is away; 0: once.
        :raises Refusal: a script wants something else of the client.
        :raises StreamlayerError: what became of the first that failed.
        """
        results: list[T] = []
        for start in range(0, len(batch), CALLS_AT_ONCE):
            part = batch[start : start + CALLS_AT_ONCE]
            outcomes: list[Any] = [None] * len(part)
            try:
                outcomes = await self.execute(part)
            except ServerUnavailableError:
                if not self.reached or timeout_ms <= 0:
                    raise
            for call, outcome in zip(part, outcomes, strict=True):
                if isinstance(outcome, Refusal) or (isinstance(outcome, StreamlayerError) and not outcome.retriable):
                    raise outcome
                if isinstance(outcome, Exception) and timeout_ms <= 0:
                    raise outcome.error if isinstance(outcome, Unanswered) else outcome
                if outcome is None or isinstance(outcome, Exception):
                    results.append(await self.call(call, timeout_ms))
                else:
                    results.append(outcome)
        return results

    async def topic(self, name: str, timeout_ms: int = 10_000) -> TopicEntry | None:
        """One topic's entry in the registry, in whatever state; ``None`` if there is none."""
        stored = await self.call(registry_calls.read_topic(self.namespace, name), timeout_ms)
        return None if stored is None else read_entry(stored, name)

    async def topics(self, timeout_ms: int = 10_000) -> dict[str, TopicEntry]:
        """All entries of the registry."""
        return topics_in(await self.call(registry_calls.read_registry(self.namespace), timeout_ms))

    async def close(self) -> None:
        """Close the connection."""
        self.closed = True
        await self._link.close()

    def abandon(self) -> None:
        """Forget all connections: in a fork's child they are still the parent's."""
        self._link.abandon()
        self._home = None
        self._lock = waiting.Lock()
