"""The demo's diaries: what several members have done is put together, and what should not have been is found."""

from __future__ import annotations

from pathlib import Path

from streamlayer import ConsumerRecord
from streamlayer._cli.demo.diary import Diary, Page, put_together, read_diary, stood_still


def page(at: float, base: int, *values: bytes, partition: int = 0, key: bytes = b"file") -> Page:
    """Some records of one file that were processed together."""
    return Page(at, partition, base, [key] * len(values), list(values), [1000 + base + i for i in range(len(values))])


def commit(at: float, offset: int, partition: int = 0) -> Page:
    """A commit that was acknowledged."""
    return Page(at, partition, offset)


def test_two_members_one_after_the_other() -> None:
    """What both have done of a partition is one sequence, with its times and its place."""
    done = put_together([[page(1, 0, b"a", b"b"), commit(2, 2)], [page(3, 2, b"c")]])
    assert done.lines == {b"file": [b"a", b"b", b"c"]}
    assert done.times == {b"file": [1000, 1001, 1002]}
    assert done.places == {b"file": {0}}
    assert (done.repeated, done.jumps, done.faults) == (0, 0, [])


def test_the_uncommitted_tail_may_come_again() -> None:
    """It counts as repeated, and once only among the lines."""
    done = put_together(
        [[page(1, 0, b"a", b"b"), commit(2, 2), page(3, 2, b"c", b"d")], [page(4, 2, b"c", b"d", b"e")]]
    )
    assert done.lines[b"file"] == [b"a", b"b", b"c", b"d", b"e"]
    assert (done.repeated, done.jumps, done.faults) == (2, 0, [])


def test_what_was_committed_may_not_come_again() -> None:
    """A successor that begins before the last commit is a fault."""
    done = put_together([[page(1, 0, b"a", b"b"), commit(2, 2)], [page(3, 1, b"b", b"c")]])
    assert done.faults == ["partition 0: 1 lines came again after their commit"]


def test_a_hole_is_found() -> None:
    """A successor that begins behind what was done has left something out."""
    assert put_together([[page(1, 0, b"a")], [page(2, 2, b"c")]]).jumps == 1


def test_a_file_in_two_partitions_is_found() -> None:
    """All places of a key are kept."""
    assert put_together([[page(1, 0, b"a"), page(2, 0, b"b", partition=1)]]).places == {b"file": {0, 1}}


def test_a_diary_outlives_its_writer(tmp_path: Path) -> None:
    """All whole pages are read; one that was cut off when its writer was killed is not."""
    path = tmp_path / "worker 1"
    diary = Diary(path)
    records = [ConsumerRecord("t", 3, offset, 5, 0, b"k", b"v", ()) for offset in (7, 8)]
    diary.processed(1.5, 3, records)
    diary.committed(1.6, {3: 9})
    diary.flush()
    diary.close()
    whole = [Page(1.5, 3, 7, [b"k", b"k"], [b"v", b"v"], [5, 5]), Page(1.6, 3, 9)]
    assert read_diary(path) == whole
    path.write_bytes(path.read_bytes()[:-1])
    assert read_diary(path) == whole[:1]


def test_how_long_partitions_stood_still() -> None:
    """From the kill to the first record that another processed of the victim's partitions; the longest of them."""
    victim = [page(1, 0, b"a"), page(1, 0, b"a", partition=1)]
    others = [page(1.5, 0, b"x", partition=2), page(3, 1, b"b"), page(4, 1, b"b", partition=1), page(9, 2, b"c")]
    assert stood_still({"one": victim, "two": others}, "one", 2.0) == 2.0
    assert stood_still({"one": victim, "two": []}, "one", 2.0) == 0.0
