"""``Declared``: what ``@app.consumer(…)`` says, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from streamlayer._core.keys import check_name
from streamlayer._core.lanes import Ordering
from streamlayer._core.progress import MOST_RANGES
from streamlayer._worker.handler import Handler
from streamlayer._worker.retry import Retry
from streamlayer.errors import ConfigurationError

_LEAST_AHEAD: Final = 250


@dataclass(frozen=True)
class Declared:
    """A handler, and how it is run. The words are those of ``App.consumer``.

    :ivar reading: options of the ``Consumer``.
    """

    handler: Handler
    topics: tuple[str, ...]
    group_id: str
    to: str | None
    concurrency: int
    ordering: Ordering
    retries: Retry
    dead_letter: str | None
    timeout_ms: int | None
    batch_size: int
    batch_wait_ms: int
    commit_interval_ms: int
    reading: Mapping[str, Any]

    def __post_init__(self) -> None:
        place = f"@app.consumer for {self.handler.name}"
        if not self.topics:
            msg = f"{place}: it needs a topic: @app.consumer('orders', group_id='billing')"
            raise ConfigurationError(msg)
        for topic in (*self.topics, *filter(None, (self.to, self.dead_letter))):
            check_name(topic)
        check_name(self.group_id, "group")
        if self.ordering not in get_args(Ordering):
            msg = f"{place}: ordering={self.ordering!r} is none of {', '.join(map(repr, get_args(Ordering)))}"
            raise ConfigurationError(msg)
        retries: Any = self.retries
        if not isinstance(retries, Retry):
            msg = f"{place}: retries={retries!r} is no Retry(attempts, backoff_ms=…)"
            raise ConfigurationError(msg)
        for name, least, most in (
            ("concurrency", 1, 10_000),
            ("timeout_ms", 1, 86_400_000),
            ("batch_size", 1, MOST_RANGES),
            ("batch_wait_ms", 0, 3_600_000),
            ("commit_interval_ms", 0, 3_600_000),
        ):
            number = getattr(self, name)
            if number is None and name == "timeout_ms":
                continue
            if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
                msg = f"{place}: {name}={number!r} is no whole number from {least:,} to {most:,}"
                raise ConfigurationError(msg)
        if self.timeout_ms is not None and not self.handler.is_async:
            msg = f"{place}: timeout_ms= needs an `async def` handler: a thread cannot be stopped from outside"
            raise ConfigurationError(msg)
        if self.dead_letter in self.topics:
            msg = f"{place}: dead_letter={self.dead_letter!r} is what it reads: its dead letters would come back"
            raise ConfigurationError(msg)

    @property
    def ahead(self) -> int:
        """How many records of a partition it holds at most that are not done.

        With keys as many as it can tell of: those of a key that is stuck pile up, and the others shall go on.
        """
        if self.ordering == "key":
            return MOST_RANGES
        return min(MOST_RANGES, max(_LEAST_AHEAD, 4 * self.concurrency, 2 * self.batch_size))

    @property
    def at_once(self) -> int:
        """How many records one call takes at most."""
        return self.batch_size if self.handler.takes_batches else 1
