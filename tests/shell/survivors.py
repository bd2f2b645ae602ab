"""Faults that last, for `test_survival`: each is a block that begins with its stroke and says what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import redis

from streamlayer.embedded import Server
from tests.beside import sync_beside
from tests.system.proxy import Proxy
from tests.waiting import sync_wait_until

BALLAST = 400_000
"""Commands in a file that takes a while to be loaded."""


class Place:
    """A server, a plain client of it, and a proxy before it.

    :ivar url: where clients come: through the proxy, with little patience.
    """

    def __init__(self, server: Server, proxy: Proxy) -> None:
        self.server = server
        self.proxy = proxy
        self.url = f"{proxy.url}?socket_timeout=0.4"
        self.client = redis.Redis.from_url(server.url)

    def info(self, section: str, name: str) -> Any:
        """A word of INFO."""
        found: Any = self.client.info(section)
        return found[name]


Fault = Callable[[Place], AbstractContextManager[str]]


@contextmanager
def refused(place: Place) -> Iterator[str]:
    """Connections are cut, and nobody listens."""
    place.proxy.refuse()
    place.proxy.kill_all()
    yield "no connection to 127"
    place.proxy.heal()


@contextmanager
def silent(place: Place) -> Iterator[str]:
    """Nothing passes, and nobody is told."""
    place.proxy.blackhole()
    yield "(did not answer in time|no answer within|Timeout reading)"
    place.proxy.heal()


@contextmanager
def killed(place: Place) -> Iterator[str]:
    """SIGKILL, and a start with the append-only file."""
    place.client.config_set("appendfsync", "always")
    place.client.set("flushed", "1")
    place.server.kill()
    yield "(connection to 127.* was lost|no connection to 127)"
    place.server.start()


@contextmanager
def loading(place: Place) -> Iterator[str]:
    """SIGKILL, and a start with a file that takes a while to be read."""
    assert place.server._folder is not None
    place.client.config_set("appendfsync", "always")
    place.client.set("flushed", "1")
    place.server.kill()
    (newest,) = Path(place.server._folder, "appendonlydir").glob("*.incr.aof")
    with newest.open("ab") as file:
        file.writelines(b"*3\r\n$3\r\nSET\r\n$6\r\n%06d\r\n$1\r\nx\r\n" % i for i in range(BALLAST))
    start = sync_beside(place.server.start)
    yield "still loading"
    start.result()


@contextmanager
def demoted(place: Place) -> Iterator[str]:
    """READONLY: it is a replica of nobody that answers."""
    place.client.replicaof("127.0.0.1", 1)
    yield "is a replica"
    place.client.replicaof("no", "one")


@contextmanager
def busy(place: Place) -> Iterator[str]:
    """BUSY: somebody's script runs on."""
    place.client.config_set("busy-reply-threshold", "50")
    other = redis.Redis.from_url(place.server.url)
    looping = sync_beside(lambda: _loop(other))
    yield "a script of somebody's keeps the server busy"
    sync_wait_until(lambda: _stopped(place.client), "the script is killed")
    looping.result()
    other.close()


def _loop(client: redis.Redis) -> None:
    try:
        client.eval("while true do end", 0)
    except redis.ResponseError:
        return  # it was killed


def _stopped(client: redis.Redis) -> bool:
    try:
        return bool(client.script_kill())
    except redis.ResponseError:
        return False  # it does not run yet


@contextmanager
def disk_failing(place: Place) -> Iterator[str]:
    """MISCONF: a snapshot cannot be stored."""
    assert place.server._folder is not None
    in_the_way = Path(place.server._folder, "dump.rdb")
    in_the_way.mkdir()
    place.client.config_set("save", "3600 1000000")
    place.client.bgsave()
    sync_wait_until(lambda: place.info("persistence", "rdb_last_bgsave_status") == "err", "the snapshot fails")
    yield "cannot write to its disk"
    in_the_way.rmdir()
    place.client.bgsave()
    sync_wait_until(lambda: place.info("persistence", "rdb_last_bgsave_status") == "ok", "the next one is stored")


@contextmanager
def without_replicas(place: Place) -> Iterator[str]:
    """NOREPLICAS: it wants a replica, and has none."""
    place.client.config_set("min-replicas-to-write", 1)
    yield "fewer replicas than it wants"
    place.client.config_set("min-replicas-to-write", 0)


@contextmanager
def crowded(place: Place) -> Iterator[str]:
    """`maxclients` is reached: whoever loses his connection gets no other."""
    before: Any = place.client.config_get("maxclients")
    place.client.config_set("maxclients", 1)
    place.proxy.kill_all()
    yield "(max number of clients|maxclients)"
    place.client.config_set("maxclients", before["maxclients"])


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        refused, silent, killed, loading, demoted, busy, disk_failing, without_replicas, crowded,
    )
}  # fmt: skip


def kill_connections(place: Place) -> int:
    """CLIENT KILL of all, subscriptions too; how many there were."""
    return sum(place.client.client_kill_filter(_type=kind, skipme=True) for kind in ("normal", "pubsub"))
