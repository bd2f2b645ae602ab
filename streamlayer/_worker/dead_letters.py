"""Dead letters: records that a handler could not handle, in a topic of their own, with headers that say why.

Key, value and the record's own headers stay as they were; what is added is named ``dlq.…``.
"""

from __future__ import annotations

from typing import Any, Final

from streamlayer._types import ConsumerRecord

PREFIX: Final = "dlq."
TOPIC: Final = "dlq.topic"
PARTITION: Final = "dlq.partition"
OFFSET: Final = "dlq.offset"
TIMESTAMP: Final = "dlq.timestamp"
GROUP: Final = "dlq.group"
ERROR: Final = "dlq.error"
MESSAGE: Final = "dlq.message"
ATTEMPTS: Final = "dlq.attempts"
_LONGEST_MESSAGE: Final = 1000


def headers(
    record: ConsumerRecord[Any, Any], group_id: str, error: BaseException, attempts: int
) -> tuple[tuple[str, bytes], ...]:
    """The headers of a dead letter.

    :param error: what the last attempt raised.
    :param attempts: how often the handler was called; 0 for a value that does not validate.
    """
    told = {
        TOPIC: record.topic,
        PARTITION: str(record.partition),
        OFFSET: str(record.offset),
        TIMESTAMP: str(record.timestamp),
        GROUP: group_id,
        ERROR: type(error).__name__,
        MESSAGE: text_of(error)[:_LONGEST_MESSAGE],
        ATTEMPTS: str(attempts),
    }
    return (*without(record.headers), *((name, text.encode("utf-8", "replace")) for name, text in told.items()))


def without(given: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, bytes], ...]:
    """A record's own headers."""
    return tuple((name, value) for name, value in given if not name.startswith(PREFIX))


def text_of(error: BaseException) -> str:
    """What an error says, whatever its class makes of that."""
    try:
        return str(error)
    except Exception as another:  # noqa: BLE001 - it is the user's code
        return f"(its text cannot be had: {type(another).__name__})"


def told(error: BaseException) -> str:
    """An error for a line of log."""
    return f"{type(error).__name__}: {text_of(error)}"
