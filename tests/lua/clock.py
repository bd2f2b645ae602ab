"""The time of a server under test: fakeredis' can be moved, a real server's can only be waited for."""

from __future__ import annotations

import time

import fakeredis._helpers
import fakeredis._socket._base
import fakeredis.commands_mixins.server_mixin
import pytest

from tests.lua.run import Runner
from tests.waiting import sync_wait_until

_LOOKS_AT_A_CLOCK = (
    fakeredis._helpers,
    fakeredis._socket._base,
    fakeredis.commands_mixins.server_mixin,
)


class FakeTime:
    """Stands for the module ``time`` in fakeredis; stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = int(time.time() * 1000)

    def time(self) -> float:
        """Seconds since the epoch."""
        return self.ms / 1000


class Clock:
    """One server's time.

    :ivar moves: whether it can be moved.
    """

    def __init__(self, run: Runner, patch: pytest.MonkeyPatch) -> None:
        self.run = run
        self.moves = run.fake
        self._fake = FakeTime()
        if run.fake:
            for module in _LOOKS_AT_A_CLOCK:
                patch.setattr(module, "time", self._fake)

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return self.run.now()

    def pass_by(self, ms: int) -> None:
        """Let time pass; it can only go back (``ms`` below 0) where it moves."""
        if self.moves:
            self._fake.ms += ms
            return
        assert ms >= 0
        until = self.now() + ms
        sync_wait_until(lambda: self.now() >= until, f"{ms} ms pass")
