"""``SegmentMap``: which closed segment holds an offset, and where a look-up by time has to begin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamlayer._core.calls import ClosedSegment, ListedSegments
from streamlayer._core.segment_map import SEGMENTS_LISTED, SegmentMap

LENGTHS = st.lists(st.integers(1, 5), max_size=12)
TIMES = st.lists(st.integers(0, 20), min_size=12, max_size=12)


def closed(lengths: list[int], highest: list[int], first: int = 0) -> tuple[list[ClosedSegment], int]:
    """Segments of so many records each, and where the open one begins."""
    segments, base = [], 0
    for number, (length, time) in enumerate(zip(lengths, highest, strict=False), first):
        segments.append(ClosedSegment(number, base, time, f"{number}", 1000 + number))
        base += length
    return segments, base


@given(LENGTHS, TIMES, st.integers(0, 70))
def test_each_offset_has_its_segment(lengths: list[int], highest: list[int], trimmed: int) -> None:
    """As counted by hand; what lies in the open segment, or was forgotten, is said not to be known."""
    segments, end = closed(lengths, highest)
    known = SegmentMap()
    assert known.add(ListedSegments("1:a:0", len(lengths), end, segments))
    known.trim(min(trimmed, end))
    for offset in range(end + 3):
        holder = next((s.number for s in reversed(segments) if s.base <= offset), None) if offset < end else None
        found = known.holder_of(offset)
        assert found == holder or (found is None and offset < trimmed)


@given(LENGTHS, TIMES, st.integers(0, 70), st.integers(0, 21))
def test_no_segment_before_the_one_to_begin_at_holds_the_time(
    lengths: list[int], highest: list[int], trimmed: int, when: int
) -> None:
    """What a look-up passes over reaches the time nowhere, unless it was trimmed."""
    segments, end = closed(lengths, highest)
    known = SegmentMap()
    known.add(ListedSegments("1:a:0", len(lengths), end, segments))
    known.trim(min(trimmed, end))
    segment, after, oldest, passed = known.first_at(when)
    assert after == (0 if passed is None else passed.number + 1)
    assert passed is None or oldest <= passed.number
    reaching = [s.number for s in segments if s.highest >= when]
    living = [
        s.number for i, s in enumerate(segments) if (segments[i + 1].base if i + 1 < len(segments) else end) > trimmed
    ]
    assert not [number for number in reaching if number in living and number < after]
    assert segment == (min(reaching) if reaching and not trimmed else segment)


def test_pages_add_up_and_another_history_begins_anew() -> None:
    """A full page is not the end; other epochs mean that all that was known may be wrong."""
    segments, end = closed([1] * (SEGMENTS_LISTED + 2), list(range(SEGMENTS_LISTED + 2)))
    known = SegmentMap()
    assert known.last == -1
    assert known.add(ListedSegments("1:a:0", 2000, end, segments[:SEGMENTS_LISTED]))
    assert (known.complete, known.last) == (False, SEGMENTS_LISTED - 1)
    assert known.add(ListedSegments("1:a:0", 2000, end, segments[SEGMENTS_LISTED:]))
    assert (known.complete, known.last, known.holder_of(SEGMENTS_LISTED)) == (
        True,
        SEGMENTS_LISTED + 1,
        SEGMENTS_LISTED,
    )
    assert not known.add(ListedSegments("1:a:0,2:b:7", 2000, end, []))
    assert (known.last, known.holder_of(5)) == (-1, None)
