"""Scripts by EVALSHA, nothing of the shell between: a ``Call`` goes in, its result or ``("WORD", detail)`` comes out.

``Log`` is one partition with the handful of moves that tests of scripts are made of.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import redis

from streamlayer._async.link import error_text
from streamlayer._core import calls
from streamlayer._core.calls import Call, Field
from streamlayer._core.codec import decode_frames, encode_frame
from streamlayer._core.keys import PartitionKeys, partition_keys

T = TypeVar("T")
Refused: TypeAlias = tuple[str, str]
Dump: TypeAlias = dict[bytes, Any]

TOPIC_ID = "0123456789abcdef0123456789abcdef"
WEEK_MS = 604_800_000
TAIL_LIMIT, SHORT_FRAME = 16_368, 4080
EXACT = 1 << 53


class Runner:
    """Executes calls on one server."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.fake = type(client).__module__.startswith("fakeredis")

    def __call__(self, call: Call[T]) -> T | Refused:
        """Execute one call."""
        script = call.script
        assert script is not None
        sha = script.sha if self.fake else script.flagged_sha
        try:
            reply = self._evalsha(sha, call)
        except redis.exceptions.NoScriptError:
            self.client.script_load(script.source if self.fake else script.flagged)
            reply = self._evalsha(sha, call)
        if isinstance(reply, redis.ResponseError):
            word, _, detail = error_text(reply).partition(" ")
            return word, detail
        assert reply[0] == b"7", f"the tag did not come back: {reply!r}"
        return call.parse(reply[1:])

    def _evalsha(self, sha: str, call: Call[Any]) -> Any:
        try:
            return self.client.evalsha(sha, len(call.keys), *call.keys, "7", *call.args)
        except redis.exceptions.NoScriptError:
            raise
        except redis.ResponseError as error:
            return error

    def now(self) -> int:
        """The server's time, ms since the epoch."""
        seconds, microseconds = self.client.time()
        return seconds * 1000 + microseconds // 1000


def word_of(answer: Any) -> str:
    """The word of a refusal; ``OK`` for anything else."""
    return answer[0] if type(answer) is tuple and isinstance(answer[0], str) else "OK"


def key_end(closed: int, retention_ms: int) -> int:
    """When a closed segment's keys expire: 1/64 of the retention later than it is served."""
    return -1 if retention_ms < 0 else closed + retention_ms + retention_ms // 64


@dataclass
class Stored:
    """A batch as it was sent, to be sent again."""

    sequence: int
    epoch: int
    count: int
    crc: int
    frame: bytes
    times: tuple[int, int]


