"""Core and scripts against a list: any history of one partition, shrunk when it fails.

The list is the model: what a partition holds is the records appended to it, in order, from the log start on; a crash
cuts it back to what was on the disk. A reader that carries its epochs gets the records behind its position, or is told
where they parted.
"""

from __future__ import annotations

import pytest
import redis
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests import servers
from tests.lua.clock import Clock
from tests.lua.machine import STEPS, Machine
from tests.lua.run import Runner
from tests.lua.upkeep import UpkeepMachine
from tests.profiles import THOROUGH

STEPS_WANTED = 20_000 if THOROUGH else 400
STEPS_OF_A_HISTORY = 60
AT_ONCE = 20


def machine_for(
    server: servers.TestServer, client: redis.Redis, namespace: str, patch: pytest.MonkeyPatch
) -> type[Machine]:
    """A machine on this server: where time moves with retentions as people choose them, else with some 300 ms."""
    given = (client, namespace, server.kind, Clock(Runner(client), patch))

    class Made(UpkeepMachine):
        client, namespace, kind, clock = given
        retentions = (80_000, 8_000, -1) if given[3].moves else (300, 900, -1)
        pauses = (1, 600, 9_000, 40_000, 160_000) if given[3].moves else (1, 10, 40, 120, 330)

    return Made


@pytest.mark.timeout(7200 if THOROUGH else 120)
def test_any_history_is_a_lists(
    server: servers.TestServer, redis_client: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No history that hypothesis finds makes scripts and list differ."""
    machine = machine_for(server, redis_client, namespace, monkeypatch)
    while STEPS[server.kind] < STEPS_WANTED:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=50 if THOROUGH else AT_ONCE,
                stateful_step_count=STEPS_OF_A_HISTORY,
                deadline=None,
            ),
        )


@pytest.mark.parametrize("seed", range(2))
def test_a_reader_at_the_end_of_a_lost_tail_is_told(
    server: servers.TestServer,
    redis_client: redis.Redis,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    tells_lives: None,
    seed: int,
) -> None:
    """The history that once went wrong: lost to 1, and appended to again, but not as far as the reader had come."""
    machine = machine_for(server, redis_client, namespace, monkeypatch)()
    machine.create(retention=2, retention_bytes=-1, segment_bytes=[200, 1 << 20][seed])
    machine.append("one", [[5]], 0)
    machine.write_to_disk()
    machine.append("one", [[5], [5], [5]], 0)
    machine.read_on(0, 1 << 20, hint=True)
    machine.read_on(0, 1 << 20, hint=True)
    machine.read_on(0, 1 << 20, hint=True)
    assert len(machine.readers[0].seen) == 4
    machine.crash(0)
    machine.begin_an_epoch("one", [5])
    machine.read_on(0, 1 << 20, hint=True)
    assert len(machine.readers[0].seen) == 1
    machine.teardown()


@pytest.mark.parametrize("batches", [1, 4, 6], ids=["shorter", "as long", "longer"])
def test_a_reader_that_was_with_another_primary_is_told(
    server: servers.TestServer,
    redis_client: redis.Redis,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    tells_lives: None,
    batches: int,
) -> None:
    """The history that is hard to find: to B, which parted at 1, and back to A, which has gone on meanwhile."""
    machine = machine_for(server, redis_client, namespace, monkeypatch)()
    machine.create(retention=2, retention_bytes=-1, segment_bytes=1 << 20)
    machine.append("one", [[5]], 0)
    machine.write_to_disk()
    machine.append("one", [[5]] * batches, 0)
    machine.another_primary(0)
    machine.append("two", [[5], [5], [5], [5]], 0)
    for _ in range(5):
        machine.read_on(0, 1 << 20, hint=True)
    assert len(machine.readers[0].seen) == 5
    machine.another_primary(0)
    machine.read_on(0, 1 << 20, hint=True)
    assert len(machine.readers[0].seen) == 1
    for _ in range(batches):
        machine.read_on(0, 1 << 20, hint=True)
    assert len(machine.readers[0].seen) == 1 + batches
    machine.teardown()
