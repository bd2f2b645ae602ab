"""Which dead letters of a partition were replayed already: all before an offset, and runs above it.

It is stored as any group stores its progress: the offset is committed, the runs are the text that goes with it. So a
replay that picks some letters leaves the others for a later one.
"""

from __future__ import annotations

import re
from bisect import bisect_right, insort

_MARK = "replayed "
_RUNS = re.compile(_MARK + r"\d{1,16}-\d{1,16}(?:,\d{1,16}-\d{1,16})*")

Run = tuple[int, int]
"""The first and the last offset of it."""


class Replayed:
    """A set of offsets.

    :param offset: all before it are in the set.
    :param metadata: what `metadata` gave once; any other text counts as nothing.
    """

    def __init__(self, offset: int, metadata: str = "") -> None:
        self.offset = offset
        self._runs: list[Run] = []
        if _RUNS.fullmatch(metadata):
            for run in metadata.removeprefix(_MARK).split(","):
                first, _, last = run.partition("-")
                self._put(int(first), int(last))

    def __contains__(self, offset: int) -> bool:
        if offset < self.offset:
            return True
        place = bisect_right(self._runs, (offset, offset)) - 1
        return any(first <= offset <= last for first, last in self._runs[max(0, place) : place + 2])

    def add(self, offset: int) -> None:
        """Put one more in."""
        if offset not in self:
            self._put(offset, offset)

    def forget_before(self, offset: int) -> None:
        """What is before it is gone from the log: nobody will ask."""
        if offset > self.offset:
            self.offset = offset
            self._close_up()

    @property
    def metadata(self) -> str:
        """The runs as text; empty for none."""
        return _MARK + ",".join(f"{first}-{last}" for first, last in self._runs) if self._runs else ""

    def _put(self, first: int, last: int) -> None:
        place = bisect_right(self._runs, (first, first))
        if place < len(self._runs) and self._runs[place][0] == last + 1:
            last = self._runs.pop(place)[1]
        if place and self._runs[place - 1][1] == first - 1:
            first = self._runs.pop(place - 1)[0]
        insort(self._runs, (first, last))
        self._close_up()

    def _close_up(self) -> None:
        while self._runs and self._runs[0][0] <= self.offset:
            self.offset = max(self.offset, self._runs.pop(0)[1] + 1)
