"""What the shell tests ask for besides: a real server of their own, to be reconfigured, filled up and killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from streamlayer.embedded import Server
from tests import servers
from tests.waiting import sync_wait_until

REAL = [kind for kind in servers.chosen_kinds() if kind != "fakeredis"]


@pytest.fixture(params=REAL)
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A real server that no other test uses."""
    with Server(binary=servers.binary(request.param)) as running:
        yield running


@pytest.fixture
def own_client(own_server: Server) -> Iterator[redis.Redis]:
    """A plain client of it."""
    with redis.Redis.from_url(own_server.url) as client:
        yield client


@pytest.fixture(params=REAL[-1:])
def any_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The same, of one kind only: for slow stories that are about us, and not about the server."""
    with Server(binary=servers.binary(request.param)) as running:
        yield running


@pytest.fixture
def any_client(any_server: Server) -> Iterator[redis.Redis]:
    """A plain client of it."""
    with redis.Redis.from_url(any_server.url) as client:
        yield client


class Pair:
    """A primary and its replica."""

    def __init__(self, kind: str, primary: Server, replica: Server) -> None:
        self.kind = kind
        self.primary, self.replica = primary, replica
        self.client, self._other = redis.Redis.from_url(primary.url), redis.Redis.from_url(replica.url)

    @property
    def url(self) -> str:
        """The primary's."""
        return self.primary.url

    def join(self) -> None:
        """Have the replica follow the primary; returns when it does."""
        port = int(self.url.rpartition(":")[2].partition("/")[0])
        self._other.replicaof("127.0.0.1", port)
        sync_wait_until(lambda: "state=online" in self._replicas(), "the replica follows")
        self.client.set("marker", "1")  # Redis 7.0 says `online` up to a second before it sends anything
        assert self.client.wait(1, 10_000) == 1
        self.client.config_resetstat()

    def part(self) -> None:
        """Let it follow nobody any more; returns when the primary has noticed."""
        self.promote()
        sync_wait_until(lambda: self._replicas() == "", "the replica is gone")

    def promote(self) -> None:
        """Make the replica a primary."""
        self._other.replicaof("no", "one")

    def swap(self) -> None:
        """Have the former primary follow the one that was promoted: they have changed places."""
        self.primary, self.replica = self.replica, self.primary
        self.client, self._other = self._other, self.client
        self.client.config_set("repl-diskless-sync-delay", "0")
        self.join()

    def _replicas(self) -> str:
        info: Any = self.client.info("replication")
        return " ".join(
            f"state={each['state']}" for name, each in info.items() if name.startswith("slave") and name[5:].isdigit()
        )

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Within the block the replica does nothing, though it is connected."""
        assert self.replica.pid is not None
        os.kill(self.replica.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.replica.pid, signal.SIGCONT)

    def on_replica(self, key: str, field: str) -> bytes | None:
        """What the replica has."""
        found: Any = self._other.hget(key, field)
        return found

    def commands(self) -> dict[str, Any]:
        """What the primary was asked, by command."""
        found: Any = self.client.info("commandstats")
        return found

    def close(self) -> None:
        """Close what looks behind the scenes."""
        self.client.close()
        self._other.close()


@pytest.fixture(params=REAL)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two real servers, one the other's replica."""
    binary = servers.binary(request.param)
    with Server(binary=binary, port=0) as primary, Server(binary=binary, port=0) as replica:
        both = Pair(request.param, primary, replica)
        both.client.config_set("repl-diskless-sync-delay", "0")
        both.join()
        yield both
        both.close()
