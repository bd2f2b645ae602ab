"""What a server's words are worth: each setting, each failure, and whatever cannot be read."""

from __future__ import annotations

from typing import Any

import pytest

from streamlayer._core.durability import LEVELS, check_durability, durability_of, mended_by
from streamlayer._types import Durability
from streamlayer.errors import InsufficientDurabilityError

ALONE = b"role:master\r\nconnected_slaves:0\r\n"
TWO = b"role:master\r\nslave0:ip=1,port=2,state=online,offset=1,lag=0\r\nslave1:ip=1,port=3,state=wait_bgsave,lag=0\r\n"
NO_RIGHT = RuntimeError("NOPERM")


def settings(**given: str) -> list[bytes]:
    """The answer of a CONFIG GET."""
    return [part.encode() for name, value in given.items() for part in (name.replace("_", "-"), value)]


def found(persistence: Any, config: Any, replication: Any = ALONE) -> Durability:
    """What these answers amount to."""
    return durability_of([persistence, replication, config])


@pytest.mark.parametrize(
    ("persistence", "config", "level", "reason"),
    [
        (b"aof_enabled:1", settings(appendfsync="always"), "disk", ""),
        (b"aof_enabled:1", settings(appendfsync="everysec"), "second", "appendfsync is everysec"),
        (b"aof_enabled:1", settings(appendfsync="no"), "os_cache", "appendfsync is no"),
        (
            b"aof_enabled:1",
            settings(appendfsync="always", no_appendfsync_on_rewrite="yes"),
            "os_cache",
            "nothing is flushed while the file is rewritten",
        ),
        (b"aof_enabled:1\r\naof_last_write_status:err", settings(appendfsync="always"), "memory", "failed"),
        (b"aof_enabled:0", settings(save="3600 1"), "snapshot", "after the last snapshot"),
        (b"aof_enabled:0", settings(save=""), "memory", "no snapshots are taken"),
        (b"aof_enabled:0\r\nrdb_last_bgsave_status:err", settings(save="3600 1"), "memory", "the last snapshot failed"),
        (
            b"aof_enabled:1\r\naof_base_size:0\r\naof_rewrite_in_progress:1",
            settings(appendfsync="always"),
            "memory",
            "still being made",
        ),
        (
            b"aof_enabled:1\r\naof_base_size:0\r\naof_rewrite_in_progress:0\r\naof_rewrite_scheduled:1",
            settings(appendfsync="always"),
            "memory",
            "still being made",
        ),
        (
            b"aof_enabled:1\r\naof_base_size:88\r\naof_rewrite_in_progress:1",
            settings(appendfsync="always"),
            "disk",
            "",
        ),
        (b"aof_enabled:1", NO_RIGHT, "os_cache", "config|get"),
        (b"aof_enabled:0", NO_RIGHT, "memory", "config|get"),
        (NO_RIGHT, settings(appendfsync="always"), "memory", "info"),
    ],
)
def test_what_a_setting_gives(persistence: Any, config: Any, level: str, reason: str) -> None:
    """The level, and why it is not more; what cannot be read counts as not given."""
    durability = found(persistence, config)
    assert durability.level == level
    assert reason in "; ".join(durability.reasons)
    assert bool(durability.reasons) == (level != "disk")


def test_replicas_that_hear_each_write_are_counted() -> None:
    """One is online, the other still gets its copy."""
    durability = found(b"aof_enabled:1", settings(appendfsync="always", min_replicas_to_write="1"), TWO)
    assert (durability.replicas, durability.min_replicas_to_write) == (1, 1)


def test_less_than_asked_for_is_refused_with_what_would_do() -> None:
    """Each level against each: the error names both, the reason and the command."""
    for given in LEVELS:
        for wanted in LEVELS:
            durability = Durability(given, 0, 0, ("appendfsync is everysec",))
            if LEVELS.index(given) >= LEVELS.index(wanted):
                check_durability(durability, wanted, "localhost:6379")
                continue
            with pytest.raises(InsufficientDurabilityError) as caught:
                check_durability(durability, wanted, "localhost:6379")
            for word in ("localhost:6379", given, wanted, "appendfsync is everysec", "CONFIG SET"):
                assert word in str(caught.value)


@pytest.mark.parametrize(
    ("persistence", "config", "mended"),
    [
        (b"aof_enabled:0", settings(save=""), "CONFIG SET appendonly yes appendfsync always"),
        (b"aof_enabled:1", settings(appendfsync="everysec"), "CONFIG SET appendonly yes appendfsync always"),
        (
            b"aof_enabled:1",
            settings(appendfsync="always", no_appendfsync_on_rewrite="yes"),
            "no-appendfsync-on-rewrite no (and the same",
        ),
        (b"aof_enabled:1\r\naof_last_write_status:err", settings(appendfsync="always"), "see the server's log"),
        (b"aof_enabled:1", NO_RIGHT, "give the user +config|get"),
        (b"aof_enabled:0", NO_RIGHT, "give the user +config|get; CONFIG SET appendonly yes"),
        (NO_RIGHT, NO_RIGHT, "give the user +info; give the user +config|get"),
    ],
)
def test_what_mends_it_is_what_lacks(persistence: Any, config: Any, mended: str) -> None:
    """A command where a setting is wrong; else what no command does, and then no command that changes nothing."""
    said = mended_by(found(persistence, config), "disk")
    assert mended in said
    assert ("CONFIG SET" in said) == ("CONFIG SET" in mended or "(and the same" in mended)
