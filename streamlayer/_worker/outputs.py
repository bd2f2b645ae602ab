"""What a handler returns, and what is made of it for the topic that ``to=`` names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic_core import to_json

from streamlayer._types import ConsumerRecord
from streamlayer.errors import ConfigurationError

SAME_KEY: Final = b"\0the key of the record that was handled"
"""Stands for it where a key is left out; told apart by identity."""


@dataclass(frozen=True)
class ProducerRecord:
    """A record for a handler to return, where the value alone does not say enough.

    :ivar topic: where it goes; ``None``: where ``to=`` says.
    :ivar value: bytes, str, ``None``, or what pydantic makes JSON of.
    :ivar key: bytes or str; left out: the key of the record that was handled; ``None``: no key.
    :ivar partition: just there, and not where the key says.
    :ivar timestamp_ms: ms since the epoch; by default now.
    :ivar headers: names and bytes.
    """

    topic: str | None = None
    value: Any = None
    key: bytes | str | None = SAME_KEY
    partition: int | None = None
    timestamp_ms: int | None = None
    headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None = None


def to_value(value: Any) -> bytes | None:
    """A value as it is stored: bytes as they are, text as UTF-8, all else as JSON (models by their aliases)."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(cast("bytearray", value))
    return value.encode() if isinstance(value, str) else to_json(value)


def to_key(key: bytes | str | None) -> bytes | None:
    """A key as it is stored."""
    return key.encode() if isinstance(key, str) else key


def outputs(
    result: Any, records: Sequence[ConsumerRecord[Any, Any]], to: str | None, *, batch: bool
) -> Iterator[ProducerRecord]:
    """What to send for what a handler returned; nothing for ``None`` and for an empty list.

    :param result: a value, a ``ProducerRecord``, or a list of those and of ``None``; of a batch: a list with one for
        each record (``None``: nothing for that one), or ``ProducerRecord`` that carry their keys.
    :param records: what was handled.
    :param to: where values go; ``None``: only a ``ProducerRecord`` is sent, to its own topic.
    :raises ConfigurationError: the result cannot be sent.
    """
    if isinstance(result, ProducerRecord):
        result = [result]
    many: Sequence[Any] = cast("Sequence[Any]", result) if isinstance(result, (list, tuple)) else ()
    named = any(isinstance(item, ProducerRecord) for item in many)
    if batch:
        yield from _of_batch(result, many if named else (), records, to)
    elif named:
        yield from (_record(_named(item), records[0].key, to) for item in many if item is not None)
    elif to is not None and not _is_nothing(result):
        yield _record(result, records[0].key, to)


def _of_batch(
    result: Any, many: Sequence[Any], records: Sequence[ConsumerRecord[Any, Any]], to: str | None
) -> Iterator[ProducerRecord]:
    """Of a batch.

    :param many: what was returned, if ``ProducerRecord`` are among it.
    """
    items: Sequence[Any]
    keys: Sequence[Any] = [record.key for record in records]
    if many and len(many) != len(records):
        items = [_named(item) for item in many if item is not None]
        keys = [None] * len(items)
        if any(item.key is SAME_KEY for item in items):
            msg = (
                f"a handler of batches returned {len(many)} ProducerRecords for {len(records)} records: name their keys"
            )
            raise ConfigurationError(msg)
    elif many:
        items = many
    elif to is not None and not _is_nothing(result):
        items = _values_of(result)
        if len(items) != len(records):
            msg = f"a handler of batches returned {len(items)} values for {len(records)} records: which key is whose?"
            raise ConfigurationError(msg)
    else:
        return
    for item, key in zip(items, keys, strict=True):
        if item is not None:
            yield _record(item if to is not None else _named(item), key, to)


def _values_of(result: Any) -> Sequence[Any]:
    if not isinstance(result, (list, tuple)):
        msg = f"a handler of batches returns a list, one item for each record, not {type(result).__name__}"
        raise ConfigurationError(msg)
    return cast("Sequence[Any]", result)


def _is_nothing(result: Any) -> bool:
    return result is None or (isinstance(result, (list, tuple)) and not result)


def _named(item: Any) -> ProducerRecord:
    """One of several results, where a value would have no topic, or nobody knows if it is one or a part of one."""
    if not isinstance(item, ProducerRecord):
        msg = f"a handler returned a {type(item).__name__} beside ProducerRecords: make it one too"
        raise ConfigurationError(msg)
    return item


def _record(item: Any, key: Any, to: str | None) -> ProducerRecord:
    if not isinstance(item, ProducerRecord):
        return ProducerRecord(to, to_value(item), key)
    topic = item.topic or to
    if topic is None:
        msg = "a handler without to= returned a ProducerRecord without a topic"
        raise ConfigurationError(msg)
    own = key if item.key is SAME_KEY else to_key(item.key)
    return ProducerRecord(topic, to_value(item.value), own, item.partition, item.timestamp_ms, item.headers)
