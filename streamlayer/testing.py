"""For users' tests of their handlers: records to call them with, and whole apps without a server.

``record`` makes what a handler is given; ``App.test`` runs an app on fakeredis, in this process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from streamlayer._types import CREATE_TIME, ConsumerRecord

__all__ = ["record"]


def record(
    topic: str,
    value: Any,
    key: str | bytes | None = None,
    *,
    partition: int = 0,
    offset: int = 0,
    timestamp_ms: int | None = None,
    headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None = None,
) -> ConsumerRecord[bytes, bytes]:
    """A record as a handler is given one, for calling the handler directly.

    :param value: bytes as they are, text as UTF-8, ``None`` as a null; anything else (a pydantic model, a dict, a
        dataclass) as JSON.
    :param key: bytes, or text as UTF-8.
    :param timestamp_ms: ms since the epoch; now by default.
    :param headers: as for ``Producer.send``.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    return ConsumerRecord(
        topic,
        partition,
        offset,
        int(time.time() * 1000) if timestamp_ms is None else timestamp_ms,
        CREATE_TIME,
        key.encode() if isinstance(key, str) else key,
        encoded(value),
        tuple(pairs),
    )


def encoded(value: Any) -> Any:
    """A value as bytes, as an app sends what a handler returns; ``None`` stays."""
    if value is None or isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else to_json(value)
