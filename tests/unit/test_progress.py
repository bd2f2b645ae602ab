"""`Progress`: what may be committed, and what a commit says of the records above it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamlayer._core.progress import NOTHING, Kept, Progress, from_metadata


def accepted(count: int, start: int = 0) -> Progress:
    """So many records were read, from `start` on."""
    progress = Progress(start)
    for offset in range(start, start + count):
        progress.accept(offset)
    return progress


def test_in_order_it_moves_by_one() -> None:
    """Each record that is done next may be committed at once, and nothing lies above."""
    progress = accepted(3)
    for offset in range(3):
        progress.done(offset)
        assert (progress.next, progress.ranges, progress.to_metadata("1:a:0")) == (offset + 1, 0, "")


def test_only_the_contiguous_part_may_be_committed() -> None:
    """While one record is not done, nothing behind it is committed, however much is done."""
    progress = accepted(5)
    for offset in (4, 1, 2):
        progress.done(offset)
    assert (progress.next, progress.ranges) == (0, 2)
    progress.done(0)
    assert (progress.next, progress.ranges) == (3, 1)
    progress.done(3)
    assert (progress.next, progress.ranges) == (5, 0)


def test_done_twice_is_done_once() -> None:
    """A record that is told done again changes nothing, below `next` or above."""
    progress = accepted(5)
    for offset in (0, 3, 3, 0):
        progress.done(offset)
    assert (progress.next, progress.ranges) == (1, 1)


def test_offsets_that_are_not_in_the_log_count_as_done() -> None:
    """Retention removed 3 to 9: reading went on at 10, and the commit is not stuck at the hole."""
    progress = accepted(3)
    progress.accept(10)
    for offset in (0, 1, 2):
        progress.done(offset)
    assert progress.next == 10


@given(st.lists(st.integers(0, 60), unique=True), st.integers(0, 1000))
def test_it_agrees_with_a_set(order: list[int], start: int) -> None:
    """Whatever ends in whatever order: `next` is the first that is not done, and the text tells the rest exactly."""
    progress = accepted(61, start)
    done: set[int] = set()
    for offset in order:
        progress.done(start + offset)
        done.add(start + offset)
        first = next(at for at in range(start, start + 62) if at not in done)
        assert progress.next == first
        kept = from_metadata(progress.to_metadata("3:t:0"), progress.next)
        told = {at for begin, end in kept.ranges for at in range(begin, end)}
        assert told == {at for at in done if at > first}
        assert all(begin < end for begin, end in kept.ranges)
        assert len(kept.ranges) == progress.ranges


@given(st.lists(st.integers(0, 60), unique=True), st.integers(0, 61), st.lists(st.integers(0, 60), unique=True))
def test_going_back_forgets_what_was_done_from_there(before: list[int], back: int, after: list[int]) -> None:
    """The server lost its end from `back` on: what is read under these offsets now is not done by what was before."""
    progress = accepted(61)
    for offset in before:
        progress.done(offset)
    progress.rewind(back)
    done = {offset for offset in before if offset < back}
    for offset in range(back, 61):
        progress.accept(offset)
    for offset in after:
        progress.done(offset)
        done.add(offset)
    assert progress.next == next(at for at in range(62) if at not in done)


def test_who_goes_on_skips_what_is_done() -> None:
    """An owner that resumes at the committed offset is told which records above it were done, and attempts go on."""
    first = accepted(10)
    for offset in (0, 2, 3, 7):
        first.done(offset)
    first.attempts[5] = 4
    text = first.to_metadata("2:abc:0")
    second = Progress(first.next, from_metadata(text, first.next))
    assert [offset for offset in range(1, 10) if second.resuming(offset)] == [2, 3, 7]
    assert second.attempts == {5: 4}


def test_what_is_not_read_again_yet_is_told_on() -> None:
    """An owner that stops before it came to all of them hands the rest on."""
    text = "streamlayer-progress/1 2:abc:0 1+2,6+1 - -"
    second = Progress(1, from_metadata(text, 1))
    second.accept(1)
    second.done(1)
    for offset in (2, 3):
        assert second.resuming(offset)
        second.accept(offset)
        second.done(offset)
    assert not second.resuming(4)
    assert second.next == 4
    assert from_metadata(second.to_metadata("9:new:0"), 4) == Kept("2:abc:0", ((7, 8),), {}, {})


def test_ranges_count_up_to_where_the_logs_part() -> None:
    """A later epoch, or another server's, may have other records under the same offsets: they are not skipped."""
    progress = Progress(0, Kept("1:aa:0,2:bb:4", ((3, 9),), {}, {}))
    assert progress.trusts(8, "1:aa:0,2:bb:4")
    assert progress.trusts(3, "1:aa:0")
    assert progress.trusts(5, "1:aa:0,2:bb:4,3:cc:6")
    assert not progress.trusts(6, "1:aa:0,2:bb:4,3:cc:6")
    assert not progress.trusts(5, "1:aa:0")
    assert not progress.trusts(5, "1:aa:0,2:dd:4")
    assert not progress.trusts(3, "9:ee:0")
    assert not progress.trusts(3, "")
    assert Progress(0, Kept("", ((5, 6),), {}, {})).trusts(5, "")
    assert not Progress(0, Kept("", ((5, 6),), {}, {})).trusts(5, "1:aa:0")


