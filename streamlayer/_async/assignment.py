"""Which partitions a consumer reads: subscribed to by topic or pattern and looked up, or assigned by hand."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from streamlayer._async.client import Client
from streamlayer._async.offsets import EARLIEST, LATEST, Offsets
from streamlayer._async.registry import open_topic
from streamlayer._core.checks import check_assigned, check_partition
from streamlayer._core.entries import DELETING, READY, USABLE, TopicEntry
from streamlayer._core.keys import check_name, partition_keys, registry_channel
from streamlayer._core.positions import Left, PartitionPosition
from streamlayer._core.refusals import where
from streamlayer._types import TopicPartition
from streamlayer._waiting import aio as waiting
from streamlayer.errors import ConfigurationError, IllegalStateError, UnknownTopicOrPartitionError

logger = logging.getLogger("streamlayer")

LOOK_AGAIN_MS = 1000


class Resume(Protocol):
    """Has positions go on where their group is; the answer is those of which it knows nothing."""

    async def __call__(self, positions: Sequence[PartitionPosition], /) -> list[PartitionPosition]: ...


class Assignment:
    """The partitions of one consumer.

    :ivar topics: subscribed to, or matched by the pattern.
    :ivar pattern: instead of topics.
    :ivar positions: the partitions that are read, by topic and number.
    :ivar resume: of a group that partitions assigned by hand belong to.
    :ivar in_group: whether a group says which partitions these are; ``begin`` and ``end`` carry that out.
    """

    def __init__(self, client: Client, offsets: Offsets, auto_offset_reset: str, *, in_group: bool = False) -> None:
        self.in_group = in_group
        self._client = client
        self._offsets = offsets
        self._reset = auto_offset_reset
        self.resume: Resume | None = None
        self.topics: set[str] = set()
        self.positions: dict[TopicPartition, PartitionPosition] = {}
        self.pattern: re.Pattern[str] | None = None
        self._by_hand: list[TopicPartition] = []
        self._seeks: dict[TopicPartition, int] = {}
        self._pauses: set[TopicPartition] = set()
        self._left: dict[TopicPartition, Left | None] = {}
        self._channels: dict[str, TopicPartition] = {}
        self._channels_of: dict[TopicPartition, PartitionPosition] | None = None
        self._seen_once = False
        self._late: set[str] = set()
        self._warned: set[str] = set()
        self._dirty = True
        self._looked_at = 0

    @property
    def wanted(self) -> bool:
        """Whether there is anything to read, or to wait for."""
        return bool(self.topics or self.pattern or self._by_hand)

    @property
    def by_hand(self) -> bool:
        """Whether partitions were assigned."""
        return bool(self._by_hand)

    def assigned(self) -> set[TopicPartition]:
        """What is read."""
        return set(self._by_hand) if self._by_hand else set(self.positions)

    # --- what is wanted ----------------------------------------------------------------------------------------------

    def subscribe(self, topics: Iterable[str], pattern: str | re.Pattern[str] | None) -> None:
        """Want topics, or those that match."""
        if self._by_hand:
            msg = "partitions were assigned by hand: unsubscribe() before subscribe()"
            raise IllegalStateError(msg)
        if isinstance(topics, str):
            msg = f"subscribe takes a list of topics: subscribe([{topics!r}])"
            raise TypeError(msg)
        names = {check_name(topic) for topic in topics}
        if bool(names) == (pattern is not None):
            msg = "subscribe to topics or to a pattern: one of them. To read nothing, unsubscribe()"
            raise ConfigurationError(msg)
        try:
            compiled = re.compile(pattern) if pattern is not None else None
        except re.error as error:
            msg = f"pattern {pattern!r} is no regular expression: {error}"
            raise ConfigurationError(msg) from None
        if not self.in_group:
            self.positions = {tp: position for tp, position in self.positions.items() if tp.topic in names}
        self.topics, self.pattern = names, compiled
        self._forget()

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Want these partitions."""
        if self.topics or self.pattern:
            msg = "topics were subscribed to: unsubscribe() before assign()"
            raise IllegalStateError(msg)
        wanted = [TopicPartition(check_name(tp[0]), tp[1]) for tp in partitions]
        for tp in wanted:
            check_assigned(tp.partition)
        self._by_hand = list(dict.fromkeys(wanted))
        self.positions = {tp: position for tp, position in self.positions.items() if tp in self._by_hand}
        self._forget()

    def clear(self) -> None:
        """Want nothing."""
        self.topics, self.pattern, self._by_hand = set(), None, []
        self.positions = {}
        self._forget()

    def _forget(self) -> None:
        self._seeks.clear()
        self._pauses.clear()
        self._late.clear()
        self._warned.clear()
        self._seen_once = False
        self._dirty = True
        if not self.in_group:
            self._left.clear()

    # --- what is there -----------------------------------------------------------------------------------------------

    async def keep_up(self, now: int) -> bool:
        """Look the topics up if something may have changed; tell whether they were."""
        if self.in_group and not self._by_hand:
            return False
        looking = bool(self._late or self.pattern) and now - self._looked_at >= LOOK_AGAIN_MS
        if self.wanted and (self._dirty or looking):
            await self.refresh(0)
            return True
        return False

    async def refresh(self, timeout_ms: int = 10_000) -> None:
        """Look the topics up, and begin to read what is new.

        :param timeout_ms: how long to try while the server is away; 0: once.
        :raises UnknownTopicOrPartitionError: a topic has not the partition that was assigned.
        """
        if self.in_group and not self._by_hand:
            return
        self._looked_at = waiting.monotonic_ms()
        entries = await self._client.topics(timeout_ms)
        for name, entry in entries.items():
            if entry.state != READY and (name in self.topics or any(tp.topic == name for tp in self._by_hand)):
                finished = await open_topic(self._client, name, timeout_ms)
                if finished is not None:
                    entries[name] = finished
        ready = {name: entry for name, entry in entries.items() if entry.state in USABLE}
        if self.pattern is not None:
            matched = {name for name in ready if self.pattern.fullmatch(name)}
            self._late |= matched - self.topics if self._seen_once else set()
            self.topics |= matched
        wanted = self._by_hand or [
            TopicPartition(topic, number)
            for topic in sorted(self.topics)
            if topic in ready
            for number in range(ready[topic].partitions)
        ]
        for tp, position in self.positions.items():
            if tp.topic not in ready or ready[tp.topic].id != position.topic_id:
                position.waiting = False  # its topic is gone: the next fetch will say how
        await self._begin([tp for tp in wanted if tp not in self.positions and tp.topic in ready], ready, timeout_ms)
        self._note_missing({tp.topic for tp in self._by_hand} or self.topics, ready)
        self._seen_once = True
        self._dirty = False

    async def _begin(self, tps: list[TopicPartition], ready: Mapping[str, TopicEntry], timeout_ms: int) -> None:
        """Begin to read partitions: at the seek made before, where the subscription began, or at a late one's start."""
        new = [self._position(tp, ready[tp.topic]) for tp in tps]
        late = self._late | {tp.topic for tp in self.positions}
        policy = LATEST if self._reset == "latest" else EARLIEST
        fresh = [p for p in new if not p.go_back()] if self.resume is None else await self.resume(new)
        placed = [p for p in fresh if p.tp not in self._seeks]
        await self._offsets.begin([p for p in placed if p.tp.topic not in late], policy, timeout_ms)
        await self._offsets.begin([p for p in placed if p.tp.topic in late], EARLIEST, timeout_ms)
        for position in new:
            if position.tp in self._seeks:
                position.seek(self._seeks.pop(position.tp))
            self._add(position)

    def _add(self, position: PartitionPosition) -> None:
        tp = position.tp
        position.paused = tp in self._pauses
        self._pauses.discard(tp)
        self._left.pop(tp, None)
        self.positions[tp] = position

    @property
    def unsettled(self) -> bool:
        """Whether a group's partitions are to be looked up (again)."""
        return self.in_group and self._dirty and bool(self.wanted)

    async def begin(
        self, tps: Iterable[TopicPartition], first: Mapping[str, int], resume: Resume
    ) -> list[PartitionPosition]:
        """Begin to read partitions that a group gave; those of a topic that is not there (any more) are left out.

        :param first: topic -> how many partitions it had when the group began to read it; later ones are read whole.
        :param resume: has positions go on where the group is, and returns those of which it knows nothing.
        :returns: those that began where ``auto_offset_reset`` says.
        """
        self._dirty = True
        missing = [tp for tp in tps if tp not in self.positions]
        fresh: list[PartitionPosition] = []
        if missing:
            ready = {name: entry for name, entry in (await self._client.topics(0)).items() if entry.state in USABLE}
            there = [tp for tp in missing if tp.topic in ready and tp.partition < ready[tp.topic].partitions]
            new = [self._position(tp, ready[tp.topic]) for tp in there]
            fresh = await resume(new)
            late = [p for p in fresh if p.tp.partition >= first.get(p.tp.topic, p.tp.partition + 1)]
            others = [p for p in fresh if p not in late]
            policy = LATEST if self._reset == "latest" else EARLIEST
            for some, timestamp in ((late, EARLIEST), (others, policy)):
                await self._offsets.begin(some, timestamp, 0)
            for position in new:
                self._add(position)
        self._dirty = False
        return fresh

    def end(self, tps: AbstractSet[TopicPartition]) -> list[PartitionPosition]:
        """Stop to read partitions; those that were read are returned."""
        ended = [position for tp, position in self.positions.items() if tp in tps]
        self._left |= {position.tp: position.leave() for position in ended}
        self.positions = {tp: position for tp, position in self.positions.items() if tp not in tps}
        self._pauses -= tps
        return ended

    def _position(self, tp: TopicPartition, entry: TopicEntry) -> PartitionPosition:
        check_partition(tp.topic, tp.partition, entry.partitions)
        keys = partition_keys(self._client.namespace, *tp)
        position = PartitionPosition(tp, keys, entry.id, entry.generation, 0)
        position.left = self._left.get(tp)
        return position

    def _note_missing(self, wanted: set[str], ready: Mapping[str, TopicEntry]) -> None:
        """Warn once of each topic that is waited for; read it from its first record when it comes."""
        missing = wanted - set(ready)
        self._late |= missing
        for name in sorted(missing - self._warned):
            near = difflib.get_close_matches(name, list(ready), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {sorted(ready)[:10] or 'no topics'}"
            logger.warning("topic %r does not exist yet and is waited for; %s", name, hint)
        self._warned |= missing

    # --- one of them -------------------------------------------------------------------------------------------------

    def position_of(self, tp: TopicPartition) -> PartitionPosition:
        """A partition that is read.

        :raises IllegalStateError: it is not.
        """
        position = self.positions.get(tp)
        if position is None:
            if self._expects(TopicPartition(*tp)):
                msg = f"{where(*tp)} is assigned, but the topic is not there yet"
                raise IllegalStateError(msg)
            msg = f"{where(*tp)} is not assigned to this consumer; assigned are {sorted(self.positions)[:10] or 'none'}"
            raise IllegalStateError(msg)
        return position

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Go on at an offset, now or when the partition is found."""
        tp = TopicPartition(*tp)
        if tp in self.positions:
            self.positions[tp].seek(offset)
        elif self._expects(tp):
            self._seeks[tp] = offset
        else:
            self.position_of(tp)

    def pause(self, tp: TopicPartition, *, paused: bool) -> None:
        """Hold a partition back or let it go on, now or when it is found."""
        tp = TopicPartition(*tp)
        if tp in self.positions:
            self.positions[tp].paused = paused
        elif not self._expects(tp):
            self.position_of(tp)
        elif paused:
            self._pauses.add(tp)
        else:
            self._pauses.discard(tp)

    def paused(self) -> set[TopicPartition]:
        """What is held back."""
        return self._pauses | {tp for tp, position in self.positions.items() if position.paused}

    def _expects(self, tp: TopicPartition) -> bool:
        return tp in self._by_hand or (tp.topic in self.topics and not self.in_group)

    def expect(self, ends: Mapping[TopicPartition, int]) -> None:
        """There is something to fetch before these ends, whatever the last fetch saw."""
        for tp, position in self.positions.items():
            if position.position < ends.get(tp, 0):
                position.waiting = False

    def behind(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether a partition that is not paused has records before its end."""
        return any(
            p.position < ends.get(tp, 0) and not p.paused and (p.buffered or not p.waiting)  # else it was cut back
            for tp, p in self.positions.items()
        )

    def lost_topic(self, topic: str) -> None:
        """A topic was deleted: what was read of it is over; if it comes again, it is read from its first record.

        If the same log comes again (another server answered for a while), reading goes on where it was.
        """
        gone = {tp: position for tp, position in self.positions.items() if tp.topic == topic}
        self._left |= {tp: position.leave() for tp, position in gone.items()}
        self._pauses |= {tp for tp, position in gone.items() if position.paused}
        self.positions = {tp: position for tp, position in self.positions.items() if tp not in gone}
        self._late.add(topic)
        self._dirty = True

    async def let_go(self) -> None:
        """Stop to read topics that are gone, or that are another log by now."""
        entries = {name: entry.id for name, entry in (await self._client.topics()).items() if entry.state != DELETING}
        gone = {tp.topic for tp, position in self.positions.items() if entries.get(tp.topic) != position.topic_id}
        for topic in gone:
            self.lost_topic(topic)

    def changed(self) -> None:
        """Something of the topics changed."""
        self._dirty = True

    async def look_up(self, tps: Iterable[TopicPartition]) -> list[PartitionPosition]:
        """Any partitions, assigned or not, to ask something of.

        :raises UnknownTopicOrPartitionError: there is none such.
        """
        asked = [TopicPartition(*tp) for tp in tps]
        entries = {topic: await self.entry(topic) for topic in sorted({tp.topic for tp in asked})}
        return [self._position(tp, entries[tp.topic]) for tp in asked]

    async def entry(self, topic: str) -> TopicEntry:
        """A topic that is there.

        :raises UnknownTopicOrPartitionError: there is none.
        """
        entry = await open_topic(self._client, check_name(topic), 10_000)
        if entry is None:
            msg = f"there is no topic {topic!r} in namespace {self._client.namespace!r}"
            raise UnknownTopicOrPartitionError(msg)
        return entry

    # --- wake-ups ----------------------------------------------------------------------------------------------------

    def channels(self) -> list[str]:
        """The channels to listen on."""
        if self._channels_of is not self.positions or len(self._channels) != len(self.positions):
            self._channels = {position.keys.channel: tp for tp, position in self.positions.items()}
            self._channels_of = self.positions
        return [registry_channel(self._client.namespace), *self._channels]

    def woken(self, channel: str) -> None:
        """Something was said on a channel."""
        tp = self._channels.get(channel)
        if tp is None:
            self._dirty = True
        elif tp in self.positions:
            self.positions[tp].waiting = False
