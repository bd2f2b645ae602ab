"""Ready-made serializers and deserializers: text and JSON. Any function from and to bytes will do as well."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["from_json", "from_string", "json", "string"]

_json = msgspec.json.Encoder()
_from_json = msgspec.json.Decoder()


def string(text: str) -> bytes:
    """Text as UTF-8."""
    return text.encode()


def from_string(stored: bytes) -> str:
    """UTF-8 as text."""
    return stored.decode()


def json(value: Any) -> bytes:
    """A value as JSON."""
    return _json.encode(value)


def from_json(stored: bytes) -> Any:
    """JSON as a value."""
    return _from_json.decode(stored)
