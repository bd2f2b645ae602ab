"""What is asked for behind a round's appends, and what the answers mean for each batch of it."""

from __future__ import annotations

from typing import Any

import pytest

from streamlayer._core.replication import NOBODY, Unconfirmed, confirmed, needs, waits
from streamlayer._core.server_calls import Holders
from streamlayer.errors import AuthorizationError, ServerUnavailableError
from tests.unit.batches import Silence, appended

PLACE = ("orders", 3)


def held(insync: int, flush: int, *answers: Any) -> Any:
    """What becomes of an append to a partition with these settings."""
    yes = appended(0)._replace(min_insync_replicas=insync, flush=flush)
    (outcome,) = confirmed([PLACE], [yes], answers)
    return outcome


@pytest.mark.parametrize(
    ("insync", "flush", "who"),
    [
        (1, 0, NOBODY),
        (3, 0, Holders(2, 0, 0)),
        (1, 1, Holders(0, 1, 0)),
        (2, 1, Holders(1, 1, 0)),
        (3, 2, Holders(2, 1, 2)),
    ],
)
def test_who_must_have_a_batch(insync: int, flush: int, who: Holders) -> None:
    """The primary counts in ``min_insync_replicas``; ``flush`` adds disks."""
    assert needs(insync, flush) == who


def test_nothing_is_asked_for_where_nothing_is_needed() -> None:
    """By default no ``WAIT`` is sent, on any server."""
    assert waits([NOBODY, NOBODY], 100) == []


def test_the_most_that_any_batch_needs_is_asked_for_once() -> None:
    """One ``WAIT`` and one ``WAITAOF`` for a whole round, each with its time."""
    asked = waits([Holders(1, 0, 0), NOBODY, Holders(2, 1, 1)], 100)
    assert [call.args for call in asked] == [("WAIT", 2, 100), ("WAITAOF", 1, 1, 100)]
    assert [call.parse(reply) for call, reply in zip(asked, (2, [1, 0]), strict=True)] == [Holders(2), Holders(0, 1, 0)]


def test_each_batch_is_held_against_its_own_needs() -> None:
    """One replica has the round: what needs none or one is done, what needs two is not."""
    batches = [appended(0)._replace(min_insync_replicas=number) for number in (1, 2, 3)]
    first, second, third = confirmed([PLACE] * 3, batches, [Holders(1)])
    assert (first, second) == tuple(batches[:2])
    assert isinstance(third, Unconfirmed)
    assert third.appended == batches[2]
    assert "orders[3]" in str(third.error)
    assert "1 of 2 replicas" in str(third.error)


@pytest.mark.parametrize(
    ("flush", "answers", "missing"),
    [
        (1, [Holders(1), Holders(0, 0, 0)], "0 of 1 primary's disk have it"),
        (2, [Holders(1), Holders(0, 1, 0)], "0 of 1 replicas' disks have it"),
        (0, [], "0 of 1 replicas have it"),
    ],
)
def test_what_is_missing_is_named(flush: int, answers: list[Holders], missing: str) -> None:
    """Memory and disks are told apart; settings that were raised after the round was sent are not met yet."""
    outcome = held(2, flush, *answers)
    assert missing in str(outcome.error)
    assert not outcome.hopeless


def test_a_wait_that_was_not_answered_confirms_nothing() -> None:
    """Cut off behind the appends: asked again. Forbidden: it will not get better."""
    assert not held(2, 0, Silence(ServerUnavailableError("cut"))).hopeless
    forbidden = held(2, 0, AuthorizationError("no permissions to run the 'wait' command"))
    assert forbidden.hopeless
    assert "'wait'" in str(forbidden.error)


def test_what_is_no_append_is_left_as_it_is() -> None:
    """Refusals and silence are not held against anything."""
    silence = Silence(ServerUnavailableError("cut"))
    assert confirmed([PLACE], [silence], [silence]) == [silence]
