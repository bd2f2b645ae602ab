"""How far a worker is in one partition whose records end in any order: what may be committed, and what lies above it.

Words: a record is *accepted* when it was read and *done* when it needs no more handling. *next* is the offset below
which all is done: only that is committed. What is done above it are *ranges*; they and the attempts of what failed
go along in the commit's metadata, so that who goes on there skips what is done. A number may mean another record after
the server lost its end, hence the log's *epochs* stand with them: ranges count up to where the logs part.

An owner *begins* a partition, and says so in a commit before its first call; when it ends in order, it takes that back.
A successor that finds the word (it stays until ``next`` has moved, and is behind what was done before) knows that
nobody lived to tell of it, and is *cautious* for the next thousand calls: it notes each in a commit before it is made.
A call that is found noted counts as a *death* of its record, and as an attempt.

No clock, no lock, no socket.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

from streamlayer._core.truncation import diverged_at

MOST_RANGES: Final = 1000
"""Ranges above ``next`` at most: a record that is not done lies before each, and a partition holds no more of those."""
_DOUBTFUL: Final = 1000  # calls: what an owner had in hand when it died lies among them
_MARK: Final = "streamlayer-progress/1"
_LONGEST: Final = 32_000


class Kept(NamedTuple):
    """What a commit's metadata says of the records above its offset.

    :ivar epochs: the log's, up to the last record that was read, as ``number:token:start,…``; empty if unknown.
    :ivar ranges: (first offset, offset behind the last) of what is done, ascending.
    :ivar attempts: offset -> how often its handling has failed.
    :ivar deaths: offset -> how many of these attempts ended with their worker.
    :ivar begun: its owner has begun, and did not say how it ended.
    :ivar calls: offsets of the calls that ran then.
    """

    epochs: str
    ranges: tuple[tuple[int, int], ...]
    attempts: dict[int, int]
    deaths: dict[int, int]
    begun: bool = False
    calls: tuple[int, ...] = ()


NOTHING: Final = Kept("", (), {}, {})


class Progress:
    """One partition.

    :ivar next: all before it is done.
    :ivar high: behind the last record that was accepted.
    :ivar attempts: offset -> how often the handling of a record that is not done has failed.
    :ivar deaths: offset -> how many of these attempts ended with their worker.
    :param start: the offset at which reading begins.
    :param kept: what the commit of that offset says.
    """

    def __init__(self, start: int, kept: Kept = NOTHING) -> None:
        self.next = self.high = start
        self.attempts = {offset: count for offset, count in kept.attempts.items() if offset >= start}
        self.deaths = {offset: count for offset, count in kept.deaths.items() if offset >= start}
        for offset in kept.calls:
            self.attempts[offset] = self.attempts.get(offset, 0) + 1
            self.deaths[offset] = self.deaths.get(offset, 0) + 1
        self._begun = False
        self._doubtful = _DOUBTFUL if kept.begun else 0
        self._calls: set[int] = set()
        self._kept_epochs = kept.epochs
        self._kept = [(first, end) for first, end in kept.ranges if first >= start]
        self._got_on = max([start + 1, *(end for _, end in self._kept)])
        self._firsts: list[int] = []
        self._ends: list[int] = []

    @property
    def ranges(self) -> int:
        """How many ranges are done above ``next``."""
        return len(self._firsts) + len(self._kept)

    @property
    def cautious(self) -> bool:
        """Whether workers have ended here, it may be for a record that is not done yet."""
        return self._doubtful > 0 or bool(self.deaths)

    @property
    def doubtful(self) -> bool:
        """Whether any call is to be stored before it is made, not only those of records that have deaths."""
        return self._doubtful > 0

    def begin(self) -> None:
        """This owner is at work from now on: its commits say so until ``next`` is behind what was in hand before."""
        self._begun = True

    def leave(self) -> None:
        """This owner ends in order."""
        self._begun = False
        self._calls.clear()

    def call(self, offset: int) -> None:
        """A record's call is noted: if nothing more is heard, its worker has ended with it."""
        self._calls.add(offset)

    def called(self, offset: int) -> None:
        """The worker has outlived the call."""
        if offset in self._calls:
            self._calls.discard(offset)
            if offset not in self.attempts:  # one that is called again and again counts once
                self._doubtful -= 1

    def resuming(self, offset: int) -> bool:
        """Whether an earlier owner has said that this record is done; ``trusts`` tells if that holds."""
        for first, end in self._kept:
            if offset < end:
                return offset >= first
        return False

    def trusts(self, offset: int, epochs: str) -> bool:
        """Whether a record is the one that the earlier owner saw under its offset.

        :param epochs: the log's, up to that record, as it is read now.
        """
        if not (epochs and self._kept_epochs):
            return epochs == self._kept_epochs
        point = diverged_at(self._kept_epochs, epochs)
        return point is not None and offset < point

    def accept(self, offset: int) -> None:
        """A record was read. What lies between it and the one before is not in the log any more, and counts as done."""
        if offset > self.high:
            self._done(self.high, offset)
            if self.attempts:
                for gone in [at for at in self.attempts if self.high <= at < offset]:
                    self.forget(gone)
        self.high = offset + 1
        while self._kept and self._kept[0][1] <= self.high:
            del self._kept[0]

    def forget(self, offset: int) -> None:
        """What is known of a record's attempts was another's, or is of no use any more."""
        self.attempts.pop(offset, None)
        self.deaths.pop(offset, None)

    def rewind(self, offset: int) -> None:
        """Reading went back to this offset: what was done from there on is to be done again."""
        at = bisect_left(self._firsts, offset)
        del self._firsts[at:], self._ends[at:]
        if at and self._ends[at - 1] > offset:
            self._ends[at - 1] = offset
        self._kept.clear()
        self.attempts = {at: count for at, count in self.attempts.items() if at < offset}
        self.deaths = {at: count for at, count in self.deaths.items() if at < offset}
        self._calls = {at for at in self._calls if at < offset}
        self.next, self.high = min(self.next, offset), offset
        self._got_on = min(self._got_on, offset + 1)

    def done(self, offset: int) -> None:
        """A record needs no more handling."""
        if self.attempts:
            self.forget(offset)
        if offset == self.next and not self._firsts:  # in order, as nearly always
            self.next = offset + 1
        else:
            self._done(offset, offset + 1)

    def _done(self, first: int, end: int) -> None:
        firsts, ends = self._firsts, self._ends
        first = max(first, self.next)
        if first >= end:
            return
        at = bisect_right(firsts, first)
        if at and ends[at - 1] >= first:
            at -= 1
            first = firsts[at]
        behind = bisect_right(firsts, end)
        if behind > at:
            end = max(end, ends[behind - 1])
        firsts[at:behind], ends[at:behind] = [first], [end]
        if firsts[0] <= self.next:
            self.next = ends[0]
            del firsts[0], ends[0]

    def to_metadata(self, epochs: str) -> str:
        """What to commit beside ``next``; empty where there is nothing to say.

        :param epochs: the log's, up to the last record that was accepted. While ranges of an earlier owner are not read
            yet, its own stay: what was done since may then be done twice rather than never.
        """
        kept = [(max(first, self.high), end) for first, end in self._kept]
        ranges = [*zip(self._firsts, self._ends, strict=True), *kept]
        begun = self._begun and (self.next < self._got_on or bool(self._calls))
        if not ranges and not self.attempts and not begun:
            return ""
        if self._kept or any(offset >= self.high for offset in self.attempts):
            epochs = self._kept_epochs
        base = self.next
        done = ",".join(f"{first - base}+{end - first}" for first, end in ranges)
        died = [f"{at - base}:{self.attempts[at]}:{count}" for at, count in sorted(self.deaths.items())]
        failed = [f"{at - base}:{count}" for at, count in sorted(self.attempts.items()) if at not in self.deaths]
        state = ":".join(["begun", *map(str, sorted(offset - base for offset in self._calls))]) if begun else "-"
        for told in ([*died, *failed], died):
            text = f"{_MARK} {epochs or '-'} {done or '-'} {','.join(told) or '-'} {state}"
            if len(text) <= _LONGEST:
                return text
        return f"{_MARK} {epochs or '-'} {done or '-'} - {state[:5]}"  # whose calls run is not said


def from_metadata(text: str, base: int) -> Kept:
    """Read what ``to_metadata`` wrote beside an offset.

    :param text: a commit's metadata; a text of somebody else's says nothing.
    :param base: the offset that was committed.
    """
    mark, *parts = text.split(" ")
    if mark != _MARK or len(parts) != 4:
        return NOTHING
    epochs, done, failed, state = ("" if part == "-" else part for part in parts)
    ranges: list[tuple[int, int]] = []
    attempts: dict[int, int] = {}
    deaths: dict[int, int] = {}
    try:
        for part in filter(None, done.split(",")):
            gap, _, length = part.partition("+")
            ranges.append((base + int(gap), base + int(gap) + int(length)))
        for part in filter(None, failed.split(",")):
            gap, count, *died = part.split(":")
            attempts[base + int(gap)] = int(count)
            if died:
                deaths[base + int(gap)] = int(died[0])
        begun, *calls = state.split(":")
        called = tuple(base + int(gap) for gap in calls)
        diverged_at(epochs, epochs) if epochs else None
    except ValueError:
        return NOTHING
    return Kept(epochs, tuple(ranges), attempts, deaths, begun == "begun", called)
