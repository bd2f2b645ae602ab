"""What a producer concludes from the log's epochs: every loss of acknowledged records, and nothing else."""

from __future__ import annotations

import math

import pytest

from streamlayer._core.truncation import Acknowledged, diverged_at


@pytest.mark.parametrize(
    ("before", "now", "point"),
    [
        ("1:a:0", "1:a:0", math.inf),
        ("1:a:0", "1:a:0,2:b:7", 7),
        ("1:a:0,2:b:6", "1:a:0,2:c:5", 5),  # the epoch's own beginning was lost, and its number given again
        ("1:a:0,2:b:6", "1:a:0,2:b:6,3:a:9", 9),
        ("1:a:0", "9:x:50,10:y:60", None),
        ("1:a:0,2:b:6", "1:a:0", 6),  # it was with another primary
        ("1:a:0,2:b:6", "1:a:0,2:c:9", 6),  # the same, and this one has begun a new life since
        ("1:a:0,2:b:6", "2:b:6,3:c:9", 9),  # an old one is forgotten
        ("1::0", "1::0", math.inf),  # nobody may ask the server who it is
    ],
)
def test_where_a_log_parts_from_what_it_was(before: str, now: str, point: float | None) -> None:
    """Behind the newest epoch that both know; nowhere if neither has a newer one; unknown if they share none."""
    assert diverged_at(before, now) == point


def told(*answers: tuple[int, int, str]) -> list[tuple[int | None, int | None] | None]:
    """What each acknowledgement (base, count, epochs) of fresh batches tells."""
    known = Acknowledged()
    losses = [known.note("orders[0]", base, count, epochs, fresh=True) for base, count, epochs in answers]
    return [None if loss is None else (loss.diverged_at, loss.lost) for loss in losses]


def test_a_restart_that_lost_nothing_is_not_told() -> None:
    """The new epoch begins at the end, or behind it: others appended before."""
    assert told((0, 5, "1:a:0"), (5, 5, "1:a:0,2:b:5"), (12, 1, "1:a:0,2:b:5,3:c:11")) == [None, None, None]


def test_a_loss_is_told_once_and_with_numbers() -> None:
    """Acknowledged up to 10, the log went on from 7: three are gone. What comes then is as ever."""
    assert told((0, 10, "1:a:0"), (7, 2, "1:a:0,2:b:7"), (9, 1, "1:a:0,2:b:7")) == [None, (7, 3), None]


def test_a_loss_is_seen_though_others_have_appended_past_it() -> None:
    """The offsets alone would not tell."""
    assert told((0, 10, "1:a:0"), (40, 1, "1:a:0,2:b:7")) == [None, (7, 3)]


def test_a_loss_is_seen_though_the_log_has_no_epoch_for_it() -> None:
    """Acknowledged up to 10 by another primary, from 7 on; this one is longer, or not so long."""
    for base in (7, 40):
        assert told((0, 7, "1:a:0"), (7, 3, "1:a:0,2:b:7"), (base, 1, "1:a:0"), (base + 1, 1, "1:a:0")) == [
            None,
            None,
            (7, 3),
            None,
        ]


def test_without_tokens_an_offset_that_comes_again_tells() -> None:
    """Where ``INFO`` is not allowed: not how many, but that."""
    assert told((0, 10, "1::0"), (8, 1, "1::0")) == [None, (None, None)]


def test_an_answer_given_again_tells_nothing() -> None:
    """A batch that was sent before lies where it always lay, maybe before what was acknowledged since."""
    known = Acknowledged()
    known.note("orders[0]", 5, 5, "1:a:0", fresh=True)
    assert known.note("orders[0]", 0, 5, "1:a:0", fresh=False) is None
    assert known.end == 10


def test_a_gap_is_a_loss_whatever_the_epochs_say() -> None:
    """The server has forgotten what this producer sent."""
    known = Acknowledged()
    known.note("orders[0]", 0, 5, "1::0", fresh=True)
    known.gap = True
    loss = known.note("orders[0]", 30, 1, "1::0", fresh=True)
    assert loss is not None
    assert loss.lost is None
    assert known.note("orders[0]", 31, 1, "1::0", fresh=True) is None
