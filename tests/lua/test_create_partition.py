"""create_partition.lua: an empty log where there is none, and hands off where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from streamlayer._core import scripts
from streamlayer._core.calls import CreatedPartition
from streamlayer._core.keys import partition_keys
from tests.lua.run import TOPIC_ID, Log, Runner, new_log, promote, word_of


@pytest.fixture
def absent(redis_client: redis.Redis, namespace: str) -> Log:
    """A partition that is not there."""
    return Log(Runner(redis_client), partition_keys(namespace, "orders", 0))


def test_all_keys_exist_from_the_beginning(absent: Log) -> None:
    """While a slot moves, one declared key that does not exist would fail a script: placeholders stand for it."""
    assert absent.create(partitions=4, generation=2) == CreatedPartition(TOPIC_ID, 4, 2)
    keys = absent.keys
    expected = {keys.meta, keys.tail, keys.segs, keys.producers, *keys.segment(0)}
    assert {key.decode() for key in absent.dump()} == expected
    assert absent.meta("next", "start", "segment", "tail_len", "max_timestamp") == [0, 0, 0, 0, -1]
    assert absent.read() == []


def test_the_first_epoch_has_this_life_of_the_server(absent: Log, tells_lives: None) -> None:
    """A loss right after the creation can be told too."""
    absent.create()
    epochs = absent.append(b"a").epochs
    number, token, start = epochs.split(":")
    assert (number, len(token), start) == ("1", 16, "0")
    promote(absent.run.client)
    assert absent.append(b"b").epochs.startswith(f"{epochs},2:")


def test_twice_is_once(log: Log) -> None:
    """The same call again changes nothing, whatever the log holds by now."""
    log.append(b"a", b"b")
    before = log.dump()
    assert log.create() == CreatedPartition(TOPIC_ID, 1, 1)
    assert log.dump() == before


def test_a_log_of_another_id_is_told_and_left_alone(log: Log) -> None:
    """Never destroy on doubt: whoever meets another log adopts it."""
    log.append(b"a")
    before = log.dump()
    other = Log(log.run, log.keys, topic_id="another")
    assert other.create(partitions=9, generation=7, retention_ms=5) == CreatedPartition(TOPIC_ID, 1, 1)
    assert log.dump() == before
    assert log.read() == [b"a"]


def _refused(log: Log, word: str) -> Any:
    if word == "FOREIGN":
        log.run.client.set(log.keys.segs, "mine")
    else:
        log.run.client.hset(log.keys.meta, mapping={"id": TOPIC_ID, "state": "deleting"})
    return log.create()


@pytest.mark.parametrize("word", sorted(scripts.CREATE_PARTITION.errors))
def test_each_no_is_said_and_writes_nothing(absent: Log, word: str) -> None:
    """Somebody's data in the way, or a deletion that is not finished."""
    assert word_of(_refused(absent, word)) == word
    before = absent.dump()
    assert word_of(absent.create()) == word
    assert absent.dump() == before


@pytest.mark.parametrize("name", ["meta", "tail", "segs", "producers", "log", "index", "times"])
def test_whatever_stands_in_the_way_is_named(absent: Log, name: str) -> None:
    """Any key of the partition that exists without its meta is not ours to use, even of the right type."""
    keys = dict(zip(["log", "index", "times"], absent.keys.segment(0), strict=True))
    key = keys.get(name) or getattr(absent.keys, name)
    absent.run.client.rpush(key, "mine")
    before = absent.dump()
    assert absent.create() == ("FOREIGN", key)
    assert absent.dump() == before


def test_limits_are_those_of_the_call(redis_client: redis.Redis, namespace: str) -> None:
    """What the topic's configuration says is what the scripts go by."""
    log = new_log(
        redis_client,
        namespace,
        retention_ms=80_000,
        retention_bytes=7,
        segment_bytes=9,
        max_message_bytes=500,
        config_version=3,
    )
    assert log.meta("retention_ms", "retention_bytes", "segment_limit", "max_message_bytes", "config_version") == [
        80_000,
        7,
        9,
        500,
        3,
    ]
