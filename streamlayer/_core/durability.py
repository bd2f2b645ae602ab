"""What outlives a crash: computed from what a server says of itself, never assumed.

What cannot be read counts as not given. DESIGN.md, "What can be lost", says what each level is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast, get_args

from streamlayer._core.server import parse_info
from streamlayer._types import Durability, DurabilityLevel
from streamlayer.errors import InsufficientDurabilityError

LEVELS: Final[tuple[DurabilityLevel, ...]] = get_args(DurabilityLevel)
_SETTINGS: Final = ("appendfsync", "no-appendfsync-on-rewrite", "min-replicas-to-write", "save")
QUESTIONS: Final[tuple[tuple[str, ...], ...]] = (
    ("INFO", "persistence"),
    ("INFO", "replication"),
    ("CONFIG", "GET", *_SETTINGS),
)
"""The commands whose answers ``durability_of`` reads."""
_BY_FSYNC: Final[dict[str, DurabilityLevel]] = {"always": "disk", "everysec": "second", "no": "os_cache"}
_GIVEN_BY: Final[dict[DurabilityLevel, str]] = {
    "memory": "nothing",
    "snapshot": "CONFIG SET save '60 1000'",
    "os_cache": "CONFIG SET appendonly yes",
    "second": "CONFIG SET appendonly yes appendfsync everysec no-appendfsync-on-rewrite no",
    "disk": "CONFIG SET appendonly yes appendfsync always no-appendfsync-on-rewrite no",
}
_NO_INFO: Final = "its state cannot be read: the right `info` is missing"
_NO_CONFIG: Final = "its settings cannot be read: the right `config|get` is missing"
_WRITE_FAILED: Final = "the last write to the append-only file failed"
_BEING_MADE: Final = "the append-only file is still being made: until that is done, a crash may take everything"
_MENDED_BY: Final = {
    _NO_INFO: "give the user +info",
    _NO_CONFIG: "give the user +config|get",
    _WRITE_FAILED: "see the server's log, and its disk",
    _BEING_MADE: "wait until INFO says aof_rewrite_in_progress:0",
}
"""What helps where no setting does."""


def durability_of(answers: Sequence[Any]) -> Durability:
    """What a server gives.

    :param answers: to ``QUESTIONS``; an error where one was refused.
    """
    persistence, replication = (
        parse_info(answer.decode(errors="replace")) if isinstance(answer, bytes) else {} for answer in answers[:2]
    )
    settings = settings_in(answers[2])
    level, reasons = _level(persistence, settings)
    if not settings:
        reasons = (*reasons, _NO_CONFIG)
    return Durability(level, online_replicas(replication), _count(settings.get("min-replicas-to-write")), reasons)


def settings_in(answer: Any) -> dict[str, str]:
    """The names and values of a ``CONFIG GET``; empty if it was refused."""
    if not isinstance(answer, list):
        return {}
    parts = [part.decode(errors="replace") for part in cast("list[bytes]", answer)]
    return dict(zip(parts[::2], parts[1::2], strict=False))


def _count(setting: str | None) -> int:
    return int(setting) if setting is not None and setting.isdecimal() else 0


def online_replicas(replication: Mapping[str, str]) -> int:
    """How many replicas hear each write, by ``INFO replication``."""
    return sum(name.startswith("slave") and "state=online" in value for name, value in replication.items())


def _level(persistence: Mapping[str, str], settings: Mapping[str, str]) -> tuple[DurabilityLevel, tuple[str, ...]]:
    if not persistence:
        return "memory", (_NO_INFO,)
    if persistence.get("aof_enabled") == "1":
        return _level_of_file(persistence, settings)
    if not settings.get("save"):
        return "memory", ("appendonly is no, and no snapshots are taken" if settings else "appendonly is no",)
    if persistence.get("rdb_last_bgsave_status", "ok") != "ok":
        return "memory", ("appendonly is no, and the last snapshot failed",)
    return "snapshot", ("appendonly is no: what came after the last snapshot is lost",)


def _level_of_file(
    persistence: Mapping[str, str], settings: Mapping[str, str]
) -> tuple[DurabilityLevel, tuple[str, ...]]:
    if persistence.get("aof_last_write_status", "ok") != "ok":
        return "memory", (_WRITE_FAILED,)
    if persistence.get("aof_base_size") == "0" and "1" in {
        persistence.get("aof_rewrite_in_progress"),
        persistence.get("aof_rewrite_scheduled"),
    }:
        return "memory", (_BEING_MADE,)
    fsync = settings.get("appendfsync", "no")
    level = _BY_FSYNC.get(fsync, "os_cache")
    reasons = () if level == "disk" or not settings else (f"appendfsync is {fsync}",)
    if settings.get("no-appendfsync-on-rewrite") == "yes" and level != "os_cache":
        return "os_cache", (
            *reasons,
            "no-appendfsync-on-rewrite is yes: nothing is flushed while the file is rewritten",
        )
    return level, reasons


def mended_by(found: Durability, wanted: DurabilityLevel) -> str:
    """What to do so that a server gives this level: commands, and what no command does."""
    steps = [_MENDED_BY[reason] for reason in found.reasons if reason in _MENDED_BY]
    if len(steps) < len(found.reasons) or not steps:
        steps.append(f"{_GIVEN_BY[wanted]} (and the same in the server's configuration)")
    return "; ".join(steps)


def check_durability(found: Durability, wanted: DurabilityLevel, place: str) -> None:
    """Refuse a server that gives less than is wanted.

    :raises InsufficientDurabilityError: it does.
    """
    if LEVELS.index(found.level) < LEVELS.index(wanted):
        msg = (
            f"{place} gives durability {found.level!r}, and min_durability={wanted!r} asks for more: "
            f"{'; '.join(found.reasons)}. What to do: {mended_by(found, wanted)}"
        )
        raise InsufficientDurabilityError(msg)
