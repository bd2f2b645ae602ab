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
_MENDED_BY: Final[dict[DurabilityLevel, str]] = {
    "snapshot": "CONFIG SET save '60 1000'",
    "os_cache": "CONFIG SET appendonly yes",
    "second": "CONFIG SET appendonly yes, CONFIG SET appendfsync everysec",
    "disk": "CONFIG SET appendonly yes, CONFIG SET appendfsync always",
}


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
        reasons = (*reasons, "its settings cannot be read: the right `config|get` is missing")
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
        return "memory", ("its state cannot be read: the right `info` is missing",)
    if persistence.get("aof_enabled") == "1":
        return _level_of_file(persistence, settings)
    if not settings.get("save"):
        return "memory", ("appendonly is no, and no snapshots are taken",)
    if persistence.get("rdb_last_bgsave_status", "ok") != "ok":
        return "memory", ("appendonly is no, and the last snapshot failed",)
    return "snapshot", ("appendonly is no: what came after the last snapshot is lost",)


def _level_of_file(
    persistence: Mapping[str, str], settings: Mapping[str, str]
) -> tuple[DurabilityLevel, tuple[str, ...]]:
    if persistence.get("aof_last_write_status", "ok") != "ok":
        return "memory", ("the last write to the append-only file failed: see the server's log, and its disk",)
    fsync = settings.get("appendfsync", "no")
    level = _BY_FSYNC.get(fsync, "os_cache")
    reasons = () if level == "disk" or not settings else (f"appendfsync is {fsync}",)
    if settings.get("no-appendfsync-on-rewrite") == "yes" and level != "os_cache":
        return "os_cache", (
            *reasons,
            "no-appendfsync-on-rewrite is yes: nothing is flushed while the file is rewritten",
        )
    return level, reasons


def check_durability(found: Durability, wanted: DurabilityLevel, place: str) -> None:
    """Refuse a server that gives less than is wanted.

    :raises InsufficientDurabilityError: it does.
    """
    if LEVELS.index(found.level) < LEVELS.index(wanted):
        msg = (
            f"{place} gives min_durability={found.level!r}, and {wanted!r} is asked for: {'; '.join(found.reasons)}. "
            f"What would: {_MENDED_BY[wanted]} (and the same in the server's configuration)"
        )
        raise InsufficientDurabilityError(msg)
