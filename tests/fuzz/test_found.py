"""What strange inputs have found, one by one: each came out as a surprise once, or as a wait without end."""

from __future__ import annotations

import struct
import time
import zlib
from typing import Any

import pytest
import redis

from streamlayer import Consumer, ForeignDataError, Producer, StreamlayerError, aio
from streamlayer._core import group_calls
from streamlayer._core.codec import FrameError, decode_frames
from streamlayer._core.keys import group_keys, partition_keys
from streamlayer._core.server import check_server
from streamlayer._sync.link import Unanswered
from tests.fuzz.test_babble import Babbler, babbling
from tests.fuzz.test_frames import sealed
from tests.fuzz.test_replies import CALLS, outcome
from tests.fuzz.test_writes import Asker, send
from tests.lua.group import Group
from tests.lua.run import dump, new_log
from tests.waiting import sync_wait_until

ENDLESS = b"orders:0-99999999999"


def test_an_empty_answer() -> None:
    """``*0`` is not any call's: the connection is given up."""
    assert isinstance(outcome(CALLS[1], []), Unanswered)


@pytest.mark.parametrize(
    "said",
    [
        b"%1\r\n*1\r\n:1\r\n:2\r\n",
        b"*4000000000\r\n",
        b"*1\r\n" * 3000,
        b"*0\r\n",
        b"(1\r\n",
        b"$4\r\n\xff\xff\xff\xff\r\n",
    ],
    ids=["a map of lists", "too many", "too deep", "empty", "a large number", "not UTF-8"],
)
@pytest.mark.parametrize("polite", [True, False], ids=["calls", "connecting"])
def test_what_no_reader_can_read(said: bytes, polite: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the reader's ``TypeError`` nor its ``MemoryError`` comes out, from a call or from connecting."""

    def answer(self: Babbler, name: str) -> bool:
        asked = polite and name in self.polite | {"INFO", "SCRIPT"}
        self.request.sendall(b"+OK\r\n" if asked else said)
        return True

    monkeypatch.setattr(Babbler, "_answer", answer)
    with babbling(0) as url, pytest.raises(StreamlayerError), Producer(url=url, max_block_ms=300) as producer:
        producer.send_and_wait("t", b"a", timeout_ms=1000)


def test_a_version_of_strange_digits() -> None:
    """``²`` is a digit, and no number."""
    check_server({"redis_version": "²7.²"}, allow_eviction=False)


def test_nulls_by_the_gigabyte() -> None:
    """A frame of 50 KB that unpacks to as many nulls as fit: refused before a list is made of them."""
    count = 50_000_000
    body = zlib.compress(b"\x94\xc0\xc0\xdd" + struct.pack(">I", count) + bytes([0xC0]) * count, 9, zlib.MAX_WBITS | 16)
    with pytest.raises(FrameError, match="not what its version says"):
        list(decode_frames(sealed(body, count, 1)))


JUNK = [b"", b"\xff\xfe", b"epoch", b"epoch x", b"epoch \xc2\xb2", b"free free", b"\x00" * 5000]


def test_junk_on_our_channels(redis_client: redis.Redis, sync_args: dict[str, Any]) -> None:
    """Anybody may publish anything: whoever listens goes on listening, and a member stays one."""
    name = sync_args["namespace"]
    with (
        Producer(**sync_args) as producer,
        Consumer("orders", group_id="g", heartbeat_interval_ms=50, **sync_args) as member,
    ):
        producer.send_and_wait("orders", b"a", partition=0)
        sync_wait_until(lambda: member.poll(50), "the first record")
        channels = [group_keys(name, "g").channel, partition_keys(name, "orders", 0).channel, f"{name}:topics:wake"]

        def heard() -> bool:
            member.poll(20)
            return all(redis_client.publish(channel, b"") for channel in channels)

        sync_wait_until(heard, "it listens")
        for junk in JUNK:
            for channel in channels:
                redis_client.publish(channel, junk)
            assert heard(), "it has gone deaf"
        assert member.health().ok
        producer.send_and_wait("orders", b"b", partition=0)
        sync_wait_until(lambda: member.poll(50), "the second record")


async def test_junk_on_our_channels_with_asyncio(redis_client: redis.Redis, aio_args: dict[str, Any]) -> None:
    """The same with tasks."""
    name = aio_args["namespace"]
    async with (
        aio.Producer(**aio_args) as producer,
        aio.Consumer("orders", group_id="g", heartbeat_interval_ms=50, **aio_args) as member,
    ):
        await producer.send_and_wait("orders", b"a", partition=0)
        while not await member.poll(1000):
            pass
        channel = group_keys(name, "g").channel
        while not redis_client.publish(channel, b""):
            await member.poll(20)
        for junk in JUNK:
            redis_client.publish(channel, junk)
            await member.poll(20)
        assert redis_client.publish(channel, b""), "it has gone deaf"
        assert member.health().ok


def test_partitions_without_end(redis_client: redis.Redis, namespace: str) -> None:
    """What a member owns is counted through where it goes: not what was spoiled, for hours, by a server that waits."""
    group = Group(redis_client, namespace)
    one = group.join("one")
    group.settle(one)
    redis_client.hset(group.keys.members, mapping={"one:o": ENDLESS, "one:t": ENDLESS})
    ask = Asker(redis_client)
    began = time.monotonic()
    described = ask(group_calls.describe_group(group.keys))
    assert isinstance(described, ForeignDataError), "no client counts through it either"
    assert ask(group_calls.leave(group.keys, ["one"])) == 1
    assert time.monotonic() - began < 5


def test_counts_without_end(redis_client: redis.Redis, namespace: str) -> None:
    """As many partitions as `meta` says are given to members, a topic's most at most."""
    group = Group(redis_client, namespace)
    group.settle(group.join("one"))
    redis_client.hset(group.keys.meta, "topics", "orders:99999999999:1:4")
    group.join("other")
    targets = redis_client.hget(group.keys.members, "one:t")
    assert targets is not None
    assert int(targets.rpartition(b"-")[2]) < 100_000


@pytest.mark.parametrize("field", ["epoch", "version", "seen", "grace", "expires"])
def test_a_groups_number_that_is_none(redis_client: redis.Redis, namespace: str, field: str) -> None:
    """A heartbeat fails on it before it has written anything."""
    group = Group(redis_client, namespace)
    group.settle(group.join("one"))
    redis_client.hset(group.keys.meta, field, "[]")
    before = group.dump()
    ask = Asker(redis_client)
    for call in (group_calls.leave(group.keys, ["one"]), group_calls.describe_group(group.keys)):
        found = ask(call)
        assert isinstance(found, StreamlayerError), found
    assert group.dump() == before


NUMBERS = [
    "next", "segment", "segment_base", "segment_bytes", "segment_at", "tail_base", "tail_len", "max_timestamp",
    "deadline", "retention_ms", "retention_bytes", "segment_position", "trim_at", "oldest_closed", "start",
    "segment_limit", "max_message_bytes", "min_insync_replicas", "flush",
]  # fmt: skip


@pytest.mark.parametrize("stored", ["[]", "inf", "1e300", "nan", ""])
def test_a_partitions_number_that_is_none(redis_client: redis.Redis, namespace: str, stored: str) -> None:
    """An append fails on it before it has written anything, whichever it is; and says that the partition is damaged."""
    log = new_log(redis_client, namespace)
    log.append(b"a")
    log.run = Asker(redis_client)
    for field in NUMBERS:
        was = redis_client.hget(log.keys.meta, field)
        log.set_meta(**{field: stored})
        before = dump(redis_client, log.keys.prefix)
        answer = send(log, log.batch([bytes(5000)]), "")
        assert isinstance(answer, StreamlayerError), (field, answer)
        assert "damaged" in str(answer), (field, answer)
        assert dump(redis_client, log.keys.prefix) == before, field
        log.set_meta(**{field: was})
    assert send(log, log.batch([b"b"]), "").base_offset == 1


def test_a_cursor_that_is_none(redis_client: redis.Redis, namespace: str) -> None:
    """Where the look for idle producers goes on does not decide whether a batch is in the log."""
    log = new_log(redis_client, namespace)
    log.set_meta(scan="0{}")
    assert log.send(log.batch([b"a"]), "new").base_offset == 0
