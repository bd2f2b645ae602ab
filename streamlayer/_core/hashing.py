"""From a serialized key to 32 bits. The append script turns the hash into the partition, by its own count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from zlib import crc32

PARTITIONERS: Final[dict[str, Callable[[bytes], int]]] = {"crc32": crc32}
"""The hash functions by the name under which a topic's configuration stores the choice.

``crc32`` is librdkafka's ``consistent`` partitioner, the default of every client built on it.
"""
