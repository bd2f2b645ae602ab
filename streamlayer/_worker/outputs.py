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

    :param result: a value, a ``ProducerRecord``, or a list of those; of a batch: a list with one for each record
        (``None``: nothing for that one), or ``ProducerRecord`` that carry their keys.
    :param records: what was handled.
    :param to: where values go; ``None``: only a ``ProducerRecord`` is sent, to its own topic.
    :raises ConfigurationError: the result cannot be sent.
    """
    if batch:
        yield from _of_batch(result, records, to)
        return
    many = _records_in(result)
    if many:
        yield from (_record(item, records[0].key, to) for item in many)
    elif to is not None and not _is_nothing(result):
        yield _record(result, records[0].key, to)


def _of_batch(result: Any, records: Sequence[ConsumerRecord[Any, Any]], to: str | None) -> Iterator[ProducerRecord]:
    many = _records_in(result)
    if len(many) == len(records) or all(item.key is not SAME_KEY for item in many):
        keys = [record.key for record in records] if len(many) == len(records) else [None] * len(many)
    else:
        msg = f"a handler of batches returned {len(many)} ProducerRecords for {len(records)} records: name their keys"
        raise ConfigurationError(msg)
    items: Sequence[Any] = many
    if not many and to is not None and not _is_nothing(result):
        items, keys = _values_of(result), [record.key for record in records]
        if len(items) != len(records):
            msg = f"a handler of batches returned {len(items)} values for {len(records)} records: which key is whose?"
            raise ConfigurationError(msg)
    for item, key in zip(items, keys, strict=True):
        if item is not None:
            yield _record(item, key, to)


def _values_of(result: Any) -> Sequence[Any]:
    if not isinstance(result, (list, tuple)):
        msg = f"a handler of batches returns a list, one item for each record, not {type(result).__name__}"
        raise ConfigurationError(msg)
    return cast("Sequence[Any]", result)


def _is_nothing(result: Any) -> bool:
    return result is None or (isinstance(result, (list, tuple)) and not result)


def _records_in(result: Any) -> Sequence[ProducerRecord]:
    """The ``ProducerRecord`` that were returned; none if it is something else."""
    if isinstance(result, ProducerRecord):
        return [result]
    if isinstance(result, (list, tuple)):
        items = cast("Sequence[Any]", result)
        if all(isinstance(item, ProducerRecord) for item in items):
            return items
    return []


def _record(item: Any, key: Any, to: str | None) -> ProducerRecord:
    if not isinstance(item, ProducerRecord):
        return ProducerRecord(to, to_value(item), key)
    topic = item.topic or to
    if topic is None:
        msg = "a handler without to= returned a ProducerRecord without a topic"
        raise ConfigurationError(msg)
    own = key if item.key is SAME_KEY else to_key(item.key)
    return ProducerRecord(topic, to_value(item.value), own, item.partition, item.timestamp_ms, item.headers)
