"""freeze_partition.lua: no keyed batch is taken between two layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamlayer._core import calls, scripts
from tests.lua.run import Log, word_of


def freeze(log: Log, generation: int = 2, partitions: int = 4) -> Any:
    """One call, for the layout that is to come."""
    return log.run(
        calls.freeze_partition(log.keys, topic_id=log.topic_id, generation=generation, partitions=partitions)
    )


def grow(log: Log, generation: int = 2, partitions: int = 4) -> Any:
    """What follows it."""
    return log.run(calls.grow_partition(log.keys, topic_id=log.topic_id, generation=generation, partitions=partitions))


def test_keyed_batches_wait_and_others_go_on(log: Log) -> None:
    """The refusal says how many partitions there will be; what no key has placed is taken, and all can be read."""
    assert word_of(log.append(b"a", key_hash=0)) == "OK"
    assert freeze(log) == 1
    assert log.append(b"b", key_hash=0) == ("GROWING", "4")
    assert log.append(b"c").base_offset == 1
    assert log.read() == [b"a", b"c"]
    assert log.describe().generation == 1


def test_a_batch_that_was_taken_before_is_answered(log: Log) -> None:
    """A keyed batch whose answer was lost is a duplicate, frozen or not."""
    batch = log.batch([b"a"])
    first = log.send(batch, "me", key_hash=0)
    freeze(log)
    assert log.send(batch, "me", key_hash=0).base_offset == first.base_offset


def test_twice_is_once(log: Log) -> None:
    """The same call again changes nothing."""
    freeze(log)
    before = log.dump()
    assert freeze(log) == 1
    assert log.dump() == before


@pytest.mark.parametrize("generation", [1, 2])
def test_late_it_changes_nothing(log: Log, generation: int) -> None:
    """After the layout is there, or a newer one, nothing is frozen again: it would stay so for ever."""
    freeze(log)
    grow(log)
    before = log.dump()
    assert freeze(log, generation) == 2
    assert log.dump() == before
    assert word_of(log.append(b"a", key_hash=0, generation=2)) == "OK"


def _foreign(log: Log) -> Any:
    log.run.client.delete(log.keys.meta)
    log.run.client.set(log.keys.meta, "mine")
    return freeze(log)


def _with_meta(**meta: Any) -> Callable[[Log], Any]:
    return lambda log: (log.set_meta(**meta), freeze(log))[1]


REFUSALS: dict[str, Callable[[Log], Any]] = {
    "FOREIGN": _foreign,
    "UNKNOWN_TOPIC": lambda log: (log.run.client.delete(log.keys.meta), freeze(log))[1],
    "TOPIC_REPLACED": _with_meta(id="another"),
    "LAYOUT": _with_meta(min_v=2),
    "DAMAGED": _with_meta(damaged="torn"),
}


def test_every_word_of_the_header_has_its_test() -> None:
    """The table above is complete."""
    assert set(REFUSALS) == scripts.FREEZE_PARTITION.errors


@pytest.mark.parametrize("word", sorted(REFUSALS))
def test_each_no_is_said_and_writes_nothing(log: Log, word: str) -> None:
    """The word comes; asked again it comes again, and no key has changed in between."""
    assert word_of(REFUSALS[word](log)) == word
    before = log.dump()
    assert word_of(REFUSALS[word](log)) == word
    assert log.dump() == before


def test_a_full_server_can_be_frozen() -> None:
    """A few bytes in a hash: what was begun can be finished where memory is full."""
    assert scripts.FREEZE_PARTITION.flags == "allow-oom"
