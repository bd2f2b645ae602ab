"""Keys that somebody spoiled: whoever reads, writes or looks after them gets a documented error, soon, or a result."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from streamlayer import Admin, Consumer, NewTopic, Producer, StreamlayerError, TopicPartition
from tests import servers
from tests.fuzz.inputs import TRIED
from tests.fuzz.spoiler import Spoiler
from tests.profiles import examples

pytestmark = pytest.mark.timeout(500)

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)
LONGEST_S, LONGEST_FAKE_S = 9.0, 60.0
"""A story with its spoiled key is over in this time; most take some ms. Of an infinite number fakeredis makes no answer
at all: then a call is made again until its 10 s are over."""


class Spoiled:
    """One story: topics and groups are made, something in their keys is changed, and everybody tries what they do."""

    def __init__(self, client: redis.Redis, where: dict[str, Any], seed: int) -> None:
        self.client, self.where = client, where
        self.dice = random.Random(seed)
        self.member = Consumer(
            "t", group_id="g", session_timeout_ms=500, heartbeat_interval_ms=50, enable_auto_commit=False, **where
        )
        self.spoiler = Spoiler(client, f"{where['namespace']}:", self.dice)

    def prepare(self) -> None:
        """Two partitions with some segments, a group that has committed, and a member that is there."""
        config = {"segment_bytes": 16_384, "retention_bytes": 200_000}
        with Admin(**self.where) as admin, Producer(batch_size=3000, linger_ms=0, **self.where) as producer:
            admin.create_topics([NewTopic("t", 2, config=config)])
            for number in range(8):
                for partition in (0, 1):
                    producer.send_many("t", [bytes(700), b"%d" % number] * 4, partition=partition)
            with Consumer("t", group_id="g", **self.where) as consumer:
                consumer.poll(3000)
                consumer.commit()
        self.member.poll(3000)

    def everybody(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """What is tried, in turn."""
        admin, producer = Admin(**self.where), Producer(delivery_timeout_ms=200, linger_ms=0, **self.where)
        reader = Consumer(**self.where)
        member = self.member
        yield "send", lambda: producer.send_many("t", [b"x"] * 3, partition=self.dice.randrange(2))
        yield "send big", lambda: producer.send_and_wait("t", bytes(9000), partition=0)
        yield "assign", lambda: reader.assign([T0, T1])
        for _ in range(4):
            yield "poll", lambda: reader.poll(20)
        yield "seek", reader.seek_to_beginning
        yield "poll", lambda: reader.poll(20)
        yield "seek by time", lambda: reader.seek_to_time(int(time.time() * 1000) - 1000)
        yield "seek", lambda: reader.seek(T0, 40)
        yield "poll", lambda: reader.poll(20)
        yield "ends", lambda: (reader.end_offsets([T0, T1]), reader.beginning_offsets([T0, T1]))
        yield "poll", lambda: member.poll(100)
        yield "poll", lambda: member.poll(20)
        yield "commit", member.commit
        yield "committed", lambda: member.committed(T0)
        yield "lag", member.lag
        yield "describe", admin.describe_topics
        yield "check", admin.check_topics
        yield "alter", lambda: admin.alter_configs({"t": {"retention_bytes": 100_000}})
        yield "groups", admin.describe_groups
        yield "offsets", lambda: admin.list_group_offsets("g")
        yield "delete records", lambda: admin.delete_records({T0: 5})
        yield "grow", lambda: admin.create_partitions({"t": 3})
        yield "close", member.close
        yield "close", lambda: producer.close(timeout_ms=300)
        yield "reset", lambda: admin.reset_group_offsets("g", "earliest")
        yield "delete group", lambda: admin.delete_groups(["g"])
        yield "delete", lambda: admin.delete_topics(["t"])
        reader.close()
        admin.close()


@pytest.mark.parametrize("seed", range(examples(10)))
def test_spoiled_keys(redis_client: redis.Redis, sync_args: dict[str, Any], seed: int) -> None:
    """Nothing but documented errors comes out, from anybody, and nobody hangs."""
    story = Spoiled(redis_client, sync_args, seed)
    story.prepare()
    what = story.spoiler.spoil()
    TRIED["stored values"] += 1
    began = time.monotonic()
    for name, attempt in story.everybody():
        try:
            attempt()
        except StreamlayerError:
            pass
        except Exception as error:
            error.add_note(f"seed {seed}: {what} was spoiled; {name}")
            raise
    limit = LONGEST_S if "url" in sync_args else LONGEST_FAKE_S
    assert time.monotonic() - began < limit, f"seed {seed}: {what}"


def test_the_kinds_of_servers() -> None:
    """The stories above run on whatever kinds of servers are chosen."""
    assert servers.chosen_kinds()
