"""Operations on the registry as values, like those of ``calls``: one key of a namespace holds all topics' entries."""

from __future__ import annotations

from typing import NamedTuple

from streamlayer._core import scripts
from streamlayer._core.calls import Call, as_bytes
from streamlayer._core.keys import registry_channel, registry_key


class RegistryChange(NamedTuple):
    """Whether an entry was changed, and what it is now (empty: there is none)."""

    changed: bool
    entry: bytes
    version: int


def registry(namespace: str, topic: str, expected: bytes, entry: bytes) -> Call[RegistryChange]:
    """Set a topic's entry (empty: remove it) if it is still ``expected`` (empty: if there is none)."""
    return Call(
        scripts.REGISTRY,
        (registry_key(namespace),),
        (topic, expected, entry, registry_channel(namespace)),
        lambda reply: RegistryChange(bool(reply[0]), as_bytes(reply[1]), int(reply[2])),
    )


def read_topic(namespace: str, topic: str) -> Call[bytes | None]:
    """Read one topic's entry."""
    return Call(None, (registry_key(namespace),), ("HGET", registry_key(namespace), topic), _entry)


def _entry(reply: bytes | None) -> bytes | None:
    return None if reply is None else as_bytes(reply)


def read_registry(namespace: str) -> Call[dict[str, bytes]]:
    """Read all entries; ``:version`` is among them."""
    return Call(None, (registry_key(namespace),), ("HGETALL", registry_key(namespace)), _entries)


def _entries(reply: list[bytes]) -> dict[str, bytes]:
    return {reply[i].decode(): as_bytes(reply[i + 1]) for i in range(0, len(reply), 2)}
