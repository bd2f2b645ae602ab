"""Instants as users give them: an int of ms since the epoch, or an aware datetime."""

from __future__ import annotations

from datetime import datetime

from streamlayer._core.columns import check_timestamp
from streamlayer.errors import InvalidTimestampError


def to_ms(when: object) -> int:
    """An instant in ms since the epoch.

    :raises InvalidTimestampError: a datetime without a time zone, seconds, or neither int nor datetime.
    """
    if isinstance(when, datetime):
        if when.tzinfo is None:
            msg = f"{when!r} has no time zone: use datetime.now(timezone.utc), or .astimezone() for local time"
            raise InvalidTimestampError(msg)
        return int(when.timestamp() * 1000)
    return check_timestamp(when) if when != 0 else 0
