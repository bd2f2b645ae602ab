"""Fixtures of the script tests: one partition, on each kind of server."""

from __future__ import annotations

import pytest
import redis

from tests import servers
from tests.lua.group import Group
from tests.lua.run import Log, new_log


@pytest.fixture
def log(redis_client: redis.Redis, namespace: str) -> Log:
    """A partition that is there and empty."""
    return new_log(redis_client, namespace)


@pytest.fixture
def tells_lives(server: servers.TestServer) -> None:
    """The server can be told from its earlier self: fakeredis has no INFO in scripts, so there detection is off."""
    if server.process is None:
        pytest.skip("fakeredis has no INFO in scripts: loss is not told there")


@pytest.fixture
def group(redis_client: redis.Redis, namespace: str) -> Group:
    """A consumer group that nobody has joined."""
    return Group(redis_client, namespace)