@given(st.text(max_size=60))
def test_a_text_of_somebody_else_says_nothing(text: str) -> None:
    """Whatever stands in the metadata, reading it does not fail."""
    assert from_metadata(text, 5) == NOTHING
    from_metadata(f"streamlayer-progress/1 {text}", 5)


def test_the_text_fits_even_in_the_worst_case() -> None:
    """A thousand ranges far apart, and an attempt for each record between: the ranges stay, the attempts may go."""
    progress = Progress(0)
    progress.high = 10**13
    for at in range(1, 1001):
        progress.done(at * 10**9)
        progress.attempts[at * 10**9 + 1] = 3
    text = progress.to_metadata("12:0123456789abcdef:0")
    assert len(text) < 32_768
    assert len(from_metadata(text, 0).ranges) == 1000


def test_an_owner_says_that_it_has_begun_until_it_got_on_or_ends() -> None:
    """The word stands while `next` has not moved; an end in order takes it back; who never says it writes nothing."""
    assert Progress(7).to_metadata("1:a:0") == ""
    progress = Progress(7)
    progress.begin()
    progress.accept(7)
    assert from_metadata(progress.to_metadata("1:a:0"), 7).begun
    progress.done(7)
    assert progress.to_metadata("1:a:0") == ""
    progress = Progress(7)
    progress.begin()
    progress.call(7)
    progress.leave()
    assert progress.to_metadata("1:a:0") == ""


def test_it_has_not_got_on_before_it_is_behind_what_was_done_when_it_began() -> None:
    """Where a slow key was passed by others, `next` moves at each life, and the deadly record is where they ended."""
    progress = Progress(5, from_metadata("streamlayer-progress/1 1:a:0 1+2,5+10 - -", 5))
    progress.begin()
    for offset in range(5, 25):
        progress.accept(offset)
    for offset in range(5, 19):
        progress.done(offset)
        assert from_metadata(progress.to_metadata("1:a:0"), progress.next).begun
    for offset in range(19, 22):
        progress.done(offset)
    assert progress.to_metadata("1:a:0") == ""


def test_a_successor_of_one_that_died_is_cautious_for_a_thousand_calls() -> None:
    """Of one that died before it got on; not of one that got on, or ended in order."""
    dead = Progress(7)
    dead.begin()
    successor = Progress(7, from_metadata(dead.to_metadata("1:a:0"), 7))
    for offset in range(7, 1007):
        assert successor.cautious
        successor.accept(offset)
        successor.call(offset)
        successor.called(offset)
        successor.done(offset)
    assert not successor.cautious
    assert not Progress(1007, from_metadata(successor.to_metadata("1:a:0"), 1007)).cautious


