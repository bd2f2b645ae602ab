"""A small app that stands in for the real one where its processes are under test: a handler, record by record."""

from __future__ import annotations

import asyncio
from typing import Any

from streamlayer import Health, aio


class App:
    """Has consumers, and serves them one beside the other."""

    def __init__(self, **where: Any) -> None:
        self._where = where
        self._declared: list[tuple[Any, tuple[str, ...], str, dict[str, Any]]] = []
        self._consumers: dict[str, aio.Consumer] = {}

    def consumer(self, *topics: str, group_id: str, **options: Any) -> Any:
        """Declare one."""

        def declare(handler: Any) -> Any:
            self._declared.append((handler, topics, group_id, options))
            return handler

        return declare

    def groups(self) -> set[str]:
        """Their ids."""
        return {group_id for _, _, group_id, _ in self._declared}

    def admin(self) -> aio.Admin:
        """An administrator of the same server."""
        return aio.Admin(**self._where)

    def health(self) -> Health:
        """The worst of its consumers'."""
        found = [consumer.health() for consumer in self._consumers.values()]
        return min(found, key=lambda health: health.ok, default=Health(ok=False, state="new", reason=""))

    def members(self) -> list[tuple[str, str]]:
        """Group and member id of each."""
        groups = {group_id: consumer.group_metadata() for group_id, consumer in self._consumers.items()}
        return [(group_id, place.member_id) for group_id, place in groups.items() if place and place.member_id]

    async def serve(self, stop: asyncio.Event, *, grace_ms: int | None = None) -> None:
        """Until the event is set."""
        async with asyncio.TaskGroup() as tasks:
            for declared in self._declared:
                tasks.create_task(self._run(stop, *declared))

    async def _run(self, stop: asyncio.Event, handler: Any, topics: Any, group_id: str, options: Any) -> None:
        reading = options | {"enable_auto_commit": False, "max_poll_records": 10}
        async with aio.Consumer(*topics, group_id=group_id, **self._where, **reading) as consumer:
            self._consumers[group_id] = consumer
            waiting = asyncio.create_task(stop.wait())
            waiting.add_done_callback(lambda _: consumer.wakeup())
            while not stop.is_set():
                for records in (await consumer.poll(1000)).values():
                    for record in records:
                        await handler(record.value, record)
                        await consumer.commit(record)
        del self._consumers[group_id]
