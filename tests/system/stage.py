"""Where a fault is played: one or two real servers, clients that find them under one address, and a load that goes on.

    with Stage("valkey", replica=True) as stage, Load("aio", stage.front.url, members=2) as stage.load:
        stage.load.wait_acked(200)
        stage.fail_over()
        stage.healed()

Clients connect to ``front``, a proxy that leads to whoever is the primary: what a name does that is resolved anew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import redis

from streamlayer.embedded import Server
from tests import servers
from tests.system.load import Load
from tests.system.proxy import Proxy
from tests.waiting import sync_wait_until


class Stage:
    """The servers of one scenario.

    :ivar load: what goes on meanwhile.
    :ivar fired: how often things happened that must have happened.
    :ivar healed_at: when the fault ended last, by the clock of the history.
    """

    load: Load

    def __init__(self, kind: str, *, replica: bool = False) -> None:
        self.kind, self.binary = kind, servers.binary(kind)
        self.servers = [Server(binary=self.binary, port=0) for _ in range(2 if replica else 1)]
        self.fired: dict[str, int] = {}
        self.healed_at: list[float] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for server in self.servers:
            self._stack.enter_context(server)
            make_exact(server)
        self.front = self._stack.enter_context(Proxy(self.primary.url))
        if len(self.servers) > 1:
            self.follow(self.replica, self.primary)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def primary(self) -> Server:
        """The one that clients find."""
        return self.servers[0]

    @property
    def replica(self) -> Server:
        """The other one."""
        return self.servers[1]

    def healed(self) -> None:
        """The fault is over; from here on it is counted how long it takes until all goes on."""
        self.healed_at.append(time.monotonic())

    def pass_time(self, seconds: float) -> None:
        """Let a fault last, and look that nobody dies of it."""
        until = time.monotonic() + seconds

        def over() -> bool:
            self.load.check()
            return time.monotonic() > until

        sync_wait_until(over, "time passes", timeout=seconds + 10)

    # --- servers -----------------------------------------------------------------------------------------------------

    def restart(self, server: Server) -> None:
        """Start one that was killed, with what its file has."""
        server.start()
        make_exact(server)

    @contextlib.contextmanager
    def stopped(self, server: Server) -> Iterator[None]:
        """Within the block it stands still, as a machine that swaps does."""
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(server.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def power_failure(self) -> Iterator[None]:
        """What is written within the block is lost: the primary is killed, and starts with the file it had before."""
        assert self.primary._folder is not None
        files = Path(self.primary._folder, "appendonlydir")
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder, "kept")
            shutil.copytree(files, kept)
            yield
            self.primary.kill()
            shutil.rmtree(files)
            shutil.copytree(kept, files)
        self.restart(self.primary)

    def follow(self, server: Server, other: Server) -> None:
        """Make a server the other's replica; returns when it has all that the other has."""
        with client_of(server) as ours, client_of(other) as theirs:
            ours.replicaof("127.0.0.1", self.port(other))
            sync_wait_until(lambda: _link(ours) == "up", "the replica follows")
            sync_wait_until(lambda: _online(theirs), "and its primary knows")
            theirs.set("marker", "1")  # Redis 7.0 says `online` up to a second before it sends anything
            assert theirs.wait(1, 10_000) == 1

    def part(self) -> None:
        """Have the replica hear nothing any more, and keep what it has; the primary knows when this returns."""
        with client_of(self.replica) as ours, client_of(self.primary) as theirs:
            ours.replicaof("127.0.0.1", 1)
            sync_wait_until(lambda: not _online(theirs), "the primary has no replica")

    def promote(self, *, cut: bool = True) -> None:
        """Make the replica the primary, and lead the clients there; without ``cut`` those that are connected stay."""
        with client_of(self.replica) as client:
            client.replicaof("no", "one")
        self.servers.reverse()
        self.front.point_at(self.primary.url)
        if cut:
            self.front.kill_all()

    def lead_back(self) -> None:
        """Lead the clients to the other one, which is a primary still."""
        self.servers.reverse()
        self.front.point_at(self.primary.url)
        self.front.kill_all()

    def port(self, server: Server) -> int:
        """Where it listens."""
        return int(server.url.rpartition(":")[2].partition("/")[0])

    def errors(self, word: str) -> int:
        """How often the primary has refused something with a word."""
        with client_of(self.primary) as client:
            stats: Any = client.info("errorstats")
        return int(stats.get(f"errorstat_{word}", {}).get("count", 0))


def client_of(server: Server) -> redis.Redis:
    """A client past the proxy."""
    return redis.Redis.from_url(server.url)


def make_exact(server: Server) -> None:
    """Write before answering, so that the death of a process takes nothing; replicas follow at once."""
    servers.make_exact(server)
    with client_of(server) as client:
        client.config_set("repl-diskless-sync-delay", "0")


def _link(client: redis.Redis) -> str:
    info: Any = client.info("replication")
    return str(info.get("master_link_status", ""))


def _online(client: redis.Redis) -> bool:
    info: Any = client.info("replication")
    return any(
        name.startswith("slave") and each["state"] == "online" for name, each in info.items() if type(each) is dict
    )
