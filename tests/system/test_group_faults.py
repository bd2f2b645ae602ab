"""What networks do to the calls of a consumer group, in both colours: nothing changes by it.

One conversation of two members is held again and again, each time with one fault at one call; what the server has and
what the members were told and handed must be as without a fault.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import redis

from streamlayer import Admin, NewTopic, Producer, aio
from streamlayer._core import group_calls, registry_calls, scripts
from streamlayer._core.keys import group_keys
from streamlayer._waiting import threads
from streamlayer.embedded import Server
from tests import servers
from tests.lua.run import Runner
from tests.profiles import THOROUGH
from tests.system.group_members import OPTIONS, PARTITIONS, Member, Members
from tests.system.group_worker import GROUP, TOPIC
from tests.system.load import Colour
from tests.system.proxy import Proxy
from tests.waiting import aio_wait_until, sync_wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

KEYS = group_keys("sl", GROUP)
HEARTBEAT, COMMIT, LEAVE = (s.flagged_sha.encode() for s in (scripts.HEARTBEAT, scripts.COMMIT, scripts.LEAVE))
PAIRS = [("valkey", "sync"), ("redis", "aio")]
FIRED = {"reply cut": "dropped", "request cut": "cut", "sent twice": "repeated", "late": "held"}
both = pytest.mark.parametrize(("running", "colour"), PAIRS, indirect=["running"])


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this kind, with a port, for the whole file."""
    with Server(binary=servers.binary(request.param), port=0) as server:
        yield server


@pytest.fixture
def direct(running: Server) -> Iterator[redis.Redis]:
    """A client past the proxy; the server holds one topic."""
    with redis.Redis.from_url(running.url) as client:
        client.flushall()
        with Admin(url=running.url) as admin:
            admin.create_topics([NewTopic(TOPIC, PARTITIONS)])
        yield client


@pytest.fixture
def proxy(running: Server, direct: redis.Redis) -> Iterator[Proxy]:
    """A proxy without faults."""
    with Proxy(running.url) as through:
        yield through


def impatient(proxy: Proxy) -> str:
    """The proxy's address for clients that wait 0.4 s for an answer."""
    return f"{proxy.url}?socket_timeout=0.4"


def produce(url: str, count: int) -> None:
    """So many records into each partition."""
    with Producer(url=url) as producer:
        for i in range(count * PARTITIONS):
            producer.send(TOPIC, b"%d" % i, partition=i % PARTITIONS)


# --- one conversation, and what networks do to it ---------------------------------------------------------------------


class Fault(NamedTuple):
    """A fault, and the moment at which it is armed."""

    kind: str
    call: str
    match: bytes

    def arm(self, proxy: Proxy, moment: str) -> None:
        """Arm it, if this is the moment."""
        if moment != self.call:
            return
        match self.kind:
            case "reply cut":
                proxy.drop_replies(1, self.match)
            case "request cut":
                proxy.cut_requests(1, self.match)
            case "sent twice":
                proxy.repeat_requests(1, self.match)
            case "late":
                proxy.hold(1, self.match)


MOMENTS = {
    "joining heartbeat": HEARTBEAT,
    "first commit": COMMIT,  # where reading began, stored at once
    "listing": b"sl:groups",
    "steady heartbeat": HEARTBEAT,
    "commit": COMMIT,
    "releasing heartbeat": b"\r\norders:2-3\r\n",
    "leave": LEAVE,
}
NO_FAULT = Fault("", "", b"")