@dataclass
class Log:
    """One partition.

    :ivar segment: the segment believed to be open.
    """

    run: Runner
    keys: PartitionKeys
    topic_id: str = TOPIC_ID
    segment: int = 0
    stamp: int = field(default_factory=lambda: int(time.time() * 1000))

    def create(self, **changed: Any) -> Any:
        """Make the partition; defaults are of no importance unless a test changes one."""
        given: dict[str, Any] = {
            "topic_id": self.topic_id,
            "partitions": 1,
            "generation": 1,
            "retention_ms": WEEK_MS,
            "retention_bytes": -1,
            "segment_bytes": 1 << 20,
            "max_message_bytes": 1 << 20,
            "config_version": 1,
        }
        return self.run(calls.create_partition(self.keys, **(given | changed)))

    def batch(
        self, values: Sequence[bytes], times: Sequence[int] | None = None, *, sequence: int = 0, epoch: int = 0
    ) -> Stored:
        """Encode a batch."""
        stamps = [self.stamp] * len(values) if times is None else list(times)
        frame, crc = encode_frame(stamps, [None] * len(values), values)
        return Stored(sequence, epoch, len(values), crc, frame, (min(stamps), max(stamps)))

    def send(self, batch: Stored, producer: str = "", *, follow: bool = True, **changed: Any) -> Any:
        """Append a batch; ``follow``: go where a ``SEGMENT`` sends, as a client does."""
        given: dict[str, Any] = {
            "topic_id": self.topic_id,
            "partition": 0,
            "generation": 1,
            "key_hash": None,
            "producer": producer,
            "epoch": batch.epoch,
            "sequence": batch.sequence,
            "crc": batch.crc,
            "count": batch.count,
            "min_timestamp": batch.times[0],
            "max_timestamp": batch.times[1],
            "frame": batch.frame,
        }
        for _ in range(100):
            answer = self.run(calls.append(self.keys, self.segment, **(given | changed)))
            if word_of(answer) == "SEGMENT" and follow:
                self.segment = int(answer[1])
                continue
            if word_of(answer) == "TRIM" and follow:
                first, last = map(int, answer[1].split())
                assert word_of(self.trim(first, last, len(batch.frame))) == "OK"
                continue
            if word_of(answer) == "OK":
                self.segment = answer.segment
            return answer
        raise AssertionError(f"sent from segment to segment: {answer}")

    def append(self, *values: bytes, times: Sequence[int] | None = None, **options: Any) -> Any:
        """Append values as one batch of nobody's."""
        return self.send(self.batch(values, times), **options)

    def fetch(self, position: int, max_bytes: int = 1 << 20, *, follow: bool = True, **options: Any) -> Any:
        """Fetch once; ``follow``: go where a ``SEGMENT`` sends."""
        segment = options.pop("segment", self.segment)
        given: dict[str, Any] = {"topic_id": self.topic_id, "arm": False} | options
        for _ in range(3):
            answer = self.run(calls.fetch(self.keys, position=position, max_bytes=max_bytes, segment=segment, **given))
            if word_of(answer) != "SEGMENT" or not follow:
                return answer
            segment = int(answer[1])
        raise AssertionError(f"sent from segment to segment: {answer}")

    def read(self, position: int = 0, max_bytes: int = 1 << 20) -> list[bytes]:
        """All values from a position to the end, over as many fetches as it takes."""
        values: list[bytes] = []
        while True:
            answer = self.fetch(position, max_bytes)
            assert word_of(answer) == "OK", answer
            if not answer.fields:
                assert position == answer.next
                return values
            got = values_from(answer.fields, position)
            values += got
            position += len(got)

    def at_time(self, timestamp: int, *, follow: bool = True, segment: int = 0, after: int = 0) -> Any:
        """Look up by time."""
        for _ in range(6):
            answer = self.run(
                calls.list_offsets(self.keys, topic_id=self.topic_id, timestamp=timestamp, segment=segment, after=after)
            )
            if word_of(answer) != "SEGMENT" or not follow:
                return answer
            segment = after = int(answer[1])
        raise AssertionError(f"sent from segment to segment: {answer}")

    def offset_at(self, timestamp: int) -> int | None:
        """The offset of the first record at or after a time, as a client finds it.

        It looks into the field that the script names. What reached the time there may be before the log's start, for
        that can lie within a segment: then it looks through what follows.
        """
        answer = self.at_time(timestamp)
        assert word_of(answer) == "OK", answer
        fields = [] if answer.field is None else [answer.field]
        start = answer.log_start
        while fields:
            for found in fields:
                times = [time for frame in decode_frames(found.frames) for time in frame.timestamps]
                assert len(times) == found.last - found.base + 1
                for offset, at in enumerate(times, found.base):
                    if at >= timestamp and offset >= start:
                        return offset
                start = max(start, found.last + 1)
            fetched = self.fetch(start)
            if word_of(fetched) == "OUT_OF_RANGE" and start < int(fetched[1].split()[0]):
                start = int(fetched[1].split()[0])  # time went on meanwhile
                fetched = self.fetch(start)
            assert word_of(fetched) == "OK", fetched
            fields = fetched.fields
        return None

    # --- keeping and dropping ----------------------------------------------------------------------------------------

    def trim(self, first: int = 0, last: int = -1, coming: int = 0) -> Any:
        """One call of ``trim``, naming these segments, for a batch of so many bytes."""
        return self.run(calls.trim(self.keys, topic_id=self.topic_id, segments=(first, last), coming=coming))

    def trim_all(self) -> int:
        """Free whatever may go, as a client does; how many calls it took after the one that only asked."""
        answer = self.trim()
        for count in range(100):
            assert word_of(answer) == "OK", answer
            if answer.first < 0:
                return count
            answer = self.trim(answer.first, answer.last)
        raise AssertionError(f"trimming never ends: {answer}")

    def alter(self, version: int = 2, segments: tuple[int, int] = (0, -1), **settings: Any) -> Any:
        """One call of ``alter_partition``; what is not named stays as it is."""
        found = self.meta("retention_ms", "retention_bytes", "segment_limit", "max_message_bytes")
        names = ("retention_ms", "retention_bytes", "segment_bytes", "max_message_bytes")
        now = dict(zip(names, found, strict=True))
        return self.run(
            calls.alter_partition(
                self.keys, topic_id=self.topic_id, config_version=version, segments=segments, **(now | settings)
            )
        )

    def alter_all(self, version: int = 2, segments: tuple[int, int] = (0, -1), **settings: Any) -> int:
        """Give the partition new settings, as a client does; how many calls it took."""
        for count in range(1, 100):
            answer = self.alter(version, segments, **settings)
            if answer is None:
                return count
            assert isinstance(answer[0], int), answer
            segments = answer
        raise AssertionError(f"altering never ends: {segments}")

    def delete_records(self, before: int, *, follow: bool = True, segment: int | None = None, **changed: Any) -> Any:
        """Raise the log start; ``follow``: go where a ``SEGMENT`` sends."""
        given: dict[str, Any] = {"topic_id": self.topic_id} | changed
        at = self.segment if segment is None else segment
        for _ in range(3):
            answer = self.run(calls.delete_records(self.keys, before=before, segment=at, **given))
            if word_of(answer) != "SEGMENT" or not follow:
                return answer
            at = int(answer[1])
        raise AssertionError(f"sent from segment to segment: {answer}")

    def describe(self) -> Any:
        """What ``describe_partition`` says."""
        return self.run(calls.describe_partition(self.keys, topic_id=self.topic_id))

    def contradiction(self) -> str:
        """What ``check`` finds wrong, asked to its end; empty if nothing is."""
        segment, rank, size = -1, 0, 0
        for _ in range(10_000):
            answer = self.run(calls.check(self.keys, topic_id=self.topic_id, segment=segment, rank=rank, size=size))
            assert isinstance(answer, calls.Checked), answer
            if answer.contradiction or answer.segment < 0:
                return answer.contradiction
            assert (answer.segment, answer.rank) > (segment, rank), f"the check stands still: {answer}"
            segment, rank, size = answer.segment, answer.rank, answer.bytes
        raise AssertionError("the check never ends")

    def members(self) -> list[tuple[int, int, int, int, int]]:
        """The closed segments that are listed: number, base, position, highest timestamp, time of closing."""
        listed = self.run.client.zrange(self.keys.segs, 1, -1, withscores=True)
        return [(*map(int, member.split(b":")), int(closed)) for member, closed in listed]  # type: ignore[misc]

    def close_ago(self, number: int, ago_ms: int) -> None:
        """Have a segment, and those before it, closed so long ago."""
        client = self.run.client
        now = self.run.now()
        for member, closed in client.zrange(self.keys.segs, 1, -1, withscores=True):
            if int(member.split(b":")[0]) <= number:
                client.zadd(self.keys.segs, {member: min(int(closed), now - ago_ms)})
        self.set_meta(oldest_closed=self.members()[0][4])

    def segments_with_keys(self) -> set[int]:
        """The numbers of the segments of which a key exists."""
        names = [key.decode().removeprefix(self.keys.prefix) for key in all_keys(self.run.client, self.keys.prefix)]
        return {int(name.split(":")[2]) for name in names if name.count(":") == 2}

    def meta(self, *names: str) -> list[int]:
        """Fields of meta, as numbers."""
        return [int(value) for value in self.run.client.hmget(self.keys.meta, list(names))]

    def set_meta(self, **fields: Any) -> None:
        """Change meta behind the scripts' back."""
        self.run.client.hset(self.keys.meta, mapping=fields)

    def dump(self) -> Dump:
        """All that the partition's keys hold."""
        return dump(self.run.client, self.keys.prefix)

    def freeze(self) -> Snapshot:
        """What a server would have on its disk now."""
        client = self.run.client
        kept = {name: (client.dump(name), client.pexpiretime(name)) for name in all_keys(client, self.keys.prefix)}
        # What expires in between was not on the disk.
        return Snapshot({name: (data, ends) for name, (data, ends) in kept.items() if data and ends > -2}, self.segment)

    def crash(self, snapshot: Snapshot) -> None:
        """Go back to what was on the disk, as another life of the server."""
        self.restore(snapshot)
        if not self.run.fake:
            promote(self.run.client)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to an earlier state, unnoticed."""
        client = self.run.client
        with client.pipeline() as pipeline:
            for name in all_keys(client, self.keys.prefix):
                pipeline.delete(name)
            for name, (dumped, expires) in snapshot.keys.items():
                pipeline.restore(name, 0, dumped)
                if expires > 0:
                    pipeline.pexpireat(name, expires)
            pipeline.execute()


@dataclass
class Snapshot:
    """A partition's keys, with their expiry."""

    keys: dict[bytes, tuple[bytes, int]]
    segment: int


