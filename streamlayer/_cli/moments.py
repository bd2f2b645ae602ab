"""Where to start reading, as people write it: ``beginning``, ``end``, ``1200``, ``-15m``, ``2h ago``, an ISO 8601 time.

No clock: the caller passes ``now``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

_BEGINNING: Final = {"beginning", "earliest", "start"}
_END: Final = {"end", "latest", "now"}
_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_WORDS: Final = {"sec": "s", "min": "m", "hour": "h", "day": "d", "week": "w", "second": "s", "minute": "m"}
_AGE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)")


@dataclass(frozen=True)
class Beginning:
    """The first record there is."""


@dataclass(frozen=True)
class End:
    """Behind the last record."""


@dataclass(frozen=True)
class Offset:
    """An offset, the same in each partition."""

    offset: int


@dataclass(frozen=True)
class Moment:
    """The first record at or after an instant, ms since the epoch."""

    timestamp_ms: int


Start = Beginning | End | Offset | Moment


def parse_start(text: str, now_ms: int) -> Start:
    """What ``--from`` means. A time without a zone is local time.

    :raises ValueError: it means nothing; the message shows what would.
    """
    word = text.strip().lower()
    if word in _BEGINNING:
        return Beginning()
    if word in _END:
        return End()
    if word.isascii() and word.isdigit():
        return Offset(int(word))
    age = _age_ms(word)
    if age is not None:
        return Moment(max(0, int(now_ms - age)))
    try:
        return Moment(int(datetime.fromisoformat(text.strip()).astimezone().timestamp() * 1000))
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no place to start: give `beginning`, `end`, an offset like 1200, "
            "a time like 2026-01-31T12:00 or -15m, or '2h ago'"
        ) from None


def _age_ms(word: str) -> float | None:
    """The ms of ``-1h30m`` and ``2 hours ago``; ``None`` if it is neither."""
    if word.startswith("-"):
        word = word[1:]
    elif word.endswith("ago"):
        word = word.removesuffix("ago").rstrip()
    else:
        return None
    total, place = 0.0, 0
    while found := _AGE.match(word, place):
        amount, name = found.groups()
        unit = _UNIT_MS.get(name) or _UNIT_MS.get(_WORDS.get(name.removesuffix("s"), ""))
        if unit is None:
            return None
        total += float(amount) * unit
        place = found.end()
    return total if place == len(word) and place else None
