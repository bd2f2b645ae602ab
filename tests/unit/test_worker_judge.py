"""The judge of a worker's processes finds what is wrong: a good story is spoiled in each way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.system.worker_crew import Note
from tests.system.worker_judge import Logged, Seen, Story, judge, recoveries

LOG = [Logged(0, 0, "a", "0"), Logged(0, 1, "b", "0"), Logged(0, 2, "a", "1"), Logged(0, 3, "b", "1")]


def note(at: float, pid: int, record: Logged, *, took: float = 0.5) -> Note:
    """A record was handled in the time before `at`."""
    return Note(at - took, at, pid, *record)


GOOD = Story(
    LOG,
    [note(1, 7, LOG[0]), note(2, 7, LOG[1]), note(4, 7, LOG[3]), note(6, 8, LOG[2]), note(7, 8, LOG[3])],
    {7: 5.0},
    [Seen(3, 0, 2, ()), Seen(4.5, 0, 2, [(3, 4)]), Seen(8, 0, 4, ())],
)


def test_a_good_story() -> None:
    """Records in any order among keys, one of them again after a death, commits behind the notes: nothing is wrong."""
    assert judge(GOOD) == []
    assert GOOD.repeats() == {7: 1}
    assert recoveries(GOOD, {7: [0]}) == [0.5]


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        (replace(GOOD, notes=GOOD.notes[:3] + GOOD.notes[4:]), "not handled: (0, 2, 'a', '1')"),
        (replace(GOOD, notes=[*GOOD.notes, note(9, 8, Logged(0, 4, "a", "2"))]), "not in the log"),
        (replace(GOOD, killed={}), "1 records of process 7, which was not killed, were handled again"),
        (replace(GOOD, notes=[note(0.4, 7, LOG[3], took=0.1), *GOOD.notes]), "b: 1 was handled when -1 was the last"),
        (replace(GOOD, notes=[*GOOD.notes[:4], note(7, 8, LOG[3], took=3.5)]), "1 and 1 were handled at once"),
        (replace(GOOD, commits=[Seen(3, 0, 3, ())]), "committed with a gap"),
        (replace(GOOD, commits=[Seen(3, 0, 5, ())]), "committed with a gap"),
        (replace(GOOD, commits=[Seen(3, 0, 2, [(3, 4)])]), "said to be done, and not handled: 3"),
        (replace(GOOD, commits=[Seen(3, 0, 2, ()), Seen(4, 0, 1, ())]), "the commit went back from 2"),
        (Story([], []), "vacuous"),
    ],
)
def test_a_spoiled_story(spoiled: Story, words: str) -> None:
    """Each fault is found, and named."""
    assert any(words in fault for fault in judge(spoiled)), judge(spoiled)
