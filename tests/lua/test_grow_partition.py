"""grow_partition.lua: the next layout holds, and keyed batches are taken again, by its count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamlayer._core import calls, scripts
from tests.lua.run import Log, word_of


def freeze(log: Log, generation: int = 2, partitions: int = 4) -> Any:
    """What comes before it, in every partition."""
    return log.run(
        calls.freeze_partition(log.keys, topic_id=log.topic_id, generation=generation, partitions=partitions)
    )


def grow(log: Log, generation: int = 2, partitions: int = 4) -> Any:
    """One call, for the layout that is to hold."""
    return log.run(calls.grow_partition(log.keys, topic_id=log.topic_id, generation=generation, partitions=partitions))


def test_keys_are_placed_by_the_new_count(log: Log) -> None:
    """What was hashed under the old layout is refused with the new generation, and taken where it belongs now."""
    assert log.append(b"a", key_hash=3).generation == 1
    freeze(log)
    assert grow(log) == 2
    assert log.append(b"b", key_hash=3) == ("STALE_GENERATION", "2")
    assert log.append(b"b", key_hash=3, generation=2) == ("WRONG_PARTITION", "4")
    assert log.append(b"b", key_hash=8, generation=2).generation == 2
    assert log.append(b"c").base_offset == 2
    assert (log.describe().generation, log.describe().partitions) == (2, 4)
    assert log.fetch(0).generation == 2


def test_without_a_freeze_it_holds_too(log: Log) -> None:
    """A partition that was frozen before a crash took that back: the layout is what counts."""
    assert grow(log) == 2
    assert word_of(log.append(b"a", key_hash=4, generation=2)) == "OK"


def test_twice_and_late_change_nothing(log: Log) -> None:
    """The same call again, and one for an older layout; also while the next one is being prepared."""
    grow(log, 2, 4)
    grow(log, 3, 6)
    before = log.dump()
    assert grow(log, 3, 6) == 3
    assert grow(log, 2, 4) == 3
    assert log.dump() == before
    freeze(log, 4, 8)
    assert grow(log, 3, 6) == 3
    assert log.append(b"a", key_hash=0, generation=3) == ("GROWING", "8")


def _foreign(log: Log) -> Any:
    log.run.client.delete(log.keys.meta)
    log.run.client.set(log.keys.meta, "mine")
    return grow(log)


def _with_meta(**meta: Any) -> Callable[[Log], Any]:
    return lambda log: (log.set_meta(**meta), grow(log))[1]


REFUSALS: dict[str, Callable[[Log], Any]] = {
    "FOREIGN": _foreign,
    "UNKNOWN_TOPIC": lambda log: (log.run.client.delete(log.keys.meta), grow(log))[1],
    "TOPIC_REPLACED": _with_meta(id="another"),
    "LAYOUT": _with_meta(min_v=2),
    "DAMAGED": _with_meta(damaged="torn"),
}


def test_every_word_of_the_header_has_its_test() -> None:
    """The table above is complete."""
    assert set(REFUSALS) == scripts.GROW_PARTITION.errors


@pytest.mark.parametrize("word", sorted(REFUSALS))
def test_each_no_is_said_and_writes_nothing(log: Log, word: str) -> None:
    """The word comes; asked again it comes again, and no key has changed in between."""
    assert word_of(REFUSALS[word](log)) == word
    before = log.dump()
    assert word_of(REFUSALS[word](log)) == word
    assert log.dump() == before


def test_a_full_server_can_finish_growing() -> None:
    """Frozen partitions must not stay so because memory is full."""
    assert scripts.GROW_PARTITION.flags == "allow-oom"
