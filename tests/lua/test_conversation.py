"""Whole conversations of producers' cores with the scripts: exactly once, in order, whatever the wire does."""

from __future__ import annotations

import pytest
import redis

from tests.lua.conversation import Faults, World
from tests.profiles import SCALE

SEEDS = 12 * SCALE


def _converse(client: redis.Redis, namespace: str, seed: int, faults: Faults) -> World:
    world = World(client, namespace, seed, faults)
    try:
        world.talk()
        world.told = world.judge()
    except AssertionError as error:
        error.add_note(f"seed {seed}, {faults}")
        raise
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_exactly_once_in_order_whatever_the_wire_does(redis_client: redis.Redis, namespace: str, seed: int) -> None:
    """Lost answers, cut and late requests, refusals in mid-pipeline: each record once, in order, where it was told."""
    acked, *_ = _converse(redis_client, namespace, seed, Faults()).told
    assert acked > 20, "a conversation in which nothing happened proves nothing"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_a_crash_that_lost_the_end_nothing_is_stored_twice(
    redis_client: redis.Redis, namespace: str, seed: int
) -> None:
    """The server comes back with a shorter history: what was not lost is there once, in order, and all is decided."""
    world = _converse(redis_client, namespace, seed, Faults(crash=4))
    assert world.told[0] > 20, "a conversation in which nothing happened proves nothing"


@pytest.mark.parametrize("crash", [0, 3])
@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_what_replicas_do_not_have_yet_goes_again_and_is_stored_once(
    redis_client: redis.Redis, namespace: str, seed: int, crash: int
) -> None:
    """With two servers wanted and a replica that lags: what was said to be written and not safe is there, and once."""
    world = _converse(redis_client, namespace, seed, Faults(short=60, crash=crash, time_jump=6))
    assert world.told[0] > 20, "a conversation in which nothing happened proves nothing"
    assert any(sent.batch.unconfirmed for sent in world.sent)
