"""One server call at a time: clients that die after some, that stop between two, and whose calls come once more, late.

What stands between a client and its server here changes nothing of what either says: it only counts, waits and ends.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis

from streamlayer._async.client import Client
from streamlayer._core.calls import Call
from streamlayer._core.entries import TopicEntry, read_entry
from streamlayer._waiting import aio as waiting
from streamlayer.aio import Admin
from tests.beside import aio_beside

ALL = 1_000_000


class Died(Exception):
    """The client's process ended here."""


class Steps:
    """Executes a client's calls one by one, and remembers them.

    :ivar calls: what was executed.
    :ivar left: how many more may be, before ``at_end``.
    """

    def __init__(self, client: Client, left: int = ALL) -> None:
        self.calls: list[Call[Any]] = []
        self.left = left
        self.execute = client.execute
        client.execute = self._one_by_one  # type: ignore[method-assign]

    async def _one_by_one(self, batch: Sequence[Call[Any]], limit_ms: float = waiting.REPLY_TIMEOUT_MS) -> list[Any]:
        outcomes: list[Any] = []
        for call in batch:
            if not self.left:
                await self.at_end()
            self.left -= 1
            outcomes += await self.execute([call], limit_ms)
            self.calls.append(call)
        return outcomes

    async def at_end(self) -> None:
        """By default the client dies."""
        raise Died


class Party(Steps):
    """Somebody who goes on only as far as he is let.

    :ivar error: what his work raised.
    """

    def __init__(self, admin: Admin, work: Callable[[Admin], Awaitable[object]]) -> None:
        super().__init__(admin._client, 0)
        self._admin = admin
        self._do = work
        self.error: Exception | None = None
        self.ended = False
        self._go = waiting.Signal()
        self._stopped = waiting.Signal()
        self._running = aio_beside(self._work)

    async def _work(self) -> None:
        try:
            await self._do(self._admin)
        except Exception as error:  # noqa: BLE001 - the test asks for it
            self.error = error
        finally:
            self.ended = True
            self._admin._client.execute = self.execute  # type: ignore[method-assign]
            self._stopped.set()

    async def at_end(self) -> None:
        """Stop, and wait to be let go."""
        self._stopped.set()
        assert await self._go.wait(20_000)

    async def run(self, steps: int = ALL) -> None:
        """Let him do so many calls, or all."""
        if steps and not self.ended:
            await self._wait()
            self.left = steps
            self._go.set()
            await self._wait()
            self._stopped.set()

    async def end(self) -> Exception | None:
        """Let him do all that is left; what he raised."""
        while not self.ended:
            await self.run()
        await self._running.result()
        return self.error

    async def _wait(self) -> None:
        assert self.ended or await self._stopped.wait(20_000)


async def dies_after(args: dict[str, Any], steps: int, work: Callable[[Admin], Awaitable[object]]) -> bool:
    """Have an admin do something and die after so many calls; tell whether he got through."""
    async with Admin(**args) as admin:
        Steps(admin._client, steps)
        try:
            await work(admin)
        except Died:
            return False
    return True


async def calls_of(args: dict[str, Any], work: Callable[[Admin], Awaitable[object]]) -> list[Call[Any]]:
    """Have an admin do something; the calls it took."""
    async with Admin(**args) as admin:
        steps = Steps(admin._client)
        await work(admin)
    return steps.calls


def stored_entry(client: redis.Redis, namespace: str, topic: str) -> TopicEntry | None:
    """The registry's entry."""
    stored = client.hget(f"{namespace}:topics", topic)
    return None if stored is None else read_entry(stored, topic)


def keys_of(client: redis.Redis, namespace: str, topic: str) -> set[str]:
    """The keys of all partitions of a topic."""
    return {key.decode() for key in client.scan_iter(match=f"{namespace}:t:{{{topic}:*", count=10_000)}


def settled(client: redis.Redis, namespace: str, topic: str) -> TopicEntry | None:
    """The entry of a topic at rest, ``None`` if there is none; it fails if anything is half done or contradicts it."""
    entry = stored_entry(client, namespace, topic)
    keys = keys_of(client, namespace, topic)
    if entry is None:
        assert not keys
        return None
    assert (entry.state, entry.target) == ("ready", 0)
    config = entry.topic_config()
    expected = {
        "id": entry.id,
        "generation": entry.generation,
        "partitions": entry.partitions,
        "config_version": entry.config_version,
        "retention_ms": config.retention_ms,
        "retention_bytes": config.retention_bytes,
        "segment_limit": config.segment_limit,
        "max_message_bytes": config.max_message_bytes,
        "timestamp_type": config.timestamp_type,
        "growing": None,
        "state": None,
        "damaged": None,
    }
    for number in range(entry.partitions):
        prefix = f"{namespace}:t:{{{topic}:{number}}}:"
        found = client.hmget(prefix + "meta", list(expected))
        assert dict(zip(expected, found, strict=True)) == {
            name: None if value is None else str(value).encode() for name, value in expected.items()
        }
        keys = {key for key in keys if not key.startswith(prefix)}
    assert not keys
    return entry


def contents(client: redis.Redis, namespace: str) -> str:
    """All keys with all they hold, as text to be compared."""
    read: dict[bytes, Callable[[bytes], Any]] = {
        b"hash": lambda key: sorted(client.hgetall(key).items()),
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"string": client.get,
    }
    found = {
        key.decode(): read[client.type(key)](key) for key in client.scan_iter(match=f"{namespace}:*", count=10_000)
    }
    return json.dumps(found, default=repr, sort_keys=True, indent=1)
