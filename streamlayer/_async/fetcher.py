"""Fetching: rounds of one call a partition, and what each answer means for the position."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator

from streamlayer._async.assignment import Assignment
from streamlayer._async.client import Client
from streamlayer._async.link import Outcome, Unanswered
from streamlayer._async.offsets import EARLIEST, LATEST, Offsets
from streamlayer._config import ConsumerOptions
from streamlayer._core.calls import Fetched
from streamlayer._core.positions import PartitionPosition
from streamlayer._core.refusals import Refusal, only_writes_are_refused, where
from streamlayer._core.retry import backoff_ms
from streamlayer._types import Health
from streamlayer._waiting import aio as waiting
from streamlayer.errors import (
    LogTruncationError,
    OffsetOutOfRangeError,
    StreamlayerError,
    UnknownTopicOrPartitionError,
)

logger = logging.getLogger("streamlayer")

PARTITIONS_AT_ONCE = 64
FIRST_SEEK = 1
"""Reading begins with one."""
REFILL_MS = 10
"""While records of some partitions wait to be handed out, the others are asked this often."""


class Fetcher:
    """Fetches for one consumer.

    :ivar retry_at: when to try again after trouble (ms of the monotonic clock); 0 when there is none.
    """

    def __init__(self, client: Client, assignment: Assignment, offsets: Offsets, options: ConsumerOptions) -> None:
        self._client = client
        self._assignment = assignment
        self._offsets = offsets
        self._options = options
        self._turn = 0
        self._fetched_at = 0
        self._opened = 0
        self._attempt = 0
        self._trouble: StreamlayerError | None = None
        self.retry_at = 0
        self.truncations = self.records_lost = self.records_missed = 0

    def health(self) -> Health:
        """How it is doing."""
        if self._trouble is not None:
            return Health(ok=False, state="retrying", reason=str(self._trouble))
        return Health(ok=True, state="ok" if self._client.reached else "new", reason="")

    @property
    def buffered(self) -> int:
        """Bytes fetched and not handed out."""
        return sum(p.buffered for p in self._assignment.positions.values() if not p.paused)

    def in_turn(self) -> Iterator[PartitionPosition]:
        """All partitions, each time beginning with another."""
        positions = list(self._assignment.positions.values())
        if positions:
            self._turn = (self._turn + 1) % len(positions)
        return itertools.chain(positions[self._turn :], positions[: self._turn])

    def _wants(self, position: PartitionPosition) -> bool:
        if position.paused or position.waiting or position.error is not None:
            return False
        return not position.buffered or (position.buffered < self._options.fetch_min_bytes and not position.cut_off)

    def due(self, now: int) -> bool:
        """Whether a partition is to be asked now."""
        if now < self.retry_at or (now - self._fetched_at < REFILL_MS and self.buffered):
            return False
        return any(self._wants(position) for position in self._assignment.positions.values())

    async def keep_up(self, now: int) -> None:
        """Do what is due: look topics up, fetch. Trouble with the server is noted and tried again later.

        :raises StreamlayerError: what trying again cannot mend.
        """
        if now < self.retry_at:
            return
        try:
            looked = await self._assignment.keep_up(now)
            if self.due(now):
                await self._fetch(now)
            elif (looked or self._assignment.in_group) and not self._assignment.positions:
                self._out_of_trouble()  # no fetch will say so
        except StreamlayerError as error:
            self.endure(error)

    def endure(self, error: StreamlayerError) -> None:
        """Note trouble with the server, and try again later.

        :raises StreamlayerError: what trying again cannot mend.
        """
        if not error.retriable or not self._client.reached:
            raise error
        self._in_trouble(error)

    def _in_trouble(self, error: StreamlayerError) -> None:
        if self._trouble is None:
            logger.warning("reading is in trouble and goes on trying: %s", error)
        self._trouble = error
        self.retry_at = waiting.monotonic_ms() + int(backoff_ms(self._attempt, random.random()))
        self._attempt += 1

    def _out_of_trouble(self) -> None:
        if self._trouble is not None:
            logger.info("reading goes on")
            self._trouble = None
            self._attempt = self.retry_at = 0

    async def _fetch(self, now: int) -> None:
        self._fetched_at = now
        asked = list(itertools.islice(filter(self._wants, self.in_turn()), PARTITIONS_AT_ONCE))
        share = max(1, self._options.fetch_max_bytes // len(asked))
        most = min(self._options.max_partition_fetch_bytes, share)
        for position in asked:
            if not position.placed:
                self._offsets.name_segment(position)
        trouble: StreamlayerError | None = None
        unarmed: list[PartitionPosition] = []
        for position, outcome in await self._ask(asked, most):
            trouble = await self._take_in(position, outcome) or trouble
            if isinstance(outcome, StreamlayerError) and only_writes_are_refused(outcome):
                unarmed.append(position)
        if unarmed:  # what is there can be read all the same
            for position, outcome in await self._ask(unarmed, most, peek=True):
                await self._take_in(position, outcome)
                position.waiting = False
        if trouble is None:
            self._out_of_trouble()
        else:
            self._in_trouble(trouble)  # once a round, however many partitions met it: back-off begins with ms

    async def _ask(
        self, positions: list[PartitionPosition], most: int, *, peek: bool = False
    ) -> list[tuple[PartitionPosition, Outcome]]:
        """Ask once for each. An answer that may not fit what is held of a tail is left out: it is asked for again."""
        outcomes = await self._client.execute([position.fetch_call(most, peek=peek) for position in positions])
        answers = list(zip(positions, outcomes, strict=True))
        if self._client.opened == self._opened:
            return answers
        # Maybe another server; its epochs say so, but not where nobody may ask who it is.
        self._opened = self._client.opened
        unsure = {position for position in self._assignment.positions.values() if position.forget_tail()}
        return [(p, outcome) for p, outcome in answers if p not in unsure or not isinstance(outcome, Fetched)]

    async def _take_in(self, position: PartitionPosition, outcome: Outcome) -> StreamlayerError | None:
        """Take one answer in; if it was trouble with the server, that is returned."""
        if isinstance(outcome, Fetched):
            position.fetched(outcome)
            self._look_back(position)
            if outcome.generation != position.generation:
                position.generation = outcome.generation
                self._assignment.changed()
            return None
        if isinstance(outcome, Refusal):
            position.segment = int(outcome.detail)
            if position.sought > FIRST_SEEK and not position.placed:
                await self._offsets.learn(position)  # who seeks once will seek again
            position.placed = True  # from here on the server's word counts: what was learnt may be of a lost history
            return None
        error: StreamlayerError = outcome.error if isinstance(outcome, Unanswered) else outcome
        if error.retriable:
            return error
        if isinstance(error, LogTruncationError):
            await self._truncated(position, error)
        elif isinstance(error, UnknownTopicOrPartitionError):
            self._assignment.lost_topic(position.tp.topic)
            raise error
        elif position.buffered:
            position.cut_off = True  # first what was fetched before; then this comes again, with numbers that are true
        elif isinstance(error, OffsetOutOfRangeError):
            await self._out_of_range(position, error)
        else:
            position.error = error
        return None

    async def _out_of_range(self, position: PartitionPosition, error: OffsetOutOfRangeError) -> None:
        at = position.position
        if self._options.auto_offset_reset == "none":
            missed = max(0, error.log_start - at)
            self.records_missed += missed
            msg = f"{error}; the position is {at}, {missed} records were missed. Seek to go on"
            position.error = OffsetOutOfRangeError(msg, error.log_start, missed)
            return
        offset = error.log_start
        if self._options.auto_offset_reset == "latest":
            (offset,) = await self._offsets.find([position], LATEST, 0)
        missed = max(0, offset - at)
        self.records_missed += missed
        logger.warning(
            "%s: offset %d is not in the log; going on at %d, %d records were missed",
            where(*position.tp), at, offset, missed,
        )  # fmt: skip
        position.seek(offset)

    async def _truncated(self, position: PartitionPosition, error: LogTruncationError) -> None:
        at, diverged_at = position.position, error.diverged_at
        if self._options.auto_offset_reset == "none" and (diverged_at is None or diverged_at < at):
            lost = None if diverged_at is None else at - diverged_at
            self._count_lost(lost)
            position.error = LogTruncationError(f"{error}; the position is {at}. Seek to go on", diverged_at, lost)
        elif diverged_at is None:
            policy = LATEST if self._options.auto_offset_reset == "latest" else EARLIEST
            (offset,) = await self._offsets.find([position], policy, 0)
            self._count_lost(None)
            logger.warning("%s; the position was %d, going on at %d", error, at, offset)
            position.seek(offset)
            position.cut_back = True
        elif lost := position.truncated(diverged_at):
            self._count_lost(lost)
            logger.warning(
                "%s: the server lost the log's end; going on at %d, %d records that were read are gone",
                where(*position.tp), diverged_at, lost,
            )  # fmt: skip

    def _look_back(self, position: PartitionPosition) -> None:
        """Whether the log lost what this consumer read in an earlier assignment: its position may lie before."""
        loss = position.lost_since()
        if loss is None:
            return
        diverged_at, lost = loss
        self._count_lost(lost)
        if self._options.auto_offset_reset == "none":
            position.drop()
            msg = (
                f"{where(*position.tp)}: the server lost records from offset {diverged_at} on; {lost} of them were "
                f"read under an earlier assignment. The position is {position.position}. Seek to go on"
            )
            position.error = LogTruncationError(msg, diverged_at, lost)
            return
        logger.warning(
            "%s: the server lost the log's end from %d on; %d records that were read in an earlier assignment are gone",
            where(*position.tp), diverged_at, lost,
        )  # fmt: skip

    def _count_lost(self, lost: int | None) -> None:
        self.truncations += 1
        self.records_lost += lost or 0