class Conversation:
    """Two members that join, read, commit, rebalance and leave; what there is to see of it."""

    def __init__(self, colour: Colour, proxy: Proxy, direct: redis.Redis, server_url: str, fault: Fault) -> None:
        self._proxy, self._fault, self._url = proxy, fault, server_url
        self._run = Runner(direct)
        self._direct = direct
        self._names: dict[str, str] = {}
        self.seen: list[Any] = []
        self.handover_s = 0.0
        with Members(colour, impatient(proxy)) as members:
            self._hold(members)

    def _moment(self, what: str) -> None:
        self._fault.arm(self._proxy, what)

    def _hold(self, members: Members) -> None:
        for what in ("joining heartbeat", "first commit", "listing"):
            self._moment(what)
        a = members.join()
        members.settle(a)
        self._look(a=a)
        produce(self._url, 3)
        members.drain(a, 12)
        self._moment("steady heartbeat")
        members.wait_heartbeats(a)
        self._moment("commit")
        members.do(a.consumer.commit)
        self._look(a=a)
        self._moment("releasing heartbeat")
        b = members.join()
        members.settle(a, b)
        self._look(a=a, b=b)
        self._moment("leave")
        began = time.monotonic()
        members.do(b.consumer.close)
        members.settle(a)
        self.handover_s = time.monotonic() - began
        self._look(a=a)
        produce(self._url, 1)
        members.drain(a, 16)
        members.do(a.consumer.commit)
        self._proxy.release()  # what was late comes now, after newer calls of the same member
        members.wait_heartbeats(a)
        assert a.poll() == 0
        self._look(a=a)
        self.seen += [a.told, b.told, sorted(a.records), b.records]
        self.seen.append(self._direct.zrange("sl:groups", 0, -1))

    def _look(self, **members: Member) -> None:
        """What the server has: members by their names, and nothing of clocks and call numbers."""
        self._names |= {member.consumer.group_metadata().member_id: name for name, member in members.items()}
        # Heartbeats go on: an epoch is followed, and a release told, a little after the members know it.
        self.seen.append(sync_wait_until(lambda: self._settled(members), "the server agrees with the members"))

    def _settled(self, members: dict[str, Member]) -> Any:
        group = self._run(group_calls.describe_group(KEYS))
        if any(member.epoch != group.epoch or member.owned != member.target for member in group.members):
            return None
        found = sorted(
            (self._names.get(m.member_id, m.member_id), m.epoch, m.subscription, m.owned) for m in group.members
        )
        owners = {
            name.decode(): self._names.get(owner.decode().split()[0])
            for name, owner in self._direct.hgetall(KEYS.owners).items()
            if name != b"-"
        }
        believed = {f"{TOPIC}:{number}": name for name, member in members.items() for number in member.has}
        offsets = {tp: (stored.offset, stored.metadata) for tp, stored in group.offsets.items()}
        return (group.epoch, found, sorted(owners.items()), offsets) if owners == believed else None


@pytest.fixture(scope="module")
def reference() -> dict[str, list[Any]]:
    """What there is to see without a fault, by colour; filled when it is asked for first."""
    return {}


