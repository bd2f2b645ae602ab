"""The closed segments that a client has seen of one log, so that a seek names the right one at once.

Closed segments never change, but the end of a log's history may be lost and others take their numbers. So the scripts
verify what is claimed from here: a wrong map costs a round trip. No socket: lists in, a segment's number out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import Final, NamedTuple

from streamlayer._core.calls import ClosedSegment, ListedSegments

SEGMENTS_LISTED: Final = 1000
"""How many ``list_segments`` answers at most."""
SEGMENTS_KEPT: Final = 16_000
"""More than this are not remembered: some 4 MB."""


class Claim(NamedTuple):
    """What a client believes of a look-up by time; the script believes it if what is named is still there.

    :ivar segment: the one that holds the record.
    :ivar after: the first that may.
    :ivar oldest: the first that was looked at.
    :ivar passed: the last before ``after``; ``None``: nothing is claimed.
    """

    segment: int
    after: int
    oldest: int
    passed: ClosedSegment | None


class SegmentMap:
    """Segments without a gap, from the oldest that there was when the log was first looked at.

    :ivar epochs: the log's epochs when they were listed.
    :ivar complete: whether the last list reached the open segment.
    """

    def __init__(self) -> None:
        self.epochs: str = ""
        self.complete = False
        self._closed: list[ClosedSegment] = []
        self._bases: list[int] = []
        self._highest: list[int] = []
        self._open = (0, 0)

    @property
    def last(self) -> int:
        """The newest segment that it knows; -1 for none."""
        return self._closed[-1].number if self._closed else -1

    def add(self, listed: ListedSegments) -> bool:
        """Take in the segments behind the last; false if the log has another history now: list from the first."""
        another = bool(self._closed) and listed.epochs != self.epochs
        if another:
            self._closed = []
        else:
            self._closed += listed.closed
        self.epochs = listed.epochs
        self._open = listed.open_segment, listed.open_base
        self.complete = len(listed.closed) < SEGMENTS_LISTED or len(self._closed) >= SEGMENTS_KEPT
        self._index()
        return not another

    def trim(self, log_start: int) -> None:
        """Forget segments that lie wholly before the log start, if there are many of them."""
        gone = bisect_right(self._bases, log_start) - 1
        if gone > len(self._bases) // 2:
            del self._closed[:gone]
            self._index()

    def _index(self) -> None:
        self._bases = [segment.base for segment in self._closed]
        self._highest = list(accumulate((segment.highest for segment in self._closed), max))

    def holder_of(self, offset: int) -> int | None:
        """The segment that holds an offset; ``None`` if it is none of these."""
        at = bisect_right(self._bases, offset) - 1
        if at < 0 or (at == len(self._bases) - 1 and offset >= self._open[1]):
            return None
        return self._closed[at].number

    def first_at(self, timestamp: int) -> Claim:
        """Where to look for the first record at or after a time: no segment before that one holds it.

        Segments trimmed since count as well: then the one named comes too early, which costs a round trip.
        """
        at = bisect_left(self._highest, timestamp)
        number = self._closed[at].number if at < len(self._closed) else max(self._open[0], self.last + 1)
        if at == 0:
            return Claim(number, 0, 0, None)
        passed = self._closed[at - 1]
        return Claim(number, passed.number + 1, self._closed[0].number, passed)
