"""What the shell tests ask for besides: a real server of their own, to be reconfigured, filled up and killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from streamlayer.embedded import Server
from tests import servers

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