# Each fault at each call meets one server and one colour, in turn; in a thorough run both.
CASES = [
    (*pair, kind, call)
    for place, (kind, call) in enumerate(itertools.product(FIRED, MOMENTS))
    for turn, pair in enumerate(PAIRS)
    if THOROUGH or (place + place // len(MOMENTS)) % 2 == turn
]


@pytest.mark.parametrize(("running", "colour", "kind", "call"), CASES, indirect=["running"])
def test_nothing_changes_by_a_fault(
    running: Server,
    colour: Colour,
    proxy: Proxy,
    direct: redis.Redis,
    reference: dict[str, list[Any]],
    kind: str,
    call: str,
) -> None:
    """Members, epochs, owners, offsets, what listeners are told and what is handed out: as without the fault.

    Who leaves is gone at once, though its word was lost the first time: the other does not wait for a session to end.
    """
    if colour not in reference:
        reference[colour] = Conversation(colour, proxy, direct, running.url, NO_FAULT).seen
        direct.flushall()
        with Admin(url=running.url) as admin:
            admin.create_topics([NewTopic(TOPIC, PARTITIONS)])
    held = Conversation(colour, proxy, direct, running.url, Fault(kind, call, MOMENTS[call]))
    assert proxy.counts[FIRED[kind]] == 1
    assert held.seen == reference[colour]
    assert held.handover_s < OPTIONS["session_timeout_ms"] / 1000 - 1


# --- a server that cannot be reached ----------------------------------------------------------------------------------


@both
def test_nothing_is_handed_out_after_the_local_deadline(
    running: Server, colour: Colour, proxy: Proxy, direct: redis.Redis
) -> None:
    """The server is silent for longer than a session: no record of what was fetched after it; back again, all goes on.

    Another member has taken over meanwhile: what is left goes to it, and the first is told that its part is lost.
    """
    produce(running.url, 50)
    short = {"session_timeout_ms": 1000, "heartbeat_interval_ms": 200}
    with Members(colour, impatient(proxy)) as members, Members(colour, running.url) as others:
        a = members.join(max_poll_records=1, **short)
        members.settle(a)
        b = others.join(**short)
        proxy.blackhole()

        def handed_out_nothing_for_a_while() -> bool:
            count = a.poll(100)
            until = a.session._member.valid_until if a.session._member else 0
            assert not count or threads.boottime_ms() - 50 <= until  # 50: from there to here
            return threads.boottime_ms() > until + 300

        sync_wait_until(handed_out_nothing_for_a_while, "the deadline passes")
        assert a.poll(100) == 0
        others.settle(b)
        proxy.kill_all()
        proxy.heal()
        assert a.told == [("assigned", [0, 1, 2, 3])]

        def shared() -> bool:
            a.poll()
            b.poll()
            return len(a.has) == len(b.has) == 2

        sync_wait_until(shared, "they share the partitions")
        assert a.told[1] == ("lost", [0, 1, 2, 3])
        sync_wait_until(lambda: a.poll(1) + b.poll(1) == 0, "all is read", timeout=20)
        every = {(number, offset) for number in range(PARTITIONS) for offset in range(50)}
        assert set(a.records) | set(b.records) == every
        assert len(b.records) == len(set(b.records))


@both
def test_a_member_whose_heartbeats_alone_are_lost_reads_nothing(
    running: Server, colour: Colour, proxy: Proxy, direct: redis.Redis
) -> None:
    """Fetches get through and heartbeats do not: nothing is handed out, and the server is not asked over and over."""
    produce(running.url, 200)
    with Members(colour, impatient(proxy)) as members:
        a = members.join(max_poll_records=1, session_timeout_ms=1000, heartbeat_interval_ms=200)
        members.settle(a)
        proxy.cut_requests(10_000, HEARTBEAT)
        sync_wait_until(lambda: a.poll(10) == 0 and a.session.lapsed(a.session.view), "the session ends")
        asked = proxy.counts["EVALSHA"] - proxy.counts["cut"]
        assert a.poll(600) == 0
        assert proxy.counts["EVALSHA"] - proxy.counts["cut"] - asked <= 5
        proxy.heal()
        sync_wait_until(lambda: a.poll(100), "it reads again")


# --- calls that end in the middle ------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", ["valkey"], indirect=True)
@pytest.mark.parametrize("match", [b":offsets", COMMIT, b"HGETALL"], ids=["resuming", "first commit", "looking up"])
async def test_a_poll_cancelled_while_partitions_are_taken_up(
    running: Server, proxy: Proxy, direct: redis.Redis, match: bytes
) -> None:
    """The next poll does what is left: the listener is told once, all is read, and given up when another joins."""
    produce(running.url, 5)
    told: list[tuple[str, int]] = []
    async with _member(proxy.url, told) as a, _member(running.url, []) as b:
        # The heartbeat names that key too; what is meant comes when the member has its partitions.
        a._group.session.start()
        await aio_wait_until(lambda: a._group.session.view.owned, "it has joined")
        await _cancel_within(proxy, match, a)
        records = 0

        async def all_read() -> bool:
            nonlocal records
            records += sum(map(len, (await a.poll(20)).values()))
            return records >= 20

        await aio_wait_until(all_read, "all is read")
        assert told == [("assigned", PARTITIONS)]
        await aio_wait_until(lambda: _both_polled(a, b), "they share the partitions")
        assert told == [("assigned", PARTITIONS), ("revoked", 2)]
        assert records == 20


@pytest.mark.parametrize("running", ["valkey"], indirect=True)
async def test_a_poll_cancelled_while_partitions_are_given_up(
    running: Server, proxy: Proxy, direct: redis.Redis
) -> None:
    """The next poll commits and tells the listener all the same; what was handed out is handed out to nobody again."""
    produce(running.url, 5)
    told: list[tuple[str, int]] = []
    async with (
        _member(proxy.url, told, enable_auto_commit=True, auto_commit_interval_ms=600_000) as a,
        _member(running.url, []) as b,
    ):
        seen = 0

        async def all_read() -> bool:
            nonlocal seen
            seen += sum(map(len, (await a.poll(20)).values()))
            return seen >= 20

        await aio_wait_until(all_read, "all is read")
        await b.poll(20)  # it joins, and a is to give up half
        await aio_wait_until(lambda: a._group.session.view.revoking, "it is told to give up")
        await _cancel_within(proxy, COMMIT, a)
        assert told == [("assigned", PARTITIONS)]
        await aio_wait_until(lambda: _both_polled(a, b), "they share the partitions")
        assert told == [("assigned", PARTITIONS), ("revoked", 2)]
        assert await b.poll(100) == {}


def _member(url: str, told: list[tuple[str, int]], **options: Any) -> aio.Consumer:
    class Told(aio.ConsumerRebalanceListener):
        async def on_partitions_assigned(self, assigned: Any) -> None:
            told.append(("assigned", len(assigned)))

        async def on_partitions_revoked(self, revoked: Any) -> None:
            told.append(("revoked", len(revoked)))

        async def on_partitions_lost(self, lost: Any) -> None:
            told.append(("lost", len(lost)))

    return aio.Consumer(TOPIC, url=url, group_id=GROUP, listener=Told(), **(OPTIONS | options))


async def _both_polled(a: aio.Consumer, b: aio.Consumer) -> bool:
    await a.poll(20)
    await b.poll(20)
    return len(a.assignment()) == len(b.assignment()) == 2


async def _cancel_within(proxy: Proxy, match: bytes, consumer: aio.Consumer) -> None:
    """Poll, and cancel that while a certain request is under way."""
    held = proxy.counts["held"]
    proxy.hold(1, match)
    task = asyncio.create_task(consumer.poll(5000))
    await aio_wait_until(lambda: proxy.counts["held"] > held, "the request is under way")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    proxy.release()


@both
def test_a_new_membership_does_not_vouch_for_what_the_old_one_had(
    running: Server, colour: Colour, proxy: Proxy, direct: redis.Redis
) -> None:
    """A member is dropped and joins again while its poll fetches: it is told so before it is handed anything more."""
    with Members(colour, proxy.url) as members:
        a = members.join()
        members.settle(a)
        proxy.hold(1, b":tail")
        produce(running.url, 5)
        polling = members.begin(a.consumer.poll, 5000)
        sync_wait_until(lambda: proxy.counts["held"], "a fetch is under way")
        old = a.session.view.member_id
        Runner(direct)(group_calls.leave(KEYS, [old]))
        sync_wait_until(lambda: a.session.view.member_id not in {"", old}, "it has joined again")
        proxy.release()
        assert sum(map(len, polling.result(20).values())) > 0
        assert a.told == [("assigned", [0, 1, 2, 3]), ("lost", [0, 1, 2, 3]), ("assigned", [0, 1, 2, 3])]


@both
def test_reading_to_the_end_hears_of_a_loss_between_two_records(
    running: Server, colour: Colour, proxy: Proxy, direct: redis.Redis
) -> None:
    """A member is dropped and joins again while records of a batch are handed out one by one: not one more of them."""
    produce(running.url, 5)
    with Members(colour, proxy.url) as members:
        a = members.join()
        stream = a.consumer.read_to_end()
        step = stream.__anext__ if colour == "aio" else stream.__next__
        first = members.do(step)
        old = a.session.view.member_id
        Runner(direct)(group_calls.leave(KEYS, [old]))
        sync_wait_until(lambda: a.session.view.member_id not in {"", old}, "it has joined again")
        second = members.do(step)
        assert a.told == [("assigned", [0, 1, 2, 3]), ("lost", [0, 1, 2, 3]), ("assigned", [0, 1, 2, 3])]
        assert (first.offset, second.offset) == (0, 0)  # nothing was committed: it begins anew
        members.do(stream.aclose if colour == "aio" else stream.close)


@both
def test_a_subscription_replaced_while_topics_are_looked_up(
    running: Server, colour: Colour, proxy: Proxy, direct: redis.Redis
) -> None:
    """Only what was subscribed to last is wanted of the group."""
    with Admin(url=running.url) as admin:
        admin.create_topics([NewTopic("users", 2)])
    with Members(colour, proxy.url) as members:
        proxy.hold(1, registry_calls.read_registry("sl").args[0].encode())
        a = members.join()
        members.do(a.session.start)
        sync_wait_until(lambda: proxy.counts["held"], "the registry is being read")
        members.do(a.consumer.subscribe, ["users"])
        proxy.release()
        members.settle(a, partitions=2)
        members.wait_heartbeats(a)
        (member,) = Runner(direct)(group_calls.describe_group(KEYS)).members
        assert member.subscription == ("users",)
        assert a.told == [("assigned", [0, 1])]
