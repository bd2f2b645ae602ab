"""Reading back what a test wrote: the few words that all these stories share."""

from __future__ import annotations

from typing import Any

from streamlayer import ConsumerRecord
from streamlayer.aio import Consumer


async def read(consumer: Consumer[Any, Any], count: int) -> list[ConsumerRecord[Any, Any]]:
    """Poll until there are (at least) so many records; fail if they do not come."""
    records: list[ConsumerRecord[Any, Any]] = []
    for _ in range(1000):
        if len(records) >= count:
            return records
        polled = await consumer.poll(5000)
        assert polled, f"{len(records)} of {count} records came, and then none for 5 s"
        records += [record for part in polled.values() for record in part]
    raise AssertionError(f"{len(records)} of {count} records came in 1000 polls")


async def stored(args: dict[str, Any], *topics: str) -> list[ConsumerRecord[Any, Any]]:
    """All that topics hold now, read by a consumer of its own; in order within each partition."""
    async with Consumer(*topics, **args) as consumer:
        return [record async for record in consumer.read_to_end()]


async def stored_values(args: dict[str, Any], *topics: str) -> list[bytes]:
    """The values of all that topics hold now."""
    return [record.value for record in await stored(args, *topics)]
