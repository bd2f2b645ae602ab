"""What a producer learns of a log that went back: whether records are gone that it was told are there (KIP-320).

Each answer to an append carries the log's epochs, ``number:token:start,…``. A producer keeps those of its last
acknowledgement. If the log has others by now, or lacks some, the newest that both know is where they still agree; what
comes behind it, here or there, the other does not have. Where that begins below what was acknowledged, acknowledged
records are gone. ``lib/divergence.lua`` holds a reader's position against the log by the same rule.

No clock, no lock, no socket.
"""

from __future__ import annotations

import math

from streamlayer.errors import LogTruncationError


def diverged_at(before: str, now: str) -> float | None:
    """Where a log parts from what it was: an offset; infinity if it does not; ``None`` if that is unknown.

    Behind the newest epoch that both know, each may have others of its own: two primaries may go on side by side.
    """
    parted: dict[str, float] = {}
    behind = math.inf
    for epoch in reversed(before.split(",")):
        pair, _, start = epoch.rpartition(":")
        parted[pair] = behind
        behind = int(start)
    behind = math.inf
    for epoch in reversed(now.split(",")):
        pair, _, start = epoch.rpartition(":")
        if pair in parted:
            return min(behind, parted[pair])
        behind = int(start)
    return None


class Acknowledged:
    """What a producer was told of one partition last.

    :ivar end: behind the last record; 0 at first.
    :ivar gap: the server no longer knows what this producer sent: something acknowledged is gone.
    """

    __slots__ = ("_epochs", "end", "gap")

    def __init__(self) -> None:
        self.end = 0
        self.gap = False
        self._epochs = ""

    def note(self, place: str, base: int, count: int, epochs: str, *, fresh: bool) -> LogTruncationError | None:
        """Take in an acknowledgement; what it tells of earlier ones.

        :param base: the offset of the batch.
        :param fresh: the batch was sent for the first time: then it lies behind all that was acknowledged before.
        """
        loss = self._loss(place, base, epochs, fresh=fresh) if self.end else None
        self.end = base + count if loss is not None else max(self.end, base + count)
        self.gap = False
        self._epochs = epochs
        return loss

    def all_lost(self, place: str) -> LogTruncationError:
        """What is to be told where the server lost the partition itself."""
        return LogTruncationError(
            f"{place}: the server lost the partition, and with it {self.end} records that it had acknowledged to this "
            "producer or to others before",
            0,
            self.end,
        )

    def _loss(self, place: str, base: int, epochs: str, *, fresh: bool) -> LogTruncationError | None:
        point = math.inf if epochs == self._epochs else diverged_at(self._epochs, epochs)
        if point is not None and point < self.end:
            lost = self.end - int(point)
            return LogTruncationError(
                f"{place}: the server lost {lost} records at the end of the log, from offset {point:.0f} on, that it "
                "had acknowledged to this producer or to others before. What is sent now goes behind what is left",
                int(point),
                lost,
            )
        if self.gap or (fresh and base < self.end):
            return LogTruncationError(
                f"{place}: the server lost records that it had acknowledged to this producer; how many is unknown. "
                "What is sent now goes behind what is left"
            )
        return None