def new_log(client: redis.Redis, namespace: str, **created: Any) -> Log:
    """A partition that is there."""
    log = Log(Runner(client), partition_keys(namespace, "orders", 0))
    answer = log.create(**created)
    assert word_of(answer) == "OK", answer
    return log


def promote(client: redis.Redis) -> None:
    """Give the server a new ``master_replid``, as every start and every promotion does."""
    with client.pipeline(transaction=True) as pipeline:
        pipeline.execute_command("REPLICAOF", "127.0.0.1", "1")
        pipeline.execute_command("REPLICAOF", "NO", "ONE")
        pipeline.execute()


def all_keys(client: redis.Redis, prefix: str) -> list[bytes]:
    """The names of all keys that begin so."""
    escaped = prefix.replace("[", "\\[")
    return sorted(client.scan_iter(match=f"{escaped}*", count=10_000))


def dump(client: redis.Redis, prefix: str) -> Dump:
    """Everything under a prefix, by key: its value, and whether it expires."""
    readers = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
    }
    return {key: (readers[client.type(key)](key), client.pexpiretime(key)) for key in all_keys(client, prefix)}


def values_from(fields: Iterable[Field], position: int) -> list[bytes]:
    """The values from a position on, with the checks of a decoder: no hole, counts add up to the index."""
    values: list[bytes] = []
    for found in fields:
        assert found.base <= position + len(values) <= found.last, (found.base, position, found.last)
        skipped = position + len(values) - found.base
        inside = [value for frame in decode_frames(found.frames) for value in frame.values]
        assert len(inside) == found.last - found.base + 1, (found.base, found.last, len(inside))
        values += inside[skipped:]  # type: ignore[arg-type]
    return values
