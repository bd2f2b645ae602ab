"""Members of a group inside the test's own process, of either colour, which do what they are told when they are told.

    with Members("aio", proxy.url) as members:
        a = members.join("a")
        members.settle("a")
        members.do(a.consumer.commit)

Their heartbeats go on beside. A test that must stop a member for good has it in a process: ``group_crew``.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import streamlayer
from streamlayer import TopicPartition, aio
from tests.system.group_worker import GROUP, TOPIC
from tests.system.load import Colour
from tests.waiting import sync_wait_until

PARTITIONS = 4
OPTIONS: dict[str, Any] = {"session_timeout_ms": 4000, "heartbeat_interval_ms": 100, "enable_auto_commit": False}


class Member:
    """One consumer, what it was told and what it was handed."""

    def __init__(self, members: Members, topics: list[str], options: dict[str, Any]) -> None:
        self.told: list[tuple[str, list[int]]] = []
        self.records: list[tuple[int, int]] = []
        self._members = members
        kind: Any = aio.Consumer if members.colour == "aio" else streamlayer.Consumer
        listener = _AioListener(self.told) if members.colour == "aio" else _SyncListener(self.told)
        self.consumer = kind(*topics, url=members.url, group_id=GROUP, listener=listener, **(OPTIONS | options))

    def poll(self, timeout_ms: int = 20) -> int:
        """Poll once; how many records came."""
        records = self._members.do(self.consumer.poll, timeout_ms)
        taken = [(record.partition, record.offset) for some in records.values() for record in some]
        self.records += taken
        return len(taken)

    @property
    def has(self) -> list[int]:
        """The partitions it reads."""
        return sorted(tp.partition for tp in self.consumer.assignment())

    @property
    def session(self) -> Any:
        """What keeps it in the group."""
        return self.consumer._group.session


class Members:
    """Members of one group, at one address."""

    def __init__(self, colour: Colour, url: str) -> None:
        self.colour, self.url = colour, url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._pool = ThreadPoolExecutor(max_workers=1)
        self.all: list[Member] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.all:
            self.do(member.consumer.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._pool.shutdown()

    def do(self, what: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call something of a consumer; in asyncio, in its loop."""
        return self.begin(what, *args, **options).result(60)

    def begin(self, what: Callable[..., Any], *args: Any, **options: Any) -> Future[Any]:
        """The same without waiting for the end."""

        async def work() -> Any:
            answer = what(*args, **options)
            return await answer if inspect.isawaitable(answer) else answer

        if self.colour == "aio":
            return asyncio.run_coroutine_threadsafe(work(), self._loop)
        return self._pool.submit(what, *args, **options)

    def join(self, *topics: str, **options: Any) -> Member:
        """A new member; it joins when it is polled."""

        async def make() -> Member:
            return Member(self, list(topics or (TOPIC,)), options)

        made = asyncio.run_coroutine_threadsafe(make(), self._loop).result(10)
        self.all.append(made)
        return made

    def settle(self, *members: Member, partitions: int = PARTITIONS) -> None:
        """Poll these in turn until they share all partitions evenly."""

        def settled() -> bool:
            for member in members:
                member.poll()
            sizes = [len(member.has) for member in members]
            owned = {number for member in members for number in member.has}
            if not all(member.consumer._group.settled for member in members):
                return False
            return sum(sizes) == len(owned) == partitions and max(sizes) - min(sizes) <= 1

        sync_wait_until(settled, "the members share all partitions", timeout=20)

    def drain(self, member: Member, count: int) -> None:
        """Poll one until it was handed so many records in all."""
        sync_wait_until(lambda: member.poll() >= 0 and len(member.records) >= count, f"{count} records", timeout=20)

    def wait_heartbeats(self, member: Member, more: int = 2) -> None:
        """Wait for so many more heartbeats to be answered."""
        last = member.session._heard_at
        for _ in range(more):
            sync_wait_until(lambda last=last: member.session._heard_at != last, "a heartbeat is answered")
            last = member.session._heard_at


def _numbers(partitions: Any) -> list[int]:
    return sorted(TopicPartition(*tp).partition for tp in partitions)


class _AioListener(aio.ConsumerRebalanceListener):
    def __init__(self, told: list[tuple[str, list[int]]]) -> None:
        self._told = told

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._told.append(("assigned", _numbers(assigned)))

    async def on_partitions_revoked(self, revoked: Any) -> None:
        self._told.append(("revoked", _numbers(revoked)))

    async def on_partitions_lost(self, lost: Any) -> None:
        self._told.append(("lost", _numbers(lost)))


class _SyncListener(streamlayer.ConsumerRebalanceListener):
    def __init__(self, told: list[tuple[str, list[int]]]) -> None:
        self._told = told

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._told.append(("assigned", _numbers(assigned)))

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._told.append(("revoked", _numbers(revoked)))

    def on_partitions_lost(self, lost: Any) -> None:
        self._told.append(("lost", _numbers(lost)))
