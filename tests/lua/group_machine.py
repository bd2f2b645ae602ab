"""The machine that makes histories of a group: members come and go, topics grow and end, answers get lost.

Each member is the client's own core (``Membership``). Before and behind every call the group's keys are read, and what
the call did is worked out again from the two states.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamlayer._core import group_calls, scripts
from streamlayer._core.calls import Call
from streamlayer._core.group_calls import Commit, Heartbeat, TopicCount
from streamlayer._core.keys import group_keys
from streamlayer._core.membership import Membership
from streamlayer._core.runs import parse_runs
from streamlayer._types import TopicPartition
from tests.lua.clock import Clock
from tests.lua.group_model import GroupState, check_state, check_sticky, read_state
from tests.lua.machine import STEPS
from tests.lua.run import Runner, all_keys, dump, word_of

TOPICS = ("logs", "orders", "users")
SUBSCRIPTIONS = st.sets(st.sampled_from(TOPICS), max_size=3)
INTERVAL_MS = 3000
RETENTION_MS = 86_400_000
SLOTS = 6
SLOT = st.integers(0, SLOTS - 1)


@dataclass
class Actor:
    """A client that is, or believes to be, a member.

    :ivar stopped: what it has let go, and so reads no more.
    :ivar put_out: somebody else ended it: only a call of its own will tell it.
    """

    member: Membership
    instance: str
    topics: set[str] = field(default_factory=set)
    stopped: frozenset[TopicPartition] = frozenset()
    commits: int = 0
    put_out: bool = False

    @property
    def id(self) -> str:
        """The member's id."""
        return self.member.member_id

    @property
    def reads(self) -> frozenset[TopicPartition]:
        """What it may read, by what it knows."""
        return self.member.view.owned - self.stopped


