"""Where measurements happen: one throw-away server, and what both sides need to reach it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from benchmarks.records import Records, make
from benchmarks.scale import Scale
from streamlayer import Admin, NewTopic, TopicConfig
from streamlayer.embedded import Server

TOPIC = "bench"
STREAM = "bench:stream"


class Place:
    """A server of our own, and the records to put on it.

    :ivar url: for redis-py and streamlayer alike.
    :ivar plain: a blocking redis-py client.
    :ivar notes: what probes have to say besides their figures.
    """

    def __init__(self, url: str, scale: Scale) -> None:
        self.url = url
        self.scale = scale
        self.records: Records = make(max(scale.batched, scale.streamed))
        self.plain: redis.Redis = redis.Redis.from_url(url)
        self.notes: list[str] = []

    @contextmanager
    def topic(self, config: TopicConfig | None = None) -> Iterator[str]:
        """A topic with the default of 4 partitions, there for one measurement."""
        with Admin(url=self.url) as admin:
            admin.create_topics([NewTopic(TOPIC, config=config)])
            try:
                yield TOPIC
            finally:
                admin.delete_topics([TOPIC])
                self.freed()

    @contextmanager
    def stream(self) -> Iterator[str]:
        """A stream's name, for one measurement."""
        try:
            yield STREAM
        finally:
            self.plain.unlink(STREAM)
            self.freed()

    def clear(self) -> None:
        """An empty server with an empty append-only file, so that rounds begin alike."""
        self.plain.flushall()
        self.plain.bgrewriteaof()
        self._wait_until_none("persistence", "aof_rewrite_in_progress", "aof_rewrite_scheduled")

    def freed(self) -> None:
        """The server frees what was deleted in a thread beside it: not while something else is measured."""
        self._wait_until_none("memory", "lazyfree_pending_objects")

    def written(self) -> None:
        """Wait until the server has handed its append-only file to the disk."""
        self._wait_until_none("persistence", "aof_pending_bio_fsync", "aof_buffer_length")

    def note(self, text: str) -> None:
        """Have something said under the table."""
        self.notes.append(text)

    def _wait_until_none(self, section: str, *names: str) -> None:
        while True:
            info = self.plain.info(section)
            if not any(info[name] for name in names):
                return
            time.sleep(0.002)  # noqa: TID251 - the server tells nobody when it is done


@contextmanager
def make_place(scale: Scale, *, binary: str | None = None, unix: bool = False) -> Iterator[Place]:
    """Start the server; it ends with the block.

    :param binary: a server to run in place of the embedded one.
    :param unix: talk over its unix socket, not over loopback.
    """
    with Server(port=None if unix else 0, binary=binary) as server:
        place = Place(server.url, scale)
        # A rewrite that starts in mid-measurement would be measured; `clear` does it between rounds.
        place.plain.config_set("auto-aof-rewrite-percentage", 0)
        try:
            yield place
        finally:
            place.plain.close()
