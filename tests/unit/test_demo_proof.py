"""The demo's proof must find what it is there to find: it is shown tampered readings, and has to say what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlayer._cli.demo.corpus import SourceFile, by_turns, collect, lines_of, read_lines, share
from streamlayer._cli.demo.proof import Fault, Reading, compare, judge

LINES = [b"import os\n", b"\n", b"\n", b"def f():\n", b"    return 1\n", b"\n", b"last line without end"]


def changed(*edits: tuple[int, list[bytes]]) -> list[bytes]:
    """LINES with each index replaced by these lines."""
    came = [[line] for line in LINES]
    for index, lines in edits:
        came[index] = lines
    return [line for lines in came for line in lines]


def test_the_same_lines_pass() -> None:
    """Lines that came complete, in order and once are no fault; an empty file is none either."""
    assert compare(b"a.py", LINES, list(LINES)) is None
    assert compare(b"a.py", [], []) is None


@pytest.mark.parametrize("index", range(len(LINES)))
def test_each_missing_line_is_found(index: int) -> None:
    """A line that did not come is found wherever it was, also if it is empty like the one beside it."""
    fault = compare(b"a.py", LINES, changed((index, [])))
    assert fault is not None
    assert (fault.missing, fault.extra) == (1, 0)
    assert "1 line missing" in str(fault)


@pytest.mark.parametrize("index", range(len(LINES)))
def test_each_duplicate_is_found(index: int) -> None:
    """A line that came twice is found wherever it was."""
    fault = compare(b"a.py", LINES, changed((index, [LINES[index]] * 2)))
    assert fault is not None
    assert (fault.missing, fault.extra) == (0, 1)


def test_a_batch_stored_twice_is_found() -> None:
    """A run of lines that came again, as a batch sent twice would, is found and counted."""
    fault = compare(b"a.py", LINES, [*LINES[:5], *LINES[2:5], *LINES[5:]])
    assert fault == Fault(b"a.py", 0, 3, 7)  # line 6 happens to be empty in both


def test_order_is_found() -> None:
    """Two lines that changed places are found, and said to be out of order, at the first of them."""
    fault = compare(b"a.py", LINES, changed((0, [LINES[3]]), (3, [LINES[0]])))
    assert fault == Fault(b"a.py", 0, 0, 1)
    assert str(fault) == "a.py: the lines are out of order; it begins at line 1"


def test_changed_bytes_are_found() -> None:
    """One byte that is not as on the disk is a line missing and a line too many."""
    assert compare(b"a.py", LINES, changed((4, [b"    return 2\n"]))) == Fault(b"a.py", 1, 1, 5)


@given(st.lists(st.sampled_from([b"a\n", b"b\n", b"\n"])), st.lists(st.sampled_from([b"a\n", b"b\n", b"\n"])))
def test_no_difference_passes(expected: list[bytes], came: list[bytes]) -> None:
    """Whatever came, it passes only if it is the file."""
    assert (compare(b"a.py", expected, came) is None) == (expected == came)


FILES = [SourceFile(b"a.py", 10, 100), SourceFile(b"b.py", 20, 200)]


def readings(*lines: dict[bytes, int], faults: tuple[Fault, ...] = (), jumps: int = 0) -> list[Reading]:
    """A reading for each consumer."""
    return [Reading(each, faults if place == 0 else (), jumps) for place, each in enumerate(lines)]


def test_all_files_once_is_proven() -> None:
    """Every file at one consumer, without fault, in a log of that length: proven."""
    verdict = judge(FILES, readings({b"a.py": 10}, {b"b.py": 20}), 30)
    assert verdict.faults == ()
    assert (verdict.files, verdict.lines, verdict.extra) == (2, 30, 0)


@pytest.mark.parametrize(
    ("came", "log_length", "words"),
    [
        (readings({b"a.py": 10}, {}), 30, "b.py: did not come at all"),
        (readings({b"a.py": 10, b"b.py": 19}, {b"b.py": 1}), 30, "b.py: came from two partitions"),
        (readings({b"a.py": 10, b"c.py": 1}, {b"b.py": 20}), 31, "c.py: was never sent"),
        (readings({b"a.py": 10}, {b"b.py": 20}), 31, "30 lines were sent, but the log has 31 records"),
        (readings({b"a.py": 10}, {b"b.py": 20}, jumps=1), 30, "offsets do not follow"),
        (readings({b"a.py": 10}, {b"b.py": 20}, faults=(Fault(b"a.py", 1, 1, 3),)), 30, "a.py: 1 line missing"),
    ],
)
def test_what_no_single_file_shows_is_found(came: list[Reading], log_length: int, words: str) -> None:
    """A file that never came, came twice or was never sent, a log of another length, a hole in the offsets."""
    assert any(words in fault for fault in judge(FILES, came, log_length).faults)


def test_stored_twice_is_counted() -> None:
    """Lines too many are what the table calls stored twice, even if as many others are missing."""
    assert judge(FILES, readings({b"a.py": 10}, {b"b.py": 23}), 33).extra == 3
    faults = (Fault(b"a.py", 2, 2, 1),)
    verdict = judge(FILES, readings({b"a.py": 10}, {b"b.py": 20}, faults=faults), 30)
    assert (verdict.extra, verdict.files) == (2, 1)


def test_a_proof_of_nothing_is_none() -> None:
    """Without a single line sent there is nothing to prove, and that is a fault."""
    assert judge([], readings({}, {}), 0).faults == ("nothing was sent: that proves nothing",)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small library, with what has to be left out."""
    for name, content in {
        "b.py": b"1\n2\n3",
        "a.py": b"\n".join(b"%d" % number for number in range(100)) + b"\n",
        "pkg/c.py": b"x\r\n\xff\n",
        "empty.py": b"",
        "notes.txt": b"no\n",
        "site-packages/other.py": b"no\n",
        "__pycache__/d.py": b"no\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def test_the_corpus(tree: Path) -> None:
    """Every .py file with its lines, in order of path; site-packages and empty files are left out."""
    assert collect(tree, 1_000) == [
        SourceFile(b"a.py", 100, 290),
        SourceFile(b"b.py", 3, 5),
        SourceFile(b"pkg/c.py", 2, 5),
    ]
    assert [file.key for file in collect(tree, 50)] == [b"b.py", b"pkg/c.py"]  # whole files only
    assert b"".join(read_lines(tree, b"pkg/c.py")) == b"x\r\n\xff\n"


def test_a_producer_sends_each_file_in_order(tree: Path) -> None:
    """The lines of several files are mixed, but each file's lines come once and in order."""
    files = collect(tree, 1_000)
    came: dict[bytes, list[bytes]] = {}
    turns = [key for key, lines in by_turns(tree, files) if not came.setdefault(key, []).extend(lines)]
    assert turns[:4] == [b"a.py", b"b.py", b"pkg/c.py", b"a.py"]
    assert all(compare(file.key, read_lines(tree, file.key), came[file.key]) is None for file in files)


def test_sharing_the_files(tree: Path) -> None:
    """Each file goes to one producer, and the loads differ by one file at most."""
    files = collect(tree, 1_000)
    shares = share(files, 2)
    assert sorted((file for part in shares for file in part), key=lambda file: file.key) == files
    assert sorted(map(lines_of, shares)) == [5, 100]
