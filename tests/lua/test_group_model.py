"""The group's scripts and the client's core against a small model: any history of one group, shrunk when it fails.

A partition has one owner at most, targets are even and move no more than they must, only owners commit, and in the end
every partition is where it shall be.
"""

from __future__ import annotations

import pytest
import redis
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests import servers
from tests.lua.clock import Clock
from tests.lua.group_machine import GroupMachine
from tests.lua.machine import STEPS
from tests.lua.run import Runner
from tests.profiles import THOROUGH

STEPS_WANTED = 20_000 if THOROUGH else 400
STEPS_OF_A_HISTORY = 50
AT_ONCE = 20


@pytest.mark.timeout(7200 if THOROUGH else 120)
def test_any_history_keeps_the_groups_promises(
    server: servers.TestServer, redis_client: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No history that hypothesis finds breaks a promise."""
    given = (redis_client, namespace, server.kind, Clock(Runner(redis_client), monkeypatch))

    class Made(GroupMachine):
        client, namespace, kind, clock = given
        session_ms = 10_000 if given[3].moves else 1_800_000

    while STEPS[f"{server.kind} (groups)"] < STEPS_WANTED:
        run_state_machine_as_test(
            Made,
            settings=settings(
                max_examples=50 if THOROUGH else AT_ONCE, stateful_step_count=STEPS_OF_A_HISTORY, deadline=None
            ),
        )
