"""A consumer's side of its group: partitions taken up and given up in ``poll``, the listener told, offsets committed.

The rule: what is committed was handed out under the view that this side has followed, and goes with that view's member
id and epoch. What the session learns meanwhile counts from the next ``poll`` on.
"""

from __future__ import annotations

import logging
import secrets
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from streamlayer._async.assignment import Assignment
from streamlayer._async.client import Client
from streamlayer._async.listener import ConsumerRebalanceListener
from streamlayer._async.session import GroupSession
from streamlayer._async.subscriber import Subscriber
from streamlayer._config import ConsumerOptions
from streamlayer._core import group_calls
from streamlayer._core.group_calls import COMMITTED_AT_ONCE, Commit, Committed
from streamlayer._core.keys import group_keys, registry_channel
from streamlayer._core.membership import NO_VIEW, View
from streamlayer._core.positions import PartitionPosition
from streamlayer._core.refusals import Refusal, error_of
from streamlayer._types import GroupMetadata, Health, TopicPartition
from streamlayer._waiting import aio as waiting
from streamlayer.errors import CommitFailedError, StreamlayerError

logger = logging.getLogger("streamlayer")

CLOSING_MS = 5000


class Group:
    """One consumer's group.

    :ivar listener: what is told of partitions that come and go.
    """

    def __init__(
        self,
        client: Client,
        assignment: Assignment,
        subscriber: Subscriber,
        options: ConsumerOptions,
        *,
        in_poll: Callable[[], bool],
        telling: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._client = client
        self._assignment = assignment
        self._subscriber = subscriber
        self._options = options
        self._keys = group_keys(client.namespace, str(options.group_id))
        self._in_poll = in_poll
        self._telling = telling
        self._view: View = NO_VIEW
        self._followed: View = NO_VIEW  # as _view, once all of it is done: what was cut short is done again
        self._told: frozenset[TopicPartition] = frozenset()
        self._commit_number = 0
        self._commit_at = 0
        self._stored: dict[TopicPartition, int] = {}
        self._listed = False
        self._uncommitted = False
        self._decided: dict[TopicPartition, Commit] = {}
        self._session: GroupSession | None = None
        self.listener = ConsumerRebalanceListener()

    # --- life --------------------------------------------------------------------------------------------------------

    @property
    def session(self) -> GroupSession:
        """The membership; made when it is needed first."""
        if self._session is None:
            inbox = self._subscriber.inbox
            self._session = GroupSession(
                self._client.sibling(),
                self._keys,
                self._options,
                in_poll=self._in_poll,
                notify=lambda: inbox.put(True),
            )
            weakref.finalize(self, self._session.let_end).atexit = False
            self._subscriber.hooks[self._keys.channel] = self._session.heard
            self._subscriber.hooks[registry_channel(self._client.namespace)] = self._session.registry_changed
        return self._session

    def metadata(self) -> GroupMetadata:
        """The consumer's place in its group, as it has followed it."""
        return GroupMetadata(
            str(self._options.group_id), self._view.epoch, self._view.member_id, self._options.group_instance_id
        )

    def lapsed(self) -> bool:
        """Whether what was handed to this consumer may be another's by now."""
        return self._session is not None and bool(self._view.member_id) and self._session.lapsed(self._view)

    @property
    def settled(self) -> bool:
        """Whether it follows all that the group wants of it."""
        return self._view.whole and self._followed is self.session.view and not self._assignment.unsettled

    def health(self, reading: Health) -> Health:
        """How the membership is doing, and the reading if that is well.

        :param reading: how the fetching is doing.
        """
        session = self.session
        trouble = session.failure or session.trouble
        if session.failure is not None:
            state = "failed"
        elif trouble is not None:
            state = "retrying"
        elif session.left_at_poll_timeout:
            state = "left"
        else:
            state = reading.state if session.view.member_id or not reading.ok else "joining"
        return Health(
            ok=reading.ok and trouble is None and state != "left",
            state=state,
            reason=str(trouble) if trouble is not None else reading.reason,
            heartbeat_age_ms=session.heartbeat_age_ms,
            poll_age_ms=waiting.boottime_ms() - session.polled_at if session.polled_at else None,
        )

    def subscribe(self) -> None:
        """Want what the assignment says now."""
        self.session.subscribe(self._assignment.topics, self._assignment.pattern)

    def unsubscribe(self) -> None:
        """Want nothing."""
        self._told, self._view, self._followed = frozenset(), NO_VIEW, NO_VIEW
        self._stored.clear()
        self._decided.clear()
        self.session.unsubscribe()

    def polled(self) -> None:
        """The consumer was used."""
        if self._session is not None:
            self._session.polled_at = waiting.boottime_ms()

    def interrupts(self) -> bool:
        """Whether the group is to be followed before the next record of a batch is handed out."""
        session = self._session
        if session is None or self._view is NO_VIEW:
            return False
        session.polled_at = waiting.boottime_ms()
        return self._followed is not session.view or session.lapsed(self._view)

    async def close(self) -> None:
        """Tell the listener that it is over, and leave."""
        partitions, self._told = self._told, frozenset()
        session = self._session
        if session is None:
            return
        try:
            if partitions and not session.lapsed(self._view):
                with self._telling():
                    await self.listener.on_partitions_revoked(partitions)
            elif partitions:
                with self._telling():
                    await self.listener.on_partitions_lost(partitions)
        finally:
            await session.close(CLOSING_MS)

    # --- partitions come and go --------------------------------------------------------------------------------------

    async def follow(self, finished: Callable[[], Mapping[TopicPartition, int]]) -> None:
        """Do what the group wants: give up what is revoked, take up what is assigned.

        :param finished: what the user is done with: partition -> the offset behind it.
        :raises FencedInstanceIdError: another consumer has this one's ``group_instance_id``.
        """
        session = self.session
        session.resume()
        session.start()
        await self._subscriber.listen([self._keys.channel, registry_channel(self._client.namespace)])
        if session.failure is not None:
            failure = session.failure
            await self._follow_loss(session.view)
            raise failure
        await self._store_decided()
        while self._followed is not session.view or self._assignment.unsettled:
            view = session.view
            await self._follow_loss(view)
            await self._give_up(view, finished)
            self._view = view
            await self._take_up(view)
            self._followed = view

    async def _follow_loss(self, view: View) -> None:
        kept = view.owned if view.member_id == self._view.member_id else frozenset[TopicPartition]()
        gone, lost = frozenset(self._assignment.positions) - kept, self._told - kept
        if not gone and not lost:
            return
        self._view = self._followed = NO_VIEW
        channels = self._end(gone | lost)
        if lost:
            with self._telling():
                await self.listener.on_partitions_lost(lost)
        await self._subscriber.stop_listening(channels)

    async def _give_up(self, view: View, finished: Callable[[], Mapping[TopicPartition, int]]) -> None:
        if not view.revoking:
            return
        revoked = self._told & view.revoking
        if revoked and self._options.enable_auto_commit:
            done = finished()
            await self.commit_quietly({tp: done[tp] for tp in revoked if tp in done})
        # Up to here it may be cancelled and begins again; from here on it is done, and told once.
        self._told -= revoked
        try:
            if revoked:
                with self._telling():
                    await self.listener.on_partitions_revoked(revoked)
        finally:
            channels = self._end(view.revoking)
            self.session.let_go(view)
        await self._subscriber.stop_listening(channels)

    def _end(self, partitions: frozenset[TopicPartition]) -> list[str]:
        """Read these no more; the answer is the channels that need not be listened to any longer."""
        self._told -= partitions
        for tp in partitions:
            self._stored.pop(tp, None)
            self._decided.pop(tp, None)
        return [position.keys.channel for position in self._assignment.end(partitions)]

    async def _take_up(self, view: View) -> None:
        wanted = view.owned - view.revoking
        begun = await self._assignment.begin(sorted(wanted), view.first, self.resume)
        self._decided |= {position.tp: self._commit_of(position, position.position) for position in begun}
        await self._store_decided()
        new = frozenset(self._assignment.positions) & wanted - self._told
        if new:
            self._told |= new
            with self._telling():
                await self.listener.on_partitions_assigned(new)

    async def _store_decided(self) -> None:
        """Commit where reading began for want of an offset: where a group starts is decided once."""
        decided = {tp: commit for tp, commit in self._decided.items() if tp in self._assignment.positions}
        try:
            if decided:
                await self._store(decided, 0)
        except CommitFailedError as error:
            logger.debug("%s", error)  # they are another member's already, and begin there
        self._decided.clear()

    # --- offsets -----------------------------------------------------------------------------------------------------

    async def read(self, tps: Sequence[TopicPartition], timeout_ms: int = 10_000) -> list[Committed | None]:
        """What is stored of partitions, in the order asked for.

        :param timeout_ms: how long to try while the server is away.
        """
        parts = [tps[i : i + COMMITTED_AT_ONCE] for i in range(0, len(tps), COMMITTED_AT_ONCE)]
        found = await self._client.call_all([group_calls.read_offsets(self._keys, part) for part in parts], timeout_ms)
        return [committed for part in found for committed in part]

    async def resume(self, positions: Sequence[PartitionPosition]) -> list[PartitionPosition]:
        """Have positions go on where the group is; the rest of them is returned: of these it has stored nothing."""
        fresh: list[PartitionPosition] = []
        stored = await self.read([position.tp for position in positions], 0)
        for position, committed in zip(positions, stored, strict=True):
            if committed is None or committed.topic_id not in {"", position.topic_id}:
                fresh.append(position)
            else:
                position.resume(committed.offset, committed.crossed, committed.metadata)
                self._stored[position.tp] = committed.offset
        return fresh

    @staticmethod
    def _commit_of(position: PartitionPosition, offset: int, metadata: str = "") -> Commit:
        return Commit(offset, position.topic_id, position.crossed_at(offset), metadata)

    async def commit(self, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        """Store offsets with their metadata: all of them up to 1,000, in parts of 1,000 if there are more.

        :raises CommitFailedError: a partition is not this consumer's any more; nothing of that part was stored.
        """
        positions = self._assignment.positions
        for tp in offsets:
            if tp not in positions:
                raise CommitFailedError(
                    f"group {self._options.group_id}: {tp.topic}[{tp.partition}] is not this consumer's. {self._why()}"
                )
        await self._store({tp: self._commit_of(positions[tp], *given) for tp, given in offsets.items()})

    async def commit_due(self, finished: Callable[[], Mapping[TopicPartition, int]]) -> StreamlayerError | None:
        """Commit what the user is done with, if it is time to; trouble with the server is returned."""
        now = waiting.monotonic_ms()
        if not self._options.enable_auto_commit or now < self._commit_at:
            return None
        self._commit_at = now + self._options.auto_commit_interval_ms
        return await self.commit_quietly(finished(), 0)

    async def commit_quietly(
        self, done: Mapping[TopicPartition, int], timeout_ms: int = 5000
    ) -> StreamlayerError | None:
        """Commit; what fails is told in the log only: it will be read again. Trouble that lasts is told once.

        An offset only falls by this where the log was cut back: who seeks back says with ``commit`` that it counts.

        :param timeout_ms: how long to try while the server is away.
        :returns: trouble with the server that passes by itself.
        """
        positions = self._assignment.positions
        wanted: dict[TopicPartition, Commit] = {}
        for tp, offset in done.items():
            position, stored = positions.get(tp), self._stored.get(tp, -1)
            if position is not None and (offset > stored or (offset < stored and position.cut_back)):
                wanted[tp] = self._commit_of(position, offset)
        try:
            if wanted:
                await self._store(wanted, timeout_ms)
        except StreamlayerError as error:
            log = logger.debug if self._uncommitted and error.retriable else logger.warning
            log("group %s: not committed: %s", self._options.group_id, error)
            self._uncommitted = error.retriable
            return error if error.retriable else None
        if wanted and self._uncommitted:
            logger.info("group %s: commits go on", self._options.group_id)
            self._uncommitted = False
        return None

    async def _store(self, commits: Mapping[TopicPartition, Commit], timeout_ms: int = 10_000) -> None:
        if not self._view.member_id and not self._assignment.by_hand:  # a commit of nobody's would go unfenced
            raise CommitFailedError(f"group {self._options.group_id}: this consumer is no member. {self._why()}")
        items = list(commits.items())
        for start in range(0, len(items), COMMITTED_AT_ONCE):
            part = dict(items[start : start + COMMITTED_AT_ONCE])
            self._commit_number += 1
            number = self._commit_number if self._view.member_id else secrets.randbits(52)
            call = group_calls.commit(
                self._keys,
                part,
                retention_ms=self._options.offsets_retention_ms,
                member=self._view.member_id,
                epoch=max(0, self._view.epoch),
                call=number,
            )
            try:
                time = await self._client.call(call, timeout_ms)
            except Refusal as refusal:
                told = error_of(refusal.word, refusal.detail, f"group {self._options.group_id}")
                raise CommitFailedError(f"{told}. {self._why()}") from refusal
            self._stored.update({tp: commit.offset for tp, commit in part.items()})
            for tp in part.keys() & self._assignment.positions.keys():
                self._assignment.positions[tp].cut_back = False
            if self._assignment.by_hand and not self._listed:
                listing = group_calls.enlist_group(self._client.namespace, str(self._options.group_id), time)
                await self._client.call(listing, timeout_ms)
                self._listed = True

    def _why(self) -> str:
        if self._session is not None and self._session.left_at_poll_timeout:
            return (
                f"It did not poll for longer than max_poll_interval_ms={self._options.max_poll_interval_ms} and left "
                "the group. Handle fewer records a poll (max_poll_records), or raise max_poll_interval_ms"
            )
        return "Handle what poll() returns next: it begins where the group is now"
