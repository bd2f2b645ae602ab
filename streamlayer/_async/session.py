"""A consumer's place in its group, kept by heartbeats beside it, whatever the consumer's own thread is doing.

The session says what the consumer may read (its *view*) and is told what it has let go. It reads the registry to know
how many partitions there are; the server decides who gets which. The protocol's words are the core's (``membership``).

The rule: only what runs beside changes the membership. What the consumer and the subscriber have to say is queued.
"""

from __future__ import annotations

import logging
import os
import random
import re
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterable

from streamlayer._async.client import Client
from streamlayer._async.link import Unanswered
from streamlayer._async.registry import open_topic
from streamlayer._config import ConsumerOptions
from streamlayer._core import group_calls, registry_calls
from streamlayer._core.entries import READY, USABLE, TopicEntry, topics_in
from streamlayer._core.group_calls import Heartbeat, TopicCount
from streamlayer._core.keys import GroupKeys
from streamlayer._core.membership import NO_VIEW, Membership, View
from streamlayer._core.refusals import Refusal
from streamlayer._core.retry import backoff_ms
from streamlayer._waiting import aio as waiting
from streamlayer.errors import FencedInstanceIdError, StreamlayerError

logger = logging.getLogger("streamlayer")

LOOK_AGAIN_MS = 1000
"""How often topics that are waited for are looked up without being told."""
ID_PREFIX = ""
"""What the ids of this process's members begin with: by it a supervisor knows those of a child that died."""