class GroupMachine(RuleBasedStateMachine):
    """Drives one group.

    :ivar session_ms: of all members; on a server whose clock cannot be moved nobody's ends.
    """

    client: redis.Redis
    clock: Clock
    namespace: str
    kind: str
    session_ms: int
    runs = itertools.count()

    @initialize(counts=st.tuples(*[st.integers(0, 7)] * 3))
    def begin(self, counts: tuple[int, int, int]) -> None:
        """A registry with some topics, and a group that nobody has used."""
        self.run = Runner(self.client)
        self.keys = group_keys(f"{self.namespace}:{next(self.runs)}", "billing")
        self.names = itertools.count()
        self.registry: list[dict[str, int]] = [dict(zip(TOPICS, counts, strict=True))]
        self.actors: dict[int, Actor] = {}
        self.sent: list[Call[Any]] = []
        self.offsets: dict[str, str] = {}

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "keys"):
            for key in all_keys(self.client, self.keys.meta.removesuffix("meta")):
                self.client.delete(key)

    # --- calls, each held against what the keys say before and behind it ---------------------------------------------

    def state(self) -> GroupState:
        """The group as it is."""
        return read_state(self.client, self.keys)

    def heartbeat(self, call: Call[Heartbeat]) -> Any:
        """Send a heartbeat: the answer, and the state behind it, are what the state before it lets expect."""
        member, number = str(call.args[0]), int(call.args[1])
        before, keys_before = self.state(), self.dump()
        answer = self.run(call)
        after = self.state()
        self.sent.append(call)
        head = before.members.get(member)
        if head is None and (number > 1 or member in before.gone):
            assert word_of(answer) == "FENCED_MEMBER"
        elif head is not None and number < head.call:
            assert answer == ("STALE", str(head.call))
        elif head is not None and number == head.call:
            assert word_of(answer) == "OK", answer
        else:
            assert word_of(answer) == "OK", answer
            self._stepped(before, after, call)
            self._answered_truly(after, member, answer)
            return answer
        assert self.dump() == keys_before
        if word_of(answer) == "OK":
            self._answered_truly(after, member, answer)
        return answer

    def dump(self) -> Any:
        """All that the group's keys hold."""
        return dump(self.client, self.keys.meta.removesuffix("meta"))

    def _stepped(self, before: GroupState, after: GroupState, call: Call[Heartbeat]) -> None:
        member, version, subscription, topics, released = (call.args[i] for i in (0, 8, 9, 10, 11))
        member, instance = str(member), str(call.args[6])
        departed = before.members.keys() - after.members.keys()
        replaced = before.instances.get(instance) if instance and member not in before.members else None
        assert after.members.keys() - before.members.keys() <= {member}
        assert all(before.members[name].deadline <= after.seen or name == replaced for name in departed), (
            "dropped alive"
        )
        assert replaced is None or replaced in departed
        # How many partitions there are.
        known = dict(before.topics)
        for part in filter(None, str(topics).split(";")):
            topic, count, first = part.split(":")
            _, at, began = known.get(topic, (0, 0, int(first)))
            if int(version) >= at:
                known[topic] = int(count), int(version), began if int(count) else 0
        recounted = {topic: count for topic, (count, *_) in known.items()} != {
            topic: count for topic, (count, *_) in before.topics.items()
        }
        stored = before.members.get(replaced or member)
        wanted = frozenset(filter(None, str(subscription).split(";")))
        if not subscription and stored is not None:
            wanted = stored.subscription
        assert after.members[member].subscription == wanted
        resubscribed = stored is None or stored.subscription != wanted
        if resubscribed or recounted or departed - {replaced}:
            assert after.epoch == before.epoch + 1
        elif replaced is None or before.members[replaced].deadline > after.seen:
            assert after.epoch == before.epoch
        if after.epoch > before.epoch:
            listed = set().union(*(other.subscription for other in after.members.values()))
            known = {topic: numbers for topic, numbers in known.items() if topic in listed}
            check_sticky(before, after, {replaced: member} if replaced else {})
        else:
            targets = {name: m.target for name, m in before.members.items() if name != replaced}
            assert targets.items() <= {name: m.target for name, m in after.members.items()}.items()
            assert replaced is None or after.members[member].target == before.members[replaced].target
        assert after.topics == known
        self._reconciled(before, after, member, frozenset(parse_runs(str(released))))

    def _reconciled(
        self, before: GroupState, after: GroupState, member: str, released: frozenset[TopicPartition]
    ) -> None:
        """Partitions changed hands as they may, and nobody else's did."""
        own, head = after.members[member], before.members.get(member)
        held = (head.owned if head else frozenset()) - released
        if held - own.target:
            assert own.owned == held
            assert own.epoch == (head.epoch if head else 0)
            assert own.pending == 1
        else:
            others = {tp for tp, (owner, _) in after.owners.items() if owner != member}
            assert own.owned == held | (own.target - others)
            assert own.epoch == after.epoch
            assert own.pending == int(own.owned != own.target)
        for tp, (owner, since) in after.owners.items():
            if owner != member or (tp in held and head is not None):
                assert before.owners[tp] == (owner, since)
            else:
                assert since == after.epoch

    def _answered_truly(self, after: GroupState, member: str, answer: Heartbeat) -> None:
        own = after.members[member]
        assert (answer.epoch, answer.changed, answer.pending) == (own.epoch, own.changed, own.pending)
        assert answer.owned is None or frozenset(parse_runs(answer.owned)) == own.owned
        if own.epoch == after.epoch or answer.revoke is not None:
            assert frozenset(parse_runs(answer.revoke or "")) == own.owned - own.target
        others = [max(m.deadline, after.grace) for name, m in after.members.items() if name != member]
        assert answer.earliest_ms == (max(0, min(others) - answer.time) if others else -1)

    def beat(self, slot: int, *, lost: bool = False) -> bool:
        """One heartbeat of an actor; whether it is a member behind it. ``lost``: it does not see the answer."""
        actor = self.actors[slot]
        answer = self.heartbeat(actor.member.next_call(self.clock.now()))
        if lost:
            return True
        if word_of(answer) == "FENCED_MEMBER":
            assert actor.put_out or self.clock.now() > actor.member.valid_until, "fenced while it could be sure"
            assert (answer[1] == "instance") == (actor.instance in self.state().instances)
            actor.member.ended()
            del self.actors[slot]
            return False
        assert word_of(answer) == "OK", answer
        in_call = parse_runs(str(self.sent[-1].args[11]))
        actor.stopped -= in_call
        actor.member.answered(answer, self.clock.now(), 0.5)
        return True

    # --- members -----------------------------------------------------------------------------------------------------

    def counts(self, topics: set[str], behind: int = 0) -> tuple[dict[str, TopicCount], int]:
        """What a member knows that has read the registry, so many versions ago."""
        version = max(1, len(self.registry) - behind)
        found = self.registry[version - 1]
        return {topic: TopicCount(found[topic], found[topic]) for topic in topics}, version

    @rule(slot=SLOT, topics=SUBSCRIPTIONS, static=st.booleans(), behind=st.sampled_from([0, 0, 1]), lost=st.booleans())
    def join(self, slot: int, topics: set[str], static: bool, behind: int, lost: bool) -> None:
        """A new member; of those with an instance id the newest takes the place of the one before."""
        instance = f"i{slot % 2}" if static else ""
        before = self.actors.get(slot)
        if before is not None:
            if not (self.clock.moves or before.put_out or (instance and before.instance == instance)):
                return  # nobody would ever drop it
            del self.actors[slot]
        for other in self.actors.values():
            other.put_out = other.put_out or bool(instance and other.instance == instance)
        member = Membership(
            self.keys, f"m{next(self.names)}", instance=instance, description=f"client {slot}@host",
            session_ms=self.session_ms, interval_ms=INTERVAL_MS, retention_ms=RETENTION_MS,
        )  # fmt: skip
        self.actors[slot] = Actor(member, instance, topics)
        member.subscribe(*self.counts(topics, behind))
        self.beat(slot, lost=lost)

    @precondition(lambda self: self.actors)
    @rule(slot=SLOT, lost=st.booleans(), times=st.integers(1, 3))
    def heartbeats(self, slot: int, lost: bool, times: int) -> None:
        """Some heartbeats, of which the last may not be answered."""
        for turn in range(times):
            if slot in self.actors:
                self.beat(slot, lost=lost and turn == times - 1)

    @precondition(lambda self: self.actors)
    @rule(slot=SLOT, share=st.sampled_from([1, 1, 0.5]), lost=st.booleans())
    def release(self, slot: int, share: float, lost: bool) -> None:
        """Let go what shall be given up, or a part of it."""
        if slot in self.actors:
            self.let_go(slot, share)
            self.beat(slot, lost=lost)

    def let_go(self, slot: int, share: float = 1) -> None:
        """Stop reading what shall be given up."""
        actor = self.actors[slot]
        revoking = sorted(actor.member.view.revoking)
        part = revoking[: max(1, int(len(revoking) * share))]
        actor.stopped |= frozenset(part)
        actor.member.let_go(part)

    @precondition(lambda self: self.actors)
    @rule(slot=SLOT, number=st.integers(0, 20))
    def release_something(self, slot: int, number: int) -> None:
        """Let go a partition that it need not give up: it comes back."""
        if slot not in self.actors or not self.actors[slot].reads:
            return
        actor = self.actors[slot]
        reads = sorted(actor.reads)
        part = {reads[number % len(reads)]}
        actor.stopped |= part
        actor.member.let_go(part)

    @precondition(lambda self: self.actors)
    @rule(slot=SLOT, topics=SUBSCRIPTIONS, behind=st.sampled_from([0, 0, 1, 2]))
    def resubscribe(self, slot: int, topics: set[str], behind: int) -> None:
        """Other topics, or the same as some version of the registry has them."""
        if slot in self.actors:
            self.actors[slot].topics = topics
            self.actors[slot].member.subscribe(*self.counts(topics, behind))

    @precondition(lambda self: self.actors)
    @rule(slot=SLOT, again=st.booleans())
    def leave(self, slot: int, again: bool) -> None:
        """A member leaves; all it had is free, and no other's is touched."""
        if slot not in self.actors:
            return
        actor = self.actors.pop(slot)
        call = group_calls.leave(self.keys, [actor.id], call=actor.member.last_number())
        self._removed([actor.id], call)
        self.sent.append(call)
        if again:
            before = self.dump()
            assert self.run(call) == 0
            assert self.dump() == before

    @precondition(lambda self: self.actors)
    @rule(slots=st.sets(SLOT, min_size=1, max_size=3), by_instance=st.booleans())
    def remove(self, slots: set[int], by_instance: bool) -> None:
        """An administrator puts members out; they learn of it by their next call."""
        actors = [self.actors[slot] for slot in slots if slot in self.actors]
        names = [(by_instance and actor.instance) or actor.id for actor in actors]
        instances = self.state().instances
        ids = [instances.get(name, name) for name in names]
        for actor in self.actors.values():
            actor.put_out = actor.put_out or actor.id in ids
        self._removed(ids, group_calls.leave(self.keys, names))

    def _removed(self, ids: list[str], call: Call[int]) -> None:
        before = self.state()
        there = set(ids) & before.members.keys()
        assert self.run(call) == len(there)
        after = self.state()
        assert after.members.keys() == before.members.keys() - there
        assert after.epoch == before.epoch + bool(there)
        assert after.owners == {tp: own for tp, own in before.owners.items() if own[0] not in there}
        if there:
            check_sticky(before, after, {})

    # --- late --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.sent)
    @rule(age=st.integers(0, 30))
    def late(self, age: int) -> None:
        """A call that was executed comes once more, however late: nothing changes."""
        call = self.sent[-1 - age % len(self.sent)]
        if call.script is scripts.HEARTBEAT:
            before = self.dump()
            self.heartbeat(call)
            self.sent.pop()
            assert self.dump() == before
            return
        before = self.dump()
        answer = self.run(call)
        if call.script is scripts.LEAVE:
            assert answer == 0
        assert self.dump() == before

    # --- topics ------------------------------------------------------------------------------------------------------

    @rule(topic=st.sampled_from(TOPICS), more=st.integers(1, 4))
    def grow(self, topic: str, more: int) -> None:
        """A topic gets partitions; one member or another hears of it at once."""
        self._change(topic, self.registry[-1][topic] + more)

    @rule(topic=st.sampled_from(TOPICS))
    def delete_topic(self, topic: str) -> None:
        """A topic ends."""
        self._change(topic, 0)

    def _change(self, topic: str, count: int) -> None:
        self.registry.append(self.registry[-1] | {topic: count})
        for slot in list(self.actors)[:2]:
            actor = self.actors[slot]
            actor.member.subscribe(*self.counts(actor.topics))
            self.beat(slot)

    # --- time --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.clock.moves)
    @rule(ms=st.sampled_from([1, 1000, 2900, 6500, 10_001, 25_000]))
    def wait(self, ms: int) -> None:
        """Time passes, for members too."""
        self.clock.pass_by(ms)

    # --- offsets -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.actors)
    @rule(
        slot=SLOT,
        picked=st.lists(st.tuples(st.sampled_from(TOPICS), st.integers(0, 8)), min_size=1, max_size=4),
        own=st.booleans(),
        older=st.sampled_from([0, 0, 0, 1, 2, -1]),
        again=st.booleans(),
    )
    def commit(self, slot: int, picked: list[tuple[str, int]], own: bool, older: int, again: bool) -> None:
        """Offsets are taken of the owner, in the epochs between the assignment and its own; all or none."""
        if slot not in self.actors:
            return
        actor = self.actors[slot]
        tps = sorted(actor.reads)[:4] if own and actor.reads else [TopicPartition(*tp) for tp in picked]
        epoch = actor.member.view.epoch - older
        actor.commits += not again or not actor.commits
        offset = random.randrange(1 << 40)
        offsets = {tp: Commit(offset, metadata=f"näh\n {offset}") for tp in tps}
        call = group_calls.commit(
            self.keys, offsets, retention_ms=RETENTION_MS, member=actor.id, epoch=epoch, call=actor.commits
        )
        before, keys_before = self.state(), self.dump()
        answer = self.run(call)
        head = before.members.get(actor.id)
        if head is None or (actor.commits > head.commit and epoch > head.epoch):
            assert word_of(answer) == "FENCED_MEMBER"
        elif actor.commits == head.commit:
            assert word_of(answer) == "OK"
        elif all(before.owners.get(tp, ("", 0))[0] == actor.id and before.owners[tp][1] <= epoch for tp in tps):
            assert isinstance(answer, int)
            for tp in tps:
                self.offsets[f"{tp[0]}:{tp[1]}"] = f"{offset} - - {answer} näh\n {offset}"
            self.sent.append(call)
            return
        else:
            assert word_of(answer) == "NOT_OWNER"
        assert self.dump() == keys_before

    # --- in the end --------------------------------------------------------------------------------------------------

    @rule()
    def settle(self) -> None:
        """All read the registry, heartbeat and let go: soon each has what it shall have, and no more is said."""
        for actor in self.actors.values():
            actor.member.subscribe(*self.counts(actor.topics))
        for slot in list(self.actors):
            self.beat(slot)
        for turn in range(40):
            ids = {actor.id for actor in self.actors.values()}
            state = self.state()
            quiet = all(m.owned == m.target and m.epoch == state.epoch for m in state.members.values())
            told = all(actor.member.view.whole and not actor.stopped for actor in self.actors.values())
            if quiet and told and state.members.keys() == ids:
                break
            assert turn < 39, "never quiet"
            if not state.members.keys() <= ids:
                if not self.actors:
                    return
                assert self.clock.moves, "somebody is there who should have gone"
                self.clock.pass_by(INTERVAL_MS)
            for slot in list(self.actors):
                self.let_go(slot)
                self.beat(slot)
        for actor in self.actors.values():
            assert actor.member.view.whole
            assert not actor.member.view.revoking
            assert actor.reads == self.state().members[actor.id].target

    # --- always ------------------------------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        """What must hold at any time; and no client reads what the server does not hold to be its own."""
        if not hasattr(self, "keys"):
            return
        STEPS[f"{self.kind} (groups)"] += 1
        state = self.state()
        check_state(state)
        assert state.offsets == self.offsets
        now = self.clock.now()
        for actor in self.actors.values():
            if not actor.put_out and actor.member.view.member_id and now <= actor.member.valid_until:
                assert actor.id in state.members, "dropped while it could be sure"
            if actor.id in state.members:
                assert actor.reads <= state.members[actor.id].owned
