"""How long a consumer group takes to be whole again, every partition owned and flowing; what idle members cost."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from multiprocessing.synchronize import Event
from statistics import median

import streamlayer
from benchmarks.measurement import Figures, Group, Row, Unit
from benchmarks.place import Place
from streamlayer import Admin, Consumer, NewTopic, TopicPartition, aio

TOPIC, GROUP_ID = "bench", "bench"
PARTITIONS = 12
MOST_MS = 50
"""A join or an orderly leave in a group of three."""
MOST_CROWD_MS = 2000
"""100 members and 1,000 partitions, from an empty group."""
MOST_SHARE = 0.01
"""Of a core, for the heartbeats of 100 idle members."""
SESSION_MS = 1000
MOST_TAKEOVER_MS = SESSION_MS + 150
_PAUSE_S = 0.0005
_PATIENCE_S = 60


class Member:
    """A consumer that polls in a task of its own."""

    def __init__(self, place: Place) -> None:
        self.consumer = aio.Consumer(TOPIC, url=place.url, group_id=GROUP_ID)
        self._stop = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self.consumer:
            while not self._stop:
                await self.consumer.poll(1000)

    def leave(self) -> None:
        """Begin to leave in good order."""
        self._stop = True
        self.consumer.wakeup()

    async def close(self) -> None:
        """Leave, and wait until that is done."""
        self.leave()
        await self._task

    def flowing(self) -> set[TopicPartition]:
        """The partitions of which a fetch has come back."""
        return {tp for tp in self.consumer.assignment() if self.consumer.highwater(tp) is not None}


async def _until_whole(members: Sequence[Member], partitions: int) -> None:
    """Until every partition flows, each at one member, and no member has more than one more than another."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        flowing = [member.flowing() for member in members]
        sizes = [len(member.consumer.assignment()) for member in members]
        if sum(sizes) == len(set().union(*flowing)) == partitions and max(sizes) - min(sizes) <= 1:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the group is not whole: {sizes} of {partitions}")
        await asyncio.sleep(_PAUSE_S)  # noqa: TID251 - consumers tell nobody that they are whole


async def _timed_ms(begin: Callable[[], object], members: Sequence[Member], partitions: int) -> float:
    started = time.perf_counter()
    begin()
    await _until_whole(members, partitions)
    return (time.perf_counter() - started) * 1e3


@asynccontextmanager
async def _topic(place: Place, partitions: int) -> AsyncGenerator[None]:
    async with aio.Admin(url=place.url) as admin:
        await admin.create_topics([NewTopic(TOPIC, partitions)])
    try:
        yield
    finally:
        place.plain.flushall()


def churn(place: Place) -> Figures:
    """A third member joins a group of two, and leaves it; again and again."""

    async def run() -> Figures:
        joins: list[float] = []
        leaves: list[float] = []
        async with _topic(place, PARTITIONS):
            members = [Member(place), Member(place)]
            await _until_whole(members, PARTITIONS)
            for _ in range(place.scale.rebalances):
                joins.append(await _timed_ms(lambda: members.append(Member(place)), members, PARTITIONS))
                third = members.pop()
                leaves.append(await _timed_ms(third.leave, members, PARTITIONS))
                await third.close()
            await asyncio.gather(*(member.close() for member in members))
        return {
            "join": 1000 * median(joins),
            "leave": 1000 * median(leaves),
            "join limit": 1000 * MOST_MS,
            "leave limit": 1000 * MOST_MS,
        }

    return asyncio.run(run())


def crowd(place: Place) -> Figures:
    """Many members join at once; then they have nothing to do."""

    async def run() -> Figures:
        partitions = 10 * place.scale.members
        async with _topic(place, partitions):
            members: list[Member] = []
            took_ms = await _timed_ms(
                lambda: members.extend(Member(place) for _ in range(place.scale.members)), members, partitions
            )
            place.plain.config_resetstat()
            started = time.perf_counter()
            await asyncio.sleep(place.scale.idle_ms / 1000)  # noqa: TID251 - what is measured is that nothing happens
            seconds = time.perf_counter() - started
            nothing = {"calls": 0, "usec": 0, "usec_per_call": 0}
            calls = place.plain.info("commandstats").get("cmdstat_evalsha", nothing)
            await asyncio.gather(*(member.close() for member in members))
        place.note(
            f"{len(members)} idle members: {calls['calls'] / seconds:.0f} calls of scripts a second, "
            f"{calls['usec_per_call']:.0f} µs each, looks at partitions among them"
        )
        return {
            "crowd": 1000 * took_ms,
            "crowd limit": 1000 * MOST_CROWD_MS,
            "idle": calls["usec"] / seconds,
            "idle limit": 1e6 * MOST_SHARE,
        }

    return asyncio.run(run())


def _be_a_member(url: str, ready: Event) -> None:
    """The one that is killed."""
    with Consumer(TOPIC, url=url, group_id=GROUP_ID, session_timeout_ms=SESSION_MS, heartbeat_interval_ms=300) as own:
        while True:
            own.poll(100)
            if own.assignment() and len(own.assignment()) < PARTITIONS:
                ready.set()


def takeover(place: Place) -> Figures:
    """A member is killed while records come; until records of all of its partitions are handed out by others."""
    context = multiprocessing.get_context("spawn")
    took: list[float] = []
    with Admin(url=place.url) as admin:
        admin.create_topics([NewTopic(TOPIC, PARTITIONS)])
    with (
        streamlayer.Producer(url=place.url, linger_ms=0) as producer,
        Consumer(
            TOPIC, url=place.url, group_id=GROUP_ID, session_timeout_ms=SESSION_MS, heartbeat_interval_ms=300
        ) as survivor,
    ):
        for _ in range(place.scale.takeovers):
            ready = context.Event()
            victim = context.Process(target=_be_a_member, args=(place.url, ready), daemon=True)
            victim.start()
            while not ready.is_set():
                survivor.poll(10)
            lost = {TopicPartition(TOPIC, number) for number in range(PARTITIONS)} - survivor.assignment()
            victim.kill()
            started = time.perf_counter()
            while lost:
                for tp in lost:
                    producer.send(TOPIC, b"alive", partition=tp.partition)
                lost -= survivor.poll(10).keys()
            took.append((time.perf_counter() - started) * 1e3)
    place.plain.flushall()
    return {"takeover": 1000 * median(took), "takeover limit": 1000 * MOST_TAKEOVER_MS}


def _timed(title: str, name: str) -> Row:
    return Row(title, Unit.MICROSECONDS, name, f"{name} limit", 1)


GROUP = Group(
    (churn, crowd, takeover),
    (
        _timed("a third member joins, 12 partitions / 50 ms", "join"),
        _timed("and leaves / 50 ms", "leave"),
        _timed("100 members, 1,000 partitions / 2 s", "crowd"),
        _timed("server's time a second, 100 idle members / 1 %", "idle"),
        _timed("a killed member's partitions flow / session + 150 ms", "takeover"),
    ),
    once=True,
)