class GroupSession:
    """Keeps one consumer in its group.

    :ivar failure: why it can be no member; the consumer raises it.
    :ivar trouble: the last trouble with the server, while it lasts.
    :ivar left_at_poll_timeout: whether it left because the consumer did not poll; ``resume`` joins again.
    :ivar polled_at: when the consumer last polled; the consumer sets it.
    :ivar topics: what is subscribed to, or matched by the pattern.
    """

    def __init__(
        self,
        client: Client,
        keys: GroupKeys,
        options: ConsumerOptions,
        *,
        in_poll: Callable[[], bool],
        notify: Callable[[], None],
    ) -> None:
        self._client = client
        self._keys = keys
        self._options = options
        self._in_poll = in_poll
        self._notify = notify
        self._news = waiting.Signal()
        self._task: waiting.Task | None = None
        self._member: Membership | None = None
        self._heard: deque[str] = deque()
        self._let_go: deque[View] = deque()
        self._subscription: tuple[frozenset[str], re.Pattern[str] | None] | None = None
        self._counted: tuple[frozenset[str], re.Pattern[str] | None] | None = None
        self._registry = -1
        self._registry_old = True
        self._looked_at = 0
        self._counts: dict[str, TopicCount] = {}
        self._missing: frozenset[str] = frozenset()
        self._listed = False
        self._closing = False
        self._heard_at = 0
        self.failure: StreamlayerError | None = None
        self.trouble: StreamlayerError | None = None
        self.left_at_poll_timeout = False
        self.polled_at = 0
        self.topics: frozenset[str] = frozenset()

    # --- what the consumer says --------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """What the consumer may read."""
        member = self._member
        return NO_VIEW if member is None else member.view

    def lapsed(self, view: View) -> bool:
        """Whether nobody vouches for a view any more: no heartbeat of that member's was answered for a session."""
        member = self._member
        return member is None or member.member_id != view.member_id or waiting.boottime_ms() > member.valid_until

    @property
    def heartbeat_age_ms(self) -> int | None:
        """How long ago a heartbeat was answered; ``None`` before the first."""
        return waiting.boottime_ms() - self._heard_at if self._heard_at else None

    def subscribe(self, topics: Iterable[str], pattern: re.Pattern[str] | None) -> None:
        """Want topics, or those that match; start if need be."""
        self._subscription = frozenset(topics), pattern
        self.topics = self._subscription[0]
        self._registry_old = True
        self._news.set()

    def start(self) -> None:
        """Run, unless it does."""
        if self._task is None and self._subscription is not None:
            self.polled_at = waiting.boottime_ms()
            self._task = waiting.spawn(self._run, "streamlayer-group")

    def unsubscribe(self) -> None:
        """Want nothing: leave the group."""
        self._subscription = None
        self.topics = frozenset()
        self._news.set()

    def resume(self) -> None:
        """The consumer polls again: join again if it had left for that."""
        self.polled_at = waiting.boottime_ms()
        if self.left_at_poll_timeout:
            self.left_at_poll_timeout = False
            self._news.set()

    def let_go(self, view: View) -> None:
        """What a view asks for is no longer read: others may have it."""
        self._let_go.append(view)
        self._news.set()

    # --- what is heard -----------------------------------------------------------------------------------------------

    def heard(self, text: str) -> None:
        """Something was told on the group's channel."""
        self._heard.append(text)
        self._news.set()

    def registry_changed(self, _text: str) -> None:
        """Some topic changed."""
        self._registry_old = True
        self._news.set()

    # --- beside the consumer -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        attempt = 0
        while not self._closing:
            now = waiting.boottime_ms()
            try:
                await self._step(now)
                wait = self._rest(waiting.boottime_ms())
                if not self._registry_old:  # else what failed may still be to come
                    attempt = 0
                    self._out_of_trouble()
            except StreamlayerError as error:
                wait = backoff_ms(attempt, random.random())
                attempt += 1
                self._in_trouble(error)
            except Exception as error:
                self.failure = StreamlayerError(f"group {self._options.group_id}: the heartbeat died: {error!r}")
                self._notify()  # poll() raises it: nobody else would ever tell
                raise
            if wait > 0:
                rested_at = waiting.boottime_ms()
                await self._news.wait(wait)
                late = waiting.boottime_ms() - rested_at - wait
                if late > self._options.heartbeat_interval_ms:
                    logger.warning(
                        "group %s: a heartbeat came %d ms late: something blocks the event loop or holds the GIL",
                        self._options.group_id, late,
                    )  # fmt: skip
        await self._leave()

    def _take_in(self, member: Membership) -> None:
        """Have the membership know what others said meanwhile."""
        while self._let_go:
            view = self._let_go.popleft()
            asked = view.revoking & member.view.revoking  # by now it may have it back, or be another member
            if asked and view.member_id == member.member_id:
                member.let_go(asked)
                member.due_at = 0
        while self._heard:
            member.hear(self._heard.popleft(), waiting.boottime_ms())

    def _rest(self, now: int) -> float:
        """How long there is nothing to do."""
        member = self._member
        if member is None:
            return LOOK_AGAIN_MS if self._at_rest() else 0
        self._take_in(member)
        polled_at = now if self._in_poll() else self.polled_at
        until = min(member.due_at, polled_at + self._options.max_poll_interval_ms + 1)
        if self._missing or (self._subscription and self._subscription[1]):
            until = min(until, self._looked_at + LOOK_AGAIN_MS)
        if self._registry_old:
            return 0
        return max(0, until - now)

    def _in_trouble(self, error: StreamlayerError) -> None:
        if self.trouble is None:
            logger.warning("group %s: the heartbeat is in trouble and goes on: %s", self._options.group_id, error)
        self.trouble = error
        if not error.retriable:
            self.failure = error
            self._notify()

    def _out_of_trouble(self) -> None:
        if self.trouble is not None:
            logger.info("group %s: heartbeats go on", self._options.group_id)
            self.trouble = None
            if not isinstance(self.failure, FencedInstanceIdError):
                self.failure = None

    async def _step(self, now: int) -> None:
        subscription = self._subscription  # the consumer may change it at any moment
        if subscription is None or self._at_rest():
            await self._leave()
            return
        if not self._in_poll() and now - self.polled_at > self._options.max_poll_interval_ms:
            self.left_at_poll_timeout = True
            logger.warning(
                "group %s: no poll() for %d ms, max_poll_interval_ms is %d: leaving the group so that others can go "
                "on; the next poll() joins again. Handle fewer records a poll (max_poll_records), or raise it",
                self._options.group_id, now - self.polled_at, self._options.max_poll_interval_ms,
            )  # fmt: skip
            await self._leave()
            return
        member = self._member or self._new_member()
        self._take_in(member)
        if member.view.member_id and now >= member.due_at:
            await self._heartbeat(member)  # before all else: what goes wrong with a topic must not cost the membership
            return
        looking = bool(self._missing or subscription[1]) and now - self._looked_at >= LOOK_AGAIN_MS
        if self._registry_old or looking or member.version > self._registry:
            await self._look_up(member, subscription, now)
        if now >= member.due_at:
            await self._heartbeat(member)

    def _at_rest(self) -> bool:
        """Whether it is to be no member now."""
        fenced = isinstance(self.failure, FencedInstanceIdError)
        return self._subscription is None or self.left_at_poll_timeout or fenced

    def _new_member(self) -> Membership:
        options = self._options
        name = str(self._client.settings.options.get("client_name") or "streamlayer")
        self._member = member = Membership(
            self._keys,
            (ID_PREFIX + secrets.token_hex(16))[:32],
            instance=options.group_instance_id or "",
            description=re.sub(r"[^\w.@:-]", "_", f"{name}@{socket.gethostname()}:{os.getpid()}"),
            session_ms=options.session_timeout_ms,
            interval_ms=options.heartbeat_interval_ms,
            retention_ms=options.offsets_retention_ms,
        )
        self._registry_old = True
        self._listed = False  # somebody may have deleted the group since
        return member

    async def _look_up(
        self, member: Membership, subscription: tuple[frozenset[str], re.Pattern[str] | None], now: int
    ) -> None:
        """How many partitions do the topics have?"""
        names, pattern = subscription
        known = dict(self._counts) if self._counted is subscription else {}
        self._registry_old = False
        self._looked_at = now
        try:
            version, entries = await self._read_registry()
            half_done = [
                name for name, entry in entries.items() if entry.state != READY and (name in names or name in known)
            ]
            for name in half_done:
                await open_topic(self._client, name, 0)
            if half_done:
                version, entries = await self._read_registry()
        except BaseException:
            self._registry_old = True
            raise
        there = {name: entry.partitions for name, entry in entries.items() if entry.state in USABLE}
        begun = bool(known)
        if pattern is not None:
            names = frozenset(known) | frozenset(name for name in there if pattern.fullmatch(name))
        for name in names:
            count = there.get(name, 0)
            first = known[name].first if name in known else 0 if pattern and begun else count
            known[name] = TopicCount(count, first)
        if self._subscription is not subscription:
            self._registry_old = True  # it was changed meanwhile
            return
        self._counts, self._counted = known, subscription
        self.topics = names
        self._missing = names - frozenset(there)
        self._registry = version
        if member.subscribe(self._counts, version):
            member.due_at = 0

    async def _read_registry(self) -> tuple[int, dict[str, TopicEntry]]:
        stored = await self._client.call(registry_calls.read_registry(self._client.namespace), self._limit_ms())
        return int(stored.get(":version", b"0")), topics_in(stored)

    def _limit_ms(self) -> int:
        """How long an answer is waited for: a session must not pass with one call."""
        return min(int(waiting.REPLY_TIMEOUT_MS), max(100, self._options.session_timeout_ms // 2))

    async def _heartbeat(self, member: Membership) -> None:
        call = member.next_call(waiting.boottime_ms())
        (outcome,) = await self._client.execute([call], self._limit_ms())
        if isinstance(outcome, Refusal):
            self._refused(member, outcome)
            return
        if isinstance(outcome, Unanswered):
            raise outcome.error
        if isinstance(outcome, StreamlayerError):
            raise outcome
        reply: Heartbeat = outcome
        now = self._heard_at = waiting.boottime_ms()
        lapsed = now > member.valid_until
        self._take_in(member)
        news = member.answered(reply, now, random.random()) or lapsed
        try:
            if not self._listed:
                listing = group_calls.enlist_group(self._client.namespace, str(self._options.group_id), reply.time)
                (listed,) = await self._client.execute([listing], self._limit_ms())
                self._listed = not isinstance(listed, Exception)
        finally:
            if news:
                self._notify()

    def _refused(self, member: Membership, refusal: Refusal) -> None:
        """The group does not know this member any more."""
        group, instance = self._options.group_id, self._options.group_instance_id
        member.ended()
        self._member = None
        if refusal.detail == "instance":
            self.failure = FencedInstanceIdError(
                f"group {group}: another consumer joined as group_instance_id={instance!r} and took this one's place. "
                "Give each consumer that runs at the same time an id of its own"
            )
        else:
            why = "the server lost what it knew of it" if refusal.detail == "lost" else "its session ran out"
            logger.warning("group %s: this member was dropped, %s; joining again", group, why)
        self._notify()

    async def _leave(self) -> None:
        """End the membership; a static member just stops, and has its session's time to come back."""
        member, self._member = self._member, None
        if member is None:
            return
        number = member.last_number()
        member.ended()
        self._notify()
        if self._options.group_instance_id is not None and not self.left_at_poll_timeout and self._subscription:
            return
        outcome: object = None
        for _ in range(2):  # a connection that broke while it was idle shows now: the others need not wait for that
            try:
                leaving = group_calls.leave(self._keys, [member.member_id], call=number)
                (outcome,) = await self._client.execute([leaving], self._limit_ms())
            except StreamlayerError as error:
                outcome = error
            if not isinstance(outcome, (Unanswered, StreamlayerError)):
                return
        logger.debug("group %s: left without saying so: %s", self._options.group_id, outcome)

    def let_end(self) -> None:
        """Nobody will close it: it leaves at its next turn."""
        self._closing = True

    async def close(self, timeout_ms: int) -> None:
        """Leave the group, and stop."""
        self._closing = True
        self._news.set()
        if self._task is not None:
            await self._task.join(timeout_ms)
        await self._client.close()
