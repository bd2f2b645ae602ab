"""`Lanes`: which records may be handled at the same time, and in which order."""

from __future__ import annotations

import random

import pytest

from streamlayer import ConsumerRecord, TopicPartition
from streamlayer._core.lanes import Job, Lanes, Ordering
from streamlayer._core.progress import Progress, from_metadata

TP = TopicPartition("t", 0)


def lanes_with(ordering: Ordering, keys: list[bytes | None]) -> Lanes:
    """A partition of which records with these keys were read."""
    lanes = Lanes(TP, ordering, Progress(0))
    for offset, key in enumerate(keys):
        lanes.accept(record(offset, key), 0)
    return lanes


def record(offset: int, key: bytes | None) -> ConsumerRecord:
    """One record."""
    return ConsumerRecord("t", 0, offset, 0, 0, key, b"xyz", ())


def taken(lanes: Lanes, most: int = 1) -> list[list[int]]:
    """The offsets of all jobs that can be taken now."""
    jobs: list[list[int]] = []
    while (job := lanes.take(most)) is not None:
        jobs.append([each.offset for each in job.records])
    return jobs


@pytest.mark.parametrize(
    ("ordering", "expected"),
    [("partition", [[0]]), ("key", [[0], [1], [3], [4]]), ("none", [[0], [1], [2], [3], [4]])],
)
def test_what_may_run_at_once(ordering: Ordering, expected: list[list[int]]) -> None:
    """One of a partition, one of a key (those without a key at will), or all."""
    assert taken(lanes_with(ordering, [b"a", b"b", b"a", None, None])) == expected


@pytest.mark.parametrize(
    ("ordering", "expected"), [("partition", [[0, 1, 2]]), ("key", [[0, 2, 1], [4]]), ("none", [[0, 1, 2], [3, 4]])]
)
def test_batches_take_from_lanes_in_order(ordering: Ordering, expected: list[list[int]]) -> None:
    """A batch holds records of a lane in their order; what it leaves of a lane waits until it is finished."""
    assert taken(lanes_with(ordering, [b"a", b"b", b"a", b"b", None]), 3) == expected


def test_the_next_of_a_lane_comes_when_the_first_is_finished() -> None:
    """Finished is not done: the lane goes on, the offset is not committed."""
    lanes = lanes_with("key", [b"a", b"a", b"a"])
    job = lanes.take()
    assert job is not None
    assert (lanes.available, lanes.take()) == (0, None)
    lanes.finish(job)
    assert (lanes.available, lanes.progress.next, lanes.unfinished) == (2, 0, 3)
    lanes.done(job)
    assert (lanes.progress.next, lanes.unfinished) == (1, 2)


def test_a_job_that_comes_again_keeps_its_lane() -> None:
    """Between two attempts nothing of its key is handled, and others are."""
    lanes = lanes_with("key", [b"a", b"a", b"b"])
    failed = lanes.take()
    assert failed is not None
    assert taken(lanes) == [[2]]
    lanes.again(failed)
    assert lanes.take() is failed
    assert lanes.take() is None


def test_attempts_of_an_earlier_owner_count() -> None:
    """What was tried four times elsewhere is tried for the fifth time here."""
    lanes = lanes_with("none", [b"a"])
    lanes.progress.attempts[0] = 4
    job = lanes.take()
    assert job is not None
    assert job.attempts == 4


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
@pytest.mark.parametrize("most", [1, 4])
def test_any_history_keeps_order_and_loses_nothing(ordering: Ordering, most: int) -> None:
    """Random reads, ends, failures and steps back: the books balance, order holds, and all is done in the end."""
    for seed in range(60):
        dice = random.Random(f"{seed} {ordering} {most}")
        lanes = Lanes(TP, ordering, Progress(0))
        running: list[Job] = []
        failed: list[Job] = []
        done: list[tuple[int, int]] = []  # offset, life
        lives = [0] * 200
        read = 0
        for step in range(500):
            match dice.choice(["read", "read", "take", "take", "end", "end", "fail", "again", "back"]):
                case "read" if read < 60:
                    lanes.accept(record(read, dice.choice([b"a", b"b", b"c", None])), step)
                    read += 1
                case "take":
                    job = lanes.take(most)
                    running += [] if job is None else [job]
                case "end" if running:
                    job = running.pop(dice.randrange(len(running)))
                    done += [(each.offset, lives[each.offset]) for each in job.records]
                    lanes.finish(job)
                    lanes.done(job)
                case "fail" if running:
                    failed.append(running.pop(dice.randrange(len(running))))
                case "again" if failed:
                    lanes.again(failed.pop(dice.randrange(len(failed))))
                case "back" if read and dice.random() < 0.2:
                    read = dice.randrange(read)
                    lanes.rewind(read)
                    for offset in range(read, 200):
                        lives[offset] += 1
            _balanced(lanes, running, failed)
            if ordering == "partition":
                assert len({id(job) for job in (*running, *failed) if job.records}) <= 1
        while running or failed or lanes.available:
            for job in failed:
                lanes.again(job)
            failed = []
            while (job := lanes.take(most)) is not None:
                running.append(job)
            if not running:  # what had failed was gone back behind
                continue
            job = running.pop(0)
            done += [(each.offset, lives[each.offset]) for each in job.records]
            lanes.finish(job)
            lanes.done(job)
        now = [offset for offset, life in done if life == lives[offset]]
        assert sorted(now) == list(range(read)), seed
        assert (lanes.progress.next, lanes.unfinished, lanes.available) == (read, 0, 0), seed
        if ordering == "partition":
            assert now == sorted(now)


def _balanced(lanes: Lanes, running: list[Job], failed: list[Job]) -> None:
    waiting = lanes.unfinished - sum(len(job.records) for job in (*running, *failed))
    assert waiting >= lanes.available - sum(len(job.records) for job in lanes.jobs) >= -lanes.unfinished
    assert 0 <= lanes.available <= lanes.unfinished
    assert lanes.unfinished_bytes == 3 * lanes.unfinished


@pytest.mark.parametrize("ordering", ["partition", "key", "none"])
def test_batches_are_cut_only_around_records_that_have_ended_a_worker(ordering: Ordering) -> None:
    """Such a record is alone in its batch; where it is not known which it was, batches are as large as ever."""
    progress = Progress(0, from_metadata("streamlayer-progress/1 1:a:0 - 4:1:1,5:2:2 begun", 0))
    lanes = Lanes(TP, ordering, progress)
    for offset in range(12):
        lanes.accept(record(offset, b"%d" % offset), 0)
    jobs: list[list[int]] = []
    while (job := lanes.take(6)) is not None:
        jobs.append([each.offset for each in job.records])
        lanes.finish(job)
        lanes.done(job)
    assert jobs == [[0, 1, 2, 3], [4], [5], [6, 7, 8, 9, 10, 11]]
    assert lanes.available == 0
