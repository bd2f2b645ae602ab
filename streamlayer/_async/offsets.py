"""Where logs begin and end, and which record is the first at or after a time."""

from __future__ import annotations

from collections.abc import Sequence

from streamlayer._async.client import Client
from streamlayer._async.link import Unanswered
from streamlayer._core import calls
from streamlayer._core.calls import Fetched, Field, ListedOffsets
from streamlayer._core.codec import FrameError, decode_frames
from streamlayer._core.positions import PartitionPosition
from streamlayer._core.refusals import Refusal, where
from streamlayer._types import OffsetAndTimestamp
from streamlayer.errors import CorruptRecordError, OffsetOutOfRangeError

EARLIEST = -2
LATEST = -1
ASKED_AT_ONCE = 500


class Offsets:
    """Answers questions about logs."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def find(self, positions: Sequence[PartitionPosition], timestamp: int, timeout_ms: int = 10_000) -> list[int]:
        """Offsets by Kafka's timestamps: -2 the first, -1 the next, else the first at or after it, or the next."""
        if timestamp >= 0:
            found = [await self._first_at(position, timestamp) for position in positions]
            return [at.offset if at is not None else end for at, end in found]
        answers: list[int] = []
        for start in range(0, len(positions), ASKED_AT_ONCE):
            part = positions[start : start + ASKED_AT_ONCE]
            outcomes = await self._client.execute([calls.list_offsets(p.keys, topic_id=p.topic_id) for p in part])
            for position, outcome in zip(part, outcomes, strict=True):
                listed: ListedOffsets = outcome
                if isinstance(outcome, Unanswered) or getattr(outcome, "retriable", False):
                    again = calls.list_offsets(position.keys, topic_id=position.topic_id)
                    listed = await self._client.call(again, timeout_ms)
                elif isinstance(outcome, Exception):
                    raise outcome
                answers.append(listed.log_start if timestamp == EARLIEST else listed.next)
        return answers

    async def at_time(self, position: PartitionPosition, timestamp: int) -> OffsetAndTimestamp | None:
        """The first record at or after a time; ``None`` if there is none."""
        found, _ = await self._first_at(position, timestamp)
        return found

    async def _first_at(self, position: PartitionPosition, timestamp: int) -> tuple[OffsetAndTimestamp | None, int]:
        """The first record at or after a time, and where the log ended when it was looked for."""
        segment, after = position.segment, 0
        while True:
            call = calls.list_offsets(
                position.keys, topic_id=position.topic_id, timestamp=timestamp, segment=segment, after=after
            )
            try:
                listed = await self._client.call(call)
            except Refusal as refusal:
                segment = after = int(refusal.detail)
                continue
            if listed.field is None:
                return None, listed.next
            found = _first_in(position, listed.field, timestamp, listed.log_start)
            if found is not None:
                return found, listed.next
            # What reached the time first is no longer in the log: look through what is.
            return await self._scan(position, timestamp, max(listed.log_start, listed.field.last + 1))

    async def _scan(
        self, position: PartitionPosition, timestamp: int, start: int
    ) -> tuple[OffsetAndTimestamp | None, int]:
        segment = position.segment
        while True:
            call = calls.fetch(
                position.keys,
                topic_id=position.topic_id,
                position=start,
                max_bytes=1 << 20,
                segment=segment,
                arm=False,
            )
            try:
                fetched: Fetched = await self._client.call(call)
            except Refusal as refusal:
                segment = int(refusal.detail)
                continue
            except OffsetOutOfRangeError as error:
                if error.log_start <= start:  # the server lost the log's end meanwhile
                    return None, start
                start = error.log_start  # it was trimmed meanwhile
                continue
            for field in fetched.fields:
                found = _first_in(position, field, timestamp, start)
                if found is not None:
                    return found, fetched.next
                start = field.last + 1
            if not fetched.fields:
                return None, fetched.next


def _first_in(position: PartitionPosition, field: Field, timestamp: int, start: int) -> OffsetAndTimestamp | None:
    offset = field.base
    try:
        for frame in decode_frames(field.frames):
            for time in frame.timestamps:
                if time >= timestamp and offset >= start:
                    return OffsetAndTimestamp(offset, time)
                offset += 1
    except FrameError as error:
        msg = f"{where(*position.tp)}: the records from offset {offset} to {field.last} cannot be read: {error}"
        raise CorruptRecordError(msg, *position.tp, offset, field.last + 1) from error
    return None
