"""describe_partition.lua: what one partition holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from streamlayer._core import calls, scripts
from tests.lua.run import TOPIC_ID, WEEK_MS, Log, all_keys, new_log, word_of


def describe(log: Log, topic_id: str = TOPIC_ID) -> Any:
    """One call."""
    return log.run(calls.describe_partition(log.keys, topic_id=topic_id))


def test_bytes_and_segments_are_those_that_are_kept(redis_client: redis.Redis, namespace: str) -> None:
    """Closed segments, the open one and its tail count; an expired one does not."""
    log = new_log(redis_client, namespace, segment_bytes=6000, partitions=3, generation=2)
    for i in range(9):
        log.append(bytes(i * 400))
    found = describe(log)
    stored = (
        sum(
            len(value)
            for number in range(log.meta("segment")[0] + 1)
            for name, value in redis_client.hgetall(log.keys.segment(number)[0]).items()
            if name != b"-"
        )
        + log.meta("tail_len")[0]
    )
    assert (found.log_start, found.next, found.bytes) == (0, 9, stored)
    assert (found.segments, found.generation, found.partitions) == (log.meta("segment")[0] + 1, 2, 3)
    behind = log.members()[1][2]
    log.close_ago(0, WEEK_MS)
    after = describe(log)
    assert after.bytes == stored - behind
    assert after.segments == found.segments - 1
    assert after.log_start > 0


def test_an_empty_partition_holds_nothing(log: Log) -> None:
    """From the start, and after its deadline."""
    assert (describe(log).bytes, describe(log).segments) == (0, 1)
    log.append(b"a")
    assert describe(log).bytes > 0
    log.set_meta(deadline=log.run.now())
    assert (describe(log).log_start, describe(log).next, describe(log).bytes) == (1, 1, 0)


def _foreign(log: Log) -> Any:
    log.run.client.delete(log.keys.meta)
    log.run.client.set(log.keys.meta, "mine")
    return describe(log)


def _with_meta(**meta: Any) -> Callable[[Log], Any]:
    return lambda log: (log.set_meta(**meta), describe(log))[1]


REFUSALS: dict[str, Callable[[Log], Any]] = {
    "FOREIGN": _foreign,
    "UNKNOWN_TOPIC": lambda log: (log.run.client.delete(log.keys.meta), describe(log))[1],
    "TOPIC_REPLACED": lambda log: describe(log, "another"),
    "LAYOUT": _with_meta(min_v=2),
    "DAMAGED": _with_meta(damaged="torn"),
}


def test_every_word_of_the_header_has_its_test() -> None:
    """The table above is complete."""
    assert set(REFUSALS) == scripts.DESCRIBE_PARTITION.errors


@pytest.mark.parametrize("word", sorted(REFUSALS))
def test_each_no_is_said_and_writes_nothing(log: Log, word: str) -> None:
    """The word comes; asked again it comes again, and no key has changed in between."""
    log.append(b"a")
    assert word_of(REFUSALS[word](log)) == word
    before = log.dump()
    assert word_of(REFUSALS[word](log)) == word
    assert log.dump() == before


def test_describing_writes_nothing(log: Log) -> None:
    """The script is flagged as one that only reads."""
    log.append(b"a")
    before = log.dump()
    describe(log)
    assert log.dump() == before
    assert all_keys(log.run.client, log.keys.prefix) == sorted(before)
    assert scripts.DESCRIBE_PARTITION.flags == "no-writes"
