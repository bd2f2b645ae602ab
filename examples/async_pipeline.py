"""With asyncio: three sensors write to one topic while a task reads it and writes what is too hot to another.

python examples/async_pipeline.py [--url redis://localhost:6379/0]     without a url: on a throw-away server of its own
"""

import argparse
import asyncio
import os

from streamlayer import serializers
from streamlayer.aio import Consumer, Producer
from streamlayer.embedded import Server


async def sensor(producer: Producer[bytes, dict[str, int]], name: bytes) -> None:
    """Send a hundred readings: what is sent in one go travels in one batch."""
    for degrees in range(100):
        await producer.send("readings", {"degrees": degrees}, name)


async def find_alarms(url: str, producer: Producer[bytes, dict[str, int]]) -> None:
    """Read until nothing came for a second."""
    from_json = serializers.from_json
    async with Consumer("readings", url=url, value_deserializer=from_json, consumer_timeout_ms=1000) as consumer:
        async for record in consumer:
            if record.value["degrees"] >= 98:
                await producer.send("alarms", record.value, record.key)


async def main(url: str) -> None:
    """Run them side by side, then show the alarms."""
    async with Producer(url=url, value_serializer=serializers.json) as producer, asyncio.TaskGroup() as tasks:
        tasks.create_task(find_alarms(url, producer))
        for name in (b"attic", b"cellar", b"kitchen"):
            tasks.create_task(sensor(producer, name))
    async with Consumer("alarms", url=url, value_deserializer=serializers.from_json) as consumer:
        alarms = [f"{record.key!r} {record.value['degrees']}" async for record in consumer.read_to_end()]
        print("\n".join(sorted(alarms)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("STREAMLAYER_URL"), help="the server to use")
    if given := parser.parse_args().url:
        asyncio.run(main(given))
    else:
        with Server() as server:
            asyncio.run(main(server.url))
