"""What the shell tests ask for besides: a real server of their own, to be reconfigured, filled up and killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from streamlayer.embedded import Server
from tests import servers


@pytest.fixture(params=[kind for kind in servers.chosen_kinds() if kind != "fakeredis"])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A real server that no other test uses."""
    with Server(binary=servers.binary(request.param)) as running:
        yield running


@pytest.fixture
def own_client(own_server: Server) -> Iterator[redis.Redis]:
    """A plain client of it."""
    with redis.Redis.from_url(own_server.url) as client:
        yield client
