"""A member's side of the group protocol: what to say next, and what an answer means.

A *view* is what the member may read now. It is replaced whole, never changed, so that another thread can look at it
without a lock. One call is under way at a time, and goes again byte for byte until it is answered: its number says that
it is the same. No clock, no dice, no socket: the caller passes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from streamlayer._core.calls import Call
from streamlayer._core.group_calls import Heartbeat, TopicCount, heartbeat
from streamlayer._core.keys import GroupKeys
from streamlayer._core.runs import format_runs, parse_runs
from streamlayer._types import TopicPartition

SPREAD_MS: Final = 50
"""Members that wait for the same deadline come within this time of each other."""


class View(msgspec.Struct, frozen=True):
    """What a member has of its group.

    :ivar member_id: the member's id; empty while it is none.
    :ivar epoch: the group epoch it follows.
    :ivar owned: what is its own, that which it must give up too.
    :ivar revoking: what it must give up.
    :ivar whole: whether it has all that it shall have.
    :ivar first: topic -> how many partitions it had when the group began to read it: what came later is read whole.
    """

    member_id: str = ""
    epoch: int = -1
    owned: frozenset[TopicPartition] = frozenset()
    revoking: frozenset[TopicPartition] = frozenset()
    whole: bool = False
    first: Mapping[str, int] = {}


NO_VIEW: Final = View()
"""Of who is no member."""


class Membership:
    """One member of one group, from joining to its end.

    :ivar view: what it has now.
    :ivar due_at: when the next heartbeat is due (the caller's clock, ms).
    :ivar valid_until: until when what it owns is surely its own: nobody can have dropped it before.
    :ivar version: the newest registry that the group has heard of.
    """

    def __init__(
        self,
        keys: GroupKeys,
        member_id: str,
        *,
        instance: str,
        description: str,
        session_ms: int,
        interval_ms: int,
        retention_ms: int,
    ) -> None:
        self.member_id = member_id
        self.view = NO_VIEW
        self.due_at = 0
        self.valid_until = 0
        self.version = 0
        self._keys = keys
        self._instance = instance
        self._description = description
        self._session_ms = session_ms
        self._interval_ms = interval_ms
        self._retention_ms = retention_ms
        self._number = 0
        self._applied = 0
        self._call: Call[Heartbeat] | None = None
        self._sent_at = 0
        self._subscription: tuple[str, ...] = ()
        self._topics: dict[str, TopicCount] = {}
        self._registry = 0
        self._news = True
        self._letting_go: frozenset[TopicPartition] = frozenset()
        self._in_call: frozenset[TopicPartition] = frozenset()
        self._heard: list[str] = []

    # --- what there is to say ----------------------------------------------------------------------------------------

    def subscribe(self, topics: Mapping[str, TopicCount], version: int) -> bool:
        """Want topics, of which these are the partitions in a version of the registry; tell whether that is news."""
        if topics == self._topics and version == self._registry:
            return False
        news = topics != self._topics
        self._topics, self._registry = dict(topics), version
        self._subscription = tuple(sorted(topics))
        self._news = self._news or news
        return news

    def let_go(self, partitions: Iterable[TopicPartition]) -> None:
        """Say with the next heartbeat that these are no longer read."""
        self._letting_go |= frozenset(partitions)

    def hear(self, text: str, now: int) -> None:
        """Something was told to the group: ``epoch N``, ``free``, or nothing (it may have been missed)."""
        if self._call is not None:
            self._heard.append(text)  # the answer on its way may be older, or newer
        word, _, epoch = text.partition(" ")
        if (
            (word == "epoch" and epoch.isdecimal() and int(epoch) <= self.view.epoch and self.view.whole)
            or (word == "free" and self.view.whole and not self.view.revoking)
        ):  # fmt: skip
            return
        self.due_at = min(self.due_at, now)

    def next_call(self, now: int) -> Call[Heartbeat]:
        """The call to send: the one that was not answered, or a new one."""
        if self._call is None:
            self._number += 1
            self._in_call = self._letting_go
            self._heard.clear()
            self._sent_at = now
            self._call = heartbeat(
                self._keys,
                member=self.member_id,
                call=self._number,
                applied=self._applied,
                session_ms=self._session_ms,
                interval_ms=self._interval_ms,
                retention_ms=self._retention_ms,
                instance=self._instance,
                description=self._description,
                version=self._registry,
                subscription=self._subscription if self._news else None,
                topics=self._topics if self._news else None,
                released=format_runs(self._in_call),
            )
            self._news = False
        return self._call

    def last_number(self) -> int:
        """A call number behind all that were used, for leaving."""
        return self._number + 1

    # --- what is answered --------------------------------------------------------------------------------------------

    def answered(self, reply: Heartbeat, now: int, dice: float) -> bool:
        """Take an answer in; tell whether the view changed.

        :param now: when it came.
        :param dice: from 0 to 1.
        """
        self._call = None
        self._letting_go -= self._in_call
        self._in_call = frozenset()
        self.version = max(self.version, reply.version)
        owned, first = self.view.owned, self.view.first
        if reply.owned is not None:
            self._applied = reply.changed
            owned = frozenset(parse_runs(reply.owned))
            first = reply.first
        view = View(
            member_id=self.member_id,
            epoch=reply.epoch,
            owned=owned - self._letting_go,
            revoking=frozenset(parse_runs(reply.revoke or "")) - self._letting_go,
            whole=not reply.pending and not self._news,
            first=first,
        )
        self.valid_until = self._sent_at + self._session_ms
        # From the sending: the server may have answered the first copy, long ago, and the session runs since then.
        self.due_at = max(now, self._sent_at + self._interval_ms)
        if reply.pending > 1 or self._letting_go or self._news:
            self.due_at = now
        elif reply.earliest_ms >= 0:
            self.due_at = min(self.due_at, now + int(reply.earliest_ms + dice * SPREAD_MS))
        changed = view != self.view
        if changed:
            self.view = view
        heard, self._heard = self._heard, []
        for text in heard:
            self.hear(text, now)
        return changed

    def ended(self) -> None:
        """It is a member no more: nothing is its own."""
        self._call = None
        self.view = NO_VIEW
        self.valid_until = 0