def test_a_call_that_nobody_outlived_is_a_death_and_an_attempt() -> None:
    """They add up from owner to owner, beside attempts that failed; a record that is done is not suspected any more."""
    text, expected = "", [(0, 0), (1, 1), (2, 2), (4, 3)]
    for deaths in range(4):
        progress = Progress(5, from_metadata(text, 5))
        assert (progress.attempts.get(6, 0), progress.deaths.get(6, 0)) == expected[deaths]
        assert progress.cautious == bool(deaths)
        progress.begin()
        for offset in (5, 6):
            progress.accept(offset)
        if deaths == 2:
            progress.attempts[6] += 1
        progress.call(6)
        text = progress.to_metadata("1:a:0")
    progress.called(6)
    progress.done(6)
    assert (progress.attempts, progress.deaths) == ({}, {})


def test_a_death_counts_for_the_record_that_it_happened_to() -> None:
    """Not where the log lost its end, and another record stands under the offset; nor below what is committed."""
    text = "streamlayer-progress/1 1:a:0 - 0:2:1,3:1:1 begun:3"
    progress = Progress(5, from_metadata(text, 5))
    assert progress.deaths == {5: 1, 8: 2}
    progress.rewind(8)
    assert (progress.attempts, progress.deaths) == ({5: 2}, {5: 1})
    assert Progress(6, from_metadata(text, 5)).deaths == {8: 2}


def test_what_is_called_again_and_again_does_not_end_the_caution() -> None:
    """A thousand calls of one record that keeps failing: the one that is deadly may still come."""
    dead = Progress(7)
    dead.begin()
    progress = Progress(7, from_metadata(dead.to_metadata("1:a:0"), 7))
    progress.accept(7)
    for attempt in range(1, 2000):
        progress.call(7)
        progress.attempts[7] = attempt
        progress.called(7)
    assert progress.cautious


def test_deaths_of_records_that_are_not_in_the_log_any_more_are_forgotten() -> None:
    """Retention took them away: nobody is cautious for their sake."""
    progress = Progress(5, from_metadata("streamlayer-progress/1 1:a:0 - 0:2:1,3:1:1 begun:3", 5))
    progress.accept(8)
    assert (progress.attempts, progress.deaths) == ({8: 2}, {8: 2})
    progress.accept(20)
    progress.done(8)
    assert not progress.deaths


def test_where_the_text_is_too_long_deaths_are_kept() -> None:
    """Five thousand records have failed, and two have ended their workers: the two are told, and who is at work."""
    progress = Progress(0, from_metadata("streamlayer-progress/1 1:a:0 - 7:3:2 begun:9", 0))
    progress.begin()
    for offset in range(5000):
        progress.accept(offset)
        progress.attempts[offset] = progress.attempts.get(offset, 0) + 1
    progress.call(9)
    text = progress.to_metadata("1:a:0")
    assert len(text) <= 32_000
    kept = from_metadata(text, 0)
    assert (kept.deaths, kept.attempts, kept.begun, kept.calls) == ({7: 2, 9: 1}, {7: 4, 9: 2}, True, (9,))


def test_deaths_that_are_not_read_again_yet_keep_their_log() -> None:
    """The epochs beside them are those of the owner who saw them, until their records are read again."""
    progress = Progress(5, from_metadata("streamlayer-progress/1 1:a:0 - 3:2:2 -", 5))
    progress.accept(5)
    text = progress.to_metadata("2:b:5")
    assert Progress(5, from_metadata(text, 5)).trusts(8, "1:a:0")
    for offset in (6, 7, 8):
        progress.accept(offset)
    text = progress.to_metadata("1:a:0,2:b:7")
    assert from_metadata(text, 5).epochs == "1:a:0,2:b:7"
