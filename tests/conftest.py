"""What every test may ask for: a server of each kind, a namespace of its own, and the arguments of a client."""

from __future__ import annotations

import re
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from tests import servers

pytest_plugins = ["tests.workers"]


def pytest_configure() -> None:
    """Take Ctrl-C as ever; a shell's ``&`` ignores it, and processes that a test starts and interrupts would too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the servers under test, with their versions; at the end, since `-q` leaves the header out."""
    versions = ", ".join(f"{kind} {servers.version(kind)}" for kind in servers.chosen_kinds())
    terminalreporter.write_line(f"servers: {versions}")


@pytest.fixture(scope="session")
def started() -> Iterator[dict[str, servers.TestServer]]:
    """The servers that run already, by kind: each starts once a process, in whatever order tests come."""
    running: dict[str, servers.TestServer] = {}
    yield running
    for each in running.values():
        each.stop()


@pytest.fixture(scope="session", params=servers.chosen_kinds())
def server(request: pytest.FixtureRequest, started: dict[str, servers.TestServer]) -> servers.TestServer:
    """A running server; a test that asks for it runs once on each kind."""
    if request.param not in started:
        started[request.param] = servers.start(request.param)
    return started[request.param]


@pytest.fixture
def redis_client(server: servers.TestServer) -> Iterator[redis.Redis]:
    """A plain client, for looking behind the scenes; answers are bytes, nothing is tried again."""
    client = server.sync_client()
    yield client
    client.close()


@pytest.fixture
def namespace(request: pytest.FixtureRequest, redis_client: redis.Redis) -> Iterator[str]:
    """A name that no other test has. Its keys are deleted afterwards."""
    name = re.sub(r"[^a-zA-Z0-9_]+", "-", request.node.name)[:60].strip("-")
    name = f"{name}-{uuid.uuid4().hex[:8]}"
    yield name
    delete_keys(redis_client, f"{name}:*")


def delete_keys(client: redis.Redis, pattern: str) -> None:
    """Delete all keys that match, in few round trips."""
    cursor = 0
    while True:
        cursor, keys = client.scan(cursor, match=pattern, count=10_000)
        if keys:
            client.unlink(*keys)
        if cursor == 0:
            return


@pytest.fixture
def sync_args(server: servers.TestServer, namespace: str) -> Iterator[dict[str, Any]]:
    """What a `streamlayer` Producer, Consumer or Admin needs to meet this test's server and namespace."""
    if server.url is not None:
        yield {"url": server.url, "namespace": namespace}
        return
    client = server.sync_client()
    yield {"redis": client, "namespace": namespace}
    client.close()


@pytest.fixture
async def aio_args(server: servers.TestServer, namespace: str) -> AsyncIterator[dict[str, Any]]:
    """The same for `streamlayer.aio`; `tools/unasync.py` turns the one name into the other."""
    if server.url is not None:
        yield {"url": server.url, "namespace": namespace}
        return
    client = server.async_client()
    yield {"redis": client, "namespace": namespace}
    await client.aclose()
