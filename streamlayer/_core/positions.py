"""Where a consumer stands in each partition, and the fields it has fetched and not yet handed out.

Words: the *position* is the offset of the next record handed out; the *fetch position* is behind all that was fetched.
A position moves by records decoded, never by an index score. A partition *waits* after a fetch reached its log's end:
the server then wakes whoever listens, and until that nothing is asked.

No clock, no lock, no socket: replies in, records out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, Final, NamedTuple

from streamlayer._core.calls import Call, Fetched, Field, fetch
from streamlayer._core.codec import Frame, FrameError, decode_frames, frames_behind
from streamlayer._core.keys import PartitionKeys
from streamlayer._core.refusals import where
from streamlayer._core.truncation import diverged_at
from streamlayer._types import ConsumerRecord, TopicPartition
from streamlayer.errors import CorruptRecordError, RecordDeserializationError, StreamlayerError

EPOCHS_CARRIED: Final = 4
NO_TAIL: Final = (-1, 0)
"""Nothing is known of the tail."""

Deserializer = Callable[[bytes], Any]


def epochs_crossed(epochs: str, position: int) -> tuple[str, float]:
    """The last four of a log's epochs that begin at or before a position; where the next begins."""
    crossed: list[str] = []
    for epoch in epochs.split(","):
        start = int(epoch.rpartition(":")[2])
        if start > position:
            return ",".join(crossed[-EPOCHS_CARRIED:]), start
        crossed.append(epoch)
    return ",".join(crossed[-EPOCHS_CARRIED:]), math.inf


class Left(NamedTuple):
    """How far a reader had come in a partition that it gave up, or lost: what it knows if it reads it again.

    :ivar topic_id: the log.
    :ivar end: behind the last record that was handed out.
    :ivar epochs: the log's, as they were then.
    """

    topic_id: str
    end: int
    epochs: str


