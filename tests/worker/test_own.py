"""`app.producer`: what nobody's record waits for is flushed before a commit, whoever else sends meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from streamlayer._worker.own import OwnProducer, Sends, gathering
from tests.worker.diary import stored


async def test_what_is_sent_during_a_flush_is_for_the_next_one(aio_args: dict[str, Any]) -> None:
    """A task's send that ends meanwhile does not take away what another's has begun."""
    over = Sends()
    over.close()
    gathering.set(over)  # as in a task that a handler has left running
    async with OwnProducer(**aio_args, num_partitions=1, linger_ms=60_000) as producer:
        await producer.partitions_for("out")
        first = asyncio.create_task(producer.send_and_wait("out", b"first"))
        flush = asyncio.create_task(producer.flush_others(5000))
        await asyncio.wait([first, flush], timeout=0)
        await producer.send("out", b"second")
        await asyncio.gather(first, flush)
        assert [record.value for record in await stored(aio_args, "out")] == [b"first"]
        await producer.flush_others(5000)
        assert [record.value for record in await stored(aio_args, "out")] == [b"first", b"second"]
