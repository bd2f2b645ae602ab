"""Where logs begin and end, and which record is the first at or after a time."""

from __future__ import annotations

from collections.abc import Sequence

from streamlayer._async.client import Client
from streamlayer._core import calls
from streamlayer._core.calls import Fetched, Field
from streamlayer._core.codec import FrameError, decode_frames
from streamlayer._core.positions import PartitionPosition
from streamlayer._core.refusals import Refusal, where
from streamlayer._core.segment_map import Claim, SegmentMap
from streamlayer._types import OffsetAndTimestamp
from streamlayer.errors import CorruptRecordError, ForeignDataError, OffsetOutOfRangeError, PartitionDamagedError

EARLIEST = -2
LATEST = -1
ASKED_AT_ONCE = 500


class Offsets:
    """Answers questions about logs."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._maps: dict[str, tuple[str, SegmentMap]] = {}

    async def find(self, positions: Sequence[PartitionPosition], timestamp: int, timeout_ms: int = 10_000) -> list[int]:
        """Offsets by Kafka's timestamps: -2 the first, -1 the next, else the first at or after it, or the next."""
        if timestamp >= 0:
            found = [await self._first_at(position, timestamp) for position in positions]
            return [at.offset if at is not None else end for at, end in found]
        answers: list[int] = []
        for start in range(0, len(positions), ASKED_AT_ONCE):
            part = positions[start : start + ASKED_AT_ONCE]
            batch = [calls.list_offsets(p.keys, topic_id=p.topic_id) for p in part]
            listed = await self._client.call_all(batch, timeout_ms)
            answers += [each.log_start if timestamp == EARLIEST else each.next for each in listed]
        return answers

    async def begin(self, positions: Sequence[PartitionPosition], timestamp: int, timeout_ms: int) -> None:
        """Have positions be where ``find`` says. One that is damaged is in error, and keeps no other from beginning."""
        try:
            found = await self.find(positions, timestamp, timeout_ms)
        except (PartitionDamagedError, ForeignDataError) as error:
            if len(positions) == 1:
                positions[0].error = error
                return
            for position in positions:
                await self.begin([position], timestamp, timeout_ms)
            return
        for position, offset in zip(positions, found, strict=True):
            position.seek(offset)

    async def at_time(self, position: PartitionPosition, timestamp: int) -> OffsetAndTimestamp | None:
        """The first record at or after a time; ``None`` if there is none."""
        found, _ = await self._first_at(position, timestamp)
        return found

    async def _first_at(self, position: PartitionPosition, timestamp: int) -> tuple[OffsetAndTimestamp | None, int]:
        """The first record at or after a time, and where the log ended when it was looked for."""
        claim = Claim(position.segment, 0, 0, None)
        segments, learnt = self._map_of(position), False
        if segments is not None:
            claim = segments.first_at(timestamp)
        while True:
            call = calls.list_offsets(position.keys, topic_id=position.topic_id, timestamp=timestamp, **claim._asdict())
            try:
                listed = await self._client.call(call)
            except Refusal as refusal:
                claim = Claim(int(refusal.detail), int(refusal.detail), 0, None)
                if not learnt:
                    segments, learnt = await self.learn(position), True
                    claim = segments.first_at(timestamp)
                continue
            if segments is not None:
                segments.trim(listed.log_start)
            if listed.field is None:
                return None, listed.next
            found = _first_in(position, listed.field, timestamp, listed.log_start)
            if found is not None:
                return found, listed.next
            # What reached the time first is no longer in the log: look through what is.
            return await self._scan(position, timestamp, max(listed.log_start, listed.field.last + 1))

    # --- which segment -----------------------------------------------------------------------------------------------

    def _map_of(self, position: PartitionPosition) -> SegmentMap | None:
        topic_id, segments = self._maps.get(position.keys.prefix, ("", None))
        return segments if topic_id == position.topic_id else None

    def name_segment(self, position: PartitionPosition) -> None:
        """Have the next fetch name the segment that holds the position, if that is known."""
        segments = self._map_of(position)
        holder = None if segments is None else segments.holder_of(position.position)
        if holder is not None:
            position.segment = holder

    async def learn(self, position: PartitionPosition) -> SegmentMap:
        """List the closed segments of a log that are not known yet, for the look-ups and seeks to come."""
        segments = self._map_of(position) or SegmentMap()
        self._maps[position.keys.prefix] = position.topic_id, segments
        while True:
            call = calls.list_segments(position.keys, topic_id=position.topic_id, after=segments.last)
            if segments.add(await self._client.call(call)) and segments.complete:
                return segments

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