class PartitionPosition:
    """One partition of a consumer.

    :ivar position: the offset of the next record to hand out.
    :ivar highwater: the log's end as the last fetch saw it; ``None`` before the first.
    :ivar waiting: the log's end was reached; a wake-up will come.
    :ivar paused: nothing is fetched or handed out.
    :ivar error: what keeps it from going on; a seek clears it.
    :ivar buffered: bytes that were fetched and may not all be handed out.
    :ivar cut_back: the server lost records that were read; ended by who has taken note of it.
    :ivar sought: how many seeks there were.
    :ivar placed: whether the server has answered since the last: the segment is known then.
    :ivar left: how far this reader had come before, under an earlier assignment; looked at with the next fetch.
    :ivar metadata: the text beside the committed offset at which it was taken up.
    :ivar cut_off: what is behind them cannot be fetched; they are handed out first.
    """

    def __init__(self, tp: TopicPartition, keys: PartitionKeys, topic_id: str, generation: int, position: int) -> None:
        self.tp = tp
        self.keys = keys
        self.topic_id = topic_id
        self.generation = generation
        self.position = position
        self.highwater: int | None = None
        self.waiting = False
        self.paused = False
        self.error: StreamlayerError | None = None
        self.segment = 0
        self.cut_back = False
        self.sought = 0
        self.placed = False
        self._fetch_position = position
        self._crossed = ""
        self._epochs: str = ""
        self._next_epoch: float = 0
        self._tail = NO_TAIL
        self._fields: deque[Field] = deque()
        self._frames: Iterator[Frame] | None = None
        self._frame: Frame | None = None
        self._frame_base = position
        self._last = -1
        self._stored = b""
        self.buffered = 0
        self.cut_off = False
        self.left: Left | None = None
        self.metadata = ""

    # --- fetching ----------------------------------------------------------------------------------------------------

    def fetch_call(self, max_bytes: int, *, peek: bool = False) -> Call[Fetched]:
        """Ask for what is behind all that was fetched, and to be woken when there is more.

        :param peek: of a server that refuses writes: nobody is woken.
        """
        return fetch(
            self.keys,
            topic_id=self.topic_id,
            position=self._fetch_position,
            max_bytes=max_bytes,
            segment=self.segment,
            tail=self._tail,
            crossed=self._crossed,
            peek=peek,
        )

    def fetched(self, reply: Fetched) -> int:
        """Take a reply in.

        :returns: how many bytes came.
        """
        self.highwater = reply.next
        self.placed = True
        size = 0
        position = self._fetch_position
        for field in reply.fields:
            if not field.base <= position <= field.last:
                place = where(*self.tp)
                msg = f"{place}: asked for offset {position}, the server has {field.base} to {field.last} there"
                self.error = CorruptRecordError(msg, *self.tp, position, max(position + 1, field.base))
                return size
            position = field.last + 1
            size += len(field.frames)
            self._fields.append(field)
        self._remember_tail(reply)
        self._fetch_position = position
        self.buffered += size
        self.waiting = position == reply.next
        if reply.epochs != self._epochs or position >= self._next_epoch:
            self._epochs = reply.epochs
            self._crossed, self._next_epoch = epochs_crossed(reply.epochs, position)
        return size

    def leave(self) -> Left | None:
        """What to remember of it; ``None`` if nothing was read."""
        return Left(self.topic_id, self.position, self._epochs) if self._epochs else self.left

    def lost_since(self) -> tuple[int, int] | None:
        """Where the log parted below what was handed out under an earlier assignment, and how many of these are gone.

        Told once: a committed offset may lie before that point, and what comes then has offsets that were given before.
        """
        left, self.left = self.left, None
        if left is None or left.topic_id != self.topic_id or not self._epochs:
            return None
        point = diverged_at(left.epochs, self._epochs)
        point = min(math.inf if point is None else point, self.highwater or 0)
        return (int(point), left.end - int(point)) if point < left.end else None

    def _remember_tail(self, reply: Fetched) -> None:
        """How much of the tail the reader has, so that the next fetch asks for the rest of it only."""
        fields = reply.fields
        if not fields:
            return
        base, have = self._tail
        last = fields[-1]
        if last.base == reply.tail_base:
            self._tail = (last.base, len(last.frames))
        elif base == reply.tail_base:
            self._tail = (base, have + len(last.frames))
        else:
            self._tail = NO_TAIL

    def forget_tail(self) -> bool:
        """Ask for the whole tail the next time: who answers may be another server, with other bytes in it.

        :returns: whether anything was known of it.
        """
        known, self._tail = self._tail != NO_TAIL, NO_TAIL
        return known

    def drop(self) -> None:
        """Forget what was fetched and not handed out; the position stays."""
        self._fields.clear()
        self._frames = self._frame = None
        self._stored = b""
        self._fetch_position = self.position
        self._tail = NO_TAIL
        self.buffered = 0
        self.waiting = self.cut_off = False

    def seek(self, position: int) -> None:
        """Go on elsewhere. What the reader knew of the log's epochs no longer counts: this is a bare position."""
        self.position = position
        self.sought += 1
        self.placed = False
        self.error = None
        self._crossed = self._epochs = ""
        self.drop()

    def resume(self, position: int, crossed: str, metadata: str) -> None:
        """Go on where somebody stopped who had crossed these epochs of the log, as ``crossed_at`` told."""
        self.seek(position)
        self._crossed, self.metadata = crossed, metadata

    def go_back(self) -> bool:
        """Go on where this reader was before its log was gone for a while; tell whether it is that log."""
        left, self.left = self.left, None
        if left is None or left.topic_id != self.topic_id:
            return False
        self.resume(left.end, epochs_crossed(left.epochs, left.end)[0], self.metadata)
        return True

    def crossed_at(self, offset: int) -> str:
        """``number:token:start`` of the last epochs that begin at or before an offset; empty if they are unknown."""
        return epochs_crossed(self._epochs, offset)[0] if self._epochs else self._crossed

    def give_back(self, offset: int) -> None:
        """Records from this offset on were not handed out after all."""
        self.position = offset
        self.drop()

    def truncated(self, diverged_at: int) -> int:
        """The log was cut back: nothing from here on is what it was.

        :returns: how many records that were handed out are gone.
        """
        self.cut_back = True
        before = self.left.end if self.left is not None and self.left.topic_id == self.topic_id else 0
        self.left = None
        lost = max(0, max(self.position, before) - diverged_at)
        self.position = min(self.position, diverged_at)
        self.drop()  # the epochs crossed still tell what comes before
        return lost

    # --- handing out -------------------------------------------------------------------------------------------------

    def take(
        self, most: int, end: int | None, key_of: Deserializer | None, value_of: Deserializer | None
    ) -> list[ConsumerRecord[Any, Any]]:
        """Hand out records.

        :param most: how many at most.
        :param end: an offset to stop before.
        :raises StreamlayerError: the next record cannot be handed out; a seek past it goes on.
        """
        records: list[ConsumerRecord[Any, Any]] = []
        while len(records) < most and self.error is None and (end is None or self.position < end):
            frame = self._next_frame()
            if frame is None:
                break
            first = self.position - self._frame_base
            last = min(frame.count, first + most - len(records))
            if end is not None:
                last = min(last, end - self._frame_base)
            records += self._records(frame, first, last, key_of, value_of)
        if self.position == self._fetch_position:
            self._fields.clear()
            self._frames = self._frame = None
            self.buffered = 0
            self.cut_off = False
        if not records and self.error is not None:
            raise self.error
        return records

    def _next_frame(self) -> Frame | None:
        """The frame that holds the position; ``None`` if nothing fetched does."""
        while True:
            if self._frame is not None:
                if self.position < self._frame_base + self._frame.count:
                    return self._frame
                self._frame_base += self._frame.count
                self._frame = None
            if self._frames is None:
                if not self._fields:
                    return None
                field = self._fields.popleft()
                self._stored = field.frames
                self._frames = decode_frames(field.frames)
                self._frame_base, self._last = field.base, field.last
            try:
                self._frame = next(self._frames, None)
            except FrameError as error:
                if not self._pass_over(error):
                    return None
                continue
            if self._frame is None:
                self._frames = None
                self.buffered -= len(self._stored)
                if self._frame_base != self._last + 1:
                    self._corrupt(f"the frames end at {self._frame_base - 1}, the index says {self._last}", None)
                    return None
            elif self._frame_base + self._frame.count > self._last + 1:
                self._corrupt(f"the frames go on behind {self._last}, where the index ends", None)
                return None

    def _pass_over(self, error: FrameError) -> bool:
        """Go on behind frames that are not sound if the position is behind them already; else they are the error."""
        behind = frames_behind(self._stored, error.at)
        sound = self._last + 1 - sum(frame.count for frame in behind)
        if sound <= self._frame_base:  # the counts contradict the index: believe none of it
            sound = self._last + 1
        elif sound <= self.position:
            self._frame_base = sound
            self._frames = iter(behind)
            return True
        self._corrupt(str(error), error, sound)
        return False

    def _corrupt(self, why: str, cause: Exception | None, next_offset: int | None = None) -> None:
        offset = max(self.position, self._frame_base)
        next_offset = self._last + 1 if next_offset is None else next_offset
        lost = f"the records from offset {offset} to {next_offset - 1} cannot be read"
        if next_offset <= offset:
            lost = f"what stands behind offset {offset - 1} is not read"
        msg = f"{where(*self.tp)}: {lost}: {why}. To go on behind them: consumer.seek({self.tp!r}, {next_offset})"
        self.error = CorruptRecordError(msg, *self.tp, offset, next_offset)
        self.error.__cause__ = cause
        self._frames = self._frame = None

    def _records(
        self, frame: Frame, first: int, last: int, key_of: Deserializer | None, value_of: Deserializer | None
    ) -> list[ConsumerRecord[Any, Any]]:
        keys: list[Any] | None = frame.keys
        values: list[Any] = frame.values
        if first or last != frame.count:
            keys = keys[first:last] if keys is not None else None
            values = values[first:last]
        if key_of is not None and keys is not None:
            keys = self._deserialized(keys, key_of, "key")
            values = values[: len(keys)]
        if value_of is not None:
            values = self._deserialized(values, value_of, "value")
        start = self.position
        self.position = start + len(values)
        headers = frame.headers
        return list(
            map(
                ConsumerRecord,
                repeat(self.tp.topic),
                repeat(self.tp.partition),
                range(start, self.position),
                frame.timestamps[first:last],
                repeat(frame.timestamp_type),
                repeat(None) if keys is None else keys,
                values,
                repeat(()) if headers is None else [pairs or () for pairs in headers[first:last]],
            )
        )

    def _deserialized(self, column: list[Any], deserialize: Deserializer, what: str) -> list[Any]:
        """Deserialize a column up to the first that fails; that one becomes the partition's error."""
        result: list[Any] = []
        try:
            for stored in column:
                result.append(None if stored is None else deserialize(stored))  # noqa: PERF401 - what was done counts
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises is told with its place
            offset = self.position + len(result)
            msg = (
                f"{where(*self.tp)}: the {what} at offset {offset} does not deserialize: {error}. "
                f"To go on behind it: consumer.seek({self.tp!r}, {offset + 1})"
            )
            self.error = RecordDeserializationError(msg, *self.tp, offset)
            self.error.__cause__ = error
        return result
