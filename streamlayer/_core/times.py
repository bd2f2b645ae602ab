"""Instants as users give them: an int of ms since the epoch, or an aware datetime."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from streamlayer._core.columns import check_timestamp
from streamlayer.errors import InvalidTimestampError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def to_ms(when: object) -> int:
    """An instant in ms since the epoch; what is before the epoch counts as the epoch.

    :raises InvalidTimestampError: a datetime without a time zone, seconds, or neither int nor datetime.
    """
    if isinstance(when, datetime):
        if when.tzinfo is None:
            msg = f"{when!r} has no time zone: use datetime.now(timezone.utc), or .astimezone() for local time"
            raise InvalidTimestampError(msg)
        return max(0, (when - _EPOCH) // _MS)  # exact, which timestamp() is not
    return check_timestamp(when) if when != 0 else 0
