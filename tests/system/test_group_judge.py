"""The judge of groups finds what it is there to find: a good history passes, each way of spoiling it is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.system.group_judge import GroupHistory, Line, Observed, counts_of, judge_group, read_lines

SECOND = 1_000_000_000
LOG = {0: ["0-0", "0-1", "0-2", "0-3"], 1: ["1-0", "1-1"]}
FLOORS = {"killed": 1, "stopped": 1, "refused": 1, "taken over": 2, "records": 7, "committed": 4}


def line(second: float, actor: str, what: str, **more: Any) -> Line:
    """One line."""
    return Line(int(second * SECOND), actor, what, more)


def good() -> list[Line]:
    """``a`` has both partitions, gives one to ``b``, stands still, is fenced; ``b`` takes over, dies; ``c`` ends it."""
    return [
        line(1, "a.1", "assigned", member="A", epoch=1, positions={"0": 0, "1": 0}),
        line(2, "a.1", "read", partition=0, records=[[0, "0-0"], [1, "0-1"]]),
        line(3, "a.1", "committing", member="A", epoch=1, number=1, offsets={"0": 2}),
        line(4, "a.1", "committed", number=1, why=""),
        line(5, "a.1", "revoked", partitions=[1]),
        line(6, "b.1", "assigned", member="B", epoch=2, positions={"1": 0}),
        line(7, "b.1", "read", partition=1, records=[[0, "1-0"]]),
        line(8, "b.1", "committing", member="B", epoch=2, number=1, offsets={"1": 1}),
        line(9, "b.1", "committed", number=1, why=""),
        line(10, "a.1", "read", partition=0, records=[[2, "0-2"]]),
        line(11, "a", "stopped"),
        line(13, "b.1", "assigned", member="B", epoch=3, positions={"0": 2}),
        line(14, "b.1", "read", partition=0, records=[[2, "0-2"]]),
        line(15, "b.1", "committing", member="B", epoch=3, number=2, offsets={"0": 3, "1": 1}),
        line(16, "b.1", "committed", number=2, why=""),
        line(17, "a", "continued"),
        line(17.01, "a.1", "committing", member="A", epoch=2, number=2, offsets={"0": 3}),
        line(17.02, "a.1", "refused", number=2, why="FENCED_MEMBER session"),
        line(17.03, "a.1", "lost", partitions=[0]),
        line(18, "b.1", "read", partition=1, records=[[1, "1-1"]]),
        line(19, "b.1", "committing", member="B", epoch=3, number=3, offsets={"1": 2}),
        line(20, "b", "killed"),
        line(21, "c.1", "assigned", member="C", epoch=5, positions={"0": 3, "1": 2}),
        line(22, "c.1", "read", partition=0, records=[[3, "0-3"]]),
        line(23, "c.1", "committing", member="C", epoch=5, number=1, offsets={"0": 4}),
        line(24, "c.1", "committed", number=1, why=""),
        line(25, "c.1", "revoked", partitions=[0, 1]),
        line(26, "c.1", "left"),
    ]


def history(lines: list[Line]) -> GroupHistory:
    """With what an onlooker saw."""
    observed = [
        Observed(int(second * SECOND), int((second + 0.1) * SECOND), offsets)
        for second, offsets in ((4.5, {0: 2}), (9.5, {0: 2, 1: 1}), (20.5, {0: 3, 1: 2}), (26, {0: 4, 1: 2}))
    ]
    return GroupHistory(lines, LOG, observed, {0: 4, 1: 2})


def edit(lines: list[Line], second: float, **more: Any) -> None:
    """Change what one line says."""
    (at,) = [i for i, found in enumerate(lines) if found.at == int(second * SECOND)]
    lines[at] = lines[at]._replace(more={**lines[at].more, **more})


def drop(lines: list[Line], *seconds: float) -> None:
    """Leave lines out."""
    lines[:] = [found for found in lines if found.at not in {int(second * SECOND) for second in seconds}]


def zombie(lines: list[Line]) -> None:
    """The one that stood still commits, and it is accepted."""
    lines[17] = line(17.02, "a.1", "committed", number=2, why="")


def both_commit(lines: list[Line]) -> None:
    """Two believe to own a partition, and the commits of both are accepted in that time."""
    zombie(lines)
    lines.insert(18, line(17.021, "b.1", "committing", member="B", epoch=3, number=9, offsets={"0": 3}))
    lines.insert(19, line(17.022, "b.1", "committed", number=9, why=""))


def same_epoch(lines: list[Line]) -> None:
    """Two members have one partition in one epoch."""
    edit(lines, 21, epoch=3)


def static_zombie(lines: list[Line]) -> None:
    """The one whose place was taken by another of its instance id commits, in the same epoch."""
    zombie(lines)
    edit(lines, 1, instance="i", epoch=2)
    edit(lines, 13, instance="i", epoch=2)


def rewind(lines: list[Line]) -> None:
    """The new owner begins below what was acknowledged."""
    edit(lines, 13, positions={"0": 1})


def skip(lines: list[Line]) -> None:
    """The new owner begins where nobody had committed."""
    edit(lines, 13, positions={"0": 3})


def regress(lines: list[Line]) -> None:
    """An accepted commit is lower than one before."""
    edit(lines, 15, offsets={"0": 1, "1": 1})


def gap(lines: list[Line]) -> None:
    """A record is not handed out."""
    edit(lines, 2, records=[[1, "0-1"]])


def again(lines: list[Line]) -> None:
    """A record is handed out again to who has it."""
    edit(lines, 10, records=[[1, "0-1"], [2, "0-2"]])


def other_value(lines: list[Line]) -> None:
    """A record is not what the log holds."""
    edit(lines, 14, records=[[2, "0-3"]])


def unowned(lines: list[Line]) -> None:
    """Records of a partition that was given up."""
    lines.insert(5, line(5.5, "a.1", "read", partition=1, records=[[0, "1-0"]]))


def late(lines: list[Line]) -> None:
    """Records of a partition that another has been told of."""
    lines.insert(19, line(18.5, "d.1", "read", partition=0, records=[[2, "0-2"]]))
    lines.insert(0, line(0.5, "d.1", "assigned", member="D", epoch=0, positions={"0": 0}))
    edit(lines, 18.5, records=[[0, "0-0"]])


def unseen(lines: list[Line]) -> None:
    """A record is handed to nobody."""
    drop(lines, 18, 19)


def untold(lines: list[Line]) -> None:
    """A consumer closes and its listener is not told."""
    drop(lines, 25)


def twice(lines: list[Line]) -> None:
    """A listener is told twice of a partition that it has."""
    lines.insert(2, line(1.5, "a.1", "assigned", member="A", epoch=1, positions={"0": 0}))


def never_had(lines: list[Line]) -> None:
    """A listener is told that a partition is gone, and never that it came."""
    edit(lines, 5, partitions=[1, 7])


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (zombie, "zombie-commit"),
        (both_commit, "two-owners"),
        (same_epoch, "epoch-reuse"),
        (static_zombie, "zombie-commit"),
        (rewind, "resume-rewind"),
        (skip, "resume-skip"),
        (regress, "commit-regress"),
        (gap, "poll-skip"),
        (again, "nonmonotonic-poll"),
        (other_value, "inconsistent-offsets"),
        (unowned, "read-unowned"),
        (late, "late-read"),
        (unseen, "unseen"),
        (untold, "left-untold"),
        (twice, "assigned-twice"),
        (never_had, "ended-unowned"),
    ],
)
def test_judge_names_what_was_spoiled(spoil: Callable[[list[Line]], None], name: str) -> None:
    """Each tampered history is refused, for the reason for which it was tampered with."""
    lines = good()
    spoil(lines)
    assert name in {anomaly.name for anomaly in judge_group(history(lines), floors={})}


@pytest.mark.parametrize(
    ("offsets", "name"),
    [({0: 2, 1: 0}, "lost-commit"), ({0: 1, 1: 1}, "commit-regress"), ({0: 2, 1: 2}, "phantom-commit")],
)
def test_judge_names_what_the_onlooker_cannot_have_read(offsets: dict[int, int], name: str) -> None:
    """Committed offsets that fall, that forget what was acknowledged, that nobody tried."""
    spoiled = history(good())
    seen = list(spoiled.observed)
    seen[1] = seen[1]._replace(offsets=offsets)
    found = judge_group(replace(spoiled, observed=seen), floors={})
    assert name in {anomaly.name for anomaly in found}


def test_judge_names_what_is_left_at_the_end() -> None:
    """A partition whose end is not committed."""
    (anomaly,) = judge_group(replace(history(good()), committed={0: 4, 1: 1}), floors={})
    assert anomaly.name == "lag"


def test_judge_passes_a_good_history() -> None:
    """A refused commit, one whose outcome died with its process, a record read twice by two owners: no anomalies."""
    assert judge_group(history(good()), floors=FLOORS) == []
    assert counts_of(history(good()))["taken over"] == 3


def test_judge_passes_a_static_member_that_came_back() -> None:
    """The same instance id, another member, the same epoch."""
    lines = good()
    edit(lines, 6, instance="i", epoch=3)
    edit(lines, 8, epoch=3)
    edit(lines, 13, instance="i")
    edit(lines, 21, instance="i", epoch=3)
    edit(lines, 23, epoch=3)
    assert judge_group(history(lines), floors=FLOORS) == []


def test_judge_refuses_a_history_that_shows_too_little() -> None:
    """Each floor that is not reached, and an empty run."""
    lines = good()
    drop(lines, 17.01, 17.02)
    (anomaly,) = judge_group(history(lines), floors=FLOORS)
    assert (anomaly.name, anomaly.detail) == ("vacuous", "refused: 0, less than 1")
    found = judge_group(GroupHistory([], {}), floors=FLOORS)
    assert [anomaly.name for anomaly in found] == ["vacuous"] * len(FLOORS)


def test_lines_survive_being_written(tmp_path: Path) -> None:
    """What several processes wrote is read back in the order of time."""
    for name in "abc":
        own = [found for found in good() if found.actor.startswith(name)]
        (tmp_path / f"{name}.log").write_text("".join(json.dumps(found) + "\n" for found in own))
    assert read_lines(tmp_path) == good()


def test_a_member_that_is_told_of_a_loss_goes_back() -> None:
    """It reads another record under an offset that it had read: no anomaly if it was told, and only then."""
    lines = [
        line(1, "a.1", "assigned", member="A", epoch=1, positions={"0": 0}),
        line(2, "a.1", "read", partition=0, records=[[0, "0-0"], [1, "lost"], [2, "lost too"]]),
        line(3, "a.1", "warned", why="orders[0]: the server lost the log's end; going on at 1, 2 records … are gone"),
        line(4, "a.1", "read", partition=0, records=[[1, "0-1"], [2, "0-2"], [3, "0-3"]]),
        line(5, "a.1", "revoked", partitions=[0]),
    ]

    def names(told: list[Line]) -> set[str]:
        found = judge_group(GroupHistory(told, {0: LOG[0]}, (), {0: 4}), floors={"records": 6})
        return {anomaly.name for anomaly in found}

    assert names(lines) == set()
    drop(lines, 3)
    assert names(lines) == {"inconsistent-offsets", "nonmonotonic-poll"}
