"""What a partition should hold, as lists: the model that the scripts are held against.

It knows nothing of segments, tails and keys: only what was appended when, what was deleted, and the settings. So it has
two bounds of the log start: what may not be missing yet, and what may not be served any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from streamlayer._core.positions import epochs_crossed
from tests.lua.run import Stored

Record = tuple[bytes, int]

PRODUCERS = ("one", "two")


@dataclass
class ProducerState:
    """What a producer sent, and what the server must remember of it.

    :ivar batches: those of its epoch, with their offsets.
    """

    epoch: int = 0
    next: int = 0
    known: bool = False
    batches: list[tuple[Stored, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Appended:
    """One batch that is in the log, or was.

    :ivar end: the offset behind it.
    :ivar bytes_to_end: of all that was appended up to and with it.
    :ivar at: when it was appended.
    """

    end: int
    bytes_to_end: int
    at: int


@dataclass(frozen=True)
class Altering:
    """Settings that are being changed.

    :ivar segments: what the next call names.
    """

    version: int
    settings: dict[str, int]
    segments: tuple[int, int] = (0, -1)


@dataclass
class Model:
    """A partition as lists.

    :ivar kept_from: no record from here on may be missing.
    :ivar gone_before: none before this may be served.
    :ivar start: the highest log start that was told; it never falls.
    :ivar widest_ms: the longest retention there was; -1 if there once was none.
    :ivar largest: bytes of the largest segment limit and of the largest batch there were, together.
    """

    settings: dict[str, int]
    records: list[Record] = field(default_factory=list)
    batches: list[Appended] = field(default_factory=list)
    producers: dict[str, ProducerState] = field(default_factory=lambda: {name: ProducerState() for name in PRODUCERS})
    kept_from: int = 0
    gone_before: int = 0
    start: int = 0
    widest_ms: int = 0
    largest_segment: int = 0
    largest_frame: int = 0
    altering: Altering | None = None
    generation: int = 1
    partitions: int = 1
    growing: bool = False

    def __post_init__(self) -> None:
        self.apply(self.settings)

    def copy(self) -> Model:
        """As it is now."""
        producers = {name: replace(state, batches=list(state.batches)) for name, state in self.producers.items()}
        return replace(self, records=list(self.records), batches=list(self.batches), producers=producers)

    def apply(self, settings: dict[str, int]) -> None:
        """From here on these settings hold."""
        self.settings = settings
        retention_ms = settings["retention_ms"]
        self.widest_ms = -1 if -1 in {retention_ms, self.widest_ms} else max(self.widest_ms, retention_ms)
        self.largest_segment = max(self.largest_segment, settings["segment_bytes"])

    def append(self, records: list[Record], size: int, at: int) -> None:
        """A batch came."""
        self.records += records
        before = self.batches[-1].bytes_to_end if self.batches else 0
        self.batches.append(Appended(len(self.records), before + size, at))
        self.largest_frame = max(self.largest_frame, size)

    def delete(self, before: int) -> None:
        """Records were deleted."""
        self.kept_from = max(self.kept_from, before)
        self.gone_before = max(self.gone_before, before)

    def may_go(self, now: int, coming: int = 0) -> int:
        """The highest log start there may be: what is older than the retention, or not needed to hold its bytes.

        :param coming: bytes that a trim was told to make room for.
        """
        retention_ms, retention_bytes = self.settings["retention_ms"], self.settings["retention_bytes"]
        total = self.batches[-1].bytes_to_end if self.batches else 0
        for batch in self.batches:
            if batch.end <= self.kept_from:
                continue
            old = retention_ms >= 0 and batch.at + retention_ms <= now
            too_many = retention_bytes >= 0 and total + coming - batch.bytes_to_end >= retention_bytes
            if not old and not too_many:
                break
            self.kept_from = batch.end
        return self.kept_from

    def must_go(self, now: int) -> int:
        """The lowest log start there may be: an eighth of the retention for a segment's age, 1/64 for its deadline."""
        if self.widest_ms >= 0:
            limit = self.settings["retention_ms"] + self.widest_ms * 9 // 64 + 3
            for batch in self.batches:
                if batch.end > self.gone_before:
                    if batch.at + limit > now:
                        break
                    self.gone_before = batch.end
        return self.gone_before

    def most_bytes(self, *, counts_itself: bool) -> int | None:
        """How many bytes there may be after an append; ``None`` for no limit.

        The oldest segment is on top: its limit, and the batch that went over it.

        :param counts_itself: its producer is idempotent; else a batch comes on top too.
        """
        retention_bytes = self.settings["retention_bytes"]
        frames = 1 if counts_itself else 2
        return None if retention_bytes < 0 else retention_bytes + self.largest_segment + frames * self.largest_frame

    def first_at(self, timestamp: int, start: int) -> int | None:
        """The first record from ``start`` on that is at or after a time."""
        return next((i for i in range(start, len(self.records)) if self.records[i][1] >= timestamp), None)


@dataclass
class Reader:
    """Somebody who reads on from where he is, with the epochs he crossed and the tail he has.

    :ivar seen: every record before his position, as he believes.
    :ivar crossed: empty: his is a bare position, and he claims nothing of what lies before it.
    """

    seen: list[Record] = field(default_factory=list)
    crossed: str = ""
    tail: tuple[int, int] = (-1, 0)

    def took(self, answer: Any) -> None:
        """Remember what a fetch told of epochs and tail."""
        self.crossed, _ = epochs_crossed(answer.epochs, len(self.seen))
        if answer.fields:
            last = answer.fields[-1]
            if last.base == answer.tail_base:
                self.tail = (last.base, len(last.frames))
            elif self.tail[0] == answer.tail_base:
                self.tail = (self.tail[0], self.tail[1] + len(last.frames))
            else:
                self.tail = (-1, 0)
