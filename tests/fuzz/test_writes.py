"""Scripts on spoiled keys: what fails has written nothing, or what it wrote is known as damaged. They do not roll back.

The judge is a reader: whatever could be read before can be read after, at its offset, or the reader is told; and of a
batch there is all or nothing.
"""

from __future__ import annotations

import random
import time
from typing import Any, TypeVar

import pytest
import redis

from streamlayer import StreamlayerError, TopicPartition
from streamlayer._core import calls, group_calls
from streamlayer._core.calls import Appended, Call, Fetched
from streamlayer._core.group_calls import Commit, TopicCount
from streamlayer._core.positions import PartitionPosition
from streamlayer._core.refusals import Refusal
from streamlayer._sync.link import Link, Settings, Unanswered, lost
from tests.fuzz.inputs import TRIED
from tests.fuzz.spoiler import Spoiler
from tests.lua.group import Group
from tests.lua.run import Dump, Log, Runner, Stored, new_log
from tests.profiles import examples

pytestmark = pytest.mark.timeout(500)

T = TypeVar("T")
TP = TopicPartition("orders", 0)
LONGEST_S = 5.0
"""No script takes so long, whatever it finds, on a busy machine too: the server does nothing else meanwhile."""


class Asker(Runner):
    """Executes calls, and makes of each answer what the shell does."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self._link = Link(Settings(object, {"socket_timeout": 5}, allow_eviction=False))  # type: ignore[arg-type]

    def __call__(self, call: Call[T]) -> Any:
        """A result, or an error as a value."""
        began = time.monotonic()
        try:
            reply = self._reply(call)
        except (OverflowError, ValueError) as error:  # fakeredis makes no answer of an infinite number
            assert self.fake
            return Unanswered(lost(error, "fakeredis"))
        finally:
            assert time.monotonic() - began < LONGEST_S, f"{call} kept the server"
        outcome = self._link._outcome(call, b"7", reply)
        assert not isinstance(outcome, Exception) or isinstance(outcome, (StreamlayerError, Refusal, Unanswered))
        return outcome

    def _reply(self, call: Call[Any]) -> Any:
        script = call.script
        assert script is not None
        try:
            return self._evalsha(script.sha if self.fake else script.flagged_sha, call)
        except redis.exceptions.NoScriptError:
            self.client.script_load(script.source if self.fake else script.flagged)
            return self._evalsha(script.sha if self.fake else script.flagged_sha, call)


def records(log: Log) -> dict[int, bytes] | Exception:
    """All that a reader gets, by offset; or what it is told instead."""
    ends = log.run(calls.list_offsets(log.keys, topic_id=log.topic_id, timestamp=-1, segment=0, after=0))
    if isinstance(ends, Exception):
        return ends
    position = PartitionPosition(TP, log.keys, log.topic_id, 1, ends.log_start)
    found: dict[int, bytes] = {}
    for _ in range(100):
        answer: Any = log.run(position.fetch_call(1 << 20, peek=True))
        if isinstance(answer, Refusal) and answer.word == "SEGMENT":
            position.segment = int(answer.detail)
            continue
        if not isinstance(answer, Fetched):
            assert isinstance(answer, Exception)
            return answer
        position.fetched(answer)
        try:
            while taken := position.take(100, None, None, None):
                found |= {record.offset: bytes(record.value) for record in taken}
        except StreamlayerError as error:
            return error
        if not answer.fields:
            return found
    raise AssertionError("a reader never comes to an end")


def judged(before: Any, after: Any, batch: list[bytes], answer: Any) -> None:
    """Nothing was lost or made up in silence."""
    if isinstance(after, Exception):
        return  # who reads is told
    new = dict(after)
    if isinstance(before, dict):
        for offset, value in before.items():
            assert after.get(offset, value) == value, f"another record at {offset}"
            assert offset in after or all(offset < other for other in after), f"{offset} is missing"
        new = {offset: value for offset, value in after.items() if offset not in before}
        unknown = isinstance(answer, Unanswered) or "cannot be read" in str(answer)
        assert list(new.values()) in ([], batch), "a torn batch, or nobody's"
        assert not new or isinstance(answer, Appended) or unknown, "refused, and there"
    if isinstance(answer, Appended):
        at = [answer.base_offset + number for number in range(len(batch))]
        assert [after.get(offset) for offset in at] == batch, "acknowledged, and not there"


def filled(client: redis.Redis, namespace: str) -> tuple[Log, Stored]:
    """A partition of some segments, with a tail, and what its producer sent last."""
    log = new_log(client, namespace, segment_bytes=16_384, retention_bytes=200_000)
    for sequence in range(24):
        last = log.batch([bytes(500), b"%d" % sequence] * 2, sequence=4 * sequence)
        assert isinstance(log.send(last, "me"), Appended)
    log.append(b"tail")
    return log, last


def send(log: Log, batch: Stored, producer: str) -> Any:
    """As a client does: it goes where it is sent, and trims what it must."""
    answer: Any = None
    for _ in range(12):
        answer = log.run(
            calls.append(
                log.keys, log.segment, topic_id=log.topic_id, partition=0, generation=1, key_hash=None,
                producer=producer, epoch=batch.epoch, sequence=batch.sequence, crc=batch.crc, count=batch.count,
                min_timestamp=batch.times[0], max_timestamp=batch.times[1], frame=batch.frame,
            )
        )  # fmt: skip
        if isinstance(answer, Refusal) and answer.word == "SEGMENT":
            log.segment = int(answer.detail)
        elif isinstance(answer, Refusal) and answer.word == "TRIM":
            first, last = map(int, answer.detail.split())
            if last - first > calls.SEGMENTS_AT_ONCE:
                return answer
            log.trim(first, last, len(batch.frame))
        else:
            return answer
    return answer


def test_appends_to_a_spoiled_partition(redis_client: redis.Redis, namespace: str) -> None:
    """A batch is there or not, and what was there stays, whatever number, member or field was changed."""
    log, last = filled(redis_client, namespace)
    log.run = Asker(redis_client)
    sound = log.freeze()
    for number in range(examples(200)):
        dice = random.Random(number)
        log.restore(sound)
        log.segment = sound.segment
        what = Spoiler(redis_client, log.keys.prefix, dice).spoil()
        TRIED["spoiled partitions"] += 1
        values = [b"new %d" % number, bytes(dice.choice([10, 10, 2000, 5000, 20_000]))]
        batch, producer = dice.choice(
            [
                (log.batch(values, sequence=96), "me"),
                (log.batch(values), "another"),
                (log.batch(values), ""),
                (last, "me"),
            ]
        )
        before = records(log)
        answer = send(log, batch, producer)
        try:
            judged(before, records(log), [] if batch is last else values, None if batch is last else answer)
        except AssertionError as error:
            error.add_note(f"number {number}: {what}; {answer!r}")
            raise


def joined(group: Group) -> None:
    """Two members that share four partitions, and have committed."""
    one, other = group.join("one"), group.join("other", instance="i")
    group.settle(one, other)
    offsets = {TopicPartition("orders", number): Commit(5) for number in range(4)}
    group.run(group_calls.commit(group.keys, offsets, retention_ms=86_400_000))


def moves(group: Group, dice: random.Random) -> list[Call[Any]]:
    """What members and administrators may say next."""

    def beat(member: str, call: int, **said: Any) -> Call[Any]:
        given: dict[str, Any] = {
            "applied": 0, "session_ms": 10_000, "interval_ms": 3000, "retention_ms": 86_400_000, "instance": "",
            "description": "d", "version": 1, "subscription": None, "topics": None, "released": "",
        }  # fmt: skip
        return group_calls.heartbeat(group.keys, member=member, call=call, **(given | said))

    topics = {"orders": TopicCount(dice.choice([2, 4, 9]), 4)}
    tp = TopicPartition("orders", dice.randrange(4))
    found = [
        beat("one", 100),
        beat("other", 100, released="orders:0-1"),
        beat("new", 1, subscription=("orders",), topics=topics),
        beat("one", 101, subscription=("orders",), topics=topics, version=2),
        beat("static", 1, subscription=("orders",), topics=topics, instance="i"),
        group_calls.leave(group.keys, ["one"], call=200),
        group_calls.leave(group.keys, ["i", "one", "nobody"]),
        group_calls.commit(group.keys, {tp: Commit(7)}, retention_ms=86_400_000, member="one", epoch=9, call=3),
        group_calls.commit(group.keys, {tp: Commit(7)}, retention_ms=86_400_000, call=dice.randrange(9)),
        group_calls.describe_group(group.keys),
        group_calls.delete_group(group.keys, created=""),
    ]
    dice.shuffle(found)
    return found[:4]


def test_moves_in_a_spoiled_group(redis_client: redis.Redis, namespace: str) -> None:
    """Each is answered soon; one that a script failed on has changed nothing, so that it can be made again."""
    group = Group(redis_client, namespace)
    joined(group)
    ask = Asker(redis_client)
    sound = {key: redis_client.dump(key) for key in redis_client.keys(f"{group.prefix}*")}
    for number in range(examples(200)):
        dice = random.Random(number)
        redis_client.delete(*redis_client.keys(f"{group.prefix}*"), *sound)
        for key, stored in sound.items():
            redis_client.restore(key, 0, stored)
        what = Spoiler(redis_client, group.prefix, dice).spoil()
        TRIED["spoiled groups"] += 1
        for call in moves(group, dice):
            before: Dump = group.dump()
            outcome = ask(call)
            if isinstance(outcome, StreamlayerError) and "a script failed" in str(outcome):
                assert group.dump() == before, f"number {number}: {what}; {call}: {outcome}"
